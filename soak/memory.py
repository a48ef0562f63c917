"""Resident memory: growth over many calls and loads, and the peak of a call on a million texts.

Each measurement is a process of its own: ``python -m soak.memory calls 20000``.  Resident memory is read from /proc.
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
# Growth per call that passes: the smallest Python object takes 16 bytes, so a leak of one object in every other call is found.
CALL_BYTES = 8
# Growth of the allocators after the first calls: an arena of Python's allocator is 1 MiB.
SETTLING = _MIB
# Peak of `encode` with a tiny model beside the texts and the result: two slices of 1,024 short texts, at most 1 KiB each for the
# text's ids, array object and place in a forward; and SETTLING.  A larger model adds the hidden states of one forward.
PEAK = 2 * 1024 * 1024 + SETTLING
# Peak on long texts that must be read whole, which go to the tokenizers library one by one: 1000 bytes a character.  The library
# holds each character's origin, and each token's text and seven numbers (here a token is a character), in lists of up to twice
# the needed length: at most 500 bytes.  Freed buffers of a growing list sum up to the last one, and the allocator may keep them.
LONG = 200_000
WHOLE_PEAK = 1000 * LONG + PEAK


def resident() -> int:
    """Return this process's resident memory in bytes, after a garbage collection."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _growth(step: Callable[[int], Any], count: int, settle: int) -> dict[str, int]:
    """Run `settle` steps, then `count` more; return the growth of resident memory over the latter."""
    for i in range(settle):
        step(i)
    before = resident()
    for i in range(count):
        step(i)
    return {"count": count, "growth": resident() - before}


def calls(count: int) -> dict[str, int]:
    """Call `encode`, an encoder and every op in turns, on short inputs of changing length."""
    import fastattn
    from fastattn.cli.cases import Sizes, cases, ops
    from soak._small_model import write_model

    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder))
        model = fastattn.SentenceTransformer(folder)
    public = ops()
    lengths = [cases(Sizes(batch=1, heads=4, tokens=t, head_dim=8, ff_dim=8)) for t in range(1, 9)]
    texts = ["the cat", "a", "", "the cat sat on the mat " * 3]
    # The same case at each length.
    by_length = [[case.bound(public[case.op]) for case in same] for same in zip(*lengths, strict=True)]
    kinds: list[Callable[[int], Any]] = [
        lambda n: model.encode(texts[n % 4]),
        lambda n: model.encode(texts[: n % 4]),
        lambda n: model.encoder(np.full((2, n % 7 + 1), 3)),
        *(lambda n, calls=calls: calls[n % 8]() for calls in by_length),
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
    """Embed many texts; measure the peak beside the texts and the result."""
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
    """Embed texts of 200,000 characters; measure the peak beside the texts."""
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
    """Embed texts of 200,000 characters without a space, which the tokenizer cannot cut to a prefix."""
    return long_texts(count, "a,")


_MEASURES = {"calls": calls, "loads": loads, "encode": encode, "long": long_texts, "whole": whole_texts}


def measure(name: str, count: int) -> dict[str, int]:
    """Run a measurement in a process of its own."""
    command = [sys.executable, "-m", "soak.memory", name, str(count)]
    child = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    if child.returncode:
        raise RuntimeError(f"{name}: ended with {child.returncode}: {child.stderr[-2000:]}")
    found: dict[str, int] = json.loads(child.stdout.splitlines()[-1])
    return found


def calls_row(count: int) -> Row:
    """Return the row for short calls: resident memory must be flat."""
    found, most = measure("calls", count), CALL_BYTES * count + SETTLING
    figure = f"{found['growth'] / _MIB:+.2f} MiB over {count:,} calls"
    return Row("resident memory, short calls", figure, f"at most {most / _MIB:.1f} MiB", found["growth"] <= most, count, "calls")


def loads_row(count: int) -> Row:
    """Return the row for loads of a model: resident memory must grow by less than one model in all."""
    found = measure("loads", count)
    figure = f"{found['growth'] / _MIB:+.2f} MiB over {count:,} loads"
    goal = f"less than one model, {found['model'] / _MIB:.0f} MiB"
    return Row("resident memory, loads of all-MiniLM-L6-v2", figure, goal, found["growth"] < found["model"], count, "calls")


def encode_row(count: int) -> Row:
    """Return the row for `encode` on many texts: the peak must be bounded."""
    found = measure("encode", count)
    figure = f"{found['peak'] / _MIB:.1f} MiB on {count:,} texts, result {found['result'] / _MIB:.1f} MiB"
    goal = f"at most {PEAK / _MIB:.0f} MiB for any number"
    return Row("peak of encode beside its input and result", figure, goal, found["peak"] <= PEAK, count, "inputs")


def long_texts_row(count: int, measurement: str = "long") -> Row:
    """Return the row for `encode` on long texts: the peak of their prefixes alone, or for "whole" of one text read in full."""
    found, most = measure(measurement, count), WHOLE_PEAK if measurement == "whole" else PEAK
    figure = f"{found['peak'] / _MIB:.1f} MiB on {count:,} texts of {LONG:,} characters"
    goal = f"at most {most / _MIB:.0f} MiB for any number"
    what = "peak of encode on long texts" + (" without spaces" if measurement == "whole" else "")
    return Row(what, figure, goal, found["peak"] <= most, count, "inputs")


def run(scale: float = 1.0) -> list[Row]:
    """Run all measurements; `scale` 1 is a million calls, a thousand loads, a million texts and twice a thousand long texts."""
    return [
        calls_row(max(20_000, int(CALLS * scale))),
        loads_row(max(30, int(LOADS * scale))),
        encode_row(max(20_000, int(TEXTS * scale))),
        long_texts_row(max(8, int(LONG_TEXTS * scale))),
        long_texts_row(max(8, int(LONG_TEXTS * scale)), "whole"),
    ]


if __name__ == "__main__":
    print(json.dumps(_MEASURES[sys.argv[1]](int(sys.argv[2]))))
