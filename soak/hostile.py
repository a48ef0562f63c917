"""Hostile inputs, 100,000 at full length: each gets a right answer or a documented exception.

``python -m soak.hostile`` prints the number of cases by kind. Each kind runs in a process of its own, so that a case that kills
the process or hangs is named.
"""

from __future__ import annotations

import argparse
import collections
import faulthandler
import json
import os
import subprocess
import sys
import tempfile
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from random import Random

from soak import Row
from soak._hostile_case import SECONDS, Case, attempt, limit_memory

ROOT = Path(__file__).parent.parent
# Cases of each kind, 100,000 in all.
CASES = {
    "ops": 40_000,
    "encoder": 12_000,
    "safetensors": 14_000,
    "config": 10_000,
    "modules": 5_000,
    "tokenizer": 9_000,
    "jsonl": 9_000,
    "links": 1_000,
}
# Wall-clock seconds after which a case counts as a hang; generous, since other processes may take the cores.
_HANG = 120 * SECONDS
# Bytes of address space that a kind's process may add.
_MAPPED = 8 * 2**30


def _maker(kind: str, folder: Path) -> Callable[[Random], Case]:
    from soak import _hostile_arrays, _hostile_files

    if kind in ("ops", "encoder"):
        _compile()
        return {"ops": _hostile_arrays.op_case, "encoder": _hostile_arrays.encoder_case}[kind]
    return _hostile_files.maker(kind, folder)


def _compile() -> None:
    """Compile every kernel beforehand, so that no case pays for it."""
    from fastattn.cli.warmup import warm_up

    for _ in warm_up():
        pass


def try_cases(kind: str, count: int, seed: int) -> dict[str, int]:
    """Run `count` cases in this process; return the number of each outcome."""
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded
    from hypothesis import strategies as st

    outcomes: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as folder, open(os.environ.get("HOSTILE_LAST", os.devnull), "wb", 0) as last:
        make = _maker(kind, Path(folder))

        # `use_true_random` for links: Hypothesis repeats no sequence of choices, and links have too few of them.
        @seeded(seed)
        @settings(
            max_examples=count,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        )
        @given(st.randoms(use_true_random=kind == "links"))
        def run(rng: Random) -> None:
            case = make(rng)
            os.pwrite(last.fileno(), case.about.encode("utf-8", "replace")[:4000].ljust(4000), 0)
            faulthandler.dump_traceback_later(_HANG, exit=True)
            outcomes[attempt(case)] += 1

        faulthandler.enable()
        limit_memory(_MAPPED)
        tracemalloc.start()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run()
        faulthandler.cancel_dump_traceback_later()
    return dict(outcomes)


def run_kind(kind: str, count: int, seed: int = 0) -> dict[str, int]:
    """Run `count` cases in a child process; raise AssertionError with the case if a check fails or the process dies."""
    with tempfile.NamedTemporaryFile() as last:
        command = [sys.executable, "-m", "soak.hostile", "--kind", kind, "--count", str(count), "--seed", str(seed)]
        environment = {**os.environ, "HOSTILE_LAST": last.name, "PYTHONPATH": str(ROOT)}
        child = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, errors="replace", check=False)
        if child.returncode:
            case = Path(last.name).read_text("utf-8", "replace").strip()
            raise AssertionError(f"{kind}: ended with {child.returncode} in or after: {case}\n{child.stderr[-4000:]}")
    outcomes: dict[str, int] = json.loads(child.stdout.splitlines()[-1])
    return outcomes


def run(scale: float = 1.0) -> list[Row]:
    """Run every kind; return a row for each, and a row for the total."""
    rows, tried, wanted = [], 0, 0
    for kind, full in CASES.items():
        count = max(100, int(full * scale))
        wanted += count
        try:
            outcomes = run_kind(kind, count)
        except AssertionError as error:
            rows.append(Row(f"hostile input, {kind}", str(error)[:300], "an answer or a documented exception", False))
            continue
        done = sum(outcomes.values())
        tried += done
        found = ", ".join(f"{n:,} {name}" for name, n in sorted(outcomes.items(), key=lambda item: -item[1]))
        goal = "an answer or a documented exception"
        rows.append(Row(f"hostile input, {kind}", f"{done:,}: {found}", goal, done >= count, done, "inputs"))
    rows.append(Row("hostile input, all kinds", f"{tried:,} cases, no signal, no hang", f"{wanted:,}", tried >= wanted))
    return rows


def main() -> None:
    """Run one kind in this process, or all kinds in child processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=CASES)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0)
    given = parser.parse_args()
    if given.kind:
        print(json.dumps(try_cases(given.kind, given.count, given.seed)))
        return
    for row in run(given.scale):
        print(*row, sep=" | ")


if __name__ == "__main__":
    main()
