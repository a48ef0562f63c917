"""Folders whose models transformers has only as code in them, which is not run: GTE's, Jina AI's XLM-RoBERTa, and JinaBERT."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastattn import Encoder, EncoderConfig, reference
from fastattn.checkpoint.reader import CheckpointError, read_encoder
from fastattn.encoder.heads import EncoderForSequenceClassification
from tests.support import jina_bert
from tests.support.golden_models import Array, Tensors, assert_is_golden, settings, tensors, write
from tests.support.models import write_bert, write_json, write_safetensors
from tests.support.tolerance import assert_matches_reference


def renamed(stored: Tensors, **names: str) -> Tensors:
    for old, new in names.items():
        stored = {name.replace(old, new): array for name, array in stored.items()}
    return stored


def write_new(folder: Path, **changes: Any) -> Path:
    """Write the golden GTE as its authors' code does: a fixed NTK scaling gives the angles that a linear one gives there."""
    linear = settings("gte")["rope_parameters"]
    factor = linear["factor"] ** (8 / 2)
    scaling = {"type": "ntk", "factor": factor}
    write(folder, "gte", {name.replace("gte.", "new."): array for name, array in tensors("gte").items()})
    config = {**settings("gte", rope_parameters=None), "model_type": "new", "position_embedding_type": "rope"}
    theta = linear["rope_theta"] / factor
    write_json(folder / "config.json", {**config, "rope_theta": theta, "rope_scaling": scaling, "pack_qkv": True, **changes})
    return folder


@pytest.mark.jit
def test_gte(tmp_path: Path) -> None:
    folder = write_new(tmp_path)
    assert_is_golden("gte", "hidden", Encoder.from_pretrained(folder))
    assert_is_golden("gte", "sequence-classification", EncoderForSequenceClassification.from_pretrained(folder))


def test_angles_of_gte(tmp_path: Path) -> None:
    config, parameters = read_encoder(write_new(tmp_path))
    expected, same = read_encoder(write(tmp_path / "gte", "gte"))
    assert config.layers is not None and expected.layers is not None
    for ours, theirs in zip(config.layers, expected.layers, strict=True):
        assert ours.rotary is not None and theirs.rotary is not None
        np.testing.assert_allclose(ours.rotary.inv_freq, theirs.rotary.inv_freq, rtol=1e-14)
    assert config == dataclasses.replace(expected, layers=config.layers)
    assert all((parameters[name] == same[name]).all() for name in same)


@pytest.mark.jit
@pytest.mark.parametrize("mistake", ["up and gate", "scaling", "factor"])
def test_a_mistake_in_gte_would_show(tmp_path: Path, mistake: str) -> None:
    scaling = {"type": "linear" if mistake == "scaling" else "ntk", "factor": 8.0 if mistake == "scaling" else 7.0}
    config, parameters = read_encoder(write_new(tmp_path, **({} if mistake == "up and gate" else {"rope_scaling": scaling})))
    if mistake == "up and gate":
        swap = {"feed_forward.gate": "feed_forward.input", "feed_forward.input": "feed_forward.gate"}
        parameters = {
            next((name.replace(old, new) for old, new in swap.items() if old in name), name): array
            for name, array in parameters.items()
        }
    with pytest.raises(AssertionError, match="error"):
        assert_is_golden("gte", "hidden", Encoder(config, parameters=parameters))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logn_attention_scale": True}, "logn_attention_scale True is not supported; supported: False"),
        ({"layer_norm_type": "rms_norm"}, "layer_norm_type 'rms_norm' is not supported; supported: 'layer_norm'"),
        ({"position_embedding_type": "absolute"}, "position_embedding_type 'absolute' is not supported; supported: 'rope'"),
        ({"pack_qkv": False}, "pack_qkv False is not supported; supported: True"),
        ({"rope_scaling": {"type": "ntk", "factor": 2.0, "mixed_b": 0.5}}, "mixed_b of rope_scaling"),
    ],
)
def test_fault_in_the_configuration_of_gte(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_encoder(write_new(tmp_path, **change))


def write_flash(folder: Path, stored: Tensors | None = None, **changes: Any) -> Path:
    """Write the golden jina-embeddings-v3 as Jina AI's XLM-RoBERTa."""
    theta = settings("jina_embeddings_v3")["rope_parameters"]["rope_theta"]
    write(folder, "jina_embeddings_v3", stored)
    config = {**settings("jina_embeddings_v3", rope_parameters=None), "model_type": "xlm-roberta", "rotary_emb_base": theta}
    write_json(folder / "config.json", {**config, "position_embedding_type": "rotary", **changes})
    return folder


@pytest.mark.jit
def test_rotary_xlm_roberta(tmp_path: Path) -> None:
    assert_is_golden("jina_embeddings_v3", "hidden", Encoder.from_pretrained(write_flash(tmp_path)))
    other = Encoder.from_pretrained(write_flash(tmp_path, rotary_emb_base=10000.0))
    with pytest.raises(AssertionError, match="error"):
        assert_is_golden("jina_embeddings_v3", "hidden", other)


def test_names_of_an_xlm_roberta_with_learned_positions(tmp_path: Path) -> None:
    """A reranker of Jina AI has these names, and learned positions."""
    stored = renamed(
        tensors("xlm-roberta"),
        **{
            "embeddings.LayerNorm": "emb_ln", "encoder.layer.": "encoder.layers.", "attention.output.dense": "mixer.out_proj",
            "attention.output.LayerNorm": "norm1", "intermediate.dense": "mlp.fc1", "output.dense": "mlp.fc2",
            "output.LayerNorm": "norm2",
        },
    )  # fmt: skip
    for name in [name for name in stored if "self.query" in name]:
        parts = [stored.pop(name.replace("query", part)) for part in ("query", "key", "value")]
        stored[name.replace("attention.self.query", "mixer.Wqkv")] = np.concatenate(parts)
    folder = write(tmp_path, "xlm-roberta", stored, position_embedding_type="absolute")
    config, parameters = read_encoder(folder)
    expected_config, expected = read_encoder(write(tmp_path / "plain", "xlm-roberta"))
    assert config == expected_config and parameters.keys() == expected.keys()
    assert all((parameters[name] == expected[name]).all() for name in expected)


def jina_folder(folder: Path, heads: int, kind: str, is_code: bool) -> tuple[Path, Tensors]:
    stored = jina_bert.tensors(kind, is_code)
    write_bert(
        folder, stored, hidden_size=jina_bert.C, intermediate_size=jina_bert.F, vocab_size=jina_bert.V,
        num_hidden_layers=jina_bert.LAYERS, num_attention_heads=heads, max_position_embeddings=8192,
        position_embedding_type="alibi", feed_forward_type=kind,
    )  # fmt: skip
    return folder, stored


JINA = [
    (4, "geglu", False),
    (6, "geglu", False),
    (12, "reglu", False),
    (4, "original", False),
    (6, "geglu", True),
    (8, "reglu", True),
]
LENGTHS = (1, 2, 31, 150)


def jina_outputs(stored: Tensors, case: tuple[int, str, bool], dtype: Any) -> Array:
    return np.concatenate([jina_bert.forward(stored, *text, *case, dtype=dtype) for text in jina_texts()])


def jina_texts() -> list[tuple[Array, Array]]:
    rng = np.random.default_rng(3)
    return [(rng.integers(0, jina_bert.V, n), rng.integers(0, 2, n)) for n in LENGTHS]


@pytest.mark.parametrize("case", JINA)
def test_jina_bert_in_the_reference(tmp_path: Path, case: tuple[int, str, bool]) -> None:
    folder, stored = jina_folder(tmp_path, *case)
    config, parameters = read_encoder(folder)
    assert config.max_positions == 8192 and config.positions == "alibi"
    wide = {name: array.astype(np.float64) for name, array in parameters.items()}
    for ids, types in jina_texts():
        found = reference.encoder(wide, ids[None], token_type_ids=types[None], **config.reference_options())[0]
        np.testing.assert_allclose(found, jina_bert.forward(stored, ids, types, *case), rtol=0, atol=1e-12)


def packed(encoder: Encoder) -> Array:
    ids, types = (np.concatenate(parts) for parts in zip(*jina_texts(), strict=True))
    return encoder.forward_packed(ids, np.concatenate([[0], np.cumsum(LENGTHS)]), token_type_ids=types)


@pytest.mark.jit
@pytest.mark.parametrize("case", JINA)
def test_jina_bert(tmp_path: Path, case: tuple[int, str, bool]) -> None:
    folder, stored = jina_folder(tmp_path, *case)
    truth, yardstick = (jina_outputs(stored, case, dtype) for dtype in (np.float64, np.float32))
    assert_matches_reference(packed(Encoder.from_pretrained(folder)), truth, yardstick)


def without(config: EncoderConfig, parameters: Tensors, **fields: Any) -> Encoder:
    """Return the encoder without what `fields` switch off."""
    owners = {"query_norm": "query_key_norm", "key_norm": "query_key_norm", "output_norm": "output_norms"}
    unused = [name for name, field in owners.items() if not fields.get(field, True)]
    used = {name: array for name, array in parameters.items() if not any(part in name for part in unused)}
    return Encoder(dataclasses.replace(config, **fields), parameters=used)


@pytest.mark.jit
@pytest.mark.parametrize("fields", [{"positions": None}, {"query_key_norm": None, "output_norms": False}, {"output_norms": False}])
def test_a_mistake_in_jina_bert_would_show(tmp_path: Path, fields: dict[str, Any]) -> None:
    case = (6, "geglu", True)
    folder, stored = jina_folder(tmp_path, *case)
    truth, yardstick = (jina_outputs(stored, case, dtype) for dtype in (np.float64, np.float32))
    with pytest.raises(AssertionError, match="error"):
        assert_matches_reference(packed(without(*read_encoder(folder), **fields)), truth, yardstick)


@pytest.mark.jit
@pytest.mark.parametrize("is_code", [False, True])
def test_halves_of_the_gate(tmp_path: Path, is_code: bool) -> None:
    """The two codes put the gate into other halves."""
    case = (4, "geglu", is_code)
    folder, stored = jina_folder(tmp_path, *case)
    swapped = {name: np.roll(x, jina_bert.F, axis=0) if "gated_layer" in name else x for name, x in stored.items()}
    write_safetensors(folder / "model.safetensors", swapped)
    truth, yardstick = (jina_outputs(stored, case, dtype) for dtype in (np.float64, np.float32))
    with pytest.raises(AssertionError, match="error"):
        assert_matches_reference(packed(Encoder.from_pretrained(folder)), truth, yardstick)


def test_unknown_kind_of_jina_bert(tmp_path: Path) -> None:
    folder, _ = jina_folder(tmp_path, 4, "geglu", False)
    write_bert(folder, jina_bert.tensors("geglu", False), position_embedding_type="alibi", feed_forward_type="swiglu")
    with pytest.raises(CheckpointError, match="feed_forward_type 'swiglu' is not supported; supported: original, geglu, reglu"):
        read_encoder(folder)
