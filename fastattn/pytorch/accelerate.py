"""accelerate lets the encoders in torch modules run the kernels; restore brings the original forwards back."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from fastattn.checkpoint.families import FAMILIES
from fastattn.config import Precision, check_precision
from fastattn.encoder.slower import warn_if_slower
from fastattn.pytorch.fallback import FallbackNotices, FallbackWarning

if TYPE_CHECKING:
    from fastattn.pytorch.forward import Forward

__all__ = ["Calls", "FallbackWarning", "accelerate", "calls", "restore"]

M = TypeVar("M")

_SUPPORTED = (
    f"encoders of transformers ({', '.join(family.title for family in FAMILIES.values())}), "
    "torch.nn.TransformerEncoder, TransformerEncoderLayer and MultiheadAttention, and modules that hold one, such as a model "
    "with a head, a SentenceTransformer or a CrossEncoder"
)


def accelerate(module: M, precision: Precision = "float32") -> M:
    """Let the encoders in a torch module run the kernels.

    The module stays the same object: its class, parameters, ``state_dict``, arguments and types of output do not change.
    A call of a float32 module in evaluation mode, without gradients, on the CPU, runs the kernels.  Any other call, and a call
    with arguments that the kernels do not take, runs the original forward; a `FallbackWarning` says why, once for each reason.

    Parameters
    ----------
    module : torch.nn.Module, or an object with one as ``model``
        An encoder of transformers, ``torch.nn.TransformerEncoder``, ``TransformerEncoderLayer``, ``MultiheadAttention``, or a
        module with some of them inside: a transformers model with a head, a sentence-transformers ``SentenceTransformer``
        or ``CrossEncoder``, a pipeline of transformers.
    precision : {"float32", "bfloat16", "int8"}
        Of the arithmetic in the layers; what the module takes, holds and returns stays float32.

    Returns
    -------
    object
        `module` itself.

    Raises
    ------
    ImportError
        torch is not installed.
    TypeError
        `module` is not a torch module and holds none as ``model``.
    ValueError
        `module` holds no module of a supported kind; the message says which modules were found.  `precision` is unknown, or
        is not "float32" for weights of another dtype than float32.

    Notes
    -----
    Every position is computed, as in the original: those in the padding see the tokens of their sequence; in DeBERTa, where they
    see nothing and hold a mean of all positions, they are left out and hold zeros.  A position that sees
    nothing, in a sequence that is all padding, is where torch.nn may return NaN and the kernels a finite number.

    The first call packs a copy of the weights, as does the first call after a change: a load, an optimiser step, a new
    submodule.  Embedding tables are not copied: every write to them takes effect.  Of the other matrices, writes through
    ``.data`` or NumPy are noticed from a 32nd of the rows or columns on, where they are neighbours; writes to less, such as a
    single row or element, can go unnoticed: call `accelerate` again after them.

    `calls` tells how often the kernels ran.  Copies and pickles of the module are accelerated too; `restore` undoes it.
    """
    check_precision(precision)
    root = _root(module)
    from fastattn.pytorch.kinds import check_dtypes, find_forwards

    found: list[tuple[Any, type[Forward]]] = []
    left: list[str] = []
    find_forwards(root, found, left)
    if not found:
        what = "; ".join(dict.fromkeys(left)) or "none of them"
        raise ValueError(f"{type(module).__name__} must hold a module to accelerate, found {what}; supported: {_SUPPORTED}")
    for part, _ in found:
        check_dtypes(part, precision)
    warn_if_slower(precision)
    notices = FallbackNotices()
    for part, kind in found:
        # One assignment, so no race: a call in another thread finds either the old forward or the new one.
        part.forward = kind(part, notices, precision)
        for child in part.children():
            restore(child)
    if left:
        parts = ", ".join(sorted({type(part).__name__ for part, _ in found}))
        reasons = "; ".join(dict.fromkeys(left))
        warnings.warn(f"only a part was accelerated ({parts}): {reasons}", FallbackWarning, stacklevel=2)
    return module


class Calls(NamedTuple):
    """The calls of an accelerated module.

    Parameters
    ----------
    kernels : int
        Calls that ran the kernels.
    fallbacks : dict of str to int
        Calls that ran the original forward, by reason.
    """

    kernels: int
    fallbacks: dict[str, int]


def calls(module: Any) -> dict[str, Calls]:
    """Count the calls of accelerated modules since `accelerate`.

    Parameters
    ----------
    module : torch.nn.Module, or an object with one as ``model``
        An accelerated module, or one that holds accelerated modules.

    Returns
    -------
    dict of str to Calls
        By the name of each accelerated module inside `module`, which is "" for itself; empty if there is none.

    Raises
    ------
    ImportError
        torch is not installed.
    TypeError
        `module` is not a torch module and holds none as ``model``.
    """
    root = _root(module)
    from fastattn.pytorch.forward import Forward

    forwards = {name: part.__dict__.get("forward") for name, part in root.named_modules()}
    return {name: Calls(f.kernel_calls, dict(f.fallbacks)) for name, f in forwards.items() if isinstance(f, Forward)}


def restore(module: M) -> M:
    """Undo `accelerate`: bring the original forwards back.

    Parameters
    ----------
    module : torch.nn.Module, or an object with one as ``model``
        An accelerated module, or one that holds accelerated modules.

    Returns
    -------
    object
        `module` itself.

    Raises
    ------
    ImportError
        torch is not installed.
    TypeError
        `module` is not a torch module and holds none as ``model``.
    """
    root = _root(module)
    from fastattn.pytorch.forward import Forward

    for part in root.modules():
        if isinstance(part.__dict__.get("forward"), Forward):
            part.__dict__.pop("forward", None)
    return module


def _root(module: Any) -> Any:
    """Return `module`, or its attribute `model`, whichever is a torch module."""
    try:
        import torch
    except ImportError as error:
        raise ImportError("fastattn.accelerate needs torch: pip install 'fastattn[torch]'") from error
    for candidate in (module, getattr(module, "model", None)):
        if isinstance(candidate, torch.nn.Module):
            return candidate
    raise TypeError(f"module must be a torch.nn.Module, got {type(module).__name__}; supported: {_SUPPORTED}")
