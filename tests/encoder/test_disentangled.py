"""Scores of content and distance: rows of distances as in training, lengths around blocks, one long row, and the same bits."""

import itertools
from typing import Any

import numpy as np
import pytest

from fastattn import Encoder, EncoderConfig, reference
from fastattn.encoder import forward, tables
from fastattn.kernels.encoder.disentangled import BIAS_ROWS
from fastattn.parameters import random_parameters
from tests.support.schedules import assert_same_bits
from tests.support.tolerance import assert_matches_reference, packed_truth_and_yardsticks

# S, the distance of the last row, and distances where float32 decides the row; the rows that transformers computes.
EDGES = [
    (4, 8, [-8, -7, -6, -3, -2, 2, 3, 6, 7, 8], [0, 1, 1, 1, 2, 6, 7, 7, 7, 7]),
    (7, 5, [-5, -4, -3, 3, 4, 5], [0, 2, 4, 10, 12, 13]),
    (33, 19, [-19, -18, -17, -16, 16, 17, 18, 19], [0, 2, 9, 17, 49, 57, 64, 65]),
    (100, 100, [-100, -99, -98, -51, 51, 98, 99, 100], [0, 1, 1, 48, 152, 199, 199, 199]),
    (256, 130, [-130, -129, -128, 128, 129, 130], [0, 1, 128, 384, 511, 511]),
]
TERMS: dict[str, dict[str, Any]] = {
    "near": {"disentangled": ("c2p", "p2c"), "disentangled_span": 8, "disentangled_log": True, "relative_max_distance": 30},
    "query's": {"disentangled": ("c2p",), "disentangled_span": 5},
    "key's": {"disentangled": ("p2c",), "disentangled_span": 16, "disentangled_log": True, "relative_max_distance": 512},
    "far": {"disentangled": ("p2c", "c2p"), "disentangled_span": 300},
}


def make(kind: str, d: int = 8) -> tuple[Encoder, dict[str, Any]]:
    config = EncoderConfig(1, 2, 2 * d, 16, vocab_size=40, attention_scale=0.2, **TERMS[kind])
    rng = np.random.default_rng(3)
    parameters = {
        name: value if "norm" in name else rng.standard_normal(value.shape, np.float32) * np.float32(0.3)
        for name, value in random_parameters(config, 0).items()
    }
    return Encoder(config, parameters=parameters), parameters


def check(model: Encoder, parameters: dict[str, Any], lengths: list[int]) -> None:
    """Compare texts of these lengths with the reference in float64."""
    rng = np.random.default_rng(lengths)
    ids, offsets = rng.integers(0, 40, sum(lengths)), np.concatenate([[0], np.cumsum(lengths)])
    found = model.forward_packed(ids, offsets)
    assert_matches_reference(found, *packed_truth_and_yardsticks(parameters, ids, offsets, **model.config.reference_options()))


@pytest.mark.parametrize(("span", "farthest", "distances", "rows"), EDGES)
def test_rows_where_rounding_decides(span: int, farthest: int, distances: list[int], rows: list[int]) -> None:
    assert reference.disentangled_row(np.array(distances), span, farthest).tolist() == rows


def test_rows_are_those_of_transformers() -> None:
    pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

    apart = torch.arange(-3000, 3001)
    for span, farthest in itertools.product((4, 5, 7, 16, 32, 33, 100, 128, 256, 512), (130, 258, 260, 512, 514, 1024, 2048)):
        if farthest > span // 2 + 1:
            theirs = torch.clamp(make_log_bucket_position(apart, span, farthest).long() + span, 0, 2 * span - 1)
            assert np.array_equal(reference.disentangled_row(apart.numpy(), span, farthest), theirs.numpy()), (span, farthest)


def test_the_table_is_the_definition() -> None:
    rows = tables.disentangled_rows(8, 30, 50)
    assert np.array_equal(rows, reference.disentangled_row(np.arange(49, -50, -1), 8, 30))


@pytest.mark.jit
@pytest.mark.parametrize("kind", TERMS)
def test_lengths_around_vectors_and_blocks(kind: str) -> None:
    model, parameters = make(kind)
    check(model, parameters, [1, 2, 7, 8, 9, 15, 16, 17, 33, BIAS_ROWS - 1, BIAS_ROWS, BIAS_ROWS + 1, 2 * BIAS_ROWS + 9])


@pytest.mark.jit
@pytest.mark.parametrize("d", [1, 5, 64])
def test_sizes_of_heads(d: int) -> None:
    model, parameters = make("near", d)
    check(model, parameters, [40, 70])


@pytest.mark.jit
def test_one_long_row() -> None:
    model, parameters = make("key's")
    check(model, parameters, [2000])


@pytest.mark.jit
@pytest.mark.parametrize("kind", TERMS)
def test_bits(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = make(kind)
    rng = np.random.default_rng(5)
    assert_same_bits(model, np.array([1, 130, 8, 17, 61, 3, 97]), rng, monkeypatch)


@pytest.mark.jit
def test_bits_do_not_depend_on_longer_texts_before() -> None:
    """The table of rows grows with the longest text."""
    model, _ = make("near")
    ids = np.arange(30) % 40
    before = model.forward_packed(ids, [0, 30])
    model.forward_packed(np.arange(700) % 40, [0, 700])
    assert np.array_equal(model.forward_packed(ids, [0, 30]), before)


def test_memory_grows_with_the_length_alone() -> None:
    """Scratch of a head has a block of rows for all keys, and no square."""
    model, _ = make("far")
    small, large = (forward._head_scratch(model.config, tokens) for tokens in (5_000, 10_000))
    assert large < 2 * small
