"""Why a torch module, or a call of it, is not one for the kernels."""

from __future__ import annotations


class Unfit(Exception):
    """The call is not one for the kernels; the text completes "because"."""


class Unsupported(Unfit):
    """The module is not one for the kernels, whatever it is called with."""
