"""Share of the cores' time that a process can get now."""

from __future__ import annotations

import statistics
import subprocess
import sys

from benchmarks.suite.summary import QUIET

SECONDS = 2.0
_SPIN = """
import time
began, used = time.perf_counter(), time.process_time()
while time.perf_counter() - began < {seconds}: pass
print((time.process_time() - used) / (time.perf_counter() - began))
"""


def share_of_cores(threads: int) -> float:
    """Return the mean share of a core that one busy process for each thread gets."""
    running = [
        subprocess.Popen([sys.executable, "-c", _SPIN.format(seconds=SECONDS)], stdout=subprocess.PIPE, text=True)
        for _ in range(threads)
    ]
    return statistics.mean(float(process.communicate()[0]) for process in running)


def refusal(share: float) -> str:
    """Return why the suite does not start; empty on a quiet machine."""
    if share >= QUIET:
        return ""
    return (
        f"This machine is busy: {SECONDS:g} s of work got {100 * share:.0f} % of the cores' time, and a run that gets less than "
        f"{100 * QUIET:.0f} % says little. End the other work, or measure with --anyway: make bench BENCH=--anyway"
    )
