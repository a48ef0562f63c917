"""The encoder op by op on packed sequences, as a graph through which gradients flow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastattn.config import EncoderConfig, Precision
from fastattn.encoder import tables
from fastattn.encoder.padding import places
from fastattn.encoder.slower import warn_if_slower
from fastattn.kernels.ops._attend import NO_BOUND
from fastattn.layer_config import convolution_of, experts_of
from fastattn.parameters import random_parameters
from fastattn.training import functions
from fastattn.training.functions import Dropout, HeadNorms, Linear, Scoring
from fastattn.training.graph import Parameter, Tensor, apply, learning

if TYPE_CHECKING:
    from fastattn.training.lora import LoraGraph

__all__ = ["EncoderGraph", "place_of"]

Array = NDArray[Any]


class EncoderGraph:
    """Encoder whose parameters learn.

    Parameters
    ----------
    config : EncoderConfig
        Sizes and choices.
    parameters : mapping of str to float32 arrays, optional
        As for `Encoder`; they are changed in place.  Names that share an array share its gradient.
    seed : int
        Of the random weights, those of `Encoder`; not used with `parameters`.
    precision : {"float32", "bfloat16"}
        Of the products with weights and of those of their gradients: "bfloat16" rounds the operands, as Linear says.

    Raises
    ------
    ValueError
        The configuration has disentangled scores, masked embeddings, experts or convolutions, whose gradients are not computed, or
        `precision` is another.
    """

    def __init__(
        self,
        config: EncoderConfig,
        parameters: Mapping[str, Array] | None = None,
        *,
        seed: int = 0,
        precision: Precision = "float32",
    ) -> None:
        refused = {
            "disentangled scores (DeBERTa)": bool(config.disentangled),
            "embeddings scaled by masks (ESM)": config.mask_idx is not None,
            "experts": experts_of(config.layers) > 0,
            "a convolution": convolution_of(config.layers) > 0,
        }
        if any(refused.values()):
            found = next(what for what, has in refused.items() if has)
            raise ValueError(f"an encoder with {found} cannot be trained yet")
        self.config = config
        made: dict[Any, Parameter] = {}
        self.parameters: dict[str, Parameter] = {}
        for name, array in (random_parameters(config, seed) if parameters is None else parameters).items():
            self.parameters[name] = made.setdefault(place_of(array), Parameter(array, name))
        # Changes of its products, which learn in place of the parameters.
        self.adapter: LoraGraph | None = None
        self._linears: dict[Any, Linear] = {}
        self.set_precision(precision)
        self._rotaries = tables.rotaries(config)
        # Of what does not learn.
        self._tables = tables.Tables(config, np.empty(0, np.float32), np.empty(0, np.float32))

    def trained(self) -> Iterable[Parameter]:
        """Return each parameter that learns, once."""
        return learning(self.parameters)

    def set_precision(self, precision: Precision) -> None:
        """Compute products in another precision from the next forward on.

        Parameters
        ----------
        precision : {"float32", "bfloat16"}
            As of the encoder.

        Raises
        ------
        ValueError
            It is another one.
        """
        if precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision must be float32 or bfloat16 in training, got {precision!r:.50}")
        warn_if_slower(precision)
        self._precision = precision
        for linear in self._linears.values():
            linear.set_precision(precision)

    def refresh(self, *, learned: bool = False) -> None:
        """Take notice that parameters were changed.

        Parameters
        ----------
        learned : bool
            Only those that learn.
        """
        for linear in self._linears.values():
            linear.refresh(learned=learned)

    def __call__(
        self,
        ids: NDArray[np.int32] | Tensor,
        offsets: NDArray[np.int64],
        types: NDArray[np.int32] | None = None,
        dropout: Dropout | None = None,
    ) -> Tensor:
        """Return hidden states of packed token ids, or of embeddings in their place.

        Parameters
        ----------
        ids : int32, (N,), or Tensor, (N, E)
            Token ids of all sequences, end to end; or the embeddings of the tokens, to which positions and types are added.
        offsets : int64, (B + 1,)
            Where each sequence begins, and the end.
        types : int32, (N,), optional
            Token types; zeros by default.
        dropout : Dropout, optional
            None drops nothing.

        Returns
        -------
        Tensor, (N, C)

        Raises
        ------
        ValueError
            A sequence is longer than the table of positions.
        """
        drop = Dropout() if dropout is None else dropout
        config, longest = self.config, int(np.diff(offsets).max(initial=0))
        place = places(offsets)
        x = self._embed(ids, offsets, types, place)
        x = self._norm("embeddings.layer_norm", x)
        if config.embedding_dim is not None:
            x = self._linear(x, drop, "embeddings.projection")
        x = drop(x)
        turns = [self._turns(i, place, longest) for i in range(len(self._rotaries))]
        bias = self._bias(longest)
        for index in range(config.num_layers):
            rotary = config.layer(index).rotary
            x = self._layer(
                index, x, offsets, None if rotary is None or not turns else turns[self._rotaries.index(rotary)], bias, drop
            )
        return self._norm("layer_norm", x)

    def _embed(self, ids: Array | Tensor, offsets: Array, types: Array | None, place: Array) -> Tensor:
        """Return the sum of the embeddings of tokens, positions and types."""
        config, tensors = self.config, self.parameters
        x = ids if isinstance(ids, Tensor) else functions.embedding(tensors["embeddings.token.weight"], ids)
        if config.positions == "learned":
            if config.padding_idx is not None:
                padding = np.zeros(len(place), bool) if isinstance(ids, Tensor) else ids == config.padding_idx
                place = tables.places_around(padding, offsets)
            table = tensors["embeddings.position.weight"]
            longest = int(place.max(initial=0)) + 1
            if longest > len(table.data):
                raise ValueError(f"a sequence of {longest} tokens is longer than the {len(table.data)} positions of the model")
            x = x + functions.embedding(table, place)
        elif config.positions == "sinusoidal":
            x = x + self._tables.positions(int(place.max(initial=0)) + 1).reshape(-1, config.input_dim)[place]
        if config.type_vocab_size:
            types = np.zeros(len(place), np.int32) if types is None else types
            x = x + functions.embedding(tensors["embeddings.token_type.weight"], types)
        return x

    def _layer(
        self, index: int, x: Tensor, offsets: Array, rotary: tuple[Array, Array] | None, bias: Tensor | None, drop: Dropout
    ) -> Tensor:
        """Return the hidden states behind a layer."""
        config, prefix = self.config, f"layers.{index}."
        first, ffn = f"{prefix}attention", f"{prefix}feed_forward"
        source = self._norm(f"{first}.layer_norm", x) if config.norm_first else x
        qkv = self._linear(source, drop, f"{first}.query", f"{first}.key", f"{first}.value")
        norms = self._head_norms(first)
        if norms is not None or rotary is not None:
            qkv = functions.heads(qkv, (config.query_dim, config.key_dim, config.head_dim), norms, rotary)
        context = functions.attention(qkv, offsets, self._scoring(index), bias)
        y = self._linear(context, drop, f"{first}.output")
        if config.norm_first:
            x = x + drop(self._norm(f"{first}.output_norm", y))
            expanded = self._expanded(ffn, self._norm(f"{ffn}.layer_norm", x), drop)
            return x + drop(self._norm(f"{ffn}.output_norm", self._linear(expanded, drop, f"{ffn}.output")))
        if f"{first}.output_norm.weight" in self.parameters:
            y = self._norm(f"{first}.output_norm", drop(y), x)
            x = self._norm(f"{first}.layer_norm", y, x)
        else:
            x = self._norm(f"{first}.layer_norm", drop(y), x)
        y = drop(self._linear(self._expanded(ffn, x, drop), drop, f"{ffn}.output"))
        return self._norm(f"{ffn}.layer_norm", y, x)

    def _expanded(self, ffn: str, x: Tensor, drop: Dropout) -> Tensor:
        """Return the feed-forward network's inner rows (N, F)."""
        up = self._linear(x, drop, f"{ffn}.input")
        if not self.config.gated:
            return functions.activation(up, self.config.activation)
        return functions.activation(self._linear(x, drop, f"{ffn}.gate"), self.config.activation) * up

    def _linear(self, x: Tensor, drop: Dropout, *names: str) -> Tensor:
        """Return the products with stacked weights of these names; layers that share their weights share their map."""
        weights = [self.parameters[f"{name}.weight"] for name in names]
        biases = [self.parameters.get(f"{name}.bias") for name in names]
        key = (*map(id, weights), *map(id, biases))
        if key not in self._linears:
            self._linears[key] = Linear(weights, biases, self._precision)
        y = self._linears[key](x)
        return y if self.adapter is None else self.adapter.add(y, x, weights, drop)

    def _norm(self, name: str, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Norm of a name; `x` itself where the encoder has none of that name."""
        weight = self.parameters.get(f"{name}.weight")
        if weight is None:
            return x
        bias = self._norm_bias(name)
        return functions.norm(x, weight, bias, self.config.layer_norm_eps, is_rms=self.config.norm == "rms", residual=residual)

    def _norm_bias(self, name: str) -> Parameter | None:
        """Return a norm's bias, which RMS norms do not have."""
        return None if self.config.norm == "rms" else self.parameters.get(f"{name}.bias")

    def _head_norms(self, attention: str) -> HeadNorms | None:
        """Norms of a layer's queries and keys; None for none."""
        config, tensors = self.config, self.parameters
        if config.query_key_norm is None:
            return None
        names = (f"{attention}.query_norm", f"{attention}.key_norm")
        query, key = ((tensors[f"{name}.weight"], self._norm_bias(name)) for name in names)
        return HeadNorms(query, key, config.layer_norm_eps, config.norm == "rms", config.query_key_norm == "head")

    def _scoring(self, index: int) -> Scoring:
        config = self.config
        left, right = (NO_BOUND if side is None else side for side in config.layer(index).window)
        scale = config.head_dim**-0.5 if config.attention_scale is None else config.attention_scale
        return Scoring(config.num_heads, config.key_value_heads, config.head_dim, scale, config.softcap or 0.0, left, right)

    def _turns(self, index: int, place: Array, longest: int) -> tuple[Array, Array]:
        """Return cosines and sines of each token, (N, R / 2)."""
        table = self._tables.rotary(max(1, longest)).reshape(len(self._rotaries), -1, self.config.rotary_dim)
        cos, sin = np.split(table[index, place], 2, axis=-1)
        return np.ascontiguousarray(cos), np.ascontiguousarray(sin)

    def _bias(self, longest: int) -> Tensor | None:
        """Return the scores' bias for each head and distance 1 - T .. T - 1, (H, 2 T - 1), T at least `longest`."""
        config, longest = self.config, max(1, longest)
        if config.positions == "alibi":
            return Tensor(self._tables.relative(longest).reshape(config.num_heads, -1))
        table = self.parameters.get("relative_bias.weight")
        if table is None:
            return None
        buckets = tables.relative_buckets(len(table.data), config.relative_max_distance, longest)

        def pull(grad: Array) -> list[Array]:
            out = np.zeros_like(table.data)
            np.add.at(out, buckets, grad.T)
            return [out]

        return apply(np.ascontiguousarray(table.data[buckets].T), [table], pull)


def place_of(array: Array) -> tuple[int, tuple[int, ...]]:
    """Return where an array's numbers lie: a tensor that is read twice may be two views."""
    return int(array.__array_interface__["data"][0]), array.shape
