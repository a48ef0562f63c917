"""Texts to embeddings: tokenise in one thread, compute in the others, write each embedding to its place."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastattn.embeddings import normalize, pool
from fastattn.encoder import Encoder
from fastattn.recipe import Recipe
from fastattn.tokens import Packed, TextPacker

__all__ = ["Counts", "Pipeline"]

# Texts that are tokenised at a time.
_SLICE = 1024


class Counts(NamedTuple):
    """What was read.

    Parameters
    ----------
    texts : int
        Texts.
    tokens : int
        Tokens, special ones included.
    truncated : int
        Texts that were cut.
    """

    texts: int
    tokens: int
    truncated: int


class Pipeline:
    """An encoder with a tokenizer before it and pooling behind it.

    Parameters
    ----------
    encoder : Encoder
        The encoder.
    packer : TextPacker
        The tokenizer.
    recipe : Recipe
        The pooling.
    """

    def __init__(self, encoder: Encoder, packer: TextPacker, recipe: Recipe) -> None:
        self.encoder = encoder
        self.packer = packer
        self.recipe = recipe
        self.embedding_dim = encoder.config.hidden_dim * len(recipe.pooling)

    def embed(
        self,
        texts: list[str],
        *,
        max_length: int,
        prompt: str = "",
        width: int | None = None,
        normalized: bool = False,
        show_progress_bar: bool = False,
    ) -> tuple[NDArray[np.float32], Counts]:
        """Embed texts.

        Beside the texts and the result, memory holds two slices of token ids and one forward, however many texts there
        are.

        Parameters
        ----------
        texts : list of str
            The texts.
        max_length : int
            The most tokens of a text, special ones included.
        prompt : str
            Put before each text.
        width : int, optional
            Keep only so many channels.
        normalized : bool
            Divide each embedding by its length.
        show_progress_bar : bool
            Show the progress on stderr.

        Returns
        -------
        embeddings : float32, (B, C)
            In the order of the texts.
        counts : Counts
            What was read.

        Raises
        ------
        ValueError
            A text is not valid Unicode, or a token id is out of the encoder's range.
        """
        width = self.embedding_dim if width is None else min(width, self.embedding_dim)
        result = np.empty((len(texts), width), np.float32)
        tokens = truncated = 0
        prompt_tokens = 0
        if prompt and not self.recipe.include_prompt:
            prompt_tokens = self.packer.prefix_length(prompt, max_length)
        with _progress_bar(len(texts), show_progress_bar) as advance:
            for batch in self._batches(texts, prompt, max_length):
                rows = self._forward(batch, prompt_tokens)[:, :width]
                result[batch.rows] = normalize(rows) if normalized else rows
                tokens += len(batch.ids)
                truncated += batch.truncated
                advance(len(batch.rows))
        return result, Counts(len(texts), tokens, truncated)

    def _batches(self, texts: list[str], prompt: str, max_length: int) -> Iterator[Packed]:
        """Tokenise slice by slice, the next one in a thread while the caller computes."""

        def pack(start: int) -> list[Packed]:
            part = texts[start : start + _SLICE]
            return self.packer.pack([prompt + text for text in part] if prompt else part, max_length, start)

        if len(texts) <= _SLICE:
            yield from pack(0)
            return
        with ThreadPoolExecutor(1) as thread:
            following = thread.submit(pack, 0)
            for start in range(_SLICE, len(texts) + _SLICE, _SLICE):
                batches = following.result()
                if start < len(texts):
                    following = thread.submit(pack, start)
                yield from batches

    def _forward(self, batch: Packed, prompt_tokens: int) -> NDArray[np.float32]:
        """Embeddings of one batch, pooled without the first `prompt_tokens` of each text, (B, C)."""
        modes = self.recipe.pooling
        if len(modes) == 1 and not prompt_tokens:
            return self.encoder.forward_packed(batch.ids, batch.offsets, pooling=modes[0], normalize=self.recipe.normalize)
        hidden = self.encoder.forward_packed(batch.ids, batch.offsets)
        rows = np.stack(
            [
                np.concatenate([pool(hidden[first:last], mode, prompt_tokens) for mode in modes])
                for first, last in zip(batch.offsets[:-1], batch.offsets[1:], strict=True)
            ]
        )
        return normalize(rows) if self.recipe.normalize else rows


@contextlib.contextmanager
def _progress_bar(total: int, show: bool) -> Iterator[Callable[[int], object]]:
    """Yield what is called with the number of texts that are done."""
    if not show:
        yield lambda count: None
        return
    from tqdm import tqdm

    with tqdm(total=total, unit="text", desc="Embedding") as bar:
        yield bar.update
