"""The chapters on how an encoder learns, by name."""

from __future__ import annotations

from fastattn.cli.lessons import autoencoder, cross_entropy, optimizers, positions, prediction
from fastattn.cli.lessons.page import check_text, say
from fastattn.cli.terminal import output

__all__ = ["check_lessons", "point_to_chapters", "teach"]

# In the order of --all.
_LESSONS = {
    "cross-entropy": cross_entropy.lesson,
    "optimizers": optimizers.lesson,
    "prediction": prediction.lesson,
    "autoencoder": autoencoder.lesson,
    "positions": positions.lesson,
}


def check_lessons(text: str, chapter: str | None) -> None:
    """Raise ValueError for a name that no chapter has (None is all of them), and a text from which nothing can be learnt."""
    if chapter is not None and chapter not in _LESSONS:
        raise ValueError(f"--chapter must be one of {', '.join(_LESSONS)}, got {chapter}")
    check_text(text)
    if len(set(text)) < 2:
        raise ValueError("the chapters on learning need a text with 2 different characters or more")


def teach(text: str, chapter: str | None, seed: int) -> None:
    """Print a chapter, or all."""
    for name, lesson in _LESSONS.items():
        if chapter in (None, name):
            lesson(text, seed)


def point_to_chapters() -> None:
    """Print how to go on from the encoder to the chapters."""
    output.print()
    say(f"Next: how such a model learns. --chapter NAME shows one of {', '.join(_LESSONS)}; --all shows everything.")
