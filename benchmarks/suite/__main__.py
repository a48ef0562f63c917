"""Comparison with the peers: ``python -m benchmarks.suite [--quick] [--anyway] [--out DIR] [--readme FILE]``.

First the machine is looked at: the suite stops where other work takes more than 5 % of the cores' time.  It ends with a table of
ratios: the time of the best other library over fastattn's.  --quick measures fewer cells in fewer rounds, as a test that the
suite runs: do not publish its numbers.
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
from benchmarks.suite import busy, report, shapes
from benchmarks.suite.row_accelerate import accelerate
from benchmarks.suite.row_encode import encode, many_texts, start
from benchmarks.suite.row_families import families
from benchmarks.suite.row_forward import forward, threads
from benchmarks.suite.row_ops import attention, attention_memory, elementwise, products, second_level_cache
from benchmarks.suite.session import ENCODERS, Session
from benchmarks.suite.shapes import BERT_BASE, MINILM
from benchmarks.suite.summary import show

ROUNDS, QUICK_ROUNDS = 7, 3
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


def full(session: Session) -> None:
    """Measure every row."""
    for model in (MINILM, BERT_BASE):
        forward(session, model, model.shapes)
    threads(session)
    accelerate(session, MINILM, ((1, 16), (8, 32), (32, 128)))
    families(session)
    encode(session, 2000)
    for model in (MINILM, BERT_BASE):
        products(session, model, shapes.PRODUCT_ROWS)
    attention(session, shapes.ATTENTION_TOKENS, shapes.ATTENTION_SIZES)
    attention_memory(session, shapes.ATTENTION_TOKENS, shapes.ATTENTION_SIZES[-1])
    elementwise(session, shapes.ELEMENTS)
    start(session, cold=True)
    many_texts(session, 2000, 100_000)


def quick(session: Session) -> None:
    """Measure a few cells of every row but the large corpus."""
    forward(session, MINILM, ((1, 16), (1, 128), (32, 32)))
    threads(session)
    accelerate(session, MINILM, ((8, 32),))
    encode(session, 200)
    products(session, MINILM, (512,))
    attention(session, (128, 2048), (32,))
    attention_memory(session, (512, 2048), 64)
    elementwise(session, (10_000, 1_000_000))
    start(session, cold=False)


def main() -> int:
    """Run the suite, write the results, and return 1 if fastattn failed a gate, 2 if the machine is busy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer cells and rounds, under three minutes")
    parser.add_argument("--anyway", action="store_true", help="measure on a busy machine too; the report then says that it was")
    parser.add_argument("--out", type=Path, help="folder for report.json, report.md and the plots")
    parser.add_argument("--readme", type=Path, help="file whose table of numbers is written anew")
    options = parser.parse_args()
    refused = busy.refusal(busy.share_of_cores(available_threads()))
    if refused:
        sys.stderr.write(f"{refused}\n")
        if not options.anyway:
            return 2
    out: Path = options.out or (WORK / "quick" if options.quick else RESULTS)
    for folder in (out, WORK):
        folder.mkdir(parents=True, exist_ok=True)
    for log in WORK.glob("*.log"):
        log.unlink()
    began = time.perf_counter()
    date = datetime.datetime.now(datetime.timezone.utc)
    session = Session(available_threads(), QUICK_ROUNDS if options.quick else ROUNDS, WORK)
    about = machine()
    for library in ("fastattn", "sentence-transformers", *ENCODERS, "numpy", "machine"):
        session.worker(library)
    try:
        (quick if options.quick else full)(session)
    finally:
        session.close()
    results = {
        "date": date.strftime("%Y-%m-%d %H:%M UTC"),
        "quick": options.quick,
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
