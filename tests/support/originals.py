"""Comparison of an accelerated module with its original: in float64 for the truth, in float32 for the yardstick."""

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from tests.support.tolerance import assert_matches_reference


def widened(value: Any) -> Any:
    """Return float32 tensors as float64, and other values unchanged."""
    import torch

    return value.double() if isinstance(value, torch.Tensor) and value.dtype == torch.float32 else value


@contextmanager
def plain_attention() -> Iterator[None]:
    """Disable torch.nn's fast path, which reads an additive mask as boolean and warns of nested tensors."""
    import torch

    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(True)


def check_against(original: Any, found: Any, *args: Any, select: Callable[[Any], Any] = lambda out: out, **kwargs: Any) -> None:
    """Compare a result with the original's; `select` takes the compared part of each."""
    import torch

    with torch.no_grad(), plain_attention(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Support for mismatched")
        wide = copy.deepcopy(original).double()
        truth = wide(*map(widened, args), **{name: widened(value) for name, value in kwargs.items()})
        yardstick = original(*args, **kwargs)
    ours, truth, yardstick = (np.ascontiguousarray(select(out)) for out in (found, truth, yardstick))
    assert_matches_reference(ours, truth, yardstick)
