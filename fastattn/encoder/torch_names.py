"""TorchNames: attributes and methods of torch's modules that programs use of any model, for a model that never trains."""

from __future__ import annotations

import sys
from typing import Any, TypeVar

import numpy as np

__all__ = ["Device", "TorchNames", "check_device"]

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
        """Return the model, which computes in float32.

        Returns
        -------
        model
            Itself.
        """
        self._dtype = np.dtype(np.float32)
        return self

    def to(self: Model, device: Any = None, *args: Any, **kwargs: Any) -> Model:
        """Return the model, which is on the CPU already.

        Parameters
        ----------
        device : {None, "cpu"}
            For compatibility; only the CPU is supported.
        *args
            Ignored, for compatibility.
        **kwargs
            Ignored, for compatibility.

        Returns
        -------
        model
            Itself.
        """
        check_device(device)
        return self

    def cpu(self: Model) -> Model:
        """Return the model, which is on the CPU already.

        Returns
        -------
        model
            Itself.
        """
        return self
