"""The records that kernels are called with: views of arrays, and the parts of a forward.

Numba takes a NamedTuple apart into scalars when it lowers a call, so a record costs nothing in machine code.  Three rules:

- From Python, and across the border of a ``prange`` body, go plain tuples of arrays and numbers: typing a NamedTuple takes
  microseconds, and that border takes no record in a record.  The serial kernel inside names them: ``plan = Plan(*plan)``.
- Only serial kernels call the functions below.  Serial kernels count no references, so an array that they return to a parallel
  kernel, which does, would be freed while it is in use.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastattn.config import PRECISIONS
from fastattn.kernels.compile.jit import inline, kernel

# The number by which kernels know the precision of a product.
PRECISION_NUMBERS: dict[str, int] = {name: number for number, name in enumerate(PRECISIONS)}

# Place of the stop flag in the counter of work: set, the call ends early.
STOP = 8


class Matrix(NamedTuple):
    """Rows in a flat C-contiguous array: the offset of the first element, the distance of the rows."""

    data: Any
    at: Any
    ld: Any


class Weight(NamedTuple):
    """A weight (N, K) in packed panels, and its bias: each an array and the offset of the first element.

    `precision`: a number of PRECISION_NUMBERS.  Below float32, `at` counts words of 4 bytes, whatever the dtype of `panels`;
    behind the bias of an int8 weight are the scales and the sums of each chain, and the smoothing factors of the input.
    """

    panels: Any
    at: Any
    bias: Any
    bias_at: Any
    k: Any
    n: Any
    precision: Any


class Norm(NamedTuple):
    """Weight and bias of a norm: each an array and the offset of the first element; the bias of an RMS norm is not read."""

    weight: Any
    at: Any
    bias: Any
    bias_at: Any


class Mask(NamedTuple):
    """An additive mask (L, S) of one head: offset, distances of rows and columns; of size 0 it masks nothing."""

    data: Any
    at: Any
    row: Any
    column: Any


class Scoring(NamedTuple):
    """Scores of a query t: ``scale``, ``softcap`` (0: none), and the keys t - left .. t + right that it sees."""

    scale: Any
    softcap: Any
    left: Any
    right: Any


class HeadSizes(NamedTuple):
    """B, H, groups G of heads that share keys, L, S, D, E of an attention op; E is 0 where no values take part."""

    batch: Any
    heads: Any
    groups: Any
    length: Any
    keys: Any
    d: Any
    e: Any


class MaskTensor(NamedTuple):
    """An additive mask (B, H, L, S) with the distances of its elements along each axis; of size 0 it masks nothing."""

    data: Any
    batch: Any
    head: Any
    row: Any
    column: Any


class Layer(NamedTuple):
    """A row of the layout: offsets of matrices and vectors of a layer, and the choices that differ between layers.

    An offset below 0 is a norm, a gate or a table that the layer does not have.  `left`, `right`: how far a token sees; `rotary`:
    the number of the table that turns its queries and keys.  The precisions are numbers of PRECISION_NUMBERS; a gate has that of
    `up`.  `query_norm`, `key_norm` come before the turn; `out_norm`, `ff_norm` norm what a sublayer adds; `relative_key`,
    `relative_query`: tables of disentangled scores, packed for each head as keys are.  `convolution` (C, K C) is beside the
    layer, `convolution_activation` a number of ACTIVATION_KINDS.  `experts`: their number, 0 without, of which a row takes `top_k`;
    `router` (E, C) and `experts_bias` are vectors; expert e has its matrices and biases e strides behind those of expert 0.
    """

    qkv: Any
    qkv_bias: Any
    out: Any
    out_bias: Any
    norm1: Any
    norm1_bias: Any
    up: Any
    up_bias: Any
    down: Any
    down_bias: Any
    norm2: Any
    norm2_bias: Any
    gate: Any
    gate_bias: Any
    left: Any
    right: Any
    rotary: Any
    qkv_precision: Any
    out_precision: Any
    up_precision: Any
    down_precision: Any
    query_norm: Any
    query_norm_bias: Any
    key_norm: Any
    key_norm_bias: Any
    out_norm: Any
    out_norm_bias: Any
    ff_norm: Any
    ff_norm_bias: Any
    relative_key: Any
    relative_query: Any
    convolution: Any
    convolution_bias: Any
    convolution_precision: Any
    convolution_activation: Any
    convolution_norm: Any
    convolution_norm_bias: Any
    experts: Any
    top_k: Any
    router: Any
    router_bias: Any
    experts_bias: Any
    up_stride: Any
    up_bias_stride: Any
    down_stride: Any
    down_bias_stride: Any


class Sizes(NamedTuple):
    """Sizes and choices that all layers share, and offsets of what lies outside them (below 0: absent).

    `hidden` C, `heads` H, `groups` G, `head` D, `query` H D, `wide` the greater of C and H D, `qkv` the width of a row of queries,
    keys and values, `ff` F, `ff_stride` the distance of rows of the expansion, `embed` E.  `rms`: norms are RMS norms;
    `query_norm`, `key_norm`: channels that those norms span; `turned`: channels of a head that rotary tables turn; `span`: S of
    disentangled scores, or 0.  `room`: words of the room for FF_ROWS prepared rows of `wide` columns; `block`: how many columns of
    F are expanded together at most; `experts`: experts of the layers that have any, 0 without; `convolution`: tokens K that the
    convolutions beside layers span, 0 without.
    """

    hidden: Any
    heads: Any
    head: Any
    qkv: Any
    ff: Any
    ff_stride: Any
    activation: Any
    norm_first: Any
    embed: Any
    embed_norm: Any
    embed_norm_bias: Any
    final_norm: Any
    final_norm_bias: Any
    project: Any
    project_bias: Any
    project_precision: Any
    rotary_tables: Any
    room: Any
    block: Any
    groups: Any
    query: Any
    wide: Any
    rms: Any
    query_norm: Any
    key_norm: Any
    turned: Any
    span: Any
    experts: Any
    convolution: Any


class Model(NamedTuple):
    """Packed parameters: matrices in panels, vectors, embedding tables; `layout` has a `Layer` a row, `sizes` is a `Sizes`.

    `eps` of every norm; `scale` and `softcap` of the scores.
    """

    matrices: Any
    vectors: Any
    tokens: Any
    token_types: Any
    layout: Any
    sizes: Any
    eps: Any
    scale: Any
    softcap: Any


class Batch(NamedTuple):
    """Packed sequences: token ids and types, or rows `input_embeds` in place of token embeddings, and tables for their places.

    Sequence s is tokens offsets[s] .. offsets[s + 1] - 1, of which the first keys[s] are seen.  positions (T, E), rotary
    (tables, T, R) with the cosines of a place before its sines, relative (H, 2 T - 1) with a head's bias for each distance, or
    (1, 2 T - 1) with the row of the tables of disentangled scores: T the longest sequence; empty where absent.
    """

    offsets: Any
    keys: Any
    ids: Any
    types: Any
    input_embeds: Any
    positions: Any
    rotary: Any
    relative: Any


class Plan(NamedTuple):
    """How a forward is cut: steps (kind, layer), the first sequence of each chunk and the end, blocks of rows, workers.

    No chunk has more than `rows_max` tokens.
    """

    steps: Any
    chunks: Any
    blocks: Any
    rows_max: Any
    workers: Any


class Workspace(NamedTuple):
    """Arrays of a forward: x (N, C), ctx (N, wide), qkv for steps by rows, y (N, C) and expanded (N, F) for steps by columns.

    `convolved` (N, C) is for steps by rows with a convolution.  All six are empty for chunks.  `scratch` is shared out evenly to
    the workers; `counter` hands out work.
    """

    x: Any
    qkv: Any
    ctx: Any
    y: Any
    expanded: Any
    convolved: Any
    scratch: Any
    counter: Any


class Result(NamedTuple):
    """Where hidden states (N, C), or with a pooling vectors (B, C) of unit length or not, go."""

    out: Any
    pooling: Any
    normalize: Any


@inline
def matrix(data, at, ld):  # type: ignore[no-untyped-def]
    """A Matrix of int64: a literal would be a type of its own, and each kernel that takes it would be compiled once more."""
    return Matrix(data, np.int64(at), np.int64(ld))


@inline
def shifted(x, row, column):  # type: ignore[no-untyped-def]
    """The Matrix from that row and column of `x` on."""
    return Matrix(x.data, x.at + row * x.ld + column, x.ld)


@inline
def weight_of(model, at, bias_at, k, n, precision):  # type: ignore[no-untyped-def]
    """The Weight (n, k) at these offsets of a model."""
    return Weight(model.matrices, at, model.vectors, bias_at, k, n, precision)


@inline
def norm_of(model, at, bias_at):  # type: ignore[no-untyped-def]
    """The Norm at these offsets of a model."""
    return Norm(model.vectors, at, model.vectors, bias_at)


@kernel
def layer_of(layout, i):  # type: ignore[no-untyped-def]
    """Row i of the layout as a Layer."""
    a = layout[i]
    return Layer(
        a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[11], a[12], a[13], a[14], a[15], a[16], a[17], a[18],
        a[19], a[20], a[21], a[22], a[23], a[24], a[25], a[26], a[27], a[28], a[29], a[30], a[31], a[32], a[33], a[34], a[35],
        a[36], a[37], a[38], a[39], a[40], a[41], a[42], a[43], a[44], a[45],
    )  # fmt: skip


@kernel
def sizes_of(a):  # type: ignore[no-untyped-def]
    """The array of a model's sizes as a Sizes."""
    return Sizes(
        a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[11], a[12], a[13], a[14], a[15], a[16], a[17], a[18],
        a[19], a[20], a[21], a[22], a[23], a[24], a[25], a[26], a[27], a[28],
    )  # fmt: skip
