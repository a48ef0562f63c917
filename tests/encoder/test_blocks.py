"""Optional building blocks of the encoder, each and together, against the reference; the same bits in every schedule."""

import dataclasses
import itertools
import pickle
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from fastattn import Encoder, EncoderConfig, reference
from fastattn.encoder import forward, tables
from fastattn.layer_config import Convolution, LayerConfig, Rotary
from fastattn.parameters import random_parameters
from tests.support.cases import normal
from tests.support.tolerance import assert_matches_reference, encoder_truth_and_yardsticks

pytestmark = pytest.mark.jit

V, LAYERS = 50, 3
# Schedules otherwise chosen by the amount of work: chunks of sequences, blocks of rows, columns of the weights.
SCHEDULES = {"chunks": (0.0, 24), "rows": (2.0, 0), "columns": (2.0, 10**6)}
MODERN = {
    "positions": "rotary", "gated": True, "norm_first": True, "window": 8, "global_every": 2, "rotary_theta": 160000.0,
    "local_rotary_theta": 10000.0,
}  # fmt: skip
GENERAL = {
    "norm": "rms", "norm_first": True, "gated": True, "activation": "silu", "positions": "rotary", "head_size": 8,
    "num_key_value_heads": 1, "query_key_norm": "head",
}  # fmt: skip
# A window to one side and to both, turns of a part of each head, one of them scaled.
UNLIKE = (
    LayerConfig((3, 0), Rotary((1.0, 0.1), 1.2)),
    LayerConfig((None, None), Rotary((0.5, 0.01))),
    LayerConfig((2, 20), Rotary((0.5, 0.01))),
)
KINDS: dict[str, dict[str, Any]] = {
    "rotary": {"positions": "rotary"},
    "gated": {"gated": True},
    "gated-silu-pre": {"gated": True, "activation": "silu", "norm_first": True},
    "relative": {"relative_buckets": 32, "positions": "learned"},
    "relative-few": {"relative_buckets": 4, "relative_max_distance": 9},
    "window": {"window": 5, "global_every": 2, "positions": "learned"},
    "window-0": {"window": 0, "global_every": 3},
    "window-causal": {"window": 20, "global_every": 2, "is_causal": True},
    "narrow-tables": {"embedding_dim": 10, "positions": "learned"},
    "wide-tables": {"embedding_dim": 77, "positions": "sinusoidal"},
    "modern": MODERN,
    "everything": {**MODERN, "relative_buckets": 8, "embedding_dim": 20, "is_causal": True},
    "general": {**GENERAL, "is_causal": True},
    "output-norms": {**GENERAL, "output_norms": True, "attention_scale": 0.2, "softcap": 3.0, "layers": UNLIKE},
    "full-norms": {"query_key_norm": "full", "positions": "alibi", "gated": True},
    "experts": {"layers": (LayerConfig(), LayerConfig(experts=(5, 2)), LayerConfig((3, None), experts=(5, 1)))},
    "convolution": {"layers": (LayerConfig(convolution=Convolution(3)), LayerConfig(), LayerConfig((3, None)))},
    "rms-post": {"norm": "rms", "head_size": 40, "output_norms": True},
    "disentangled": {"disentangled": ("c2p", "p2c"), "disentangled_span": 8, "disentangled_log": True, "attention_scale": 0.2},
    "disentangled-near": {"disentangled": ("c2p",), "disentangled_span": 3, "positions": "learned"},
    "disentangled-window": {
        "disentangled": ("p2c",), "disentangled_span": 200, "window": 20, "global_every": 2, "is_causal": True, "softcap": 4.0,
    },
}  # fmt: skip
ABSENT = ("layers.0.attention.layer_norm.", "layers.1.feed_forward.layer_norm.")


def make(kind: str, c: int = 32, heads: int = 2, ff: int = 64) -> tuple[Encoder, dict[str, Any]]:
    """Return an encoder with weights large enough to matter, and the parameters; optional norms are left out."""
    config = EncoderConfig(LAYERS, heads, c, ff, vocab_size=V, type_vocab_size=2, layer_norm_eps=1e-5, **KINDS[kind])
    parameters = {
        name: value * (8 if value.ndim == 2 else 1) + 0.1 * normal(*value.shape, seed=len(name))
        for name, value in random_parameters(config, 1).items()
        if not (config.norm_first and name.startswith(ABSENT))
    }
    return Encoder(config, parameters=parameters), parameters


def truth_and_yardsticks(model: Encoder, parameters: dict[str, Any], x: Any, mask: Any) -> list[Any]:
    return encoder_truth_and_yardsticks(parameters, x, mask, **model.config.reference_options())


def batch(b: int, t: int) -> tuple[Any, Any]:
    rng = np.random.default_rng([b, t])
    lengths = rng.integers(1, t + 1, b)
    lengths[0] = t
    return rng.integers(0, V, (b, t)), np.arange(t) < lengths[:, None]


def force(monkeypatch: pytest.MonkeyPatch, schedule: str, threads: int = 2) -> None:
    balanced, rows = SCHEDULES[schedule]
    monkeypatch.setattr(forward, "thread_count", lambda: threads)
    monkeypatch.setattr(forward, "_FLOP_PER_US", 0.01)
    monkeypatch.setattr(forward, "_BALANCED", balanced)
    monkeypatch.setattr(forward, "_ROWS_PER_THREAD", rows)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("c, heads, ff", [(32, 2, 64), (30, 5, 120), (64, 1, 65), (48, 3, 512)])
def test_matches_reference(kind: str, c: int, heads: int, ff: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, parameters = make(kind, c, heads, ff)
    for b, t in ((1, 1), (1, 17), (4, 40), (3, 150)):
        ids, mask = batch(b, t)
        expected = truth_and_yardsticks(model, parameters, ids, mask)
        for schedule in SCHEDULES:
            force(monkeypatch, schedule)
            found = model(ids, mask)
            assert_matches_reference(found, *expected)
            assert not found[~mask].any()


@pytest.mark.parametrize(
    "kind", ["modern", "everything", "relative", "window", "output-norms", "disentangled", "disentangled-window"]
)
def test_a_sequence_of_several_blocks(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sequences longer than a block of keys and a block of rows."""
    model, parameters = make(kind)
    ids, mask = batch(2, 600 if kind in ("modern", "everything") else 300)
    expected = truth_and_yardsticks(model, parameters, ids, mask)
    for schedule in SCHEDULES:
        force(monkeypatch, schedule)
        assert_matches_reference(model(ids, mask), *expected)


@pytest.mark.parametrize("kind", KINDS)
def test_bits_do_not_depend_on_batch_order_threads_or_schedule(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = make(kind, 64, 2, 96)
    rng = np.random.default_rng(5)
    lengths = rng.integers(0, 60, 11)
    lengths[3], lengths[7] = 290, 1
    texts = [rng.integers(0, V, n) for n in lengths]
    force(monkeypatch, "chunks", 1)
    alone = [model.forward_packed(text, [0, len(text)]) for text in texts]
    for schedule, threads in itertools.product(SCHEDULES, (2, 3)):
        force(monkeypatch, schedule, threads)
        for order in (np.arange(len(texts)), rng.permutation(len(texts))):
            offsets = np.concatenate([[0], np.cumsum(lengths[order])])
            rows = model.forward_packed(np.concatenate([texts[i] for i in order]), offsets)
            for place, i in enumerate(order):
                assert np.array_equal(rows[offsets[place] : offsets[place + 1]], alone[i])


@pytest.mark.parametrize("window", [0, 1, 3, 15, 16, 31, 40, 41])
def test_a_token_sees_as_far_as_the_window(window: int) -> None:
    """In one local layer, a change of token s changes token t if and only if |t - s| <= window."""
    config = EncoderConfig(2, 2, 32, 64, vocab_size=V, window=window, global_every=2)
    parameters = {n: value * (4 if value.ndim == 2 else 1) for n, value in random_parameters(config, 0).items()}
    # Layer 0 is global: a zero output weight keeps its attention from mixing tokens.
    parameters["layers.0.attention.output.weight"] = np.zeros((32, 32), np.float32)
    model = Encoder(config, parameters=parameters)
    ids = np.arange(42) % V
    plain = model.forward_packed(ids, [0, 42])
    for s in (0, 20, 41):
        changed = ids.copy()
        changed[s] = 49
        differs = (model.forward_packed(changed, [0, 42]) != plain).any(axis=1)
        assert np.array_equal(differs, np.abs(np.arange(42) - s) <= window)


def test_vectors_in_place_of_narrow_tokens() -> None:
    model, parameters = make("narrow-tables")
    x = normal(2, 9, 10)
    assert_matches_reference(model(x), *truth_and_yardsticks(model, parameters, x, None))
    with pytest.raises(ValueError, match=r"\(B, T, 10\)"):
        model(normal(2, 9, 32))
    with pytest.raises(ValueError, match=r"\(9, 10\)"):
        model.forward_packed(normal(9, 32), [0, 9])


def test_layers_that_share_their_arrays_are_packed_once() -> None:
    model, parameters = make("gated")
    first = {name: value for name, value in parameters.items() if name.startswith("layers.0.")}
    shared = parameters | {name.replace(".0.", f".{i}."): value for i in range(LAYERS) for name, value in first.items()}
    copied = {name: value.copy() for name, value in shared.items()}
    one, many = Encoder(model.config, parameters=shared), Encoder(model.config, parameters=copied)
    assert one._packed.matrices.size < 0.5 * many._packed.matrices.size
    assert (one._packed.layout == one._packed.layout[0]).all()
    assert one.parameters_count < many.parameters_count
    ids, mask = batch(3, 20)
    assert np.array_equal(one(ids, mask), many(ids, mask))


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_of_nothing_is_inference(kind: str) -> None:
    """Dropout near 0 drops nothing: the op-by-op path of training must agree with the fused forward."""
    plain, parameters = make(kind)
    config = EncoderConfig(LAYERS, 2, 32, 64, dropout=1e-9, vocab_size=V, type_vocab_size=2, layer_norm_eps=1e-5, **KINDS[kind])
    ids, mask = batch(3, 30)
    found = Encoder(config, parameters=parameters)(ids, mask, training=True, rng=np.random.default_rng(0))
    assert_matches_reference(found, *truth_and_yardsticks(plain, parameters, ids, mask))


def test_tables_grow_without_a_change() -> None:
    """Table entries do not depend on the length that the table was made for, nor on the order of calls."""
    for kind in ("rotary", "relative-few", "wide-tables"):
        ids = np.arange(300) % V
        long_first, short_first = make(kind)[0], make(kind)[0]
        whole = long_first.forward_packed(ids, [0, 300])
        part = short_first.forward_packed(ids[:20], [0, 20])
        assert np.array_equal(long_first.forward_packed(ids[:20], [0, 20]), part)
        assert np.array_equal(short_first.forward_packed(ids, [0, 300]), whole)
        assert np.array_equal(pickle.loads(pickle.dumps(short_first)).forward_packed(ids, [0, 300]), whole)


def test_tables_grow_under_threads() -> None:
    model = make("rotary")[0]
    texts = [np.arange(n) % V for n in range(100, 1100, 50)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda text: model.forward_packed(text, [0, len(text)], pooling="mean"), texts))
    for text, vector in zip(texts, found, strict=True):
        assert np.array_equal(model.forward_packed(text, [0, len(text)], pooling="mean"), vector)


@pytest.mark.parametrize("buckets, distance", [(4, 2), (4, 128), (8, 20), (32, 128), (64, 2048), (320, 800)])
def test_relative_biases_by_their_definition(buckets: int, distance: int) -> None:
    weight = normal(buckets, 3)
    for tokens in (1, 2, 2048):
        found = tables.relative_biases(weight, distance, tokens).reshape(3, -1)
        apart = np.arange(1 - tokens, tokens)
        assert np.array_equal(found, weight[reference.relative_position_bucket(apart, buckets, distance)].T)


def test_buckets_by_hand() -> None:
    """Eight buckets a side: distances 0 to 3 have one each, then 4 to 5, 6 to 7, 8 to 11, and 12 and more share one."""
    apart = np.array([0, -1, -3, -4, -5, -6, -7, -8, -11, -12, -16, -1000, 1, 3, 4, 12, 1000])
    expected = [0, 1, 3, 4, 4, 5, 5, 6, 6, 7, 7, 7, 9, 11, 12, 15, 15]
    assert reference.relative_position_bucket(apart, 16, 16).tolist() == expected


@pytest.mark.parametrize("buckets, distance", [(8, 20), (32, 128), (64, 256), (320, 800)])
def test_buckets_are_those_of_trained_models(buckets: int, distance: int) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from transformers.models.mpnet.modeling_mpnet import MPNetEncoder
    from transformers.models.t5.modeling_t5 import T5Attention

    apart = np.arange(-2048, 2049)
    ours = reference.relative_position_bucket(apart, buckets, distance)
    theirs = MPNetEncoder.relative_position_bucket(torch.tensor(apart), buckets, distance)
    assert np.array_equal(ours, theirs.numpy())
    assert np.array_equal(ours, T5Attention._relative_position_bucket(torch.tensor(apart), True, buckets, distance).numpy())


def test_flop_counts_what_is_on() -> None:
    lengths = np.array([10, 300])
    count = {kind: forward.flop(make(kind)[0].config, lengths) for kind in KINDS}
    tokens = 310
    assert count["gated"] - count["rotary"] == LAYERS * 2 * 32 * 64 * tokens
    assert count["narrow-tables"] - count["rotary"] == 2 * 32 * 10 * tokens
    convolved = make("convolution")[0].config
    plain = dataclasses.replace(convolved, layers=[layer._replace(convolution=None) for layer in convolved.layers or ()])
    assert count["convolution"] - forward.flop(plain, lengths) == 3 * 2 * 32 * 32 * tokens
    assert count["rotary"] - count["window"] == 4 * 32 * (300 * 300 - 300 * 11)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"hidden_dim": 30, "num_heads": 2, "positions": "rotary"}, "even size, got 15"),
        ({"rotary_theta": 0}, "rotary_theta must be a positive number, got 0"),
        ({"head_size": 0}, "head_size must be a whole number of at least 1, got 0"),
        ({"num_key_value_heads": 3}, "num_key_value_heads must divide num_heads, got 3 for 2 heads"),
        ({"norm": "batch"}, "norm must be"),
        ({"query_key_norm": True}, "query_key_norm must be"),
        ({"output_norms": 1}, "output_norms must be True or False, got 1"),
        ({"attention_scale": 0.0}, "attention_scale must be positive, got 0.0"),
        ({"softcap": float("nan")}, "softcap must be a finite number, got nan"),
        ({"positions": "alibi", "relative_buckets": 8}, "exclude each other"),
        ({"disentangled": ("p2p",), "disentangled_span": 4}, "disentangled must hold each of c2p, p2c at most once"),
        ({"disentangled": ("c2p", "c2p"), "disentangled_span": 4}, "disentangled must hold each of c2p, p2c at most once"),
        ({"disentangled": ("c2p",)}, "disentangled_span must be positive with disentangled terms and only then, got 0"),
        ({"disentangled_span": 4}, "disentangled_span must be positive with disentangled terms and only then, got 4"),
        ({"disentangled": ("c2p",), "disentangled_span": 4, "num_key_value_heads": 1}, "as many key heads as heads"),
        (
            {"disentangled": ("c2p",), "disentangled_span": 400, "disentangled_log": True},
            "relative_max_distance greater",
        ),
        ({"layers": []}, "layers must have an entry for each of the 1 layers, got 0"),
        ({"layers": [((-1, None), None)]}, "layers must have windows .left, right. of at least 0"),
        ({"layers": [((1, 1), ((1.0,), 1.0))]}, "layers must have a rotary where positions is 'rotary', and only then"),
        ({"layers": [((1, 1), None)], "positions": "rotary"}, "layers must have a rotary where positions is 'rotary'"),
        ({"layers": [((1, 1), ((1.0,) * 99, 1.0))], "positions": "rotary"}, "layers must turn 2 to 16 channels of a head, got 198"),
        ({"layers": [((1, 1), ((np.inf,), 1.0))], "positions": "rotary"}, "layers must have finite rotary numbers"),
        ({"rotary_theta": None}, "rotary_theta must be a positive number, got None"),
        ({"local_rotary_theta": -1.0}, "local_rotary_theta"),
        ({"embedding_dim": 0}, "embedding_dim"),
        ({"window": -1}, "window must be a whole number of at least 0, got -1"),
        ({"global_every": 0}, "global_every"),
        ({"relative_buckets": 2}, "relative_buckets must be 0 or an even number of at least 4, got 2"),
        ({"relative_buckets": 33}, "relative_buckets"),
        ({"relative_buckets": 32, "relative_max_distance": 8}, "relative_max_distance must be greater than the 8"),
        ({"gated": 1}, "gated must be True or False, got 1"),
        ({"padding_idx": 1}, "padding_idx 1 acts on learned positions only: positions is None"),
        ({"window": 2**62}, f"window must be at most {2**62 - 1}, got {2**62}"),
        ({"max_positions": 10**400}, "max_positions must be at most"),
        ({"relative_buckets": 32, "relative_max_distance": 10**400}, "relative_max_distance must be at most"),
        ({"rotary_theta": 10**400}, "rotary_theta must be a positive number, got 1000"),
        ({"rotary_theta": 5e-324}, "rotary_theta must be at least 1e-300, got 5e-324"),
        ({"local_rotary_theta": "10000"}, "local_rotary_theta must be a positive number, got '10000'"),
        ({"layer_norm_eps": 10**400}, "layer_norm_eps must be a finite number, got 1000"),
        ({"layer_norm_eps": np.inf}, "layer_norm_eps must be a finite number, got inf"),
        ({"layer_norm_eps": Decimal("1e-5")}, "layer_norm_eps must be a finite number"),
        ({"layer_norm_eps": np.array([1e-5])}, "layer_norm_eps must be a finite number"),
        ({"dropout": "a"}, "dropout must be a finite number, got 'a'"),
    ],
)
def test_bad_config(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        EncoderConfig(**({"num_layers": 1, "num_heads": 2, "hidden_dim": 32, "ff_dim": 64} | options))


@pytest.mark.parametrize(
    "options",
    [
        {"window": 2**62 - 1, "global_every": 2},
        {"positions": "rotary", "rotary_theta": 2**64},
        {"positions": "rotary", "rotary_theta": 1e-300, "hidden_dim": 128},
        {"positions": "rotary", "rotary_theta": 1e308, "local_rotary_theta": np.float32(100), "window": 1, "global_every": 2},
        {"layer_norm_eps": 1},
        {"layer_norm_eps": np.float32(1e-5), "dropout": np.float32(0.5)},
        {"layer_norm_eps": Fraction(1, 1000)},
        {"relative_buckets": 32, "relative_max_distance": 2**62 - 1},
    ],
)
def test_any_number_of_a_configuration(options: dict[str, Any]) -> None:
    config = EncoderConfig(**({"num_layers": 2, "num_heads": 2, "hidden_dim": 32, "ff_dim": 64, "vocab_size": V} | options))
    assert all(type(getattr(config, name)) is float for name in ("dropout", "layer_norm_eps", "rotary_theta"))
    for training in (False, True):
        assert np.isfinite(Encoder(config)(np.ones((1, 300), int), training=training, rng=np.random.default_rng(0))).all()


@pytest.mark.parametrize(
    "kind, change, words",
    [
        ("gated", {"layers.1.feed_forward.gate.weight": None}, "lack layers.1.feed_forward.gate.weight"),
        ("gated", {"layers.1.feed_forward.gate.bias": np.zeros(3)}, r"gate.bias must have shape \(64,\)"),
        ("relative", {"relative_bias.weight": np.zeros((2, 32))}, r"relative_bias.weight must have shape \(32, 2\)"),
        ("narrow-tables", {"embeddings.projection.weight": None}, r"lack embeddings.projection.weight, of shape \(32, 10\)"),
        ("narrow-tables", {"embeddings.layer_norm.weight": np.zeros(32)}, r"embeddings.layer_norm.weight must have shape \(10,\)"),
        ("rotary", {"layers.0.attention.layer_norm.weight": None}, "lack layers.0.attention.layer_norm.weight"),
        ("rotary", {"relative_bias.weight": np.zeros((32, 2))}, "relative_buckets must be set"),
        ("rotary", {"layers.0.feed_forward.gate.weight": np.zeros((64, 32))}, "gated must be set"),
        ("rotary", {"embeddings.projection.weight": np.zeros((32, 10))}, "embedding_dim must be set"),
    ],
)
def test_bad_parameters(kind: str, change: dict[str, Any], words: str) -> None:
    model, parameters = make(kind)
    changed = {name: value for name, value in (parameters | change).items() if value is not None}
    with pytest.raises(ValueError, match=words):
        Encoder(model.config, parameters=changed)


@pytest.mark.parametrize(
    "value, words",
    [
        ([[1.0]], "list"),
        (None, "NoneType"),
        (1, "int"),
        (np.ones((V, 32), int), "int64"),
        (np.ones((V, 32), np.complex64), "complex64"),
        (np.full((V, 32), "1"), "<U1"),
        (np.ones((V, 32), object), "object"),
    ],
)
@pytest.mark.parametrize("name", ["embeddings.token.weight", "layers.0.attention.query.bias", "unknown"])
def test_parameters_are_arrays_of_floats(name: str, value: Any, words: str) -> None:
    model, parameters = make("rotary")
    with pytest.raises(TypeError, match=f"parameter {name} must be an array of floats, got {words}"):
        Encoder(model.config, parameters={**parameters, name: value})


def test_parameters_are_a_mapping() -> None:
    parameters: Any = [1]
    with pytest.raises(TypeError, match="parameters must be a mapping of names to arrays, got list"):
        Encoder(make("rotary")[0].config, parameters=parameters)
