"""Whole steps of learning against torch: ``python -m benchmarks.training [--rounds N] [--threads N] [--cpu-time] [--only WORK]``,
or with ``--bf16`` products in bfloat16 against float32.

Each library runs in a process of its own; they take turns, and the first two steps are not counted.  Both start from the same
weights: the first losses must agree.  MiniLM's sizes, no padding, no dropout; torch with its fastest attention and fused AdamW.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
from typing import NamedTuple

import numpy as np

# Work, batch, tokens.
CELLS = (
    ("step", 32, 128),
    ("step", 128, 32),
    ("mlm", 32, 128),
    ("attention", 32, 128),
    ("attention", 8, 512),
    ("attention", 2, 2048),
    ("attention", 1, 4096),
    ("adamw", 1, 1),
)
_WARM = 2
_LIBRARIES, _PRECISIONS = ("fastattn", "torch"), ("fastattn-bf16", "fastattn")
# By how much the first losses of two libraries may differ, and those of two precisions.
_NEAR, _ROUNDED = 1e-3, 1e-2


class Turn(NamedTuple):
    """Wall time and CPU time of a step in seconds, its loss, and the peak memory so far in MiB."""

    wall: float
    cpu: float
    value: float
    peak: float


def measure(libraries: tuple[str, str], work: str, batch: int, tokens: int, rounds: int, threads: int) -> dict[str, list[Turn]]:
    """Return the turns of each library."""
    command = [sys.executable, "-m", "benchmarks.training.workers"]
    workers = {
        name: subprocess.Popen(
            [*command, name, work, str(batch), str(tokens), str(threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for name in libraries
    }
    turns: dict[str, list[Turn]] = {name: [] for name in workers}
    for _ in range(rounds + _WARM):
        for name, worker in workers.items():
            if worker.stdin is None or worker.stdout is None:
                raise RuntimeError(f"{name} has no pipes")
            worker.stdin.write("\n")
            worker.stdin.flush()
            line = worker.stdout.readline()
            if not line:
                raise RuntimeError(f"{name} ended: see its message above")
            turns[name].append(Turn(*map(float, line.split())))
    for worker in workers.values():
        if worker.stdin is not None:
            worker.stdin.close()
        worker.wait()
    return turns


def main() -> None:
    """Print a row for each cell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--cpu-time", action="store_true", help="compare the processes' CPU time: for a busy machine, with one thread"
    )
    parser.add_argument("--only", default="", help="measure the cells of this work alone")
    parser.add_argument("--bf16", action="store_true", help="compare products in bfloat16 with those in float32")
    given = parser.parse_args()
    libraries, near = (_PRECISIONS, _ROUNDED) if given.bf16 else (_LIBRARIES, _NEAR)
    first, second = libraries
    print(
        f"| work | {first}, s | {second}, s | {second} / {first}: quartiles | peak MiB, {first} / {second} |\n|---|---|---|---|---|"
    )
    for work, batch, tokens in CELLS:
        if (given.only and given.only != work) or (given.bf16 and work not in ("step", "mlm")):
            continue
        turns = measure(libraries, work, batch, tokens, given.rounds, given.threads)
        ours, theirs = (turns[name] for name in libraries)
        if not math.isclose(ours[0].value, theirs[0].value, rel_tol=near):
            print(f"| {work} {batch} x {tokens} | the results differ: {ours[0].value} and {theirs[0].value} | | | |")
            continue
        seconds = [[each.cpu if given.cpu_time else each.wall for each in side[_WARM:]] for side in (ours, theirs)]
        low, middle, high = np.percentile(np.divide(seconds[1], seconds[0]), [25, 50, 75])
        print(
            f"| {work} {batch} x {tokens} | {np.median(seconds[0]):.4f} | {np.median(seconds[1]):.4f} "
            f"| {low:.2f} {middle:.2f} {high:.2f} | {ours[-1].peak:.0f} / {theirs[-1].peak:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
