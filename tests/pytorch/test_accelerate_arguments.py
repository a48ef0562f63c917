"""accelerate: wrong arguments, and torch not installed."""

import sys
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fastattn  # noqa: E402

nn = torch.nn


def encoder() -> Any:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 24, batch_first=True), 2, enable_nested_tensor=False).eval()


@pytest.mark.parametrize(
    "what, error, words",
    [
        (np.zeros(3), TypeError, "module must be a torch.nn.Module, got ndarray; supported: encoders of transformers"),
        (None, TypeError, "got NoneType"),
        (nn.Linear(2, 2), ValueError, "Linear must hold a module to accelerate, found none of them; supported"),
        (nn.Sequential(nn.Linear(2, 2), nn.LSTM(2, 2)), ValueError, "Sequential must hold"),
        (torch.compile(encoder(), backend="eager"), ValueError, "found OptimizedModule: it is compiled"),
    ],
)
def test_bad_input(what: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        fastattn.accelerate(what)


def test_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    for call in (fastattn.accelerate, fastattn.restore, fastattn.Encoder.from_torch):
        with pytest.raises(ImportError, match=r"pip install 'fastattn\[torch\]'"):
            call(object())
