"""First reading of a corpus: everything that is wrong with it is known before the work begins."""

from __future__ import annotations

import json
from pathlib import Path

from fastattn.corpus.manifest import Lines, TextHash
from fastattn.corpus.source import Bad, Source
from fastattn.corpus.writers import schema_of

__all__ = ["Survey", "TooManyBad"]


class Survey:
    """What is found when a corpus is read for the first time: everything that is wrong with it is known before the work begins."""

    def __init__(self, source: Source, folder: Path, max_bad: int, with_schema: bool, kept: bool, replace: bool) -> None:
        self.count = self.empty = self.blank = self.bad = 0
        self.lines, self.schema = Lines(), None
        found = TextHash()
        with (folder / "rejects.jsonl").open("w", encoding="utf-8") as rejects:

            def reject(bad: Bad) -> None:
                self.bad += 1
                row = {"file": bad.file, bad.unit: bad.number, **({} if bad.id is None else {"id": bad.id}), "reason": bad.reason}
                rejects.write(f"{json.dumps(row, default=str)}\n")
                if self.bad > max_bad:
                    rejects.flush()
                    raise TooManyBad(bad, self.bad, max_bad)

            for block in source.blocks(reject, kept=kept, replace=replace):
                self.count, self.blank = self.count + len(block.texts), self.blank + block.blank
                self.empty += sum(not text.strip() for text in block.texts)
                self.lines.add(block.numbers)
                found.add(block.texts)
                if with_schema:
                    self.schema = schema_of(source, block, self.schema)
        self.hash = found.hexdigest()


class TooManyBad(ValueError):
    """A bad row more than a job may leave out."""

    def __init__(self, bad: Bad, count: int, most: int) -> None:
        more = f"; it is bad row {count:,}, and --max-bad is {most:,}" if most else ""
        super().__init__(f"{bad.file}, {bad.unit} {bad.number}: {bad.reason}{more}")
