"""Random transformers models of every supported family, and their outputs.  Needs torch and transformers.

Weights are large, and norms and biases far from 1 and 0, so that confusing two tensors changes every output.
"""

import contextlib
import math
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from transformers.models.modernbert import modeling_modernbert
from transformers.models.nomic_bert import modeling_nomic_bert

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
}


class Case(NamedTuple):
    """Family or variant of a family."""

    name: str
    options: dict[str, Any]
    pooler: bool = False


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
    "albert": Case("Albert", {"embedding_size": 24, "num_hidden_groups": 2, "inner_group_num": 2}, True),
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
}


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
    return getattr(transformers, f"{case.name}Config")(**options)


def model(family: str, task: str, positions: int = 64, attention: str = "eager") -> Any:
    """Return a model in float32; a tensor's values depend only on its name, not on the task."""
    settings = config(family, positions)
    settings._attn_implementation = attention
    module = getattr(transformers, f"{CASES[family].name}{TASKS[task]}")(settings)
    # A tied decoder gets the values of the table's name: "embeddings" sort last and overwrite.
    names = sorted(module.named_parameters(remove_duplicate=False), key=lambda named: "embeddings" in named[0])
    for name, parameter in names:
        parameter.data = torch.from_numpy(_values(name.removeprefix(f"{module.base_model_prefix}."), tuple(parameter.shape)))
    module.tie_weights()
    return module.eval()


def _values(name: str, shape: tuple[int, ...]) -> Array:
    normal = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, np.float32)
    if name.endswith("bias") or "embedding" in name or "relative" in name:
        return normal * np.float32(0.4)
    if len(shape) == 1:
        return normal * np.float32(0.3) + np.float32(1)
    return normal * np.float32(1.3 / math.sqrt(shape[1]))


def batch(family: str, lengths: list[int]) -> dict[str, Array]:
    """Return ids, padded on the right, their mask, and token types if the family has them."""
    settings = config(family, max(lengths))
    rng = np.random.default_rng(len(lengths))
    shape = (len(lengths), max(lengths))
    mask = np.arange(shape[1]) < np.array(lengths)[:, None]
    ids = np.where(mask, rng.integers(5, V, shape), settings.pad_token_id)
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
    out = {"hidden": "last_hidden_state", "pooler": "pooler_output"}.get(task, "logits")
    parts = []
    exact = _exact_rotary() if dtype == torch.float64 else contextlib.nullcontext()
    with torch.no_grad(), exact:
        for one in batches:
            tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in one.items()}
            array = getattr(module.to(dtype)(**tensors), out).numpy()
            parts.append(array[one["attention_mask"].astype(bool)] if array.ndim == 3 else array)
    return np.concatenate(parts)


@contextlib.contextmanager
def _exact_rotary() -> Iterator[None]:
    """Compute rotary positions in float64: the models compute them in float32 whatever their dtype."""
    kinds = {
        modeling_modernbert: modeling_modernbert.ModernBertRotaryEmbedding,
        modeling_nomic_bert: modeling_nomic_bert.NomicBertRotaryEmbedding,
    }
    before = {module: (module.apply_rotary_pos_emb, kind.forward) for module, kind in kinds.items()}
    for module, kind in kinds.items():
        module.apply_rotary_pos_emb, kind.forward = _rotate, _angles
    try:
        yield
    finally:
        for module, kind in kinds.items():
            module.apply_rotary_pos_emb, kind.forward = before[module]


def _angles(self: Any, x: Any, position_ids: Any, layer_type: str | None = None) -> tuple[Any, Any]:
    settings = self.config.rope_parameters if layer_type is None else self.config.rope_parameters[layer_type]
    size = self.config.hidden_size // self.config.num_attention_heads
    frequency = settings["rope_theta"] ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    angles = (position_ids[..., None].double() * frequency).repeat(1, 1, 2)
    return angles.cos(), angles.sin()


def _rotate(q: Any, k: Any, cos: Any, sin: Any, unsqueeze_dim: int = 1) -> tuple[Any, Any]:
    def turned(x: Any) -> Any:
        first, second = x.chunk(2, dim=-1)
        return x * cos.unsqueeze(unsqueeze_dim) + torch.cat((-second, first), dim=-1) * sin.unsqueeze(unsqueeze_dim)

    return turned(q), turned(k)
