"""Figure that a notebook shows without pyplot; matplotlib is imported here, so this module is only imported to draw."""

from __future__ import annotations

import io

from matplotlib.figure import Figure

__all__ = ["AttentionFigure"]


class AttentionFigure(Figure):
    """Figure that shows itself as the last line of a notebook's cell."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png", bbox_inches="tight", pad_inches=0.15, facecolor="white")
        return file.getvalue()
