"""Forward of whole encoders."""

import functools
from typing import Any

import numpy as np
import pytest

from benchmarks.ops.timed import time_call
from benchmarks.suite.own import encoder_options
from benchmarks.suite.shapes import BERT_BASE, MINILM, MODELS, REFERENCE_FLOP
from fastattn import Encoder, EncoderConfig, reference
from fastattn.checkpoint.hub import find_model
from fastattn.checkpoint.reader import read_encoder
from fastattn.parameters import random_parameters
from tests.support.tolerance import assert_matches_reference

LENGTHS = (17, 9)
CASES = [
    (model.name, batch, tokens, provider)
    for model in (MINILM, BERT_BASE)
    for batch, tokens in model.shapes
    for provider in ("fastattn", "reference")
    if provider == "fastattn" or model.flop(batch, tokens) < REFERENCE_FLOP
]


@functools.lru_cache(1)
def checked_encoder(name: str) -> tuple[Encoder, dict[str, Any], dict[str, Any]]:
    """Return an encoder that agrees with the reference on a small batch, with its parameters and options."""
    model = MODELS[name]
    if model is MINILM:
        config, parameters = read_encoder(find_model())
    else:
        config = EncoderConfig(model.layers, model.heads, model.hidden, model.ff, positions="learned", vocab_size=30522)
        parameters = random_parameters(config, 0)
    encoder, options = Encoder(config, parameters=parameters), encoder_options(config)
    mask = np.arange(max(LENGTHS)) < np.array(LENGTHS)[:, None]
    ids = np.random.default_rng(0).integers(1000, 30000, mask.shape)
    truth = reference.encoder({key: array.astype(np.float64) for key, array in parameters.items()}, ids, mask, **options)
    assert_matches_reference(encoder(ids, mask), truth, reference.encoder(parameters, ids, mask, **options))
    return encoder, parameters, options


@pytest.mark.parametrize(("name", "batch", "tokens", "provider"), CASES)
def bench_encoder(benchmark: Any, name: str, batch: int, tokens: int, provider: str) -> None:
    flop = MODELS[name].flop(batch, tokens)
    encoder, parameters, options = checked_encoder(name)
    benchmark.group = f"{name} ({batch}, {tokens})"
    ids = np.random.default_rng(0).integers(1000, 30000, (batch, tokens))
    offsets = np.arange(batch + 1) * tokens
    if provider == "fastattn":
        time_call(benchmark, lambda: encoder.forward_packed(ids.reshape(-1), offsets), flop=flop)
    else:
        time_call(benchmark, lambda: reference.encoder(parameters, ids, **options), flop=flop)
