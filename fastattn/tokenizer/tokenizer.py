"""Tokenizer: a tokenizer.json with the methods of transformers' tokenizers, safe in several threads."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from fastattn.checkpoint.folder import CheckpointError, own_file, read_object, whole_file
from fastattn.runtime.files import write_file, write_json
from fastattn.tokenizer.calls import TokenizerCalls
from fastattn.tokenizer.classes import ANY
from fastattn.tokenizer.faults import call, sound
from fastattn.tokenizer.inputs import check_unicode, longest_first
from fastattn.tokenizer.limits import read_backend
from fastattn.tokenizer.prefix import beginning, is_long, reads_word_by_word
from fastattn.tokenizer.settings import NO_LIMIT, SPECIAL_TOKENS, read_settings, special_tokens
from fastattn.tokenizer.steps import apply_settings, prefix_space
from fastattn.tokenizer.vocabulary import build_backend

if TYPE_CHECKING:
    from tokenizers import Encoding
    from tokenizers import Tokenizer as Backend

__all__ = ["TokenIds", "Tokenizer", "load_tokenizer"]

_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.txt", "vocab.json", "merges.txt", "chat_template.jinja",
)  # fmt: skip
# Files of transformers before version 5, which a tokenizer may lack.
_OLDER = ("special_tokens_map.json", "added_tokens.json")
# The most words of a vocabulary that `_word` tries.
_WORDS = 1000


class TokenIds(NamedTuple):
    """Token ids of texts or of pairs of texts.

    Parameters
    ----------
    ids : list of int32, (T,)
        The token ids of each text or pair.
    types : list of int32, (T,), or None
        The token types of each text or pair; None means all zeros.
    truncated : int
        Number of truncated texts or pairs.
    """

    ids: list[NDArray[np.int32]]
    types: list[NDArray[np.int32]] | None
    truncated: int


class Tokenizer(TokenizerCalls):
    """A tokenizer with the methods of transformers' tokenizers.

    Calls are thread-safe: texts are truncated here and not by the tokenizers library, where truncation is a setting that all
    threads share.

    Parameters
    ----------
    backend : tokenizers.Tokenizer
        Tokenizer of the tokenizers library; its padding and truncation are turned off.
    model_max_length : int
        Maximum number of tokens of a text, special tokens included.
    cut_left : bool
        Truncate a text at its beginning instead of its end.
    special_tokens : mapping of str to str, optional
        Tokens by role: "pad_token", "cls_token", ...
    model_input_names : sequence of str
        Names of the arrays that a call returns.
    class_name : str
        Tokenizer class of transformers.
    folder : path, optional
        Folder from which the tokenizer was read.
    given : mapping, optional
        Settings that were given in place of those in the folder.
    adds_special_tokens : bool
        Whether `rows` and `pair_rows` add the special tokens of the post-processor.

    References
    ----------
    Hugging Face transformers 5.23, class PreTrainedTokenizerBase, its documentation.
    """

    is_fast = True
    padding_side = "right"

    def __init__(
        self,
        backend: Backend,
        *,
        model_max_length: int = NO_LIMIT,
        cut_left: bool = False,
        special_tokens: Mapping[str, str] | None = None,
        model_input_names: Sequence[str] = ("input_ids", "attention_mask"),
        class_name: str = ANY.name,
        folder: str | os.PathLike[str] | None = None,
        given: Mapping[str, Any] | None = None,
        adds_special_tokens: bool = True,
    ) -> None:
        backend.no_padding()
        backend.no_truncation()
        self.backend_tokenizer = backend
        self.model_max_length = model_max_length
        self.truncation_side = "left" if cut_left else "right"
        self.special_tokens_map = dict(special_tokens or {})
        self.model_input_names = list(model_input_names)
        self.class_name = class_name
        self.name_or_path = "" if folder is None else str(folder)
        self._given = dict(given or {})
        self.adds_special_tokens = adds_special_tokens
        self._side = self.truncation_side
        with sound(self.name_or_path):
            self._word = _word(backend)
            whole = backend.encode(self._word, add_special_tokens=adds_special_tokens)
        texts = whole.sequence_ids
        self.num_special = texts.count(None)
        """Number of special tokens that a text gets."""
        self._prefix = next((i for i, text in enumerate(texts) if text is not None), 0)
        end = len(texts) - (self.num_special - self._prefix)
        before, text, after = whole.type_ids[: self._prefix], whole.type_ids[self._prefix : end], whole.type_ids[end:]
        # Token types: of each special token, and a single one for the whole text.
        self._around = np.array([*before, *(text[:1] or [0]), *after], np.int32)
        self._typed = bool(self._around.any())

    def __repr__(self) -> str:
        """Show the class in transformers, the folder, and the numbers of tokens."""
        folder = f"{self.name_or_path!r}, " if self.name_or_path else ""
        limit = "" if self.model_max_length >= NO_LIMIT else f", model_max_length={self.model_max_length}"
        return f"Tokenizer({folder}tokenizer_class={self.class_name!r}, vocab_size={self.vocab_size}, tokens={len(self)}{limit})"

    @property
    def _tokenizer(self) -> Backend:
        """`backend_tokenizer` under the name that programs use."""
        return self.backend_tokenizer

    @classmethod
    def wrap(cls, tokenizer: Any, *, like: Tokenizer | None = None) -> Tokenizer:
        """Return the tokenizer as a `Tokenizer`; another library's is copied, and missing settings are taken from `like`."""
        from tokenizers import Tokenizer as Backend

        if isinstance(tokenizer, cls) and (like is None or tokenizer.adds_special_tokens == like.adds_special_tokens):
            return tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
        if not isinstance(backend, Backend):
            kinds = "a fastattn, tokenizers or (fast) transformers tokenizer"
            raise TypeError(f"tokenizer must be {kinds}, got {type(tokenizer).__name__}")
        copy = Backend.from_str(backend.to_str())
        copy.encode_special_tokens = backend.encode_special_tokens
        like = cls(copy) if like is None else like
        return cls(
            copy,
            model_max_length=getattr(tokenizer, "model_max_length", like.model_max_length),
            cut_left=getattr(tokenizer, "truncation_side", like.truncation_side) == "left",
            special_tokens=getattr(tokenizer, "special_tokens_map", like.special_tokens_map),
            model_input_names=getattr(tokenizer, "model_input_names", like.model_input_names),
            adds_special_tokens=like.adds_special_tokens,
        )

    def rows(self, texts: Sequence[str], max_length: int) -> TokenIds:
        """Return the ids of texts, special tokens included, at most `max_length` a text; types only if some are not 0."""
        rows: list[NDArray[np.int32]] = []
        truncated = 0
        for row in self._ids(texts, max_length, self.adds_special_tokens):
            if len(row) > max_length:
                truncated += 1
                end = len(row) - (self.num_special - self._prefix)
                kept = self.cut(row[self._prefix : end], max_length - self.num_special)
                row = np.concatenate([row[: self._prefix], kept, row[end:]])
            rows.append(row)
        types = None
        if self._typed and "token_type_ids" in self.model_input_names:
            before, after = [1] * self._prefix, [1] * (self.num_special - self._prefix)
            types = [np.repeat(self._around, [*before, len(row) - self.num_special, *after]) for row in rows]
        return TokenIds(rows, types, truncated)

    def pair_rows(self, pairs: Sequence[Sequence[str]], max_length: int) -> TokenIds:
        """Return the ids of pairs of texts, at most `max_length` a pair: the longer text is truncated first; types as in `rows`."""
        ids, types = self._around_pair
        before, between, after = (np.array(part, np.int32) for part in ids)
        room = max_length - len(before) - len(between) - len(after)
        typed = "token_type_ids" in self.model_input_names and types.any()
        rows, kinds, truncated = [], [], 0
        sides = (self._ids([pair[side] for pair in pairs], room, False) for side in (0, 1))
        for pair, first, second in zip(pairs, *sides, strict=True):
            if room % 2 and min(len(first), len(second)) > room and is_long(max(pair, key=len), room):
                # Of an odd number of tokens the longer text keeps one more, so both lengths must be exact.
                first, second = (np.array(found.ids, np.int32) for found in self._encode(pair, False))
            if len(first) + len(second) > room:
                truncated += 1
                lengths = longest_first(len(first), len(second), room)
                first, second = self.cut(first, lengths[0]), self.cut(second, lengths[1])
            rows.append(np.concatenate([before, first, between, second, after]))
            if typed:
                counts = [*[1] * len(before), len(first), *[1] * len(between), len(second), *[1] * len(after)]
                kinds.append(np.repeat(types, counts))
        return TokenIds(rows, kinds if typed else None, truncated)

    def plain_rows(self, texts: Sequence[str], most: int) -> Iterator[NDArray[np.int32]]:
        """Yield each text's ids without special tokens; a text with more than `most` may end where it has more than `most` ids."""
        return self._ids(texts, most, False)

    def prefix_length(self, text: str, max_length: int) -> int:
        """Return the number of tokens of a prompt and of the special tokens before it; ValueError if it is not valid Unicode."""
        check_unicode(text, "prompt")
        return len(self.rows([text], max_length).ids[0]) - (self.num_special - self._prefix)

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> None:
        """Write the tokenizer's files into a folder, with its settings as they are now.

        Parameters
        ----------
        save_directory : str or path
            Folder to write; created if missing.
        """
        target = Path(save_directory)
        target.mkdir(parents=True, exist_ok=True)
        source = Path(self.name_or_path)
        # A tokenizer that was given as an object has no folder: files in the target belong to another tokenizer.
        foreign = not self.name_or_path
        if foreign or source.resolve() != target.resolve():
            for name in _FILES:
                if not foreign and (source / name).is_file():
                    write_file(target / name, own_file(source / name))
                elif name in _OLDER:
                    (target / name).unlink(missing_ok=True)
        written = foreign or bool(self._given) or not (target / "tokenizer.json").is_file()
        if written:
            write_file(target / "tokenizer.json", self.backend_tokenizer.to_str(pretty=True).encode())
        content = {} if foreign else read_object(target / "tokenizer_config.json")
        changed = {**self._given, **self._changes(target, content, written, foreign)}
        if changed:
            write_json(target / "tokenizer_config.json", {**content, **changed})
        special = {name: changed[name] for name in SPECIAL_TOKENS if name in changed}
        older = target / "special_tokens_map.json"
        # special_tokens_map.json overrides tokenizer_config.json in transformers.
        if special and older.is_file():
            write_json(older, {**read_object(older), **special})

    def _changes(self, target: Path, content: dict[str, Any], written: bool, foreign: bool) -> dict[str, Any]:
        """Return what tokenizer_config.json must say, and a tokenizer read from the folder `target` would not do."""
        wanted = {
            "model_max_length": self.model_max_length,
            "truncation_side": self.truncation_side,
            "model_input_names": self.model_input_names,
            **{name: self.special_tokens_map.get(name) for name in SPECIAL_TOKENS},
        }
        if foreign:
            wanted["tokenizer_class"] = ANY.name
            # transformers 4 takes the space before a text from tokenizer_config.json, in every class.
            if (space := prefix_space(self.backend_tokenizer)) is not None:
                wanted["add_prefix_space"] = space
            if self.backend_tokenizer.encode_special_tokens:
                wanted["split_special_tokens"] = True
            return wanted
        settings = read_settings(target)
        side = settings.truncation_side or ("right" if written else self._side)
        said: dict[str, Any] = {
            "model_max_length": settings.model_max_length,
            "truncation_side": side,
            "model_input_names": settings.model_input_names,
            **dict.fromkeys(SPECIAL_TOKENS),
            **special_tokens(self.backend_tokenizer, settings),
        }
        if settings.kind.name != self.class_name:
            wanted["tokenizer_class"], said["tokenizer_class"] = self.class_name, None
        return {name: value for name, value in wanted.items() if said[name] != value}

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes, and the setting of the tokenizers library that its own state leaves out."""
        return {**self.__dict__, "_split": self.backend_tokenizer.encode_special_tokens}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Set the attributes."""
        split = state.pop("_split")
        self.__dict__.update(state)
        self.backend_tokenizer.encode_special_tokens = split

    @cached_property
    def _around_pair(self) -> tuple[tuple[list[int], ...], NDArray[np.int32]]:
        """Special tokens before, between and after the texts of a pair; token types of these, and a single one for each text."""
        with sound(self.name_or_path):
            whole = self.backend_tokenizer.encode(self._word, self._word, add_special_tokens=self.adds_special_tokens)
        ids, types, texts = list(whole.ids), list(whole.type_ids), list(whole.sequence_ids)
        if not {0, 1}.issubset(texts):
            raise CheckpointError(f"{self.name_or_path}: its post-processor leaves out a text of a pair: two texts make ids {ids}")
        first, second = texts.index(0), texts.index(1)
        end, last = first + texts.count(0), second + texts.count(1)
        if end > second:
            raise CheckpointError(f"{self.name_or_path}: its post-processor puts the second text of a pair first; not supported")
        kinds = [*types[:first], types[first], *types[end:second], types[second], *types[last:]]
        return (ids[:first], ids[end:second], ids[last:]), np.array(kinds, np.int32)

    def cut(self, row: NDArray[np.int32], length: int) -> NDArray[np.int32]:
        """Return the first `length` ids, or the last where the beginning is truncated."""
        length = max(0, length)
        if len(row) <= length:
            return row
        return row[len(row) - length :] if self.truncation_side == "left" else row[:length]

    def _ids(self, texts: Sequence[str], most: int, add_special_tokens: bool) -> Iterator[NDArray[np.int32]]:
        """Yield each text's ids. A text with more than `most` may be tokenised only up to a point that is more than `most` ids."""
        some = self.truncation_side == "right" and any(is_long(text, most) for text in texts)
        some = some and reads_word_by_word(self.backend_tokenizer)
        parts = [beginning(text, most) for text in texts] if some else texts
        encodings = self._encode(parts, add_special_tokens)[::-1]
        for text, part in zip(texts, parts, strict=True):
            ids = encodings.pop().ids
            while len(ids) <= most and len(part) < len(text):
                part = beginning(text, most, part)
                ids = self._encode([part], add_special_tokens)[0].ids
            yield np.array(ids, np.int32)

    def _encode(self, texts: Sequence[str], add_special_tokens: bool) -> list[Encoding]:
        """Tokenise without offsets if the library can, which is faster."""
        backend = self.backend_tokenizer
        encode_batch = getattr(backend, "encode_batch_fast", backend.encode_batch)
        found = call(self.name_or_path, encode_batch, list(texts), add_special_tokens=add_special_tokens)
        return cast("list[Encoding]", found)


def _word(backend: Backend) -> str:
    """Return a text that has tokens: "a", or a word of the vocabulary if "a" has no tokens."""
    if backend.encode("a", add_special_tokens=False).ids:
        return "a"
    words = islice(backend.get_vocab(with_added_tokens=False), _WORDS)
    return next((word for word in words if backend.encode(word, add_special_tokens=False).ids), "a")


def load_tokenizer(folder: Path, *, do_lower_case: bool = False, given: Mapping[str, Any] | None = None) -> Tokenizer:
    """Load ``tokenizer.json``, or a vocabulary, and the settings beside it; CheckpointError for an unreadable file or a bomb.

    `do_lower_case` lowercases texts first; `given` are `STEPS` in place of those of tokenizer_config.json.
    """
    from tokenizers import AddedToken
    from tokenizers.normalizers import Lowercase
    from tokenizers.normalizers import Sequence as Steps

    given = dict(given or {})
    settings = read_settings(folder, given)
    path = folder / "tokenizer.json"
    backend = read_backend(whole_file(path)) if path.is_file() else build_backend(folder, settings)
    truncation, padding = backend.truncation or {}, backend.padding or {}
    if "pad_token" in padding and "pad_token" not in settings.kind.special_tokens:
        settings.special.setdefault("pad_token", AddedToken(padding["pad_token"], special=True))
    apply_settings(backend, path, settings, given)
    if do_lower_case:
        before = [] if backend.normalizer is None else [backend.normalizer]
        backend.normalizer = Steps([Lowercase(), *before])
    special = special_tokens(backend, settings)
    side = settings.truncation_side or truncation.get("direction", "right")
    return Tokenizer(
        backend,
        model_max_length=settings.model_max_length,
        cut_left=side == "left",
        special_tokens=special,
        model_input_names=settings.model_input_names,
        class_name=settings.kind.name,
        folder=folder,
        given=given,
    )
