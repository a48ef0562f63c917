"""Tokenizer: a tokenizer.json with the calls that programs make on transformers' tokenizers, and safe under threads."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from fastattn.folder import CheckpointError, own_file, read_object

if TYPE_CHECKING:
    from tokenizers import Encoding
    from tokenizers import Tokenizer as Backend

__all__ = ["BatchEncoding", "Rows", "Tokenizer", "load_tokenizer"]

_ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
# Where a folder does not say what its padding token is.
_PADDING = ("[PAD]", "<pad>")
# What transformers' classes of these names give beside ids and mask, where the folder does not say.
_WITH_TOKEN_TYPES = ("BertTokenizer", "BertTokenizerFast", "ElectraTokenizer", "ElectraTokenizerFast")
_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt", "vocab.json", "merges.txt")
# Texts that the library tokenises at a time: what it holds of a text is thirty times the ids.
_AT_A_TIME = 64
# The tokenizers of models without a limit have this many digits; transformers' own have the same.
NO_LIMIT = int(1e30)


@contextlib.contextmanager
def _sound(source: str | os.PathLike[str]) -> Iterator[None]:
    """Make a CheckpointError of what the library raises where a tokenizer does not hold together."""
    try:
        yield
    except BaseException as error:
        # It has no exception class of its own, and where it panics not even an Exception.
        if type(error) is not Exception and type(error).__name__ != "PanicException":
            raise
        raise CheckpointError(f"{source}: not a tokenizer: {error}") from error


class Rows(NamedTuple):
    """Token ids of texts or of pairs of texts.

    Parameters
    ----------
    ids : list of int32, (T,)
        The ids of each.
    types : list of int32, (T,), or None
        Their token types; None: all are 0.
    truncated : int
        How many were cut.
    """

    ids: list[NDArray[np.int32]]
    types: list[NDArray[np.int32]] | None
    truncated: int


class BatchEncoding(dict[str, Any]):
    """What a call of a tokenizer returns: a dict whose keys are attributes too."""

    def __getattr__(self, name: str) -> Any:
        """Return the value of a key."""
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class Tokenizer:
    """A tokenizer with the calls that programs make on transformers' tokenizers.

    Texts are cut here and not by the library, whose settings are never changed: any number of threads may use one
    tokenizer at once.

    Parameters
    ----------
    backend : tokenizers.Tokenizer
        Does the work; its padding and truncation are turned off.
    model_max_length : int
        The most tokens of a text, special ones included.
    cut_left : bool
        Cut the beginning of a text that is too long, not its end.
    special_tokens : mapping of str to str, optional
        Tokens by role: "pad_token", "cls_token", ...
    model_input_names : sequence of str
        What a call returns.
    folder : path, optional
        Where it was read.

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
        folder: str | os.PathLike[str] | None = None,
    ) -> None:
        backend.no_padding()
        backend.no_truncation()
        self.backend_tokenizer = backend
        self.model_max_length = model_max_length
        self.truncation_side = "left" if cut_left else "right"
        self.special_tokens_map = dict(special_tokens or {})
        self.model_input_names = list(model_input_names)
        self.name_or_path = "" if folder is None else str(folder)
        with _sound(self.name_or_path):
            with_special, plain = backend.encode("a").ids, backend.encode("a", add_special_tokens=False).ids
        self.num_special = len(with_special) - len(plain)
        """Special tokens that a text gets."""
        starts = range(self.num_special + 1)
        self._prefix = next((p for p in starts if with_special[p : p + len(plain)] == plain), 0)

    @classmethod
    def wrap(cls, tokenizer: Any, *, like: Tokenizer) -> Tokenizer:
        """Return any tokenizer as one of this class; another library's is copied and stays as it is.

        Parameters
        ----------
        tokenizer : Tokenizer, tokenizers.Tokenizer or transformers' tokenizer
            What is wrapped.
        like : Tokenizer
            Has what it does not say.

        Returns
        -------
        Tokenizer

        Raises
        ------
        TypeError
            It is none of these.
        """
        from tokenizers import Tokenizer as Backend

        if isinstance(tokenizer, cls):
            return tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
        if not isinstance(backend, Backend):
            kinds = "a fastattn, tokenizers or (fast) transformers tokenizer"
            raise TypeError(f"tokenizer must be {kinds}, got {type(tokenizer).__name__}")
        return cls(
            Backend.from_str(backend.to_str()),
            model_max_length=getattr(tokenizer, "model_max_length", like.model_max_length),
            cut_left=getattr(tokenizer, "truncation_side", like.truncation_side) == "left",
            special_tokens=getattr(tokenizer, "special_tokens_map", like.special_tokens_map),
            model_input_names=getattr(tokenizer, "model_input_names", like.model_input_names),
        )

    def __getattr__(self, name: str) -> Any:
        """Return a special token (``pad_token``) or its id (``pad_token_id``); None where there is none."""
        role = name.removesuffix("_id")
        if role.removesuffix("_token") not in _ROLES or not role.endswith("_token"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        token = self.special_tokens_map.get(role)
        return token if role == name or token is None else self.backend_tokenizer.token_to_id(token)

    def __len__(self) -> int:
        """How many tokens there are, added ones included."""
        return int(self.backend_tokenizer.get_vocab_size(with_added_tokens=True))

    @property
    def vocab_size(self) -> int:
        """How many tokens there are, without added ones."""
        return int(self.backend_tokenizer.get_vocab_size(with_added_tokens=False))

    @property
    def vocab(self) -> dict[str, int]:
        """The id of each token."""
        return self.get_vocab()

    @property
    def all_special_tokens(self) -> list[str]:
        """The special tokens, each once."""
        return list(dict.fromkeys(self.special_tokens_map.values()))

    @property
    def all_special_ids(self) -> list[int]:
        """Their ids."""
        return cast("list[int]", self.convert_tokens_to_ids(self.all_special_tokens))

    def get_vocab(self) -> dict[str, int]:
        """Return the id of each token, added ones included.

        Returns
        -------
        dict of str to int
            The vocabulary.
        """
        return dict(self.backend_tokenizer.get_vocab(with_added_tokens=True))

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Return how many special tokens a text gets, or a pair of texts.

        Parameters
        ----------
        pair : bool
            A pair.

        Returns
        -------
        int
            How many.
        """
        return sum(len(part) for part in self._around_pair[0]) if pair else self.num_special

    def rows(self, texts: Sequence[str], max_length: int) -> Rows:
        """Return the token ids of texts, special ones included.

        Parameters
        ----------
        texts : sequence of str
            The texts.
        max_length : int
            The most tokens of a text.

        Returns
        -------
        Rows
            Without token types.
        """
        rows: list[NDArray[np.int32]] = []
        truncated = 0
        for start in range(0, len(texts), _AT_A_TIME):
            for encoding in self._encode(texts[start : start + _AT_A_TIME], True):
                row = np.array(encoding.ids, np.int32)
                if len(row) > max_length:
                    truncated += 1
                    end = len(row) - (self.num_special - self._prefix)
                    kept = self._cut(row[self._prefix : end], max_length - self.num_special)
                    row = np.concatenate([row[: self._prefix], kept, row[end:]])
                rows.append(row)
        return Rows(rows, None, truncated)

    def pair_rows(self, pairs: Sequence[Sequence[str]], max_length: int) -> Rows:
        """Return the token ids of pairs of texts; of a pair that is too long the longer text is cut first.

        Parameters
        ----------
        pairs : sequence of (str, str)
            The pairs.
        max_length : int
            The most tokens of a pair.

        Returns
        -------
        Rows
            With token types, unless all are 0.
        """
        ids, types = self._around_pair
        before, between, after = (np.array(part, np.int32) for part in ids)
        room = max_length - len(before) - len(between) - len(after)
        rows, kinds, truncated = [], [], 0
        for start in range(0, len(pairs), _AT_A_TIME):
            part = pairs[start : start + _AT_A_TIME]
            sides = (self._encode([pair[side] for pair in part], False) for side in (0, 1))
            for a, b in zip(*sides, strict=True):
                first, second = np.array(a.ids, np.int32), np.array(b.ids, np.int32)
                if len(first) + len(second) > room:
                    truncated += 1
                    lengths = longest_first(len(first), len(second), room)
                    first, second = self._cut(first, lengths[0]), self._cut(second, lengths[1])
                rows.append(np.concatenate([before, first, between, second, after]))
                if types.any():
                    counts = [*[1] * len(before), len(first), *[1] * len(between), len(second), *[1] * len(after)]
                    kinds.append(np.repeat(types, counts))
        return Rows(rows, kinds if types.any() else None, truncated)

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
        return len(self.rows([text], max_length).ids[0]) - (self.num_special - self._prefix)

    def __call__(
        self,
        text: str | Sequence[str] | Sequence[Sequence[str]],
        text_pair: str | Sequence[str] | None = None,
        *,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str | None = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_offsets_mapping: bool = False,
        **kwargs: Any,
    ) -> BatchEncoding:
        """Tokenise a text, several, or pairs of texts.

        Parameters
        ----------
        text : str, sequence of str, or sequence of (str, str)
            What is tokenised.
        text_pair : str or sequence of str, optional
            The other text of each pair.
        add_special_tokens : bool
            As the model wants them.
        padding : bool, "longest", "max_length" or "do_not_pad"
            Make all equally long.
        truncation : bool, "longest_first" or "do_not_truncate", optional
            Cut what is longer than `max_length`.
        max_length : int, optional
            By default `model_max_length`.
        return_tensors : {"np", "pt"}, optional
            Arrays or torch tensors; without it lists.
        return_token_type_ids : bool, optional
            By default as `model_input_names` has it.
        return_attention_mask : bool, optional
            By default as `model_input_names` has it.
        return_offsets_mapping : bool
            Where in the text each token comes from; (0, 0) for special ones.
        **kwargs
            ``verbose``, and ``return_special_tokens_mask=False``, ``return_length=False``,
            ``return_overflowing_tokens=False``, for compatibility.

        Returns
        -------
        BatchEncoding
            ``input_ids``, ``token_type_ids``, ``attention_mask``, ``offset_mapping``.

        Raises
        ------
        ValueError
            An argument is not one of those named.
        """
        if unknown := {name for name, value in kwargs.items() if value and name != "verbose"}:
            raise ValueError(f"a tokenizer has no argument {', '.join(sorted(unknown))}")
        if truncation not in (True, False, None, "longest_first", "do_not_truncate"):
            raise ValueError(f'truncation must be a bool, "longest_first" or "do_not_truncate", got {truncation!r}')
        if padding not in (True, False, "longest", "max_length", "do_not_pad"):
            raise ValueError(f'padding must be a bool, "longest", "max_length" or "do_not_pad", got {padding!r}')
        if return_tensors not in (None, "np", "pt"):
            raise ValueError(f'return_tensors must be "np", "pt" or None, got {return_tensors!r}')
        single = isinstance(text, str)
        inputs: list[Any] = [text] if single else list(text)
        if text_pair is not None:
            others = [text_pair] if isinstance(text_pair, str) else list(text_pair)
            inputs = list(zip(inputs, others, strict=True))
        limit = self.model_max_length if max_length is None else max_length
        cut = truncation not in (False, None, "do_not_truncate")
        columns = self._columns(inputs, add_special_tokens, limit if cut else None)
        names = ["input_ids"]
        if "token_type_ids" in self.model_input_names if return_token_type_ids is None else return_token_type_ids:
            names.append("token_type_ids")
        if "attention_mask" in self.model_input_names if return_attention_mask is None else return_attention_mask:
            names.append("attention_mask")
        if return_offsets_mapping:
            names.append("offset_mapping")
        if padding not in (False, "do_not_pad"):
            self._pad(columns, limit if padding == "max_length" else max(map(len, columns["input_ids"]), default=0))
        result = BatchEncoding({name: columns[name] for name in names})
        if return_tensors is not None:
            for name in names:
                if len(set(map(len, result[name]))) > 1:
                    raise ValueError("return_tensors needs texts of one length: pass padding=True")
                result[name] = np.array(result[name], np.int64)
                if return_tensors == "pt":
                    import torch

                    result[name] = torch.from_numpy(result[name])
        elif single:
            result = BatchEncoding({name: rows[0] for name, rows in result.items()})
        return result

    def encode(self, text: str, text_pair: str | None = None, add_special_tokens: bool = True, **kwargs: Any) -> list[int]:
        """Return the token ids of a text, or of a pair of texts.

        Parameters
        ----------
        text : str
            The text.
        text_pair : str, optional
            The other text of the pair.
        add_special_tokens : bool
            As the model wants them.
        **kwargs
            As in a call.

        Returns
        -------
        list of int
            The ids.
        """
        return cast("list[int]", self(text, text_pair, add_special_tokens=add_special_tokens, **kwargs)["input_ids"])

    def tokenize(self, text: str, pair: str | None = None, add_special_tokens: bool = False, **kwargs: Any) -> list[str]:
        """Return the tokens of a text, or of a pair of texts.

        Parameters
        ----------
        text : str
            The text.
        pair : str, optional
            The other text of the pair.
        add_special_tokens : bool
            As the model wants them.
        **kwargs
            As in a call.

        Returns
        -------
        list of str
            The tokens.
        """
        ids = self.encode(text, pair, add_special_tokens, **kwargs)
        return cast("list[str]", self.convert_ids_to_tokens(ids))

    def decode(self, token_ids: Any, skip_special_tokens: bool = False, **kwargs: Any) -> str:
        """Return the text of token ids.

        Parameters
        ----------
        token_ids : int or sequence of int
            The ids.
        skip_special_tokens : bool
            Leave special tokens out.
        **kwargs
            ``clean_up_tokenization_spaces``, for compatibility: the tokenizer's own decoder decides.

        Returns
        -------
        str
            The text.
        """
        ids = np.atleast_1d(np.asarray(token_ids)).tolist()
        return str(self.backend_tokenizer.decode(ids, skip_special_tokens=skip_special_tokens))

    def batch_decode(self, sequences: Iterable[Any], skip_special_tokens: bool = False, **kwargs: Any) -> list[str]:
        """Return the text of each sequence of token ids.

        Parameters
        ----------
        sequences : iterable of sequences of int
            The ids.
        skip_special_tokens : bool
            Leave special tokens out.
        **kwargs
            As in `decode`.

        Returns
        -------
        list of str
            The texts.
        """
        return [self.decode(ids, skip_special_tokens, **kwargs) for ids in sequences]

    def convert_ids_to_tokens(self, ids: int | Sequence[int]) -> str | list[str]:
        """Return the tokens of ids.

        Parameters
        ----------
        ids : int or sequence of int
            The ids.

        Returns
        -------
        str or list of str
            The tokens.
        """
        if isinstance(ids, (int, np.integer)):
            return str(self.backend_tokenizer.id_to_token(int(ids)))
        return [str(self.backend_tokenizer.id_to_token(int(i))) for i in ids]

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> int | list[int | None] | None:
        """Return the ids of tokens; those of the unknown token for tokens that are none.

        Parameters
        ----------
        tokens : str or sequence of str
            The tokens.

        Returns
        -------
        int or list of int
            The ids.
        """
        if not isinstance(tokens, str):
            return [cast("int | None", self.convert_tokens_to_ids(token)) for token in tokens]
        found = self.backend_tokenizer.token_to_id(tokens)
        return cast("int | None", self.unk_token_id if found is None else found)

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> None:
        """Write the tokenizer's files into a folder.

        Parameters
        ----------
        save_directory : str or path
            Made where it is missing.
        """
        target = Path(save_directory)
        target.mkdir(parents=True, exist_ok=True)
        source = Path(self.name_or_path)
        for name in _FILES:
            if self.name_or_path and (source / name).is_file() and (source / name).resolve() != (target / name).resolve():
                shutil.copyfile(own_file(source / name), target / name)
        if not (target / "tokenizer.json").is_file():
            self.backend_tokenizer.save(str(target / "tokenizer.json"))

    @cached_property
    def _around_pair(self) -> tuple[tuple[list[int], ...], NDArray[np.int32]]:
        """Special tokens before, between and behind the texts of a pair; and the types of these with one of each text."""
        with _sound(self.name_or_path):
            a, b = (self.backend_tokenizer.encode(text, add_special_tokens=False).ids for text in ("a", "b"))
            whole = self.backend_tokenizer.encode("a", "b")
        ids, types = list(whole.ids), list(whole.type_ids)
        first = next((i for i in range(len(ids)) if ids[i : i + len(a)] == a), 0)
        end = first + len(a)
        second = next((i for i in range(end, len(ids)) if ids[i : i + len(b)] == b), end)
        last = second + len(b)
        kinds = [*types[:first], types[first], *types[end:second], types[second], *types[last:]]
        return (ids[:first], ids[end:second], ids[last:]), np.array(kinds, np.int32)

    def _cut(self, row: NDArray[np.int32], length: int) -> NDArray[np.int32]:
        if len(row) <= length:
            return row
        return row[len(row) - length :] if self.truncation_side == "left" else row[:length]

    def _encode(self, texts: Sequence[str], add_special_tokens: bool) -> list[Encoding]:
        """Tokenise without offsets, which nothing here needs."""
        backend = self.backend_tokenizer
        encode_batch = getattr(backend, "encode_batch_fast", backend.encode_batch)
        with _sound(self.name_or_path):
            return cast("list[Encoding]", encode_batch(list(texts), add_special_tokens=add_special_tokens))

    def _columns(self, inputs: list[Any], add_special_tokens: bool, limit: int | None) -> dict[str, list[Any]]:
        """Lists of everything that a call may return."""
        columns: dict[str, list[Any]] = {"input_ids": [], "token_type_ids": [], "attention_mask": [], "offset_mapping": []}
        for item in inputs:
            pair = not isinstance(item, str)
            parts = [self.backend_tokenizer.encode(text, add_special_tokens=False) for text in (item if pair else [item])]
            specials = self.num_special_tokens_to_add(pair) if add_special_tokens else 0
            lengths = [len(part.ids) for part in parts]
            if limit is not None and sum(lengths) + specials > limit:
                room = limit - specials
                lengths = list(longest_first(lengths[0], lengths[1], room)) if pair else [room]
            for part, length in zip(parts, lengths, strict=True):
                part.truncate(max(0, length), direction=self.truncation_side)
            second = parts[1] if pair else None
            whole = self.backend_tokenizer.post_process(parts[0], second, add_special_tokens=add_special_tokens)
            columns["input_ids"].append(list(whole.ids))
            columns["token_type_ids"].append(list(whole.type_ids))
            columns["attention_mask"].append([1] * len(whole.ids))
            # The parts' own: the post-processor trims offsets, and would do it twice.
            offsets = [span for part in parts for span in part.offsets]
            if add_special_tokens:
                lead = len(self._around_pair[0][0]) if pair else self._prefix
                offsets = [(0, 0)] * lead + offsets
                if pair:
                    middle = lead + len(parts[0].ids)
                    offsets[middle:middle] = [(0, 0)] * len(self._around_pair[0][1])
                offsets += [(0, 0)] * (len(whole.ids) - len(offsets))
            columns["offset_mapping"].append(offsets)
        return columns

    def _pad(self, columns: dict[str, list[Any]], width: int) -> None:
        padding = {"input_ids": self.pad_token_id or 0, "token_type_ids": 0, "attention_mask": 0, "offset_mapping": (0, 0)}
        for name, rows in columns.items():
            columns[name] = [row + [padding[name]] * (width - len(row)) for row in rows]


def longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """How long the texts of a pair may be: the longer one is cut to the other's length, then both.

    Parameters
    ----------
    first, second : int
        Tokens of each.
    room : int
        Tokens that both may have together.

    Returns
    -------
    first, second : int
        Tokens to keep.
    """
    short, long = sorted((first, second))
    if short + long <= room:
        return first, second
    kept = room - short
    if kept < short:
        short, kept = room // 2, room - room // 2
    return (kept, short) if first > second else (short, kept)


def load_tokenizer(folder: Path, *, do_lower_case: bool = False) -> Tokenizer:
    """Load ``tokenizer.json``, with what the files beside it say.

    Parameters
    ----------
    folder : Path
        Holds the file.
    do_lower_case : bool
        Lowercase the text first.

    Returns
    -------
    Tokenizer
        The tokenizer.

    Raises
    ------
    FileNotFoundError
        There is no ``tokenizer.json``.
    CheckpointError
        A file cannot be read.
    """
    from tokenizers import Tokenizer as Backend
    from tokenizers.normalizers import Lowercase
    from tokenizers.normalizers import Sequence as Steps

    path = folder / "tokenizer.json"
    if not own_file(path).is_file():
        raise FileNotFoundError(
            f"{path}: no such file; with transformers installed, "
            "AutoTokenizer.from_pretrained(folder).save_pretrained(folder) writes it"
        )
    with _sound(path):
        backend = Backend.from_file(str(path))
    if do_lower_case:
        before = [] if backend.normalizer is None else [backend.normalizer]
        backend.normalizer = Steps([Lowercase(), *before])
    settings = read_object(folder / "tokenizer_config.json")
    special = _special_tokens(backend, {**read_object(folder / "special_tokens_map.json"), **settings})
    names = settings.get("model_input_names")
    if not isinstance(names, list):
        typed = settings.get("tokenizer_class") in _WITH_TOKEN_TYPES
        names = ["input_ids", *(["token_type_ids"] if typed else []), "attention_mask"]
    limit = settings.get("model_max_length")
    if limit is not None and (not isinstance(limit, (int, float)) or not 1 <= limit < float("inf")):
        raise CheckpointError(f"{folder / 'tokenizer_config.json'}: model_max_length must be a positive number, found {limit!r}")
    return Tokenizer(
        backend,
        model_max_length=NO_LIMIT if limit is None else int(limit),
        cut_left=settings.get("truncation_side") == "left",
        special_tokens=special,
        model_input_names=names,
        folder=folder,
    )


def _special_tokens(backend: Backend, settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the special tokens by role."""
    found = {}
    for role in _ROLES:
        token = settings.get(f"{role}_token")
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str) and backend.token_to_id(token) is not None:
            found[f"{role}_token"] = token
    for token in _PADDING:
        if "pad_token" not in found and backend.token_to_id(token) is not None:
            found["pad_token"] = token
    return found
