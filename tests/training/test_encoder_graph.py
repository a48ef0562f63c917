"""Gradients of the whole encoder, of every configuration, against derivatives of the reference in float64."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from fastattn import Encoder, EncoderConfig, reference
from fastattn.parameters import random_parameters
from fastattn.training.encoder import EncoderGraph
from fastattn.training.functions import Dropout
from fastattn.training.graph import Parameter
from tests.encoder.test_configurations import Case, cases, close, parameters_for
from tests.support.cases import normal

pytestmark = pytest.mark.jit

# Half the step of a central difference in float64: its error is the square, and the rounding 1e-16 over it.
STEP = 1e-5
# Rounding of float32 through three layers stays below a tenth of this; a wrong formula does not.
TOLERANCE = 2e-3


def truth(case: Case, parameters: dict[str, Any], x: Any, mask: Any, types: Any, weights: Any) -> float:
    hidden = reference.encoder(parameters, x, mask, token_type_ids=types, **case.config.reference_options())
    return float((hidden[mask] * weights).sum())


@settings(max_examples=40, deadline=None, derandomize=True)
@given(case=cases().filter(lambda case: case.config.vocab_size is not None and not case.config.disentangled))
def test_gradients_of_every_configuration(case: Case) -> None:
    config, parameters, (b, t) = case.config, parameters_for(case), (len(case.lengths), max(case.lengths))
    mask = np.arange(t) < np.array(case.lengths)[:, None]
    rng = np.random.default_rng([b, t])
    x = rng.integers(0, config.vocab_size or 1, (b, t))
    types = rng.integers(0, config.type_vocab_size, (b, t)) if config.type_vocab_size else None
    offsets = np.cumsum([0, *case.lengths])
    graph = EncoderGraph(config, parameters)
    hidden = graph(x[mask].astype(np.int32), offsets, None if types is None else types[mask].astype(np.int32))
    exact = {name: value.astype(np.float64) for name, value in parameters.items()}
    close(hidden.data, reference.encoder(exact, x, mask, token_type_ids=types, **config.reference_options())[mask])
    weights = normal(*hidden.shape, seed=3)
    hidden.backward(weights)
    for seed, (name, parameter) in enumerate(graph.parameters.items()):
        direction = normal(*parameter.shape, seed=seed).astype(np.float64)
        sides = [
            truth(case, {**exact, name: exact[name] + sign * STEP * direction}, x, mask, types, weights.astype(np.float64))
            for sign in (1, -1)
        ]
        expected = (sides[0] - sides[1]) / (2 * STEP)
        grad = np.zeros(parameter.shape) if parameter.grad is None else parameter.grad.astype(np.float64)
        found = float((grad * direction).sum())
        scale = 1 + np.linalg.norm(grad) * np.linalg.norm(direction)
        assert abs(found - expected) <= TOLERANCE * scale, f"{name}: {found} instead of {expected}, of {config}"


def test_shared_layers_add_their_gradients() -> None:
    config = EncoderConfig(2, 2, 16, 24, vocab_size=9)
    single = random_parameters(EncoderConfig(1, 2, 16, 24, vocab_size=9), 0)
    shared = {**single, **{name.replace("layers.0", "layers.1"): value for name, value in single.items() if "layers.0" in name}}
    copied = {name: value.copy() for name, value in shared.items()}
    ids, offsets = np.arange(9, dtype=np.int32), np.array([0, 4, 9])
    graphs = [EncoderGraph(config, each) for each in (shared, copied)]
    for graph in graphs:
        out = graph(ids, offsets)
        out.backward(normal(*out.shape))
    one, two = graphs
    weight = "feed_forward.input.weight"
    assert one.parameters[f"layers.0.{weight}"] is one.parameters[f"layers.1.{weight}"]
    parts = [two.parameters[f"layers.{i}.{weight}"].grad for i in range(2)]
    assert parts[0] is not None and parts[1] is not None and one.parameters[f"layers.0.{weight}"].grad is not None
    np.testing.assert_allclose(one.parameters[f"layers.0.{weight}"].grad, parts[0] + parts[1], rtol=1e-4, atol=1e-6)
    assert len(list(one.trained())) == len(list(two.trained())) - 16


def test_dropout_follows_from_its_key_alone() -> None:
    config = EncoderConfig(2, 2, 16, 24, vocab_size=9)
    graph = EncoderGraph(config, random_parameters(config, 0))
    ids, offsets = np.arange(9, dtype=np.int32), np.array([0, 4, 9])

    def run(*key: int) -> Any:
        return graph(ids, offsets, None, Dropout(0.5, key)).data

    assert np.array_equal(run(1, 2), run(1, 2))
    assert not np.array_equal(run(1, 2), run(1, 3))
    assert not np.array_equal(run(1, 2), graph(ids, offsets).data)


def test_a_changed_weight_is_packed_again() -> None:
    config = EncoderConfig(1, 2, 16, 24, vocab_size=9)
    graph = EncoderGraph(config, random_parameters(config, 0))
    ids, offsets = np.arange(9, dtype=np.int32), np.array([0, 4, 9])
    before = graph(ids, offsets).data
    for each in graph.trained():
        each.data += np.float32(0.1) * normal(*each.shape)
    graph.refresh()
    fresh = EncoderGraph(config, {name: each.data for name, each in graph.parameters.items()})
    after = graph(ids, offsets).data
    assert np.array_equal(after, fresh(ids, offsets).data) and not np.array_equal(after, before)


@pytest.mark.parametrize(
    ("fields", "message"), [({"disentangled": ("c2p",), "disentangled_span": 4}, "DeBERTa"), ({"mask_idx": 1}, "ESM")]
)
def test_what_has_no_gradient(fields: dict[str, Any], message: str) -> None:
    config = EncoderConfig(1, 2, 16, 24, vocab_size=9, **fields)
    with pytest.raises(ValueError, match=message):
        EncoderGraph(config, random_parameters(config, 0))


@pytest.mark.parametrize(
    "fields",
    [{}, {"positions": "learned"}, {"positions": "sinusoidal"}, {"positions": "learned", "vocab_size": 9, "padding_idx": 1}],
)
def test_embeddings_in_place_of_ids_have_a_gradient(fields: dict[str, Any]) -> None:
    config = EncoderConfig(1, 2, 16, 24, **fields)
    parameters = random_parameters(config, 0)
    x, offsets = Parameter(normal(9, 16)), np.array([0, 4, 9])
    hidden = EncoderGraph(config, parameters)(x, offsets)
    weights, direction = normal(9, 16, seed=1), normal(9, 16, seed=2).astype(np.float64)
    exact = {name: value.astype(np.float64) for name, value in parameters.items()}

    def states(rows: Any) -> Any:
        parts = [rows[start:stop] for start, stop in itertools.pairwise(offsets)]
        return np.concatenate([reference.encoder(exact, part[None], **config.reference_options())[0] for part in parts])

    close(hidden.data, states(x.data.astype(np.float64)))
    hidden.backward(weights)
    sides = [(states(x.data + sign * STEP * direction) * weights).sum() for sign in (1, -1)]
    assert x.grad is not None
    scale = 1 + np.linalg.norm(x.grad) * np.linalg.norm(direction)
    assert abs((sides[0] - sides[1]) / (2 * STEP) - float((x.grad * direction).sum())) <= TOLERANCE * scale


def test_random_weights_are_those_of_the_encoder() -> None:
    config = EncoderConfig(1, 2, 16, 24, vocab_size=9)
    ids = np.arange(5, dtype=np.int32)
    graphs = [EncoderGraph(config, seed=seed)(ids, np.array([0, 5])).data for seed in (3, 4)]
    close(graphs[0], Encoder(config, seed=3)(ids[None])[0].astype(np.float64))
    assert not np.array_equal(*graphs)
