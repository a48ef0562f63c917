"""Configurations of every family: forms of older and newer code, checked options, and values of any type."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastattn import Encoder
from fastattn.checkpoint.reader import CheckpointError, read_encoder, read_head
from tests.support.golden_models import (
    FAMILIES,
    Tensors,
    assert_is_golden,
    assert_reads_as_golden,
    settings,
    tensors,
    write,
)
from tests.support.models import write_json

NATIVE = {
    "encoder.layers.": "layers.",
    "emb_ln": "embeddings.LayerNorm",
    "attn.out_proj": "self_attn.o_proj",
    "mlp.fc11": "mlp.up_proj",
    "mlp.fc12": "mlp.gate_proj",
    "mlp.fc2": "mlp.down_proj",
    "norm1": "post_attention_layernorm",
    "norm2": "post_mlp_layernorm",
}


def native_names(stored: Tensors) -> Tensors:
    """Return NomicBERT's tensors under the parameter names of transformers' class."""
    renamed = {}
    for name, array in stored.items():
        for theirs, ours in NATIVE.items():
            name = name.replace(theirs, ours)
        if "attn.Wqkv" in name:
            parts = zip("qkv", np.split(array, 3), strict=True)
            renamed |= {name.replace("attn.Wqkv", f"self_attn.{part}_proj"): rows for part, rows in parts}
        else:
            renamed[name] = array
    return renamed


FIRST_CODE = {
    "activation_function": "swiglu",
    "causal": False,
    "layer_norm_epsilon": 1e-12,
    "max_trained_positions": 2048,
    "mlp_fc1_bias": False,
    "mlp_fc2_bias": False,
    "model_type": "nomic_bert",
    "n_embd": 32,
    "n_head": 4,
    "n_inner": 48,
    "n_layer": 3,
    "n_positions": 8192,
    "pad_vocab_size_multiple": 1,
    "parallel_block": False,
    "prenorm": False,
    "qkv_proj_bias": False,
    "rotary_emb_base": 1000,
    "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False,
    "rotary_emb_scale_base": None,
    "rotary_scaling_factor": None,
    "scale_attn_weights": True,
    "type_vocab_size": 2,
    "use_rms_norm": False,
    "vocab_size": 97,
}


def first_code(folder: Path, **changes: Any) -> Path:
    """Write the golden NomicBERT in the form of the first checkpoints' own code: F is a multiple of 256."""
    stored = {}
    for name, array in tensors("nomic_bert").items():
        if "mlp.fc" in name:
            rows, columns = (0, 208) if "fc2" in name else (208, 0)
            array = np.pad(array, ((0, rows), (0, columns)))
        stored[name.replace("nomic_bert.", "bert.")] = array
    write(folder, "nomic_bert", stored)
    write_json(folder / "config.json", {**FIRST_CODE, **changes})
    return folder


def test_names_inside_transformers_nomic_bert(tmp_path: Path) -> None:
    assert_reads_as_golden(write(tmp_path, "nomic_bert", native_names(tensors("nomic_bert"))), "nomic_bert")


@pytest.mark.jit
def test_first_code_of_nomic_bert(tmp_path: Path) -> None:
    encoder = Encoder.from_pretrained(first_code(tmp_path))
    assert encoder.config.ff_dim == 256
    assert encoder.config.max_positions == 8192
    assert_is_golden("nomic_bert", "hidden", encoder)


def test_longer_texts_of_nomic_bert_have_other_angles(tmp_path: Path) -> None:
    """`max_positions` is the trained length: beyond, the first code's rotary base varies with the text's length."""
    assert read_encoder(first_code(tmp_path, rotary_scaling_factor=2))[0].max_positions == 2048


def test_padded_vocabulary(tmp_path: Path) -> None:
    """The token table has the vocabulary's size rounded up to `pad_vocab_size_multiple`."""
    with pytest.raises(CheckpointError, match=r"word_embeddings\.weight' has shape \(97, 32\), expected \(128, 32\)"):
        read_encoder(first_code(tmp_path, pad_vocab_size_multiple=64))


OLD_MODERNBERT: dict[str, Any] = {"layer_types": None, "rope_parameters": None, "global_attn_every_n_layers": 3}


def test_older_configuration_of_modernbert(tmp_path: Path) -> None:
    changes = {**OLD_MODERNBERT, "global_rope_theta": 160000.0, "local_rope_theta": 10000.0, "position_embedding_type": "absolute"}
    assert_reads_as_golden(write(tmp_path, "modernbert", **changes), "modernbert")


def test_defaults_of_modernbert(tmp_path: Path) -> None:
    folder = write(tmp_path, "modernbert", **OLD_MODERNBERT, local_attention=None, norm_eps=None, hidden_activation=None)
    config = read_encoder(folder)[0]
    assert (config.window, config.global_every, config.layer_norm_eps, config.activation) == (64, 3, 1e-5, "gelu")
    assert (config.rotary_theta, config.local_rotary_theta) == (160000.0, 10000.0)


def test_one_side_of_the_window(tmp_path: Path) -> None:
    assert read_encoder(write(tmp_path, "modernbert", sliding_window=7))[0].window == 7


def test_null_for_the_local_base(tmp_path: Path) -> None:
    folder = write(tmp_path, "modernbert", **OLD_MODERNBERT, global_rope_theta=70.0)
    write_json(
        folder / "config.json", {**settings("modernbert", **OLD_MODERNBERT, global_rope_theta=70.0), "local_rope_theta": None}
    )
    config = read_encoder(folder)[0]
    assert config.theta(0) == config.theta(1) == 70.0


@pytest.mark.parametrize(
    ("types", "expected"),
    [
        ("FFFF", (None, 1)),
        ("FSFS", (4, 2)),
        ("FSSF", (4, 3)),
        ("FSSS", (4, 4)),
    ],
)
def test_layer_types(tmp_path: Path, types: str, expected: tuple[int | None, int]) -> None:
    kinds = {"F": "full_attention", "S": "sliding_attention"}
    config = read_encoder(write(tmp_path, "modernbert", layer_types=[kinds[kind] for kind in types]))[0]
    assert (config.window, config.global_every) == expected


FAULTS: list[tuple[str, dict[str, Any], str]] = [
    ("bert", {"pruned_heads": {"0": [1]}}, r"pruned_heads \{'0': \[1\]\} is not supported; supported: \{\}"),
    ("bert", {"add_cross_attention": True}, "add_cross_attention True is not supported; supported: False"),
    ("roberta", {"pad_token_id": -1}, "pad_token_id must be an integer of at least 0, found -1"),
    ("roberta", {"max_position_embeddings": 2}, "max_positions must be a whole number of at least 1, got 0"),
    ("xlm-roberta", {"type_vocab_size": 2}, r"token_type_embeddings\.weight' has shape \(1, 32\), expected \(2, 32\)"),
    ("distilbert", {"activation": "prelu"}, "activation 'prelu' is not supported; supported: gelu"),
    ("distilbert", {"dim": None}, "dim must be a positive integer, found nothing"),
    ("mpnet", {"relative_attention_num_buckets": 64}, "relative_attention_num_buckets 64 is not supported; supported: 32"),
    ("electra", {"embedding_size": 32}, r"word_embeddings\.weight' has shape \(97, 24\), expected \(97, 32\)"),
    ("ernie", {"use_task_id": True}, "use_task_id True is not supported; supported: False"),
    ("albert", {"inner_group_num": 0}, "inner_group_num must be a positive integer, found 0"),
    ("albert", {"num_hidden_groups": 3}, r"albert_layer_groups\.2\.albert_layers\.0\.attention\.query\.weight' is missing"),
    ("albert", {"num_hidden_groups": 10**400}, r"num_hidden_groups must be less than 1e\+30, found 1000"),
    ("modernbert", {"local_attention": 10**30}, "window must be at most 4611686018427387903, got 5000"),
    ("modernbert", {"sliding_window": 2**62}, "window must be at most 4611686018427387903, got 4611686018427387904"),
    ("albert", {"down_scale_factor": 2}, "down_scale_factor 2 is not supported; supported: 1"),
    ("modernbert", {"layer_types": ["sliding_attention"] * 4}, "layer_types .* is not supported; supported: for each of the 4"),
    ("modernbert", {"layer_types": ["full_attention"] * 3}, "layer_types .* is not supported"),
    ("modernbert", {"layer_types": 3}, "layer_types 3 is not supported"),
    ("modernbert", {"layer_types": ["full_attention", 3, {}, None]}, "layer_types .* is not supported"),
    ("modernbert", {"num_hidden_layers": 10**12}, "layer_types .* is not supported"),
    ("modernbert", {"num_hidden_layers": 10**12, **OLD_MODERNBERT}, r"tensor 'model\.layers\.4\.attn_norm\.weight' is missing"),
    ("modernbert", {"norm_eps": 10**400}, "norm_eps must be a number, found 1000"),
    ("bert", {"layer_norm_eps": float("nan")}, "layer_norm_eps must be a number, found nan"),
    ("albert", {"num_hidden_layers": 501}, "num_hidden_layers 501 of inner_group_num 2 is not supported; supported: 1000 layers"),
    ("modernbert", {"local_attention": "wide"}, "local_attention must be an integer of at least 0, found 'wide'"),
    ("modernbert", {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "'yarn'.*supported: rope_theta with rope_type"),
    ("modernbert", {"rope_parameters": {"full_attention": {"factor": 2}}}, "'factor': 2.*supported: rope_theta with rope_type"),
    ("modernbert", {"rope_parameters": {"rope_theta": 3.0}}, "rope_parameters for rope_theta are not supported; supported: full"),
    ("modernbert", {"rope_parameters": {"sliding_attention": {"rope_theta": "a"}}}, "local_rope_theta must be a positive.*'a'"),
    ("modernbert", {"rope_parameters": [3]}, r"rope_parameters must be an object, found \[3\]"),
    ("modernbert", {"rope_scaling": {"type": "linear", "factor": 2}}, "rope_scaling .* is not supported"),
    ("modernbert", {"mlp_bias": True}, r"tensor 'model\.layers\.0\.mlp\.Wi\.bias' is missing"),
    ("modernbert", {"attention_bias": "no"}, "attention_bias must be true or false, found 'no'"),
    ("modernbert", {"intermediate_size": 40}, r"mlp\.Wi\.weight' has shape \(96, 32\), expected \(80, 32\)"),
    ("modernbert-biased", {"mlp_bias": False}, r"modernbert has no tensor 'model\.layers\.0\.mlp\.Wi\.bias' with this"),
    ("nomic_bert", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "'dynamic'.*supported: rope_theta with"),
    ("modernbert", {"head_dim": 16}, "head_dim 16 is not supported; supported: 8"),
    ("modernbert", {"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5 is not supported; supported: 1.0"),
    ("nomic_bert", {"rope_parameters": {"type": "linear"}}, "'linear'.*supported: rope_theta with"),
    ("nomic_bert", {"head_dim": 16}, "head_dim 16 is not supported; supported: 8"),
]


@pytest.mark.parametrize(("family", "change", "message"), FAULTS)
def test_fault_in_the_configuration(tmp_path: Path, family: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        read_encoder(write(tmp_path, family, **change))
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation_function": "gelu"}, "activation_function 'gelu' is not supported; supported: swiglu, geglu"),
        ({"rotary_emb_fraction": 0.5}, "rotary_emb_fraction 0.5 is not supported; supported: 1.0"),
        ({"rotary_emb_interleaved": True}, "rotary_emb_interleaved True is not supported; supported: False"),
        ({"prenorm": True}, "prenorm True is not supported; supported: False"),
        ({"num_heads_kv": 2}, "num_heads_kv 2 is not supported; supported: 4"),
        ({"n_inner": None}, "n_inner must be a positive integer, found None"),
        ({"qkv_proj_bias": True}, r"tensor 'bert\.encoder\.layers\.0\.attn\.Wqkv\.bias' is missing"),
    ],
)
def test_fault_in_the_first_configuration_of_nomic_bert(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_encoder(first_code(tmp_path, **change))


ODD = [None, True, -1, 0, 1, 7, 10**30, -0.5, 1e-320, float("inf"), float("nan"), "", "gelu", [], [1], {}, {"rope_theta": []}]


@pytest.mark.parametrize("family", [*FAMILIES, "first code"])
def test_any_value_for_any_key(tmp_path: Path, family: str) -> None:
    """A value is read, or refused with a CheckpointError that names the file; no other exception, no endless loop."""
    folder = first_code(tmp_path) if family == "first code" else write(tmp_path, family)
    content = json.loads((folder / "config.json").read_text())
    refused = 0
    for key in content:
        for value in ODD:
            write_json(folder / "config.json", {**content, key: value})
            for read in (read_encoder, *(lambda path, task=task: read_head(path, task) for task in ("pooler", "masked-lm"))):
                try:
                    read(folder)
                except CheckpointError as error:
                    assert str(folder) in str(error)
                    refused += 1
    assert refused > 500
