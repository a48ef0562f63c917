"""Inputs of encode, predict and rank: texts, pairs and dicts, and what gives names or no order instead of texts."""

from collections import UserDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastattn import CrossEncoder, SentenceTransformer, SparseEncoder
from tests.support import sparse_cases
from tests.support.models import C
from tests.support.peer_cases import PAIRS, write_cross_encoder

pytestmark = pytest.mark.jit


@pytest.fixture(scope="module")
def paired(tmp_path_factory: pytest.TempPathFactory) -> SentenceTransformer:
    return SentenceTransformer(write_cross_encoder(tmp_path_factory.mktemp("pairs"), 1))


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> CrossEncoder:
    return CrossEncoder(write_cross_encoder(tmp_path_factory.mktemp("scorer"), 1))


class Table:
    """Stand-in of tables: iteration gives the names of the columns."""

    def __init__(self, attribute: str) -> None:
        setattr(self, attribute, ["text"])

    def __iter__(self) -> Iterator[str]:
        return iter(["text"])


class Series:
    """Stand-in of pandas' Series, which has keys and gives values."""

    ndim = 1

    def __init__(self, values: list[str]) -> None:
        self.values = values

    def keys(self) -> range:
        return range(len(self.values))

    def __iter__(self) -> Iterator[str]:
        return iter(self.values)


class NAType:
    """Stand-in of pandas' NA, which cannot be compared."""

    def __eq__(self, other: object) -> Any:
        raise TypeError("boolean value of NA is ambiguous")

    __hash__ = object.__hash__


def test_pairs_are_two_segments(paired: SentenceTransformer) -> None:
    batch = paired.preprocess(PAIRS)
    expected = paired(batch)["sentence_embedding"]
    assert batch["token_type_ids"].any()
    found = paired.encode(PAIRS)
    assert found.shape == (len(PAIRS), C)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    for inputs in (np.array(PAIRS), np.array(PAIRS, object), [list(pair) for pair in PAIRS], iter(PAIRS)):
        assert np.array_equal(paired.encode(inputs), found)
    tokens = paired.encode(PAIRS, output_value=None)
    assert [text["token_type_ids"].tolist() for text in tokens] == [
        row[: mask.sum()].tolist() for row, mask in zip(batch["token_type_ids"], batch["attention_mask"], strict=True)
    ]
    first = [(f"the {one}", other) for one, other in PAIRS]
    assert np.array_equal(paired.encode(PAIRS, prompt="the "), paired.encode(first))


@pytest.mark.filterwarnings("ignore")
def test_pairs_of_a_sparse_model(tmp_path: Path) -> None:
    """A pair is two segments, as in sentence-transformers; what is no pair is refused."""
    model, pairs = SparseEncoder(sparse_cases.MODELS["max"](tmp_path)), [("a cat", "the dog"), ("the", "mat on a dog")]
    with pytest.raises(TypeError, match=r"inputs\[1\] must be a str or a pair of str, got list of 3"):
        model.encode(["a", ["b", "c", "d"]])
    peers = pytest.importorskip("sentence_transformers")
    theirs = peers.SparseEncoder(str(tmp_path))
    for options in ({}, {"prompt": "the "}, {"task": "query"}):
        expected = theirs.encode(pairs, **options).to_dense().numpy()
        np.testing.assert_allclose(model.encode(pairs, **options).toarray(), expected, rtol=0, atol=1e-5)


def test_dicts_with_a_text(model: SentenceTransformer) -> None:
    expected = model.encode(["the cat", "a dog"])
    assert np.array_equal(model.encode([{"text": "the cat"}, {"text": "a dog"}]), expected)
    assert np.array_equal(model.encode(["the cat", {"text": "a dog"}]), expected)
    assert np.array_equal(model.encode({"text": "the cat"}), expected[0])
    with pytest.raises(TypeError, match=r'inputs\[0\]\["text"\] must be a str, got list of 2'):
        model.encode({"text": ["the cat", "a dog"]})


def test_single_inputs(model: SentenceTransformer, scorer: CrossEncoder) -> None:
    for one in ("a", np.str_("a"), np.array("a"), {"text": "a"}):
        assert model.is_singular_input(one), one
    for several in (["a"], ("a", "b"), np.array(["a"]), [{"text": "a"}], Series(["a"]), iter("a")):
        assert not model.is_singular_input(several), several
    assert scorer.is_singular_input(("a", "b"))
    assert not scorer.is_singular_input([("a", "b")])


def test_series_gives_its_values(model: SentenceTransformer) -> None:
    assert np.array_equal(model.encode(Series(["the cat", "a dog"])), model.encode(["the cat", "a dog"]))


Call = Callable[[SentenceTransformer, CrossEncoder, Any], Any]
CALLS: dict[str, Call] = {
    "encode": lambda model, scorer, inputs: model.encode(inputs),
    "encode_query": lambda model, scorer, inputs: model.encode_query(inputs),
    "preprocess": lambda model, scorer, inputs: model.preprocess(inputs),
    "predict": lambda model, scorer, inputs: scorer.predict(inputs),
    "rank": lambda model, scorer, inputs: scorer.rank("the cat", inputs),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("inputs", [Table("columns"), Table("column_names"), Table("keys")], ids=lambda x: next(iter(vars(x))))
def test_tables_are_refused(model: SentenceTransformer, scorer: CrossEncoder, call: str, inputs: Any) -> None:
    with pytest.raises(
        TypeError, match=r"got Table, which has columns or keys: pass the column, such as (inputs|documents)\[name\]"
    ):
        CALLS[call](model, scorer, inputs)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", [set, frozenset])
def test_sets_are_refused(model: SentenceTransformer, scorer: CrossEncoder, call: str, kind: Any) -> None:
    with pytest.raises(TypeError, match=f"got {kind.__name__}, which has no order: pass a list"):
        CALLS[call](model, scorer, kind(["a", "b"]))


@pytest.mark.parametrize("call", ["preprocess", "predict", "rank"])
def test_one_text_is_not_its_characters(model: SentenceTransformer, scorer: CrossEncoder, call: str) -> None:
    with pytest.raises(TypeError, match=r"must be .*, got str"):
        CALLS[call](model, scorer, "ab")


@pytest.mark.parametrize("missing", [None, float("nan"), np.float64("nan"), NAType()], ids=["None", "nan", "np.float64(nan)", "NA"])
def test_missing_values(model: SentenceTransformer, scorer: CrossEncoder, missing: Any) -> None:
    message = f"got {type(missing).__name__}, perhaps a missing value"
    with pytest.raises(TypeError, match=rf"inputs\[1\] must be a str or a pair of str, {message}"):
        model.encode(["a", missing])
    with pytest.raises(TypeError, match=rf"inputs\[0\]\[1\] must be a str, {message}"):
        scorer.predict([("a", missing)])
    with pytest.raises(TypeError, match=rf"documents\[1\] must be a str, {message}"):
        scorer.rank("a", ["a", missing])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (np.array("a"), "must be a str or a pair of str, got ndarray of 0 dimensions"),
        ([["a"], ["b"]], r"inputs\[0\] must be a str or a pair of str, got list of 1"),
        (np.array([["a"], ["b"]]), r"inputs\[0\] must be a str or a pair of str, got ndarray of 1"),
        ([np.array("a")], r"inputs\[0\] must be a str or a pair of str, got ndarray of 0 dimensions"),
        (["a", ("b", "c")], r"inputs\[1\] must be a str, as inputs\[0\] is, got tuple of 2"),
        ([3.5], r"inputs\[0\] must be a str or a pair of str, got float$"),
        ({"ids": [1], "text": ["a"]}, "got dict with keys 'ids', 'text'"),
        (UserDict(text=3), r'inputs\[0\]\["text"\] must be a str, got int'),
    ],
)
def test_message_names_the_kind(model: SentenceTransformer, inputs: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        model.encode(inputs)


def test_tables_of_pandas(model: SentenceTransformer, scorer: CrossEncoder) -> None:
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"text": ["the cat", "a dog"], "other": ["a", None]})
    assert np.array_equal(model.encode(table["text"]), model.encode(["the cat", "a dog"]))
    for call in CALLS.values():
        with pytest.raises(TypeError, match="got DataFrame, which has columns or keys"):
            call(model, scorer, table[["text"]])
    with pytest.raises(TypeError, match=r"inputs\[1\] must be a str or a pair of str, got \w+, perhaps a missing value"):
        model.encode(table["other"])


def test_limit_of_one_call(paired: SentenceTransformer, scorer: CrossEncoder, tmp_path: Path) -> None:
    text, limit = "the cat sat on the mat and the dog", {"text": {"max_length": 5, "truncation": True}}
    before = paired.max_seq_length
    found = paired.encode(text, processing_kwargs=limit)
    assert paired.counts.truncated == 1
    assert np.array_equal(found, paired.encode("the cat sat"))
    assert paired.preprocess([text], processing_kwargs=limit)["input_ids"].shape == (1, 5)
    assert paired.max_seq_length == before
    assert not np.array_equal(scorer.predict(PAIRS, processing_kwargs=limit), scorer.predict(PAIRS))
    scorer.max_seq_length, found = 5, scorer.predict(PAIRS, processing_kwargs=limit)
    assert np.array_equal(found, scorer.predict(PAIRS))
    scorer.max_seq_length = before
    for wrong in ({"text": {"add_special_tokens": False}}, {"audio": {"max_length": 5}}, {"text": {"truncation": False}}):
        with pytest.raises(ValueError, match=r"processing_kwargs: .* is not supported; supported: text with max_length"):
            paired.encode(text, processing_kwargs=wrong)
    with pytest.raises(ValueError, match="max_seq_length must be an integer from 2"):
        paired.encode(text, processing_kwargs={"text": {"max_length": 1000}})
