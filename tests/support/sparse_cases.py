"""Sparse models and calls on which sentence-transformers and this package must agree, live or by a golden file."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.support.models import WORDS, C, P, V, bert_tensors, write_bert, write_json, write_tokenizer
from tests.support.peer_cases import SPECIAL, TEXTS, pooling

SPARSE = "sentence_transformers.sparse_encoder.models"
DENSE = "sentence_transformers.models"
# Width of the sparse autoencoder, and its active dimensions.
HIDDEN, K = 64, 9


def masked_tensors(words: int = V, positions: int = P) -> dict[str, NDArray[np.float32]]:
    """Return random weights of a BertForMaskedLM, whose decoder is the token table."""
    rng = np.random.default_rng(5)
    tensors = {f"bert.{name}": x for name, x in bert_tensors().items() if not name.startswith("pooler")}
    for name, rows in (("word", words), ("position", positions)):
        tensors[f"bert.embeddings.{name}_embeddings.weight"] = rng.standard_normal((rows, C), np.float32) / 3
    head = "cls.predictions"
    shapes: dict[str, tuple[int, ...]] = {f"{head}.transform.dense.weight": (C, C), f"{head}.transform.dense.bias": (C,)}
    shapes |= {f"{head}.transform.LayerNorm.bias": (C,), f"{head}.bias": (words,)}
    tensors |= {name: rng.standard_normal(shape, np.float32) / 3 for name, shape in shapes.items()}
    tensors[f"{head}.transform.LayerNorm.weight"] = 1 + rng.standard_normal(C, np.float32) / 8
    return tensors


def write_masked(folder: Path, words: int = V, positions: int = P) -> Path:
    """Write the folder of a masked language model, as transformers does."""
    sizes = {"vocab_size": words, "max_position_embeddings": positions}
    write_bert(folder, masked_tensors(words, positions), architectures=["BertForMaskedLM"], **sizes)
    settings(folder)
    return folder


def settings(folder: Path) -> None:
    """Write a tokenizer, and its settings."""
    write_tokenizer(folder)
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 12, **SPECIAL})


def write_weights(folder: Path, tensors: dict[str, NDArray[Any]]) -> None:
    from safetensors.numpy import save_file

    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def write_sparse(folder: Path, *entries: tuple[str, dict[str, Any]], first: str = f"{DENSE}.Transformer", **given: Any) -> Path:
    """Write a model with these modules, of dotted class name and configuration, behind a masked language model."""
    write_masked(folder)
    masked = {} if first.endswith("MLMTransformer") else {"transformer_task": "fill-mask"}
    masked = masked if any(kind.endswith("SpladePooling") for kind, _ in entries) else {}
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 12, "do_lower_case": False, **masked})
    modules = [{"idx": 0, "name": "0", "path": "", "type": first}]
    for i, (kind, config) in enumerate(entries, 1):
        path = f"{i}_{kind.rpartition('.')[2]}"
        modules.append({"idx": i, "name": str(i), "path": path, "type": kind})
        write_json(folder / path / "config.json", config)
        if kind.endswith("SparseAutoEncoder"):
            rng = np.random.default_rng(i)
            shapes = {"encoder.weight": (HIDDEN, C), "pre_bias": (C,), "latent_bias": (HIDDEN,)}
            weights: dict[str, NDArray[Any]] = {name: rng.standard_normal(shape, np.float32) / 3 for name, shape in shapes.items()}
            write_weights(folder / path, {**weights, "stats_last_nonzero": np.zeros(HIDDEN, np.int64)})
    write_json(folder / "modules.json", modules)
    write_json(folder / "config_sentence_transformers.json", {"model_type": "SparseEncoder", **given})
    return folder


def write_router(folder: Path, idf: bool = False, **parameters: Any) -> Path:
    """Write a model with a static query side: weights in a tensor, or in ``idf.json``."""
    write_masked(folder / "document_0_Transformer")
    write_json(folder / "document_0_Transformer" / "sentence_bert_config.json", {"transformer_task": "fill-mask"})
    write_json(folder / "document_1_SpladePooling" / "config.json", {"pooling_strategy": "max"})
    query = folder / "query_0_SparseStaticEmbedding"
    query.mkdir(parents=True)
    settings(query)
    weight = np.random.default_rng(2).random(V, np.float32)
    weight[WORDS.index("on")] = 0
    if idf:
        # sentence-transformers takes a path that exists; this package a file of its name in the model's folder.
        write_json(query / "config.json", {"frozen": True, "path": str((folder / "idf.json").resolve())})
        write_json(folder / "idf.json", {word: float(x) for word, x in zip(WORDS, weight, strict=True) if word != "dog"})
    else:
        write_json(query / "config.json", {"frozen": False})
        write_weights(query, {"weight": weight})
    kinds = {
        "query_0_SparseStaticEmbedding": f"{SPARSE}.SparseStaticEmbedding",
        "document_0_Transformer": f"{DENSE}.Transformer",
        "document_1_SpladePooling": f"{SPARSE}.SpladePooling",
    }
    structure = {"query": ["query_0_SparseStaticEmbedding"], "document": ["document_0_Transformer", "document_1_SpladePooling"]}
    given = {"default_route": "document", "allow_empty_key": True, **parameters}
    write_json(folder / "router_config.json", {"types": kinds, "structure": structure, "parameters": given})
    write_json(folder / "modules.json", [{"idx": 0, "name": "0", "path": "", "type": f"{DENSE}.Router"}])
    write_json(folder / "config_sentence_transformers.json", {"model_type": "SparseEncoder"})
    return folder


def splade(**config: Any) -> tuple[str, dict[str, Any]]:
    return f"{SPARSE}.SpladePooling", config


def auto_encoder(**config: Any) -> tuple[str, dict[str, Any]]:
    return f"{SPARSE}.SparseAutoEncoder", {"input_dim": C, "hidden_dim": HIDDEN, "k": K, "k_aux": 16, **config}


def dense_pooling() -> tuple[str, dict[str, Any]]:
    kind, config = pooling("mean")
    return f"{DENSE}.{kind}", config


MODELS: dict[str, Callable[[Path], Path]] = {
    "max": lambda folder: write_sparse(folder, splade(pooling_strategy="max")),
    "max, two logarithms": lambda folder: write_sparse(folder, splade(pooling_strategy="max", activation_function="log1p_relu")),
    "sum": lambda folder: write_sparse(folder, splade(pooling_strategy="sum", word_embedding_dimension=V)),
    "sum, two logarithms": lambda folder: write_sparse(folder, splade(pooling_strategy="sum", activation_function="log1p_relu")),
    "an older name": lambda folder: write_sparse(folder, splade(), first=f"{SPARSE}.MLMTransformer"),
    "settings": lambda folder: write_sparse(
        folder,
        splade(),
        max_active_dims=5,
        similarity_fn_name="cosine",
        prompts={"query": "query : ", "passage": "the "},
        default_prompt_name="passage",
    ),
    "a folder of transformers": write_masked,
    "static queries": write_router,
    "static queries of a file": lambda folder: write_router(folder, idf=True),
    "routes by mappings": lambda folder: write_router(
        folder,
        default_route=None,
        allow_empty_key=False,
        route_mappings={"('document', None)": "query", "(None, 'text')": "document"},
    ),
    "autoencoder": lambda folder: write_sparse(folder, dense_pooling(), auto_encoder()),
    "autoencoder, normalised": lambda folder: write_sparse(folder, dense_pooling(), auto_encoder(normalize=True)),
}
METHODS = ("encode", "encode_query", "encode_document")
SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")


def dense(found: Any) -> Any:
    """Return an answer as an array."""
    return np.asarray(found.to_dense() if hasattr(found, "to_dense") else found)


def answers(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield the answers of a model, with their names."""
    for method in METHODS:
        yield method, dense(getattr(model, method)(TEXTS))
    yield "one text", dense(model.encode(TEXTS[0]))
    yield "with a prompt", dense(model.encode(TEXTS, prompt="query : "))
    yield "few", dense(model.encode(TEXTS, max_active_dims=3))
    yield "dense", dense(model.encode(TEXTS, convert_to_sparse_tensor=False))
    for i, found in enumerate(model.encode(TEXTS[:2], convert_to_tensor=False)):
        yield f"list/{i}", dense(found)
    queries, documents = model.encode_query(TEXTS[:3]), model.encode_document(TEXTS[3:])
    if queries.shape[1] == documents.shape[1]:
        for name in (model.similarity_fn_name, *SIMILARITIES):
            model.similarity_fn_name = name
            yield f"similarity, {name}", dense(model.similarity(queries, documents))
            yield f"similarity of one, {name}", dense(model.similarity(queries[0], documents))
            yield f"similarity, pairwise, {name}", dense(model.similarity_pairwise(queries, model.encode_document(TEXTS[4:])))
        yield "intersection", dense(model.intersection(queries[0], documents))
    for name, value in model.sparsity(documents).items():
        yield name, np.float64(value)
    yield "words", np.array(json.dumps([[word for word, _ in row] for row in model.decode(documents, top_k=2)]))
    yield "weights", np.array([weight for row in model.decode(documents) for _, weight in row])
    yield "width", np.int64(model.get_embedding_dimension())


def sparse_answers(load: Callable[[str], Any], folder: Path) -> dict[str, Any]:
    """Return every answer of every model in `MODELS`."""
    found = {}
    for i, (name, write) in enumerate(MODELS.items()):
        found |= {f"{name}/{key}": array for key, array in answers(load(str(write(folder / str(i)))))}
    return found
