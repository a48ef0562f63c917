"""What the kernels and the encoder are measured with, and against.

The tolerance of the tests is the gate before every timing: ``tests/compare.py`` is imported from there.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT / "tests") not in sys.path:
    sys.path.append(str(ROOT / "tests"))
