"""Threads that the system refuses, and threads that are greenlets: every call ends, with the same numbers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from soak._child import LAYERS, ROOT, missing
from tests.support.cases import JIT
from tests.support.models import write_sentence_model

pytestmark = [pytest.mark.jit, pytest.mark.skipif(not JIT, reason="without the JIT there is one thread")]

# The limit does not hold for root: the process becomes another user, with root's right to read files only.
LIMITED = """
import ctypes, os, resource, sys, warnings
import numpy as np
import fastattn
from fastattn.runtime.threads import thread_limits

if os.getuid() == 0:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS
    os.setresuid(54321, 54321, 54321)
    read = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(read, read, 0, 0, 0, 0)
    assert libc.capset(header, data) == 0, os.strerror(ctypes.get_errno())
limit = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NPROC, (limit, limit))
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    x = np.ones((1000, 1000), np.float32)
    assert (fastattn.gelu(x) == fastattn.gelu(x[:1, :1])).all()
    assert thread_limits()["the limit on processes"] == 1, thread_limits()
    model = fastattn.SentenceTransformer(sys.argv[2])
    assert (model.encode(["the cat"] * 3000) == model.encode("the cat")).all()
print(*(warning.message for warning in said))
"""

GREENLETS = """
import faulthandler, sys
faulthandler.dump_traceback_later(100, exit=True)
{first}
import fastattn
{then}
model = fastattn.SentenceTransformer(sys.argv[1])
few = model.encode("the cat")
texts = ["the cat"] * 3000
{call}
print("all")
"""
# What gevent does, without its loop: a thread that waits for its greenlets runs none of them.
PATCH = """
import _thread, threading
def greenlet(*arguments, **options): return 4711
_thread.start_new_thread = threading._start_new_thread = greenlet
if hasattr(threading, "_start_joinable_thread"): threading._start_joinable_thread = lambda *arguments, **options: None
threading.Event.wait = lambda event, timeout=None: True
"""
ONE_CALL = "assert (model.encode(texts) == few).all()"
GEVENT = "from gevent import monkey; monkey.patch_all()"
THREE_JOBS = """
import gevent
jobs = [gevent.get_hub().threadpool.spawn(model.encode, texts) for _ in range(3)]
assert all((job.get() == few).all() for job in jobs)
jobs = [gevent.spawn(model.encode, texts) for _ in range(3)]
assert all((job.get() == few).all() for job in jobs)
"""


def run(code: str, *arguments: object, **environment: str) -> str:
    given = {**os.environ, "PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false", **environment}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=given, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
@pytest.mark.parametrize("limit", [1, 3])
@pytest.mark.parametrize("layer", LAYERS)
def test_a_limit_on_processes(layer: str, limit: int, tmp_path: Path) -> None:
    """tbb would abort the process, and workqueue hang."""
    if reason := missing(layer):
        pytest.skip(reason)
    folder = write_sentence_model(tmp_path)
    said = run(LIMITED, limit, folder, NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS="4")
    assert said == "fastattn: the system refuses new threads: kernels run in one thread\n"


@pytest.mark.parametrize("when", ["before", "after"])
def test_threads_that_are_greenlets(when: str, tmp_path: Path) -> None:
    """In a thread of gevent's pool, `threading` starts greenlets that nobody runs: a call that waits for one never ends."""
    first, then = (PATCH, "") if when == "before" else ("", PATCH)
    assert run(GREENLETS.format(first=first, then=then, call=ONE_CALL), write_sentence_model(tmp_path)) == "all\n"


@pytest.mark.parametrize("when", ["before", "after"])
def test_gevent(when: str, tmp_path: Path) -> None:
    pytest.importorskip("gevent")
    first, then = (GEVENT, "") if when == "before" else ("", GEVENT)
    assert run(GREENLETS.format(first=first, then=then, call=THREE_JOBS), write_sentence_model(tmp_path)) == "all\n"
