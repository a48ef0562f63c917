"""Groups of texts for the tokenizer: their bounds, and the same token ids as one text at a time."""

from typing import Any

import numpy as np
import pytest

from fastattn.checkpoint.hub import find_model
from fastattn.text.batches import LONG, groups, joined, tokenize
from fastattn.tokenizer.tokenizer import Tokenizer, load_tokenizer
from tests.support.peer_cases import DATA

FOLDERS = {"bert": find_model(), "roberta": DATA / "roberta"}
WORDS = "one two three four five six seven eight nine ten".split()


@pytest.fixture(params=FOLDERS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return load_tokenizer(FOLDERS[request.param])


def test_groups_end_at_a_number_of_texts_and_of_characters() -> None:
    def found(*lengths: int, pairs: bool = False, prompt: str = "") -> list[list[int]]:
        inputs = [("x", "x" * (length - 1)) if pairs else "x" * length for length in lengths]
        return [list(range(*group.indices(len(lengths)))) for group in groups(inputs, prompt)]

    assert found() == []
    assert found(*[3] * 130) == [[*range(64)], [*range(64, 128)], [128, 129]]
    for pairs in (False, True):
        assert found(LONG, 1, LONG - 1, 1, 3 * LONG, 5, 6, pairs=pairs) == [[0], [1, 2], [3], [4], [5, 6]]
        # The prompt counts for each text, since it is tokenised with each.
        assert found(*[3] * 5, pairs=pairs, prompt="x" * (LONG // 2 - 3)) == [[0, 1], [2, 3], [4]]
    assert found(3, 4, prompt="x" * LONG) == [[0], [1]]


@pytest.mark.parametrize("prompt", ["", "one: "])
def test_long_texts_are_tokenised_a_group_at_a_time(tokenizer: Tokenizer, prompt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastattn.text.batches.LONG", 30)
    texts = [" ".join(WORDS[:count]) for count in range(10)]
    pairs = [(first, second) for first in texts for second in texts]
    sizes: list[int] = []
    encode = tokenizer._encode

    def watched(some: Any, add_special_tokens: bool) -> Any:
        # A single pair longer than `LONG` with its prompt is a group of its own.
        alone = len(some) == 1 or (prompt and isinstance(some, tuple))
        sizes.append(0 if alone else sum(map(len, some)))
        return encode(some, add_special_tokens)

    def all_ids(inputs: Any) -> list[list[int]]:
        parts = [tokenize(tokenizer, inputs[group], prompt, 7, group.start) for group in groups(inputs, prompt)]
        return [row.tolist() for row in joined(parts).ids]

    expected = [tokenizer.rows([prompt + text], 7).ids[0].tolist() for text in texts]
    expected_pairs = [tokenizer.pair_rows([(prompt + first, second)], 7).ids[0].tolist() for first, second in pairs]
    monkeypatch.setattr(tokenizer, "_encode", watched)
    assert all_ids(texts) == expected
    assert all_ids(pairs) == expected_pairs
    assert len(sizes) > 20 and 0 < max(sizes) <= 30


def test_token_types_of_groups_are_joined(tokenizer: Tokenizer) -> None:
    without = tokenizer.rows(WORDS[:2], 7)
    some = without._replace(types=[np.ones(len(row), np.int32) for row in without.ids], truncated=2)
    found = joined([without, some, some])
    assert found.truncated == 4 and len(found.ids) == 6
    assert found.types is not None
    assert [set(row.tolist()) for row in found.types] == [{0}, {0}, {1}, {1}, {1}, {1}]
    assert joined([without, without]).types is None
