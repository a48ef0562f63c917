"""Late-interaction models and calls on which sentence-transformers and this package must agree, live or by a golden file."""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tests.support.models import C, V, bert_tensors, write_bert, write_json, write_safetensors
from tests.support.peer_cases import weights

Array = NDArray[Any]
D, P = 8, 40
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_WORDS = [
    *SPECIAL,
    "[unused0]",
    "[unused1]",
    *".,!?;",
    "query",
    ":",
    "the",
    "a",
    "cat",
    "dog",
    "sat",
    "on",
    "mat",
    "and",
    "ran",
    "far",
]
# The last two ids are those of PyLate's markers, which its tokenizers have as added tokens.
WORDS = _WORDS + [f"w{i}" for i in range(V - 2 - len(_WORDS))]
QUERIES = ["the cat, sat!", "a dog", "", "the dog ran far and far and a cat sat on the mat, and the dog ran"]
DOCUMENTS = ["The cat sat on the mat, and a dog ran.", "a", "", "dog! cat? dog; cat.", "w1 w2 nothing known w3 " * 6, "far, far"]
PUNCTUATION = list(string.punctuation)


def write_tokenizer(folder: Path, markers: bool = False) -> None:
    """Write a lowercasing tokenizer of words; with `markers`, PyLate's "[Q] " and "[D] " are added tokens."""
    from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.add_special_tokens(list(SPECIAL))
    if markers:
        tokenizer.add_tokens([AddedToken("[Q] ", normalized=True), AddedToken("[D] ", normalized=True)])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {f"{word.strip('[]').lower()}_token": word for word in SPECIAL}
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": P, **names})


def encoder_tensors(prefix: str = "") -> dict[str, Array]:
    """Return a random BERT of P positions."""
    tensors = bert_tensors()
    tensors["embeddings.position_embeddings.weight"] = np.random.default_rng(6).standard_normal((P, C), np.float32)
    return {f"{prefix}{name}": array for name, array in tensors.items()}


def projection() -> Array:
    return np.random.default_rng(5).standard_normal((D, C)).astype(np.float32) / 4


def write_dense(folder: Path, **changes: Any) -> None:
    """Write the projection; a change to None leaves the key out."""
    config = {
        "in_features": C,
        "out_features": D,
        "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
        "module_input_name": "token_embeddings",
        "module_output_name": "token_embeddings",
        **changes,
    }
    write_json(folder / "config.json", {key: value for key, value in config.items() if value is not None})
    write_safetensors(folder / "model.safetensors", {"linear.weight": projection()})


def write_modules(folder: Path, *types: str) -> None:
    entries = [
        {"idx": i, "name": str(i), "path": "" if i == 0 else f"{i}_{kind.rpartition('.')[2]}", "type": kind}
        for i, kind in enumerate(types)
    ]
    write_json(folder / "modules.json", entries)


TRANSFORMER = "sentence_transformers.base.modules.transformer.Transformer"
DENSE = "sentence_transformers.base.modules.dense.Dense"
NORMALIZE = "sentence_transformers.sentence_transformer.modules.normalize.Normalize"
MASK = "sentence_transformers.multi_vector_encoder.modules.multi_vector_mask.MultiVectorMask"
POOLING = "sentence_transformers.multi_vector_encoder.modules.token_pooling.HierarchicalTokenPooling"


def native(
    transformer: Mapping[str, Any] = {},
    mask: Mapping[str, Any] = {},
    pooling: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Callable[[Path], None]:
    """Return a function that writes a folder of sentence-transformers."""

    def write(folder: Path) -> None:
        write_bert(folder, encoder_tensors(), max_position_embeddings=P)
        write_tokenizer(folder)
        write_json(folder / "sentence_bert_config.json", {"max_seq_length": P, "do_lower_case": False, **transformer})
        write_modules(folder, TRANSFORMER, DENSE, MASK, NORMALIZE, *([POOLING] if pooling else []))
        write_dense(folder / "1_Dense")
        write_json(folder / "2_MultiVectorMask" / "config.json", dict(mask))
        write_json(folder / "3_Normalize" / "config.json", {"module_input_name": "token_embeddings"})
        if pooling:
            write_json(folder / "4_HierarchicalTokenPooling" / "config.json", dict(pooling))
        write_json(folder / "config_sentence_transformers.json", {"model_type": "MultiVectorEncoder", **settings})

    return write


def pylate(**settings: Any) -> Callable[[Path], None]:
    """Return a function that writes a folder of PyLate; its Dense names no input."""

    def write(folder: Path) -> None:
        write_bert(folder, encoder_tensors(), max_position_embeddings=P)
        write_tokenizer(folder, markers=True)
        write_json(folder / "sentence_bert_config.json", {"max_seq_length": P, "do_lower_case": False})
        write_modules(folder, "sentence_transformers.models.Transformer", "pylate.models.Dense.Dense")
        write_dense(folder / "1_Dense", module_input_name=None, module_output_name=None)
        write_json(folder / "config_sentence_transformers.json", {"prompts": {}, "similarity_fn_name": "MaxSim", **settings})

    return write


def stanford(**metadata: Any) -> Callable[[Path], None]:
    """Return a function that writes a folder of Stanford's ColBERT; without settings there is no ``artifact.metadata``."""

    def write(folder: Path) -> None:
        tensors = {**encoder_tensors("bert."), "linear.weight": projection()}
        write_bert(folder, tensors, architectures=["HF_ColBERT"], max_position_embeddings=P)
        write_tokenizer(folder)
        if metadata:
            (folder / "artifact.metadata").write_text(json.dumps(metadata), encoding="utf-8")

    return write


def write_bge_m3(folder: Path, width: int = C) -> Path:
    """Write a folder with the heads of bge-m3."""
    write_bert(folder, encoder_tensors(), max_position_embeddings=P)
    write_tokenizer(folder)
    config = (folder / "tokenizer_config.json").read_text("utf-8")
    (folder / "tokenizer_config.json").write_text(config.replace("{", '{"eos_token": "[SEP]", ', 1), "utf-8")
    write_safetensors(folder / "sparse_linear.safetensors", weights(1, weight=(1, C), bias=(1,)))
    write_safetensors(folder / "colbert_linear.safetensors", weights(2, weight=(width, C), bias=(width,)))
    return folder


class Case(NamedTuple):
    """A folder, and a pooling of each call: a class of the modules and its arguments."""

    write: Callable[[Path], None]
    pooling: tuple[str, dict[str, Any]] | None = None


MARKERS = {"query_prefix": "[Q] ", "document_prefix": "[D] "}
CASES = {
    "plain": Case(native(prompts={"query": "query: ", "document": ""}, similarity_fn_name="meanmaxsim")),
    "lengths": Case(native({"query_length": 7, "document_length": 10})),
    "fixed": Case(
        native({"query_expansion": {"strategy": "fixed", "length": 12}, "document_length": 11}, {"skiplist_words": PUNCTUATION})
    ),
    "fixed, attend": Case(native({"query_expansion": {"strategy": "fixed", "length": 14, "attend": True}})),
    "min": Case(native({"query_expansion": {"strategy": "min", "length": 9}, "query_length": 15})),
    "min, attend, token": Case(native({"query_expansion": {"strategy": "min", "length": 9, "attend": True, "token": "."}})),
    "skip list of both": Case(
        native({"query_expansion": {"strategy": "min", "length": 8}}, {"skiplist_words": [",", "a", "zebra"], "skiplist_tasks": [
            "query", "document"
        ]})
    ),
    "kept ids": Case(native(mask={"keep_only_token_ids": list(range(14, 20)), "skiplist_words": ["dog"]})),
    "pooled": Case(native(pooling={"pool_factor": 2, "num_protected_tokens": 1, "normalize_embeddings": True})),
    "pooled, old settings": Case(native(pooling={"pool_factor": 1.5, "num_protected_tokens": 2, "tasks": ["query", "document"]})),
    "pooled by call": Case(native(), ("HierarchicalTokenPooling", {"pool_factor": 3.0, "tasks": ["query", "document"]})),
    "pylate": Case(pylate(**MARKERS, model_type="ColBERT", query_length=13, document_length=12, attend_to_expansion_tokens=False)),
    "pylate, attend": Case(
        pylate(**MARKERS, model_type="ColBERT", query_length=13, attend_to_expansion_tokens=True, skiplist_words=[","])
    ),
    "pylate, older": Case(pylate(**MARKERS, query_length=11, do_query_expansion=False)),
    "stanford": Case(stanford(query_maxlen=15, doc_maxlen=14, mask_punctuation=True, attend_to_mask_tokens=False)),
    "stanford, other tokens": Case(
        stanford(query_maxlen=10, query_token_id="[unused1]", doc_token_id="cat", mask_punctuation=False)
    ),
}  # fmt: skip


def answers(model: Any, pooling: Any = None) -> dict[str, Array]:
    """Return what a model says to the calls: embeddings, the tokens that are scored, similarities."""
    options = {"convert_to_numpy": True, "token_pooling": pooling}
    queries, documents = model.encode_query(QUERIES, **options), model.encode_document(DOCUMENTS, **options)
    found = {f"query/{i}": x for i, x in enumerate(queries)} | {f"document/{i}": x for i, x in enumerate(documents)}
    found["one"] = model.encode_query(QUERIES[0], **options)
    found["no task"] = model.encode(DOCUMENTS[0], **options)
    found["similarity"] = np.asarray(model.similarity(queries, documents))
    found["normalised lengths"] = np.asarray(model.similarity(queries, documents, length_normalize=True))
    found["pairwise"] = np.asarray(model.similarity_pairwise(queries, documents[: len(queries)]))
    return {name: np.asarray(array) for name, array in found.items()}


def write_case(name: str, folder: Path) -> Path:
    CASES[name].write(folder)
    return folder
