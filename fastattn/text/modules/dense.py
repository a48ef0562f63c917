"""Dense: a linear layer with an activation, before or after pooling."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastattn.checkpoint.folder import CheckpointError
from fastattn.kernels.ops.linear import linear
from fastattn.text.modules.activations import activation_name, find_activation, resolve_activation
from fastattn.text.modules.module import (
    SENTENCE,
    Array,
    Features,
    Module,
    as_array,
    as_size,
    check_width,
    flag,
    names,
    read_config,
    read_weights,
)

__all__ = ["Dense"]


class Dense(Module):
    """Linear layer with an activation: ``activation(x W^T + b)``, and ``+ x`` or ``+ x R^T`` with `use_residual`.

    Parameters
    ----------
    in_features : int
        Channels of the input.
    out_features : int
        Channels of the output.
    bias : bool
        Whether the layer has a bias.
    activation_function : str or callable, optional
        Name of an activation of torch, function of an array, or torch module; None is the identity.
    init_weight : float, (C_out, C_in)
        W.
    init_bias : float, (C_out,), optional
        b; zeros by default.
    module_input_name : str
        Name of the array that the module reads.
    module_output_name : str, optional
        Name of the array that the module writes; by default `module_input_name`.
    use_residual : bool
        Add the input.
    residual_weight : float, (C_out, C_in), optional
        R, required if input and output differ in width.

    Raises
    ------
    ValueError
        A weight is missing or has the wrong shape.
    """

    kind = "Dense"

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        activation_function: str | Callable[[Array], Array] | None = "Tanh",
        init_weight: ArrayLike | None = None,
        init_bias: ArrayLike | None = None,
        module_input_name: str = SENTENCE,
        module_output_name: str | None = None,
        use_residual: bool = False,
        residual_weight: ArrayLike | None = None,
    ) -> None:
        shape = (out_features, in_features)
        if init_weight is None:
            raise ValueError(f"init_weight must be an array of shape {shape}, got None: there are no random weights")
        self.in_features, self.out_features, self.bias = in_features, out_features, bias
        self.activation_function = "Identity" if activation_function is None else activation_function
        # Only a check: the returned function may not be picklable.
        resolve_activation(self.activation_function)
        self.weight = as_array("init_weight", init_weight, shape)
        self.bias_weight = None
        if bias:
            self.bias_weight = as_array("init_bias", np.zeros(out_features) if init_bias is None else init_bias, (out_features,))
        self.module_input_name = module_input_name
        self.module_output_name = module_output_name or module_input_name
        self.use_residual = use_residual
        self.residual = None
        if use_residual and in_features != out_features:
            if residual_weight is None:
                raise ValueError(f"residual_weight must be an array of shape {shape} where the widths differ")
            self.residual = as_array("residual_weight", residual_weight, shape)

    @classmethod
    def _load(cls, folder: Path) -> Dense:
        """Read the module's folder."""
        path = folder / "config.json"
        content = read_config(path)
        size_in, size_out = (as_size(path, key, content.get(key)) for key in ("in_features", "out_features"))
        bias, residual = flag(content, "bias"), bool(content.get("use_residual"))
        name = content.get("activation_function", "torch.nn.modules.activation.Tanh")
        if not isinstance(name, str):
            raise CheckpointError(f"{path}: activation_function must be a name, found {name!r}")
        try:
            activation = find_activation(name, "Tanh")
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}") from error
        read = read_weights(folder)
        source, target = names(path, content)
        return cls(
            size_in,
            size_out,
            bias,
            activation,
            read("linear.weight", (size_out, size_in)),
            read("linear.bias", (size_out,)) if bias else None,
            source,
            target,
            residual,
            read("residual.weight", (size_out, size_in)) if residual and size_in != size_out else None,
        )

    def learn(self) -> None:
        """Give the module arrays of its own, which may be changed in place."""
        self.weight = self.weight.copy()
        self.bias_weight = None if self.bias_weight is None else self.bias_weight.copy()
        self.residual = None if self.residual is None else self.residual.copy()

    def _width(self, widths: dict[str, int]) -> None:
        """Check the width of the input, and record the width of the output in `widths`."""
        check_width("Dense", self.module_input_name, self.in_features, widths)
        widths[self.module_output_name] = self.out_features

    def _apply(self, features: Features, offsets: NDArray[np.int64], prompt_tokens: int) -> None:
        """Write the output into `features`."""
        activation = resolve_activation(self.activation_function)
        x = np.ascontiguousarray(features[self.module_input_name])
        result = np.asarray(activation(linear(x, self.weight, self.bias_weight)), np.float32)
        if self.use_residual:
            result = result + (x if self.residual is None else linear(x, self.residual))
        features[self.module_output_name] = result

    def get_embedding_dimension(self) -> int:
        """Return the number of channels of the output.

        Returns
        -------
        int
            C_out.
        """
        return self.out_features

    def get_config_dict(self) -> dict[str, Any]:
        """Return the content of ``config.json``.

        Returns
        -------
        dict of str to object
            Keys and values.
        """
        content = {
            "in_features": self.in_features,
            "out_features": self.out_features,
            "bias": self.bias,
            "activation_function": activation_name(self.activation_function),
            "module_input_name": self.module_input_name,
            "module_output_name": self.module_output_name,
        }
        # Older versions of sentence-transformers do not know the key, so it is written only if true.
        return {**content, "use_residual": True} if self.use_residual else content

    def _tensors(self) -> dict[str, Array]:
        """Return the weights by their names in ``model.safetensors``."""
        named = {"linear.weight": self.weight, "linear.bias": self.bias_weight, "residual.weight": self.residual}
        return {name: array for name, array in named.items() if array is not None}
