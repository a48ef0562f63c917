"""Concurrent Python threads under each threading layer, in child processes: no crash, no deadlock, no wrong bit."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fastattn.runtime import threads as _threads
from soak._child import LAYERS, ROOT, missing, run_child
from tests.support.cases import JIT

pytestmark = pytest.mark.jit
each_layer = pytest.mark.parametrize("layer", LAYERS)


def require(layer: str) -> None:
    if reason := missing(layer):
        pytest.skip(reason)


@each_layer
def test_sixteen_threads_at_once(layer: str) -> None:
    require(layer)
    found = run_child("_threads_child", "hammer", 16, 12, NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS=2)
    assert found["layer"] == layer
    assert not found["errors"] and not found["wrong"]
    assert not found["changed"], "a call changed this for the whole process"
    assert found["calls"] == 16 * 12


@pytest.mark.parametrize("when", ["before", "after"])
@each_layer
def test_beside_torch(layer: str, when: str) -> None:
    pytest.importorskip("torch")
    require(layer)
    found = run_child("_threads_child", "hammer", 16, 10, when, NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS=2)
    assert found["layer"] == layer and found["calls"] == 160
    assert not found["errors"] and not found["wrong"] and not found["changed"]


def test_compiling_in_sixteen_threads_at_once(tmp_path: Path) -> None:
    found = run_child("_threads_child", "compile", 16, NUMBA_CACHE_DIR=tmp_path)
    assert not found["errors"] and not found["wrong"]


@pytest.mark.skipif(not JIT, reason="without the JIT nothing is compiled")
def test_one_thread_at_a_time_compiles_what_is_called_by_its_address() -> None:
    from fastattn.kernels.compile.address import AddressedKernel

    kernel = AddressedKernel(lambda: None, ())
    inside, most = [], []

    def compile(signature: Any) -> None:
        inside.append(signature)
        time.sleep(0.02)
        most.append(len(inside))
        inside.pop()

    library = SimpleNamespace(get_pointer_to_function=lambda name: 4711)
    made = SimpleNamespace(fndesc=SimpleNamespace(llvm_func_name="f"), library=library)
    kernel.dispatcher = SimpleNamespace(compile=compile, overloads={(): made})
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(kernel.address(None))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [4711] * 4 and set(most) == {1}


@pytest.mark.skipif(not JIT, reason="without the JIT there are no threads")
@pytest.mark.parametrize("first", ["softmax(x)", "gelu(x)", "layer_norm(x)", "linear(x, x)", "attention_weights(x, x)"])
def test_the_first_call_finds_libtbb(first: str) -> None:
    """libtbb is loaded before the first call, even a small call or a compilation, starts Numba's threads and fixes the layer."""
    require("tbb")
    code = f"import numpy, fastattn, numba; x = numpy.ones((3, 3), 'f4'); fastattn.{first}; print(numba.threading_layer())"
    given = {name: value for name, value in os.environ.items() if name != "NUMBA_THREADING_LAYER"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=given, capture_output=True, text=True, timeout=120)
    assert done.stdout == "tbb\n", done.stderr


@pytest.mark.skipif(not JIT, reason="without the JIT there are no threads")
def test_the_thread_mask_is_the_callers_own() -> None:
    """A thread mask set in one thread is neither changed by a call nor visible in another thread."""
    import numba

    import fastattn

    x = np.ones((500, 500), np.float32)
    _threads.threading_layer()
    before = numba.get_num_threads()
    fastattn.softmax(x)
    assert numba.get_num_threads() == before
    seen: list[int] = []

    def one() -> None:
        numba.set_num_threads(1)
        assert _threads.thread_count() == 1
        fastattn.softmax(x)
        seen.append(numba.get_num_threads())

    thread = threading.Thread(target=one)
    thread.start()
    thread.join()
    assert seen == [1] and numba.get_num_threads() == before
