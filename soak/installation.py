"""Installation: the wheel and the sdist in new environments, on each Python with the oldest and the newest dependencies."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from soak import Row

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
PIP = ("-m", "pip", "--disable-pip-version-check")


class Installed(NamedTuple):
    """Virtual environment with the package installed."""

    python: Path
    seconds: float


class Failure(Exception):
    """Failed step of an installation; the message names the step and ends with its last lines of output."""


def run(scale: float) -> list[Row]:
    """Install on every Python; below scale 0.1, only the wheel, with this environment's dependencies."""
    work = Path(tempfile.mkdtemp(prefix="fastattn-install-"))
    try:
        sdist, wheel = build(work)
        if scale < 0.1:
            return [
                _row(
                    "the wheel, this Python, dependencies as they are, without tbb, then without libgomp too",
                    lambda: beside(work, wheel),
                )
            ]
        return list(matrix(work, sdist, wheel))
    except Failure as failure:
        return [Row("sdist and wheel build", str(failure), "they do", False)]
    finally:
        shutil.rmtree(work, ignore_errors=True)


def build(work: Path) -> tuple[Path, Path]:
    """Build the sdist, and the wheel from it."""
    # Build isolation downloads hatchling, unless it is installed here.
    alone = ["--no-isolation"] if importlib.util.find_spec("hatchling") else []
    _call("build", [sys.executable, "-m", "build", *alone, "--outdir", str(work / "dist"), str(ROOT)])
    (sdist,), (wheel,) = ([*(work / "dist").glob(pattern)] for pattern in ("*.tar.gz", "*.whl"))
    return sdist, wheel


def matrix(work: Path, sdist: Path, wheel: Path) -> Iterator[Row]:
    """Yield rows for each Python with the oldest and newest dependencies, then without libtbb, without libgomp, from the sdist."""
    for version in PYTHONS:
        python = find_python(version)
        if python is None:
            yield Row(f"Python {version}", "not on this machine", "is tried", False)
            continue
        for age in ("oldest", "newest"):
            folder = work / f"{version}-{age}"
            yield _row(f"Python {version}, {age} dependencies", lambda: in_new(folder, python, wheel, age))  # noqa: B023
            if version == PYTHONS[-1] and age == "newest" and folder.exists():
                yield _row("without tbb", lambda: without(folder, {}))  # noqa: B023
                yield _row("without tbb and libgomp", lambda: without(folder, no_libgomp(work)))  # noqa: B023
                yield _row("the sdist", lambda: from_sdist(folder, sdist))  # noqa: B023
            shutil.rmtree(folder, ignore_errors=True)


def in_new(folder: Path, python: str, wheel: Path, age: str) -> str:
    """Install the wheel in a new environment, check it and use it."""
    began = time.perf_counter()
    ours = new(folder, python)
    pins = [f"{name}=={oldest(ours, name, bound)}" for name, bound in bounds()] if age == "oldest" else []
    _call("pip install", [ours, *PIP, "install", "-q", "--only-binary", ":all:", str(wheel), *pins])
    installed = time.perf_counter() - began
    return f"{verify(folder)}; installed in {installed:.0f} s"


def verify(folder: Path, environment: dict[str, str] | None = None, *arguments: str, layers: tuple[str, ...] = ("tbb",)) -> str:
    """Run pip check, a silent import and the smoke script with the environment's Python, away from the sources."""
    python = str(folder / "bin" / "python")
    if not arguments:
        _call("pip check", [python, *PIP, "check"])
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "NUMBA", "PIP_TARGET"))}
    settings = {**clean, "NUMBA_CACHE_DIR": str(folder / "kernels"), **(environment or {})}
    said = _call("import", [python, "-W", "error", "-c", "import fastattn"], cwd=folder, env=settings)
    if said:
        raise Failure(f"import says {said[-200:]}")
    # The script runs from a copy: Python searches a script's own folder first, and soak/ has modules with standard names.
    script = shutil.copy(ROOT / "soak" / "_smoke.py", folder / "smoke.py")
    command = [python, "-W", "error", str(script), str(ROOT), *arguments]
    output = _call("smoke script", command, cwd=folder, env=settings)
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    if found["wrong"]:
        raise Failure("; ".join(found["wrong"]))
    if found["layer"] not in layers:
        raise Failure(f"threading layer {found['layer']}, not {' or '.join(layers)}")
    return ", ".join(f"{name} {version}" for name, version in found["versions"].items()) + f"; layer {found['layer']}"


def without(folder: Path, environment: dict[str, str]) -> str:
    """Uninstall tbb: the threading layer must then be omp, or workqueue without libgomp."""
    python = str(folder / "bin" / "python")
    _call("pip uninstall", [python, *PIP, "uninstall", "-qy", "tbb"])
    return verify(folder, environment, "all", layers=("workqueue",) if environment else ("omp", "workqueue"))


def no_libgomp(work: Path) -> dict[str, str]:
    """Return environment variables under which libgomp cannot be loaded: the first file found by its name is empty."""
    folder = work / "no-libgomp"
    folder.mkdir(exist_ok=True)
    for name in ("libgomp.so.1", "libgomp.so.1.0.0"):
        (folder / name).write_bytes(b"")
    return {"LD_LIBRARY_PATH": str(folder)}


def from_sdist(folder: Path, sdist: Path) -> str:
    """Install the sdist over the wheel, and again the dependencies that `without` uninstalled."""
    python = str(folder / "bin" / "python")
    _call("pip install", [python, *PIP, "install", "-q", "--force-reinstall", "--no-deps", str(sdist)])
    _call("pip install", [python, *PIP, "install", "-q", "fastattn"])
    return verify(folder)


def beside(work: Path, wheel: Path) -> str:
    """Install the wheel alone in an environment that borrows this one's packages: without libtbb, then without libgomp too."""
    folder = work / "beside"
    _call("venv", [sys.executable, "-m", "venv", "--without-pip", str(folder)])
    python = str(folder / "bin" / "python")
    _call("pip install", [sys.executable, *PIP, "--python", python, "install", "-q", "--no-deps", "--no-index", str(wheel)])
    where = "import numpy, pathlib; print(pathlib.Path(numpy.__file__).parents[1])"
    borrowed = _call("numpy", [sys.executable, "-c", where]).strip()
    (next(folder.glob("lib/python*/site-packages")) / "borrowed.pth").write_text(borrowed + "\n", "utf-8")
    said = verify(folder, None, "quick", layers=("omp", "workqueue"))
    verify(folder, no_libgomp(work), "quick", layers=("workqueue",))
    return said + ", then workqueue"


def new(folder: Path, python: str) -> str:
    """Make a virtual environment and return its interpreter."""
    _call("venv", [python, "-m", "venv", str(folder)])
    return str(folder / "bin" / "python")


def bounds() -> list[tuple[str, str]]:
    """Return the dependencies and their lowest versions, from pyproject.toml."""
    text = (ROOT / "pyproject.toml").read_text("utf-8").partition("\ndependencies = [")[2].partition("\n]")[0]
    return re.findall(r'^ *"([\w-]+)>=([\d.]+)', text, re.M)


def oldest(python: str, name: str, bound: str) -> str:
    """Return the lowest version of at least `bound` that has a wheel for this Python."""
    said = _call("pip index", [python, *PIP, "index", "versions", name])
    versions = re.findall(r"\d[\d.]*(?=,|$)", said.partition("Available versions:")[2].splitlines()[0])
    order = {version: tuple(map(int, version.split("."))) for version in versions if re.fullmatch(r"[\d.]+", version)}
    lowest = tuple(map(int, bound.split(".")))
    for version in sorted((v for v in order if order[v] >= lowest), key=lambda v: order[v]):
        # A dry run checks for a wheel: the index lists versions that have only an sdist too.
        trial = [python, *PIP, "install", "--dry-run", "-q", "--no-deps", "--only-binary", ":all:", f"{name}=={version}"]
        if not subprocess.run(trial, capture_output=True, timeout=600, check=False).returncode:
            return version
    raise Failure(f"{name}: no wheel of {bound} or later")


def find_python(version: str) -> str | None:
    """Return an interpreter of that version: pyenv's, or else the first on PATH."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = sorted(root.glob(f"{version}.*/bin/python")) if root.is_dir() else []
    return str(found[-1]) if found else shutil.which(f"python{version}")


def _row(what: str, trial: Any) -> Row:
    try:
        return Row(what, trial(), "installs, pip check, silent import, right results", True)
    except Failure as failure:
        return Row(what, str(failure), "installs, pip check, silent import, right results", False)


def _call(what: str, command: list[str], **options: Any) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, **options)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        raise Failure(f"{what}: {' / '.join(lines[-3:])}"[:500])
    return done.stdout
