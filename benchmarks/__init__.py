"""What the kernels and the encoder are measured with, and against.

The tolerance of the tests, `tests.support.tolerance`, is the gate before every timing.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
