"""Prefixes: only the first words of a truncated text are tokenised, and give the ids of the whole text."""

import functools
import json
import sys
import tempfile
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import AddedToken, PreTokenizedString, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from fastattn import SentenceTransformer
from fastattn.checkpoint.hub import find_model
from fastattn.tokenizer.prefix import _is_firm, beginning, is_long, reads_word_by_word
from fastattn.tokenizer.tokenizer import Tokenizer, load_tokenizer
from tests.support.models import WORDS, write_sentence_model, write_tokenizer
from tests.support.peer_cases import DATA
from tests.support.tokenizer_steps import KNOWN, byte_level, change, metaspace, of, pretokenizers, replace, sequence, table

WORD_BY_WORD = [name for name in KNOWN if name not in ("clip", "llama")]
# Special characters for tokenizer steps: combining marks, spaces of all kinds, forms that expand or become a space, joiners.
CHARACTERS = "abAΣé09 \t\n\u00a0\u2003\u3000\u0301\u0345\u0600\u200d\u200b\u037a\ufdfa\ufc5eßİ中한❤️'\"`.,-_#▁Ġ[]<>\U0001d15e"
PIECES = [*CHARACTERS, *"    ", "ab ", "ba ab ", "  ", "``", "''", " 's", "<s>", "[MASK]", " <pad> ", "x" * 20]


@functools.cache
def tokenizer(name: str) -> Tokenizer:
    """Return a tokenizer whose ids reveal every piece and character, with added tokens that strip adjacent spaces."""
    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(Path(folder))
        change(Path(folder), KNOWN[name])
        steps = load_tokenizer(Path(folder)).backend_tokenizer
    letters = sorted({*map(chr, range(33, 1000)), *pre_tokenizers.ByteLevel.alphabet(), *CHARACTERS.replace(" ", "")})
    vocab = {letter: i for i, letter in enumerate(letters)}
    words = dict.fromkeys(("[UNK]", "ab", "##a", "▁a", "▁", *(f"##{letter}" for letter in letters)))
    vocab = {word: i for i, word in enumerate(dict.fromkeys([*vocab, *words]))}
    if name == "bert":
        backend = Backend(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=30))
    elif name in ("roberta", "modernbert"):
        backend = Backend(models.BPE({**vocab, "ba": len(vocab)}, [("b", "a")], unk_token="[UNK]", fuse_unk=True))
    else:
        backend = Backend(models.Unigram([(word, -float(len(word) > 2)) for word in vocab], vocab["[UNK]"]))
    backend.normalizer, backend.pre_tokenizer = steps.normalizer, steps.pre_tokenizer  # type: ignore[assignment]
    backend.add_special_tokens([AddedToken("<s>"), AddedToken("[MASK]", lstrip=True), AddedToken("<pad>", rstrip=True)])
    backend.add_tokens([AddedToken("x" * 20, single_word=True, normalized=True)])
    return Tokenizer(backend)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the texts passed to the tokenizers library."""
    found: list[str] = []
    encode = Tokenizer._encode

    def watched(self: Tokenizer, texts: Sequence[str], add_special_tokens: bool) -> Any:
        found.extend(texts)
        return encode(self, texts, add_special_tokens)

    monkeypatch.setattr(Tokenizer, "_encode", watched)
    return found


def whole(some: Tokenizer, text: str) -> list[int]:
    return list(some.backend_tokenizer.encode(text).ids)


@pytest.mark.parametrize("name", WORD_BY_WORD)
@given(texts=st.lists(st.lists(st.sampled_from(PIECES), max_size=40).map("".join), min_size=1, max_size=3), times=st.integers(1, 9))
@example(texts=["ab\u037a \u0301ab "], times=9)
@example(texts=["ab" + " " * 60 + "[MASK]"], times=3)
@example(texts=["x" * 200 + " a"], times=4)
def test_rows_are_those_of_the_whole(name: str, texts: list[str], times: int) -> None:
    some = tokenizer(name)
    assert reads_word_by_word(some.backend_tokenizer)
    inputs = [text * times for text in texts]
    for most in (1, 3, 8):
        found = some.rows(inputs, most)
        assert [row.tolist() for row in found.ids] == [whole(some, text)[:most] for text in inputs]
        assert found.truncated == sum(len(whole(some, text)) > most for text in inputs)


@pytest.mark.parametrize("name", ["xlnet", "albert", "bert"])
def test_a_word_is_firm_before_a_space(name: str) -> None:
    """A combining mark behind a space changes no firm word before it, for all letters and digits that normalizers change."""
    backend = tokenizer(name).backend_tokenizer
    assert backend.normalizer is not None and backend.pre_tokenizer is not None

    def pieces(text: str) -> list[str]:
        return [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(text))]

    kinds = [c for c in map(chr, range(sys.maxunicode + 1)) if c.isalnum() and not 0xAC00 <= ord(c) < 0xD7B0]
    changed = [c for c in kinds if _is_firm(c) and (unicodedata.normalize("NFKD", c) != c or c.lower() != c)]
    assert len(changed) > 5000
    for character in changed:
        alone = pieces("w" + character)
        assert pieces(f"w{character} \u0301w")[: len(alone)] == alone, hex(ord(character))


@pytest.mark.parametrize("strip", [normalizers.StripAccents(), normalizers.BertNormalizer(strip_accents=True)])
def test_a_firm_letter_does_not_vanish(strip: Any) -> None:
    assert all(strip.normalize_str(c) for c in map(chr, range(sys.maxunicode + 1)) if c.isalnum() and _is_firm(c))


@pytest.mark.parametrize("where", [find_model(), DATA / "roberta"], ids=["minilm", "roberta"])
def test_real_tokenizers(where: Path, read: list[str]) -> None:
    some = load_tokenizer(where)
    texts = [Path(module.__file__ or "").read_text("utf-8") for module in (json, functools, tempfile)]
    texts += ["".join(CHARACTERS[i % len(CHARACTERS)] + "word " * (i % 3) for i in range(9000))]
    for most in (8, 64, 512):
        read.clear()
        found = some.rows(texts, most)
        size = sum(map(len, read))
        assert size < 0.7 * sum(map(len, texts)) if most == 64 else size
        for row, text in zip(found.ids, texts, strict=True):
            ids = whole(some, text)
            cut = [*ids[: most - 1], ids[-1]] if len(ids) > most else ids
            assert row.tolist() == cut


def test_only_the_beginning_is_read(tmp_path: Path, read: list[str]) -> None:
    write_tokenizer(tmp_path)
    some = load_tokenizer(tmp_path)
    text = "the cat sat on a mat " * 100_000
    assert some.rows([text, "a cat"], 8).truncated == 1
    assert [len(part) for part in read] == [len("the cat sat on a mat " * 3) - 1, 5]
    read.clear()
    some.pair_rows([("a cat", text), (text, text)], 8)
    assert max(map(len, read)) < 100


def test_words_that_are_one_token_each(tmp_path: Path, read: list[str]) -> None:
    """The prefix grows if its words give too few tokens."""
    write_tokenizer(tmp_path)
    some = load_tokenizer(tmp_path)
    text = ("x" * 500 + " ") * 1000
    assert some.rows([text], 8).ids[0].tolist() == [2, *[some.unk_token_id or 1] * 6, 3]
    assert len(text) / 4 > sum(map(len, read)) > 8 * 500


@pytest.mark.parametrize("length", [6, 7, 8, 9, 20])
def test_pairs(tmp_path: Path, length: int) -> None:
    """The longer text of a pair keeps the extra token if the room is odd."""
    write_tokenizer(tmp_path)
    some = load_tokenizer(tmp_path)
    texts = [" ".join((WORDS[4:] * 99)[:count]) for count in (0, 1, 3, 10, 40, 99, 300, 301)]
    pairs = [(first, second) for first in texts for second in texts]
    found = some.pair_rows(pairs, length)
    some.backend_tokenizer.enable_truncation(length, strategy="longest_first")
    assert [row.tolist() for row in found.ids] == [list(some.backend_tokenizer.encode(*pair).ids) for pair in pairs]


def test_half_a_surrogate_pair_is_found_behind_the_beginning(tmp_path: Path) -> None:
    model = SentenceTransformer(write_sentence_model(tmp_path))
    with pytest.raises(ValueError, match=r"inputs\[1\] is not valid Unicode"):
        model.encode(["a cat", "the cat sat on a mat " * 1000 + "\ud800"])


def test_a_text_whose_beginning_is_cut(tmp_path: Path, read: list[str]) -> None:
    write_tokenizer(tmp_path)
    some = load_tokenizer(tmp_path)
    some.truncation_side = "left"
    text = "the cat sat on a mat " * 100 + "dog"
    assert some.rows([text], 4).ids[0][-2] == WORDS.index("dog") and read == [text]


class Pieces:
    """Pre-tokenizer in Python."""

    def pre_tokenize(self, text: PreTokenizedString) -> None:
        """Split nothing."""


NOT_BY_WORD: dict[str, dict[str, Any]] = {
    "clip": KNOWN["clip"],
    "llama": KNOWN["llama"],
    "no pre-tokenizer": {"pre_tokenizer": None},
    "bytes in one piece": {"pre_tokenizer": {**byte_level(), "use_regex": False}},
    "one piece": {"pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": False}},
    "another split first": {
        "pre_tokenizer": pretokenizers({"type": "CharDelimiterSplit", "delimiter": "b"}, of("WhitespaceSplit"))
    },
    "two words": {"normalizer": replace("a b", "c")},
    "over a mark": {"normalizer": sequence(of("NFC"), replace("a▁", "c")), "pre_tokenizer": KNOWN["t5"]["pre_tokenizer"]},
    "an expression": {"normalizer": replace("x[^b]*", " ", "Regex")},
    "no space": {"normalizer": replace(r"\s+", "", "Regex")},
    "no two spaces": {"normalizer": replace(" {2,}", "", "Regex")},
    "a table without spaces": {"normalizer": table(" ", "")},
    "a mark for a space": {"normalizer": replace(r"\s+", "▁", "Regex")},
    "bytes first": {"normalizer": of("ByteLevel"), "pre_tokenizer": of("Whitespace")},
    "spaces behind letters": {**KNOWN["bert"], "pre_tokenizer": byte_level()},
    "letters that vanish": {"normalizer": replace("at", ""), "pre_tokenizer": metaspace()},
}


@pytest.mark.parametrize("name", NOT_BY_WORD)
def test_others_read_the_whole(name: str, tmp_path: Path, read: list[str]) -> None:
    write_tokenizer(tmp_path)
    change(tmp_path, NOT_BY_WORD[name])
    some = load_tokenizer(tmp_path)
    assert not reads_word_by_word(some.backend_tokenizer)
    text = "the cat sat on a mat " * 100
    some.rows([text], 8)
    assert read == [text]


@pytest.mark.parametrize("content", ["the cat", "the▁cat"])
def test_an_added_token_of_two_words(content: str, tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    change(tmp_path, KNOWN["t5"])
    backend = load_tokenizer(tmp_path).backend_tokenizer
    assert reads_word_by_word(backend)
    backend.add_tokens([content])
    assert not reads_word_by_word(backend)


@pytest.mark.parametrize("normalized", [True, False])
def test_an_added_token_that_becomes_two_words(normalized: bool, tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    change(tmp_path, {"normalizer": of("NFKC")})
    backend = load_tokenizer(tmp_path).backend_tokenizer
    backend.add_tokens([AddedToken("cat\u037a", normalized=normalized)])
    assert reads_word_by_word(backend) is not normalized


def test_a_pre_tokenizer_in_python(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    backend = load_tokenizer(tmp_path).backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.PreTokenizer.custom(Pieces())  # type: ignore[assignment]
    assert not reads_word_by_word(backend)


@pytest.mark.parametrize("max_length", [-1, 0, 1, 2])
def test_no_room_for_a_text(max_length: int, tmp_path: Path) -> None:
    """Special tokens are kept, and no token of the text."""
    write_tokenizer(tmp_path)
    backend = load_tokenizer(tmp_path).backend_tokenizer
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))  # type: ignore[assignment]
    some = Tokenizer(backend)
    texts = ["a cat", "the cat sat on a mat " * 100]
    assert [row.tolist() for row in some.rows(texts, max_length).ids] == [[2, 3]] * 2
    assert [row.tolist() for row in some.pair_rows([(texts[0], texts[1])] * 2, max_length).ids] == [[2, 3, 3]] * 2


@given(st.text(alphabet="ab ,\u037a", max_size=300), st.integers(-1, 9))
def test_beginnings(text: str, tokens: int) -> None:
    part = beginning(text, tokens)
    assert text.startswith(part)
    if not is_long(text, tokens):
        assert part == text
    while len(part) < len(text):
        assert part[-1] in "ab" and text[len(part)] == " "
        longer = beginning(text, tokens, part)
        assert len(longer) > len(part)
        part = longer
    assert part == text


def test_a_long_text_without_spaces() -> None:
    assert len(beginning("中" * 100_000, 8)) == 100_000


def test_ids_are_arrays(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    (row,) = load_tokenizer(tmp_path).rows(["the cat sat on a mat " * 100], 8).ids
    assert row.dtype == np.int32
