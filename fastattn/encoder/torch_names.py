"""TorchNames: attributes and methods of torch's modules that programs use of any model, for a model that never trains."""

from __future__ import annotations

import sys
from typing import Any, TypeVar

import numpy as np

__all__ = ["Device", "TorchNames", "check_device", "dtype_name"]

Model = TypeVar("Model", bound="TorchNames")


class Device(str):
    """A device name with an attribute ``type``, like ``torch.device``."""

    __slots__ = ()

    @property
    def type(self) -> str:
        """The device name."""
        return str(self)


def check_device(device: Any) -> None:
    """Raise a ValueError unless `device` is None or the CPU."""
    if device is not None and str(device) not in ("cpu", "cpu:0"):
        raise ValueError(f'device must be None or "cpu", got {str(device)!r}')


def dtype_name(dtype: Any) -> str:
    """Return the name of a dtype of torch or NumPy, which may be given as a str."""
    name = dtype if isinstance(dtype, str) else getattr(dtype, "__name__", str(dtype))
    return str(name).removeprefix("torch.")


def _is_dtype(given: Any) -> bool:
    """Tell whether an argument of `to` is a dtype, of torch or NumPy."""
    return type(given).__name__ == "dtype" or isinstance(given, (type, np.dtype))


class TorchNames:
    """Base class of models: names of torch's modules that make sense without torch."""

    training = False
    _dtype: np.dtype[Any] = np.dtype(np.float32)

    @property
    def device(self) -> Any:
        """The CPU: a ``torch.device`` if torch is loaded, else a str with an attribute ``type``."""
        torch = sys.modules.get("torch")
        return Device("cpu") if torch is None else torch.device("cpu")

    @property
    def dtype(self) -> Any:
        """Dtype of the results: torch's if torch is loaded, else NumPy's."""
        torch = sys.modules.get("torch")
        return self._dtype if torch is None else getattr(torch, self._dtype.name)

    def eval(self: Model) -> Model:
        """Return the model, which never trains.

        Returns
        -------
        model
            Itself.
        """
        return self

    def train(self: Model, mode: bool = True) -> Model:
        """Return the model, which never trains.

        Parameters
        ----------
        mode : bool
            Must be false.

        Returns
        -------
        model
            Itself.

        Raises
        ------
        NotImplementedError
            `mode` is true.
        """
        if mode:
            raise NotImplementedError("a fastattn model does not train: train with torch, and load the saved folder here")
        return self

    def requires_grad_(self: Model, requires_grad: bool = True) -> Model:
        """Return the model, which has no gradients.

        Parameters
        ----------
        requires_grad : bool
            Must be false.

        Returns
        -------
        model
            Itself.

        Raises
        ------
        NotImplementedError
            `requires_grad` is true.
        """
        if requires_grad:
            raise NotImplementedError("a fastattn model has no gradients: requires_grad must be False")
        return self

    def float(self: Model) -> Model:
        """Return results as float32 from now on; the computation keeps its precision.

        Returns
        -------
        model
            Itself.
        """
        self._dtype = np.dtype(np.float32)
        return self

    def bfloat16(self: Model) -> Model:
        """Return the model if it was loaded in bfloat16.

        Returns
        -------
        model
            Itself.

        Raises
        ------
        NotImplementedError
            It was loaded in another precision.
        """
        precision = getattr(self, "precision", "float32")
        if precision != "bfloat16":
            raise NotImplementedError(
                f'precision is fixed when a model is loaded, this one\'s as {precision}: load it with precision="bfloat16"'
            )
        return self

    def to(self: Model, device: Any = None, *args: Any, **kwargs: Any) -> Model:
        """Return the model, which is on the CPU already.

        Parameters
        ----------
        device : {None, "cpu"}, or a dtype
            Only the CPU is supported.
        *args
            A dtype, as in torch; other values are ignored, for compatibility.
        **kwargs
            ``dtype``, as in torch; others are ignored, for compatibility.

        Returns
        -------
        model
            Itself, after the method `float`, `half` or `bfloat16` for a dtype of that name.

        Raises
        ------
        NotImplementedError
            The model has no such method, or was not loaded in bfloat16.
        """
        if not _is_dtype(device):
            check_device(device)
        dtypes = [given for given in (device, *args) if _is_dtype(given)]
        for dtype in dtypes if kwargs.get("dtype") is None else [*dtypes, kwargs["dtype"]]:
            name = dtype_name(dtype)
            method = {"float32": "float", "float16": "half", "bfloat16": "bfloat16"}.get(name, "")
            if not hasattr(self, method):
                raise NotImplementedError(f"dtype {name} is not supported: {type(self).__name__} gives float32")
            getattr(self, method)()
        return self

    def cpu(self: Model) -> Model:
        """Return the model, which is on the CPU already.

        Returns
        -------
        model
            Itself.
        """
        return self
