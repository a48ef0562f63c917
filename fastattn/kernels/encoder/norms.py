"""The norms of an encoder, of the kind that all of them have, and the residual sums."""

from __future__ import annotations

from fastattn.kernels.compile.jit import kernel
from fastattn.kernels.ops.layer_norm import layer_norm_rows
from fastattn.kernels.ops.rms_norm import rms_norm_rows
from fastattn.kernels.records import matrix, norm_of
from fastattn.kernels.vector.rows import add_row


@kernel
def residual_norm_rows(m, n, sizes, x, residual, norm, eps, out):  # type: ignore[no-untyped-def]
    """out = norm(x + residual) for m rows of n; `residual` of size 0 is none."""
    if sizes.rms:
        rms_norm_rows(m, n, x, residual, norm.weight, norm.at, out, eps)
    else:
        layer_norm_rows(m, n, x, residual, norm, out, eps)


@kernel
def norm_rows(m, n, sizes, x, norm, eps, out):  # type: ignore[no-untyped-def]
    """out = norm(x) for m rows of n."""
    residual_norm_rows(m, n, sizes, x, matrix(x.data[:0], 0, 0), norm, eps, out)


@kernel
def add_sublayer(m, sizes, model, y, own, own_bias, norm, norm_bias, x):  # type: ignore[no-untyped-def]
    """x = norm(y + x) behind a sublayer, or x += y where the norm comes before it.

    With an own norm of the sublayer, y is first own(y + x), or own(y) where the norm comes before it.
    """
    c = sizes.hidden
    if own >= 0:
        residual = matrix(x.data[:0], 0, 0) if sizes.norm_first else x
        residual_norm_rows(m, c, sizes, y, residual, norm_of(model, own, own_bias), model.eps, y)
    if sizes.norm_first:
        for i in range(m):
            add_row(c, x.data, x.at + i * x.ld, y.data, y.at + i * y.ld)
    else:
        residual_norm_rows(m, c, sizes, y, x, norm_of(model, norm, norm_bias), model.eps, x)
