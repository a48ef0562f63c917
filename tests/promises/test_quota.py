"""CPU limits: affinity and quota bound the threads, and an idle process takes no CPU time."""

import os
from pathlib import Path

import pytest

from fastattn.cli.info import facts
from fastattn.runtime import threads as _threads
from soak._child import LAYERS, missing, run_child
from tests.support.cases import JIT

pytestmark = [pytest.mark.jit, pytest.mark.skipif(not JIT, reason="without the JIT there is one thread")]
V2, V1 = "0::/a/b\n", "3:cpu,cpuacct:/a/b\n2:memory:/a/b\n"


def quota(tmp_path: Path, own: str, files: dict[str, str]) -> float:
    (tmp_path / "cgroup").write_text(own)
    for name, content in files.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return _threads._cpu_quota(tmp_path / "groups", tmp_path / "cgroup")


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        (V2, {"a/b/cpu.max": "100000 100000\n"}, 1),
        (V2, {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "150000 100000\n"}, 1.5),
        (V2, {"a/b/cpu.max": "max 100000\n"}, float("inf")),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 0.5),
        ("0::/../outside\n", {"cpu.max": "200000 100000\n"}, 2),
        (V1, {"cpu/a/b/cpu.cfs_quota_us": "100000\n", "cpu/a/b/cpu.cfs_period_us": "50000\n"}, 2),
        (V1, {"cpu/a/b/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_quota_us": "30000", "cpu/cpu.cfs_period_us": "10000"}, 3),
        (V1, {"cpu/a/b/cpu.cfs_quota_us": "100000\n", "cpu/a/b/cpu.cfs_period_us": "0\n"}, float("inf")),
        ("nonsense\n", {"cpu.max": "100000 100000\n"}, float("inf")),
        (V2, {"a/b/cpu.max": "\n"}, float("inf")),
    ],
)
def test_the_control_groups_quota(own: str, files: dict[str, str], expected: float, tmp_path: Path) -> None:
    assert quota(tmp_path, own, files) == expected


def test_no_control_groups(tmp_path: Path) -> None:
    assert _threads._cpu_quota(tmp_path, tmp_path / "none") == float("inf")


@pytest.mark.parametrize(("cpus", "threads"), [(0.1, 1), (0.5, 1), (1, 1), (1.4, 1), (2, 2), (3, 3), (64, 4)])
def test_the_quota_bounds_the_threads(cpus: float, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    _threads.threading_layer()
    monkeypatch.setattr(_threads.parallel, "_get_num_threads", lambda: 4)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(_threads, "_settings", None)
    monkeypatch.setattr(_threads, "_cpu_quota", lambda: float(cpus))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert _threads.thread_count() == threads


@pytest.mark.parametrize(("value", "threads"), [("1", 1), ("3", 3), ("3,1", 3), (" 2 ", 2), ("64", 4), ("0", 4), ("", 4), ("x", 4)])
def test_omp_num_threads(value: str, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first number of OpenMP's list is a limit beside the others, and `fastattn info` says which limit applies."""
    _threads.threading_layer()
    monkeypatch.setattr(_threads.parallel, "_get_num_threads", lambda: 4)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(_threads, "_settings", None)
    monkeypatch.setattr(_threads, "_cpu_quota", lambda: float("inf"))
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert _threads.thread_count() == threads
    decided = "OMP_NUM_THREADS" if threads < 4 else "NUMBA_NUM_THREADS"
    assert dict(facts())["threads"].startswith(f"{threads}, by {decided} (then ")


needs_affinity = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity of processes")


@needs_affinity
def test_on_one_cpu_as_cheap_as_with_one_thread() -> None:
    """CPU time is compared: on one CPU it equals the time of the call, and does not depend on the machine's load."""
    limited = run_child("_threads_child", "cost", 8, cpus=1)
    single = run_child("_threads_child", "cost", 8, cpus=1, NUMBA_NUM_THREADS=1, RAYON_NUM_THREADS=1)
    assert limited["threads"] == single["threads"] == 1
    assert limited["cpu"] < 1.25 * single["cpu"]


@needs_affinity
def test_a_limit_that_comes_later() -> None:
    """The affinity mask is read in each call."""
    _threads.threading_layer()
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert _threads.thread_count() == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize("layer", LAYERS)
def test_an_idle_process_takes_no_cpu(layer: str) -> None:
    if reason := missing(layer):
        pytest.skip(reason)
    found = run_child("_threads_child", "idle", NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS=2)
    assert found["layer"] == layer
    assert found["idle"] < 0.02, "of 2 s"
