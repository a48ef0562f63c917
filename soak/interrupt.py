"""Ctrl-C, kill -9, full disks and concurrent writers: the process goes on, and the next start is right."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from soak import Row
from soak._child import LAYERS, ROOT, Failed, missing, run_child

_WRITE = [sys.executable, "-m", "soak._interrupt_child", "write"]


# Commands of `_interrupt_child` that interrupt once; its `encode` interrupts twice.
_ONCE = {"first": "the first call", "beside": "a call beside other threads"}


def ctrl_c(layer: str, what: str, delays: list[float]) -> Row:
    """Interrupt after each of `delays`, in a process for each."""
    arguments, times = ([what], len(delays)) if what in _ONCE else (["encode", what], 2 * len(delays))
    name = f"{layer}: Ctrl-C in {_ONCE.get(what, what)}, {times} times"
    goal, late, faults = "KeyboardInterrupt within 1 s, then the same bits", 0.0, 0
    for delay in delays:
        try:
            found = run_child("_interrupt_child", *arguments, delay, NUMBA_THREADING_LAYER=layer)
        except Failed as failure:
            return Row(name, str(failure)[:300], goal, False)
        late = max(late, found["late"])
        faults += set(found["outcomes"]) != {"KeyboardInterrupt"} or not found["same"]
    return Row(name, f"at most {late:.2f} s, {faults} faults", goal, not faults and late < 1, times, "faults")


def ctrl_c_in_compilation(count: int, *what: str) -> Row:
    """Interrupt the compiler at random moments: in its first seconds, or with `what` "all" anywhere in compiling every kernel."""
    chosen, faults, late = random.Random(0), 0, 0.0
    for _ in range(count):
        with tempfile.TemporaryDirectory() as folder:
            try:
                delay = chosen.uniform(0, 15 if what else 3)
                found = run_child("_interrupt_child", "compiling", delay, *what, NUMBA_CACHE_DIR=folder)
            except Failed:
                faults += 1
                continue
        faults += not found["same"] or found["outcomes"] == ["finished"]
        late = max(late, found["late"])
    name, figure = (
        f"Ctrl-C in the compiler{' of everything' if what else ''}, {count} times",
        f"at most {late:.2f} s, {faults} faults",
    )
    return Row(name, figure, "KeyboardInterrupt within 1 s, then the right results", not faults and late < 1, count, "faults")


def _writer(folder: str, count: int) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": folder}
    return subprocess.Popen(
        [*_WRITE, str(count)], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def killed(count: int) -> Row:
    """Kill one or two writers of kernels at random moments, then start a process that reads their files."""
    chosen, faults, reused = random.Random(1), 0, 0
    for i in range(count):
        with tempfile.TemporaryDirectory() as folder:
            writers = [_writer(folder, 12) for _ in range(1 + i % 2)]
            for writer in writers:
                assert writer.stdout is not None
                seen = chosen.randrange(12)
                for line in writer.stdout:
                    if line.strip() == str(seen):
                        break
                time.sleep(chosen.uniform(0, 0.2))
                with contextlib.suppress(ProcessLookupError):
                    writer.send_signal(signal.SIGKILL)
                writer.communicate()
            try:
                found = run_child("_interrupt_child", "write", 12, NUMBA_CACHE_DIR=folder)
            except Failed:
                faults += 1
                continue
            faults += bool(found["wrong"] or found["said"])
            reused += found["hits"]
    name = f"kill -9 of writers of kernels, {count} times"
    figure = f"{faults} faults, {reused} kernels read back"
    return Row(name, figure, "the next start is right and says nothing", not faults, count, "faults")


def together(writers: int) -> Row:
    """Race processes that write the same kernels."""
    with tempfile.TemporaryDirectory() as folder:
        processes = [_writer(folder, 12) for _ in range(writers)]
        faults = 0
        for process in processes:
            out, _ = process.communicate()
            found = json.loads(out.splitlines()[-1]) if process.returncode == 0 else {"wrong": ["all"], "said": []}
            faults += bool(found["wrong"] or found["said"])
        found = run_child("_interrupt_child", "write", 12, NUMBA_CACHE_DIR=folder)
    good = not faults and found["hits"] == 24
    figure = f"{faults} faults, {found['hits']} of 24 read back"
    return Row(f"{writers} writers of the same kernels", figure, "no fault, all read back", good, writers, "faults")


@contextlib.contextmanager
def _small_disk(folder: str) -> Iterator[bool]:
    """Mount a file system of 64 KiB; yield whether that was permitted."""
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", folder], capture_output=True, check=False)
    try:
        yield mount.returncode == 0
    finally:
        if mount.returncode == 0:
            subprocess.run(["umount", folder], check=False)


def full_disk() -> Row:
    """Write kernels to a full file system, with no other folder to fall back on."""
    name, goal = "a disk of 64 KiB for the kernels", "right results, said once"
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as other, _small_disk(folder) as mounted:
        if not mounted:
            return Row(name, "not permitted to mount one here", "", True)
        found = run_child("_interrupt_child", "write", 12, NUMBA_CACHE_DIR=folder, TMPDIR=other)
        kept = len(list((Path(folder) / "fastattn").glob("*.nbc")))
        left = len(list((Path(folder) / "fastattn").glob("*.tmp.*")))
    good = not found["wrong"] and len(found["said"]) == 1 and not left
    return Row(name, f"{kept} kernels fit, {len(found['said'])} warning, {left} parts left", goal, good, 1, "faults")


def run(scale: float) -> list[Row]:
    """Run Ctrl-C under each threading layer that can be loaded, the other trials under the default layer."""
    rows = []
    for layer in LAYERS:
        if reason := missing(layer):
            rows.append(Row(layer, reason, "", True))
            continue
        chosen = random.Random(2)
        delays = [chosen.uniform(0.05, 1.5) for _ in range(max(1, round(5 * scale)))]
        rows += [ctrl_c(layer, what, delays) for what in ("batch", "texts", "tokens", "watched", "one", *_ONCE)]
    rows += [ctrl_c_in_compilation(max(1, round(12 * scale))), ctrl_c_in_compilation(max(1, round(4 * scale)), "all")]
    rows += [killed(max(2, round(30 * scale))), together(4), full_disk()]
    return rows
