"""Jobs of embedding, Parquet to Parquet.

python -m benchmarks.corpus.jobs flat --precision int8 --counts 1000 10000   # time and memory by the number of texts
python -m benchmarks.corpus.jobs resume --kills 30                           # kill -9 at random moments
python -m benchmarks.corpus.jobs ray --texts 4000                            # two actors against the plain command
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.suite.corpus import corpus
from fastattn.corpus import embed_file
from fastattn.corpus.manifest import sidecar_path


def write_texts(path: Path, count: int) -> None:
    """Write `count` texts of mixed length to Parquet: sentences of docstrings, put together anew."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sentences = [part.strip() for text in corpus(2000) for part in text.split(".") if len(part.split()) > 2]
    rng = random.Random(0)
    schema = pa.schema([("id", pa.int64()), ("text", pa.string())])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, count, 10_000):
            ids = range(start, min(count, start + 10_000))
            texts = [". ".join(rng.choices(sentences, k=rng.choice((1, 1, 1, 2, 2, 3, 5)))) for _ in ids]
            writer.write_table(pa.table({"id": ids, "text": texts}, schema=schema))


def job(count: int, precision: Any, folder: Path, name: str | None) -> None:
    """Run a job in this process; print its texts, tokens, CPU seconds, those in kernels, and the peak memory in MiB."""
    from fastattn import SentenceTransformer
    from fastattn.kernels.compile.jit import ParallelKernel

    model = SentenceTransformer(name, precision=precision)
    model.encode(["warm"] * 64)
    call, inside = ParallelKernel.__call__, [0.0]

    def timed(self: Any, *args: Any) -> Any:
        # With one thread a kernel runs in its caller's thread.
        start = time.thread_time()
        found = call(self, *args)
        inside[0] += time.thread_time() - start
        return found

    ParallelKernel.__call__ = timed  # type: ignore[method-assign]
    start = time.process_time()
    report = embed_file(folder / f"{count}.parquet", folder / f"{count}.out.parquet", model, column="text", overwrite=True)
    spent = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(report.texts, report.tokens, spent, inside[0], peak)


def flat(counts: list[int], precision: str, rounds: int, model: str | None) -> None:
    """Print CPU time and memory of jobs of each size, each in a process of one thread, in turns."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for count in counts:
            write_texts(folder / f"{count}.parquet", count)
        found: dict[int, list[list[float]]] = {count: [] for count in counts}
        for _ in range(rounds):
            for count in counts:
                command = [sys.executable, "-m", "benchmarks.corpus.jobs", "job", "--texts", str(count), "--precision", precision]
                command += ["--folder", name, *([] if model is None else ["--model", model])]
                environment = {**os.environ, "OMP_NUM_THREADS": "1"}
                run = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
                found[count].append([float(figure) for figure in run.stdout.split()])
                print(count, run.stdout.strip(), flush=True)
        for count, rows in found.items():
            texts, tokens, spent, inside, peak = np.median(rows, axis=0)
            print(
                f"| {precision} | {count:,} | {texts / spent:.1f} | {tokens / spent:,.0f} | {spent - inside:.1f} s, "
                f"{(spent - inside) / spent:.1%} | {peak:,.0f} |"
            )


def begin(*job: Any) -> int:
    """Start a job in a forked process, which has all modules and the model; return its number."""
    child = os.fork()
    if child == 0:
        # The child ends here, whatever happens: what follows is the parent's.
        status = 1
        try:
            embed_file(*job, column="text", resume=True)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return child


def ended(child: int) -> bool:
    """Wait for a job; tell whether it came to its end before it was killed.  RuntimeError if it failed."""
    status = os.waitpid(child, 0)[1]
    if not os.WIFSIGNALED(status) and status:
        raise RuntimeError("a job failed: its traceback is above")
    return not os.WIFSIGNALED(status)


def resume(kills: int) -> None:
    """Kill as many runs, each at a random moment, resume each, and compare the bytes with those of a run in one piece."""
    import fastattn.text.streaming as streaming
    from fastattn import SentenceTransformer
    from fastattn.corpus import unfinished
    from fastattn.text.pipeline import Pipeline
    from tests.support.models import write_sentence_model

    # Runs whose every moment can be hit: they save often, and the encoder takes its time.
    streaming._SLICE, unfinished._EVERY = 8, 0.05
    embeddings = Pipeline.embeddings

    def slowly(self: Any, *rest: Any) -> Any:
        time.sleep(0.02)
        return embeddings(self, *rest)

    Pipeline.embeddings = slowly  # type: ignore[method-assign]
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_texts(folder / "in.parquet", 400)
        model = SentenceTransformer(write_sentence_model(folder / "model"))
        model.encode(["warm"])
        given, whole = folder / "in.parquet", folder / "whole.parquet"
        start = time.perf_counter()
        ended(begin(given, whole, model))
        length = time.perf_counter() - start
        same, killed, runs, kept = 0, 0, 0, 0
        while killed < kills:
            out = folder / f"{runs}.parquet"
            runs += 1
            child = begin(given, out, model)
            time.sleep(length * rng.random())
            os.kill(child, signal.SIGKILL)
            if ended(child):
                continue
            killed += 1
            vectors = folder / f"{out.name}.partial" / "vectors"
            kept += vectors.exists() and vectors.stat().st_size > 0
            ended(begin(given, out, model))
            same += out.read_bytes() == whole.read_bytes() and sidecar_path(out).exists()
        print(f"{same} of {killed} the same bytes; {kept} of these had vectors when they were killed; {runs} runs")


def ray(count: int) -> None:
    """Print the wall time of the plain command with two threads, and with two actors of one core each, in turns."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_texts(folder / "in.parquet", count)
        plain = [
            sys.executable,
            "-m",
            "fastattn",
            "embed",
            str(folder / "in.parquet"),
            "--column",
            "text",
            "--quiet",
            "--json",
            "--overwrite",
        ]
        for _ in range(3):
            for kind, more in (("plain", []), ("ray", ["--engine", "ray", "--actors", "2"])):
                out = folder / f"{kind}.parquet"
                run = subprocess.run([*plain, "-o", str(out), *more], capture_output=True, text=True, check=False)
                print(kind, run.stdout.strip()[-300:] or run.stderr[-600:], flush=True)
        print("the same bytes:", (folder / "plain.parquet").read_bytes() == (folder / "ray.parquet").read_bytes())


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("flat", "resume", "ray", "job"))
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--texts", type=int, default=4000)
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--model", help="a folder; by default all-MiniLM-L6-v2")
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    if given.what == "flat":
        flat(given.counts, given.precision, given.rounds, given.model)
    elif given.what == "job":
        job(given.texts, given.precision, given.folder, given.model)
    elif given.what == "resume":
        resume(given.kills)
    else:
        ray(given.texts)


if __name__ == "__main__":
    main()
