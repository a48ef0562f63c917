"""Reasons why a torch module, or a call of it, does not run the kernels."""

from __future__ import annotations


class NotAccelerated(Exception):
    """The kernels do not support a call; the message completes a sentence that ends with "because"."""


class Unsupported(NotAccelerated):
    """The kernels do not support a module, whatever the arguments of the call."""
