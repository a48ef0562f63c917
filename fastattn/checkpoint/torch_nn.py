"""torch.nn.TransformerEncoder and TransformerEncoderLayer: what of them an `Encoder` can stand for."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import nn

from fastattn.checkpoint.torch_errors import Unsupported
from fastattn.config import EncoderConfig

Array = NDArray[Any]
Read = Callable[[str, Any], Array]

_ACTIVATIONS: tuple[tuple[Any, str], ...] = (
    (nn.functional.relu, "relu"),
    (torch.relu, "relu"),
    (nn.functional.gelu, "gelu"),
    (nn.functional.silu, "silu"),
)
# A part of ours -> a part of theirs; the norms and the projections of the attention are read apart.
_PARTS = {
    "attention.output": "self_attn.out_proj",
    "attention.layer_norm": "norm1",
    "feed_forward.input": "linear1",
    "feed_forward.output": "linear2",
    "feed_forward.layer_norm": "norm2",
}


class Stack(NamedTuple):
    """Layers that an `Encoder` can stand for."""

    config: EncoderConfig
    layers: list[Any]
    # The final norm: one that the configuration covers, or one that comes after the encoder.
    norm: Any
    after: Any
    batch_first: bool

    def read(self, read: Read) -> tuple[EncoderConfig, dict[str, Array]]:
        """Return the configuration and the parameters; `Unsupported` where a norm comes after the encoder."""
        if self.after is not None:
            raise Unsupported(f"the final {type(self.after).__name__} is not a LayerNorm with the eps of the layers")
        return self.config, self.parameters(read)

    def parameters(self, read: Read) -> dict[str, Array]:
        """Return the parameters under the encoder's names, each as `read` gives it."""
        found: dict[str, Array] = {}
        for i, layer in enumerate(self.layers):
            attention, to = layer.self_attn, f"layers.{i}."
            for part, rows in (("weight", attention.in_proj_weight), ("bias", attention.in_proj_bias)):
                if rows is not None:
                    whole, c = read(f"layers.{i}.self_attn.in_proj_{part}", rows), attention.embed_dim
                    for j, name in enumerate(("query", "key", "value")):
                        found[f"{to}attention.{name}.{part}"] = whole[j * c : (j + 1) * c]
            for ours, theirs in _PARTS.items():
                _affine(read, layer.get_submodule(theirs), f"layers.{i}.{theirs}", to + ours, found)
        if self.norm is not None:
            _affine(read, self.norm, "norm", "layer_norm", found)
        return found


def _affine(read: Read, module: Any, source: str, name: str, found: dict[str, Array]) -> None:
    """Read a weight and, where there is one, a bias; a norm without a weight has ones."""
    weight = torch.ones(module.normalized_shape) if module.weight is None else module.weight
    found[f"{name}.weight"] = read(f"{source}.weight", weight)
    if module.bias is not None:
        found[f"{name}.bias"] = read(f"{source}.bias", module.bias)


def read_stack(module: Any) -> Stack | None:
    """Describe a TransformerEncoder or a TransformerEncoderLayer; None for anything else, and for overridden methods.

    Raises `Unsupported` where the layers are not such as an `Encoder` has.
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
    """Tell whether a module changes one of these methods of `base`; None where it is no `base` at all."""
    if not isinstance(module, base):
        return None
    return any(getattr(type(module), name) is not getattr(base, name) or patched(module, name) for name in methods)


def patched(module: Any, method: str) -> bool:
    """Tell whether somebody else than this package set the method on the instance."""
    own = module.__dict__.get(method)
    return own is not None and not hasattr(own, "stands_in")


def _describe(layer: Any) -> tuple[tuple[int, ...], tuple[tuple[str, Any], ...], bool]:
    """Return the sizes and options of a layer, after checking that its parts are torch's own."""
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
    for function, name in _ACTIVATIONS:
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
