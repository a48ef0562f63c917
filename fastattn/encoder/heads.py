"""Encoders with a head: classes of a text, classes of its tokens, the words behind a mask, a pooled vector."""

from __future__ import annotations

import math
import os
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastattn.checkpoint.heads import HeadStep, StoredHead
from fastattn.checkpoint.hub import find_model
from fastattn.checkpoint.reader import read_head
from fastattn.config import EncoderConfig, Precision, check_precision
from fastattn.encoder.encoder import Encoder, encode_rows
from fastattn.encoder.packed_linear import PackedLinear
from fastattn.encoder.padding import end_tokens, pack, unpack
from fastattn.encoder.pooling import pool
from fastattn.encoder.torch_names import TorchNames
from fastattn.kernels.ops._arrays import checked_offsets
from fastattn.kernels.ops.layer_norm import layer_norm
from fastattn.parameters import check_finite
from fastattn.runtime.memory import check_large

__all__ = [
    "EncoderForMaskedLM",
    "EncoderForSequenceClassification",
    "EncoderForTokenClassification",
    "EncoderWithPooler",
    "EncoderWithProjection",
]

Array = NDArray[np.float32]
Model = TypeVar("Model", bound="_EncoderWithHead")


class _Step:
    """A linear map, packed once, with its activation and layer norm."""

    def __init__(self, stored: HeadStep, eps: float, precision: Precision) -> None:
        self.width, self.inputs = stored.weight.shape
        check_finite({"of the head's product with the vocabulary": stored.weight}, precision)
        self._linear = PackedLinear(stored.weight, stored.bias, stored.activation, precision=precision)
        self._norm = None if stored.norm_weight is None else (stored.norm_weight.copy(), _copy(stored.norm_bias))
        self._eps = eps

    def size(self, rows: int, *, first: bool) -> int:
        """Return the peak bytes of the step: the result, twice with a layer norm, and the input.

        The input of the first step is the encoder's result, which is counted there.
        """
        widths = self.width * (1 if self._norm is None else 2) + (0 if first else self.inputs)
        return 4 * rows * int(widths)

    @property
    def linear(self) -> PackedLinear:
        """The linear map alone."""
        return self._linear

    def __call__(self, x: Array) -> Array:
        """Map the rows of x (M, C_in)."""
        out = self._linear(x)
        if self._norm is not None:
            weight, bias = self._norm
            out = layer_norm(out, weight, bias, eps=self._eps)
        return out


def _copy(array: Array | None) -> Array | None:
    return None if array is None else array.copy()


class _EncoderWithHead(TorchNames):
    """Base class of the encoders with a head.

    Parameters
    ----------
    encoder : Encoder
        Computes the hidden states.
    head : StoredHead
        The steps that follow on the hidden states.
    """

    task: ClassVar[str]

    def __init__(self, encoder: Encoder, head: StoredHead) -> None:
        self.encoder = encoder
        self.id2label = dict(head.id2label)
        self._pooling, self._pooled_step, self._padding = head.pooling, head.pooled_step, head.pad_token_id
        self._end = head.end
        # The product with the vocabulary is as large as several layers; smaller ones gain nothing.
        self._steps = [
            _Step(step, head.layer_norm_eps, encoder.precision if len(step.weight) == encoder.config.vocab_size else "float32")
            for step in head.steps
        ]

    @classmethod
    def from_pretrained(
        cls: type[Model], path_or_name: str | os.PathLike[str], precision: Precision = "float32", *, adapter: str | None = None
    ) -> Model:
        """Read an encoder and its head from a checkpoint folder.

        Parameters
        ----------
        path_or_name : str or path
            A folder with ``config.json`` and weights, or a name as in `SentenceTransformer`.
        precision : {"float32", "bfloat16", "int8"}
            Of the arithmetic in the layers, and in a head's product with the vocabulary; other heads are float32.
        adapter : str, optional
            As for `Encoder.from_pretrained`.

        Returns
        -------
        encoder with a head

        Raises
        ------
        FileNotFoundError
            The folder or a file in it is missing.
        CheckpointError
            The checkpoint is damaged or not supported, or has no such head.
        ValueError
            `precision` is unknown.
        """
        check_precision(precision)
        folder = find_model(path_or_name)
        head = read_head(folder, cls.task, adapter)
        return cls(Encoder.from_pretrained(folder, precision, adapter=adapter), head)

    @property
    def config(self) -> EncoderConfig:
        """The encoder's configuration."""
        return self.encoder.config

    @property
    def precision(self) -> Precision:
        """The encoder's precision."""
        return self.encoder.precision

    def __call__(self, x: Any, attention_mask: Any = None, *, token_type_ids: Any = None) -> NDArray[np.float32]:
        """Apply the encoder and the head to a batch.

        Parameters
        ----------
        x : int (B, T) or float (B, T, C)
            As for `Encoder`.
        attention_mask : bool or 0/1, (B, T), optional
            True marks a real token.
        token_type_ids : int, (B, T), optional
            Zeros by default.

        Returns
        -------
        float32, (B, W), or (B, T, W) for a head that takes every token
            Zeros at tokens that are not real.

        Raises
        ------
        TypeError
            `x` is neither int nor float, or `token_type_ids` is not int.
        ValueError
            As of `Encoder`.
        MemoryError
            The result and the working memory would not fit in the memory that is free; raised before anything is computed.
        """
        x = np.asarray(x)
        if x.ndim not in (2, 3):
            raise ValueError(f"x must have shape (B, T) for token ids or (B, T, C) for hidden states, got {x.shape}")
        # The mask and the real tokens; then the padded result.
        reserved_bytes = math.prod(x.shape[:2]) + x.nbytes
        padded_bytes = 0 if self._pooling is not None else 4 * math.prod(x.shape[:2]) * self._width
        check_large(reserved_bytes + padded_bytes, "the result of a head for {} x {} tokens", *x.shape[:2])
        batch = pack(x, attention_mask, token_type_ids)
        out = self._forward(batch.rows, batch.offsets, batch.token_types, reserved_bytes, padded_bytes)
        return out if self._pooling is not None else unpack(out, batch.real)

    def forward_packed(self, ids: Any, offsets: Any, token_type_ids: Any = None) -> NDArray[np.float32]:
        """Apply the encoder and the head to sequences that lie end to end.

        Parameters
        ----------
        ids : int (N,) or float (N, C)
            As for `Encoder.forward_packed`.
        offsets : int, (B + 1,)
            Sequence b is tokens offsets[b] .. offsets[b + 1] - 1.
        token_type_ids : int, (N,), optional
            Zeros by default.

        Returns
        -------
        float32, (B, W), or (N, W) for a head that takes every token

        Raises
        ------
        TypeError
            An array has the wrong dtype.
        ValueError
            As of `Encoder.forward_packed`.
        MemoryError
            The result and the working memory would not fit in the memory that is free; raised before anything is computed.
        """
        return self._forward(ids, offsets, token_type_ids)

    @property
    def _width(self) -> int:
        return self._steps[-1].width if self._steps else self.config.hidden_dim

    def _forward(
        self, ids: Any, offsets: Any, types: Any, reserved_bytes: int = 0, padded_bytes: int = 0, steps: int | None = None
    ) -> Array:
        """Apply the encoder and the head, or its first `steps` steps.

        The caller holds `reserved_bytes` throughout, and `padded_bytes` for its result.
        """
        ids, offsets = np.asarray(ids), np.asarray(offsets)
        rows = len(ids) if self._pooling is None else max(0, offsets.size - 1)
        late = self._pooled_step if self._pooling is not None else 0
        applied = self._steps[:steps]
        width = applied[-1].width if applied else self.config.hidden_dim
        sizes = [step.size(len(ids) if i < late else rows, first=i == 0) for i, step in enumerate(applied)]
        reserved_bytes += max([*sizes, 4 * rows * width + padded_bytes])
        check_large(reserved_bytes, "the head's result of shape ({}, {}), with temporary arrays,", rows, width)
        last = self._last_tokens(ids, checked_offsets(offsets, len(ids))) if self._pooling in ("lasttoken", "end") else None
        whole = late or last is not None
        hidden = encode_rows(self.encoder, ids, offsets, types, None if whole else self._pooling, reserved_bytes=reserved_bytes)
        for i, step in enumerate(applied):
            if i == late and whole:
                hidden = hidden[last] if last is not None else pool(hidden, np.asarray(offsets, np.int64), self._pooling or "")
            hidden = step(hidden)
        return hidden

    def _last_tokens(self, ids: NDArray[Any], offsets: NDArray[Any]) -> NDArray[np.int64] | None:
        """Return each sequence's last token that is not the padding's, or that ends it; None where all end with another token."""
        if self._end is not None:
            return end_tokens(ids, offsets, self._end)
        if self._padding is None or ids.ndim != 1 or ids.dtype.kind not in "iu" or not len(ids):
            return None
        starts, ends = (side.astype(np.int64) for side in (offsets[:-1], offsets[1:]))
        if (ends <= starts).any() or not (ids[ends - 1] == self._padding).any():
            return None
        places = np.where(ids == self._padding, -1, np.arange(len(ids)))
        # A sequence of padding alone has its first token, as in transformers.
        last: NDArray[np.int64] = np.maximum(np.maximum.accumulate(places)[ends - 1], starts)
        return last


class EncoderForSequenceClassification(_EncoderWithHead):
    """An encoder that gives each sequence a number for every class: ``(B, num_labels)`` logits.

    Notes
    -----
    Between the hidden states and the logits are the steps of the family's class in transformers: BERT's pooler, RoBERTa's
    two layers on the first token, ModernBERT's head on the first token or the mean.  `id2label` has the names of the classes.

    References
    ----------
    Devlin et al. 2018, arXiv:1810.04805, section 4.1.
    """

    task = "sequence-classification"

    @property
    def num_labels(self) -> int:
        """How many classes there are."""
        return len(self.id2label)


class EncoderForTokenClassification(_EncoderWithHead):
    """An encoder that gives each token a number for every class: ``(B, T, num_labels)`` logits.

    Notes
    -----
    `id2label` has the names of the classes.

    References
    ----------
    Devlin et al. 2018, arXiv:1810.04805, section 5.3.
    """

    task = "token-classification"

    @property
    def num_labels(self) -> int:
        """How many classes there are."""
        return len(self.id2label)


class Logits(NamedTuple):
    """Logits (N, V) of packed tokens that are not computed yet: rows (N, C), and the product with the vocabulary."""

    rows: Array
    product: PackedLinear


class EncoderForMaskedLM(_EncoderWithHead):
    """An encoder that gives each token a number for every word of the vocabulary: ``(B, T, V)`` logits.

    References
    ----------
    Devlin et al. 2018, arXiv:1810.04805, section 3.1.
    """

    task = "masked-lm"

    def _logits(self, ids: Any, offsets: Any, types: Any) -> Logits:
        """Apply all but the last step to packed tokens."""
        return Logits(self._forward(ids, offsets, types, steps=-1), self._steps[-1].linear)

    def splade_pooling(
        self,
        ids: Any,
        offsets: Any,
        token_type_ids: Any = None,
        *,
        pooling_strategy: str = "max",
        activation_function: str = "relu",
    ) -> NDArray[np.float32]:
        """Return `fastattn.splade_pooling` of the logits of sequences that lie end to end; the logits are never held.

        Parameters
        ----------
        ids : int (N,) or float (N, C)
            As for `Encoder.forward_packed`.
        offsets : int, (B + 1,)
            Sequence b is tokens offsets[b] .. offsets[b + 1] - 1.
        token_type_ids : int, (N,), optional
            Zeros by default.
        pooling_strategy : "max" or "sum"
            As in `fastattn.splade_pooling`.
        activation_function : "relu" or "log1p_relu"
            As in `fastattn.splade_pooling`.

        Returns
        -------
        float32, (B, V)

        Raises
        ------
        TypeError
            An array has the wrong dtype.
        ValueError
            As of `Encoder.forward_packed`, or a name is unknown.
        MemoryError
            The result and the working memory would not fit in the memory that is free.
        """
        ids, offsets = np.asarray(ids), np.asarray(offsets)
        offsets = checked_offsets(offsets, len(ids))
        check_large(4 * (len(offsets) - 1) * self._width, "sparse embeddings of shape ({}, {})", len(offsets) - 1, self._width)
        rows, product = self._logits(ids, offsets, token_type_ids)
        return product.splade_pooling(rows, offsets, pooling_strategy, activation_function)


class EncoderWithPooler(_EncoderWithHead):
    """An encoder with BERT's pooler: ``tanh(linear(h_1))``, (B, C), which transformers calls ``pooler_output``.

    References
    ----------
    Devlin et al. 2018, arXiv:1810.04805, section 3.
    """

    task = "pooler"


class EncoderWithProjection(_EncoderWithHead):
    """An encoder that gives each text a vector for comparison with other kinds of inputs: ``linear(h_end)``, (B, P).

    Notes
    -----
    It is the text side of CLIP; transformers calls the vectors ``text_embeds``.  `h_end` is the hidden state of the token that ends
    the text; tokens behind that one change nothing.

    References
    ----------
    Radford et al. 2021, arXiv:2103.00020, section 2.4.
    """

    task = "projection"

    @property
    def width(self) -> int:
        """How many channels a text's vector has."""
        return self._width
