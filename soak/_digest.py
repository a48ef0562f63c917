"""Hash of the bits of every op and of encoders: ``python -m soak._digest`` prints the hash and the threading layer."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numba
import numpy as np

from fastattn.cli.cases import Sizes, cases, ops
from fastattn.cli.info import facts
from soak._child import LAYERS, ROOT
from soak._poison import KINDS, make

__all__ = ["LAYERS", "digest", "elsewhere"]


def digest() -> str:
    """Return the hash of results on inputs that are large enough for several threads."""
    rng = np.random.default_rng(21)

    found = hashlib.sha256()
    public = ops()
    for case in cases(Sizes(batch=3, heads=4, tokens=150, head_dim=30, ff_dim=170)):
        found.update(case.bound(public[case.op])().tobytes())
    lengths = rng.integers(1, 60, 40)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = rng.integers(0, 40, offsets[-1])
    for kind in KINDS:
        model = make(kind)
        found.update(model.forward_packed(ids, offsets).tobytes())
        found.update(model.forward_packed(ids[: offsets[1]], offsets[:2], pooling="mean").tobytes())
    return found.hexdigest()


def elsewhere(layer: str, threads: int) -> tuple[str, str]:
    """Return (hash, layer) from a new process with that layer and thread count; if the process fails, the hash is its error."""
    environment = {**os.environ, "NUMBA_THREADING_LAYER": layer, "NUMBA_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "soak._digest"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1], layer
    found, used = done.stdout.split()
    return found, used


if __name__ == "__main__":
    sys.stdout.write(f"{digest()} {dict(facts())['threading layer'] if not numba.config.DISABLE_JIT else 'none'}\n")
