"""Modules that scale embeddings: to unit length, to unit variance, or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastattn.checkpoint.folder import read_object
from fastattn.encoder.pooling import normalize
from fastattn.kernels.ops.layer_norm import layer_norm
from fastattn.text.modules.module import (
    SENTENCE,
    Array,
    Features,
    Module,
    as_array,
    as_size,
    check_width,
    names,
    read_config,
    read_weights,
)

__all__ = ["Dropout", "LayerNorm", "Normalize"]


class Dropout(Module):
    """Nothing: models here do not train.

    Parameters
    ----------
    dropout : float
        For compatibility.
    """

    kind = "Dropout"

    def __init__(self, dropout: float = 0.2) -> None:
        self.dropout = dropout

    @classmethod
    def _load(cls, folder: Path) -> Dropout:
        """Read the module's folder."""
        return cls(read_object(folder / "config.json").get("dropout", 0.2))

    def get_config_dict(self) -> dict[str, Any]:
        """Return what ``config.json`` says.

        Returns
        -------
        dict of str to object
            Its contents.
        """
        return {"dropout": self.dropout}


class LayerNorm(Module):
    """Layer norm of embeddings, eps 1e-5.

    Parameters
    ----------
    dimension : int
        Channels C.
    weight : float, (C,), optional
        Ones by default.
    bias : float, (C,), optional
        Zeros by default.

    Raises
    ------
    ValueError
        A shape is wrong.

    References
    ----------
    Ba et al. 2016, arXiv:1607.06450, section 3.
    """

    kind = "LayerNorm"

    def __init__(self, dimension: int, weight: ArrayLike | None = None, bias: ArrayLike | None = None) -> None:
        self.dimension = dimension
        self.weight = as_array("weight", np.ones(dimension) if weight is None else weight, (dimension,))
        self.bias = as_array("bias", np.zeros(dimension) if bias is None else bias, (dimension,))

    @classmethod
    def _load(cls, folder: Path) -> LayerNorm:
        """Read the module's folder."""
        path = folder / "config.json"
        size = as_size(path, "dimension", read_config(path).get("dimension"))
        read = read_weights(folder)
        return cls(size, read("norm.weight", (size,)), read("norm.bias", (size,)))

    def _width(self, widths: dict[str, int]) -> None:
        """Write the width of the output under its name, after a check of the input's."""
        check_width("LayerNorm", SENTENCE, self.dimension, widths)

    def _apply(self, features: Features, offsets: NDArray[np.int64], prompt_tokens: int) -> None:
        """Add the output to the features."""
        features[SENTENCE] = layer_norm(features[SENTENCE], self.weight, self.bias)

    def get_embedding_dimension(self) -> int:
        """Return the channels.

        Returns
        -------
        int
            C.
        """
        return self.dimension

    def get_config_dict(self) -> dict[str, Any]:
        """Return what ``config.json`` says.

        Returns
        -------
        dict of str to object
            Its contents.
        """
        return {"dimension": self.dimension}

    def _tensors(self) -> dict[str, Array]:
        """Return the weights by their names in ``model.safetensors``."""
        return {"norm.weight": self.weight, "norm.bias": self.bias}


class Normalize(Module):
    """Divides each row by its length.

    Parameters
    ----------
    module_input_name : str
        What is read; nothing is done where it is not there.
    module_output_name : str, optional
        What is written, by default the same.
    """

    kind = "Normalize"

    def __init__(self, module_input_name: str = SENTENCE, module_output_name: str | None = None) -> None:
        self.module_input_name = module_input_name
        self.module_output_name = module_output_name or module_input_name

    @classmethod
    def _load(cls, folder: Path) -> Normalize:
        """Read the module's folder."""
        return cls(*names(folder / "config.json", read_object(folder / "config.json")))

    def _width(self, widths: dict[str, int]) -> None:
        """Write the width of the output under its name, after a check of the input's."""
        if self.module_input_name in widths:
            widths[self.module_output_name] = widths[self.module_input_name]

    def _apply(self, features: Features, offsets: NDArray[np.int64], prompt_tokens: int) -> None:
        """Add the output to the features."""
        if self.module_input_name in features:
            features[self.module_output_name] = normalize(features[self.module_input_name])

    def get_config_dict(self) -> dict[str, Any]:
        """Return what ``config.json`` says.

        Returns
        -------
        dict of str to object
            Its contents.
        """
        return {"module_input_name": self.module_input_name, "module_output_name": self.module_output_name}
