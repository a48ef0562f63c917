"""Every configuration that `EncoderConfig` accepts, through every way into the encoder, against the reference."""

from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fastattn import Encoder, EncoderConfig, reference
from fastattn.config import ACTIVATIONS
from fastattn.kernels.encoder.pool import POOLINGS
from fastattn.parameters import may_be_absent, parameters_of
from tests.support.cases import normal

pytestmark = pytest.mark.jit

# Rounding stays below a hundredth of this; a wrong formula does not.
TOLERANCE = 1e-3


class Case(NamedTuple):
    config: EncoderConfig
    # Leave out the parameters that may be absent.
    bare: bool
    lengths: tuple[int, ...]


@st.composite
def cases(draw: Any) -> Case:
    """Draw sizes around the edges of a vector and a tile, and every option that the sizes allow."""
    head_dim, heads = draw(st.sampled_from([1, 2, 3, 8, 17, 32])), draw(st.integers(1, 4))
    positions = draw(st.sampled_from(["learned", "sinusoidal", "alibi", None, *([] if head_dim % 2 else ["rotary"])]))
    bias = "alibi" if positions == "alibi" else draw(st.sampled_from(["none", "relative", "disentangled"]))
    terms = draw(st.sampled_from([("c2p",), ("p2c",), ("c2p", "p2c")])) if bias == "disentangled" else ()
    groups = [heads] if terms else [count for count in (1, 2, 3, 4) if heads % count == 0]
    config = EncoderConfig(
        num_layers=draw(st.integers(1, 3)),
        num_heads=heads,
        hidden_dim=draw(st.sampled_from([heads * head_dim, 5, 33])),
        head_size=head_dim,
        num_key_value_heads=draw(st.sampled_from(groups)),
        norm=draw(st.sampled_from(["layer", "rms"])),
        output_norms=draw(st.booleans()),
        query_key_norm=draw(st.sampled_from([None, "head", "full"])),
        attention_scale=draw(st.sampled_from([None, 0.3])),
        softcap=draw(st.sampled_from([None, 2.0])),
        disentangled=terms,
        disentangled_span=draw(st.sampled_from([4, 30])) if terms else 0,
        disentangled_log=bool(terms) and draw(st.booleans()),
        ff_dim=draw(st.sampled_from([1, 5, 32, 40])),
        dropout=1e-12,
        activation=draw(st.sampled_from(ACTIVATIONS)),
        norm_first=draw(st.booleans()),
        layer_norm_eps=1e-3,
        positions=positions,
        vocab_size=draw(st.sampled_from([1, 9, None])),
        max_positions=40,
        padding_idx=draw(st.sampled_from([None, 0, 2])) if positions == "learned" else None,
        type_vocab_size=draw(st.sampled_from([0, 1, 2])),
        is_causal=draw(st.booleans()),
        embedding_dim=draw(st.sampled_from([None, 1, 6, 33])),
        rotary_theta=draw(st.sampled_from([1.0, 10000.0])),
        local_rotary_theta=draw(st.sampled_from([None, 100.0])),
        gated=draw(st.booleans()),
        window=draw(st.sampled_from([None, 0, 2])),
        global_every=draw(st.integers(1, 2)),
        relative_buckets=draw(st.sampled_from([4, 8])) if bias == "relative" else 0,
        relative_max_distance=draw(st.sampled_from([3, 16])) if bias == "relative" else 32,
    )
    return Case(config, draw(st.booleans()), tuple(draw(st.lists(st.integers(0, 35), min_size=1, max_size=4))))


def parameters_for(case: Case) -> dict[str, NDArray[np.float32]]:
    parameters: dict[str, NDArray[np.float32]] = {}
    for seed, (name, parameter) in enumerate(parameters_of(case.config)):
        if case.bare and may_be_absent(case.config, name, parameter):
            continue
        shape = parameter.shape_in(case.config)
        parameters[f"{name}.weight"] = normal(*shape, seed=seed) / np.float32(shape[-1] ** 0.5 if parameter.kind == "matrix" else 1)
        if parameter.kind != "table" and not case.bare:
            parameters[f"{name}.bias"] = normal(shape[0], seed=seed + 1000)
    return parameters


def close(ours: Any, truth: Any) -> None:
    assert ours.dtype == np.float32 and ours.shape == truth.shape
    np.testing.assert_allclose(ours, truth, rtol=0, atol=TOLERANCE * (1 + np.abs(truth).max(initial=0)))


@settings(max_examples=60, deadline=None, derandomize=True)
@example(Case(EncoderConfig(1, 3, 3, 5, 1e-12, vocab_size=9), False, (3, 2)))
@example(Case(EncoderConfig(2, 2, 16, 5, 1e-12, vocab_size=2, padding_idx=1, positions="learned"), False, (9, 0, 7)))
@given(case=cases())
def test_every_way_into_every_configuration(case: Case) -> None:
    config, parameters, (b, t) = case.config, parameters_for(case), (len(case.lengths), max(case.lengths))
    model = Encoder(config, parameters=parameters)
    mask = np.arange(t) < np.array(case.lengths)[:, None]
    rng = np.random.default_rng([b, t])
    x: Any = normal(b, t, config.input_dim) if config.vocab_size is None else rng.integers(0, config.vocab_size, (b, t))
    types = rng.integers(0, config.type_vocab_size, (b, t)) if config.type_vocab_size else None
    hidden, states, attention = reference.encoder(
        {name: value.astype(np.float64) for name, value in parameters.items()},
        x,
        mask,
        token_type_ids=types,
        return_hidden_states=True,
        return_attention=True,
        **config.reference_options(),
    )
    close(model(x, mask, token_type_ids=types), hidden)
    close(model(x, mask, token_type_ids=types, training=True, rng=np.random.default_rng(0)), hidden)
    shown = model(x, mask, token_type_ids=types, return_hidden_states=True, return_attention=True)
    for ours, truth in zip(shown, (hidden, states, attention), strict=True):
        close(ours, truth)
    offsets = np.cumsum([0, *case.lengths])
    packed_types = None if types is None else types[mask]
    close(model.forward_packed(x[mask], offsets, token_type_ids=packed_types), hidden[mask])
    for pooling in filter(None, POOLINGS):
        truth = np.array([reference.pooling(row[real], pooling) for row, real in zip(hidden, mask, strict=True)])
        close(model.forward_packed(x[mask], offsets, token_type_ids=packed_types, pooling=pooling), truth)
