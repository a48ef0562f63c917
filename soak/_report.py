"""The report of a run in Markdown."""

from __future__ import annotations

from typing import Any


def markdown(results: dict[str, Any]) -> str:
    """Return the report: what it ran on, then a table for each topic."""
    rows = [row for topic in results["topics"] for row in topic["rows"]]
    failed = [row for row in rows if not row["ok"]]
    when = f"{results['date']}, scale {results['scale']:g}, {results['seconds']} s"
    lines = [
        "# Soak",
        "",
        f"{when}. {len(rows)} trials, {len(failed)} not as promised.",
        "",
        *(f"- {name}: {value}" for name, value in results["machine"].items()),
    ]
    for topic in results["topics"]:
        lines += [
            "",
            f"## {topic['topic'].capitalize()} ({topic['seconds']} s)",
            "",
            "| trial | found | promised | |",
            "|---|---|---|---|",
        ]
        for row in topic["rows"]:
            cells = [str(row[key]).replace("|", "\\|").replace("\n", " ") for key in ("what", "figure", "goal")]
            lines.append(f"| {' | '.join(cells)} | {'yes' if row['ok'] else '**no**'} |")
    return "\n".join(lines) + "\n"
