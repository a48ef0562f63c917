"""Every family: its golden model computes what transformers does, in every form of the weights; its options are checked."""

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
from tests.support.golden_models import GOLDEN, Array, Tensors, golden, settings, tensors, write
from tests.support.models import WORDS, write_json, write_safetensors, write_tokenizer
from tests.support.tolerance import assert_matches_reference

FAMILIES = sorted(folder.name for folder in GOLDEN.iterdir())
OURS: dict[str, Any] = {
    "hidden": Encoder,
    "pooler": fastattn.EncoderWithPooler,
    "sequence-classification": fastattn.EncoderForSequenceClassification,
    "token-classification": fastattn.EncoderForTokenClassification,
    "masked-lm": fastattn.EncoderForMaskedLM,
}


def apply(model: Any, inputs: dict[str, Array]) -> Array:
    """Return what a model makes of a batch; of hidden states and logits of tokens, those of real tokens end to end."""
    mask = inputs["attention_mask"]
    out: Array = model(inputs["input_ids"], mask, token_type_ids=inputs.get("token_type_ids"))
    return out[mask.astype(bool)] if out.ndim == 3 else out


def assert_is_golden(family: str, task: str, model: Any) -> None:
    arrays = golden(family)
    assert_matches_reference(apply(model, arrays), arrays[f"{task}.truth"], arrays[f"{task}.yardstick"])


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
    "epsilon": ("roberta", lambda c, p: replaced(c, p, layer_norm_eps=1e-12)),
}


@pytest.mark.jit
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_would_show(mistake: str) -> None:
    family, make = MISTAKES[mistake]
    config, parameters = make(*read_encoder(GOLDEN / family))
    with pytest.raises(AssertionError, match="error"):
        assert_is_golden(family, "hidden", Encoder(config, parameters=parameters))


def assert_reads_as_golden(folder: Path, family: str, convert: Callable[[Array], Array] = lambda x: x) -> None:
    config, parameters = read_encoder(folder)
    expected_config, expected = read_encoder(GOLDEN / family)
    assert config == expected_config
    assert list(parameters) == list(expected)
    for name, array in parameters.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, convert(expected[name]), err_msg=name)


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


PREFIXES = {"bert": "bert.", "roberta": "roberta.", "mpnet": "mpnet.", "modernbert": "model.", "nomic_bert": "nomic_bert."}


@pytest.mark.parametrize("family", PREFIXES)
def test_names_of_the_bare_model(tmp_path: Path, family: str) -> None:
    prefix = PREFIXES[family]
    bare = {name.removeprefix(prefix): array for name, array in tensors(family).items() if name.startswith(prefix)}
    assert len(bare) < len(tensors(family))
    assert_reads_as_golden(write(tmp_path, family, bare), family)


def test_shared_layers_share_their_arrays() -> None:
    config, parameters = read_encoder(GOLDEN / "albert")
    assert config.num_layers == 6
    # Three layers of two inner ones, in two groups: the first two layers are the first group.
    for a, b in ((0, 2), (1, 3)):
        assert parameters[f"layers.{a}.attention.query.weight"] is parameters[f"layers.{b}.attention.query.weight"]
    first, last = parameters["layers.0.attention.query.weight"], parameters["layers.4.attention.query.weight"]
    assert (first != last).any()


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
    """Return NomicBERT's tensors under the names that transformers' class has inside."""
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
    """Write the golden NomicBERT as the code that came with the first checkpoints has it: F is a multiple of 256."""
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
    """Beyond the trained length the first code changes the base with the length of the text: such texts are refused."""
    assert read_encoder(first_code(tmp_path, rotary_scaling_factor=2))[0].max_positions == 2048


def test_padded_vocabulary(tmp_path: Path) -> None:
    """Nomic's vocabulary is rounded up, and so is its table."""
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
    ("distilbert", {"activation": "mish"}, "activation 'mish' is not supported; supported: gelu"),
    ("distilbert", {"dim": None}, "dim must be a positive integer, found nothing"),
    ("mpnet", {"relative_attention_num_buckets": 64}, "relative_attention_num_buckets 64 is not supported; supported: 32"),
    ("electra", {"embedding_size": 32}, r"word_embeddings\.weight' has shape \(97, 24\), expected \(97, 32\)"),
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
    """A value is read, or it is an error that names the file: nothing else is raised, and nothing goes on for ever."""
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


def test_unknown_tensor_in_a_layer(tmp_path: Path) -> None:
    """BERT with relative_key positions says so in its configuration, but not every variant of a family does."""
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


# One token, both sides of the window, of every bucket of distances and of the kernels' blocks, and the longest.
LENGTHS = [1, 2, 3, 5, 9, 15, 16, 17, 31, 33, 64, 65, 90, 91, 92, 127, 128, 129, 200, 255, 256, 257, 384, 511, 512]


@pytest.mark.jit
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", [*FAMILIES, "electra-wide"])
def test_transformers(tmp_path: Path, family: str) -> None:
    """From 1 to 512 tokens in one batch; the folder is as `save_pretrained` leaves it."""
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
    """A plain folder with a tokenizer: the mean of the hidden states, and no text longer than the positions."""
    write_tokenizer(write(tmp_path, family))
    model = fastattn.SentenceTransformer(tmp_path)
    assert model.max_seq_length == model.encoder.config.max_positions <= 48
    ids = [2, *(WORDS.index(word) for word in ("the", "cat", "sat")), 3]
    hidden = Encoder.from_pretrained(GOLDEN / family).forward_packed(np.array(ids), np.array([0, len(ids)]), pooling="mean")
    np.testing.assert_array_equal(model.encode("the cat sat"), hidden[0])
    assert np.isfinite(model.encode("cat " * 100)).all()
