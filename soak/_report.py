"""Report of a run in Markdown."""

from __future__ import annotations

from typing import Any

# Values of `Row.kind`, and their names in the report.
KINDS = {"calls": "calls under load", "faults": "forks, interruptions, kills and full disks", "inputs": "inputs"}


def markdown(results: dict[str, Any]) -> str:
    """Return the report: totals, the machine of the last topic, then a table for each topic."""
    rows = [row for topic in results["topics"] for row in topic["rows"]]
    failed = [row for row in rows if not row["ok"]]
    when = f"{sum(topic['seconds'] for topic in results['topics']):.0f} s"
    tried = {kind: sum(row["tried"] for row in rows if row["kind"] == kind) for kind in KINDS}
    lines = [
        "# Soak",
        "",
        f"{when}. {len(rows)} trials, {len(failed)} not as promised.",
        "",
        f"Together: {', '.join(f'{count:,} {KINDS[kind]}' for kind, count in tried.items())}.",
        "",
        *(f"- {name}: {value}" for name, value in results["machine"].items()),
    ]
    for topic in results["topics"]:
        about = f"{topic['date']}, {topic['cpu']}, scale {topic['scale']:g}, {topic['seconds']:.0f} s"
        lines += [
            "",
            f"## {topic['topic'].capitalize()} ({about})",
            "",
            "| trial | found | promised | |",
            "|---|---|---|---|",
        ]
        for row in topic["rows"]:
            cells = [str(row[key]).replace("|", "\\|").replace("\n", " ") for key in ("what", "figure", "goal")]
            lines.append(f"| {' | '.join(cells)} | {'yes' if row['ok'] else '**no**'} |")
    return "\n".join(lines) + "\n"
