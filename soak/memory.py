"""Memory over many calls and loads, and at the peak of a call on a million texts.

Each measurement is a process of its own: ``python -m soak.memory calls 20000``.  Resident memory is read where Linux tells it.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from soak import Row
from soak._resident import peak, reset_peak

ROOT = Path(__file__).parent.parent
CALLS, LOADS, TEXTS, LONG_TEXTS = 1_000_000, 1_000, 1_000_000, 1_000
_MIB = 2**20
# The smallest object that Python can forget to release takes 16 bytes: one left behind in every other call is found.
CALL_BYTES = 8
# What the allocators may still gather once everything has been called: a chunk of Python's is a megabyte.
SETTLING = _MIB
# Of `encode` with a tiny model, beside the texts and the result: two slices of 1,024 short texts, at most a kilobyte for each one's
# ids, their array object and their place in a forward; and SETTLING.  A larger model adds the hidden states of one forward.
PEAK = 2 * 1024 * 1024 + SETTLING
# Long texts that must be read whole go to the tokenizer one by one.  Of each character its library holds where it came from, and of
# each token, here a character, its text and seven numbers, in lists that may be twice as long as they must: at most 500 bytes.  The
# places that a list had before it grew are together as large as the last one, and the allocator may keep them: as much again.
LONG = 200_000
WHOLE_PEAK = 1000 * LONG + PEAK


def resident() -> int:
    """Return this process's resident memory in bytes, without what was only freed."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _growth(step: Callable[[int], Any], count: int, settle: int) -> dict[str, int]:
    """Run steps; growth of the resident memory after the first `settle`, which is before anything is counted."""
    for i in range(settle):
        step(i)
    before = resident()
    for i in range(count):
        step(i)
    return {"count": count, "growth": resident() - before}


def calls(count: int) -> dict[str, int]:
    """Call `encode`, an encoder and every op in turns, on short inputs of changing length."""
    import fastattn
    from soak._small_model import write_model

    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder))
        model = fastattn.SentenceTransformer(folder)
    rng = np.random.default_rng(0)
    xs = [rng.standard_normal((2, t, 8), np.float32) for t in range(1, 9)]
    mask = np.ones((1, 8), bool)
    texts = ["the cat", "a", "", "the cat sat on the mat " * 3]
    tables = [fastattn.reference.rotary_tables(t, 8) for t in range(1, 9)]
    rotary = [tuple(np.asarray(table, np.float32) for table in pair) for pair in tables]
    kinds: list[Callable[[int], Any]] = [
        lambda n: model.encode(texts[n % 4]),
        lambda n: model.encode(texts[: n % 4]),
        lambda n: model.encoder(np.full((2, n % 7 + 1), 3)),
        lambda n: fastattn.softmax(xs[n % 8]),
        lambda n: fastattn.layer_norm(xs[n % 8], residual=xs[n % 8]),
        lambda n: fastattn.rms_norm(xs[n % 8], residual=xs[n % 8]),
        lambda n: fastattn.gelu(xs[n % 8]),
        lambda n: fastattn.linear(xs[n % 8], xs[7][0]),
        lambda n: fastattn.scaled_dot_product_attention(*[xs[n % 8]] * 3, attn_mask=mask[:, : n % 8 + 1]),
        lambda n: fastattn.attention_weights(xs[n % 8], xs[n % 8]),
        lambda n: fastattn.rotary_embedding(xs[n % 8], *rotary[n % 8]),
    ]
    return _growth(lambda i: kinds[i % len(kinds)](i // len(kinds)), count, min(5000, count))


def loads(count: int) -> dict[str, int]:
    """Load all-MiniLM-L6-v2, with its tokenizer, and use it."""
    import fastattn
    from fastattn.checkpoint.hub import find_model

    folder = find_model()
    found = _growth(lambda i: fastattn.SentenceTransformer(folder).encode("a cat"), count, 4)
    return {**found, "model": (folder / "model.safetensors").stat().st_size}


def encode(count: int) -> dict[str, int]:
    """Embed many texts; what it takes at its peak beside the texts and the result."""
    import fastattn
    from soak._small_model import write_model

    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder))
        model = fastattn.SentenceTransformer(folder)
    texts = [f"the cat {i}" for i in range(count)]
    model.encode(texts[:3000])
    before = resident()
    reset_peak()
    result = model.encode(texts)
    return {"count": count, "peak": peak() - before - result.nbytes, "result": result.nbytes}


def long_texts(count: int, text: str = "the cat sat on a mat, ") -> dict[str, int]:
    """Embed texts of 200,000 characters; what it takes at its peak beside the texts."""
    import fastattn
    from soak._small_model import write_model

    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder))
        model = fastattn.SentenceTransformer(folder)
    texts = [text * (LONG // len(text))] * count
    model.encode(["the cat"] * 100)
    before = resident()
    reset_peak()
    model.encode(texts)
    return {"count": count, "peak": peak() - before}


def whole_texts(count: int) -> dict[str, int]:
    """Embed texts of 200,000 characters that have no beginning, since there is no space in them."""
    return long_texts(count, "a,")


_MEASURES = {"calls": calls, "loads": loads, "encode": encode, "long": long_texts, "whole": whole_texts}


def measure(name: str, count: int) -> dict[str, int]:
    """Take a measurement in a process of its own."""
    command = [sys.executable, "-m", "soak.memory", name, str(count)]
    child = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    if child.returncode:
        raise RuntimeError(f"{name}: ended with {child.returncode}: {child.stderr[-2000:]}")
    found: dict[str, int] = json.loads(child.stdout.splitlines()[-1])
    return found


def calls_row(count: int) -> Row:
    """Tell whether memory is flat over so many short calls."""
    found, most = measure("calls", count), CALL_BYTES * count + SETTLING
    figure = f"{found['growth'] / _MIB:+.2f} MiB over {count:,} calls"
    return Row("resident memory, short calls", figure, f"at most {most / _MIB:.1f} MiB", found["growth"] <= most, count, "calls")


def loads_row(count: int) -> Row:
    """Tell whether memory is flat over so many loads of a model: less than one model is left behind in all."""
    found = measure("loads", count)
    figure = f"{found['growth'] / _MIB:+.2f} MiB over {count:,} loads"
    goal = f"less than one model, {found['model'] / _MIB:.0f} MiB"
    return Row("resident memory, loads of all-MiniLM-L6-v2", figure, goal, found["growth"] < found["model"], count, "calls")


def encode_row(count: int) -> Row:
    """Tell whether the peak of `encode` on so many texts is bounded."""
    found = measure("encode", count)
    figure = f"{found['peak'] / _MIB:.1f} MiB on {count:,} texts, result {found['result'] / _MIB:.1f} MiB"
    goal = f"at most {PEAK / _MIB:.0f} MiB for any number"
    return Row("peak of encode beside its input and result", figure, goal, found["peak"] <= PEAK, count, "inputs")


def long_texts_row(count: int, measurement: str = "long") -> Row:
    """Tell whether the peak of `encode` on so many long texts is that of their beginnings, or where these are "whole" of one."""
    found, most = measure(measurement, count), WHOLE_PEAK if measurement == "whole" else PEAK
    figure = f"{found['peak'] / _MIB:.1f} MiB on {count:,} texts of {LONG:,} characters"
    goal = f"at most {most / _MIB:.0f} MiB for any number"
    what = "peak of encode on long texts" + (" without spaces" if measurement == "whole" else "")
    return Row(what, figure, goal, found["peak"] <= most, count, "inputs")


def run(scale: float = 1.0) -> list[Row]:
    """Measure; `scale` 1 is a million calls, a thousand loads, a million texts and twice a thousand long ones."""
    return [
        calls_row(max(20_000, int(CALLS * scale))),
        loads_row(max(30, int(LOADS * scale))),
        encode_row(max(20_000, int(TEXTS * scale))),
        long_texts_row(max(8, int(LONG_TEXTS * scale))),
        long_texts_row(max(8, int(LONG_TEXTS * scale)), "whole"),
    ]


if __name__ == "__main__":
    print(json.dumps(_MEASURES[sys.argv[1]](int(sys.argv[2]))))
