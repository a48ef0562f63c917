"""Random transformers models of every supported family, and their outputs.  Needs torch and transformers.

Weights are large, and norms and biases far from 1 and 0, so that confusing two tensors changes every output.
"""

import contextlib
import math
import zlib
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from tests.support.double import double, exact

Array = NDArray[Any]

C, F, V, LAYERS, HEADS = 32, 48, 97, 3, 4
LABELS = ("lion", "witch", "wardrobe")
# Our task: the suffix of transformers' class name.
TASKS = {
    "hidden": "Model",
    "pooler": "Model",
    "sequence-classification": "ForSequenceClassification",
    "token-classification": "ForTokenClassification",
    "masked-lm": "ForMaskedLM",
    "causal-lm": "ForCausalLM",
    "projection": "ModelWithProjection",
}
# A task's array in the output of the class.
_OUTPUTS = {"hidden": "last_hidden_state", "pooler": "pooler_output", "projection": "text_embeds"}


class Case(NamedTuple):
    """Family or variant of a family."""

    name: str
    options: dict[str, Any]
    pooler: bool = False
    # In the golden folder, of a family whose class is not in transformers and computes what another's does.
    model_type: str = ""
    # The suffix of the class without a head, and tasks whose class needs more than the encoder.
    bare: str = "Model"
    without: tuple[str, ...] = ()

    def class_for(self, task: str) -> Any:
        """Return transformers' class for a task, or None."""
        return getattr(transformers, self.name + (self.bare if TASKS[task] == "Model" else TASKS[task]), None)


# Classes that compute their attention in one way only.
_EAGER = ("MPNet", "Deberta", "DebertaV2")


def has_sdpa(family: str) -> bool:
    """Tell whether a family's class can leave its attention to torch."""
    return CASES[family].name not in _EAGER


_SIZES = {
    "vocab_size": V,
    "hidden_size": C,
    "intermediate_size": F,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
}
_MODERN = {
    "num_hidden_layers": 4,
    "layer_types": None,
    "local_attention": 9,
    "pad_token_id": 0,
    "cls_token_id": 1,
    "bos_token_id": 1,
    "sep_token_id": 2,
    "eos_token_id": 2,
}
# Families with windows: padding that is far from the tokens sees none, where the eager implementation returns a mean.
WINDOWS = ("modernbert", "qwen3-windows", "qwen3-both-ways", "qwen2", "gemma")
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
_DECODER = {"num_hidden_layers": 4, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_WINDOWS = {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 2}
_GEMMA = {**_DECODER, "head_dim": 12, "query_pre_attn_scalar": 20}
# Of so few tokens that some are masked in most texts.
_ESM = {"token_dropout": True, "mask_token_id": 7, "pad_token_id": 1, "layer_norm_eps": 1e-5}
_DISENTANGLED = {"relative_attention": True, "pos_att_type": "p2c|c2p"}
CASES = {
    "bert": Case("Bert", {"hidden_act": "gelu_new"}, True),
    "roberta": Case("Roberta", {"layer_norm_eps": 1e-5}, True),
    "xlm-roberta": Case("XLMRoberta", {"type_vocab_size": 1}, True),
    "camembert": Case("Camembert", {"type_vocab_size": 1, "pad_token_id": 3}, True),
    "distilbert": Case("DistilBert", {"sinusoidal_pos_embds": True, "activation": "relu"}),
    "mpnet": Case("MPNet", {}, True),
    "electra": Case("Electra", {"embedding_size": 24}),
    "electra-wide": Case("Electra", {"embedding_size": C}),
    "ernie": Case("Ernie", {"type_vocab_size": 4, "hidden_act": "relu", "layer_norm_eps": 1e-5}, True),
    "ernie-tasks": Case("Ernie", {"use_task_id": True, "hidden_act": "relu"}, True),
    "mpnet-longer": Case("MPNet", {"relative_attention_num_buckets": 40}, True),
    "albert": Case("Albert", {"embedding_size": 24, "num_hidden_groups": 2, "inner_group_num": 2}, True),
    "deberta": Case("Deberta", {**_DISENTANGLED, "type_vocab_size": 2, "max_relative_positions": 9}),
    "deberta-v2": Case(
        "DebertaV2",
        {
            **_DISENTANGLED,
            "position_buckets": 8,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "position_biased_input": False,
        },
    ),
    "deberta-v2-biased": Case(
        "DebertaV2",
        {
            **_DISENTANGLED,
            "pos_att_type": ["c2p"],
            "max_relative_positions": 9,
            "type_vocab_size": 3,
            "embedding_size": 24,
            "hidden_act": "gelu_new",
            "pooler_hidden_act": "tanh",
            "layer_norm_eps": 1e-5,
        },
    ),
    "deberta-v2-convolution": Case(
        "DebertaV2",
        {
            **_DISENTANGLED,
            "position_buckets": 8,
            "hidden_size": 36,
            "intermediate_size": 50,
            "conv_kernel_size": 3,
            "conv_act": "gelu",
        },
    ),
    "deberta-v2-groups": Case(
        "DebertaV2", {"relative_attention": False, "conv_kernel_size": 5, "conv_groups": 4, "position_biased_input": True}
    ),
    "deberta-v2-plain": Case("DebertaV2", {"pos_att_type": "p2c|c2p", "legacy": False}),
    "modernbert": Case("ModernBert", _MODERN),
    "modernbert-biased": Case(
        "ModernBert",
        _MODERN
        | {
            "global_attn_every_n_layers": 2,
            "global_rope_theta": 3000.0,
            "local_rope_theta": 50.0,
            "hidden_activation": "gelu_pytorch_tanh",
            "norm_bias": True,
            "attention_bias": True,
            "mlp_bias": True,
            "classifier_bias": True,
            "classifier_activation": "tanh",
            "classifier_pooling": "mean",
            "decoder_bias": False,
        },
    ),
    "nomic_bert": Case("NomicBert", {}),
    "gte": Case(
        "Gte",
        {"type_vocab_size": 2, "rope_parameters": {"rope_type": "linear", "rope_theta": 900.0, "factor": 1.7}},
    ),
    "gte-untyped": Case("Gte", {"type_vocab_size": 0, "hidden_act": "relu"}),
    "jina_embeddings_v3": Case("JinaEmbeddingsV3", {"type_vocab_size": 2}, True),
    "esm": Case("Esm", {**_ESM, "position_embedding_type": "rotary", "rope_theta": 500.0}, True),
    "esm-learned": Case("Esm", {**_ESM, "emb_layer_norm_before": True}, True),
    "t5": Case(
        "T5",
        {"d_kv": 6, "relative_attention_num_buckets": 12, "relative_attention_max_distance": 20},
        bare="EncoderModel",
        without=("sequence-classification",),
    ),
    "t5-gated": Case(
        "T5",
        {"d_kv": 10, "feed_forward_proj": "gated-gelu", "layer_norm_epsilon": 1e-5},
        bare="EncoderModel",
        without=("sequence-classification",),
    ),
    "clip_text_model": Case("CLIPText", {"eos_token_id": V - 1, "bos_token_id": 2, "pad_token_id": 1, "projection_dim": 20}),
    "nomic_bert-sized": Case(
        "NomicBert", {"head_dim": 6, "rope_parameters": {"rope_type": "linear", "factor": 2.5, "rope_theta": 500.0}}
    ),
    "modernbert-scaled": Case(
        "ModernBert",
        _MODERN
        | {
            "layer_types": ["sliding_attention", "full_attention", "full_attention", "sliding_attention"],
            "rope_parameters": {
                "full_attention": {**_YARN, "rope_theta": 3000.0},
                "sliding_attention": {"rope_type": "linear", "factor": 3.0, "rope_theta": 50.0},
            },
        },
    ),
    "qwen3": Case("Qwen3", {**_DECODER, "head_dim": 12}),
    "qwen3-windows": Case(
        "Qwen3",
        {**_DECODER, **_WINDOWS, "head_dim": 6, "num_key_value_heads": 1, "attention_bias": True, "tie_word_embeddings": True},
    ),
    "qwen3-both-ways": Case(
        "Qwen3",
        {**_DECODER, **_WINDOWS, "head_dim": 8, "is_causal": False, "layer_types": ["sliding_attention", "full_attention"] * 2},
    ),
    "bidirectional_pplx_qwen3": Case(
        "Qwen3", {**_DECODER, "head_dim": 8, "is_causal": False}, model_type="bidirectional_pplx_qwen3"
    ),
    "qwen2": Case("Qwen2", {**_DECODER, **_WINDOWS, "rope_parameters": {**_YARN, "rope_theta": 3000.0}}),
    "qwen2-both-ways": Case("Qwen2", {**_DECODER, "num_key_value_heads": HEADS, "is_causal": False, "hidden_act": "gelu"}),
    "eurobert": Case("EuroBert", {**_DECODER, "head_dim": 12, "mask_token_id": 3, "tie_word_embeddings": True}),
    "eurobert-biased": Case(
        "EuroBert",
        {
            **_DECODER,
            "num_key_value_heads": None,
            "mask_token_id": 3,
            "attention_bias": True,
            "mlp_bias": True,
            "classifier_pooling": "bos",
        },
    ),
    "gemma3_text": Case(
        "Gemma3Text", {**_GEMMA, "sliding_window": 5, "attn_logit_softcapping": 0.5, "final_logit_softcapping": 1.5}
    ),
    "gemma3_text-both-ways": Case(
        "Gemma3Text",
        {
            **_GEMMA,
            "sliding_window": 9,
            "use_bidirectional_attention": True,
            "attention_bias": True,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 30.0},
            },
        },
    ),
}


def tasks(family: str) -> list[str]:
    """Return the tasks for which transformers has a class, and a pooler where the model has one."""
    case = CASES[family]
    left_out = (*case.without, *([] if case.pooler else ["pooler"]))
    return [task for task in TASKS if case.class_for(task) is not None and task not in left_out]


def prefix(family: str) -> str:
    """Return what stands before the names of the encoder's tensors under a head."""
    return f"{CASES[family].class_for(tasks(family)[-1]).base_model_prefix}."


def config(family: str, positions: int) -> Any:
    """Return the configuration of a model for up to `positions` tokens."""
    case = CASES[family]
    options = {**_SIZES, "max_position_embeddings": positions + 8, "id2label": dict(enumerate(LABELS)), **case.options}
    if case.name == "DistilBert":
        for theirs, ours in (
            ("dim", "hidden_size"),
            ("hidden_dim", "intermediate_size"),
            ("n_layers", "num_hidden_layers"),
            ("n_heads", "num_attention_heads"),
        ):
            options[theirs] = options.pop(ours)
    if case.name == "T5":
        for theirs, ours in (("d_model", "hidden_size"), ("d_ff", "intermediate_size"), ("num_layers", "num_hidden_layers")):
            options[theirs] = options.pop(ours)
        options["num_heads"] = options.pop("num_attention_heads")
        del options["max_position_embeddings"]
    return getattr(transformers, f"{case.name}Config")(**options)


def model(family: str, task: str, positions: int = 64, attention: str = "eager") -> Any:
    """Return a model in float32; a tensor's values depend only on its name, not on the task."""
    settings = config(family, positions)
    settings._attn_implementation = attention
    # The output of a decoder with a cache has the keys and values, which the kernels keep nowhere.
    settings.use_cache = False
    module = CASES[family].class_for(task)(settings)
    # A tied decoder gets the values of the table's name: "embed" sorts last and overwrites.
    names = sorted(module.named_parameters(remove_duplicate=False), key=lambda named: "embed" in named[0])
    for name, parameter in names:
        parameter.data = torch.from_numpy(_values(name.removeprefix(prefix(family)), tuple(parameter.shape)))
    module.tie_weights()
    return module.eval()


def _values(name: str, shape: tuple[int, ...]) -> Array:
    normal = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, np.float32)
    if name.endswith("bias") or "embed" in name or "relative" in name:
        return normal * np.float32(0.4)
    if len(shape) == 1:
        return normal * np.float32(0.3) + np.float32(1)
    return normal * np.float32(1.3 / math.sqrt(shape[1]))


def batch(family: str, lengths: list[int]) -> dict[str, Array]:
    """Return ids, padded on the right, their mask, and token types if the family has them."""
    settings, case = config(family, max(lengths)), CASES[family]
    rng = np.random.default_rng(len(lengths))
    shape = (len(lengths), max(lengths))
    mask = np.arange(shape[1]) < np.array(lengths)[:, None]
    ids = np.where(mask, rng.integers(5, V, shape), settings.pad_token_id)
    if case.name == "Esm":
        ids[:, 2:20:3] = np.where(mask[:, 2:20:3], case.options["mask_token_id"], ids[:, 2:20:3])
    if "projection" in tasks(family):
        # The first of these tokens in a text ends it.
        ids[:, 3], ids[:, 5] = np.where(mask[:, 3], V - 1, ids[:, 3]), np.where(mask[:, 5], V - 1, ids[:, 5])
    made = {"input_ids": ids, "attention_mask": mask.astype(np.int64)}
    if getattr(settings, "type_vocab_size", 0) > 1:
        made["token_type_ids"] = np.where(mask, rng.integers(0, settings.type_vocab_size, shape), 0)
    return made


def outputs(module: Any, task: str, inputs: dict[str, Array], dtype: Any = torch.float32, *, alone: bool = True) -> Array:
    """Return the model's output for each sequence alone, or for the padded batch.

    Hidden states and token logits are those of real tokens, end to end.
    """
    lengths = inputs["attention_mask"].sum(axis=1)
    batches = [{name: array[b : b + 1, :n] for name, array in inputs.items()} for b, n in enumerate(lengths)] if alone else [inputs]
    out, parts = _OUTPUTS.get(task, "logits"), []
    is_exact = dtype == torch.float64
    with torch.no_grad(), double() if is_exact else contextlib.nullcontext():
        module = exact(module) if is_exact else module.to(dtype)
        for one in batches:
            tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in one.items()}
            array = getattr(module(**tensors), out).numpy()
            parts.append(array[one["attention_mask"].astype(bool)] if array.ndim == 3 else array)
    return np.concatenate(parts)
