"""TokenizerCalls: the methods of transformers' tokenizers that programs call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from fastattn.runtime.memory import check_large
from fastattn.tokenizer.batch_encoding import BatchEncoding
from fastattn.tokenizer.inputs import LONGEST, check_ids, check_inputs, check_unicode, longest_first

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

__all__ = ["TokenizerCalls"]

ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


class TokenizerCalls:
    """Methods of transformers' tokenizers, the base class of `Tokenizer`."""

    backend_tokenizer: Backend
    model_max_length: int
    truncation_side: str
    special_tokens_map: dict[str, str]
    model_input_names: list[str]
    num_special: int
    _prefix: int
    _around_pair: Any

    def __getattr__(self, name: str) -> Any:
        """Return a special token (``pad_token``) or its id (``pad_token_id``); None if the tokenizer has no such token."""
        role = name.removesuffix("_id")
        if role.removesuffix("_token") not in ROLES or not role.endswith("_token"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        token = self.special_tokens_map.get(role)
        return token if role == name or token is None else self.backend_tokenizer.token_to_id(token)

    def __len__(self) -> int:
        """Size of the vocabulary, added tokens included."""
        return int(self.backend_tokenizer.get_vocab_size(with_added_tokens=True))

    @property
    def vocab_size(self) -> int:
        """Size of the vocabulary without added tokens."""
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
        """The ids of the special tokens."""
        return cast("list[int]", self.convert_tokens_to_ids(self.all_special_tokens))

    def get_vocab(self) -> dict[str, int]:
        """Return the id of each token, added tokens included.

        Returns
        -------
        dict of str to int
            The vocabulary.
        """
        return dict(self.backend_tokenizer.get_vocab(with_added_tokens=True))

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
        """Tokenise a text, several texts, or pairs of texts.

        Parameters
        ----------
        text : str, sequence of str, or sequence of (str, str)
            The text, the texts, or the pairs of texts.
        text_pair : str or sequence of str, optional
            Second text of each pair.
        add_special_tokens : bool
            Add the special tokens that the model expects.
        padding : bool, "longest", "max_length" or "do_not_pad"
            Pad all texts to the same number of tokens.
        truncation : bool, "longest_first" or "do_not_truncate", optional
            Truncate texts of more than `max_length` tokens.
        max_length : int, optional
            Maximum number of tokens; by default `model_max_length`.
        return_tensors : {"np", "pt"}, optional
            Return NumPy arrays or torch tensors; by default lists.
        return_token_type_ids : bool, optional
            By default if `model_input_names` lists the array.
        return_attention_mask : bool, optional
            By default if `model_input_names` lists the array.
        return_offsets_mapping : bool
            Return the range of characters of each token in its text; (0, 0) for special tokens.
        **kwargs
            ``verbose``, and ``return_special_tokens_mask=False``, ``return_length=False``,
            ``return_overflowing_tokens=False``, for compatibility.

        Returns
        -------
        BatchEncoding
            ``input_ids``, ``token_type_ids``, ``attention_mask``, ``offset_mapping``.

        Raises
        ------
        TypeError
            An input is neither a str nor a pair of str; the message gives its index and type.
        ValueError
            An argument has an unsupported value, `padding` is "max_length" without a maximum length, or a text is not valid
            Unicode.
        MemoryError
            The padded texts need more than the free memory.
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
        check_inputs(inputs, "text")
        for i, item in enumerate(inputs):
            for part in (item,) if isinstance(item, str) else item:
                check_unicode(part, "text" if single else f"text[{i}]")
        limit = self.model_max_length if max_length is None else max_length
        if padding == "max_length":
            if limit > LONGEST:
                raise ValueError(f'padding="max_length" needs a max_length of at most {LONGEST}, got {limit}')
            check_large(4 * 8 * limit * len(inputs), "{} texts padded to {} tokens", len(inputs), limit)
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
        result = BatchEncoding({name: columns[name] for name in names}, columns["words"])
        if return_tensors is not None:
            for name in names:
                if len(set(map(len, result[name]))) > 1:
                    raise ValueError("return_tensors needs texts of one length: pass padding=True")
                result[name] = np.array(result[name], np.int64)
                if return_tensors == "pt":
                    import torch

                    result[name] = torch.from_numpy(result[name])
        elif single:
            result = BatchEncoding({name: rows[0] for name, rows in result.items()}, columns["words"])
        return result

    def encode(self, text: str, text_pair: str | None = None, add_special_tokens: bool = True, **kwargs: Any) -> list[int]:
        """Return the token ids of a text, or of a pair of texts.

        Parameters
        ----------
        text : str
            The text.
        text_pair : str, optional
            Second text of the pair.
        add_special_tokens : bool
            Add the special tokens that the model expects.
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
            Second text of the pair.
        add_special_tokens : bool
            Add the special tokens that the model expects.
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

        Raises
        ------
        ValueError
            An id is out of range.
        """
        ids = np.atleast_1d(np.asarray(token_ids)).tolist()
        check_ids("token_ids", ids)
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

    def convert_ids_to_tokens(self, ids: int | Sequence[int]) -> str | list[str | None] | None:
        """Return the tokens of ids; None for an id without a token.

        Parameters
        ----------
        ids : int or sequence of int
            The ids.

        Returns
        -------
        str or list of str
            The tokens.

        Raises
        ------
        ValueError
            An id is out of range.
        """
        if isinstance(ids, (int, np.integer)):
            check_ids("ids", [int(ids)])
            return self.backend_tokenizer.id_to_token(int(ids))
        numbers = [int(i) for i in ids]
        check_ids("ids", numbers)
        return [self.backend_tokenizer.id_to_token(i) for i in numbers]

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> int | list[int | None] | None:
        """Return the ids of tokens; the id of the unknown token for strings that are not tokens.

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

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Return the number of special tokens that a text, or a pair of texts, gets.

        Parameters
        ----------
        pair : bool
            Count those of a pair.

        Returns
        -------
        int
            The number.
        """
        return sum(len(part) for part in self._around_pair[0]) if pair else self.num_special

    def _columns(self, inputs: list[Any], add_special_tokens: bool, limit: int | None) -> dict[str, list[Any]]:
        """Return all columns that a call may return, as lists."""
        names = ("input_ids", "token_type_ids", "attention_mask", "offset_mapping", "words")
        columns: dict[str, list[Any]] = {name: [] for name in names}
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
            columns["words"].append(list(whole.word_ids))
            # Offsets before `post_process`, which would trim them a second time.
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
        padding: dict[str, Any] = {"input_ids": self.pad_token_id or 0, "offset_mapping": (0, 0), "words": None}
        for name, rows in columns.items():
            columns[name] = [row + [padding.get(name, 0)] * (width - len(row)) for row in rows]
