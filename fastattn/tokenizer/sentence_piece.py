"""Reads a model of SentencePiece, a protocol buffer, and builds DeBERTa's tokenizer of it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fastattn.checkpoint.folder import CheckpointError
from fastattn.tokenizer.faults import sound

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

__all__ = ["SentencePiece", "deberta_backend", "read_sentence_piece"]

# Fields of ModelProto, ModelProto.SentencePiece, TrainerSpec and NormalizerSpec (sentencepiece_model.proto), by number.
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_PIECE, _SCORE = 1, 2
_MODEL_TYPE, _UNK_ID, _BYTE_FALLBACK = 3, 40, 35
_CHARACTER_MAP = 2
_UNIGRAM = 1


class SentencePiece(NamedTuple):
    """Pieces with their scores, the number of the unknown piece, and the compiled map of characters, which may be empty."""

    pieces: list[tuple[str, float]]
    unk_id: int
    character_map: bytes


def read_sentence_piece(path: Path) -> SentencePiece:
    """Read a unigram model of SentencePiece; CheckpointError for any other file."""
    pieces: list[tuple[str, float]] = []
    unk_id: int | bytes = 0
    kind: int | bytes = _UNIGRAM
    character_map = b""
    try:
        for number, value in _fields(path.read_bytes()):
            inner = dict(_fields(value)) if isinstance(value, bytes) and number in (_PIECES, _TRAINER, _NORMALIZER) else {}
            if number == _PIECES:
                pieces.append(
                    (_bytes(inner.get(_PIECE, b"")).decode(), struct.unpack("<f", _bytes(inner.get(_SCORE, bytes(4))))[0])
                )
            elif number == _TRAINER:
                unk_id, kind = inner.get(_UNK_ID, 0), inner.get(_MODEL_TYPE, _UNIGRAM)
                if inner.get(_BYTE_FALLBACK, 0):
                    raise CheckpointError(f"{path}: byte_fallback is not supported")
            elif number == _NORMALIZER:
                character_map = _bytes(inner.get(_CHARACTER_MAP, b""))
    except (ValueError, struct.error) as error:
        raise CheckpointError(f"{path}: not a model of SentencePiece: {error}") from error
    if kind != _UNIGRAM or not isinstance(unk_id, int) or not unk_id < len(pieces):
        raise CheckpointError(f"{path}: not a unigram model of SentencePiece with an unknown piece; supported: unigram")
    return SentencePiece(pieces, unk_id, character_map)


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number stands where text must stand")
    return value


def _fields(raw: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield the number and the value of each field of a message: whole numbers, or bytes, of fixed size or with a length."""
    at = 0
    while at < len(raw):
        tag, at = _varint(raw, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(raw, at)
            yield tag >> 3, value
            continue
        if kind == 2:
            size, at = _varint(raw, at)
        else:
            size = {1: 8, 5: 4}.get(kind, -1)
        if size < 0 or at + size > len(raw):
            raise ValueError(f"a field of kind {kind} and {size} bytes at byte {at} of {len(raw)}")
        yield tag >> 3, raw[at : at + size]
        at += size


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    """Return the whole number at a place, of at most 64 bits in groups of seven, and the place behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(raw):
            break
        value |= (raw[at] & 127) << shift
        at += 1
        if raw[at - 1] < 128:
            return value, at
    raise ValueError(f"a number that does not end at byte {at} of {len(raw)}")


def deberta_backend(path: Path, *, do_lower_case: bool, split_by_punct: bool, mask: str) -> Backend:
    """Return DeBERTa-v2/v3's tokenizer of ``spm.model``: the steps of SentencePiece's model, and the special tokens.

    The mask token, which the model lacks, gets the first number behind it.
    """
    from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
    from tokenizers import Tokenizer as Backend

    model = read_sentence_piece(path)
    numbers = {piece: number for number, (piece, _) in enumerate(model.pieces)}
    for token in ("[CLS]", "[SEP]"):
        if token not in numbers:
            raise CheckpointError(f"{path}: {token!r} is not in the vocabulary of {len(numbers):,} tokens")
    with sound(path):
        backend = Backend(models.Unigram(model.pieces, unk_id=model.unk_id, byte_fallback=False))
        steps: list[Any] = [normalizers.Lowercase()] if do_lower_case else []
        steps.append(normalizers.Strip())
        if model.character_map:
            steps.append(normalizers.Precompiled(model.character_map))
        backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(Regex(" {2,}"), " ")])
        punctuation = [pre_tokenizers.Punctuation(behavior="isolated")] if split_by_punct else []
        backend.pre_tokenizer = pre_tokenizers.Sequence([*punctuation, pre_tokenizers.Metaspace(prepend_scheme="always")])
        backend.decoder = decoders.Metaspace(prepend_scheme="always")
        backend.post_processor = processors.TemplateProcessing(
            single="[CLS]:0 $A:0 [SEP]:0",
            pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
            special_tokens=[(token, numbers[token]) for token in ("[CLS]", "[SEP]")],
        )
        if mask not in numbers:
            backend.add_tokens([AddedToken(mask, special=True)])
    return backend
