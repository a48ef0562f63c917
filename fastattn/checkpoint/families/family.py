"""Records that describe a model family: the names of its tensors, and the steps of its heads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from numpy.typing import NDArray

from fastattn.checkpoint.config_json import Settings
from fastattn.config import EncoderConfig
from fastattn.parameters import SCHEMA

__all__ = ["Block", "Family", "Head", "Names", "Step", "all_but_tables"]


class Block(NamedTuple):
    """A stored tensor, or block number `part` of its rows, which are cut into `parts` equal blocks."""

    # Without ``.weight`` or ``.bias``.
    name: str
    part: int = 0
    parts: int = 1

    def of(self, whole: NDArray[Any]) -> NDArray[Any]:
        """Return the block of the stored tensor."""
        rows = len(whole) // self.parts
        return whole[rows * self.part : rows * (self.part + 1)]


class Step(NamedTuple):
    """A step of a head: ``norm(activation(x weight^T + bias))``."""

    # Name of the tensors, without ``.weight`` or ``.bias``.
    name: str
    # Rows of the weight: a field of EncoderConfig, or "labels".
    width: str = "hidden_dim"
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


class Head(NamedTuple):
    """Steps of a head in order, applied to a pooled vector per sequence, or to every token if `pooling` is None."""

    steps: tuple[Step, ...]
    pooling: str | None = None


class Names(NamedTuple):
    """The checkpoint's names of the encoder's tensors, by the encoder's stems (`fastattn.parameters`), without a prefix."""

    outside: Mapping[str, str]
    # The prefix of a layer's tensors, from ``config.json`` and the layer's number.
    layer: Callable[[Settings, int], str]
    inside: Mapping[str, str | Block]


def all_but_tables(settings: Settings, stem: str) -> bool:
    """Tell whether a parameter has a bias: all but the tables do."""
    return SCHEMA[stem].kind != "table"


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
    # Heads by task: "pooler", "sequence-classification", "token-classification", "masked-lm".
    heads: Callable[[Settings], Mapping[str, Head]]
    # Whether the parameter of a stem has a bias.
    has_bias: Callable[[Settings, str], bool] = all_but_tables
    # Parameters without a tensor, for example ``layers.0.attention.layer_norm``.
    absent: tuple[str, ...] = ()
    # The tokenizer of a folder that names no tokenizer class makes ``token_type_ids``.
    has_token_types: bool = False
