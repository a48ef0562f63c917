"""Writes the pickled weights of a model folder as safetensors, and says what the folder still lacks."""

from __future__ import annotations

from pathlib import Path

from fastattn.checkpoint.convert import convert

__all__ = ["convert_lines"]


def convert_lines(folder: Path) -> list[str]:
    """Convert a folder; return the lines that tell what was done."""
    done = convert(folder)
    lines = [f"{done.tensors:,} tensor{'' if done.tensors == 1 else 's'}: {done.path}"]
    if done.prefix:
        lines.append(f"the prefix {done.prefix!r} was removed from their names")
    if done.left:
        lines.append(f"no tensors, and left out: {', '.join(done.left)}")
    return lines + [f"still missing: {fault}" for fault in done.faults]
