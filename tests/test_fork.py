"""A child forked after its parent used the kernels, under each threading layer: it works; no signal ends it, and it never hangs."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from fastattn.kernels import _jit
from soak import fork
from soak._child import LAYERS, ROOT, missing, run_child

pytestmark = [pytest.mark.jit, pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")]
each_layer = pytest.mark.parametrize("layer", LAYERS)


def require(layer: str) -> None:
    if reason := missing(layer):
        pytest.skip(reason)


@pytest.mark.parametrize("who", ["main", "thread", "busy"])
@each_layer
def test_forks(layer: str, who: str) -> None:
    """From the main thread, from another, and while other threads are in the kernels; and a fork of the fork."""
    require(layer)
    found = run_child("_fork_child", "forks", who, 2, NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS=2)
    assert found["layer"] == layer
    assert found["children"] == ["", ""]
    assert not found["parent"]


@each_layer
def test_multiprocessing(layer: str) -> None:
    require(layer)
    found = run_child("_fork_child", "pool", "fork", 3, NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS=2)
    assert found["layer"] == layer and found["children"] == [""] * 3 and not found["parent"]


def test_multiprocessing_that_spawns() -> None:
    assert run_child("_fork_child", "pool", "spawn", 2)["children"] == ["", ""]


def test_a_fork_while_another_thread_compiles(tmp_path: Path) -> None:
    """The child would wait for ever for a lock that a thread holds which it does not have."""
    assert run_child("_fork_child", "compiling", NUMBA_CACHE_DIR=tmp_path)["children"] == ["", ""]


@each_layer
def test_dataloader_workers(layer: str) -> None:
    pytest.importorskip("torch")
    require(layer)
    found = run_child("_fork_child", "loader", NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS=2)
    assert found["layer"] == layer and found["children"] == [""] * 12 and not found["parent"]


@each_layer
def test_a_fork_where_only_torch_has_run(layer: str) -> None:
    """GNU's omp is then in use although no kernel ran."""
    pytest.importorskip("torch")
    require(layer)
    assert run_child("_fork_child", "untouched", NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS=2)["children"] == [""]


@each_layer
def test_gunicorn_with_preload(layer: str) -> None:
    pytest.importorskip("gunicorn")
    require(layer)
    workers, wrong, said = fork.served(layer, 4)
    assert workers and not wrong and not said


def test_a_call_leaves_the_start_method_open() -> None:
    """Numba asks for it when it starts its threads, after which `set_start_method` would raise."""
    code = (
        "import multiprocessing, numpy, fastattn; from fastattn.kernels._jit import threading_layer; threading_layer(); "
        "multiprocessing.set_start_method('spawn'); print('free')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout == "free\n", done.stderr


def test_a_fork_waits_no_longer_than_the_lock_is_held() -> None:
    import fastattn

    x = np.ones((4, 4), np.float32)
    fastattn.softmax(x)
    held, go = threading.Event(), threading.Event()

    def hold() -> None:
        with _jit._layer_lock:
            held.set()
            go.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    threading.Timer(0.3, go.set).start()
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        free = _jit._layer_lock.acquire(timeout=5)
        fastattn.softmax(x)
        os._exit(0 if free else 1)
    assert 0.2 < time.monotonic() - began < 8
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    thread.join()
