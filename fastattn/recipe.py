"""Reads what a sentence-transformers folder says besides its encoder: pooling, norm, lengths, prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from fastattn.embeddings import SIMILARITIES
from fastattn.folder import CheckpointError, read_json, read_modules, transformer_folder

__all__ = ["POOLINGS", "Recipe", "read_recipe"]

POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
# The older form of 1_Pooling/config.json: a boolean each, concatenated in this order.
_LEGACY_POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
# What sentence_bert_config.json may ask for that would change the result.
_UNSUPPORTED = ("processing_kwargs", "query_length", "document_length", "query_expansion")


class Recipe(NamedTuple):
    """How texts become embeddings round the encoder.

    Parameters
    ----------
    folder : Path
        Holds ``config.json`` and the tokenizer.
    pooling : tuple of str
        The poolings, which are concatenated.
    include_prompt : bool
        Pooling sees the tokens of the prompt.
    normalize : bool
        Embeddings are divided by their length.
    max_seq_length : int or None
        The most tokens of a text, special ones included.
    do_lower_case : bool
        Texts are lowercased first.
    cut_left : bool
        A text that is too long loses its beginning.
    prompts : dict of str to str
        Texts to put before an input, by name.
    default_prompt_name : str or None
        The prompt that is used where none is given.
    similarity : str
        How embeddings are compared.
    truncate_dim : int or None
        Channels to keep.
    """

    folder: Path
    pooling: tuple[str, ...]
    include_prompt: bool
    normalize: bool
    max_seq_length: int | None
    do_lower_case: bool
    cut_left: bool
    prompts: dict[str, str]
    default_prompt_name: str | None
    similarity: str
    truncate_dim: int | None


def read_recipe(folder: Path) -> Recipe:
    """Read a sentence-transformers folder, or a Hugging Face folder, which gets mean pooling.

    Parameters
    ----------
    folder : Path
        The model folder.

    Returns
    -------
    Recipe
        What it says; `Recipe.folder` holds ``config.json`` and the tokenizer.

    Raises
    ------
    FileNotFoundError
        The folder, or a file that it must have, is missing.
    CheckpointError
        A file is damaged, or asks for something that is not supported.
    """
    transformer = transformer_folder(folder)
    pooling, include_prompt, normalize = _read_steps(folder)
    limits = _object(transformer / "sentence_bert_config.json")
    for key in _UNSUPPORTED:
        if limits.get(key):
            path = transformer / "sentence_bert_config.json"
            raise CheckpointError(f"{path}: {key} {limits[key]!r} is not supported")
    tokenizer = _object(transformer / "tokenizer_config.json")
    settings_path = folder / "config_sentence_transformers.json"
    settings = _object(settings_path)
    prompts = settings.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(text, (str, type(None))) for text in prompts.values()):
        raise CheckpointError(f"{settings_path}: prompts must map names to texts, found {prompts!r}")
    similarity = settings.get("similarity_fn_name")
    truncate_dim = settings.get("truncate_dim")
    return Recipe(
        folder=transformer,
        pooling=pooling,
        include_prompt=include_prompt,
        normalize=normalize,
        max_seq_length=_max_seq_length(transformer, limits, tokenizer),
        do_lower_case=bool(limits.get("do_lower_case")),
        cut_left=tokenizer.get("truncation_side") == "left",
        prompts={name: text or "" for name, text in prompts.items()},
        default_prompt_name=settings.get("default_prompt_name"),
        similarity=similarity if similarity in SIMILARITIES else "cosine",
        truncate_dim=truncate_dim if isinstance(truncate_dim, int) else None,
    )


def _max_seq_length(folder: Path, limits: dict[str, Any], tokenizer: dict[str, Any]) -> int | None:
    """Return the limit of the model, else of its tokenizer; one without a limit gives a number of 30 digits."""
    for name, key, content in (
        ("sentence_bert_config.json", "max_seq_length", limits),
        ("tokenizer_config.json", "model_max_length", tokenizer),
    ):
        value = content.get(key)
        if value is None:
            continue
        if not isinstance(value, (int, float)) or not 1 <= value < float("inf"):
            raise CheckpointError(f"{folder / name}: {key} must be a positive number, found {value!r}")
        return int(value)
    return None


def _read_steps(folder: Path) -> tuple[tuple[str, ...], bool, bool]:
    """Read from ``modules.json`` the poolings, whether they see the prompt, and whether the result is normalised."""
    modules = read_modules(folder)
    if not modules:
        return ("mean",), True, False
    kinds = [kind for kind, _ in modules]
    for kind in kinds:
        if kind not in ("Transformer", "Pooling", "Normalize"):
            supported = "supported: Transformer, Pooling, Normalize"
            raise CheckpointError(f"{folder / 'modules.json'}: module {kind!r} is not supported; {supported}")
    if kinds[:2] != ["Transformer", "Pooling"] or set(kinds[2:]) - {"Normalize"}:
        order = "expected Transformer, Pooling, then Normalize or nothing"
        raise CheckpointError(f"{folder / 'modules.json'}: modules {', '.join(kinds)}; {order}")
    path = modules[1][1] / "config.json"
    content = read_json(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(content).__name__}")
    modes = content.get("pooling_mode")
    if modes is None:
        modes = [mode for key, mode in _LEGACY_POOLINGS.items() if content.get(key)] or ["mean"]
    modes = [modes] if isinstance(modes, str) else modes
    if not isinstance(modes, list) or not modes or any(mode not in POOLINGS for mode in modes):
        raise CheckpointError(f"{path}: pooling {modes!r} is not supported; supported: {', '.join(POOLINGS)}")
    return tuple(modes), bool(content.get("include_prompt", True)), "Normalize" in kinds


def _object(path: Path) -> dict[str, Any]:
    """Read a JSON object; an absent file is an empty one."""
    if not path.exists():
        return {}
    content = read_json(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content
