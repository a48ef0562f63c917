"""Models and calls on which sentence-transformers and this package must agree, live or by a golden file."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tests.support.models import CONFIG, HEADS, LAYERS, C, F, write_bert, write_json, write_safetensors, write_tokenizer

DATA = Path(__file__).parents[1] / "data"
TEXTS = ["the cat sat on the mat", "a dog", "", "the the the", "nothing known here", "a cat sat on a dog", "the " * 20]
POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
SPECIAL = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
Step = tuple[str, dict[str, Any]]


class Call(NamedTuple):
    """Call of a method with its arguments."""

    method: str
    args: tuple[Any, ...]
    options: dict[str, Any]


def call(method: str, *args: Any, **options: Any) -> Call:
    return Call(method, args, options)


def weights(seed: int, **shapes: tuple[int, ...]) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    return {name.replace("__", "."): rng.standard_normal(shape, np.float32) / 4 for name, shape in shapes.items()}


def dense(inputs: int, outputs: int, activation: str | None = None, **changes: Any) -> Step:
    config: dict[str, Any] = {"in_features": inputs, "out_features": outputs, "bias": True, **changes}
    if activation is not None:
        config["activation_function"] = activation
    return "Dense", config


def pooling(*modes: str, **changes: Any) -> Step:
    return "Pooling", {"embedding_dimension": C, "pooling_mode": modes[0] if len(modes) == 1 else list(modes), **changes}


def write_model(folder: Path, *steps: Step, **settings: Any) -> Path:
    """Write a sentence-transformers folder with these modules behind the encoder."""
    write_bert(folder)
    write_tokenizer(folder)
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 12, **SPECIAL})
    entries = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    for i, (kind, config) in enumerate(steps, 1):
        path = f"{i}_{kind}"
        entries.append({"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"})
        write_json(folder / path / "config.json", config)
        tensors = {}
        if kind == "Dense":
            shape = (config["out_features"], config["in_features"])
            tensors = weights(i, linear__weight=shape, linear__bias=shape[:1], residual__weight=shape)
            if not config["bias"]:
                del tensors["linear.bias"]
            if not config.get("use_residual") or shape[0] == shape[1]:
                del tensors["residual.weight"]
        elif kind == "LayerNorm":
            tensors = weights(i, norm__weight=(config["dimension"],), norm__bias=(config["dimension"],))
        if tensors:
            write_safetensors(folder / path / "model.safetensors", tensors)
    write_json(folder / "modules.json", entries)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 12, "do_lower_case": False})
    if settings:
        write_json(folder / "config_sentence_transformers.json", settings)
    return folder


NN = "torch.nn.modules"
MODELS: dict[str, tuple[tuple[Step, ...], dict[str, Any]]] = {
    **{f"pooling {mode}": ((pooling(mode),), {}) for mode in POOLINGS},
    **{f"pooling {mode} without prompt": ((pooling(mode, include_prompt=False),), {}) for mode in POOLINGS},
    "poolings in another order": ((pooling("mean", "cls", "max"), ("Normalize", {})), {}),
    "dense": ((pooling("mean"), dense(C, 24)), {}),
    "dense without bias or activation": ((pooling("mean"), dense(C, 24, f"{NN}.linear.Identity", bias=False)), {}),
    "dense with a residual": ((pooling("cls"), dense(C, C, f"{NN}.activation.GELU", use_residual=True)), {}),
    "dense with a wider residual": ((pooling("cls"), dense(C, 40, f"{NN}.activation.ReLU", use_residual=True)), {}),
    "dense with an activation of its own": ((pooling("mean"), dense(C, 8, "mine.Activation")), {}),
    "two dense": ((pooling("mean"), dense(C, 64, f"{NN}.activation.SiLU"), dense(64, 16), ("Normalize", {})), {}),
    "dense of tokens": (
        (dense(C, 16, f"{NN}.linear.Identity", module_input_name="token_embeddings"), pooling("mean", embedding_dimension=16)),
        {},
    ),
    "pooled twice": (
        (
            pooling("mean"),
            dense(C, 16, f"{NN}.linear.Identity", module_input_name="token_embeddings"),
            pooling("cls", embedding_dimension=16),
        ),
        {},
    ),
    "normalised tokens": ((("Normalize", {"module_input_name": "token_embeddings"}), pooling("max")), {}),
    "layer norm": ((pooling("mean"), ("LayerNorm", {"dimension": C}), ("Dropout", {"dropout": 0.5}), ("Normalize", {})), {}),
    "normalised twice": (
        (pooling("mean"), ("Normalize", {}), dense(C, 12), ("LayerNorm", {"dimension": 12}), ("Normalize", {})),
        {},
    ),
    "prompts": (
        (pooling("mean"),),
        {"prompts": {"query": "query: ", "passage": "a ", "none": None}, "default_prompt_name": "passage"},
    ),
    "shortened": ((pooling("mean"),), {"truncate_dim": 8, "similarity_fn_name": "dot"}),
}
CALLS = {
    "encode": call("encode", TEXTS),
    "one text": call("encode", TEXTS[0]),
    "short and normalised": call("encode", TEXTS, normalize_embeddings=True, truncate_dim=6),
    "with a prompt": call("encode", TEXTS, prompt="query: "),
    "query": call("encode_query", TEXTS),
    "document": call("encode_document", TEXTS),
    "width": call("get_embedding_dimension"),
}
TOKEN_CALLS = {
    "tokens": call("encode", TEXTS, output_value="token_embeddings"),
    "everything": call("encode", TEXTS, output_value=None, prompt="query: "),
    "everything of one text": call("encode", TEXTS[0], output_value=None),
}
WITH_TOKENS = ("pooling mean", "pooling weightedmean without prompt", "dense of tokens", "shortened")

PAIRS = [
    ("the cat sat", "on the mat"),
    ("a", ""),
    ("", ""),
    ("How many people live in Berlin?", "Berlin had a population of 3,520,031 registered inhabitants in 2019."),
    ("short", "long " * 120),
    ("long " * 120, "short"),
    ("long " * 120, "longer " * 61),
    ("Crème brûlée, naïve café", "敏捷的棕色狐狸 👩‍👩‍👧‍👦"),
]
SCORES: dict[str, dict[str, Any]] = {
    "bert": {"labels": 1},
    "bert of three labels": {"labels": 3},
    "bert with an activation": {"labels": 1, "config": {"sentence_transformers": {"activation_fn": f"{NN}.linear.Identity"}}},
    "bert with an old activation": {"labels": 1, "config": {"sbert_ce_default_activation_function": f"{NN}.activation.Tanh"}},
    "roberta": {"labels": 1, "family": "roberta"},
    "roberta of two labels": {"labels": 2, "family": "roberta"},
}
SCORE_CALLS = {
    "predict": call("predict", PAIRS),
    "one pair": call("predict", PAIRS[0]),
    "probabilities": call("predict", PAIRS, apply_softmax=True),
    "with a prompt": call("predict", PAIRS, prompt="query: "),
}
RANK_CALLS = {"rank": call("rank", PAIRS[0][0], [second for _, second in PAIRS], top_k=5, return_documents=True)}


def write_cross_encoder(folder: Path, labels: int, family: str = "bert", config: dict[str, Any] | None = None) -> Path:
    """Write a random classifier of pairs with MiniLM's tokenizer or the small byte-pair tokenizer."""
    from fastattn.checkpoint.hub import find_model

    source = find_model() if family == "bert" else DATA / "roberta"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        if (source / name).exists():
            (folder / name).write_bytes((source / name).read_bytes())
    vocabulary = len(json.loads((source / "tokenizer.json").read_text("utf-8"))["model"]["vocab"])
    rows = 96 + (2 if family == "roberta" else 0)
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (vocabulary, C),
        "embeddings.position_embeddings.weight": (rows, C),
        "embeddings.token_type_embeddings.weight": (2 if family == "bert" else 1, C),
    }
    layer = {"attention.self.query": (C, C), "attention.self.key": (C, C), "attention.self.value": (C, C)}
    layer |= {"attention.output.dense": (C, C), "intermediate.dense": (F, C), "output.dense": (C, F)}
    linears = {f"encoder.layer.{i}.{stem}": shape for i in range(LAYERS) for stem, shape in layer.items()}
    norms = ["embeddings.LayerNorm"]
    norms += [f"encoder.layer.{i}.{stem}.LayerNorm" for i in range(LAYERS) for stem in ("attention.output", "output")]
    rng = np.random.default_rng(labels)
    tensors = {f"{family}.{name}": rng.standard_normal(shape, np.float32) / 8 for name, shape in shapes.items()}
    head = {"bert": ("bert.pooler.dense", "classifier"), "roberta": ("classifier.dense", "classifier.out_proj")}[family]
    scaled = {**{f"{family}.{stem}": shape for stem, shape in linears.items()}, head[0]: (C, C), head[1]: (labels, C)}
    for stem, shape in scaled.items():
        tensors[f"{stem}.weight"] = rng.standard_normal(shape, np.float32) / 3
        tensors[f"{stem}.bias"] = rng.standard_normal(shape[:1], np.float32) / 3
    for stem in norms:
        tensors[f"{family}.{stem}.weight"] = 1 + rng.standard_normal(C, np.float32) / 8
        tensors[f"{family}.{stem}.bias"] = rng.standard_normal(C, np.float32) / 8
    write_safetensors(folder / "model.safetensors", tensors)
    names = {"id2label": {i: f"LABEL_{i}" for i in range(labels)}, "label2id": {f"LABEL_{i}": i for i in range(labels)}}
    special = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2} if family == "roberta" else {}
    write_json(
        folder / "config.json",
        {
            **CONFIG,
            "model_type": family,
            "architectures": [f"{family.title().replace('Roberta', 'Roberta')}ForSequenceClassification"],
            "num_attention_heads": HEADS,
            "vocab_size": vocabulary,
            "max_position_embeddings": rows,
            "type_vocab_size": 2 if family == "bert" else 1,
            **names,
            **special,
            **(config or {}),
        },
    )
    # Limits as in published models: the tokenizer's model_max_length equals the positions.
    settings = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    write_json(folder / "tokenizer_config.json", {**settings, "model_max_length": 96})
    return folder


def answers(model: Any, calls: dict[str, Call]) -> Iterator[tuple[str, Any]]:
    """Yield the parts of each answer, arrays and numbers, with their names."""
    for name, (method, args, options) in calls.items():
        yield from _parts(name, getattr(model, method)(*args, **options))


def _parts(name: str, answer: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(answer, dict):
        length = int(np.sum(np.asarray(answer["attention_mask"]))) if "attention_mask" in answer else None
        for key, value in answer.items():
            if length is not None and key in ("input_ids", "attention_mask", "token_type_ids", "token_embeddings"):
                value = value[:length]  # sentence-transformers pads
            yield from _parts(f"{name}/{key}", value)
    elif isinstance(answer, list):
        for i, item in enumerate(answer):
            yield from _parts(f"{name}/{i}", item)
    else:
        yield name, np.asarray(answer)


def embedding_answers(load: Callable[[str], Any], folder: Path) -> dict[str, Any]:
    """Return every answer of every model in `MODELS`."""
    found = {}
    for i, (model, (steps, settings)) in enumerate(MODELS.items()):
        loaded = load(str(write_model(folder / str(i), *steps, **settings)))
        calls = {**CALLS, **(TOKEN_CALLS if model in WITH_TOKENS else {})}
        found |= {f"{model}/{name}": array for name, array in answers(loaded, calls)}
    return found


def score_answers(load: Callable[[str], Any], folder: Path) -> dict[str, Any]:
    """Return every answer of every model in `SCORES`."""
    found = {}
    for i, (model, options) in enumerate(SCORES.items()):
        loaded = load(str(write_cross_encoder(folder / str(i), **options)))
        calls = {**SCORE_CALLS, **(RANK_CALLS if options["labels"] == 1 else {})}
        found |= {f"{model}/{name}": array for name, array in answers(loaded, calls)}
    return found


def assert_alike(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Compare answers: names and shapes equal, floats within 1e-5 of the largest, other values equal."""
    assert found.keys() == expected.keys(), sorted(found.keys() ^ expected.keys())[:20]
    for name, array in expected.items():
        ours = found[name]
        assert ours.shape == array.shape, f"{name}: shape {ours.shape} instead of {array.shape}"
        if array.dtype.kind == "f":
            error = float(np.abs(ours - array).max(initial=0))
            limit = 1e-5 * max(1.0, float(np.abs(array).max(initial=0)))
            assert error <= limit, f"{name}: error {error:.3g} > {limit:.3g}"
        else:
            assert np.array_equal(ours, array), f"{name}: {ours} instead of {array}"
