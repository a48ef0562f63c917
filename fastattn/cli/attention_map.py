"""Draws attention: every head as a small map, and one large map from token to token.

matplotlib draws; it comes with the extra ``viz``.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fastattn.cli.attention import Reading
from fastattn.cli.terminal import counted

__all__ = ["SUFFIXES", "check_drawing", "draw_attention", "write_figure"]

logger = logging.getLogger(__name__)

SUFFIXES = (".png", ".svg", ".pdf")

_DPI = 150
_COLOURS = "Blues"
_MARK = "#d95f02"
# The most tokens that all have labels, and the most whose cells show values.
_LABELLED, _WITH_VALUES = 60, 25
# Inches: cell of a token and small map of a head (least, most); longest label; gap, colour bar and the labels of the bar.
_CELL, _SMALL_MAP = (0.24, 0.6), (0.45, 1.0)
_LABEL = 1.2
_GAP, _BAR, _BAR_LABELS = 0.15, 0.16, 0.75
# Points: numbers in large cells, of at most 14 tokens, and in small ones.
_NUMBER, _SMALL_NUMBER, _LARGE_CELLS = 8, 6, 14
# The most cells across a small map; in a longer text each cell is the mean of several tokens.
_SMALL_CELLS = 64


def check_drawing(out: Path) -> None:
    """Raise if matplotlib is missing or `out` has none of `SUFFIXES`; called before a model is loaded."""
    if out.suffix not in SUFFIXES:
        kinds = ", ".join(SUFFIXES)
        raise ValueError(f"{out}: cannot draw {out.suffix or 'a file without a suffix'}; supported: {kinds}")
    _figure_class()


def _figure_class() -> Any:
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ImportError(f"drawing needs matplotlib ({error}): pip install 'fastattn[viz]'") from error
    from fastattn.cli.attention_figure import AttentionFigure

    return AttentionFigure


def draw_attention(reading: Reading, *, layer: int | None = None, head: int | None = None) -> Any:
    """Draw a map from token to token for a layer and head (None: the mean of all), and beside it a small map of every head.

    The colours of the large map end at the greatest weight between two words: special tokens, on which a head puts the weight that
    it does not need, may exceed it.  The small maps share a scale, by the square root of the weight.
    """
    figure_class = _figure_class()
    layers, heads, count, _ = reading.attention.shape
    for name, value, most in (("layer", layer, layers), ("head", head, heads)):
        if value is not None and not 0 <= value < most:
            raise ValueError(f"{name} must be in 0 .. {most - 1} for this model, got {value}")
    families, font, absent = _fonts({character for label in (*reading.labels, reading.text) for character in label})
    if absent:
        _warn(absent)
    size = 9 if count > 20 else 10
    labels = [_cut(_drawable(label, absent), _LABEL, font, size) for label in reading.labels]
    label_width = max((_inches(font, label, size) for label in labels), default=0.0)
    side = count * min(max(6 / count, _CELL[0]), _CELL[1]) if count <= _LABELLED else _LABELLED * _CELL[0]
    small = min(max(min(side / 9, 1.2 * side / layers), _SMALL_MAP[0]), _SMALL_MAP[1])
    # From left to right: labels, map, its bar, the number of a layer, small maps, their bar.
    map_left = label_width + 0.5
    grid_left = map_left + side + _GAP + _BAR + _BAR_LABELS + 0.7
    width = grid_left + heads * small + _GAP + _BAR + _BAR_LABELS
    grid_top, above = 1.55, max(1.55, label_width + 1.3)
    hints = ["A row is a token, its cells the tokens that it takes in; they sum to 1."]
    if any(label.startswith("·") for label in labels):
        hints.append("A dot marks a piece that continues a word.")
    if count > _LABELLED:
        hints.append(f"Of {count} tokens one in {_stride(count)} has its label.")
    if layers * heads > 1:
        hints.append(f"Small map in row {layers - 1}, column {heads - 1}, alone: --layer {layers - 1} --head {heads - 1}.")
    hint = "  ".join(hints)
    # The hint is under the large map, or under both maps if the large map is too narrow.
    hint_top = above + side if _inches(font, hint, 9) < side else max(above + side, grid_top + layers * small)
    height = max(hint_top + 0.5, grid_top + layers * small)
    figure = figure_class(figsize=(width, height), dpi=_DPI)

    def axes(left: float, top: float, wide: float, high: float) -> Any:
        return figure.add_axes((left / width, 1 - (top + high) / height, wide / width, high / height))

    style = {"fontfamily": families, "parse_math": False}
    # A fallback font may have no bold face.
    weight = "bold" if len(families) == 1 else "normal"
    # The width is measured in the normal face; the bold face is up to 15 % wider.
    title = _cut(_drawable(" ".join(reading.text.split()), absent), max(width - 0.6, 6) / 1.15, font, 14)
    figure.text(0.15 / width, 1 - 0.2 / height, f"“{title}”", fontsize=14, va="top", weight=weight, **style)
    about = f"{reading.model}: {counted(count, 'token')}, {counted(layers, 'layer')} of {counted(heads, 'head')}"
    if reading.truncated:
        about += "; the text is longer than the model reads"
    figure.text(0.15 / width, 1 - 0.55 / height, about, fontsize=10, va="top", color="0.35", **style)

    chosen = reading.attention[slice(None) if layer is None else layer, slice(None) if head is None else head]
    weights = chosen.reshape(-1, count, count).mean(axis=0)
    _draw_map(
        axes(map_left, above, side, side),
        axes(map_left + side + _GAP, above, _BAR, side),
        weights,
        reading.special,
        labels,
        size,
        style,
    )
    map_title = _map_title(layers, heads, layer, head)
    figure.text(map_left / width, 1 - 0.95 / height, map_title, fontsize=12, va="top", **style)
    figure.text(grid_left / width, 1 - 0.95 / height, "Every head (column) of every layer (row)", fontsize=12, va="top", **style)
    grid = axes(grid_left, grid_top, heads * small, layers * small)
    _draw_grid(grid, axes(grid_left + heads * small + _GAP, grid_top, _BAR, layers * small), reading.attention, layer, head)
    figure.text(map_left / width, 1 - (hint_top + 0.15) / height, hint, fontsize=9, va="top", color="0.35", **style)
    return figure


def _draw_map(
    ax: Any, bar: Any, weights: NDArray[np.float32], special: NDArray[np.bool_], labels: list[str], size: int, style: dict[str, Any]
) -> None:
    """Draw the map from token to token, with labels on its left and above it."""
    count = len(labels)
    between = weights[np.ix_(~special, ~special)]
    # A single word attends to special tokens and itself only.
    top = float(between.max() if len(between) > 1 else weights.max(initial=0))
    top = top or 1.0
    image = ax.imshow(weights, cmap=_COLOURS, vmin=0, vmax=top, interpolation="nearest")
    places = range(0, count, _stride(count))
    shown = [labels[i] for i in places]
    ax.set_xticks(places, labels=shown, rotation=90, fontsize=size, **style)
    ax.set_yticks(places, labels=shown, fontsize=size, **style)
    ax.xaxis.tick_top()
    ax.tick_params(length=2 if count > _LABELLED else 0)
    if count <= _LABELLED:
        ax.set_xticks(np.arange(count - 1) + 0.5, minor=True)
        ax.set_yticks(np.arange(count - 1) + 0.5, minor=True)
        ax.grid(which="minor", color="white", linewidth=0.5)
        ax.tick_params(which="minor", length=0)
    if count <= _WITH_VALUES:
        points = _NUMBER if count <= _LARGE_CELLS else _SMALL_NUMBER
        for t in range(count):
            for s in range(count):
                # Both colours have a contrast of 4.4 or more on their side of this value.
                colour = "white" if weights[t, s] > 0.7 * top else "black"
                number = f"{weights[t, s]:.2f}".removeprefix("0")
                ax.text(s, t, number, ha="center", va="center", fontsize=points, color=colour)
    exceeded = bool((weights > top * (1 + 1e-6)).any())
    ax.figure.colorbar(image, cax=bar, extend="max" if exceeded else "neither", extendfrac=0.03)
    bar.set_ylabel("attention" + (" (arrow: special tokens)" if exceeded else ""), fontsize=9)
    bar.tick_params(labelsize=9)


def _draw_grid(ax: Any, bar: Any, attention: NDArray[np.float32], layer: int | None, head: int | None) -> None:
    """Draw the small maps of all heads in one image; a frame marks the heads of the large map."""
    from matplotlib.colors import PowerNorm
    from matplotlib.patches import Rectangle

    layers, heads = attention.shape[:2]
    cells = _coarser(attention)
    side = cells.shape[2]
    # One image of all small maps: drawing each in its own axes takes minutes for hundreds of heads.
    mosaic = cells.transpose(0, 2, 1, 3).reshape(layers * side, heads * side)
    extent = (-0.5, heads - 0.5, layers - 0.5, -0.5)
    norm = PowerNorm(0.5, vmin=0, vmax=1)
    image = ax.imshow(mosaic, cmap=_COLOURS, norm=norm, extent=extent, aspect="auto", interpolation="antialiased")
    ax.set_xticks(range(heads))
    ax.set_yticks(range(layers))
    ax.set_xticks(np.arange(heads + 1) - 0.5, minor=True)
    ax.set_yticks(np.arange(layers + 1) - 0.5, minor=True)
    ax.grid(which="minor", color="white", linewidth=3)
    ax.tick_params(which="both", length=0, labelsize=9)
    ax.xaxis.tick_top()
    for spine in ax.spines.values():
        spine.set_visible(False)
    for i in range(layers):
        for j in range(heads):
            ax.add_patch(Rectangle((j - 0.47, i - 0.47), 0.94, 0.94, fill=False, edgecolor="0.7", linewidth=0.5, zorder=3))
    if layer is not None or head is not None:
        left, wide = (-0.5, heads) if head is None else (head - 0.5, 1)
        top, high = (-0.5, layers) if layer is None else (layer - 0.5, 1)
        ax.add_patch(Rectangle((left, top), wide, high, fill=False, edgecolor=_MARK, linewidth=2, clip_on=False, zorder=4))
    ticks = [0, 0.01, 0.05, 0.1, 0.25, 0.5, 1] if bar.bbox.height > 2 * _DPI else [0, 0.1, 0.4, 1]
    ax.figure.colorbar(image, cax=bar, ticks=ticks, format="%g")
    bar.set_ylabel("attention, square root", fontsize=9)
    bar.tick_params(labelsize=9)


def _coarser(attention: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return means over blocks of tokens, so that a small map has at most `_SMALL_CELLS` cells across."""
    count = attention.shape[-1]
    starts = np.unique(np.arange(_SMALL_CELLS) * count // _SMALL_CELLS)
    if len(starts) == count:
        return attention
    sums = np.add.reduceat(np.add.reduceat(attention, starts, axis=2), starts, axis=3)
    sizes = np.diff([*starts, count]).astype(np.float32)
    return np.asarray(sums / (sizes[:, None] * sizes), np.float32)


def _map_title(layers: int, heads: int, layer: int | None, head: int | None) -> str:
    if layers * heads == 1:
        return "Its only head"
    if layer is None and head is None:
        return f"Mean of all {layers * heads} heads"
    if layer is None:
        return f"Head {head}, mean of {counted(layers, 'layer')}"
    return f"Layer {layer}, mean of {counted(heads, 'head')}" if head is None else f"Layer {layer}, head {head}"


def _stride(count: int) -> int:
    """Return n if every n-th token has a label."""
    return max(1, math.ceil(count / _LABELLED))


def _fonts(characters: set[str]) -> tuple[list[str], Any, set[str]]:
    """Return font families that together cover the characters, a font to measure widths, and the characters that none covers."""
    from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font

    families = ["DejaVu Sans"]
    paths: list[Any] = [findfont(FontProperties(family=families))]
    known = get_font(paths[0])
    absent = {character for character in characters if not known.get_char_index(ord(character))}
    for entry in fontManager.ttflist:
        # Emoji fonts have bitmaps instead of outlines, and the Last Resort font has placeholder boxes for all characters.
        if (
            not absent
            or entry.style != "normal"
            or entry.name in families
            or any(x in entry.name for x in ("Emoji", "Last Resort"))
        ):
            continue
        try:
            font = get_font(entry.fname)
        except (OSError, RuntimeError):
            continue
        found = {character for character in absent if font.get_char_index(ord(character))}
        if found:
            families.append(entry.name)
            paths.append(entry.fname)
            absent -= found
    return families, get_font(paths), absent


def _warn(absent: set[str]) -> None:
    import matplotlib

    shown = ", ".join(f"{character} U+{ord(character):04X}" for character in sorted(absent)[:3] if character.isprintable())
    logger.warning(
        "no font has %s: drawn as code points; install a font that has them (for Chinese, Japanese and Korean: Noto Sans CJK) "
        "and remove matplotlib's list of fonts in %s",
        f"{shown or 'some characters'}{' and more' if len(absent) > 3 else ''}",
        matplotlib.get_cachedir(),
    )


def _drawable(text: str, absent: set[str]) -> str:
    """Return the text with its `absent` characters replaced by their code points."""
    return "".join(f"<{ord(character):X}>" if character in absent else character for character in text)


def _inches(font: Any, text: str, size: int) -> float:
    """Return the width of a text in inches, at a font size in points."""
    font.set_size(size, 72)
    font.set_text(text)
    return float(font.get_width_height()[0]) / 64 / 72


def _cut(text: str, room: float, font: Any, size: int) -> str:
    """Return the text, or its longest beginning that fits `room` inches with an ellipsis."""
    low, high = 0, min(len(text), 500)
    if high == len(text) and _inches(font, text, size) <= room:
        return text
    while low < high:
        middle = (low + high + 1) // 2
        if _inches(font, f"{text[:middle].rstrip()}…", size) <= room:
            low = middle
        else:
            high = middle - 1
    return f"{text[:low].rstrip()}…"


def write_figure(figure: Any, file: BinaryIO, suffix: str) -> None:
    """Write a figure in the format of `suffix`; the same figure gives the same bytes."""
    import matplotlib

    date = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(suffix)
    with matplotlib.rc_context({"svg.hashsalt": "fastattn"}):
        figure.savefig(file, format=suffix[1:], metadata=date, bbox_inches="tight", pad_inches=0.15, facecolor="white")
