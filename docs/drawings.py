"""The drawings of the pages on kernels, as SVG inside the page: their colours come from extra.css, light and dark."""

from __future__ import annotations

from collections.abc import Callable
from html import escape


class Drawing:
    """An SVG that is filled piece by piece."""

    def __init__(self, width: int, height: int, caption: str) -> None:
        self.size, self.caption, self.parts = (width, height), caption, []

    def box(self, x: float, y: float, w: float, h: float, kind: str = "none", label: str = "", style: str = "small") -> None:
        """Draw a rectangle of one of the colours a, b, c, d, none, with a label in its middle."""
        self.parts.append(f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}"/>')
        if label:
            self.text(x + w / 2, y + h / 2 + 4, label, style, "middle")

    def text(self, x: float, y: float, words: str, style: str = "", anchor: str = "start") -> None:
        """Write a line of text."""
        self.parts.append(f'<text class="{style}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(words)}</text>')

    def line(self, *points: tuple[float, float], arrow: bool = True, dash: bool = False) -> None:
        """Draw a line through points, with a head at the last."""
        path = " ".join(f"{'L' if i else 'M'}{x:g} {y:g}" for i, (x, y) in enumerate(points))
        self.parts.append(f'<path class="line{" dash" if dash else ""}" d="{path}"/>')
        if arrow:
            (x0, y0), (x, y) = points[-2:]
            length = ((x - x0) ** 2 + (y - y0) ** 2) ** 0.5
            u, v = (x - x0) / length * 7, (y - y0) / length * 7
            corners = f"{x:g},{y:g} {x - u - v / 2:g},{y - v + u / 2:g} {x - u + v / 2:g},{y - v - u / 2:g}"
            self.parts.append(f'<polygon class="head" points="{corners}"/>')

    def __str__(self) -> str:
        """Return the figure on one line, as Markdown takes it."""
        width, height = self.size
        title = escape(self.caption.split(". ")[0])
        svg = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{title}">{"".join(self.parts)}</svg>'
        return f'<figure class="drawing">{svg}<figcaption>{escape(self.caption)}</figcaption></figure>'


def tile() -> str:
    """Draw the product tile: A from the left, a row of the panel from above, accumulators between them."""
    d = Drawing(
        700, 350, "The tile on a CPU with AVX-512: 14 rows by 2 vectors of 16 floats. One step of k is 28 vector multiply-adds."
    )
    left, top, cell, wide = 210, 92, 15, 150
    d.text(left, 22, "row k of the panel B: 2 vectors, read once per step", "small")
    for j in range(2):
        d.box(left + j * (wide + 8), 32, wide, 22, "b", f"16 floats, register {29 + j}")
    d.text(20, 84, "column k of A", "small")
    for i in range(14):
        y = top + i * (cell + 2)
        d.box(20, y, 96, cell, "none")
        d.box(60, y, 14, cell, "a")
        for j in range(2):
            d.box(left + j * (wide + 8), y, wide, cell, "c", f"accumulator {2 * i + j + 1}" if i in (0, 1, 13) else "")
    d.line((124, top + 8), (200, top + 8))
    d.text(126, top + 26, "one float,", "small")
    d.text(126, top + 40, "copied to", "small")
    d.text(126, top + 54, "all 16 lanes", "small")
    d.line((left + wide / 2, 58), (left + wide / 2, 86))
    d.line((left + wide * 1.5 + 8, 58), (left + wide * 1.5 + 8, 86))
    d.text(540, 120, "28 accumulators", "small")
    d.text(540, 138, "+ 2 vectors of B", "small")
    d.text(540, 156, "+ 1 copy of a float of A", "small")
    d.text(540, 174, "= 31 of 32 registers", "small")
    d.text(540, 214, "k = 0, 1, 2, …: nothing is", "small")
    d.text(540, 230, "stored before the last k", "small")
    return str(d)


def panels() -> str:
    """Draw how a weight is laid out anew: strips of W rows, each stored k by k."""
    d = Drawing(
        720, 316, "A weight of 80 rows packed into panels of W = 32 columns of the product; the last panel is filled up with zeros."
    )
    kinds = ("a", "b", "c")
    d.text(20, 20, "weight (C_out, C_in), as stored")
    d.text(20, 38, "the 32 floats that step k needs", "small")
    d.text(20, 54, "are far from each other", "small")
    for p, kind in enumerate(kinds):
        names = ("row 0", "…", "…", "row 31") if p == 0 else (("row 32", "…", "…", "row 63") if p == 1 else ("row 64", "… row 79"))
        for r, name in enumerate(names):
            y = 74 + p * 88 + r * 20
            d.box(20, y, 210, 18, kind)
            d.text(28, y + 13, name, "small")
    d.line((150, 68), (150, 298), arrow=False, dash=True)
    d.text(154, 308, "k", "small")
    d.line((245, 170), (305, 170))
    d.text(325, 20, "packed (3 panels, C_in, 32), as the kernel reads it")
    d.text(325, 38, "the 32 floats of step k lie side by side,", "small")
    d.text(325, 54, "those of step k + 1 behind them", "small")
    for p, kind in enumerate(kinds):
        y = 78 + p * 76
        d.text(325, y + 20, f"panel {p}", "small")
        for k, label in enumerate(("k = 0", "k = 1", "…", "C_in − 1")):
            used = 70 if p < 2 else 35
            d.box(380 + k * 80, y, used, 32, kind, label if p < 2 else "")
            if p == 2:
                d.box(380 + k * 80 + used, y, 70 - used, 32, "none", "0")
        d.line((380, y + 46), (690, y + 46))
    return str(d)


def online() -> str:
    """Draw three blocks of keys that pass by a tile of queries, and the state that they change."""
    d = Drawing(
        710,
        356,
        "Online softmax. Two numbers and a row of sums per query pass from block to block. The (L, S) scores are not kept.",
    )
    d.text(20, 22, "keys and values of one head, in blocks of 512")
    for b in range(3):
        x = 110 + b * 200
        d.box(x, 34, 170, 26, "b", f"keys {b * 512} … {b * 512 + 511}")
        d.line((x + 85, 62), (x + 85, 84))
        d.box(x, 88, 170, 44, "a", "scores s = tile · keysᵀ")
        d.line((x + 85, 134), (x + 85, 156))
        d.box(x, 160, 170, 24, "none", "m = max(top, max s)")
        d.box(x, 188, 170, 24, "none", "r = exp(top − m)")
        d.box(x, 216, 170, 24, "none", "e = exp(s − m)")
        d.box(x, 244, 170, 24, "c", "total = r · total + Σ e")
        d.box(x, 272, 170, 24, "c", "sums = r · sums + e · V")
        d.box(x, 300, 170, 24, "c", "top = m")
        if b < 2:
            d.line((x + 172, 284), (x + 198, 284))
    d.box(20, 88, 66, 44, "a", "14 queries")
    d.line((88, 110), (108, 110))
    d.text(20, 262, "total = 0", "small")
    d.text(20, 288, "sums = 0", "small")
    d.text(20, 316, "top = −∞", "small")
    d.line((80, 284), (108, 284))
    d.text(595, 346, "out = sums / total", "small", "middle")
    return str(d)


def bits() -> str:
    """Draw one row in two batches: other tiles, the same chain of additions."""
    d = Drawing(700, 300, "A text alone and in a batch. The cuts into tiles differ, the chain of additions of a row does not.")
    d.text(20, 22, "alone: 18 tokens, tiles of 9 and 9")
    for i in range(18):
        d.box(20 + i * 16, 32, 14, 26, "a" if i < 9 else "c", "")
    d.text(20, 92, "behind another text of 12 tokens: tiles of 10, 10, 10")
    for i in range(30):
        d.box(20 + i * 16, 102, 14, 26, "none" if i < 12 else ("a" if i < 20 else "c"), "")
    for i in (9,):
        d.line((20 + i * 16 - 1, 26), (20 + i * 16 - 1, 66), arrow=False)
    for i in (10, 20):
        d.line((20 + i * 16 - 1, 96), (20 + i * 16 - 1, 136), arrow=False)
    d.text(212, 148, "the text", "small")
    d.line((210, 144), (212, 130), arrow=False)
    d.text(20, 188, "every element of the product, wherever its row lies:")
    steps = ("0", "+ a₀b₀", "+ a₁b₁", "+ a₂b₂", "…", "+ a₂₅₅b₂₅₅", "+ bias")
    for i, label in enumerate(steps):
        d.box(20 + i * 92, 200, 78, 28, "b" if label == "+ bias" else "d", label)
        if i:
            d.line((20 + i * 92 - 14, 214), (20 + i * 92 - 1, 214))
    d.text(20, 254, "one accumulator, k upwards, one rounding per step (fused multiply-add); longer sums are several", "small")
    d.text(20, 270, "such chains, of 256 products each and a rest, added in their order", "small")
    return str(d)


def schedules() -> str:
    """Draw the time of two threads under each schedule."""
    d = Drawing(
        700, 330, "Two threads under each schedule, time to the right. A vertical line is a barrier: both threads wait there."
    )
    d.text(20, 22, "throughput: a chunk of whole texts goes through all layers on one thread")
    for t in range(2):
        y = 34 + t * 44
        d.text(20, y + 20, f"thread {t + 1}", "small")
        for chunk in range(3):
            x = 84 + chunk * 190 + t * 24 * (chunk > 0)
            kind = "abcd"[(2 * chunk + t) % 4]
            for layer in range(6):
                d.box(x + layer * 29, y, 29, 28, kind, str(layer + 1))
    d.text(84, 140, "numbers: layers; colours: chunks of about 128 tokens; the next chunk goes to the thread that is free", "small")
    d.text(20, 178, "latency: both threads share each step of each layer, here of one short text")
    names = ("q, k, v", "attention", "output", "ff in", "ff out")
    cuts = ("columns", "heads", "columns", "columns", "columns")
    for t in range(2):
        y = 190 + t * 44
        d.text(20, y + 20, f"thread {t + 1}", "small")
        for s, name in enumerate(names):
            d.box(84 + s * 116, y, 104, 28, "abcda"[s], name)
    for s in range(1, 6):
        d.line((84 + s * 116 - 6, 184), (84 + s * 116 - 6, 268), arrow=False)
    for s, cut in enumerate(cuts):
        d.text(84 + s * 116 + 52, 284, f"by {cut}", "small", "middle")
    d.text(84, 308, "norms that need whole rows run on one thread at the barriers", "small")
    return str(d)


def numba() -> str:
    """Draw the way from Python functions to machine code on disk."""
    d = Drawing(
        700, 300, "From Python to machine code. Every step is Python code in the package; the compiler is the LLVM inside Numba."
    )
    d.box(20, 30, 190, 46, "a", "@kernel functions, Python")
    d.box(20, 100, 190, 46, "b", "@intrinsic: load, fma, tile")
    d.text(24, 166, "emit LLVM vector instructions", "small")
    d.line((212, 53), (256, 80))
    d.line((212, 123), (256, 96))
    d.box(260, 64, 150, 46, "none", "Numba: types, LLVM IR")
    d.line((412, 87), (446, 87))
    d.box(450, 64, 110, 46, "none", "LLVM: this CPU")
    d.line((562, 87), (596, 87))
    d.box(600, 64, 84, 46, "c", "machine code")
    d.line((642, 112), (642, 152))
    d.box(520, 156, 164, 46, "c", "cache: name + source tag")
    d.text(506, 220, "a hash of all kernel sources:", "small")
    d.text(506, 236, "an edit anywhere compiles anew", "small")
    d.box(20, 212, 190, 46, "d", "encoder_kernel (prange)")
    d.line((212, 235), (296, 235))
    d.text(218, 228, "by address", "small")
    d.box(300, 212, 150, 46, "d", "run_step (serial)")
    d.text(20, 280, "compiled once, not once for every function of the loop that calls it", "small")
    return str(d)


DRAWINGS: dict[str, Callable[[], str]] = {
    function.__name__: function for function in (tile, panels, online, bits, schedules, numba)
}
