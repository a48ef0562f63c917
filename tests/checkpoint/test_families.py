"""Families: the golden model agrees with transformers, in every form of the weights; options are checked."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastattn
from fastattn import Encoder, EncoderConfig
from fastattn.checkpoint.reader import CheckpointError, read_encoder, read_head
from fastattn.layer_config import default_rotary
from tests.support.golden_models import (
    FAMILIES,
    GOLDEN,
    Array,
    Tensors,
    apply,
    assert_is_golden,
    assert_reads_alike,
    assert_reads_as_golden,
    golden,
    skip_unless_transformers_computes,
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
    "projection": fastattn.EncoderWithProjection,
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


def flipped(config: EncoderConfig, parameters: Tensors, name: str) -> tuple[EncoderConfig, Tensors]:
    return config, {**parameters, name: parameters[name][::-1].copy()}


def replaced(config: EncoderConfig, parameters: Tensors, **fields: Any) -> tuple[EncoderConfig, Tensors]:
    return dataclasses.replace(config, **fields), parameters


def windows(config: EncoderConfig, parameters: Tensors, side: int | None, local: str) -> tuple[EncoderConfig, Tensors]:
    """Give the layers of `local`, of their letters S, another window, and all other layers none."""
    layers = [
        layer._replace(window=(side, side) if kind == "S" else (None, None))
        for layer, kind in zip(config.layers or (), local, strict=True)
    ]
    return replaced(config, parameters, layers=layers)


def bases(config: EncoderConfig, parameters: Tensors, full: float, local: float) -> tuple[EncoderConfig, Tensors]:
    """Give layers with and without a window other rotary bases."""
    layers = [
        layer._replace(rotary=default_rotary(full if layer.window == (None, None) else local, config.head_dim))
        for layer in config.layers or ()
    ]
    return replaced(config, parameters, layers=layers)


def taking(config: EncoderConfig, parameters: Tensors, top_k: int) -> tuple[EncoderConfig, Tensors]:
    """Let each token take another number of experts."""
    layers = [layer._replace(experts=layer.experts and (layer.experts[0], top_k)) for layer in config.layers or ()]
    return replaced(config, parameters, layers=layers)


def scaled(config: EncoderConfig, parameters: Tensors, factor: float) -> tuple[EncoderConfig, Tensors]:
    """Multiply all cosines and sines by another factor."""
    layers = [layer._replace(rotary=layer.rotary and layer.rotary._replace(scaling=factor)) for layer in config.layers or ()]
    return replaced(config, parameters, layers=layers)


def looking(
    config: EncoderConfig, parameters: Tensors, local: tuple[int, int] | tuple[None, None], rest: tuple[None, int | None]
) -> tuple[EncoderConfig, Tensors]:
    """Give layers with and without a window other ones."""
    layers = [layer._replace(window=rest if layer.window[0] is None else local) for layer in config.layers or ()]
    return replaced(config, parameters, layers=layers)


def convolving(config: EncoderConfig, parameters: Tensors, activation: str) -> tuple[EncoderConfig, Tensors]:
    """Give the convolution another activation."""
    layers = [layer._replace(convolution=layer.convolution and (layer.convolution[0], activation)) for layer in config.layers or ()]
    return replaced(config, parameters, layers=layers)


def reversed_neighbours(config: EncoderConfig, parameters: Tensors) -> tuple[EncoderConfig, Tensors]:
    """Take the token behind for the token before."""
    name, c = "layers.0.convolution.weight", config.hidden_dim
    return config, {**parameters, name: parameters[name].reshape(c, -1, c)[:, ::-1].reshape(c, -1)}


def swapped_heads(config: EncoderConfig, parameters: Tensors) -> tuple[EncoderConfig, Tensors]:
    """Give each head the keys of another."""
    name = "layers.0.attention.key.weight"
    return config, {**parameters, name: np.roll(parameters[name], config.head_dim, axis=0)}


def shifted(config: EncoderConfig, parameters: Tensors, part: str) -> tuple[EncoderConfig, Tensors]:
    """Take 1 off the norms' weights."""
    return config, {name: x - np.float32(1) if part in name else x for name, x in parameters.items()}


_TOKENS = "embeddings.token.weight"


def multiplied(config: EncoderConfig, parameters: Tensors, name: str, factor: float) -> tuple[EncoderConfig, Tensors]:
    return config, {**parameters, name: parameters[name] * np.float32(factor)}


Mistake = Callable[[EncoderConfig, Tensors], tuple[EncoderConfig, Tensors]]
MISTAKES: dict[str, tuple[str, Mistake]] = {
    "window one too wide": ("modernbert", lambda c, p: windows(c, p, 5, "FSSF")),
    "window one too narrow": ("modernbert", lambda c, p: windows(c, p, 3, "FSSF")),
    "local layers global": ("modernbert", lambda c, p: windows(c, p, None, "FSSF")),
    "global base": ("modernbert", lambda c, p: bases(c, p, 159_000.0, 10_000.0)),
    "local base": ("modernbert", lambda c, p: bases(c, p, 160_000.0, 160_000.0)),
    "every second layer global": ("modernbert", lambda c, p: windows(c, p, 4, "FSFS")),
    "every third layer global": ("modernbert-biased", lambda c, p: windows(c, p, 4, "FSSF")),
    "gate and input": ("modernbert", lambda c, p: swapped(c, p, "feed_forward.gate", "feed_forward.input")),
    "query and key": ("modernbert", lambda c, p: swapped(c, p, "attention.query", "attention.key")),
    "erf and tanh": ("modernbert-biased", lambda c, p: replaced(c, p, activation="gelu")),
    "norm eps": ("modernbert", lambda c, p: replaced(c, p, layer_norm_eps=1e-12)),
    "SwiGLU's gate": ("nomic_bert", lambda c, p: swapped(c, p, "feed_forward.gate", "feed_forward.input")),
    "rotary base": ("nomic_bert", lambda c, p: bases(c, p, 10_000.0, 0.0)),
    "first position": ("roberta", lambda c, p: rolled(c, p, "embeddings.position.weight")),
    "first position after pad 3": ("camembert", lambda c, p: rolled(c, p, "embeddings.position.weight")),
    "distances": ("mpnet", lambda c, p: rolled(c, p, "relative_bias.weight")),
    "maximum distance": ("mpnet", lambda c, p: replaced(c, p, relative_max_distance=100)),
    "shared layers": ("albert", lambda c, p: swapped(c, p, "layers.2.", "layers.3.")),
    "groups": ("albert", lambda c, p: swapped(c, p, "layers.2.", "layers.4.")),
    "four token types": ("ernie", lambda c, p: rolled(c, p, "embeddings.token_type.weight")),
    "distances beyond the buckets": ("deberta-v2", lambda c, p: replaced(c, p, relative_max_distance=c.relative_max_distance // 2)),
    "distances without a logarithm": ("deberta-v2", lambda c, p: replaced(c, p, disentangled_log=False)),
    "rows of distances": ("deberta-v2", lambda c, p: rolled(c, p, "layers.1.attention.relative_key.weight")),
    "rows of distances, reversed": ("deberta", lambda c, p: flipped(c, p, "layers.2.attention.relative_query.weight")),
    "content to position and back": ("deberta-v2", lambda c, p: swapped(c, p, "relative_key", "relative_query")),
    "scale of one term": ("deberta-v2-biased", lambda c, p: replaced(c, p, attention_scale=(c.head_dim * 3) ** -0.5)),
    "scale of no term": ("deberta-v2-plain", lambda c, p: replaced(c, p, attention_scale=None)),
    "neighbours, reversed": ("deberta-v2-convolution", lambda c, p: reversed_neighbours(c, p)),
    "activation of the convolution": ("deberta-v2-convolution", lambda c, p: convolving(c, p, "gelu_tanh")),
    "norm behind the convolution": ("deberta-v2-convolution", lambda c, p: rolled(c, p, "layers.0.convolution.layer_norm.weight")),
    "heads of DeBERTa": ("deberta", lambda c, p: swapped(c, p, "attention.query", "attention.key")),
    "epsilon": ("roberta", lambda c, p: replaced(c, p, layer_norm_eps=1e-12)),
    "GTE's gate": ("gte", lambda c, p: swapped(c, p, "feed_forward.gate", "feed_forward.input")),
    "GTE's angles": ("gte", lambda c, p: bases(c, p, 900.0, 0.0)),
    "GTE's token types": ("gte", lambda c, p: rolled(c, p, "embeddings.token_type.weight")),
    "jina's base": ("jina_embeddings_v3", lambda c, p: bases(c, p, 10_000.0, 0.0)),
    "T5's scale": ("t5", lambda c, p: replaced(c, p, attention_scale=None)),
    "T5's buckets": ("t5", lambda c, p: rolled(c, p, "relative_bias.weight")),
    "T5's distance": ("t5", lambda c, p: replaced(c, p, relative_max_distance=18)),
    "T5's gate": ("t5-gated", lambda c, p: swapped(c, p, "feed_forward.gate", "feed_forward.input")),
    "T5's activation": ("t5-gated", lambda c, p: replaced(c, p, activation="gelu")),
    "ESM's masked tokens": ("esm", lambda c, p: replaced(c, p, mask_idx=None)),
    "ESM's other tokens": ("esm", lambda c, p: multiplied(c, p, _TOKENS, 1 / 0.88)),
    "ESM's positions": ("esm-learned", lambda c, p: replaced(c, p, padding_idx=None, max_positions=c.max_positions + 1)),
    "CLIP's direction": ("clip_text_model", lambda c, p: replaced(c, p, is_causal=False)),
    "CLIP's activation": ("clip_text_model", lambda c, p: replaced(c, p, activation="gelu")),
    "unscaled angles": ("modernbert-scaled", lambda c, p: bases(c, p, 3000.0, 50.0)),
    "scaling of the angles": ("modernbert-scaled", lambda c, p: scaled(c, p, 1.0)),
    "kinds of layers": ("modernbert-scaled", lambda c, p: windows(c, p, 4, "FSSF")),
    "size of a head": ("nomic_bert-sized", lambda c, p: replaced(c, p, attention_scale=8**-0.5)),
    "causal and not": ("qwen3", lambda c, p: looking(c, p, (None, None), (None, None))),
    "not causal and causal": ("qwen3-both-ways", lambda c, p: looking(c, p, (5, 0), (None, 0))),
    "causal window one too wide": ("qwen3-windows", lambda c, p: looking(c, p, (5, 0), (None, 0))),
    "window of both sides one too narrow": ("qwen3-both-ways", lambda c, p: looking(c, p, (4, 4), (None, None))),
    "norm of queries": ("qwen3", lambda c, p: swapped(c, p, "attention.query_norm", "attention.key_norm")),
    "shared key heads": ("qwen3", lambda c, p: swapped_heads(c, p)),
    "order of the norm's rows": ("qwen3", lambda c, p: rolled(c, p, "layers.0.attention.key_norm.weight")),
    "bias of the keys": ("qwen2", lambda c, p: rolled(c, p, "layers.0.attention.key.bias")),
    "layer norm": ("eurobert", lambda c, p: replaced(c, p, norm="layer")),
    "a router's weights": ("nomic_bert-experts", lambda c, p: rolled(c, p, "layers.1.feed_forward.router.weight")),
    "an expert's outputs": ("nomic_bert-experts", lambda c, p: rolled(c, p, "layers.1.feed_forward.experts.output.weight")),
    "an expert's inputs": ("nomic_bert-experts", lambda c, p: rolled(c, p, "layers.3.feed_forward.experts.input.weight")),
    "the bias of experts": ("nomic_bert-experts", lambda c, p: rolled(c, p, "layers.3.feed_forward.experts_bias.weight")),
    "one expert too few": ("nomic_bert-experts", lambda c, p: taking(c, p, 1)),
    "one expert too many": ("nomic_bert-experts", lambda c, p: taking(c, p, 3)),
    "neighbouring channels": ("neobert", lambda c, p: rolled(c, p, "layers.0.attention.query.weight")),
    "NeoBERT's gate": ("neobert", lambda c, p: swapped(c, p, "feed_forward.gate", "feed_forward.input")),
    "Gemma's norms": ("gemma3_text", lambda c, p: shifted(c, p, "norm")),
    "Gemma's embeddings": ("gemma3_text", lambda c, p: (c, {**p, _TOKENS: p[_TOKENS] / np.float32(32**0.5)})),
    "Gemma's window one too wide": ("gemma3_text", lambda c, p: looking(c, p, (5, 0), (None, 0))),
    "Gemma's half window": ("gemma3_text-both-ways", lambda c, p: looking(c, p, (5, 5), (None, None))),
    "Gemma's scale": ("gemma3_text", lambda c, p: replaced(c, p, attention_scale=None)),
    "norms behind the sublayers": ("gemma3_text", lambda c, p: swapped(c, p, "attention.output_norm", "feed_forward.output_norm")),
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
    """A file in half precision reads as one with its values in float32."""
    write_safetensors(write(tmp_path / "half", family) / "model.safetensors", tensors(family), dtype)

    def convert(x: Array) -> Array:
        if dtype == "F16":
            return x.astype(np.float16).astype(np.float32)
        return (np.ascontiguousarray(x).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)

    whole = write(tmp_path / "whole", family, {name: convert(x) for name, x in tensors(family).items()})
    assert_reads_alike(tmp_path / "half", whole)
    task = next(task for task in reversed(OURS) if f"{task}.truth" in golden(family))
    if task != "hidden":
        assert read_head(tmp_path / "half", task).steps[0].weight.dtype == np.float32


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
    "deberta": "deberta.",
    "deberta-v2": "deberta.",
    "modernbert": "model.",
    "nomic_bert": "nomic_bert.",
    "gte": "gte.",
    "jina_embeddings_v3": "roberta.",
    "t5": "transformer.",
    "esm": "esm.",
    "clip_text_model": "text_model.",
    "qwen3": "model.",
    "qwen2": "model.",
    "eurobert": "model.",
    "neobert": "model.",
    "gemma3_text": "model.",
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


def test_ernie_takes_task_0(tmp_path: Path) -> None:
    """The embedding of the task that transformers takes by default is added to every position."""
    tasks = np.random.default_rng(1).standard_normal((3, 32), np.float32)
    name = "ernie.embeddings.task_type_embeddings.weight"
    folder = write(tmp_path, "ernie", {**tensors("ernie"), name: tasks}, use_task_id=True, task_type_vocab_size=3)
    _, parameters = read_encoder(folder)
    _, before = read_encoder(GOLDEN / "ernie")
    changed = "embeddings.position.weight"
    np.testing.assert_array_equal(parameters[changed], before[changed] + tasks[0])
    assert all((parameters[name] == before[name]).all() for name in before if name != changed)


def test_mpnet_has_32_buckets(tmp_path: Path) -> None:
    """transformers computes no others, however many rows the table has."""
    name = "mpnet.encoder.relative_attention_bias.weight"
    stored = tensors("mpnet")
    longer = np.concatenate([stored[name], np.ones((8, stored[name].shape[1]), np.float32)])
    assert_reads_as_golden(write(tmp_path, "mpnet", {**stored, name: longer}, relative_attention_num_buckets=40), "mpnet")


def test_code_in_the_folder_is_not_run(tmp_path: Path) -> None:
    write(tmp_path, "bert", auto_map={"AutoModel": "modeling.Model", "AutoConfig": "modeling.Config"})
    ran = tmp_path / "ran"
    for name in ("modeling.py", "configuration.py"):
        (tmp_path / name).write_text(f"open({str(ran)!r}, 'w').close()\n")
    assert_reads_as_golden(tmp_path, "bert")
    assert not ran.exists()


# Lengths: one token, both sides of the window, of relative buckets and of the kernels' blocks, and the longest.
LENGTHS = [1, 2, 3, 5, 9, 15, 16, 17, 31, 33, 64, 65, 90, 91, 92, 127, 128, 129, 200, 255, 256, 257, 384, 511, 512]


# Cases without a golden model: they differ in one option from others.
MORE = ["electra-wide", "ernie-tasks", "mpnet-longer", "gte-untyped", "deberta-v2-groups"]


@pytest.mark.jit
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", [*FAMILIES, *MORE])
def test_transformers(tmp_path: Path, family: str) -> None:
    """A batch of 1 to 512 tokens agrees with transformers, on a folder from `save_pretrained`."""
    pytest.importorskip("transformers")
    skip_unless_transformers_computes(family)
    import torch

    from tests.support import peer_models

    inputs = peer_models.batch(family, LENGTHS)
    for task in OURS:
        if task not in peer_models.tasks(family):
            continue
        module = peer_models.model(family, task, max(LENGTHS))
        module.save_pretrained(tmp_path / task)
        ours = apply(OURS[task].from_pretrained(tmp_path / task), inputs)
        yardsticks = [peer_models.outputs(module, task, inputs)]
        if peer_models.has_sdpa(family):
            module = peer_models.model(family, task, max(LENGTHS), "sdpa")
            yardsticks += [peer_models.outputs(module, task, inputs, alone=alone) for alone in (True, False)]
        truth = peer_models.outputs(module, task, inputs, torch.float64)
        assert_matches_reference(ours, truth, *yardsticks)
        for yardstick in yardsticks[1:]:
            assert_matches_reference(yardstick, truth, *yardsticks[:1])


@pytest.mark.jit
@pytest.mark.parametrize("family", FAMILIES)
def test_sentence_transformer(tmp_path: Path, family: str) -> None:
    """A transformers folder with a tokenizer is pooled as in sentence-transformers, and truncates texts to the positions."""
    write_tokenizer(write(tmp_path, family))
    model = fastattn.SentenceTransformer(tmp_path)
    # A relative bias ends nowhere.
    assert model.max_seq_length == model.encoder.config.max_positions <= (48 if model.encoder.config.positions else 2**31)
    ids = [2, *(WORDS.index(word) for word in ("the", "cat", "sat")), 3]
    said = json.loads((tmp_path / "config.json").read_text("utf-8"))
    is_causal = str(said.get("architectures")).endswith("ForCausalLM']") and said.get("is_causal", True)
    encoder, pooling = Encoder.from_pretrained(GOLDEN / family), "lasttoken" if is_causal else "mean"
    hidden = encoder.forward_packed(np.array(ids), np.array([0, len(ids)]), pooling=pooling)
    np.testing.assert_array_equal(model.encode("the cat sat"), hidden[0])
    assert np.isfinite(model.encode("cat " * 100)).all()
