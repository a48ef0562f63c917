"""Records that describe a model family: the names of its tensors, and the steps of its heads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastattn.checkpoint.config_json import Settings
from fastattn.config import EncoderConfig
from fastattn.parameters import SCHEMA

__all__ = ["GREATEST", "Block", "Derive", "Family", "Head", "Names", "Step", "Stored", "all_but_tables"]


class Stored(NamedTuple):
    """The stored tensors and the settings of a model, for a parameter that is computed from them."""

    config: EncoderConfig
    settings: Settings
    # What stands before the names of the parameter's layer; "" outside the layers.
    layer: str
    # Returns the tensor of a name, with ``.weight`` or ``.bias`` and without a prefix, which must have this shape.
    read: Callable[[str, tuple[int, ...]], NDArray[np.float32]]


# Computes the parameter of a shape from the tensor of a name, which `Stored.read` takes, and from others.
Derive = Callable[[Stored, str, tuple[int, ...]], NDArray[np.float32]]


class Block(NamedTuple):
    """A stored tensor, or block number `part` of its rows, which are cut into `parts` equal blocks.

    With `derive`, what it computes from the tensor and others.
    """

    # Without ``.weight`` or ``.bias``.
    name: str
    part: int = 0
    parts: int = 1
    derive: Derive | None = None

    def of(self, whole: NDArray[Any]) -> NDArray[Any]:
        """Return the block of the stored tensor."""
        rows = len(whole) // self.parts
        return whole[rows * self.part : rows * (self.part + 1)]


class Step(NamedTuple):
    """A step of a head: ``norm(activation(x weight^T + bias))``."""

    # Name of the tensors, without ``.weight`` or ``.bias``.
    name: str
    # Rows of the weight: a number, a field of EncoderConfig, "labels", or "any".
    width: int | str = "hidden_dim"
    # As in `fastattn.linear`, or "tanh".
    activation: str | None = None
    # Name of the layer norm's tensors, without ``.weight`` or ``.bias``; None for no norm.
    norm: str | None = None
    bias: bool = True
    norm_bias: bool = True
    # Another name that the bias may have.
    bias_name: str | None = None
    # Whether the token table replaces a weight that is not stored.
    tied: bool = False


# `Head.end` for the greatest id of a text.
GREATEST = -1


class Head(NamedTuple):
    """Steps of a head in order, applied to a pooled vector per sequence, or to every token if `pooling` is None.

    "lasttoken" is the last token that is no padding by its id.
    """

    steps: tuple[Step, ...]
    pooling: str | None = None
    # The number of steps before the pooling, which every token takes.
    pooled_step: int = 0
    # Id of the token that ends a text, for the pooling "end": the vector is that of its first occurrence.
    end: int | None = None
    # Bound of the logits, approached by tanh.
    softcap: float | None = None
    # What is read where a tensor of these steps is missing.
    otherwise: Head | None = None


class Names(NamedTuple):
    """The checkpoint's names of the encoder's tensors, by the encoder's stems (`fastattn.parameters`), without a prefix."""

    outside: Mapping[str, str | Block]
    # The prefix of a layer's tensors, from ``config.json`` and the layer's number.
    layer: Callable[[Settings, int], str]
    inside: Mapping[str, str | Block]
    # Fields of EncoderConfig that checkpoints of these names have, and ``config.json`` does not tell.
    fields: Mapping[str, Any] = {}

    @property
    def token_table(self) -> str:
        """The name of the table of token embeddings."""
        return _block(self.outside["embeddings.token"]).name + ".weight"

    def stems(self, settings: Settings, layers: int) -> Iterator[tuple[str, str, str, Block]]:
        """Yield parameter, stem, its layer's prefix, and block with that prefix: outside, then of the first `layers` layers."""
        for stem, source in self.outside.items():
            yield stem, stem, "", _block(source)
        for i in range(layers):
            layer = self.layer(settings, i)
            for stem, source in self.inside.items():
                block = _block(source)
                yield f"layers.{i}.{stem}", stem, layer, block._replace(name=layer + block.name)


def _block(source: str | Block) -> Block:
    return Block(source) if isinstance(source, str) else source


def all_but_tables(settings: Settings, stem: str) -> bool:
    """Tell whether a parameter has a bias: all but the tables do."""
    return SCHEMA[stem].kind != "table"


def nothing(settings: Settings, parameter: str) -> bool:
    """Tell whether a parameter has no tensor: none of them."""
    return False


class Family(NamedTuple):
    """How the checkpoints of a ``model_type`` are read."""

    # The authors' spelling, and the class in transformers; other lists of families are made from `FAMILIES`.
    title: str
    model_class: str
    # Prefixes that the names of the encoder's tensors may have.
    prefixes: tuple[str, ...]
    config: Callable[[Settings], EncoderConfig]
    # Alternatives; the reader takes the names of which the folder has the most tensors.
    names: tuple[Names, ...]
    # Heads by task: "pooler", "sequence-classification", "token-classification", "masked-lm", "causal-lm", "projection".
    heads: Callable[[Settings], Mapping[str, Head]]
    # Whether the parameter of a stem has a bias.
    has_bias: Callable[[Settings, str], bool] = all_but_tables
    # Parameters without a tensor, for example ``layers.0.attention.layer_norm``.
    absent: Callable[[Settings, str], bool] = nothing
    # Tensors outside the layers that change the hidden states, and are not supported.
    refused: tuple[str, ...] = ()
    # The tokenizer of a folder that names no tokenizer class makes ``token_type_ids``.
    has_token_types: bool = False
    # Positions in the padding see nothing: what the original has there depends on the length of the padding and has no meaning.
    blind_padding: bool = False
