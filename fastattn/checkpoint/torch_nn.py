"""Reads torch.nn.TransformerEncoder and TransformerEncoderLayer."""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import nn

from fastattn.checkpoint.families import Block
from fastattn.checkpoint.torch_errors import Unsupported
from fastattn.config import EncoderConfig
from fastattn.parameters import INSIDE

Array = NDArray[Any]
Read = Callable[[str, Any], Array]

_TORCH_ACTIVATIONS: tuple[tuple[Any, str], ...] = (
    (nn.functional.relu, "relu"),
    (torch.relu, "relu"),
    (nn.functional.gelu, "gelu"),
    (nn.functional.silu, "silu"),
)
# The encoder's stem of a parameter in a layer -> torch's name up to "weight" or "bias"; query, key and value are one matrix.
_NAMES = {
    "attention.query": Block("self_attn.in_proj_", 0, 3),
    "attention.key": Block("self_attn.in_proj_", 1, 3),
    "attention.value": Block("self_attn.in_proj_", 2, 3),
    "attention.output": Block("self_attn.out_proj."),
    "attention.layer_norm": Block("norm1."),
    "feed_forward.input": Block("linear1."),
    "feed_forward.output": Block("linear2."),
    "feed_forward.layer_norm": Block("norm2."),
}


class Stack(NamedTuple):
    """Layers of torch.nn that an `Encoder` computes."""

    config: EncoderConfig
    layers: list[Any]
    # The final norm is either `norm`, which the configuration covers, or `after`, which is applied to the encoder's result.
    norm: Any
    after: Any
    batch_first: bool

    def read(self, read: Read) -> tuple[EncoderConfig, dict[str, Array]]:
        """Return the configuration and the parameters; `Unsupported` if a norm is to be applied to the encoder's result."""
        if self.after is not None:
            raise Unsupported(f"the final {type(self.after).__name__} is not a LayerNorm with the eps of the layers")
        return self.config, self.parameters(read)

    def parameters(self, read: Read) -> dict[str, Array]:
        """Return the parameters under the encoder's names, each as `read` gives it."""
        found: dict[str, Array] = {}
        inside = [(stem, parameter) for stem, parameter in INSIDE.items() if parameter.exists(self.config)]
        for i, layer in enumerate(self.layers):
            whole: dict[str, Array] = {}
            for (stem, parameter), part in itertools.product(inside, ("weight", "bias")):
                block = _NAMES[stem]
                name, tensor = f"layers.{i}.{block.name}{part}", operator.attrgetter(block.name + part)(layer)
                if tensor is None and part == "bias":
                    continue
                if name not in whole:
                    # A norm without a weight has ones.
                    whole[name] = read(name, torch.ones(parameter.shape_in(self.config)) if tensor is None else tensor)
                found[f"layers.{i}.{stem}.{part}"] = block.of(whole[name])
        if self.norm is not None:
            weight, bias = self.norm.weight, self.norm.bias
            found["layer_norm.weight"] = read("norm.weight", torch.ones(self.norm.normalized_shape) if weight is None else weight)
            if bias is not None:
                found["layer_norm.bias"] = read("norm.bias", bias)
        return found


def read_stack(module: Any) -> Stack | None:
    """Return the layers of a TransformerEncoder or a TransformerEncoderLayer; None for other modules and overridden methods.

    Raises `Unsupported` if an `Encoder` has no such layers.
    """
    if overrides(module, nn.TransformerEncoderLayer, "forward", "_sa_block", "_ff_block") is False:
        layers: list[Any] = [module]
        norm: Any = None
    elif overrides(module, nn.TransformerEncoder, "forward") is False:
        layers, norm = list(module.layers), module.norm
        for layer in layers:
            if overrides(layer, nn.TransformerEncoderLayer, "forward", "_sa_block", "_ff_block") is not False:
                raise Unsupported(f"its layer is a {type(layer).__name__}, not a plain TransformerEncoderLayer")
    else:
        return None
    if not layers:
        raise Unsupported("it has no layers")
    described = [_describe(layer) for layer in layers]
    if any(other != described[0] for other in described):
        raise Unsupported("its layers differ in their sizes or options")
    sizes, options, batch_first = described[0]
    config = EncoderConfig(len(layers), *sizes, **dict(options))
    plain = type(norm) is nn.LayerNorm and norm.normalized_shape == (config.hidden_dim,) and norm.eps == config.layer_norm_eps
    return Stack(config, layers, norm if plain else None, None if plain else norm, batch_first)


def overrides(module: Any, base: Any, *methods: str) -> bool | None:
    """Tell whether a module overrides one of these methods of `base`; None if the module is no instance of `base`."""
    if not isinstance(module, base):
        return None
    return any(getattr(type(module), name) is not getattr(base, name) or patched(module, name) for name in methods)


def patched(module: Any, method: str) -> bool:
    """Tell whether a method was set on the instance, other than by `accelerate`."""
    own = module.__dict__.get(method)
    return own is not None and not hasattr(own, "stands_in")


def _describe(layer: Any) -> tuple[tuple[int, ...], tuple[tuple[str, Any], ...], bool]:
    """Return the sizes and options of a layer, after a check that its submodules are torch's own."""
    for name, kind in (("linear1", nn.Linear), ("linear2", nn.Linear), ("norm1", nn.LayerNorm), ("norm2", nn.LayerNorm)):
        part = getattr(layer, name)
        if type(part) is not kind:
            raise Unsupported(f"{name} is a {type(part).__name__}, not a plain {kind.__name__}")
    for name, part in layer.named_modules():
        if patched(part, "forward"):
            raise Unsupported(f"the forward of {name} was replaced")
    attention = layer.self_attn
    check_attention(attention)
    if not attention._qkv_same_embed_dim or attention.bias_k is not None or attention.add_zero_attn:
        raise Unsupported("self_attn has kdim, vdim, add_bias_kv or add_zero_attn")
    width = attention.embed_dim
    if layer.norm1.normalized_shape != (width,) or layer.norm2.normalized_shape != (width,):
        raise Unsupported(f"a norm is over {layer.norm1.normalized_shape}, not the {width} channels")
    if layer.norm1.eps != layer.norm2.eps:
        raise Unsupported(f"norm1 has eps {layer.norm1.eps} and norm2 {layer.norm2.eps}")
    options = {"activation": activation_of(layer.activation), "norm_first": layer.norm_first, "layer_norm_eps": layer.norm1.eps}
    sizes = (attention.num_heads, width, layer.linear1.out_features)
    return sizes, tuple(options.items()), attention.batch_first


def check_attention(attention: Any) -> None:
    """Raise `Unsupported` unless this is torch's own MultiheadAttention."""
    if overrides(attention, nn.MultiheadAttention, "forward") is not False:
        raise Unsupported(f"{type(attention).__name__} is not a plain MultiheadAttention")
    if not isinstance(attention.out_proj, nn.Linear) or type(attention.out_proj).forward is not nn.Linear.forward:
        raise Unsupported(f"out_proj is a {type(attention.out_proj).__name__}, not a plain Linear")


def activation_of(activation: Any) -> str:
    """Return the encoder's name of an activation: a function of torch.nn.functional, or a module."""
    for function, name in _TORCH_ACTIVATIONS:
        if activation is function:
            return name
    if isinstance(activation, functools.partial) and activation.func is nn.functional.gelu and not activation.args:
        if activation.keywords in ({"approximate": "tanh"}, {"approximate": "none"}):
            return "gelu_tanh" if activation.keywords["approximate"] == "tanh" else "gelu"
    if type(activation) is nn.GELU:
        return "gelu_tanh" if activation.approximate == "tanh" else "gelu"
    if type(activation) in (nn.ReLU, nn.SiLU):
        return type(activation).__name__.lower()
    name = getattr(activation, "__name__", type(activation).__name__)
    raise Unsupported(f"the activation {name} is not one of relu, gelu, silu")
