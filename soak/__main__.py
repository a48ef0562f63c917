"""Run the trials and write the report: ``python -m soak [--scale 0.01] [--only threads,fork] [--out DIR]``.

Each topic runs in a process of its own: a topic that dies by a signal or hangs is a row of the report, and the others still run.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import os
import pkgutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import soak
from soak import Row
from soak._report import markdown

ROOT = Path(__file__).resolve().parents[1]
# Order of the topics in the report; modules not named here come last.
ORDER = ("threads", "fork", "interrupt", "memory", "quota", "bounds", "hostile", "numbers", "installation")


def topics() -> list[str]:
    """Return the names of this package's modules without an underscore."""
    names = [module.name for module in pkgutil.iter_modules(soak.__path__) if not module.name.startswith("_")]
    return sorted(names, key=_place)


def _place(name: str) -> tuple[int, str]:
    return ORDER.index(name) if name in ORDER else len(ORDER), name


def run_topic(name: str, scale: float, target: Path) -> None:
    """Run one topic in this process and write its rows."""
    try:
        rows = [Row(*row) for row in importlib.import_module(f"soak.{name}").run(scale)]
    except BaseException as error:
        trace = traceback.format_exc()
        sys.stderr.write(trace)
        rows = [Row("the trial itself", f"{type(error).__name__}: {error}"[:300], "runs to its end", False)]
    target.write_text(json.dumps([row._asdict() for row in rows]), "utf-8")


def supervise(name: str, scale: float, limit: float) -> dict[str, Any]:
    """Run one topic in a process group of its own, kill the group at the end, and return the topic's rows and seconds."""
    began = time.perf_counter()
    date = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        target = Path(folder) / "rows.json"
        command = [sys.executable, "-m", "soak", "--scale", str(scale), "--topic", name, "--rows", str(target)]
        process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
        try:
            code = process.wait(limit)
            ended = "" if code == 0 else f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        except subprocess.TimeoutExpired:
            ended = f"still running after {limit:g} s"
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
        rows = json.loads(target.read_text("utf-8")) if target.exists() else []
    if ended or not rows:
        rows.append(Row("the trial itself", ended or "no rows", "runs to its end", False)._asdict())
    seconds = round(time.perf_counter() - began, 1)
    return {"topic": name, "scale": scale, "date": date, "cpu": machine()["CPU"], "seconds": seconds, "rows": rows}


def machine() -> dict[str, str]:
    """Return the hardware and versions that the figures depend on, without folders of this machine."""
    from fastattn.cli.info import facts

    return {name: value for name, value in facts() if name not in ("kernel cache", "default model")}


def _others(report: Path, scale: float, chosen: list[str]) -> list[dict[str, Any]]:
    """Return the topics of an earlier report of the same scale, without the `chosen` topics, which run again."""
    earlier = json.loads(report.read_text("utf-8")) if report.exists() else {"scale": scale, "topics": []}
    return [topic for topic in earlier["topics"] if earlier["scale"] == scale and topic["topic"] not in chosen]


def main(arguments: list[str] | None = None) -> int:
    """Run the topics, write the report, and return 1 if a row breaks its promise."""
    parser = argparse.ArgumentParser(
        prog="python -m soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full length (1)")
    parser.add_argument("--only", help=f"of {', '.join(topics())}; separated by commas: these anew in the report")
    parser.add_argument("--out", type=Path, help="folder for report.md and report.json; default: soak/ at scale 1, else .soak/")
    parser.add_argument("--limit", type=float, default=None, help="seconds after which a topic is given up (4 hours x scale + 300)")
    parser.add_argument("--topic", help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if not 0 <= options.scale <= 1:
        parser.error(f"--scale must be in 0 .. 1, got {options.scale}")
    if options.topic:
        run_topic(options.topic, options.scale, options.rows)
        return 0
    chosen = options.only.split(",") if options.only else topics()
    if unknown := set(chosen) - set(topics()):
        parser.error(f"--only: there is no {', '.join(sorted(unknown))}; there are {', '.join(topics())}")
    out: Path = options.out or ROOT / ("soak" if options.scale == 1 else ".soak")
    out.mkdir(parents=True, exist_ok=True)
    limit = options.limit or 4 * 3600 * options.scale + 300
    began = time.perf_counter()
    results = {
        "scale": options.scale,
        "machine": machine(),
        "topics": _others(out / "report.json", options.scale, chosen) if options.only else [],
    }
    for name in chosen:
        sys.stderr.write(f"==> {name}\n")
        topic = supervise(name, options.scale, limit)
        results["topics"] = sorted([*results["topics"], topic], key=lambda topic: _place(topic["topic"]))
        for row in topic["rows"]:
            sys.stderr.write(f"{'  ok  ' if row['ok'] else '  FAIL'} {row['what']}: {row['figure']}\n")
        # The report is rewritten after each topic, so a crash in a later topic loses no results.
        (out / "report.json").write_text(json.dumps(results, indent=1) + "\n", "utf-8")
        (out / "report.md").write_text(markdown(results), "utf-8")
    failed = sum(not row["ok"] for topic in results["topics"] for row in topic["rows"])
    sys.stderr.write(f"{out / 'report.md'}: {failed} not as promised, in {time.perf_counter() - began:.0f} s\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
