"""Reads the folders of late-interaction models: of sentence-transformers, PyLate, and Stanford's ColBERT."""

from __future__ import annotations

import os
import string
from pathlib import Path
from typing import Any, NamedTuple

from fastattn.checkpoint.folder import CheckpointError, read_modules, read_object, transformer_folder
from fastattn.checkpoint.weights import Tensors
from fastattn.text.model_folder import PYLATE_KEYS, check_modules, load_modules
from fastattn.text.modules import Dense, Module, MultiVectorMask, Normalize, Pooling, Transformer
from fastattn.text.modules.module import SENTENCE, TOKENS, read_config
from fastattn.text.modules.transformer_settings import read_settings
from fastattn.tokenizer.tokenizer import Tokenizer

__all__ = ["ColbertFolder", "is_stanford", "read_colbert", "register_markers"]

# The length of a query in ColBERT, where a folder says nothing else.
_QUERY_TOKENS = 32
_PREFIXES = {"query": "query_prefix", "document": "document_prefix"}


class ColbertFolder(NamedTuple):
    """Modules of a folder; and of older folders the markers that begin a text, by task, and the prompts that these make."""

    modules: list[Module]
    markers: dict[str, str]
    prompts: dict[str, str]


def read_colbert(folder: Path, *, is_late_interaction: bool, **options: Any) -> ColbertFolder:
    """Read a folder; CheckpointError if it holds another kind of model, which has no projection of its tokens."""
    if os.path.lexists(folder / "modules.json"):
        if is_late_interaction:
            return _listed_modules(folder, options)
        what = "it is another kind of model"
    else:
        architectures = read_object(folder / "config.json").get("architectures")
        if is_stanford(folder):
            return _stanford(folder, options)
        what = f"it has no modules.json, and its architectures in config.json are {architectures!r:.200}"
    raise CheckpointError(
        f"{folder}: {what}; a MultiVectorEncoder is a folder of sentence-transformers, of PyLate, or of Stanford's ColBERT "
        "(architectures HF_ColBERT); another model needs a projection of its tokens, which is trained: give modules=[...]"
    )


def is_stanford(folder: Path) -> bool:
    """Tell whether a folder without ``modules.json`` is one of Stanford's ColBERT."""
    architectures = read_object(folder / "config.json").get("architectures")
    return isinstance(architectures, list) and "HF_ColBERT" in architectures


def _listed_modules(folder: Path, options: dict[str, Any]) -> ColbertFolder:
    """Read a folder with ``modules.json``, of sentence-transformers or PyLate."""
    path = folder / "config_sentence_transformers.json"
    settings = read_object(path)
    markers, prompts = _markers(path, settings)
    first = transformer_folder(folder)
    stored = read_settings(first)[1]
    knobs = {name: value for name, value in _by_task(settings).items() if name not in stored}
    modules = load_modules(folder, **options, **knobs)
    entries = read_modules(folder)
    is_pylate = settings.get("model_type") != "MultiVectorEncoder"
    for module, (_, where) in zip(modules, entries, strict=True):
        # Older folders name no input: that of a late-interaction model is the tokens.
        if isinstance(module, Dense) and (is_pylate or "module_input_name" not in read_config(where / "config.json")):
            if module.module_input_name == SENTENCE:
                module.module_input_name = TOKENS
            if module.module_output_name == SENTENCE:
                module.module_output_name = TOKENS
    if is_pylate:
        modules = [module for module in modules if not _makes_sentences(module)]
        words = settings.get("skiplist_words")
        modules += _scored(path, list(string.punctuation) if words is None else words)
    if is_pylate and not any(isinstance(module, Dense) for module in modules):
        raise CheckpointError(f"{folder / 'modules.json'}: has no Dense, the projection of tokens in a model of PyLate")
    try:
        check_modules(modules)
    except ValueError as error:
        raise CheckpointError(f"{folder / 'modules.json'}: {error}") from error
    return ColbertFolder(modules, markers, prompts)


def _makes_sentences(module: Module) -> bool:
    return isinstance(module, Pooling) or (isinstance(module, Normalize) and module.module_input_name == SENTENCE)


def _scored(path: Path, skiplist_words: Any) -> list[Module]:
    """Return the modules that older folders do not list."""
    try:
        return [MultiVectorMask(skiplist_words), Normalize(TOKENS)]
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _markers(path: Path, settings: dict[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """Return PyLate's prefixes, and the prompts before which they stand."""
    prompts = settings.get("prompts") or {}
    markers = {}
    for task, key in _PREFIXES.items():
        if key in settings:
            markers[task] = settings[key] or ""
            if not isinstance(markers[task], str):
                raise CheckpointError(f"{path}: {key} must be a text, found {markers[task]!r:.200}")
    composed = {task: marker + (prompts.get(task) or "").removeprefix(marker) for task, marker in markers.items()}
    return markers, composed


def _by_task(settings: dict[str, Any]) -> dict[str, Any]:
    """Return PyLate's lengths and query expansion as arguments of `Transformer`."""
    knobs = {
        name: settings[name] for name in ("query_length", "document_length", "query_expansion") if settings.get(name) is not None
    }
    if "query_expansion" in settings or not any(key in settings for key in PYLATE_KEYS):
        return knobs
    if settings.get("do_query_expansion") is not False:
        attend = settings.get("attend_to_expansion_tokens", settings.get("attend_to_mask_tokens"))
        knobs["query_expansion"] = _fixed(attend, knobs.pop("query_length", None))
    return knobs


def _fixed(attend: Any, length: Any) -> dict[str, Any]:
    return {"strategy": "fixed", "attend": bool(attend), "length": length or _QUERY_TOKENS}


def _stanford(folder: Path, options: dict[str, Any]) -> ColbertFolder:
    """Read a folder of Stanford's ColBERT: a projection beside the encoder's weights, settings in ``artifact.metadata``."""
    path = folder / "artifact.metadata"
    settings = read_object(path)
    markers = {
        "query": settings.get("query_token_id") or "[unused0]",
        "document": settings.get("doc_token_id") or "[unused1]",
    }
    for marker in markers.values():
        if not isinstance(marker, str):
            raise CheckpointError(f"{path}: query_token_id and doc_token_id must be tokens, found {marker!r:.200}")
    prompts = {task: f"{marker} " for task, marker in markers.items()}
    tensors = Tensors(folder)
    if "linear.weight" not in tensors or len(tensors.shape("linear.weight")) != 2:
        raise CheckpointError(f"{tensors.where}: has no matrix 'linear.weight', the projection of an HF_ColBERT")
    transformer = Transformer._without_settings(
        folder,
        transformer_task="feature-extraction",
        document_length=settings.get("doc_maxlen"),
        query_expansion=_fixed(settings.get("attend_to_mask_tokens"), settings.get("query_maxlen")),
        **options,
    )
    size_out, size_in = tensors.shape("linear.weight")
    weight = tensors.read("linear.weight", (size_out, size_in))
    dense = Dense(size_in, size_out, False, None, weight, module_input_name=TOKENS)
    words = list(string.punctuation) if settings.get("mask_punctuation", True) else []
    modules = [transformer, dense, *_scored(path, words)]
    try:
        check_modules(modules)
    except ValueError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    return ColbertFolder(modules, prompts, prompts)


def register_markers(tokenizer: Tokenizer, markers: dict[str, str]) -> None:
    """Let the tokenizer keep each marker in one piece, if it is a word of the vocabulary.

    Models were trained on the marker's id, which a text that begins with it would not give: ``[unused0]`` is cut into pieces.
    """
    from tokenizers import AddedToken

    found = []
    vocabulary = tokenizer.get_vocab()
    for marker in markers.values():
        # PyLate keeps "[Q] " with its space as one token.
        for token in (marker, *marker.split(None, 1)[:1]):
            if token in vocabulary:
                if tokenizer.tokenize(token) != [token]:
                    found.append(token)
                break
    if found:
        tokenizer.backend_tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in found])
        tokenizer._given["additional_special_tokens"] = found
