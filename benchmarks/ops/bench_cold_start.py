"""Process start to first embedding of one text, with the kernels on disk and with an empty kernel cache."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CHILD = """
from fastattn import SentenceTransformer
embedding = SentenceTransformer().encode("the first text")
print(embedding.shape, round(float(embedding @ embedding), 4))
"""


def first_embedding(cache: Path) -> None:
    """Start Python, load the default model and embed one text."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache), "PYTHONPATH": str(ROOT)}
    child = subprocess.run([sys.executable, "-c", CHILD], env=environment, capture_output=True, text=True, check=False)
    if child.returncode or child.stdout != "(384,) 1.0\n":
        raise RuntimeError(child.stderr or child.stdout)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = tmp_path_factory.mktemp("filled")
    first_embedding(cache)
    return cache


def bench_warm_cache(benchmark: Any, filled: Path) -> None:
    benchmark.group = "first embedding"
    benchmark.pedantic(first_embedding, (filled,), rounds=10, warmup_rounds=1)


def bench_empty_cache(benchmark: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    benchmark.group = "first embedding"

    def setup() -> tuple[tuple[Path], dict[str, Any]]:
        return (tmp_path_factory.mktemp("empty"),), {}

    benchmark.pedantic(first_embedding, setup=setup, rounds=3)


@pytest.mark.parametrize("module", ["numpy", "numba", "fastattn"])
def bench_import(benchmark: Any, module: str) -> None:
    benchmark.group = "import"
    command = [sys.executable, "-c", f"import {module}"]
    run: Callable[..., Any] = subprocess.run
    benchmark.pedantic(run, (command,), {"check": True, "env": {**os.environ, "PYTHONPATH": str(ROOT)}}, rounds=10, warmup_rounds=1)
