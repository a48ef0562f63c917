"""A folder with spm.model and no tokenizer.json, as DeBERTa-v2's and v3's: the ids of SentencePiece's own library."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from fastattn.checkpoint.folder import CheckpointError
from fastattn.tokenizer.sentence_piece import read_sentence_piece
from fastattn.tokenizer.tokenizer import Tokenizer, load_tokenizer
from tests.support.models import write_json

DATA = Path(__file__).parents[1] / "data" / "sentence_piece"
CASES: list[tuple[str, list[int]]] = [(text, ids) for text, ids in json.loads((DATA / "ids.json").read_text("utf-8"))]


def load(folder: Path, **settings: Any) -> Tokenizer:
    shutil.copy(DATA / "spm.model", folder)
    write_json(folder / "config.json", {"model_type": "deberta-v2"})
    write_json(folder / "tokenizer_config.json", settings)
    return load_tokenizer(folder)


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    return load(tmp_path, do_lower_case=False, vocab_type="spm")


@pytest.mark.parametrize(("text", "ids"), CASES)
def test_ids(tokenizer: Tokenizer, text: str, ids: list[int]) -> None:
    assert tokenizer(text)["input_ids"] == [1, *ids, 2]


def test_pairs_and_types(tokenizer: Tokenizer) -> None:
    first, second = CASES[0][1], CASES[1][1]
    found = tokenizer(CASES[0][0], CASES[1][0])
    assert found["input_ids"] == [1, *first, 2, *second, 2]
    assert found["token_type_ids"] == [0] * (len(first) + 2) + [1] * (len(second) + 1)


def test_special_tokens(tokenizer: Tokenizer) -> None:
    """The mask token is the first behind the model's pieces; special tokens stand in texts."""
    count = len(read_sentence_piece(DATA / "spm.model").pieces)
    assert tokenizer.convert_tokens_to_ids(["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]) == [0, 1, 2, 3, count]
    assert tokenizer("[MASK][SEP]")["input_ids"] == [1, count, 2, 2]
    assert tokenizer.pad_token_id == 0 and tokenizer.unk_token_id == 3 and len(tokenizer) == count + 1


def test_settings(tmp_path: Path) -> None:
    lower = load(tmp_path, do_lower_case=True)
    assert lower("THE CAT SAT")["input_ids"] == lower("the cat sat")["input_ids"]
    split = load(tmp_path, split_by_punct=True)
    assert split.tokenize("cat,dog") == [*split.tokenize("cat"), *split.tokenize(","), *split.tokenize("dog")]
    assert load(tmp_path).tokenize("cat,dog") != split.tokenize("cat,dog")


def message(*fields: tuple[int, bytes | int]) -> bytes:
    """Return a message of a protocol buffer; all numbers and lengths are less than 128."""
    parts = [
        bytes([number << 3, value]) if isinstance(value, int) else bytes([number << 3 | 2, len(value)]) + value
        for number, value in fields
    ]
    return b"".join(parts)


PIECES = [(1, message((1, piece.encode()))) for piece in ("[UNK]", "[CLS]", "[SEP]", "a")]


@pytest.mark.parametrize(
    ("raw", "fault"),
    [
        (b"", "not a unigram model of SentencePiece with an unknown piece"),
        (b"not a model", "not a model of SentencePiece"),
        (b"\x0a\x7f", "a field of kind 2 and 127 bytes at byte 2 of 2"),
        (b"\xff" * 12, "a number that does not end"),
        (b"\x0a", "a number that does not end at byte 1 of 1"),
        (message((1, b"\x08\x01")), "a number stands where text must stand"),
        (message((1, message((1, b"\xff")))), "not a model of SentencePiece: 'utf-8'"),
        (message((1, message((2, b"abc")))), "not a model of SentencePiece: unpack requires a buffer of 4 bytes"),
        (message(*PIECES, (2, message((3, 2)))), "supported: unigram"),
        (message(*PIECES, (2, b"\xc0\x02\x09")), "with an unknown piece"),
        (message(*PIECES, (2, b"\x98\x02\x01")), "byte_fallback is not supported"),
        (message(*PIECES[:2]), r"'\[SEP\]' is not in the vocabulary of 2 tokens"),
        (message(*PIECES, (3, message((2, b"\x01\x02\x03")))), "not a tokenizer"),
    ],
)
def test_faults(tmp_path: Path, raw: bytes, fault: str) -> None:
    (tmp_path / "spm.model").write_bytes(raw)
    write_json(tmp_path / "config.json", {"model_type": "deberta-v2"})
    with pytest.raises(CheckpointError, match=rf"spm\.model: .*{fault}"):
        load_tokenizer(tmp_path)
