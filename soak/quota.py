"""CPU limits: a call limited to one CPU costs as much as with one thread; an idle process takes no CPU time."""

from __future__ import annotations

import contextlib
import os
import statistics
from collections.abc import Iterator
from pathlib import Path

from soak import Row
from soak._child import LAYERS, Failed, missing, run_child

_GROUPS = Path("/sys/fs/cgroup")


def idle(layer: str) -> Row:
    """Return the row of an idle process's CPU time, over two seconds after calls of every kind."""
    name, goal = f"{layer}: CPU time of an idle process", "at most 0.01 s/s"
    try:
        found = run_child("_threads_child", "idle", NUMBA_THREADING_LAYER=layer)
    except Failed as failure:
        return Row(name, str(failure)[:300], goal, False)
    rate = found["idle"] / 2
    return Row(name, f"{rate:.5f} s/s with {found['threads']} threads", goal, rate <= 0.01)


def _ratio(name: str, pairs: int, **limits: int | None) -> Row:
    """Return the row of a ratio: wall time under a limit of one CPU over the time with one thread set as well, in turns."""
    goal, ratios, threads = "one thread, at most 1.05 x the time with one thread", [], set()
    for _ in range(pairs):
        limited = run_child("_threads_child", "cost", 20, **limits)
        single = run_child("_threads_child", "cost", 20, NUMBA_NUM_THREADS=1, RAYON_NUM_THREADS=1, **limits)
        threads.add(limited["threads"])
        ratios.append(limited["wall"] / single["wall"])
    ratio = statistics.median(ratios)
    return Row(name, f"{ratio:.3f} x, {sorted(threads)} threads", goal, ratio <= 1.05 and threads == {1})


def _parent_group() -> tuple[Path, dict[str, str]]:
    """Return this process's CPU control group (version 1 or 2), and the files that limit a group below it to one CPU."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, own = line.split(":", 2)
        if "cpu" in controllers.split(","):
            return _GROUPS / "cpu" / own.lstrip("/"), {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "100000"}
        if not controllers and (_GROUPS / "cgroup.controllers").exists():
            return _GROUPS / own.lstrip("/"), {"cpu.max": "100000 100000"}
    raise OSError("no control group for CPUs")


@contextlib.contextmanager
def _one_cpu_group() -> Iterator[bool]:
    """Put this process into a control group of one CPU; yield whether that was permitted."""
    group = None
    try:
        parent, limits = _parent_group()
        group = parent / f"fastattn-soak-{os.getpid()}"
        group.mkdir()
        for name, value in limits.items():
            (group / name).write_text(value)
        (group / "cgroup.procs").write_text(str(os.getpid()))
        permitted = True
    except OSError:
        permitted = False
    try:
        yield permitted
    finally:
        if group is not None:
            with contextlib.suppress(OSError):
                (group.parent / "cgroup.procs").write_text(str(os.getpid()))
            with contextlib.suppress(OSError):
                group.rmdir()


def run(scale: float) -> list[Row]:
    """Run the trials of idle processes, of affinity and of a control group."""
    rows = []
    for layer in LAYERS:
        rows.append(Row(layer, reason, "", True) if (reason := missing(layer)) else idle(layer))
    pairs = max(1, round(9 * scale))
    if hasattr(os, "sched_setaffinity"):
        rows.append(_ratio("affinity of one CPU", pairs, cpus=1))
    with _one_cpu_group() as permitted:
        name = "control group with the quota of one CPU"
        rows.append(_ratio(name, pairs) if permitted else Row(name, "not permitted to make one here", "", True))
    return rows
