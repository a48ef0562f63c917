"""Parameters of an encoder: the schema of their names and shapes, checks, and random initial values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastattn.config import EncoderConfig
from fastattn.layer_config import LayerConfig, convolution_of, experts_of
from fastattn.runtime.memory import check_large

Array = NDArray[Any]

# Overhead per array in bytes: the object, its name, and its entries in a dict and in an arena.
_ARRAY_BYTES = 768
# The largest bfloat16: larger numbers become infinite in bfloat16, and 127 levels of their 127th part in int8 can.
_LARGEST = 2.0**128 - 2.0**120


def _always(config: Any) -> bool:
    return True


def _mixes(config: EncoderConfig) -> bool:
    return experts_of(config.layers) > 0


def _convolves(config: EncoderConfig) -> bool:
    return convolution_of(config.layers) > 0


def _has_convolution(layer: LayerConfig) -> bool:
    return layer.convolution is not None


def _has_experts(layer: LayerConfig) -> bool:
    return layer.experts is not None


def _has_one(layer: LayerConfig) -> bool:
    return layer.experts is None


class Parameter(NamedTuple):
    """Schema of a ``weight``, and of the ``bias`` that a matrix or norm may have, as long as the weight's first axis."""

    kind: Literal["table", "matrix", "norm"]
    # Names of the fields of EncoderConfig that hold the sizes, several for their product; "experts" and "convolution" are those of
    # the layers that have any.
    shape: tuple[str, ...]
    exists: Callable[[EncoderConfig], bool] = _always
    # Of the layers of such a configuration, those that have it.
    in_layer: Callable[[LayerConfig], bool] = _always

    def shape_in(self, config: EncoderConfig) -> tuple[int, ...]:
        """Return the weight's shape."""
        of_layers = {"experts": experts_of(config.layers), "convolution": convolution_of(config.layers)}
        return tuple(math.prod(of_layers.get(f) or getattr(config, f) for f in fields.split()) for fields in self.shape)


# By stem: a parameter's name without ``.weight`` or ``.bias``, and without the layer.  Random weights are drawn in this order.
OUTSIDE = {
    "embeddings.token": Parameter("table", ("vocab_size", "input_dim"), lambda config: config.vocab_size is not None),
    "embeddings.position": Parameter("table", ("position_rows", "input_dim"), lambda config: config.positions == "learned"),
    "embeddings.token_type": Parameter("table", ("type_vocab_size", "input_dim"), lambda config: config.type_vocab_size > 0),
    "embeddings.projection": Parameter("matrix", ("hidden_dim", "input_dim"), lambda config: config.embedding_dim is not None),
    "relative_bias": Parameter("table", ("relative_buckets", "num_heads"), lambda config: config.relative_buckets > 0),
    "embeddings.layer_norm": Parameter("norm", ("input_dim",)),
    "layer_norm": Parameter("norm", ("hidden_dim",)),
}
INSIDE = {
    "attention.query": Parameter("matrix", ("query_dim", "hidden_dim")),
    "attention.key": Parameter("matrix", ("key_dim", "hidden_dim")),
    "attention.value": Parameter("matrix", ("key_dim", "hidden_dim")),
    "attention.output": Parameter("matrix", ("hidden_dim", "query_dim")),
    "feed_forward.gate": Parameter("matrix", ("ff_dim", "hidden_dim"), lambda config: config.gated),
    "feed_forward.input": Parameter("matrix", ("ff_dim", "hidden_dim"), in_layer=_has_one),
    "feed_forward.output": Parameter("matrix", ("hidden_dim", "ff_dim"), in_layer=_has_one),
    "feed_forward.router": Parameter("matrix", ("experts", "hidden_dim"), _mixes, _has_experts),
    "feed_forward.experts.input": Parameter("matrix", ("experts ff_dim", "hidden_dim"), _mixes, _has_experts),
    "feed_forward.experts.output": Parameter("matrix", ("experts hidden_dim", "ff_dim"), _mixes, _has_experts),
    "feed_forward.experts_bias": Parameter("table", ("hidden_dim",), _mixes, _has_experts),
    "attention.layer_norm": Parameter("norm", ("hidden_dim",)),
    "feed_forward.layer_norm": Parameter("norm", ("hidden_dim",)),
    "attention.query_norm": Parameter("norm", ("query_norm_dim",), lambda config: config.query_key_norm is not None),
    "attention.key_norm": Parameter("norm", ("key_norm_dim",), lambda config: config.query_key_norm is not None),
    "attention.output_norm": Parameter("norm", ("hidden_dim",), lambda config: config.output_norms),
    "feed_forward.output_norm": Parameter("norm", ("hidden_dim",), lambda config: config.output_norms and config.norm_first),
    "attention.relative_key": Parameter("table", ("disentangled_rows", "query_dim"), lambda config: "c2p" in config.disentangled),
    "attention.relative_query": Parameter("table", ("disentangled_rows", "query_dim"), lambda config: "p2c" in config.disentangled),
    # Columns k C .. (k + 1) C - 1 multiply neighbour k of a token, the first of which is the farthest before it.
    "convolution": Parameter("matrix", ("hidden_dim", "convolution hidden_dim"), _convolves, _has_convolution),
    "convolution.layer_norm": Parameter("norm", ("hidden_dim",), _convolves, _has_convolution),
}
SCHEMA = {**OUTSIDE, **INSIDE}
# Parameters that only a configuration with this field set uses.
_FIELDS = {
    "embeddings.projection.weight": "embedding_dim",
    "relative_bias.weight": "relative_buckets",
    "layers.0.feed_forward.gate.weight": "gated",
    "layers.0.attention.query_norm.weight": "query_key_norm",
    "layers.0.attention.output_norm.weight": "output_norms",
    "layers.0.attention.relative_key.weight": "disentangled",
    "layers.0.attention.relative_query.weight": "disentangled",
}


def parameters_of(config: EncoderConfig) -> Iterator[tuple[str, Parameter]]:
    """Yield the name, without ``.weight``, and the schema of each parameter; a generator, because `num_layers` may be huge."""
    for stem, parameter in OUTSIDE.items():
        if parameter.exists(config):
            yield stem, parameter
    inside = [(stem, parameter) for stem, parameter in INSIDE.items() if parameter.exists(config)]
    for i in range(config.num_layers):
        layer = config.layer(i)
        for stem, parameter in inside:
            if parameter.in_layer(layer):
                yield f"layers.{i}.{stem}", parameter


def may_be_absent(config: EncoderConfig, name: str, parameter: Parameter) -> bool:
    """Tell whether a parameter may be absent, and its norm left out: the norms outside the layers, and before a sublayer."""
    if parameter.kind != "norm" or name.endswith(("query_norm", "key_norm", "output_norm", "convolution.layer_norm")):
        return False
    return config.norm_first or not name.startswith("layers.")


def check_parameters(config: EncoderConfig, parameters: Mapping[str, Array]) -> None:
    """Raise for the first parameter that is missing, is not an array of floats, has the wrong shape, or would be unused."""
    if not isinstance(parameters, Mapping):
        raise TypeError(f"parameters must be a mapping of names to arrays, got {type(parameters).__name__}")
    for name, array in parameters.items():
        if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
            found = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
            raise TypeError(f"parameter {name} must be an array of floats, got {found}")
    for name, parameter in parameters_of(config):
        weight, bias, shape = f"{name}.weight", f"{name}.bias", parameter.shape_in(config)
        if weight not in parameters:
            if may_be_absent(config, name, parameter):
                continue
            raise ValueError(f"parameters lack {weight}, of shape {shape}")
        for key, wanted in ((weight, shape), (bias, shape[:1])):
            if key in parameters and parameters[key].shape != wanted:
                raise ValueError(f"parameter {key} must have shape {wanted}, got {parameters[key].shape}")
    for name, field in _FIELDS.items():
        if name in parameters and not getattr(config, field):
            raise ValueError(f"parameters have {name}, for which the configuration's {field} must be set")


def check_finite(parameters: Mapping[str, Array], precision: str) -> None:
    """Raise for the first parameter with NaN, or with values that are infinite or become so; in float32 all are taken."""
    if precision == "float32":
        return
    # Layers may share their arrays, which are kept, so no other one takes over an id.
    checked: dict[int, Array] = {}
    for name, array in parameters.items():
        if id(array) in checked:
            continue
        checked[id(array)] = array
        largest = max(-float(array.min()), float(array.max())) if array.size else 0.0
        if not largest <= _LARGEST:
            what = f"values of {largest:.4g}" if math.isfinite(largest) else "NaN or infinite values"
            raise ValueError(f"parameter {name} has {what}, which {precision} cannot hold")


def random_parameters(config: EncoderConfig, seed: int) -> dict[str, Array]:
    """Return normal weights of standard deviation 0.02 (norms: 1), zero biases, as BERT starts."""
    rng = np.random.default_rng(seed)
    parameters: dict[str, Array] = {}
    check_large(_size(config, OUTSIDE) + config.num_layers * _size(config, INSIDE), "the parameters")
    for name, parameter in parameters_of(config):
        if name == "embeddings.layer_norm" and config.vocab_size is None:
            continue
        if name == "layer_norm" and not config.norm_first:
            continue
        shape = parameter.shape_in(config)
        if parameter.kind == "norm":
            parameters[f"{name}.weight"] = np.ones(shape, np.float32)
        else:
            parameters[f"{name}.weight"] = rng.standard_normal(shape, np.float32) * np.float32(0.02)
        if parameter.kind == "matrix" or (parameter.kind == "norm" and config.norm == "layer"):
            parameters[f"{name}.bias"] = np.zeros(shape[0], np.float32)
    return parameters


def _size(config: EncoderConfig, schema: Mapping[str, Parameter]) -> int:
    """Return the bytes of a schema's weights and biases: 4 per element of a weight, and the overhead per array."""
    shapes = [parameter.shape_in(config) for parameter in schema.values() if parameter.exists(config)]
    return sum(4 * math.prod(shape) + 2 * _ARRAY_BYTES for shape in shapes)
