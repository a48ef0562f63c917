"""Writes tests/data/tokenizer_ids.json: what transformers 4 and 5 make of the folders in tests.support.tokenizer_folders.

Needs transformers:  python tests/data/make_tokenizer_ids.py  once with version 4 and once with version 5, which may have
environments of their own: the first run leaves its results in the temporary folder, the second writes what both make alike.
"""

import json
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

import transformers

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from tests.support.tokenizer_folders import CASES, flat, read, write_folder  # noqa: E402

PATH = HERE / "tokenizer_ids.json"


def made(case: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        write_folder(Path(name), case)
        try:
            return read(transformers.AutoTokenizer.from_pretrained(name))
        except Exception as error:
            return {"error": type(error).__name__}


def main() -> None:
    """Write the file when both versions have run."""
    logging.disable(logging.WARNING)
    version = transformers.__version__.partition(".")[0]
    found = {case: made(case) for case in CASES}
    raw = Path(tempfile.gettempdir()) / "tokenizer_ids"
    raw.mkdir(exist_ok=True)
    (raw / f"{version}.json").write_text(json.dumps(found), "utf-8")
    if not all((raw / f"{number}.json").exists() for number in (4, 5)):
        return
    four, five = (json.loads((raw / f"{number}.json").read_text("utf-8")) for number in (4, 5))
    values: dict[str, int] = {}
    lines = []
    for case in CASES:
        if "error" in four[case] or "error" in five[case]:
            continue
        # null: they differ.
        alike = [value if value == other else None for value, other in zip(flat(four[case]), flat(five[case]), strict=True)]
        places = [values.setdefault(json.dumps(value, separators=(",", ":")), len(values)) for value in alike]
        lines.append(f"  {json.dumps(case)}: {json.dumps(places, separators=(',', ':'))}")
    cases, kept = ",\n".join(lines), ",\n".join(f"  {value}" for value in values)
    PATH.write_text(f'{{"values": [\n{kept}\n], "cases": {{\n{cases}\n}}}}\n', "utf-8")


if __name__ == "__main__":
    main()
