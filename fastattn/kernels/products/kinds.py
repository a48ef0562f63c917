"""The kinds of product in low precision: which instructions compute them, on which CPU, and which of them this process uses.

Kinds of one precision differ in speed and in how numbers lie in memory.  An int8 product is the same integer in all of them.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from fastattn.kernels.compile.digest import depends_on
from fastattn.kernels.vector.target import TARGET
from fastattn.runtime.amx import amx_permitted

__all__ = ["BFLOAT16", "INT8", "KINDS", "VARIABLE", "Kind", "chosen", "slower"]

VARIABLE = "FASTATTN_PRODUCTS"


class Kind(NamedTuple):
    """A way to compute sums of products.

    `extension`: the feature of the CPU that it needs, "" for none.  `input_bytes`: of a number of a row.  `weight_bytes`: of a
    weight.  `group`: neighbouring numbers of k that a lane takes in a step.  `is_signed`: levels of a row are stored less 128.
    """

    name: str
    precision: str
    extension: str
    input_bytes: int
    weight_bytes: int
    group: int
    is_signed: bool
    instructions: str


# The first of a precision that the CPU has is used; the last of each needs nothing.
KINDS = (
    Kind("amx", "int8", "amx-int8", 1, 1, 4, False, "tdpbusd, AMX: 64 products for each of 16 x 16 sums"),
    Kind("vnni", "int8", "avx512vnni", 1, 1, 4, False, "vpdpbusd, AVX-512 VNNI or AVX-VNNI: 4 products a lane"),
    Kind("usdot", "int8", "i8mm", 1, 1, 4, False, "usdot, NEON i8mm: 4 products a lane"),
    Kind("sdot", "int8", "dotprod", 1, 1, 4, True, "sdot, NEON dotprod: 4 products a lane"),
    Kind("i16", "int8", "", 2, 1, 2, False, "pmaddwd on 16-bit numbers: 2 products a lane, and an addition"),
    Kind("amx", "bfloat16", "amx-bf16", 2, 2, 2, False, "tdpbf16ps, AMX: 32 products for each of 16 x 16 sums"),
    Kind("dot", "bfloat16", "avx512bf16", 2, 2, 2, False, "vdpbf16ps, AVX-512 BF16: 2 products a lane"),
    Kind("bfdot", "bfloat16", "bf16", 2, 2, 2, False, "bfdot, NEON BF16: 2 products a lane"),
    Kind("widen", "bfloat16", "", 4, 2, 2, False, "float32 multiply-add on widened weights: 1 product a lane"),
)


def chosen(precision: str, request: str | None = None) -> Kind:
    """Return the kind of product for "int8" or "bfloat16": the one that `request` names, as the variable does, or the fastest."""
    text = os.environ.get(VARIABLE, "") if request is None else request
    kinds = {kind.name: kind for kind in KINDS if kind.precision == precision}
    for part in filter(None, text.replace(" ", "").split(",")):
        which, _, name = part.partition("=")
        if which not in ("int8", "bfloat16"):
            raise ValueError(f'{VARIABLE} must be like "int8=i16,bfloat16=widen", got {text!r}')
        if which == precision:
            if name not in kinds:
                raise ValueError(f"{VARIABLE}: {precision} has the kinds {', '.join(kinds)}, got {name!r}")
            return kinds[name]
    return next(kind for kind in kinds.values() if is_native(kind))


def is_native(kind: Kind) -> bool:
    """Tell whether the CPU has the instructions of a kind; without them, portable code computes it, slowly."""
    if kind.extension and kind.extension not in TARGET.extensions:
        return False
    return kind.name != "amx" or amx_permitted()


INT8, BFLOAT16 = chosen("int8"), chosen("bfloat16")
depends_on(f"{INT8.name} {BFLOAT16.name}")


def slower(precision: str) -> str | None:
    """Return why a precision is slower than float32 on this CPU; None where it is not."""
    kind = {"int8": INT8, "bfloat16": BFLOAT16}.get(precision)
    if kind is None:
        return None
    if not is_native(kind):
        return f"{VARIABLE} asks for {kind.name!r} products, which this CPU computes without {kind.extension}"
    if kind.name == "widen":
        return "this CPU has no instruction for bfloat16 products: weights are widened to float32, and only memory is saved"
    if kind.name == "i16" and TARGET.vector_bytes < 32:
        return "this CPU has no instruction for int8 products, and vectors of 128 bits only"
    return None
