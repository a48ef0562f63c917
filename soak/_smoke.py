"""Smoke test of an installed package: every op against the reference, a small model, the command line.

``smoke.py ROOT [quick]`` prints one JSON object: the versions, the threading layer, and the faults.  ROOT is the checkout, whose
`tests` give the tolerance; with ``quick``, one op only.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import subprocess
import sys
import sysconfig
import tempfile
import traceback
from pathlib import Path
from typing import Any

import numpy as np

import fastattn
from fastattn.cli.cases import Sizes, cases
from fastattn.cli.info import facts
from fastattn.config import ACTIVATIONS

ROOT = Path(sys.argv[1])


def normal(*shape: int) -> Any:
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


def ops() -> None:
    from tests.support.tolerance import check

    for case in cases(Sizes(batch=1, heads=4, tokens=37, head_dim=10, ff_dim=29)):
        for dtype in (np.float32, np.float64):
            case.bound(functools.partial(check, case.op), dtype)()
    x, weight, bias = normal(37, 50), normal(29, 50), normal(29)
    for activation in (None, *ACTIVATIONS):
        check("linear", x, weight, bias, activation=activation)


def model() -> None:
    from tests.support.models import C, V, write_sentence_model
    from tests.support.tolerance import assert_matches_reference

    config = fastattn.EncoderConfig(2, 4, 40, 72, vocab_size=V, positions="sinusoidal")
    ids = np.arange(24).reshape(2, 12) % V
    mask = np.arange(12) < np.array([[12], [5]])
    hidden = fastattn.Encoder(config)(ids, mask)
    assert np.isfinite(hidden).all() and not hidden[~mask].any()
    with tempfile.TemporaryDirectory() as folder:
        write_sentence_model(Path(folder))
        embeddings = fastattn.SentenceTransformer(folder).encode(["the cat sat", "a dog on the mat", ""])
    assert embeddings.shape == (3, C) and np.isfinite(embeddings).all()
    assert_matches_reference(embeddings[:1], embeddings[:1].astype(np.float64), embeddings[:1])


def command_line() -> None:
    command = str(Path(sysconfig.get_path("scripts")) / "fastattn")
    for arguments in (["--help"], ["info"], ["embed", "--help"]):
        done = subprocess.run([command, *arguments], capture_output=True, text=True, timeout=300)
        if done.returncode or "Traceback" in done.stderr:
            raise RuntimeError(f"fastattn {' '.join(arguments)}: {(done.stderr.strip().splitlines() or ['no word'])[-1]}")


def main() -> None:
    # Appended last, so that `fastattn` is the installed package and `tests` the checkout's.
    sys.path.append(str(ROOT))
    wrong = []
    here = Path(fastattn.__file__).resolve()
    if here.is_relative_to(ROOT):
        wrong.append(f"imported from the sources, {here}")
    if sys.argv[2:] == ["quick"]:
        if not np.allclose(fastattn.softmax(normal(3, 4)).sum(-1), 1):
            wrong.append("softmax does not sum to 1")
    else:
        for trial in (ops, model, command_line):
            try:
                trial()
            except Exception as error:
                traceback.print_exc()
                wrong.append(f"{trial.__name__}: {type(error).__name__}: {error}"[:300])
    versions = {}
    for name in ("numba", "llvmlite", "numpy", "tbb", "tokenizers", "safetensors", "tqdm", "typer"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "none"
    print(json.dumps({"versions": versions, "layer": dict(facts())["threading layer"], "wrong": wrong}))


main()
