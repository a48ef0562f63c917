"""Every op and the whole encoder against the reference: error and speed."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastattn.cli.cases import MINILM, cases, ops
from fastattn.cli.terminal import error_in_eps, output
from fastattn.encoder.encoder import Encoder

__all__ = ["Comparison", "busy_cpus", "compare", "print_comparisons", "take_turns"]

_RUNS = 5


class Comparison(NamedTuple):
    """An op in one form, or the encoder: errors in float32 eps relative to the largest true value, and median seconds."""

    label: str
    shape: str
    error: float
    reference_error: float
    seconds: float
    reference_seconds: float


def busy_cpus() -> float:
    """Return how many CPUs work, on average of the last minute; 0 where the system does not tell."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return 0.0


def print_comparisons() -> None:
    """Print a line for each op and the encoder."""
    output.print(f"{'':<21} {'':>16} {'error, eps':>13} {'time, ms':>17}", style="bold")
    output.print(f"{'':<21} {'shape':>16} {'ours':>6} {'NumPy':>6} {'ours':>8} {'NumPy':>8} {'ratio':>7}", style="bold")
    for found in compare():
        ratio = found.reference_seconds / found.seconds
        output.print(
            f"{found.label:<21} {found.shape:>16} {found.error:6.2f} {found.reference_error:6.2f} "
            f"{found.seconds * 1e3:8.2f} {found.reference_seconds * 1e3:8.2f} {ratio:6.1f}x"
        )
    output.print("error: max|result - truth| / (eps max|truth|), eps = 2^-23", style="dim")
    output.print("NumPy: the reference, written to be read and not to be fast", style="dim")


def take_turns(runs: Sequence[Callable[[], object]], times: list[list[float]]) -> None:
    """Call each run once, and append its seconds to its times."""
    for run, seconds in zip(runs, times, strict=True):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)


def compare() -> Iterator[Comparison]:
    """Compare every op, then the encoder, with the reference.

    The reference in float64 gives the true values; the speed is compared with the reference in float32, in alternating runs.
    """
    from fastattn import reference

    kernels = ops()
    for case in cases():
        definition = getattr(reference, case.op)
        truth = case.bound(definition, np.float64)()
        runs = case.bound(kernels[case.op]), case.bound(definition)
        yield Comparison(case.label, case.shape, *_measure(*runs, truth))
    yield _compare_encoder()


def _compare_encoder() -> Comparison:
    """Compare a six-layer encoder with random weights on four sequences of different lengths."""
    from fastattn import reference
    from fastattn.parameters import random_parameters

    parameters = random_parameters(MINILM, 0)
    encoder = Encoder(MINILM, parameters=parameters)
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 1000, (4, 128))
    mask = np.arange(128) < np.array([128, 100, 64, 17])[:, None]

    def theirs(dtype: DTypeLike = np.float32) -> Any:
        return reference.encoder({k: v.astype(dtype) for k, v in parameters.items()}, ids, mask, **MINILM.reference_options())

    truth = theirs(np.float64)
    return Comparison("encoder, 6 layers", "4x(17..128)x384", *_measure(lambda: encoder(ids, mask), theirs, truth))


def _measure(ours: Callable[[], Any], theirs: Callable[[], Any], truth: NDArray[np.float64]) -> tuple[float, float, float, float]:
    """Return both errors, then the median seconds of alternating runs."""
    errors = [error_in_eps(run(), truth) for run in (ours, theirs)]
    times: list[list[float]] = [[], []]
    for _ in range(_RUNS):
        take_turns((ours, theirs), times)
    return errors[0], errors[1], statistics.median(times[0]), statistics.median(times[1])
