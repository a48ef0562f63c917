"""Selection of the tests that need the peers, and its place in the Makefile and in CI."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.peers import ROOT, needs, needs_peers, peers

HEAD = "import pytest\n"
IMPORT = 'pytest.importorskip("torch")'


def test_peers_are_those_of_the_extras() -> None:
    assert {"torch", "transformers", "sentence_transformers", "onnxruntime", "keybert", "langchain_core"} <= peers()
    assert not {"numpy", "matplotlib", "gunicorn"} & peers()


@pytest.mark.parametrize(
    ("text", "fixtures", "needed"),
    [
        (f"def test_it():\n    {IMPORT}", [], True),
        (f"class TestIt:\n    def test_it(self):\n        {IMPORT}", [], True),
        (f"def load():\n    {IMPORT}\ndef test_it():\n    load()", [], True),
        (f"def load():\n    {IMPORT}\ndef run():\n    load()\ndef test_it():\n    run()", [], True),
        (f"def peer():\n    {IMPORT}\ndef test_it(peer): pass", ["peer"], True),
        (f"def peer():\n    {IMPORT}\ndef test_it(): pass", ["peer"], True),  # an autouse fixture
        ('def load(name):\n    pytest.importorskip(name)\ndef test_it():\n    load("keybert")', [], True),
        (f"torch = {IMPORT}\ndef test_it(): pass", [], True),
        (f"def load():\n    {IMPORT}\nload()\ndef test_it(): pass", [], True),
        (f"def test_other():\n    {IMPORT}\ndef test_it(): pass", [], False),
        ('def test_it():\n    pytest.importorskip("matplotlib.image")', [], False),
    ],
)
def test_what_needs_a_peer(text: str, fixtures: list[str], needed: bool, tmp_path: Path) -> None:
    path = tmp_path / "test_it.py"
    path.write_text(HEAD + text, "utf-8")
    assert needs_peers(path, "test_it", fixtures) is needed


def test_every_file_that_imports_a_peer_has_tests_that_need_it() -> None:
    files = [path for path in (ROOT / "tests").rglob("test_*.py") if path != Path(__file__)]
    files = [path for path in files if 'importorskip("torch")' in path.read_text("utf-8")]
    assert len(files) > 10
    for path in files:
        found = needs(path)
        assert found.everywhere or any(name.startswith("test_") for name in found.functions), path


def test_a_skip_without_the_mark_fails(tmp_path: Path) -> None:
    """The peer is imported where the rule does not look: in another file."""
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text("utf-8"), "utf-8")
    (tmp_path / "elsewhere.py").write_text(HEAD + 'def load(): pytest.importorskip("onnxruntime.not_there")', "utf-8")
    (tmp_path / "test_it.py").write_text("import elsewhere\n\ndef test_it():\n    elsewhere.load()\n", "utf-8")
    options = ["-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(tmp_path), str(tmp_path)]
    paths = os.pathsep.join((str(ROOT), str(tmp_path)))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options],
        env={**os.environ, "PYTHONPATH": paths}, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and "1 failed" in done.stdout, done.stdout + done.stderr
    assert "needs onnxruntime: tests/support/peers.py finds no importorskip of it" in done.stdout


def test_make_and_ci_run_them() -> None:
    assert "-m pytest -m peers" in (ROOT / "Makefile").read_text("utf-8")
    assert "make test-peers" in (ROOT / ".ci" / "run").read_text("utf-8")
