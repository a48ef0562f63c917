"""Configurations of every family: forms of older and newer code, checked options, and values of any type."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastattn import Encoder
from fastattn.checkpoint.reader import CheckpointError, read_encoder, read_head
from fastattn.layer_config import LayerConfig, default_rotary
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
    assert (config.layer_norm_eps, config.activation) == (1e-5, "gelu")
    local, full = LayerConfig((64, 64), default_rotary(10000.0, 8)), LayerConfig((None, None), default_rotary(160000.0, 8))
    assert config.layers == (full, local, local, full)


def test_one_side_of_the_window(tmp_path: Path) -> None:
    config = read_encoder(write(tmp_path, "modernbert", sliding_window=7))[0]
    assert [config.layer(i).window for i in range(4)] == [(None, None), (7, 7), (7, 7), (None, None)]


def test_null_for_the_local_base(tmp_path: Path) -> None:
    folder = write(tmp_path, "modernbert", **OLD_MODERNBERT, global_rope_theta=70.0)
    write_json(
        folder / "config.json", {**settings("modernbert", **OLD_MODERNBERT, global_rope_theta=70.0), "local_rope_theta": None}
    )
    config = read_encoder(folder)[0]
    assert config.layer(0).rotary == config.layer(1).rotary == default_rotary(70.0, 8)


@pytest.mark.parametrize("types", ["FFFF", "FSFS", "FSSF", "FSSS", "SSSS", "SFFS", "SSSF"])
def test_layer_types(tmp_path: Path, types: str) -> None:
    kinds = {"F": "full_attention", "S": "sliding_attention"}
    config = read_encoder(write(tmp_path, "modernbert", layer_types=[kinds[kind] for kind in types]))[0]
    local, full = LayerConfig((4, 4), default_rotary(10000.0, 8)), LayerConfig((None, None), default_rotary(160000.0, 8))
    assert config.layers == tuple(local if kind == "S" else full for kind in types)


def test_scaled_angles_of_modernbert(tmp_path: Path) -> None:
    """Of one kind of layers, or of both as older files have them; where they end, so do the positions."""
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
    kinds = {"full_attention": {**yarn, "rope_theta": 160000.0}, "sliding_attention": {"rope_theta": 10000.0}}
    config = read_encoder(write(tmp_path / "new", "modernbert", rope_parameters=kinds))[0]
    rotary = config.layer(0).rotary
    assert rotary is not None and config.layer(1).rotary == default_rotary(10000.0, 8)
    assert rotary.scaling == 0.1 * np.log(4) + 1
    assert rotary.inv_freq[0] == 1 and rotary.inv_freq[-1] == default_rotary(160000.0, 8).inv_freq[-1] / 4
    config = read_encoder(write(tmp_path / "old", "modernbert", **OLD_MODERNBERT, rope_scaling=yarn))[0]
    assert config.layer(0).rotary == rotary
    local = config.layer(1).rotary
    assert local is not None and local.scaling == rotary.scaling and local.inv_freq != rotary.inv_freq
    assert config.max_positions == 48
    scaling = {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "original_max_position_embeddings": 20}
    assert read_encoder(write(tmp_path / "long", "modernbert", **OLD_MODERNBERT, rope_scaling=scaling))[0].max_positions == 20


def test_attention_to_both_sides(tmp_path: Path) -> None:
    """Qwen's models say it in either of two ways, and the model_type of pplx-embed says it too."""
    expected = read_encoder(write(tmp_path / "said", "qwen3", is_causal=False))[0]
    assert {layer.window for layer in expected.layers or ()} == {(None, None)}
    assert {layer.window for layer in read_encoder(write(tmp_path / "causal", "qwen3"))[0].layers or ()} == {(None, 0)}
    assert read_encoder(write(tmp_path / "flag", "qwen3", use_bidirectional_attention=True))[0] == expected
    assert read_encoder(write(tmp_path / "pplx", "qwen3", model_type="bidirectional_pplx_qwen3"))[0] == expected


def test_a_map_behind_the_encoder_is_refused(tmp_path: Path) -> None:
    """voyage-4's class maps the hidden states to another width: without it they would be other vectors."""
    stored = tensors("qwen3") | {"linear.weight": np.zeros((64, 32), np.float32)}
    with pytest.raises(CheckpointError, match=r"qwen3 has no tensor 'linear\.weight' with this config\.json"):
        read_encoder(write(tmp_path, "qwen3", stored))


def test_windows_of_qwen(tmp_path: Path) -> None:
    """Without layer_types the windows begin at max_window_layers, and null turns them off."""
    changes: dict[str, Any] = {"layer_types": None, "max_window_layers": 3}
    config = read_encoder(write(tmp_path / "three", "qwen3-windows", **changes))[0]
    assert [layer.window for layer in config.layers or ()] == [(None, 0)] * 3 + [(4, 0)]
    folder = write(tmp_path / "null", "qwen3-windows", **changes)
    write_json(folder / "config.json", {**settings("qwen3-windows", **changes), "sliding_window": None})
    assert {layer.window for layer in read_encoder(folder)[0].layers or ()} == {(None, 0)}


def test_older_configuration_of_gemma(tmp_path: Path) -> None:
    """The kinds of layers by a number, and bases under their own names; scaled angles are those of the layers without a window."""
    old: dict[str, Any] = {"layer_types": None, "rope_parameters": None, "sliding_window_pattern": 3}
    scaling = {"rope_type": "linear", "factor": 8.0}
    config = read_encoder(write(tmp_path, "gemma3_text", **old, rope_theta=400.0, rope_local_base_freq=50.0, rope_scaling=scaling))[
        0
    ]
    local = LayerConfig((4, 0), default_rotary(50.0, 12))
    full = config.layer(2)
    assert config.layers == (local, local, full, local)
    assert full.window == (None, 0)
    assert full.rotary == default_rotary(400.0, 12)._replace(inv_freq=tuple(x / 8 for x in default_rotary(400.0, 12).inv_freq))
    usual = read_encoder(write(tmp_path / "usual", "gemma3_text", **{**old, "sliding_window_pattern": None}))[0]
    assert usual.layers == (LayerConfig((4, 0), default_rotary(10_000.0, 12)),) * 4


def test_head_size_of_nomic_bert(tmp_path: Path) -> None:
    stored = {
        name: array.repeat(2, axis=int("o_proj" in name)) if "self_attn" in name else array
        for name, array in native_names(tensors("nomic_bert")).items()
    }
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 100.0}
    config = read_encoder(write(tmp_path, "nomic_bert", stored, head_dim=16, rope_parameters=rope, max_position_embeddings=30))[0]
    assert (config.head_dim, config.query_dim, config.max_positions) == (16, 64, 30)
    assert config.layers == (LayerConfig(rotary=default_rotary(100.0, 16)),) * 3


def test_part_of_the_channels_of_the_first_code_of_nomic_bert(tmp_path: Path) -> None:
    config = read_encoder(first_code(tmp_path, rotary_emb_fraction=0.5))[0]
    assert config.rotary_dim == 4
    assert config.layers == (LayerConfig(rotary=default_rotary(1000.0, 4)),) * 3


FAULTS: list[tuple[str, dict[str, Any], str]] = [
    ("bert", {"pruned_heads": {"0": [1]}}, r"pruned_heads \{'0': \[1\]\} is not supported; supported: \{\}"),
    ("bert", {"add_cross_attention": True}, "add_cross_attention True is not supported; supported: False"),
    ("roberta", {"pad_token_id": -1}, "pad_token_id must be an integer of at least 0, found -1"),
    ("roberta", {"max_position_embeddings": 2}, "max_positions must be a whole number of at least 1, got 0"),
    ("xlm-roberta", {"type_vocab_size": 2}, r"token_type_embeddings\.weight' has shape \(1, 32\), expected \(2, 32\)"),
    ("distilbert", {"activation": "prelu"}, "activation 'prelu' is not supported; supported: gelu"),
    ("distilbert", {"dim": None}, "dim must be a positive integer, found nothing"),
    ("mpnet", {"relative_attention_num_buckets": 64}, r"relative_attention_bias\.weight' has shape \(32, 4\), expected \(64, 4\)"),
    ("mpnet", {"relative_attention_num_buckets": 16}, "relative_attention_num_buckets must be an integer of at least 32, found 16"),
    ("electra", {"embedding_size": 32}, r"word_embeddings\.weight' has shape \(97, 24\), expected \(97, 32\)"),
    ("ernie", {"use_task_id": True}, r"tensor 'ernie\.embeddings\.task_type_embeddings\.weight' is missing"),
    ("ernie", {"use_task_id": "yes"}, "use_task_id must be true or false, found 'yes'"),
    ("gte", {"position_embedding_type": "absolute"}, "position_embedding_type 'absolute' is not supported; supported: 'rope'"),
    ("gte", {"type_vocab_size": 1}, r"token_type_embeddings\.weight' has shape \(2, 32\), expected \(1, 32\)"),
    ("jina_embeddings_v3", {"position_embedding_type": "absolute"}, "'absolute' is not supported; supported: 'rotary'"),
    ("t5", {"feed_forward_proj": "gated-gelu"}, r"tensor 'transformer\.encoder\.block\.0\.layer\.1\.DenseReluDense\.wi_0"),
    ("t5", {"feed_forward_proj": "gated"}, "feed_forward_proj 'gated' is not supported; supported: gelu"),
    ("t5", {"feed_forward_proj": 3}, "feed_forward_proj 3 is not supported; supported: gelu"),
    ("t5", {"d_kv": 8}, r"SelfAttention\.q\.weight' has shape \(24, 32\), expected \(32, 32\)"),
    ("t5-gated", {"feed_forward_proj": "gelu"}, r"tensor 'transformer\.encoder\.block\.0\.layer\.1\.DenseReluDense\.wi\.weight'"),
    ("clip_text_model", {"max_position_embeddings": 77}, r"position_embedding\.weight' has shape \(48, 32\), expected \(77, 32\)"),
    ("deberta", {"talking_head": True}, "talking_head True is not supported; supported: False"),
    ("deberta-v2", {"conv_kernel_size": 3}, r"tensor 'deberta\.encoder\.conv\.conv\.weight' is missing"),
    ("deberta-v2", {"conv_kernel_size": 4}, "conv_kernel_size must be odd, or 0 for no convolution, found 4"),
    ("deberta-v2", {"conv_kernel_size": -1}, "conv_kernel_size must be an integer of at least 0, found -1"),
    ("deberta-v2-convolution", {"conv_act": "sin"}, "conv_act 'sin' is not supported; supported: gelu"),
    ("deberta-v2-convolution", {"conv_groups": 5}, "conv_groups must divide hidden_size, found 5 for 36"),
    ("deberta-v2-convolution", {"conv_groups": 2}, r"conv\.conv\.weight' has shape \(36, 36, 3\), expected \(36, 18, 3\)"),
    ("deberta-v2-convolution", {"conv_kernel_size": 5}, r"has shape \(36, 36, 3\), expected \(36, 36, 5\)"),
    ("deberta-v2", {"attention_head_size": 16}, "attention_head_size 16 is not supported; supported: 8"),
    ("deberta-v2", {"pos_att_type": [3]}, r"pos_att_type must be a list of strings, or one with \| between them, found \[3\]"),
    ("deberta-v2", {"norm_rel_ebd": True}, "norm_rel_ebd must be a string, found True"),
    ("deberta-v2", {"position_buckets": 2}, "disentangled_log needs a disentangled_span S of at least 4 .* got 2 and"),
    ("deberta-v2", {"max_relative_positions": 5}, "relative_max_distance greater than S / 2 \\+ 1, got 8 and 5"),
    ("deberta-v2", {"position_buckets": 16}, r"encoder\.rel_embeddings\.weight' has shape \(16, 32\), expected \(32, 32\)"),
    (
        "deberta-v2",
        {"share_att_key": False},
        r"attention\.self\.pos_key_proj\.weight. is missing",
    ),
    ("deberta-v2-biased", {"pos_att_type": None}, r"has no tensor 'deberta\.encoder\.layer\.0\.attention\.self\.pos_key_proj"),
    ("albert", {"inner_group_num": 0}, "inner_group_num must be a positive integer, found 0"),
    ("albert", {"num_hidden_groups": 3}, r"albert_layer_groups\.2\.albert_layers\.0\.attention\.query\.weight' is missing"),
    ("albert", {"num_hidden_groups": 10**400}, r"num_hidden_groups must be less than 1e\+30, found 1000"),
    ("albert", {"down_scale_factor": 2}, "down_scale_factor 2 is not supported; supported: 1"),
    ("modernbert", {"layer_types": ["full_attention"] * 3}, "layer_types .* is not supported; supported: for each of the 4"),
    ("modernbert", {"layer_types": 3}, "layer_types 3 is not supported"),
    ("modernbert", {"layer_types": ["full_attention", 3, {}, None]}, "layer_types .* is not supported"),
    ("modernbert", {"num_hidden_layers": 10**12}, "num_hidden_layers 1000000000000 is not supported; supported: up to 10000"),
    ("modernbert", {"num_hidden_layers": 9999, **OLD_MODERNBERT}, r"tensor 'model\.layers\.4\.attn_norm\.weight' is missing"),
    ("modernbert", {"norm_eps": 10**400}, "norm_eps must be a number, found 1000"),
    ("bert", {"layer_norm_eps": float("nan")}, "layer_norm_eps must be a number, found nan"),
    ("albert", {"num_hidden_layers": 501}, "num_hidden_layers 501 of inner_group_num 2 is not supported; supported: 1000 layers"),
    ("modernbert", {"local_attention": "wide"}, "local_attention must be an integer of at least 0, found 'wide'"),
    ("modernbert", {"rope_parameters": {"full_attention": {"rope_type": "axial"}}}, "rope_type 'axial' .* is not supported"),
    (
        "modernbert",
        {"rope_parameters": {"full_attention": {"factor": 2}}},
        "factor of rope_parameters for full_attention with rope",
    ),
    ("modernbert", {"rope_parameters": {"rope_theta": 3.0}}, "rope_parameters for rope_theta are not supported; supported: full"),
    ("modernbert", {"rope_parameters": {"sliding_attention": {"rope_theta": "a"}}}, "local_rope_theta must be a positive.*'a'"),
    ("modernbert", {"rope_parameters": [3]}, r"rope_parameters must be an object, found \[3\]"),
    ("modernbert", {"rope_scaling": {"type": "linear", "facto": 2}}, "facto of rope_parameters for full_attention with rope_type"),
    ("modernbert", {"mlp_bias": True}, r"tensor 'model\.layers\.0\.mlp\.Wi\.bias' is missing"),
    ("modernbert", {"attention_bias": "no"}, "attention_bias must be true or false, found 'no'"),
    ("modernbert", {"intermediate_size": 40}, r"mlp\.Wi\.weight' has shape \(96, 32\), expected \(80, 32\)"),
    ("modernbert-biased", {"mlp_bias": False}, r"modernbert has no tensor 'model\.layers\.0\.mlp\.Wi\.bias' with this"),
    ("nomic_bert", {"rope_parameters": {"rope_type": "dynamic"}}, "factor must be a positive number, found None"),
    ("nomic_bert", {"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5 is not supported; supported: 1.0"),
    ("modernbert", {"head_dim": 16}, "head_dim 16 is not supported; supported: 8"),
    ("modernbert", {"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5 is not supported; supported: 1.0"),
    ("nomic_bert", {"rope_parameters": {"type": "linear"}}, "factor must be a positive number, found None"),
    ("qwen3", {"num_key_value_heads": 3}, "num_key_value_heads must divide num_heads, got 3 for 4 heads"),
    ("qwen3", {"head_dim": 7}, "must turn an even number of channels, of each head of 7, found 7"),
    ("qwen3", {"head_dim": 16}, r"q_proj\.weight' has shape \(48, 32\), expected \(64, 32\)"),
    ("qwen3", {"attention_bias": True}, r"self_attn\.q_proj\.bias' is missing"),
    ("qwen3-windows", {"attention_bias": False}, r"qwen3 has no tensor 'model\.layers\.0\.self_attn\.\w_proj\.bias' with this"),
    (
        "qwen3-windows",
        {"use_sliding_window": False},
        "layer_types with sliding_attention need a sliding_window, and use_sliding_window",
    ),
    ("qwen3-windows", {"layer_types": ["chunked_attention"] * 4}, "layer_types .* is not supported; supported: for each of the 4"),
    ("qwen2", {"hidden_act": "prelu"}, "hidden_act 'prelu' is not supported"),
    ("qwen2", {"use_bidirectional_attention": 1}, "use_bidirectional_attention must be true or false, found 1"),
    ("neobert", {"num_attention_heads": 3}, "num_attention_heads must give heads of an even size, found 3 for a hidden_size of 32"),
    ("neobert", {"ngpt": True}, "ngpt True is not supported; supported: False"),
    ("neobert", {"intermediate_size": 60}, r"ffn\.w12\.weight' has shape \(64, 32\), expected \(80, 32\)"),
    ("gemma3_text", {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar must be a positive integer, found 0"),
    ("gemma3_text", {"rope_parameters": {"rope_theta": 1.0}}, "rope_parameters for rope_theta are not supported"),
    ("nomic_bert-experts", {"num_experts": 8}, r"1\.mlp\.router\.layer\.weight' has shape \(5, 32\), expected \(8, 32\)"),
    ("nomic_bert-experts", {"num_experts": 4}, r"1\.mlp\.router\.layer\.weight' has shape \(5, 32\), expected \(4, 32\)"),
    ("nomic_bert-experts", {"num_experts": None}, "num_experts must be a positive integer, found nothing"),
    ("nomic_bert-experts", {"moe_top_k": 6}, r"1 to 1024 experts, and top_k from 1 to their number, got \(5, 6\)"),
    ("nomic_bert-experts", {"moe_every_n_layers": 3}, r"3\.mlp\.fc1\.weight' is missing"),
    ("nomic_bert-experts", {"moe_normalize_expert_weights": True}, "moe_normalize_expert_weights True is not supported"),
    ("nomic_bert-experts", {"expert_choice_router": True}, "expert_choice_router True is not supported; supported: False"),
    ("nomic_bert-experts", {"num_shared_experts": 1}, "num_shared_experts 1 is not supported; supported: 0"),
    ("nomic_bert-experts", {"activation_function": "swiglu"}, "layers with experts exclude gated: an expert has no gate"),
    ("nomic_bert", {"head_dim": 16}, r"Wqkv\.weight' has shape \(96, 32\), expected \(192, 32\)"),
]


@pytest.mark.parametrize(("family", "change", "message"), FAULTS)
def test_fault_in_the_configuration(tmp_path: Path, family: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        read_encoder(write(tmp_path, family, **change))
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation_function": "gelu_new"}, "activation_function 'gelu_new' is not supported; supported: swiglu, geglu, gelu"),
        ({"rotary_emb_fraction": 0.0}, "rotary_emb_fraction 0.0 is not supported; supported: more than 0, at most 1"),
        ({"rotary_emb_fraction": 0.4}, "must turn an even number of channels, of each head of 8, found 3"),
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
