"""Kinds of product: a placeholder until the kernels come, whose module replaces this one."""

from __future__ import annotations


def slower(precision: str) -> str | None:
    """Return why a precision is slower than float32 on this CPU; None where it is not."""
    return None
