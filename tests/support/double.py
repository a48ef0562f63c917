"""transformers in float64 throughout: it computes norms, angles and softmax in float32 whatever a model's dtype is."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch


@contextlib.contextmanager
def double() -> Iterator[None]:
    """Let what code calls float32 be float64."""
    names = {"float": torch.float64, "float32": torch.float64}
    before = {name: getattr(torch, name) for name in names}
    convert = torch.Tensor.float
    for name, dtype in names.items():
        setattr(torch, name, dtype)
    torch.Tensor.float = torch.Tensor.double
    try:
        yield
    finally:
        torch.Tensor.float = convert
        for name, dtype in before.items():
            setattr(torch, name, dtype)


def exact(module: Any) -> Any:
    """Return a model in float64, its rotary tables computed anew; call it, and run the model, inside `double`."""
    module = module.double()
    for part in module.modules():
        if type(part).__name__.endswith("RotaryEmbedding") and hasattr(part, "config"):
            type(part).__init__(part, part.config)
    return module
