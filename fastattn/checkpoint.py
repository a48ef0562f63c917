"""Reads a model folder: its configuration and its tensors, under the names that the encoder uses.

A family of models is one table of names (`FAMILIES`).  Nothing in a folder is executed: weights are read from
safetensors only.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastattn.config import EncoderConfig
from fastattn.folder import CheckpointError, confined, read_json, transformer_folder

__all__ = ["CheckpointError", "read_encoder"]


class Family(NamedTuple):
    """How the checkpoints of one ``model_type`` name things."""

    prefixes: tuple[str, ...]
    fields: Mapping[str, str]
    required: Mapping[str, Any]
    embeddings: Mapping[str, str]
    layer: str
    layers: Mapping[str, str]


# What EncoderConfig calls a thing -> what config.json calls it; the encoder's name of a tensor -> the checkpoint's.
FAMILIES: dict[str, Family] = {
    "bert": Family(
        prefixes=("", "bert."),
        fields={
            "num_layers": "num_hidden_layers",
            "num_heads": "num_attention_heads",
            "hidden_dim": "hidden_size",
            "ff_dim": "intermediate_size",
            "vocab_size": "vocab_size",
            "max_positions": "max_position_embeddings",
            "type_vocab_size": "type_vocab_size",
        },
        required={"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False},
        embeddings={
            "token": "embeddings.word_embeddings",
            "position": "embeddings.position_embeddings",
            "token_type": "embeddings.token_type_embeddings",
            "layer_norm": "embeddings.LayerNorm",
        },
        layer="encoder.layer.{}.",
        layers={
            "attention.query": "attention.self.query",
            "attention.key": "attention.self.key",
            "attention.value": "attention.self.value",
            "attention.output": "attention.output.dense",
            "attention.layer_norm": "attention.output.LayerNorm",
            "feed_forward.input": "intermediate.dense",
            "feed_forward.output": "output.dense",
            "feed_forward.layer_norm": "output.LayerNorm",
        },
    ),
}

# The EncoderConfig fields that give each weight its shape; a bias has the first.
_SHAPES: dict[str, tuple[str, ...]] = {
    "token": ("vocab_size", "hidden_dim"),
    "position": ("max_positions", "hidden_dim"),
    "token_type": ("type_vocab_size", "hidden_dim"),
    "layer_norm": ("hidden_dim",),
    "attention.query": ("hidden_dim", "hidden_dim"),
    "attention.key": ("hidden_dim", "hidden_dim"),
    "attention.value": ("hidden_dim", "hidden_dim"),
    "attention.output": ("hidden_dim", "hidden_dim"),
    "attention.layer_norm": ("hidden_dim",),
    "feed_forward.input": ("ff_dim", "hidden_dim"),
    "feed_forward.output": ("hidden_dim", "ff_dim"),
    "feed_forward.layer_norm": ("hidden_dim",),
}
_WITHOUT_BIAS = ("token", "position", "token_type")

_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
_LEGACY = {"weight": "gamma", "bias": "beta"}
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def read_encoder(folder: str | os.PathLike[str]) -> tuple[EncoderConfig, dict[str, NDArray[np.float32]]]:
    """Read the encoder of a Hugging Face or sentence-transformers folder: ``config.json`` and ``*.safetensors``.

    Tensors that the encoder does not have (pooler, heads, position ids) are left alone.

    Parameters
    ----------
    folder : str or path
        Holds ``config.json``, or a ``modules.json`` that says which of its folders does.

    Returns
    -------
    config : EncoderConfig
        What ``config.json`` says.
    parameters : dict of str to float32 ndarray
        The tensors under the encoder's names.  float32 tensors are private views of the mapped file: writing to one
        does not change the file.  Others are converted.

    Raises
    ------
    FileNotFoundError
        The folder, ``config.json`` or the weights are missing.
    CheckpointError
        A file is damaged, the architecture or an option of it is not supported, or a tensor is missing, has the wrong
        shape or is not floating point.
    """
    folder = transformer_folder(Path(folder))
    family, config = _read_config(folder / "config.json")
    tensors = _Tensors(_weight_files(folder))
    return config, {
        name: tensors.read(sources, tuple(getattr(config, field) for field in fields))
        for name, sources, fields in _names(family, config)
    }


def _read_config(path: Path) -> tuple[Family, EncoderConfig]:
    """Read ``config.json``."""
    values = read_json(path)
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(values).__name__}")
    model_type = values.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise CheckpointError(f"{path}: model_type {model_type!r} is not supported; supported: {', '.join(FAMILIES)}")
    family = FAMILIES[model_type]
    for key, expected in family.required.items():
        if values.get(key, expected) != expected:
            raise CheckpointError(f"{path}: {key} {values[key]!r} is not supported; supported: {expected!r}")
    fields: dict[str, Any] = {}
    for field, key in family.fields.items():
        value = values.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            found = repr(value) if key in values else "nothing"
            raise CheckpointError(f"{path}: {key} must be a positive integer, found {found}")
        fields[field] = value
    activation = values.get("hidden_act", "gelu")
    if not isinstance(activation, str) or activation not in _ACTIVATIONS:
        supported = ", ".join(_ACTIVATIONS)
        raise CheckpointError(f"{path}: hidden_act {activation!r} is not supported; supported: {supported}")
    numbers = {"layer_norm_eps": 1e-12, "hidden_dropout_prob": 0.0}
    for key, default in numbers.items():
        numbers[key] = values.get(key, default)
        if not isinstance(numbers[key], (int, float)) or isinstance(numbers[key], bool):
            raise CheckpointError(f"{path}: {key} must be a number, found {numbers[key]!r}")
    try:
        config = EncoderConfig(
            **fields,
            dropout=numbers["hidden_dropout_prob"],
            activation=_ACTIVATIONS[activation],
            layer_norm_eps=numbers["layer_norm_eps"],
            positions="learned",
        )
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return family, config


def _names(family: Family, config: EncoderConfig) -> Iterator[tuple[str, list[str], tuple[str, ...]]]:
    """Yield for each tensor the encoder's name, the names it may have in the file, and the fields of its shape."""
    groups = [("embeddings.", "", family.embeddings)]
    groups += [(f"layers.{i}.", family.layer.format(i), family.layers) for i in range(config.num_layers)]
    for ours, theirs, stems in groups:
        for stem, source in stems.items():
            for part in ("weight",) if stem in _WITHOUT_BIAS else ("weight", "bias"):
                endings = (part, _LEGACY[part]) if stem.endswith("layer_norm") else (part,)
                sources = [f"{p}{theirs}{source}.{ending}" for p in family.prefixes for ending in endings]
                yield f"{ours}{stem}.{part}", sources, _SHAPES[stem] if part == "weight" else _SHAPES[stem][:1]


def _weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a folder."""
    single = folder / "model.safetensors"
    if single.exists():
        return [single]
    index = folder / "model.safetensors.index.json"
    if index.exists():
        content = read_json(index)
        weight_map = content.get("weight_map") if isinstance(content, dict) else None
        if not isinstance(weight_map, dict) or not weight_map:
            raise CheckpointError(f"{index}: has no weight_map")
        return [confined(folder, name, index) for name in dict.fromkeys(weight_map.values())]
    if (folder / "pytorch_model.bin").exists():
        raise CheckpointError(
            f"{folder / 'pytorch_model.bin'}: refused, because a pickle can run any code when it is read; with "
            "transformers installed, AutoModel.from_pretrained(folder).save_pretrained(folder) writes model.safetensors"
        )
    raise FileNotFoundError(f"{folder}: no model.safetensors and no model.safetensors.index.json")


class _Tensors:
    """The tensors of safetensors files, mapped into memory."""

    def __init__(self, files: list[Path]) -> None:
        self.where = str(files[0] if len(files) == 1 else files[0].parent)
        self.headers: dict[str, tuple[Path, mmap.mmap, int, dict[str, Any]]] = {}
        for path in files:
            mapped, start, header = _map(path)
            self.headers.update({name: (path, mapped, start, entry) for name, entry in header.items()})

    def read(self, names: list[str], shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return the first of these tensors that exists, as float32."""
        name = next((name for name in names if name in self.headers), None)
        if name is None:
            raise CheckpointError(f"{self.where}: tensor {names[0]!r} is missing")
        path, mapped, start, entry = self.headers[name]
        if tuple(entry["shape"]) != shape:
            seen = tuple(entry["shape"])
            raise CheckpointError(f"{path}: tensor {name!r} has shape {seen}, expected {shape}")
        if entry["dtype"] not in _DTYPES:
            seen = entry["dtype"]
            raise CheckpointError(f"{path}: tensor {name!r} has dtype {seen}, supported: {', '.join(_DTYPES)}")
        offset = start + entry["data_offsets"][0]
        raw: NDArray[Any] = np.ndarray(shape, _DTYPES[entry["dtype"]], buffer=mapped, offset=offset)
        if entry["dtype"] == "BF16":
            return (raw.astype(np.uint32) << 16).view(np.float32)
        return np.require(raw, np.float32, ("ALIGNED",))


def _map(path: Path) -> tuple[mmap.mmap, int, dict[str, Any]]:
    """Map a safetensors file; return it, where its data begin, and its header."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with safe_open(path, framework="numpy"):
            pass
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not a complete safetensors file: {error}") from error
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    length = int.from_bytes(mapped[:8], "little")
    header: dict[str, Any] = json.loads(mapped[8 : 8 + length])
    header.pop("__metadata__", None)
    return mapped, 8 + length, header
