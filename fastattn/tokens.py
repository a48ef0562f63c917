"""Text to token ids: loads a tokenizer, cuts what is too long, and packs texts of like length end to end."""

from __future__ import annotations

from itertools import accumulate, chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastattn.folder import CheckpointError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["Packed", "TextPacker", "load_tokenizer"]

# Tokens of one forward: enough to share among many threads, and a few tens of megabytes of hidden states.
_TOKENS_PER_FORWARD = 16_384


class Packed(NamedTuple):
    """Texts as token ids end to end: what one forward takes.

    Parameters
    ----------
    rows : int64, (B,)
        The numbers of the texts.
    ids : int32, (N,)
        Their token ids.
    offsets : int64, (B + 1,)
        Text b has ids offsets[b] .. offsets[b + 1] - 1.
    truncated : int
        Texts that were cut, of the whole call of `TextPacker.pack`; 0 in all but its first.
    """

    rows: NDArray[np.int64]
    ids: NDArray[np.int32]
    offsets: NDArray[np.int64]
    truncated: int


def load_tokenizer(folder: Path, *, do_lower_case: bool = False) -> Tokenizer:
    """Load ``tokenizer.json`` with padding and truncation off.

    Parameters
    ----------
    folder : Path
        Holds the file.
    do_lower_case : bool
        Lowercase the text first.

    Returns
    -------
    tokenizers.Tokenizer
        The tokenizer.

    Raises
    ------
    FileNotFoundError
        There is no ``tokenizer.json``.
    CheckpointError
        It cannot be read.
    """
    from tokenizers import Tokenizer
    from tokenizers.normalizers import Lowercase, Sequence

    path = folder / "tokenizer.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; with transformers installed, "
            "AutoTokenizer.from_pretrained(folder).save_pretrained(folder) writes it"
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:
        # The library has no exception class of its own.
        if type(error) is not Exception:
            raise
        raise CheckpointError(f"{path}: not a tokenizer: {error}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    if do_lower_case:
        before = [] if tokenizer.normalizer is None else [tokenizer.normalizer]
        tokenizer.normalizer = Sequence([Lowercase(), *before])
    return tokenizer


class TextPacker:
    """A tokenizer, with what is needed to cut its ids and keep the special tokens.

    The tokenizer is never changed, so any number of threads may use it at once.

    Parameters
    ----------
    tokenizer : tokenizers.Tokenizer
        Its padding and truncation must be off.
    cut_left : bool
        Cut the beginning of a text that is too long, not its end.
    """

    def __init__(self, tokenizer: Tokenizer, *, cut_left: bool = False) -> None:
        self.tokenizer = tokenizer
        self.cut_left = cut_left
        with_special = tokenizer.encode("a").ids
        plain = tokenizer.encode("a", add_special_tokens=False).ids
        self.num_special = len(with_special) - len(plain)
        starts = range(self.num_special + 1)
        self.prefix = next((p for p in starts if with_special[p : p + len(plain)] == plain), 0)

    def ids(self, texts: list[str], max_length: int) -> tuple[list[list[int]], int]:
        """Return the token ids of each text, and how many texts were cut.

        Parameters
        ----------
        texts : list of str
            The texts.
        max_length : int
            The most tokens of a text, special ones included.

        Returns
        -------
        rows : list of list of int
            The ids.
        truncated : int
            Texts that had more.
        """
        encode_batch = getattr(self.tokenizer, "encode_batch_fast", self.tokenizer.encode_batch)
        rows = [encoding.ids for encoding in encode_batch(texts)]
        too_long = [i for i, row in enumerate(rows) if len(row) > max_length]
        for i in too_long:
            room = max_length - self.num_special
            end = len(rows[i]) - (self.num_special - self.prefix)
            content = rows[i][end - room : end] if self.cut_left else rows[i][self.prefix : self.prefix + room]
            rows[i] = rows[i][: self.prefix] + content + rows[i][end:]
        return rows, len(too_long)

    def prefix_length(self, text: str, max_length: int) -> int:
        """Tokens of a text that others begin with: its own and the special ones before it.

        Parameters
        ----------
        text : str
            The text.
        max_length : int
            The most tokens of a text, special ones included.

        Returns
        -------
        int
            How many.
        """
        return len(self.ids([text], max_length)[0][0]) - (self.num_special - self.prefix)

    def pack(self, texts: list[str], max_length: int, start: int = 0) -> list[Packed]:
        """Tokenise texts and group them by length into forwards of a bounded number of tokens.

        Parameters
        ----------
        texts : list of str
            The texts.
        max_length : int
            The most tokens of a text, special ones included.
        start : int
            The number of the first text.

        Returns
        -------
        list of Packed
            Every text once; the longest first.

        Raises
        ------
        ValueError
            A text is not valid Unicode.
        """
        try:
            rows, truncated = self.ids(texts, max_length)
        except TypeError:
            for i, text in enumerate(texts):
                if any("\ud800" <= character <= "\udfff" for character in text):
                    raise ValueError(f"inputs[{start + i}] is not valid Unicode: it holds half a surrogate pair") from None
            raise
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
        groups: list[list[int]] = []
        room = 0
        for i in order:
            room -= len(rows[i])
            if not groups or room < 0:
                groups.append([])
                room = _TOKENS_PER_FORWARD - len(rows[i])
            groups[-1].append(i)
        packed = []
        for group in groups:
            offsets = np.fromiter(accumulate((len(rows[i]) for i in group), initial=0), np.int64, len(group) + 1)
            ids = np.fromiter(chain.from_iterable(rows[i] for i in group), np.int32, int(offsets[-1]))
            packed.append(Packed(np.array(group, np.int64) + start, ids, offsets, truncated))
            truncated = 0
        return packed
