"""Calibration of int8 at load: factors that smooth the products' inputs, and the products that int8 would harm too much.

`fastattn.reference` computes random token ids in float64 and with products in int8, so nobody has to bring texts.  It runs once, at
load, and defines the encoder, so no second forward can differ from it.  Attention is not rounded there: the choice is the same on
every CPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastattn import reference
from fastattn.config import EncoderConfig
from fastattn.reference.encoder import position_bias
from fastattn.reference.layer import normed
from fastattn.reference.ops import activate
from fastattn.reference.precision import INT8_BLOCK, Linear

__all__ = ["PRODUCTS", "Calibration", "Product", "calibrate"]

Array = NDArray[Any]

# Inputs of a layer's products, and the parameters that multiply each.
PRODUCTS = {
    "qkv": ("attention.query", "attention.key", "attention.value"),
    "out": ("attention.output",),
    "up": ("feed_forward.gate", "feed_forward.input", "feed_forward.experts.input"),
    "down": ("feed_forward.output", "feed_forward.experts.output"),
}
# Outputs of norms: channels that are large on random ids are large on texts.  Of other inputs they depend on the text.
_SMOOTHED = ("qkv", "up")
# Most that int8 may lose: half the squared relative error of the hidden states, about twice 1 - cosine of mean embeddings.
_BUDGET = 2e-3
# Several sequences: an error that turns attention to another token is rare, and large.
_SEQUENCES, _TOKENS = 4, 16
# One output channel of so many tells whether smoothing helps.
_SAMPLED = 8
# Bounds of a factor; a channel small on random ids may be larger in a text.
_LEAST, _MOST = 1 / 64, 4.0
# Factors are multiples of 1/32 of a power of 2: the rounding of another CPU's matrix products hardly ever changes them.
_STEPS = 32
# NumPy has no fast erf.
_FAST = {"gelu": "gelu_tanh"}


class Product(NamedTuple):
    """How a layer computes the products of an input: `smooth` multiplies the input in int8."""

    smooth: Array
    int8: bool


class Calibration(NamedTuple):
    """The products of each layer, under the names of `PRODUCTS`, and what they lose on random ids."""

    layers: list[dict[str, Product]]
    loss: float


def calibrate(config: EncoderConfig, parameters: Mapping[str, Array]) -> Calibration:
    """Choose the smoothing factors of every input of the layers' products, and int8 or not for its products."""
    with np.errstate(all="ignore"):
        trial = _Trial(config, parameters)
        kept, loss = _plan(trial)
        layers = [{kind: Product(trial.smooth[key], key not in kept) for kind, key in keys.items()} for keys in trial.keys]
    return Calibration(layers, loss)


# The ids of the matrices that multiply an input: layers that share their matrices share their plan.
_Key: TypeAlias = tuple[int, ...]


class _Trial:
    """Random sequences, in float64 and in int8."""

    def __init__(self, config: EncoderConfig, parameters: Mapping[str, Array]) -> None:
        self.config, self.parameters = config, parameters
        self.keys: list[dict[str, _Key]] = [{} for _ in range(config.num_layers)]
        self.matrices: dict[_Key, list[Array]] = {}
        self._key_of: dict[str, _Key] = {}  # by the name of the product's parameters
        for layer, keys in enumerate(self.keys):
            for kind, stems in PRODUCTS.items():
                prefixes = [f"layers.{layer}.{stem}" for stem in stems]
                names = [name for name in prefixes if f"{name}.weight" in parameters]  # without a gate, say
                matrices = [parameters[f"{name}.weight"] for name in names]
                keys[kind] = key = tuple(map(id, matrices))
                self.matrices[key] = matrices
                self._key_of.update(dict.fromkeys(names, key))
        inputs: dict[_Key, list[Array]] = {key: [] for keys in self.keys for kind, key in keys.items() if kind in _SMOOTHED}
        self.states = self._forward(self._embedded(), self._recording(inputs))
        self.smooth = {key: np.ones(matrices[0].shape[1], np.float32) for key, matrices in self.matrices.items()}
        for key, rows in inputs.items():
            self.smooth[key] = _smoothing(np.concatenate(rows), self.matrices[key])

    def loss(self, kept: Set[_Key]) -> float:
        """Half the squared relative error of the output where the products that are not kept are in int8."""
        int8 = self.matrices.keys() - kept
        return _loss(self._forward(self.states[0].astype(np.float32), self._mixed(int8))[-1], self.states[-1])

    def losses(self) -> dict[_Key, float]:
        """Loss of the output of a layer where one product is in int8; in pre-norm layers, of what the next norm makes of it."""
        losses = dict.fromkeys(self.matrices, 0.0)
        for layer, keys in enumerate(self.keys):
            is_inner = self.config.norm_first and layer + 1 < self.config.num_layers
            next_norm = f"layers.{layer + 1}.attention.layer_norm" if is_inner else ""
            truth = self._norm(next_norm, self.states[layer + 1])
            for key in keys.values():
                output = self._layer(layer, self.states[layer].astype(np.float32), self._mixed({key}))
                if layer + 1 == self.config.num_layers:
                    output = self._norm("layer_norm", output)
                losses[key] += _loss(self._norm(next_norm, output), truth)
        return losses

    def _embedded(self) -> Array:
        """Input of the first layer: in float64, the dtype of whatever follows from it."""
        config, rng = self.config, np.random.default_rng(0)
        tokens = min(_TOKENS, config.max_positions) if config.positions == "learned" else _TOKENS
        if config.vocab_size is None:
            x = rng.standard_normal((_SEQUENCES, tokens, config.input_dim))
        else:
            x = self.parameters["embeddings.token.weight"][rng.integers(0, config.vocab_size, (_SEQUENCES, tokens))].astype(
                np.float64
            )
        return reference.embeddings(
            self.parameters,
            x,
            positions=config.positions,
            padding_idx=config.padding_idx,
            norm=config.norm,
            layer_norm_eps=config.layer_norm_eps,
        )

    def _forward(self, hidden: Array, linear: Linear) -> list[Array]:
        """Input of each layer, and the output."""
        states = [hidden]
        for layer in range(self.config.num_layers):
            states.append(self._layer(layer, states[-1], linear))
        states[-1] = self._norm("layer_norm", states[-1])
        return states

    def _layer(self, layer: int, hidden: Array, linear: Linear) -> Array:
        config, (window, rotary, experts, convolution) = self.config, self.config.layer(layer)
        tokens, distance = hidden.shape[-2], self.config.relative_max_distance
        return reference.encoder_layer(
            self.parameters,
            layer,
            hidden,
            position_bias(self.parameters, tokens, config.num_heads, config.positions, distance),
            num_heads=config.num_heads,
            num_key_value_heads=config.num_key_value_heads,
            activation=_FAST.get(config.activation, config.activation),
            norm=config.norm,
            norm_first=config.norm_first,
            layer_norm_eps=config.layer_norm_eps,
            window=window,
            rotary=rotary,
            attention_scale=config.attention_scale,
            softcap=config.softcap,
            disentangled_max_distance=distance if config.disentangled_log else None,
            top_k=1 if experts is None else experts[1],
            convolution_activation=None if convolution is None else convolution.activation,
            linear=linear,
        )

    def _norm(self, name: str, x: Array) -> Array:
        return normed(self.parameters, name, x, eps=self.config.layer_norm_eps, kind=self.config.norm)

    def _recording(self, inputs: dict[_Key, list[Array]]) -> Linear:
        """Products as they are, whose inputs are appended once a layer."""

        def linear(name: str, x: Array, weight: Array, bias: Array | None, activation: str | None) -> Array:
            if (key := self._key_of.get(name)) in inputs and name.endswith(("query", "input")):
                inputs[key].append(x.reshape(-1, x.shape[-1]))
            return reference.linear(x, weight, bias, activation=activation)

        return linear

    def _mixed(self, int8: Set[_Key]) -> Linear:
        """Products of which some are in int8."""

        def linear(name: str, x: Array, weight: Array, bias: Array | None, activation: str | None) -> Array:
            key = self._key_of.get(name)
            if key is None or key not in int8:
                return reference.linear(x, weight, bias, activation=activation)
            y = _int8_product(x, weight, self.smooth[key])
            return activate(y if bias is None else y + bias, activation)

        return linear


def _plan(trial: _Trial) -> tuple[Set[_Key], float]:
    """Products to keep out of int8, those first that lose most for their size, until the rest is within the budget."""
    loss = trial.loss(set())
    if loss <= _BUDGET:
        return set(), loss
    losses = trial.losses()
    order = sorted(losses, key=lambda key: -losses[key] / sum(matrix.size for matrix in trial.matrices[key]))
    rest = [sum(losses[key] for key in order[count:]) for count in range(len(order) + 1)]
    count = 0
    while not loss <= _BUDGET and count < len(order):
        # The sum of the losses is no more than proportional to the loss of all: errors grow or fade in the layers behind.
        most = rest[count] * _BUDGET / loss
        count = max(count + 1, next((n for n, losses_left in enumerate(rest) if losses_left <= most), len(order)))
        loss = trial.loss(set(order[:count]))
    return set(order[:count]), loss


def _smoothing(x: Array, matrices: list[Array]) -> Array:
    """Factors that give each channel of `x` the range of the matrices' channel; ones if int8 loses no less with them."""
    ones = np.ones(x.shape[1], np.float32)
    weight_range = np.max([np.abs(matrix).max(axis=0) for matrix in matrices], axis=0).astype(np.float64)
    factors = np.sqrt(weight_range / np.abs(x).max(axis=0))
    known = np.isfinite(factors)  # an input of zeros has none
    typical = factors[known & (factors > 0)]
    if not typical.size:
        return ones
    mantissa, exponent = np.frexp(np.clip(factors / np.median(typical), _LEAST, _MOST))
    smooth = np.where(known, np.ldexp(np.rint(mantissa * _STEPS) / _STEPS, exponent), 1).astype(np.float32)
    rows, sample = x.astype(np.float32), np.concatenate([matrix[::_SAMPLED] for matrix in matrices]).astype(np.float32)
    truth = rows @ sample.T
    smoothed, plain = (_loss(_int8_product(rows, sample, factor), truth) for factor in (smooth, ones))
    return smooth if smoothed < plain else ones


def _int8_product(x: Array, weight: Array, smooth: Array) -> Array:
    """Product of ``reference.linear_int8`` but for rounding, faster."""
    levels, scale, zero = reference.quantize_rows(x, smooth)
    y = np.zeros((*x.shape[:-1], len(weight)), np.float32)
    for chain in range(scale.shape[-1]):
        here = slice(chain * INT8_BLOCK, (chain + 1) * INT8_BLOCK)
        w = weight[:, here] / smooth[here]
        step = np.maximum(w.max(axis=1), -w.min(axis=1)) / np.float32(127)
        w *= (1 / np.where(step > 0, step, 1))[:, None]
        np.rint(w, out=w)
        y += (levels[..., here] - zero[..., chain, None].astype(np.float32)) @ w.T * step * scale[..., chain, None]
    return y


def _loss(ours: Array, truth: Array) -> float:
    """Half the squared error, relative to how far the rows are from their mean; infinite if it is not finite."""
    error, spread = ours.astype(np.float64) - truth, truth - np.mean(truth, axis=tuple(range(truth.ndim - 1)), dtype=np.float64)
    loss = 0.5 * float(np.sum(error * error) / np.sum(spread * spread))
    return loss if np.isfinite(loss) else np.inf
