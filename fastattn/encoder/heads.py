"""Encoders with a head: classes of a text, classes of its tokens, the words behind a mask, a pooled vector."""

from __future__ import annotations

import math
import os
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastattn.checkpoint.heads import HeadStep, StoredHead
from fastattn.checkpoint.hub import find_model
from fastattn.checkpoint.reader import read_head
from fastattn.config import EncoderConfig, Precision, check_precision
from fastattn.encoder.encoder import Encoder, encode_rows
from fastattn.encoder.packed_linear import PackedLinear
from fastattn.encoder.padding import pack, unpack
from fastattn.encoder.torch_names import TorchNames
from fastattn.kernels.ops.layer_norm import layer_norm
from fastattn.parameters import check_finite
from fastattn.runtime.memory import check_large

__all__ = [
    "EncoderForMaskedLM",
    "EncoderForSequenceClassification",
    "EncoderForTokenClassification",
    "EncoderWithPooler",
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
        self._pooling = head.pooling
        # The product with the vocabulary is as large as several layers; smaller ones gain nothing.
        self._steps = [
            _Step(step, head.layer_norm_eps, encoder.precision if len(step.weight) == encoder.config.vocab_size else "float32")
            for step in head.steps
        ]

    @classmethod
    def from_pretrained(cls: type[Model], path_or_name: str | os.PathLike[str], precision: Precision = "float32") -> Model:
        """Read an encoder and its head from a checkpoint folder.

        Parameters
        ----------
        path_or_name : str or path
            A folder with ``config.json`` and weights, or a name as in `SentenceTransformer`.
        precision : {"float32", "bfloat16", "int8"}
            Of the arithmetic in the layers, and in a head's product with the vocabulary; other heads are float32.

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
        head = read_head(folder, cls.task)
        return cls(Encoder.from_pretrained(folder, precision), head)

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

    def _forward(self, ids: Any, offsets: Any, types: Any, reserved_bytes: int = 0, padded_bytes: int = 0) -> Array:
        """Apply the encoder and the head; the caller holds `reserved_bytes` throughout, and `padded_bytes` for its result."""
        ids, offsets = np.asarray(ids), np.asarray(offsets)
        rows = len(ids) if self._pooling is None else max(0, offsets.size - 1)
        sizes = [step.size(rows, first=i == 0) for i, step in enumerate(self._steps)]
        reserved_bytes += max([*sizes, 4 * rows * self._width + padded_bytes])
        check_large(reserved_bytes, "the head's result of shape ({}, {}), with temporary arrays,", rows, self._width)
        hidden = encode_rows(self.encoder, ids, offsets, types, self._pooling, reserved_bytes=reserved_bytes)
        for step in self._steps:
            hidden = step(hidden)
        return hidden


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


class EncoderForMaskedLM(_EncoderWithHead):
    """An encoder that gives each token a number for every word of the vocabulary: ``(B, T, V)`` logits.

    References
    ----------
    Devlin et al. 2018, arXiv:1810.04805, section 3.1.
    """

    task = "masked-lm"


class EncoderWithPooler(_EncoderWithHead):
    """An encoder with BERT's pooler: ``tanh(linear(h_1))``, (B, C), which transformers calls ``pooler_output``.

    References
    ----------
    Devlin et al. 2018, arXiv:1810.04805, section 3.
    """

    task = "pooler"
