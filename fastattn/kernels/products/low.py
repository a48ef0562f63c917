"""What products of bfloat16 and of int8 share: how rows and panels lie in memory, and the loops over panels, chains and tiles.

A prepared row is one chain behind the other: the numbers of a chain up to a multiple of `Form.padding`, then its extra words, in
int8 its scale and its zero.  The words before the first row take the sums of a tile.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from fastattn.kernels.compile.jit import kernel
from fastattn.kernels.products.kinds import Kind
from fastattn.kernels.products.tile import WIDTH, most_rows
from fastattn.kernels.records import matrix, shifted
from fastattn.kernels.vector.activations import activate_rows
from fastattn.kernels.vector.narrow import words
from fastattn.kernels.vector.target import TILE_ROWS

# Words before prepared rows: the sums of a tile, of 32 rows where the CPU has tiles of its own.
SUM_WORDS = max(32, TILE_ROWS) * WIDTH
# Words of a cache line.
_LINE = 16


class Form(NamedTuple):
    """How rows and panels of a precision lie in memory: products of a chain, bytes of a number and of a weight, extra words."""

    block: int
    input_bytes: int
    weight_bytes: int
    extra: int

    @classmethod
    def of(cls, kind: Kind, block: int, extra: int) -> Form:
        """Return the form of a kind of product."""
        return cls(block, kind.input_bytes, kind.weight_bytes, extra)

    @property
    def chain_words(self) -> int:
        """Distance of a prepared row's chains."""
        return self.block * self.input_bytes // 4 + self.extra

    @property
    def padding(self) -> int:
        """Multiple to which a chain's numbers and weights are filled up: the weights with zeros, so the numbers do not count."""
        return 64 // self.weight_bytes

    def padded(self, columns: int) -> int:
        """Numbers of a row of a panel with so many columns of k."""
        return -(-columns // self.padding) * self.padding

    def row_words(self, columns: int) -> int:
        """Words of a prepared row of so many columns, which begin with a chain."""
        return int(row_words_of(self)(columns))

    def room(self, rows: int, columns: int) -> int:
        """Words of the room for prepared rows."""
        return SUM_WORDS + rows * self.row_words(columns)

    def panel_words(self, outputs: int, columns: int) -> int:
        """Words of the panels of a weight (N, K)."""
        return -(-outputs // WIDTH) * WIDTH * self.padded(columns) * self.weight_bytes // 4


def row_words_of(form: Form) -> Any:
    """Return `Form.row_words` as a function that can be compiled."""
    block, chain_words, padding, input_bytes, extra = form.block, form.chain_words, form.padding, form.input_bytes, form.extra

    def row_words(columns):  # type: ignore[no-untyped-def]
        before = max(0, columns - 1) // block
        last = columns - before * block
        words = before * chain_words + (last + padding - 1) // padding * padding * input_bytes // 4 + extra
        # Rows a multiple of 2 KiB apart would share few sets of the first-level cache.
        return words + 16 if words % 512 == 0 else words

    return row_words


def chain_products_of(kind: Kind, form: Form, tile: Any, finish: Any) -> Any:
    """Return the kernel chain_products(m, chains, panels, a, w, c, kind) of prepared rows.

    finish(m, n, a, sums, w, place, add, c): c = add + what the sums of the m rows that a begins with stand for; place: the chain,
    the column of the weight, and the words of the chain's numbers.
    """
    block, chain_words, padding, group = form.block, form.chain_words, form.padding, kind.group
    input_bytes, weight_bytes, tile_rows = form.input_bytes, form.weight_bytes, most_rows(kind)

    @kernel
    def panel_products(m, count, a, sums, w, panel, ahead, add, c, n):  # type: ignore[no-untyped-def]
        """c[:m, :n] = add + the products of `count` columns of k with a panel: its chain, its first column, its first word."""
        chain, column, at = panel
        panels = words(w.panels)
        steps = (count + group - 1) // group
        numbers = (count + padding - 1) // padding * padding * input_bytes // 4
        tiles = (m + tile_rows - 1) // tile_rows
        done = 0
        for t in range(tiles):
            rows = (m - done + tiles - t - 1) // (tiles - t)
            # The panel that comes next is asked for once: every other line by the first tile, the rest by the second.
            distance = ahead + t * _LINE if t < 2 else 0
            source = shifted(a, done, 0)
            tile(rows, steps, a.data, source.at, a.ld, panels, at, distance, a.data, sums, WIDTH)
            finish(rows, n, source, sums, w, (chain, column, numbers), shifted(add, done, 0), shifted(c, done, 0))
            done += rows

    @kernel
    def chain_products(m, chains, panels, a, w, c, kind):  # type: ignore[no-untyped-def]
        """`float32.chain_products` of prepared rows; without a bias the first chain adds to c too."""
        depth = (w.k + padding - 1) // padding * padding
        panel_words = WIDTH * depth * weight_bytes // 4
        for p in range(panels[0], panels[1]):
            column = p * WIDTH
            columns = min(WIDTH, w.n - column)
            to = shifted(c, 0, column)
            for chain in range(chains[0], chains[1]):
                begin = chain * block
                count = min(block, w.k - begin)
                add = to if chain or w.bias.size == 0 else matrix(w.bias, w.bias_at + column, 0)
                panel = (chain, column, w.at + p * panel_words + begin * WIDTH * weight_bytes // 4)
                source = shifted(a, 0, (chain - chains[0]) * chain_words)
                panel_products(m, count, source, a.at - SUM_WORDS, w, panel, panel_words, add, to, columns)
            if kind:
                activate_rows(m, columns, c.data, to.at, c.ld, c.data, to.at, c.ld, kind)

    return chain_products
