"""Runs that end too early: what the next one makes of them has the same bytes as one that was never stopped."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fastattn import SentenceTransformer
from fastattn.corpus import embed_file, unfinished, work
from fastattn.runtime.files import replacing
from tests.support.command_line import ROOT
from tests.support.models import C

pytestmark = pytest.mark.jit

# Slices and checkpoints that are small beside the work, and an encoder that takes its time: each point of a run can be hit.
SLOWLY = """
import sys, time
import fastattn.text.streaming as streaming
from fastattn.corpus import embed_file, unfinished
from fastattn.text.pipeline import Pipeline
streaming._SLICE = 8
unfinished._EVERY = 0.05
embeddings = Pipeline.embeddings
def slowly(self, *rest):
    time.sleep(0.02)
    return embeddings(self, *rest)
Pipeline.embeddings = slowly
print("begun", flush=True)
embed_file(sys.argv[1], sys.argv[2], sys.argv[3], max_bad=5, resume=True)
print("done", flush=True)
"""


@pytest.fixture
def given(texts: list[str], tmp_path: Path) -> Path:
    """Return a Parquet file with two bad rows."""
    rows: list[str | None] = list(texts)
    rows[5] = rows[150] = None
    pq.write_table(pa.table({"text": rows, "id": range(len(rows))}), tmp_path / "in.parquet", row_group_size=64)
    return tmp_path / "in.parquet"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastattn.text.streaming._SLICE", 8)
    monkeypatch.setattr(unfinished, "_EVERY", 0.0)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def kill(child: "subprocess.Popen[str]", partial: Path, rows: int, rng: random.Random) -> None:
    """Kill a run a moment after it has written so many vectors."""
    vectors = partial / "vectors"
    while child.poll() is None and not (vectors.exists() and vectors.stat().st_size >= rows * 4 * C):
        time.sleep(0.002)
    time.sleep(rng.uniform(0.0, 0.03))
    child.kill()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="kills processes")
def test_killed_at_any_point(given: Path, folder: Path, tmp_path: Path) -> None:
    """A run that is killed again and again, each time somewhere else, ends with the bytes of a run in one piece."""
    name, kills = "out.parquet", 3
    for each in ("whole", "killed"):
        (tmp_path / each).mkdir()
    embed_file(given, tmp_path / "whole" / name, folder, max_bad=5)
    command = [sys.executable, "-c", SLOWLY, str(given), str(tmp_path / "killed" / name), str(folder)]
    rng, done, rows = random.Random(name), False, []
    for trial in range(kills + 2):
        with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "begun\n"
            # The last runs are left alone, else a slow machine would never end.
            if trial < kills:
                kill(child, tmp_path / "killed" / f"{name}.partial", int(198 * (trial + rng.random()) / kills), rng)
            done = child.stdout.readline() == "done\n"
        saved = tmp_path / "killed" / f"{name}.partial" / "progress.json"
        rows.append(json.loads(saved.read_text())["rows"] if saved.exists() else 0)
        if done:
            break
    assert done
    assert rows[:-1] == sorted(rows[:-1]) and max(rows) > 0
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


def test_files_that_a_killed_run_was_writing_are_removed(given: Path, folder: Path, tmp_path: Path) -> None:
    for end in ("", ".rejects.jsonl", ".json"):
        (tmp_path / f".out.parquet{end}.0123456789ab.tmp").write_bytes(b"x")
    embed_file(given, tmp_path / "out.parquet", folder, max_bad=5)
    assert not list(tmp_path.glob(".out*"))


def test_runs_beside_each_other_whose_long_names_begin_alike(given: Path, model: SentenceTransformer, tmp_path: Path) -> None:
    """The start of one run removes what killed runs of its own output left, not what another run is writing."""
    first, second = (tmp_path / f"english-wikipedia-2024-06-paragraphs-minilm-l6-v2-shard-{i:02}.parquet" for i in (1, 2))
    with replacing(first) as file:
        file.write(b"first")
        embed_file(given, second, model, max_bad=5)
    assert first.read_bytes() == b"first" and second.exists()


class Stop(BaseException):
    """Stands for a kill: nothing catches it."""


def steps() -> dict[str, tuple[Any, str]]:
    """Return functions of a run, by what they do."""
    return {
        "the survey": (work.Survey, "__init__"),
        "a checkpoint": (unfinished.Unfinished, "save"),
        "a vector": (unfinished.Unfinished, "write"),
        "the first byte of the output": (work, "writer"),
        "the sidecar": (work, "write_sidecar"),
        "the bad rows": (work, "write_file"),
        "the clean-up": (shutil, "rmtree"),
    }


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", steps())
def test_stopped_at_a_step(
    step: str, when: str, given: Path, folder: Path, model: SentenceTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the process was killed: no clean-up runs."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    embed_file(given, tmp_path / "a" / "x.npy", model, max_bad=5)
    owner, name = steps()[step]
    inner = getattr(owner, name)
    calls = [0]

    def stopped(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        last = calls[0] == (30 if step == "a vector" else 3 if step == "a checkpoint" else 1)
        if when == "before" and last:
            raise Stop
        found = inner(*args, **kwargs)
        if when == "after" and last:
            raise Stop
        return found

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, stopped)
        # A killed process does nothing any more; the system closes its files.
        leave, unlink = unfinished.Unfinished.__exit__, Path.unlink

        def killed(self: Any, kind: Any, *rest: Any) -> None:
            for file in [self._lock, *([self._file] if hasattr(self, "_file") else [])]:
                file.close()

        patched.setattr(
            unfinished.Unfinished, "__exit__", lambda self, kind, *rest: killed(self, kind) if kind else leave(self, kind, *rest)
        )
        patched.setattr(Path, "unlink", lambda self, **more: None if self.suffix == ".tmp" else unlink(self, **more))
        with pytest.raises(Stop):
            embed_file(given, tmp_path / "b" / "x.npy", model, max_bad=5)
    report = embed_file(given, tmp_path / "b" / "x.npy", model, max_bad=5, resume=True)
    assert content(tmp_path / "b") == content(tmp_path / "a")
    assert report.texts == 198
    if step in ("the first byte of the output", "the sidecar"):
        assert report.done_before == 198
    # A finished run is left as it is.
    before = (tmp_path / "b" / "x.npy").stat().st_mtime_ns
    assert embed_file(given, tmp_path / "b" / "x.npy", model, max_bad=5, resume=True).done_before == 198
    assert (tmp_path / "b" / "x.npy").stat().st_mtime_ns == before


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_stopped_when_the_input_was_replaced(
    when: str, suffix: str, given: Path, model: SentenceTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In place, the input is another file from then on: it is not computed anew, and its bad rows are still known."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        if suffix == "parquet":
            shutil.copy(given, tmp_path / name / "x.parquet")
        else:
            lines = [json.dumps(row) for row in pq.read_table(given).to_pylist()]
            (tmp_path / name / "x.jsonl").write_text("\n\n".join(lines))
    whole, path = tmp_path / "a" / f"x.{suffix}", tmp_path / "b" / f"x.{suffix}"
    embed_file(whole, whole, model, max_bad=5, overwrite=True)
    replace, computed = Path.replace, [0]

    def stopped(self: Path, target: Path) -> Path:
        if target != path:
            return replace(self, target)
        if when == "after":
            replace(self, target)
        raise Stop

    def killed(self: Any, *rest: Any) -> None:
        self._lock.close()
        self._file.close()

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", stopped)
        patched.setattr(unfinished.Unfinished, "__exit__", killed)
        with pytest.raises(Stop):
            embed_file(path, path, model, max_bad=5, overwrite=True)
    write = unfinished.Unfinished.write

    def counted(*args: Any) -> None:
        computed[0] += 1
        write(*args)

    monkeypatch.setattr(unfinished.Unfinished, "write", counted)
    report = embed_file(path, path, model, max_bad=5, overwrite=True, resume=True)
    assert (report.texts, report.done_before, computed[0]) == (198, 198, 0)
    moved = {name: raw.replace(str(path).encode(), str(whole).encode()) for name, raw in content(tmp_path / "b").items()}
    assert moved == content(tmp_path / "a")
    # Another setting is other work.
    assert embed_file(path, path, model, max_bad=5, overwrite=True, resume=True, normalize_embeddings=True).done_before == 0


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("where", ["vectors", "output"])
def test_full_disk(
    where: str, given: Path, folder: Path, model: SentenceTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "x.parquet"
    calls = [0]

    def full(inner: Callable[..., Any]) -> Callable[..., Any]:
        def write(*args: Any) -> Any:
            calls[0] += 1
            if calls[0] == (100 if where == "vectors" else 1):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return inner(*args)

        return write

    with monkeypatch.context() as patched:
        owner, name = (unfinished.Unfinished, "write") if where == "vectors" else (work.Work, "_read")
        patched.setattr(owner, name, full(getattr(owner, name)))
        with pytest.raises(OSError, match=r"No space left on device: '.*x\.parquet'"):
            embed_file(given, out, model, max_bad=5)
    assert {path.name for path in tmp_path.iterdir()} == {"in.parquet", "x.parquet.partial"}
    report = embed_file(given, out, model, max_bad=5, resume=True)
    assert report.done_before == (96 if where == "vectors" else 198)
    assert report.tokens == embed_file(given, tmp_path / "y.parquet", model, max_bad=5).tokens
    assert out.read_bytes() == (tmp_path / "y.parquet").read_bytes()


def leave_unfinished(given: Path, out: Path, model: Any, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
    """Leave a run behind whose output cannot be written."""

    def full(*args: Any) -> Any:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patched:
        patched.setattr(work.Work, "_write", full)
        with pytest.raises(OSError, match="full"):
            embed_file(given, out, model, max_bad=5, **options)


def test_what_is_not_continued(
    given: Path, folder: Path, model: SentenceTransformer, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "x.npy"
    leave_unfinished(given, out, model, monkeypatch)
    options: dict[str, Any] = {"max_bad": 5, "resume": True}
    with pytest.raises(ValueError, match=r"x\.npy\.partial: has 198 of 198 texts of a run that did not finish: --resume continues"):
        embed_file(given, out, model, max_bad=5)
    for more, why in (
        ({"truncate_dim": 4}, r"a setting is another one \(truncate_dim: None, now 4\)"),
        ({"prompt": "the "}, "a setting is another one"),
        ({"output_precision": "float16"}, "a setting is another one"),
        ({"max_bad": 7}, "an option is another one"),
        ({"template": "{text}"}, "an option is another one"),
    ):
        with pytest.raises(ValueError, match=rf"x\.npy\.partial: cannot be continued: {why}"):
            embed_file(given, out, model, **{**options, **more})
    other = shutil.copytree(folder, tmp_path / "other")
    (other / "1_Pooling" / "config.json").write_text('{"word_embedding_dimension": 32, "pooling_mode_cls_token": true}')
    with pytest.raises(ValueError, match=r"cannot be continued: the model is another one \(hash"):
        embed_file(given, out, other, **options)
    with pytest.raises(ValueError, match=r"cannot be continued: the model is another one \(precision: 'float32', now 'int8'\)"):
        embed_file(given, out, folder, precision="int8", **options)
    before = given.read_bytes()
    # Another column beside the text is other data too.
    pq.write_table(pq.read_table(given).append_column("n", pa.array(range(200))), given)
    with pytest.raises(ValueError, match="cannot be continued: the data is another one"):
        embed_file(given, out, model, **options)
    given.write_bytes(before)
    monkeypatch.setattr("fastattn.corpus.job.__version__", "9.9")
    with pytest.raises(ValueError, match="cannot be continued: the version of fastattn is another one"):
        embed_file(given, out, model, **options)
    monkeypatch.undo()
    assert embed_file(given, out, model, **options).done_before == 198
    assert np.array_equal(np.load(out), model.encode([text for i, text in enumerate(texts) if i not in (5, 150)]))


def test_what_is_not_overwritten(given: Path, model: SentenceTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "x.npy"
    out.write_bytes(b"old")
    for resume in (False, True):
        with pytest.raises(ValueError, match=r"x\.npy: is (there already|not of this run): .*--overwrite to replace it"):
            embed_file(given, out, model, max_bad=5, resume=resume)
    assert content(tmp_path) == {"in.parquet": given.read_bytes(), "x.npy": b"old"}
    leave_unfinished(given, out, model, monkeypatch, overwrite=True)
    assert out.read_bytes() == b"old"
    # The run that is continued was allowed to replace it.
    embed_file(given, out, model, max_bad=5, resume=True)
    whole = out.read_bytes()
    with pytest.raises(ValueError, match="is not of this run: a setting is another one"):
        embed_file(given, out, model, max_bad=5, resume=True, truncate_dim=4)
    leave_unfinished(given, tmp_path / "y.npy", model, monkeypatch)
    (tmp_path / "y.npy").write_bytes(b"of somebody else")
    with pytest.raises(ValueError, match=r"y\.npy: is not of this run: there is no manifest"):
        embed_file(given, tmp_path / "y.npy", model, max_bad=5, resume=True)
    report = embed_file(given, tmp_path / "y.npy", model, max_bad=5, overwrite=True)
    assert report.done_before == 0 and (tmp_path / "y.npy").read_bytes() == whole


def test_two_runs_at_a_time(given: Path, model: SentenceTransformer, tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    out = tmp_path / "x.npy"
    with unfinished.Unfinished(out, resume=True, overwrite=False):
        with pytest.raises(ValueError, match="another process is writing"):
            embed_file(given, out, model, max_bad=5, resume=True)
    embed_file(given, out, model, max_bad=5, resume=True)


def test_input_that_changes(given: Path, model: SentenceTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is written to while it is read is found out, whether rows or texts become others."""
    compute = work.Work._compute
    for texts, message in ((["a"] * 199, "has changed while it was read"), (["a"] * 198, "has changed while it was read")):
        before = given.read_bytes()

        def changed(self: Any, facts: dict[str, str], texts: list[str] = texts) -> float:
            found = compute(self, facts)
            pq.write_table(pa.table({"text": texts}), given)
            return found

        monkeypatch.setattr(work.Work, "_compute", changed)
        with pytest.raises(ValueError, match=message):
            embed_file(given, tmp_path / "x.npy", model, max_bad=5)
        given.write_bytes(before)
        assert list(content(tmp_path)) == ["in.parquet"]


@pytest.mark.usefixtures("small")
def test_input_that_changes_in_a_run_that_is_continued(
    given: Path, model: SentenceTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The vectors of the earlier run stay, those since then may be of other texts."""
    out, before, write, calls = tmp_path / "x.npy", given.read_bytes(), unfinished.Unfinished.write, [0]

    def full(*args: Any) -> None:
        calls[0] += 1
        if calls[0] == 100:
            raise OSError(errno.ENOSPC, "full")
        write(*args)

    with monkeypatch.context() as patched:
        patched.setattr(unfinished.Unfinished, "write", full)
        with pytest.raises(OSError, match="full"):
            embed_file(given, out, model, max_bad=5)
    begin = unfinished.Unfinished.begin

    def changed(*args: Any) -> None:
        begin(*args)
        pq.write_table(pa.table({"text": ["the cat"] * 198}), given)

    with monkeypatch.context() as patched:
        patched.setattr(unfinished.Unfinished, "begin", changed)
        with pytest.raises(ValueError, match="has changed while it was read"):
            embed_file(given, out, model, max_bad=5, resume=True)
    given.write_bytes(before)
    assert embed_file(given, out, model, max_bad=5, resume=True).done_before == 96
    embed_file(given, tmp_path / "y.npy", model, max_bad=5)
    assert out.read_bytes() == (tmp_path / "y.npy").read_bytes()
