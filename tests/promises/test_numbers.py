"""NaN and infinity stay in their row, denormal numbers give right results, bits never vary, errors are small."""

from typing import Any

import numpy as np
import pytest

import fastattn
from soak._child import missing
from soak._digest import LAYERS, digest, elsewhere
from soak._poison import FULL_NAN, encoder_cases, op_cases
from soak._sweep import FUNCTIONS, Function, sweep
from tests.support.cases import normal

pytestmark = pytest.mark.jit


def test_nan_and_infinity_stay_in_their_row_and_head() -> None:
    cases = list(op_cases(3))
    assert len(cases) > 200
    assert not {what for what, well in cases if not well}


def test_nan_and_infinity_stay_in_their_sequence_in_every_schedule() -> None:
    cases = list(encoder_cases(1))
    assert len(cases) == 6 * 4 * 10
    assert not {what for what, well in cases if not well}


@pytest.mark.parametrize("bits", [0x7FC00000, 0xFFC00000, 0x7F800001, 0xFF812345, 0x7FFFFFFF, 0xFFFFFFFF])
def test_no_nan_becomes_a_number(bits: int) -> None:
    """NaN stays NaN for every payload, and at every place in a row."""
    bad = np.array(bits, np.uint32).view(np.float32)
    for n in (1, 5, 16, 40):
        for place in {0, n // 2, n - 1}:
            x = normal(3, n)
            x.view(np.uint32)[1, place] = bad.view(np.uint32)
            for op in (fastattn.softmax, fastattn.layer_norm, fastattn.rms_norm):
                assert np.isnan(op(x)).tolist() == [[False] * n, [True] * n, [False] * n]
            for form in ("none", "tanh"):
                assert np.array_equal(np.isnan(fastattn.gelu(x, approximate=form)), np.isnan(x))
            q = np.ascontiguousarray(x[:, None, :, None])
            found = fastattn.scaled_dot_product_attention(q, q, q, softcap=3.0)
            assert np.isnan(found).all(axis=(1, 2, 3)).tolist() == [False, True, False]


@pytest.mark.parametrize("scale", [2.0**-140, 2.0**-149, 2.0**-130])
def test_denormal_numbers(scale: float) -> None:
    """Denormal numbers are not flushed to 0: n roundings err by at most n halves of the smallest float32."""
    small = np.float32(scale)
    x, weight, bias = np.round(normal(9, 50) * 9) * small, normal(23, 50), normal(23) * small

    def near(found: Any, truth: Any, roundings: float) -> None:
        assert truth.any() and np.abs(found - truth).max() <= roundings * 2.0**-150

    wide = x.astype(np.float64)
    near(fastattn.gelu(x), wide / 2, 2)
    near(fastattn.gelu(x, approximate="tanh"), wide / 2, 2)
    near(fastattn.linear(x, weight, bias), wide @ weight.T.astype(np.float64) + bias, 52)
    near(fastattn.linear(weight, x), weight.astype(np.float64) @ wide.T, 52)
    near(fastattn.layer_norm(x, eps=1.0), wide - wide.mean(-1, keepdims=True), 60)
    near(fastattn.rms_norm(x, eps=1.0), wide, 2)
    assert np.array_equal(fastattn.softmax(x), np.full_like(x, np.float32(1 / 50)))
    q, k, v = normal(3, 1, 2, 30, 16)
    v = np.round(v * 9) * small
    truth = fastattn.reference.scaled_dot_product_attention(*(a.astype(np.float64) for a in (q, k, v)))
    near(fastattn.scaled_dot_product_attention(q, k, v), truth, 40)
    # Normal factors with denormal products.
    a, b = normal(9, 50) * np.float32(2.0**-66), normal(23, 50) * np.float32(2.0**-66)
    near(fastattn.linear(a, b), a.astype(np.float64) @ b.T.astype(np.float64), 52)


def test_small_weights_of_softmax() -> None:
    """Softmax weights above the smallest normal float32 are exact to rounding, whatever smaller weights the row has."""
    x = np.linspace(-120, 0, 481, dtype=np.float32)
    truth = np.exp(x.astype(np.float64)) / np.exp(x.astype(np.float64)).sum()
    found = fastattn.softmax(x)
    there = truth >= 2.0**-125
    assert np.abs(found[there] / truth[there] - 1).max() < 2e-6
    assert (found[~there] <= 2.0**-124).all()


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.name)
def test_errors(function: Function) -> None:
    """Errors are bounded in ulp; `benchmarks/results/errors.md` has the sweep of every float32, beside the peers'."""
    bounds = {
        "exp, x <= 0": [1.1, 1.1, 1.1],
        "normal tail, 0 <= x <= 13": [2.2, 25, 1e4, 3e5, 5e6],
        "tanh": [1.1],
        "sigmoid": [2.7],
        "silu": [3.2],
        "gelu": [2.0**24, 1.2e4, 20, 2.4, 1.5],
        "gelu, tanh form": [250, 40, 14, 3, 2],
    }
    swept = sweep(function, 1 / 4099, peers=False)
    assert not swept.misplaced["fastattn"]
    for band, bound in zip(swept.bands, bounds[function.name], strict=True):
        assert band.ulp["fastattn"] <= bound, band


def test_layer_norm_far_from_0() -> None:
    """Rounding of the mean, which grows with the mean, is corrected in the result."""
    for n in (17, 128, 384):
        x = normal(200, n) + np.float32(1000)
        wide = x.astype(np.float64)
        wide -= wide.mean(-1, keepdims=True)
        truth = wide / np.sqrt((wide * wide).mean(-1, keepdims=True) + 1e-5)
        assert np.abs(fastattn.layer_norm(x) - truth).max() < 4 * np.spacing(np.float32(np.abs(truth).max()))


def test_the_same_bits_again() -> None:
    assert digest() == digest()


@pytest.mark.parametrize(("layer", "threads"), list(zip(LAYERS, (1, 2, 2), strict=True)))
def test_the_same_bits_in_every_process_and_threading_layer(layer: str, threads: int) -> None:
    if reason := missing(layer):
        pytest.skip(reason)
    assert elsewhere(layer, threads) == (digest(), layer)


def test_the_sweep_notices(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sweep detects a small relative error and a lost NaN."""
    tanh = next(f for f in FUNCTIONS if f.name == "tanh")

    def off(x: Any, out: Any) -> None:
        tanh.ours(x, out)
        np.multiply(out, np.float32(1 + 4e-7), out=out)
        out[np.isnan(out)] = 0

    swept = sweep(tanh._replace(ours=off), 1 / 40009, peers=False)
    assert swept.bands[0].ulp["fastattn"] > 3
    assert swept.misplaced["fastattn"]
    assert np.isnan(FULL_NAN)
