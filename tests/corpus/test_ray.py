"""Ray: a cluster of two nodes on this machine gives the vectors and the files of one process, whatever dies meanwhile."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from fastattn import SentenceTransformer, quantize_embeddings
from fastattn.cli.app import app
from fastattn.corpus import embed_file
from fastattn.ray import Engine, cluster, embed_dataset, engine
from fastattn.ray.worker import Worker, model_name
from fastattn.runtime.threads import thread_count
from tests.support.command_line import ROOT
from tests.support.models import C

# Ray warns of itself.
pytestmark = [pytest.mark.jit, pytest.mark.filterwarnings("default")]

SLOWLY = """
import sys, time
from fastattn.corpus import embed_file, unfinished
from fastattn.ray import Engine, engine
engine._PART = 100
unfinished._EVERY = 0.0
with Engine(sys.argv[4], actors=2) as ray:
    embed_file(sys.argv[1], sys.argv[2], sys.argv[3], max_bad=5, resume=True, engine=ray, progress=lambda _: time.sleep(0.1))
"""


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """Start a cluster of a node of two CPUs and a node of one."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", str(ROOT))
        patched.setenv("RAY_USAGE_STATS_ENABLED", "0")
        memory = 100 * 2**20
        found = Cluster(True, head_node_args={"num_cpus": 2, "object_store_memory": memory, "include_dashboard": False})
        found.small = {"num_cpus": 1, "object_store_memory": memory}
        found.second = found.add_node(**found.small)
        found.wait_for_nodes()
        yield found
        found.shutdown()


@pytest.fixture
def connected(nodes: Any) -> Iterator[Any]:
    import ray

    ray.init(nodes.address, log_to_driver=False, logging_level="ERROR")
    yield ray
    ray.shutdown()


@pytest.fixture
def given(texts: list[str], tmp_path: Path) -> Path:
    rows: list[str | None] = list(texts)
    rows[5] = rows[150] = None
    pq.write_table(pa.table({"text": rows, "id": range(len(rows))}), tmp_path / "in.parquet", row_group_size=64)
    return tmp_path / "in.parquet"


@pytest.fixture
def whole(given: Path, folder: Path, tmp_path: Path) -> dict[str, bytes]:
    """Return the files of a job of one process."""
    (tmp_path / "whole").mkdir()
    embed_file(given, tmp_path / "whole" / "out.parquet", folder, max_bad=5)
    return content(tmp_path / "whole")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "ray").mkdir()
    return tmp_path / "ray" / "out.parquet"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_PART", 100)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("nodes", "actors", "num_cpus", "spare", "found"),
    [
        ([8.0, 8.0], None, None, 1, (2, 7.0)),
        ([8.0, 8.0], None, None, 0, (2, 8.0)),
        ([8.0, 4.0], None, None, 0, (3, 4.0)),
        ([2.0], None, None, 1, (1, 1.0)),
        ([2.0], 2, None, 0, (2, 1.0)),
        ([4.0], 3, 1, 1, (3, 1)),
        ([1.0], 1, 0.5, 0, (1, 0.5)),
        ([1.0], 10, 0.1, 0, (10, 0.1)),
        ([1.0, 2.0], None, 0.1, 0, (30, 0.1)),
    ],
)
def test_plan(nodes: list[float], actors: int | None, num_cpus: float | None, spare: int, found: tuple[int, float]) -> None:
    assert cluster.plan(nodes, actors, num_cpus, spare) == found


@pytest.mark.parametrize(
    ("nodes", "actors", "num_cpus", "message"),
    [
        (
            [2.0],
            2,
            1,
            "2 actors of 1 CPUs do not fit: the cluster has 2 CPUs in 1 node, of which reading and writing need one: act",
        ),
        (
            [1.0],
            None,
            None,
            "1 actor of 1 CPUs do not fit: the cluster has 1 CPUs in 1 node, of which .* smaller num_cpus, such as",
        ),
        # A node holds one actor of five CPUs.
        ([8.0, 8.0], 3, None, "3 actors of 5 CPUs do not fit: .*: actors=2, or a smaller num_cpus"),
        ([], None, None, "the cluster has 0 CPUs in 0 nodes"),
        ([2.0], 0, None, "actors must be a positive integer or None, got 0"),
        ([2.0], 1, -1, "num_cpus must be positive or None, got -1"),
        ([2.0], 1, float("nan"), "num_cpus must be positive or None, got nan"),
        ([2.0], 1, "1", "num_cpus must be positive or None, got '1'"),
        ([2.0], 1, True, "num_cpus must be positive or None, got True"),
    ],
)
def test_plans_that_would_wait_for_ever(nodes: list[float], actors: Any, num_cpus: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cluster.plan(nodes, actors, num_cpus, spare=1)


def test_without_ray(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "ray.data", None)
    for call in (Engine, lambda: embed_dataset(None)):
        with pytest.raises(ImportError, match=r"Ray cannot be imported .*: pip install 'fastattn\[ray\]'"):
            call()
    for options, message in (
        (["--engine", "ray"], "fastattn[ray]"),
        (["--engine", "x"], "--engine must be ray, got 'x'"),
        (["--address", "a:1"], "--address goes with --engine ray"),
        (["--actors", "2"], "--actors goes with --engine ray"),
    ):
        done = CliRunner().invoke(app, ["embed", "in.txt", "-o", str(tmp_path / "x.npy"), *options])
        assert done.exit_code == 2 and message in " ".join(done.output.split())


@pytest.mark.parametrize("answer", [None, b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", "silence"])
def test_addresses_without_a_cluster(answer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed port, a server of something else, and one that never answers."""
    monkeypatch.setattr(cluster, "_PATIENCE", 0.3)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{server.getsockname()[1]}"

        def serve() -> None:
            peer, _ = server.accept()
            with peer:
                peer.recv(100)
                time.sleep(1.0) if answer == "silence" else peer.sendall(answer)

        if answer is not None:
            server.listen()
            threading.Thread(target=serve, daemon=True).start()
        with pytest.raises(ConnectionError, match=rf"{address}: (no cluster of Ray can be reached|what answers there is no cl)"):
            cluster._check_reachable(f"ray://{address}")
    with pytest.raises(ValueError, match=r"address must be HOST:PORT, .*, got 'nonsense'"):
        cluster._check_reachable("nonsense")


def test_an_empty_address_starts_no_cluster() -> None:
    pytest.importorskip("ray")
    with pytest.raises(ValueError, match=r"address must be HOST:PORT, .*, got ''"):
        Engine("")


def test_command_without_a_cluster(given: Path, folder: Path, out: Path) -> None:
    pytest.importorskip("ray")
    start = time.monotonic()
    command = ["embed", str(given), "-o", str(out), "-m", str(folder), "--engine", "ray", "--address", "127.0.0.1:1"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 2 and "127.0.0.1:1: no cluster of Ray can be reached" in " ".join(done.output.split())
    assert time.monotonic() - start < 10.0 and not list(out.parent.iterdir())


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_dataset(precision: str, connected: Any, texts: list[str], model: SentenceTransformer, tmp_path: Path) -> None:
    vectors = model.encode(texts, normalize_embeddings=True)
    ranges = np.stack([vectors.min(axis=0), vectors.max(axis=0)])
    wanted = quantize_embeddings(vectors, precision, ranges)  # type: ignore[arg-type]
    # An empty block is among these.
    ds = connected.data.from_arrow([pa.table({"body": texts[a:b], "id": range(a, b)}) for a, b in ((0, 90), (90, 90), (90, 200))])
    made = embed_dataset(
        ds, "body", model, normalize_embeddings=True, output_precision=precision, ranges=ranges, batch_size=37, actors=2, num_cpus=1
    )
    made.write_parquet(str(tmp_path / "out"))
    table = pq.read_table(tmp_path / "out").sort_by("id")
    assert table["id"].to_pylist() == list(range(200)) and table["body"].to_pylist() == texts
    column = table["embedding"].combine_chunks()
    assert column.type == pa.list_(pa.from_numpy_dtype(wanted.dtype), wanted.shape[1])
    assert column.flatten().to_numpy().tobytes() == wanted.tobytes()


def test_dataset_errors(connected: Any, folder: Path, tmp_path: Path) -> None:
    ds = connected.data.from_arrow(pa.table({"text": ["a", None], "n": [1, 2], "embedding": [0, 0]}))
    with pytest.raises(TypeError, match=r"ds must be a ray\.data\.Dataset, got list"):
        embed_dataset(["a"])
    for options, message in (
        ({"output_precision": "int4"}, "output_precision must be one of float32, .*, got 'int4'"),
        ({"output_precision": "int8"}, "'int8' needs ranges"),
        ({"batch_size": 0}, "batch_size must be a positive integer, got 0"),
        ({"actors": 3, "num_cpus": 1}, "3 actors of 1 CPUs do not fit: the cluster has 3 CPUs in 2 nodes, of which reading and"),
        ({"precision": "float8"}, "precision must be"),
    ):
        with pytest.raises(ValueError, match=message):
            embed_dataset(ds, "text", folder, **options)  # type: ignore[arg-type]
    one: dict[str, Any] = {"actors": 1, "num_cpus": 1}
    for column, options, message in (
        ("body", {}, "no column 'body', found columns text, n, embedding"),
        ("text", {"output_column": "v"}, r"column 'text' must be text, and a row is null: leave it out with ds\.filter"),
    ):
        with pytest.raises(Exception, match=message):
            embed_dataset(ds, column, folder, **options, **one).materialize()  # type: ignore[arg-type]
    with pytest.raises(Exception, match=r"gone.* cannot be loaded on node .*; a folder must be on storage that every node sees"):
        embed_dataset(ds, "text", tmp_path / "gone", output_column="v", **one).materialize()


def test_threads_of_an_actor(connected: Any, folder: Path) -> None:
    class Counting(Worker):
        def threads(self) -> int:
            return thread_count()

    name = model_name(folder)
    actor = connected.remote(num_cpus=1)(Counting).remote(name, "float32", 1.0)
    assert connected.get(actor.threads.remote()) == 1
    # Ray says OMP_NUM_THREADS=1 to an actor without `num_cpus`.
    actor = connected.remote(Counting).remote(name, "float32", 2.0)
    assert connected.get(actor.threads.remote()) == min(2, len(os.sched_getaffinity(0)))


@pytest.mark.usefixtures("small")
def test_engine(nodes: Any, given: Path, folder: Path, whole: dict[str, bytes], out: Path) -> None:
    """The command writes the bytes of the plain one, its sidecar and its list of bad rows."""
    command = ["embed", str(given), "-o", str(out), "-m", str(folder), "--max-bad", "5", "--json"]
    done = CliRunner().invoke(app, [*command, "--engine", "ray", "--address", nodes.address, "--actors", "3"])
    assert done.exit_code == 0, done.output
    assert '"texts": 198' in done.output and '"tokens": 0' not in done.output
    assert content(out.parent) == whole


def dying(once: Path | None) -> type[Worker]:
    """Return a worker that is killed by a text in the middle of a job, each time, or once."""

    class Dying(Worker):
        def encode(self, texts: list[str], options: dict[str, Any]) -> Any:
            if any(text.endswith("w20") for text in texts) and not (once and once.exists()):
                if once:
                    once.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().encode(texts, options)

    return Dying


@pytest.mark.usefixtures("small")
def test_actor_killed(
    nodes: Any, given: Path, folder: Path, whole: dict[str, bytes], out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "Worker", dying(tmp_path / "once"))
    with Engine(nodes.address, actors=2) as ray:
        report = embed_file(given, out, folder, max_bad=5, engine=ray)
    assert (tmp_path / "once").exists() and report.done_before == 0
    assert content(out.parent) == whole


@pytest.mark.usefixtures("small")
def test_actors_that_always_die(
    nodes: Any, given: Path, folder: Path, whole: dict[str, bytes], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text that kills its actor ends the job; what came back before is not lost."""
    with monkeypatch.context() as patched, Engine(nodes.address, actors=1) as ray:
        patched.setattr(engine, "_RETRIES", 0)
        patched.setattr(engine, "_PATIENCE", 1.0)
        patched.setattr(engine, "Worker", dying(None))
        with pytest.raises(ConnectionError, match="Ray: actors died, or nodes cannot be reached"):
            embed_file(given, out, folder, max_bad=5, engine=ray)
    report = embed_file(given, out, folder, max_bad=5, resume=True)
    assert 0 < report.done_before < 198
    assert content(out.parent) == whole


def test_driver_killed(nodes: Any, given: Path, folder: Path, whole: dict[str, bytes], out: Path) -> None:
    """A killed run is resumed, here by one without a cluster."""
    command = [sys.executable, "-c", SLOWLY, str(given), str(out), str(folder), nodes.address]
    vectors = out.parent / "out.parquet.partial" / "vectors"
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}) as child:
        while child.poll() is None and not (vectors.exists() and vectors.stat().st_size >= 60 * 4 * C):
            time.sleep(0.01)
        child.kill()
    assert child.returncode == -signal.SIGKILL
    report = embed_file(given, out, folder, max_bad=5, resume=True)
    assert 0 < report.done_before < 198
    assert content(out.parent) == whole


def test_models_of_the_nodes(
    nodes: Any, given: Path, folder: Path, model: SentenceTransformer, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that the nodes lack, or have in another version, is found out before any text is encoded."""
    other = shutil.copytree(folder, tmp_path / "other")
    (other / "1_Pooling" / "config.json").write_text('{"word_embedding_dimension": 32, "pooling_mode_cls_token": true}')
    with Engine(nodes.address, actors=1) as ray:
        for name, error, message in (
            (
                str(tmp_path / "gone"),
                OSError,
                r"model: .*gone cannot be loaded on node .*; a folder must be on storage that every node sees",
            ),
            (str(other), ValueError, "node .* has another model under this name, or another version of it"),
        ):
            monkeypatch.setattr(engine, "model_name", lambda _, name=name: name)
            with pytest.raises(error, match=message):
                embed_file(given, out, model, max_bad=5, engine=ray)
            assert not list(out.parent.iterdir())
        with pytest.raises(ValueError, match=r"address: this process is connected to a cluster already"):
            Engine(nodes.address)


@pytest.mark.usefixtures("small")
def test_node_killed(nodes: Any, given: Path, folder: Path, whole: dict[str, bytes], out: Path) -> None:
    """Three actors take all CPUs: one is on the node that is killed, and goes on on another one."""
    killed = []

    def progress(_: object) -> None:
        if not killed:
            killed.append(nodes.second)
            nodes.remove_node(nodes.second, allow_graceful=False)
            nodes.second = nodes.add_node(**nodes.small)

    with Engine(nodes.address, actors=3) as ray:
        embed_file(given, out, folder, max_bad=5, engine=ray, progress=progress)
    assert killed
    assert content(out.parent) == whole
