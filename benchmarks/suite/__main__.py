"""Comparison with the peers in each precision: ``python -m benchmarks.suite [--help]``.

First the machine is looked at: the suite stops where other work takes more than 5 % of the cores' time.  It ends with a table of
ratios: the time of the best other library over fastattn's.  --quick measures fewer cells in fewer rounds, as a test that the
suite runs, and --smoke of a tiny encoder alone: do not publish their numbers.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import RESULTS, ROOT
from benchmarks.suite import busy, report, row_kinds, shapes, turns
from benchmarks.suite.labels import PRECISIONS
from benchmarks.suite.row_accelerate import accelerate
from benchmarks.suite.row_encode import encode, many_texts
from benchmarks.suite.row_families import families
from benchmarks.suite.row_forward import forward, threads
from benchmarks.suite.row_load import resident, start
from benchmarks.suite.row_ops import attention, attention_memory, elementwise, products, second_level_cache
from benchmarks.suite.row_pairs import cross_encoder
from benchmarks.suite.session import ENCODERS, Session
from benchmarks.suite.shapes import BERT_BASE, MINILM, MINILM_L12, TINY
from benchmarks.suite.summary import show

ROUNDS = {"full": 7, "quick": 3, "smoke": 1}
WORK = ROOT / ".benchmarks"


def available_threads() -> int:
    """Number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> dict[str, Any]:
    """Return the CPU, system and versions that the numbers depend on."""
    from fastattn.cli.info import facts

    kept = ("CPU", "kernels for", "CPUs", "threads", "Python")
    return {
        **{name: value for name, value in facts() if name in kept},
        "second-level caches": f"{second_level_cache() / 2**20:g} MiB",
    }


def full(session: Session, precisions: tuple[str, ...]) -> None:
    """Measure every row."""
    for precision in precisions:
        for model in (MINILM, BERT_BASE):
            forward(session, model, model.shapes, precision)
        encode(session, 2000, precision)
        for model in (MINILM_L12, BERT_BASE):
            cross_encoder(session, model, precision)
        if precision != "float32":
            session.close(precision)
    start(session, precisions, cold=True)
    resident(session, precisions)
    if "float32" not in precisions:
        return
    threads(session)
    accelerate(session, MINILM, ((1, 16), (8, 32), (32, 128)))
    families(session)
    row_kinds.kinds(session)
    for model in (MINILM, BERT_BASE):
        products(session, model, shapes.PRODUCT_ROWS)
    attention(session, shapes.ATTENTION_TOKENS, shapes.ATTENTION_SIZES)
    attention_memory(session, shapes.ATTENTION_TOKENS, shapes.ATTENTION_SIZES[-1])
    elementwise(session, shapes.ELEMENTS)
    many_texts(session, 2000, 100_000)


def quick(session: Session, precisions: tuple[str, ...]) -> None:
    """Measure a few cells of every row but the large corpus."""
    for precision in precisions:
        forward(session, MINILM, ((1, 16), (1, 128), (32, 32)), precision)
        encode(session, 200, precision)
    start(session, precisions, cold=False)
    resident(session, precisions)
    if "float32" not in precisions:
        return
    threads(session)
    accelerate(session, MINILM, ((8, 32),))
    products(session, MINILM, (512,))
    attention(session, (128, 2048), (32,))
    attention_memory(session, (512, 2048), 64)
    elementwise(session, (10_000, 1_000_000))


def smoke(session: Session, precisions: tuple[str, ...]) -> None:
    """Run the rows that have precisions, on an encoder so small that its numbers mean nothing."""
    turns.FIRST_WARM_SECONDS = turns.WARM_SECONDS = turns.TURN_SECONDS = 0.01
    for precision in precisions:
        forward(session, TINY, TINY.shapes, precision)
        encode(session, 20, precision, TINY)
        cross_encoder(session, TINY, precision, 4)
    start(session, precisions, cold=False, model=TINY)
    resident(session, precisions, TINY)
    if "float32" in precisions:
        row_kinds.smoke(session)


def main() -> int:
    """Run the suite, write the results, and return 1 if fastattn failed a gate, 2 if the machine is busy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="fewer cells and rounds, some minutes")
    size.add_argument("--smoke", action="store_true", help="a tiny encoder alone, on a busy machine too: the suite runs")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=PRECISIONS, help="measure these alone")
    parser.add_argument("--anyway", action="store_true", help="measure on a busy machine too; the report then says that it was")
    parser.add_argument("--out", type=Path, help="folder for report.json, report.md and the plots")
    parser.add_argument("--readme", type=Path, help="file whose table of numbers is written anew")
    options = parser.parse_args()
    rows = quick if options.quick else smoke if options.smoke else full
    refused = "" if rows is smoke else busy.refusal(busy.share_of_cores(available_threads()))
    if refused:
        sys.stderr.write(f"{refused}\n")
        if not options.anyway:
            return 2
    out: Path = options.out or (RESULTS if rows is full else WORK / rows.__name__)
    for folder in (out, WORK):
        folder.mkdir(parents=True, exist_ok=True)
    for log in WORK.glob("*.log"):
        log.unlink()
    began = time.perf_counter()
    date = datetime.datetime.now(datetime.timezone.utc)
    session = Session(available_threads(), ROUNDS[rows.__name__], WORK)
    about = machine()
    for library in ("fastattn", "sentence-transformers", *ENCODERS["float32"], "numpy", "machine"):
        session.worker(library)
    try:
        rows(session, tuple(precision for precision in PRECISIONS if precision in options.precision))
    finally:
        session.close()
    results = {
        "date": date.strftime("%Y-%m-%d %H:%M UTC"),
        "quick": rows is not full,
        "seconds": round(time.perf_counter() - began),
        "rounds": session.rounds,
        "threads": session.threads,
        "machine": about,
        "versions": session.versions,
        "facts": session.facts,
        "gates": session.gates,
        "cells": session.cells,
    }
    (out / "report.json").write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    report.write(results, out, options.readme)
    show(results, Console())
    sys.stderr.write(f"{out / 'report.md'}, in {results['seconds']} s\n")
    wrong = [gate for gate in session.gates if gate["library"] == "fastattn" and gate["reason"]]
    wrong += [cell for cell in session.cells if any(name.startswith("fastattn") for name in cell["failures"])]
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
