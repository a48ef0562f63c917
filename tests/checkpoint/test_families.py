"""Families: the golden model agrees with transformers, in every form of the weights; options are checked."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastattn
from fastattn import Encoder, EncoderConfig
from fastattn.checkpoint.reader import CheckpointError, read_encoder, read_head
from tests.support.golden_models import (
    FAMILIES,
    GOLDEN,
    Array,
    Tensors,
    apply,
    assert_is_golden,
    assert_reads_as_golden,
    golden,
    tensors,
    write,
)
from tests.support.models import WORDS, write_json, write_safetensors, write_tokenizer
from tests.support.tolerance import assert_matches_reference

OURS: dict[str, Any] = {
    "hidden": Encoder,
    "pooler": fastattn.EncoderWithPooler,
    "sequence-classification": fastattn.EncoderForSequenceClassification,
    "token-classification": fastattn.EncoderForTokenClassification,
    "masked-lm": fastattn.EncoderForMaskedLM,
}


@pytest.mark.jit
@pytest.mark.parametrize(
    ("family", "task"),
    [(family, task) for family in FAMILIES for task in OURS if f"{task}.truth" in golden(family)],
)
def test_golden(family: str, task: str) -> None:
    assert_is_golden(family, task, OURS[task].from_pretrained(GOLDEN / family))


def swapped(config: EncoderConfig, parameters: Tensors, first: str, second: str) -> tuple[EncoderConfig, Tensors]:
    return config, {name.replace(first, "\0").replace(second, first).replace("\0", second): x for name, x in parameters.items()}


def rolled(config: EncoderConfig, parameters: Tensors, name: str) -> tuple[EncoderConfig, Tensors]:
    return config, {**parameters, name: np.roll(parameters[name], 1, axis=0)}


def replaced(config: EncoderConfig, parameters: Tensors, **fields: Any) -> tuple[EncoderConfig, Tensors]:
    return dataclasses.replace(config, **fields), parameters


Mistake = Callable[[EncoderConfig, Tensors], tuple[EncoderConfig, Tensors]]
MISTAKES: dict[str, tuple[str, Mistake]] = {
    "window one too wide": ("modernbert", lambda c, p: replaced(c, p, window=5)),
    "window one too narrow": ("modernbert", lambda c, p: replaced(c, p, window=3)),
    "local layers global": ("modernbert", lambda c, p: replaced(c, p, window=None)),
    "global base": ("modernbert", lambda c, p: replaced(c, p, rotary_theta=159_000.0)),
    "local base": ("modernbert", lambda c, p: replaced(c, p, local_rotary_theta=c.rotary_theta)),
    "every second layer global": ("modernbert", lambda c, p: replaced(c, p, global_every=2)),
    "every third layer global": ("modernbert-biased", lambda c, p: replaced(c, p, global_every=3)),
    "gate and input": ("modernbert", lambda c, p: swapped(c, p, "feed_forward.gate", "feed_forward.input")),
    "query and key": ("modernbert", lambda c, p: swapped(c, p, "attention.query", "attention.key")),
    "erf and tanh": ("modernbert-biased", lambda c, p: replaced(c, p, activation="gelu")),
    "norm eps": ("modernbert", lambda c, p: replaced(c, p, layer_norm_eps=1e-12)),
    "SwiGLU's gate": ("nomic_bert", lambda c, p: swapped(c, p, "feed_forward.gate", "feed_forward.input")),
    "rotary base": ("nomic_bert", lambda c, p: replaced(c, p, rotary_theta=10_000.0)),
    "first position": ("roberta", lambda c, p: rolled(c, p, "embeddings.position.weight")),
    "first position after pad 3": ("camembert", lambda c, p: rolled(c, p, "embeddings.position.weight")),
    "distances": ("mpnet", lambda c, p: rolled(c, p, "relative_bias.weight")),
    "maximum distance": ("mpnet", lambda c, p: replaced(c, p, relative_max_distance=100)),
    "shared layers": ("albert", lambda c, p: swapped(c, p, "layers.2.", "layers.3.")),
    "groups": ("albert", lambda c, p: swapped(c, p, "layers.2.", "layers.4.")),
    "four token types": ("ernie", lambda c, p: rolled(c, p, "embeddings.token_type.weight")),
    "epsilon": ("roberta", lambda c, p: replaced(c, p, layer_norm_eps=1e-12)),
}


@pytest.mark.jit
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_would_show(mistake: str) -> None:
    family, make = MISTAKES[mistake]
    config, parameters = make(*read_encoder(GOLDEN / family))
    with pytest.raises(AssertionError, match="error"):
        assert_is_golden(family, "hidden", Encoder(config, parameters=parameters))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_half_precision(tmp_path: Path, family: str, dtype: str) -> None:
    write_safetensors(write(tmp_path, family) / "model.safetensors", tensors(family), dtype)

    def convert(x: Array) -> Array:
        if dtype == "F16":
            return x.astype(np.float16).astype(np.float32)
        return (np.ascontiguousarray(x).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)

    assert_reads_as_golden(tmp_path, family, convert)
    assert read_head(tmp_path, "masked-lm").steps[0].weight.dtype == np.float32


@pytest.mark.parametrize("family", FAMILIES)
def test_shards(tmp_path: Path, family: str) -> None:
    (write(tmp_path, family) / "model.safetensors").unlink()
    weight_map = {}
    for i, name in enumerate(tensors(family)):
        weight_map[name] = f"model-0000{i % 3 + 1}-of-00003.safetensors"
    for file in set(weight_map.values()):
        write_safetensors(tmp_path / file, {name: array for name, array in tensors(family).items() if weight_map[name] == file})
    write_json(tmp_path / "model.safetensors.index.json", {"weight_map": weight_map})
    assert_reads_as_golden(tmp_path, family)


PREFIXES = {
    "bert": "bert.",
    "roberta": "roberta.",
    "mpnet": "mpnet.",
    "ernie": "ernie.",
    "modernbert": "model.",
    "nomic_bert": "nomic_bert.",
}


@pytest.mark.parametrize("family", PREFIXES)
def test_names_of_the_bare_model(tmp_path: Path, family: str) -> None:
    prefix = PREFIXES[family]
    bare = {name.removeprefix(prefix): array for name, array in tensors(family).items() if name.startswith(prefix)}
    assert len(bare) < len(tensors(family))
    assert_reads_as_golden(write(tmp_path, family, bare), family)


def test_shared_layers_share_their_arrays() -> None:
    config, parameters = read_encoder(GOLDEN / "albert")
    assert config.num_layers == 6
    # Six layers: ALBERT's three layers of two inner layers, in two groups; the first two of the three share group 0.
    for a, b in ((0, 2), (1, 3)):
        assert parameters[f"layers.{a}.attention.query.weight"] is parameters[f"layers.{b}.attention.query.weight"]
    first, last = parameters["layers.0.attention.query.weight"], parameters["layers.4.attention.query.weight"]
    assert (first != last).any()


def test_unknown_tensor_in_a_layer(tmp_path: Path) -> None:
    """An unknown tensor is refused: config.json names relative_key positions, but not every variant of a family."""
    name = "bert.encoder.layer.0.attention.self.distance_embedding.weight"
    folder = write(tmp_path, "bert", {**tensors("bert"), name: np.zeros((3, 8), np.float32)})
    with pytest.raises(CheckpointError, match=rf"bert has no tensor '{name}' with this config\.json"):
        read_encoder(folder)


def test_code_in_the_folder_is_not_run(tmp_path: Path) -> None:
    write(tmp_path, "bert", auto_map={"AutoModel": "modeling.Model", "AutoConfig": "modeling.Config"})
    ran = tmp_path / "ran"
    for name in ("modeling.py", "configuration.py"):
        (tmp_path / name).write_text(f"open({str(ran)!r}, 'w').close()\n")
    assert_reads_as_golden(tmp_path, "bert")
    assert not ran.exists()


# Lengths: one token, both sides of the window, of relative buckets and of the kernels' blocks, and the longest.
LENGTHS = [1, 2, 3, 5, 9, 15, 16, 17, 31, 33, 64, 65, 90, 91, 92, 127, 128, 129, 200, 255, 256, 257, 384, 511, 512]


@pytest.mark.jit
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", [*FAMILIES, "electra-wide"])
def test_transformers(tmp_path: Path, family: str) -> None:
    """A batch of 1 to 512 tokens agrees with transformers, on a folder from `save_pretrained`."""
    pytest.importorskip("transformers")
    import torch

    from tests.support import peer_models

    inputs = peer_models.batch(family, LENGTHS)
    for task in OURS:
        if task == "pooler" and not peer_models.CASES[family].pooler:
            continue
        module = peer_models.model(family, task, max(LENGTHS))
        module.save_pretrained(tmp_path / task)
        ours = apply(OURS[task].from_pretrained(tmp_path / task), inputs)
        yardsticks = [peer_models.outputs(module, task, inputs)]
        if peer_models.CASES[family].name != "MPNet":
            module = peer_models.model(family, task, max(LENGTHS), "sdpa")
            yardsticks += [peer_models.outputs(module, task, inputs, alone=alone) for alone in (True, False)]
        truth = peer_models.outputs(module, task, inputs, torch.float64)
        assert_matches_reference(ours, truth, *yardsticks)
        for yardstick in yardsticks[1:]:
            assert_matches_reference(yardstick, truth, *yardsticks[:1])


@pytest.mark.jit
@pytest.mark.parametrize("family", FAMILIES)
def test_sentence_transformer(tmp_path: Path, family: str) -> None:
    """A transformers folder with a tokenizer gives mean pooling, and truncates texts to the positions."""
    write_tokenizer(write(tmp_path, family))
    model = fastattn.SentenceTransformer(tmp_path)
    assert model.max_seq_length == model.encoder.config.max_positions <= 48
    ids = [2, *(WORDS.index(word) for word in ("the", "cat", "sat")), 3]
    hidden = Encoder.from_pretrained(GOLDEN / family).forward_packed(np.array(ids), np.array([0, len(ids)]), pooling="mean")
    np.testing.assert_array_equal(model.encode("the cat sat"), hidden[0])
    assert np.isfinite(model.encode("cat " * 100)).all()
