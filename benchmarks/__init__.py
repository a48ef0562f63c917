"""Benchmarks of the kernels and the encoder: against the reference in `ops`, against other libraries in `suite`.

Before a timing, the result must pass a gate: for our kernels the tolerance of the tests, `tests.support.tolerance`.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
