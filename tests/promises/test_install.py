"""Installation: declared dependencies, a lean import, one version."""

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from soak import installation
from tests.support.layout import imports, package

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
HEAVY = (
    "huggingface_hub", "matplotlib", "pyarrow", "safetensors", "scipy", "sentence_transformers", "tokenizers", "torch",
    "tqdm", "transformers", "typer",
)  # fmt: skip
# Imported packages that a declared dependency installs.
BROUGHT_BY = {"llvmlite": "numba", "rich": "typer"}
# Imported packages that are named otherwise than what installs them.
INSTALLED_AS = {"llama_index": "llama_index_core"}
# Modules, by their first words, that only a call imports which needs their library.
ON_CALL = ("pytorch.", "checkpoint.torch_", "cli.attention_figure", "integrations.", "ray.", "serve.")


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[^\w-]", requirement)[0].replace("-", "_").lower() for requirement in requirements}


def run(code: str, **environment: str) -> str:
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


def test_import_is_lean_and_silent() -> None:
    loaded = run("import fastattn, sys; print(*sys.modules)").split()
    assert "fastattn" in loaded and "numba" in loaded
    assert not set(HEAVY) & set(loaded)


def test_every_listed_name_is_there() -> None:
    """`modules` and `integrations` are imported on their first use."""
    code = (
        "import fastattn, sys; loaded = 'fastattn.integrations' in sys.modules; [getattr(fastattn, name) for name in dir(fastattn)]"
    )
    assert run(f"{code}; print(loaded, fastattn.modules.Normalize.__name__)").split() == ["False", "Normalize"]


def test_import_compiles_nothing(tmp_path: Path) -> None:
    count = """
from numba import njit
from numba.core import event
with event.install_recorder("numba:compile") as compiled:
    {}
print(bool(compiled.buffer))
"""
    # Empty cache: kernels loaded from disk would not count as compiled.
    assert run(count.format("import fastattn"), NUMBA_CACHE_DIR=str(tmp_path)) == "False\n"
    assert run(count.format("njit(lambda x: x)(1)")) == "True\n"


def test_every_import_is_declared() -> None:
    core = names(project()["dependencies"])
    optional = core.union(*map(names, project()["optional-dependencies"].values()))
    modules = package(ROOT)
    for source, line, target, local in imports(modules):
        top = target.partition(".")[0]
        if top not in sys.stdlib_module_names and target not in modules:
            declared = optional if local or source.startswith(ON_CALL) else core
            assert INSTALLED_AS.get(top, BROUGHT_BY.get(top, top)) in declared, f"{source}:{line} imports {top}"


def test_dependencies_bring_what_is_imported() -> None:
    for name, dependency in BROUGHT_BY.items():
        required = [x for x in importlib.metadata.requires(dependency) or () if ";" not in x]
        assert name in names(required)


def test_one_version() -> None:
    import fastattn

    assert fastattn.__version__ == project()["version"]
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (\S+)", changes, re.M)[0] == project()["version"]


def test_command_is_there() -> None:
    module, _, name = project()["scripts"]["fastattn"].partition(":")
    assert run(f"import {module}; print(callable({module}.{name}))") == "True\n"


@pytest.mark.jit
def test_the_wheel_from_the_sdist_works_without_tbb_and_libgomp(tmp_path: Path) -> None:
    """The wheel works in a new environment that borrows this one's packages, with warnings as errors."""
    pytest.importorskip("build")
    _, wheel = installation.build(tmp_path)
    assert installation.beside(tmp_path, wheel).endswith(", then workqueue")


def test_lowest_versions_are_read_from_the_project() -> None:
    assert dict(installation.bounds()).keys() == {re.split(r"[^\w-]", x)[0] for x in project()["dependencies"]}
