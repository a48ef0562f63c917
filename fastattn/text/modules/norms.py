"""Normalize and LayerNorm, which normalise embeddings, and Dropout, which does nothing."""

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
    """Identity: dropout acts only in training, and a fastattn model does not train.

    Parameters
    ----------
    dropout : float
        Stored in ``config.json``; has no effect.
    """

    kind = "Dropout"

    def __init__(self, dropout: float = 0.2) -> None:
        self.dropout = dropout

    @classmethod
    def _load(cls, folder: Path) -> Dropout:
        """Read the module's folder."""
        return cls(read_object(folder / "config.json").get("dropout", 0.2))

    def get_config_dict(self) -> dict[str, Any]:
        """Return the content of ``config.json``.

        Returns
        -------
        dict of str to object
            Keys and values.
        """
        return {"dropout": self.dropout}


class LayerNorm(Module):
    """Layer norm of embeddings, eps 1e-5.

    Parameters
    ----------
    dimension : int
        Channels C.
    weight : float, (C,), optional
        Gain; ones by default.
    bias : float, (C,), optional
        Shift; zeros by default.

    Raises
    ------
    ValueError
        `weight` or `bias` has the wrong shape.

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
        """Check the width of the input, and record the width of the output in `widths`."""
        check_width("LayerNorm", SENTENCE, self.dimension, widths)

    def _apply(self, features: Features, offsets: NDArray[np.int64], prompt_tokens: int) -> None:
        """Write the output into `features`."""
        features[SENTENCE] = layer_norm(features[SENTENCE], self.weight, self.bias)

    def get_embedding_dimension(self) -> int:
        """Return the number of channels.

        Returns
        -------
        int
            C.
        """
        return self.dimension

    def get_config_dict(self) -> dict[str, Any]:
        """Return the content of ``config.json``.

        Returns
        -------
        dict of str to object
            Keys and values.
        """
        return {"dimension": self.dimension}

    def _tensors(self) -> dict[str, Array]:
        """Return the weights by their names in ``model.safetensors``."""
        return {"norm.weight": self.weight, "norm.bias": self.bias}


class Normalize(Module):
    """Normalises each row to unit length.

    Parameters
    ----------
    module_input_name : str
        Name of the array to normalise; without such an array the module does nothing.
    module_output_name : str, optional
        Name of the array that the module writes; by default `module_input_name`.
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
        """Check the width of the input, and record the width of the output in `widths`."""
        if self.module_input_name in widths:
            widths[self.module_output_name] = widths[self.module_input_name]

    def _apply(self, features: Features, offsets: NDArray[np.int64], prompt_tokens: int) -> None:
        """Write the output into `features`."""
        if self.module_input_name in features:
            features[self.module_output_name] = normalize(features[self.module_input_name])

    def get_config_dict(self) -> dict[str, Any]:
        """Return the content of ``config.json``.

        Returns
        -------
        dict of str to object
            Keys and values.
        """
        return {"module_input_name": self.module_input_name, "module_output_name": self.module_output_name}
