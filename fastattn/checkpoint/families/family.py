"""The words in which a family is described: where its tensors are, and what its heads compute."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from fastattn.checkpoint.config_json import Settings
from fastattn.config import EncoderConfig

__all__ = ["Dense", "Family", "Head", "Names", "Rows", "all_but_tables", "from_zero"]


class Rows(NamedTuple):
    """A tensor that is part of a stored one: one of several equal blocks of its rows.

    Parameters
    ----------
    name : str
        The stored tensor, without ``.weight`` or ``.bias``.
    part : int
        The block, from 0.
    parts : int
        How many there are.
    """

    name: str
    part: int = 0
    parts: int = 1


class Dense(NamedTuple):
    """A step of a head: ``norm(activation(x weight^T + bias))``.

    Parameters
    ----------
    name : str
        The tensors ``.weight`` and ``.bias``.
    width : str
        Rows of the weight: a field of EncoderConfig, or "labels".
    activation : str or None
        As in `fastattn.linear`, or "tanh".
    norm : str or None
        The tensors of the layer norm, if there is one.
    bias : bool
        There is a bias.
    norm_bias : bool
        The layer norm has a bias.
    bias_name : str or None
        Another name that the bias may have.
    tied : bool
        Where the weight is not stored, it is the token table.
    """

    name: str
    width: str = "hidden_dim"
    activation: str | None = None
    norm: str | None = None
    bias: bool = True
    norm_bias: bool = True
    bias_name: str | None = None
    tied: bool = False


class Head(NamedTuple):
    """What is computed from the hidden states.

    Parameters
    ----------
    steps : tuple of Dense
        One after the other.
    pooling : str or None
        How a sequence becomes one vector first; None: every token goes through the steps.
    """

    steps: tuple[Dense, ...]
    pooling: str | None = None


class Names(NamedTuple):
    """What the encoder's tensors are called, without what may precede all names.

    Parameters
    ----------
    outside : mapping of str to str
        The encoder's stem of a tensor outside the layers to the checkpoint's.
    layer : callable
        ``config.json`` and the number of a layer to what precedes the names of its tensors.
    inside : mapping of str to (str or Rows)
        The encoder's stem of a tensor inside a layer to the checkpoint's.
    """

    outside: Mapping[str, str]
    layer: Callable[[Settings, int], str]
    inside: Mapping[str, str | Rows]


def all_but_tables(settings: Settings, stem: str) -> bool:
    """Tell whether a stem has a bias: all but the tables do.

    Parameters
    ----------
    settings : Settings
        ``config.json``.
    stem : str
        The encoder's stem of a tensor, without its layer.

    Returns
    -------
    bool
    """
    return stem not in ("embeddings.token", "embeddings.position", "embeddings.token_type", "relative_bias")


def from_zero(settings: Settings) -> int:
    """Return 0: token 0 has row 0 of the position table.

    Parameters
    ----------
    settings : Settings
        ``config.json``.

    Returns
    -------
    int
    """
    return 0


class Family(NamedTuple):
    """How the checkpoints of one ``model_type`` are read.

    Parameters
    ----------
    prefixes : tuple of str
        What may precede the name of every tensor of the encoder.
    config : callable
        ``config.json`` to EncoderConfig.
    names : tuple of Names
        What the tensors may be called: that of which a folder has the most is taken.
    heads : callable
        ``config.json`` to the heads by their task: "pooler", "sequence-classification", "token-classification", "masked-lm".
    has_bias : callable
        ``config.json`` and a stem without its layer to whether there is a bias.
    first_position : callable
        ``config.json`` to the row of the position table that token 0 has.
    absent : tuple of str
        Stems that a layer lacks, with its number: ``layers.0.attention.layer_norm``.
    """

    prefixes: tuple[str, ...]
    config: Callable[[Settings], EncoderConfig]
    names: tuple[Names, ...]
    heads: Callable[[Settings], Mapping[str, Head]]
    has_bias: Callable[[Settings, str], bool] = all_but_tables
    first_position: Callable[[Settings], int] = from_zero
    absent: tuple[str, ...] = ()
