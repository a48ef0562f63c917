"""Reference against values computed by hand, `math.erf`, and equivalent formulas."""

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fastattn import reference
from tests.support.cases import close, f64, normal

Array = NDArray[Any]
INF = float("inf")


def attend(query: Any, key: Any, value: Any, *args: Any, **options: Any) -> Array:
    arrays = (np.asarray(x, dtype=np.float64) for x in (query, key, value))
    return reference.scaled_dot_product_attention(*arrays, *args, **options)


class TestSoftmax:
    def test_by_hand(self) -> None:
        close(reference.softmax(np.log([1.0, 2.0, 5.0])), [1 / 8, 1 / 4, 5 / 8])
        close(reference.softmax(np.log([[1.0, 3.0], [3.0, 1.0]]), axis=0), [[1 / 4, 3 / 4], [3 / 4, 1 / 4]])

    def test_a_shift_changes_nothing_and_large_scores_do_not_overflow(self) -> None:
        x = np.array([1.0, 2.0, 4.0])
        close(reference.softmax(x + 1024), reference.softmax(x))
        close(reference.softmax(np.array([1e4, 0.0, -1e4])), [1, 0, 0])

    def test_infinities(self) -> None:
        close(reference.softmax(np.array([-INF, 0.0, 0.0])), [0, 0.5, 0.5])
        assert np.isnan(reference.softmax(np.array([-INF, -INF]))).all()
        assert np.isnan(reference.softmax(np.array([INF, 0.0]))).all()


class TestLayerNorm:
    def test_by_hand(self) -> None:
        x = np.array([1.0, 3.0])
        close(reference.layer_norm(x, eps=0.0), [-1, 1])
        close(reference.layer_norm(x, eps=3.0), [-0.5, 0.5])
        weight, bias = np.array([2.0, 10.0]), np.array([0.25, 0.5])
        close(reference.layer_norm(x, weight, bias, eps=0.0), [-1.75, 10.5])
        close(reference.layer_norm(x, bias=bias, residual=np.array([0.0, 4.0]), eps=0.0), [-0.75, 1.5])

    def test_weight_sets_the_axes(self) -> None:
        x, weight = f64(3, 4, 5), f64(4, 5, seed=1)
        expected = reference.layer_norm(x.reshape(3, 20), weight.reshape(20)).reshape(3, 4, 5)
        close(reference.layer_norm(x, weight), expected)


class TestRmsNorm:
    def test_by_hand(self) -> None:
        x = np.array([1.0, 7.0])  # mean of the squares 25
        close(reference.rms_norm(x, eps=0.0), [0.2, 1.4])
        close(reference.rms_norm(x, np.array([5.0, 10.0]), eps=0.0), [1, 14])
        close(reference.rms_norm(x, eps=75.0), [0.1, 0.7])
        close(reference.rms_norm(x, residual=np.array([4.0, -2.0]), eps=0.0), [1, 1])

    def test_weight_sets_the_axes(self) -> None:
        x, weight = f64(3, 4, 5), f64(4, 5, seed=1)
        expected = reference.rms_norm(x.reshape(3, 20), weight.reshape(20)).reshape(3, 4, 5)
        close(reference.rms_norm(x, weight), expected)

    @pytest.mark.parametrize(("dtype", "eps"), [(np.float16, 2.0**-23), (np.float32, 2.0**-23), (np.float64, 2.0**-52)])
    def test_eps_of_the_dtype_that_is_computed_in(self, dtype: type, eps: float) -> None:
        x = np.full(3, math.sqrt(eps), dtype)
        np.testing.assert_array_equal(reference.rms_norm(x), reference.rms_norm(x, eps=eps))
        np.testing.assert_allclose(reference.rms_norm(x), math.sqrt(0.5), rtol=1e-3)

    def test_of_infinity(self) -> None:
        np.testing.assert_array_equal(reference.rms_norm(np.array([1.0, INF])), [0, np.nan])


class TestGelu:
    def test_by_hand(self) -> None:
        close(reference.gelu(np.array([0.0, 1.0, -1.0])), [0, 0.8413447460685429, -0.15865525393145707])
        inner = math.sqrt(2 / math.pi) * (2 + 0.044715 * 8)
        close(reference.gelu(np.array([2.0]), approximate="tanh"), [1 + math.tanh(inner)])

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_erf_is_the_one_of_math(self, dtype: type) -> None:
        x = np.linspace(-5, 5, 101, dtype=dtype)
        expected = [float(v) / 2 * (1 + math.erf(float(v) / math.sqrt(2))) for v in x]
        np.testing.assert_allclose(reference.gelu(x), expected, rtol=0, atol=5 * 2 * np.finfo(dtype).eps)

    def test_unknown_form(self) -> None:
        with pytest.raises(ValueError, match="approximate"):
            reference.gelu(np.zeros(1), approximate="erf")


class TestLinear:
    def test_by_hand(self) -> None:
        x, weight, bias = (
            np.array([[1.0, 2.0]]),
            np.array([[3.0, 4.0], [0.0, -1.0], [1.0, 0.0]]),
            np.array([0.5, 0, -3]),
        )
        close(reference.linear(x, weight, bias), [[11.5, -2, -2]])
        close(reference.linear(x, weight), [[11, -2, 1]])
        close(reference.linear(x, weight, bias, activation="relu"), [[11.5, 0, 0]])

    def test_activations(self) -> None:
        x, eye = np.array([-1.0, 0.0, 2.0]), np.eye(3)
        close(reference.linear(x, eye, activation="silu"), [v / (1 + math.exp(-v)) for v in x])
        close(reference.linear(x, eye, activation="gelu"), reference.gelu(x))
        close(reference.linear(x, eye, activation="gelu_tanh"), reference.gelu(x, approximate="tanh"))
        with pytest.raises(ValueError, match="swish"):
            reference.linear(x, eye, activation="swish")


class TestAttention:
    # Scores are ln 3 on the diagonal and 0 elsewhere: one-hot queries times ln 3, scale 1.
    QUERY, KEY, VALUE = np.eye(2) * math.log(3), np.eye(2), np.array([[4.0, 0.0], [0.0, 8.0]])

    def test_by_hand(self) -> None:
        close(attend(self.QUERY, self.KEY, self.VALUE, scale=1.0), [[3, 2], [1, 6]])
        close(reference.attention_weights(self.QUERY, self.KEY, scale=1.0), [[0.75, 0.25], [0.25, 0.75]])
        close(attend(self.QUERY * math.sqrt(2), self.KEY, self.VALUE), [[3, 2], [1, 6]])

    def test_masks_by_hand(self) -> None:
        bool_mask = np.array([[True, False], [True, True]])
        expected = [[4, 0], [1, 6]]
        close(attend(self.QUERY, self.KEY, self.VALUE, bool_mask, scale=1.0), expected)
        close(attend(self.QUERY, self.KEY, self.VALUE, np.where(bool_mask, 0, -INF), scale=1.0), expected)
        close(attend(self.QUERY, self.KEY, self.VALUE, is_causal=True, scale=1.0), expected)
        added = np.array([[math.log(1 / 3), 0.0]])  # query 0: scores 0, 0; query 1: -ln 3, ln 3
        close(attend(self.QUERY, self.KEY, self.VALUE, added, scale=1.0), [[2, 4], [0.4, 7.2]])

    def test_softcap_by_hand(self) -> None:
        score = 2 * math.tanh(math.log(3) / 2)  # = 1
        first = math.exp(score) / (math.exp(score) + 1)
        close(attend(self.QUERY, self.KEY, self.VALUE, scale=1.0, softcap=2.0)[0], [4 * first, 8 * (1 - first)])
        masked = np.array([[False, True], [True, True]])
        close(attend(self.QUERY, self.KEY, self.VALUE, masked, scale=1.0, softcap=2.0)[0], [0, 8])

    @pytest.mark.parametrize(("queries", "keys"), [(3, 5), (5, 3), (4, 4)])
    def test_causal_and_windows_are_masks(self, queries: int, keys: int) -> None:
        query, key, value = f64(2, queries, 3), f64(2, keys, 3, seed=1), f64(2, keys, 4, seed=2)
        causal = [[s <= t for s in range(keys)] for t in range(queries)]
        close(attend(query, key, value, is_causal=True), attend(query, key, value, np.array(causal)))
        for left, right in ((0, 0), (1, 2), (None, 1), (2, None)):
            band = [
                [(left is None or s >= t - left) and (right is None or s <= t + right) for s in range(keys)] for t in range(queries)
            ]
            close(attend(query, key, value, window=(left, right)), attend(query, key, value, np.array(band)))
            close(
                attend(query, key, value, window=(left, right), is_causal=True),
                attend(query, key, value, np.array(band) & causal),
            )

    def test_grouped_heads(self) -> None:
        query, key, value = f64(2, 6, 3, 4), f64(2, 2, 5, 4, seed=1), f64(2, 2, 5, 3, seed=2)
        result = attend(query, key, value, enable_gqa=True)
        for head in range(6):
            close(result[:, head], attend(query[:, head], key[:, head // 3], value[:, head // 3]))

    def test_a_query_without_keys_gives_zeros(self) -> None:
        query, key, value = f64(2, 3), f64(4, 3, seed=1), f64(4, 3, seed=2)
        mask = np.array([[False], [True]])
        result = attend(query, key, value, mask)
        close(result[0], [0, 0, 0])
        close(result[1], attend(query, key, value)[1])
        close(attend(query, key[:0], value[:0]), np.zeros((2, 3)))

    @pytest.mark.parametrize("bad", [np.nan, INF, -INF], ids=str)
    def test_a_key_that_is_never_seen_is_absent(self, bad: float) -> None:
        query, key, value = f64(2, 3, 3), f64(2, 4, 3, seed=1), f64(2, 4, 3, seed=2)
        dirty_key, dirty_value = key.copy(), value.copy()
        dirty_key[0, 2:] = dirty_value[0, 2:] = bad
        mask = np.ones((2, 1, 4), bool)
        mask[0, :, 2:] = False
        result = attend(query, dirty_key, dirty_value, mask)
        close(result[0], attend(query[0], key[0, :2], value[0, :2]))
        close(result[1], attend(query[1], key[1], value[1]))
        close(attend(query, dirty_key, dirty_value, np.where(mask, 0, -INF)), result)

    def test_a_masked_nan_score_has_no_effect_on_that_query(self) -> None:
        query, key, value = f64(2, 3), f64(3, 3, seed=1), f64(3, 3, seed=2)
        key[1] = np.nan
        result = attend(query, key, value, np.array([[True, False, True], [True, True, True]]))
        close(result[0], attend(query, key[[0, 2]], value[[0, 2]])[0])
        assert np.isnan(result[1]).all()

    def test_a_key_is_seen_where_mask_causal_and_window_allow_it(self) -> None:
        query, key, value, mask = f64(4, 3), f64(5, 3, seed=1), f64(5, 3, seed=2), np.ones((4, 5), bool)
        mask[0] = mask[2, 1] = False
        allowed = [[0, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 1, 0]]
        for given, alone in ((mask, np.array(allowed, bool)), (np.where(mask, 0.5, -INF), np.where(allowed, 0.5, -INF))):
            close(attend(query, key, value, given, is_causal=True, window=(1, 2)), attend(query, key, value, alone))

    def test_a_mask_of_another_shape(self) -> None:
        with pytest.raises(ValueError, match="broadcast"):
            attend(self.QUERY, self.KEY, self.VALUE, np.ones((3, 2), bool))


class TestSpladePooling:
    # Logits 1, -2, 3 and 5, 0, -1 of three tokens for two words.
    X, WEIGHT, BIAS = np.array([[1.0, 5.0], [-2.0, 0.0], [3.0, -1.0]]), np.eye(2), np.zeros(2)

    def test_by_hand(self) -> None:
        pooled = reference.splade_pooling(self.X, self.WEIGHT, self.BIAS, [0, 2, 2, 3])
        close(pooled, np.log([[2, 6], [1, 1], [4, 1]]))
        summed = reference.splade_pooling(self.X, self.WEIGHT, self.BIAS, pooling_strategy="sum")
        close(summed, np.log([[2 * 4, 6]]))
        twice = reference.splade_pooling(self.X, self.WEIGHT, np.array([1.0, 0.0]), activation_function="log1p_relu")
        close(twice, np.log(1 + np.log([[5, 6]])))

    def test_names(self) -> None:
        for options in ({"pooling_strategy": "mean"}, {"activation_function": "gelu"}):
            with pytest.raises(ValueError, match=f"{next(iter(options))} must be .* got '{next(iter(options.values()))}'"):
                reference.splade_pooling(self.X, self.WEIGHT, **options)


class TestPrecision:
    OPS = (
        lambda x: reference.softmax(x),
        lambda x: reference.layer_norm(x, x[0], x[1], residual=x),
        lambda x: reference.rms_norm(x, x[0], residual=x, eps=1e-6),
        lambda x: reference.gelu(x),
        lambda x: reference.gelu(x, approximate="tanh"),
        lambda x: reference.linear(x, x, x[:, 0], activation="silu"),
        lambda x: reference.splade_pooling(x, x, x[:, 0], [0, 3, 8], pooling_strategy="sum"),
        lambda x: reference.scaled_dot_product_attention(x, x, x, x, softcap=3.0),
        lambda x: reference.maxsim(x, x[::-1], np.array([0, 3, 8])),
        lambda x: reference.embedding_bag(np.arange(8).reshape(2, 4), x, per_sample_weights=x[:2, :4]),
    )

    NAMES = ("softmax", "layer_norm", "rms_norm", "gelu", "gelu-tanh", "linear", "splade", "attention", "maxsim", "bag")

    @pytest.mark.parametrize("op", OPS, ids=NAMES)
    def test_each_dtype_is_kept_and_as_exact_as_it_should_be(self, op: Any) -> None:
        x = normal(8, 8, dtype=np.float16)
        truth = op(x.astype(np.float64))
        assert truth.dtype == np.float64
        for dtype in (np.float32, np.float16):
            result = op(x.astype(dtype))
            assert result.dtype == dtype
            error = np.abs(result - truth).max()
            assert 0 < error < 20 * np.finfo(dtype).eps * np.abs(truth).max()

    def test_float16_is_rounded_once(self) -> None:
        """A sum of ones in float16 would stop at 2048, and a product of 4097 terms would lose its last."""
        ones = np.ones((1, 4097), np.float16)
        assert reference.linear(ones, ones, np.array([-4096], np.float16)).tolist() == [[1]]


def test_maxsim() -> None:
    query = np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    documents = np.array([[3.0, -1.0], [1.0, 4.0], [-5.0, -6.0]])
    offsets = np.array([0, 2, 2, 3])
    # Maxima of the first document: 3, 8, 5; of the last: -5, -12, -11.
    close(reference.maxsim(query, documents, offsets)[[0, 2]], [16, -28])
    assert reference.maxsim(query, documents, offsets)[1] == -np.inf
    found = reference.maxsim(query, documents, offsets, np.array([0, 1, 1, 3]), length_normalize=True)
    close(found[:, [0, 2]], [[3, -5], [0, 0], [6.5, -11.5]])


def test_sinusoidal_positions() -> None:
    close(
        reference.sinusoidal_positions(3, 4),
        [[f(t / rate) for rate in (1, 100) for f in (math.sin, math.cos)] for t in range(3)],
    )
    close(reference.sinusoidal_positions(2, 3)[1], [math.sin(1), math.cos(1), math.sin(10000 ** (-2 / 3))])
    assert reference.sinusoidal_positions(0, 4).shape == (0, 4)


def test_embedding_bag() -> None:
    table = np.array([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]])
    ids, starts = np.array([0, 2, 1, 1]), np.array([0, 2, 2])
    close(reference.embedding_bag(ids, table, starts), [[2.5, 25], [0, 0], [2, 20]])
    factors = np.array([2.0, 1.0, 0.0, 3.0])
    close(reference.embedding_bag(ids, table, starts, per_sample_weights=factors, mode="sum"), [[6, 60], [0, 0], [6, 60]])
    last = np.array([0, 1, 4])
    close(reference.embedding_bag(ids, table, last, include_last_offset=True), [[1, 10], [8 / 3, 80 / 3]])
    close(reference.embedding_bag(ids.reshape(2, 2), table), [[2.5, 25], [2, 20]])
    with pytest.raises(ValueError, match="mode must be"):
        reference.embedding_bag(ids, table, starts, mode="max")


def test_pooling() -> None:
    hidden = np.array([[1.0, 8.0], [2.0, 4.0], [6.0, 0.0], [3.0, 0.0]])
    for mode, expected in {
        "mean": [3, 3],
        "cls": [1, 8],
        "max": [6, 8],
        "mean_sqrt_len_tokens": [6, 6],
        "weightedmean": [3.5, 1.6],
        "lasttoken": [3, 0],
    }.items():
        close(reference.pooling(hidden, mode), expected)
        close(reference.pooling(hidden[:1], mode), hidden[0])
        close(reference.pooling(hidden[:0], mode), [0, 0])
    with pytest.raises(ValueError, match="median"):
        reference.pooling(hidden, "median")
