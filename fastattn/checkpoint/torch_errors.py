"""Reasons why a torch module, or a call of it, does not run the kernels."""

from __future__ import annotations


class NotAccelerated(Exception):
    """The kernels do not take a call; the message completes "because"."""


class Unsupported(NotAccelerated):
    """The kernels do not take a module, with any arguments."""
