"""Table of errors: `python -m soak._error_table` sweeps every float32 and writes `benchmarks/results/errors.md`.

The full sweep takes about an hour.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

from soak import Row
from soak._random_rows import LENGTHS, OPS, errors
from soak._sweep import FUNCTIONS, sweep

ROWS = 1_000_000
ROOT = Path(__file__).resolve().parents[1]
# Errors within this factor are a tie: contenders with the same dominant rounding (such as of x - max x) differ by a few percent.
TIE = 1.05


def measure(scale: float) -> dict[str, Any]:
    """Measure a share `scale` of all float32 and of a million rows."""
    began = time.perf_counter()
    swept = {f.name: sweep(f, scale)._asdict() for f in FUNCTIONS}
    rows = [errors(op, n, max(1000, round(ROWS * scale)))._asdict() for op in OPS for n in LENGTHS]
    names = ("fastattn", "numpy", "torch", "numba")
    return {
        "scale": scale,
        "seconds": round(time.perf_counter() - began),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "versions": {name: version for name in names if (version := _version(name))} | {"Python": platform.python_version()},
        "swept": {name: {**found, "bands": [band._asdict() for band in found["bands"]]} for name, found in swept.items()},
        "rows": rows,
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def verdicts(measured: dict[str, Any]) -> list[Row]:
    """Return rows for each op: is our error the worst of all contenders, over the whole range or in any band?"""
    found = []
    for name, swept in measured["swept"].items():
        bands = swept["bands"]
        total = {who: max(band["ulp"][who] for band in bands) for who in bands[0]["ulp"]}
        found.append(_verdict(f"{name}: {swept['tried']:,} arguments, worst error", total, "ulp"))
        lost = [band for band in bands if _is_worst(band["ulp"])]
        where = "; ".join(f"{band['low']:g} .. {band['high']:g}" for band in lost)
        found.append(Row(f"{name}: bands where ours is the worst", where or "none", "none", not lost))
        wrong = swept["misplaced"]["fastattn"]
        found.append(Row(f"{name}: NaN lost, or made of a number", str(wrong), "0", not wrong))
    for rows in measured["rows"]:
        found.append(
            _verdict(f"{rows['op']} of {rows['length']}: {rows['tried']:,} random rows, worst error", rows["ulp"], rows["unit"])
        )
    return found


def _is_worst(ulp: dict[str, float]) -> bool:
    others = [value for name, value in ulp.items() if name != "fastattn"]
    return bool(others) and ulp["fastattn"] > TIE * max(others)


def _verdict(what: str, ulp: dict[str, float], unit: str) -> Row:
    figure = ", ".join(f"{name} {value:.4g}" for name, value in ulp.items())
    return Row(what, f"{figure} ({unit})", "not the worst", not _is_worst(ulp))


def markdown(measured: dict[str, Any]) -> str:
    """Return the table in Markdown."""
    who = list(measured["rows"][0]["ulp"])
    share = "every float32" if measured["scale"] == 1 else f"one float32 in {round(1 / measured['scale'])}"
    versions = ", ".join(f"{name} {version}" for name, version in measured["versions"].items())
    lines = [
        "# Errors",
        "",
        f"Worst errors over {share} of the range, in units of the last place of the true value (C library, float64).",
        f"The least of a row is bold, with what is at most {TIE - 1:.0%} above it, which counts as a tie. {versions};",
        f"{measured['date']}. `python -m soak._error_table` writes this file.",
        "GELU takes erf as the normal tail, erfc(x / sqrt(2)) / 2.",
        "",
        f"| function | argument | {' | '.join(who)} |",
        f"|---|---|{'---:|' * len(who)}",
    ]
    for name, swept in measured["swept"].items():
        for band in swept["bands"]:
            lines.append(f"| {name} | {band['low']:g} .. {band['high']:g} | {_cells(band['ulp'], who)} |")
    lines += [
        "",
        "A result below the smallest normal float32, 2^-126, is not in these figures: there ours is 0 on purpose, since such",
        "numbers slow down what comes after them. The greatest errors there, and outside these ranges, as they are:",
        "",
        f"| function | {' | '.join(who)} |",
        f"|---|{'---:|' * len(who)}",
    ]
    for name, swept in measured["swept"].items():
        tiny = {w: max(swept["small"][w] * 2.0**-149, swept["outside"][w]) for w in who}
        lines.append(f"| {name} | {_cells(tiny, who)} |")
    lines += [
        "",
        "Random rows, of spread 0.1 to 30, half of them up to 30 spreads away from 0: the worst element, of softmax in units",
        "of its own last place, of layer norm in those of the row's greatest. Nearly all of softmax's is the rounding of",
        "x - max x, which all make; with these differences as they are rounded for the truth, the rest of it is left.",
        "",
        f"| op | length | rows | {' | '.join(who)} |",
        f"|---|---:|---:|{'---:|' * len(who)}",
    ]
    for rows in measured["rows"]:
        op, length, tried = rows["op"], rows["length"], rows["tried"]
        lines.append(f"| {op} | {length} | {tried:,} | {_cells(rows['ulp'], who)} |")
    return "\n".join(lines) + "\n"


def _cells(values: dict[str, float], who: list[str]) -> str:
    least = min(values.values())
    return " | ".join(f"**{values[w]:.3g}**" if values[w] <= TIE * least else f"{values[w]:.3g}" for w in who)


def write(measured: dict[str, Any], folder: Path) -> None:
    """Write errors.md and errors.json."""
    folder.mkdir(exist_ok=True)
    (folder / "errors.md").write_text(markdown(measured), "utf-8")
    (folder / "errors.json").write_text(json.dumps(measured, indent=1) + "\n", "utf-8")


def main() -> int:
    """Sweep all float32 (or the share given as the argument) and write the files."""
    scale = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    measured = measure(scale)
    write(measured, ROOT / ("benchmarks/results" if scale == 1 else ".benchmarks"))
    sys.stdout.writelines(f"{'ok  ' if row.ok else 'FAIL'} {row.what}: {row.figure}\n" for row in verdicts(measured))
    return 0


if __name__ == "__main__":
    sys.exit(main())
