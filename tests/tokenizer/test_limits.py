"""Limits of tokenizer.json: expansion bombs are refused before the tokenizers library runs them."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models, normalizers

from fastattn.checkpoint.folder import CheckpointError
from fastattn.checkpoint.hub import find_model
from fastattn.tokenizer.limits import _growth, _shortest, read_backend
from fastattn.tokenizer.tokenizer import load_tokenizer
from tests.support.models import write_json, write_tokenizer
from tests.support.peer_cases import DATA
from tests.support.tokenizer_steps import (
    KNOWN,
    Change,
    byte_level,
    change,
    metaspace,
    of,
    prepend,
    pretokenizers,
    replace,
    sequence,
    table,
    template,
)

TEN = replace("a", "a" * 10)
EMPTY = replace("(?=a)", "a", "Regex")
REFUSED: dict[str, tuple[Change, str]] = {
    "one step": ({"normalizer": replace("a", "a" * 101)}, "Replace 101"),
    "a chain": ({"normalizer": sequence(TEN, TEN, TEN)}, "lengthen a text 1,000 times"),
    "nested": (
        {"normalizer": sequence(sequence(TEN), sequence(sequence(TEN, of("Lowercase")), TEN))},
        "lengthen a text 1,000 times",
    ),
    "without types": ({"normalizer": {"pattern": {"String": "a"}, "content": "a" * 101}}, "Replace 101"),
    "as a list": ({"normalizer": [{"String": "a"}, "a" * 101]}, "Replace 101"),
    "with another type": ({"normalizer": {**replace("a", "a" * 101), "type": "X"}}, "Replace 101"),
    "an empty pattern": ({"normalizer": sequence(*[replace("", "a")] * 7)}, "lengthen a text 128 times"),
    "matches of nothing": ({"normalizer": sequence(*[EMPTY] * 7)}, "lengthen a text 128 times"),
    "an expression": ({"normalizer": sequence(*[replace("[a-z]", "a" * 11, "Regex")] * 2)}, "lengthen a text 121 times"),
    "prepended": ({"normalizer": sequence(prepend("a" * 501), prepend("a" * 500))}, "add 1,001 bytes"),
    "prepended and more of it": ({"normalizer": sequence(prepend("a" * 101), TEN)}, "add 1,010 bytes"),
    "bytes": ({"normalizer": sequence(*[of("ByteLevel")] * 7)}, "lengthen a text 128 times"),
    "bytes of pieces": ({"pre_tokenizer": pretokenizers(*[byte_level(True)] * 4)}, "lengthen a text 256 times"),
    "spaces": ({"pre_tokenizer": pretokenizers(*[metaspace("▁"), metaspace("_")] * 3)}, "lengthen a text 512 times"),
    "normalizer and pre-tokenizer": (
        {"normalizer": sequence(TEN, TEN), "pre_tokenizer": byte_level()},
        "lengthen a text 200 times",
    ),
    "compatibility forms": ({"normalizer": sequence(*[replace("a", "\ufdfa"), of("NFKC")] * 3)}, "lengthen a text 3,267 times"),
    "a form again and again": ({"normalizer": sequence(*[of("NFD")] * 6)}, "lengthen a text 243 times"),
    "a table": ({"normalizer": table("a", "a" * 1200)}, "lengthen a text 109 times"),
    "tables": ({"normalizer": sequence(*[table("a", "a" * 40)] * 3)}, "lengthen a text 5,818 times"),
    "steps": ({"normalizer": sequence(*[of("Lowercase")] * 100)}, "101 steps; supported: at most 100"),
    "ids of a token": ({"post_processor": template(["[CLS]", "A"], 1001)}, "adds 1,001 ids"),
    "uses of a token": ({"post_processor": template([*["[CLS]"] * 6, "A"], 200)}, "adds 1,200 ids"),
    "processors": ({"post_processor": sequence(*[template(["[CLS]", "A"], 600)] * 2, names="processors")}, "adds 1,200 ids"),
    "uses of a text": ({"post_processor": template(["A"] * 100)}, "inserts a text 100 times; supported: once"),
    "uses of one of two texts": ({"post_processor": template(["A", "B", "A", "[CLS]"])}, "inserts a text 2 times"),
    "an id of a template": ({"post_processor": template(["[CLS]", "A"], 1, 2**31)}, "token id 2147483648 is not in"),
    "an id of a mark": (
        {"post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2**32 - 1]}},
        "token id 4294967295 is not in",
    ),
    "an id of the vocabulary": (
        {"model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "a": 2**31}, "unk_token": "[UNK]"}},
        "2147483648",
    ),
    "an id of an added token": (
        {
            "added_tokens": [
                {
                    "id": 2**32 - 1,
                    "content": "x",
                    **dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False),
                }
            ]
        },
        "token id 4294967295 is not in 0 .. 2147483647",
    ),
    "words": (
        {
            "model": {
                "type": "WordPiece",
                "vocab": {"[UNK]": 0},
                "unk_token": "[UNK]",
                "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 10**9,
            }
        },
        "max_input_chars_per_word is 1000000000; supported: at most 1000",
    ),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_tokenizer(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, folder: Path) -> None:
    changes, message = REFUSED[name]
    change(folder, changes)
    text = (folder / "tokenizer.json").read_text("utf-8")
    # The tokenizers library loads the file: the refusal is ours, before any step has run.
    Backend.from_str(text)
    with pytest.raises(CheckpointError, match=rf"tokenizer\.json: .*{message}"):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"normalizer":', f'"normalizer": {json.dumps(replace("a", "a" * 101))}, "normalizer":'),
        ('"post_processor":', '"post_processor": null, "post_processor":'),
    ],
)
def test_a_key_that_is_there_twice(folder: Path, old: str, new: str) -> None:
    path = folder / "tokenizer.json"
    path.write_text(path.read_text("utf-8").replace(old, new, 1), "utf-8")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: not a tokenizer: key '\w+' is a duplicate"):
        load_tokenizer(folder)


@pytest.mark.parametrize("normalized", [True, False])
def test_an_added_token_that_vanishes(normalized: bool, folder: Path) -> None:
    """An added token that the normalizer empties is refused: the tokenizers library would search for it without end."""
    flags = {**dict.fromkeys(("single_word", "lstrip", "rstrip", "special"), False), "normalized": normalized}
    tokens = [{"id": 900 + i, "content": content, **flags} for i, content in enumerate(("aa", "\u0301"))]
    change(folder, {"normalizer": of("StripAccents"), "added_tokens": tokens})
    if normalized:
        with pytest.raises(CheckpointError, match=r"its normalizer turns the added token '.+' into an empty text"):
            load_tokenizer(folder)
    else:
        assert load_tokenizer(folder).num_special == 2


def test_a_token_that_there_is_not(folder: Path) -> None:
    """A template that names an undefined special token is refused: the tokenizers library would fail on it when used."""
    change(folder, {"post_processor": template(["[X]", "A"])})
    with pytest.raises(CheckpointError, match="not a tokenizer"):
        load_tokenizer(folder)


def test_a_token_type_that_is_too_great(folder: Path) -> None:
    processor = template(["A"])
    processor["single"][0]["Sequence"]["type_id"] = 2**31
    change(folder, {"post_processor": processor})
    with pytest.raises(CheckpointError, match=r"token type 2147483648 is not in 0 \.\. 2147483647"):
        load_tokenizer(folder)


def test_a_special_token_that_is_no_text(folder: Path) -> None:
    write_json(folder / "tokenizer_config.json", {"cls_token": "\ud800", "sep_token": "[SEP]"})
    assert "cls_token" not in load_tokenizer(folder).special_tokens_map
    assert load_tokenizer(folder).special_tokens_map["sep_token"] == "[SEP]"


@pytest.mark.parametrize("name", KNOWN)
def test_steps_of_models(name: str, folder: Path) -> None:
    change(folder, KNOWN[name])
    load_tokenizer(folder)


@pytest.mark.parametrize("where", [find_model(), DATA / "roberta"], ids=["minilm", "roberta"])
def test_models(where: Path) -> None:
    assert read_backend(where / "tokenizer.json").to_str() == Backend.from_file(str(where / "tokenizer.json")).to_str()


@pytest.mark.parametrize(
    ("pattern", "shortest"),
    [
        (" {2,}", 2), (r"\s+", 1), ("ab", 2), ("[a-z]?b", 1), ("a*", 0), ("a{3}[^x]{1,2}", 4), ("a{5,2}", 2), ("", 0),
        ("a|", 0), ("(?=a)", 0), ("a{2}?", 0), (r"\K", 0), ("^", 0), ("[[:alpha:]]", 0), ("a{0,5}", 0), (r"\b", 0),
    ],
)  # fmt: skip
def test_shortest_match(pattern: str, shortest: int) -> None:
    assert _shortest(pattern) == shortest


@pytest.mark.parametrize("kind", ["NFC", "NFD", "NFKC", "NFKD", "Lowercase", "BertNormalizer"])
def test_growth_of_the_forms(kind: str) -> None:
    """The growth limit covers every character of the basic plane, and is at most twice the real growth."""
    step = getattr(normalizers, kind)()
    growth, most = _growth({"type": kind}), 0.0
    for character in map(chr, [*range(0xD800), *range(0xE000, 0x11000), 0x1D160, 0x1D1BB, 0x2F800]):
        most = max(most, len(step.normalize_str(character).encode()) / len(character.encode()))
    assert growth / 2 < most <= growth


def test_growth_of_a_table() -> None:
    step = table("a", "b" * 40)
    backend = Backend(models.WordLevel({}, ""))
    content = {**json.loads(backend.to_str()), "normalizer": step}
    normalizer = Backend.from_str(json.dumps(content)).normalizer
    assert normalizer.normalize_str("aba") == "b" * 40 + "b" + "b" * 40
    assert _growth(step) == 40
    assert _growth(table("a", "b")) == 16.5
