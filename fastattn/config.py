"""EncoderConfig: the sizes and options of an encoder."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from numbers import Real
from typing import Any, Literal, get_args

__all__ = ["EncoderConfig"]

# The activations that the kernels compute, under transformers' names, which has several for "gelu_tanh".
Activation = Literal[
    "gelu", "gelu_tanh", "relu", "silu", "gelu_10", "hardswish", "laplace", "leaky_relu", "linear", "mish", "quick_gelu", "relu2",
    "relu6", "sigmoid", "sqrtsoftplus", "tanh",
]  # fmt: skip
ACTIVATIONS: tuple[str, ...] = get_args(Activation)
Positions = Literal["learned", "sinusoidal", "rotary"]
# Of the arithmetic in the products of the layers; an encoder's is fixed when it is made.
Precision = Literal["float32", "bfloat16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
# Minimum of each integer field.
_WHOLE = {
    "num_layers": 1,
    "num_heads": 1,
    "hidden_dim": 1,
    "ff_dim": 1,
    "vocab_size": 1,
    "max_positions": 1,
    "padding_idx": 0,
    "type_vocab_size": 0,
    "embedding_dim": 1,
    "window": 0,
    "global_every": 1,
    "relative_buckets": 0,
    "relative_max_distance": 1,
}
# Maximum of the integer fields: 2 window + 1 still fits 64 bits.
_MOST = 2**62 - 1
_NUMBERS = ("dropout", "layer_norm_eps", "rotary_theta", "local_rotary_theta")
# Minimum of a rotary base: with a smaller base the angles of late tokens overflow to infinity.
_LEAST_THETA = 1e-300
_MAY_BE_NONE = ("vocab_size", "padding_idx", "embedding_dim", "window", "local_rotary_theta")
# Fields that ``fastattn.reference.encoder`` takes as options; the other fields follow from its parameters.
_REFERENCE = (
    "num_layers",
    "num_heads",
    "activation",
    "norm_first",
    "layer_norm_eps",
    "positions",
    "padding_idx",
    "is_causal",
    "rotary_theta",
    "local_rotary_theta",
    "window",
    "global_every",
    "relative_max_distance",
)


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes and options of a transformer encoder.

    Parameters
    ----------
    num_layers : int
        Number of layers, at least 1.
    num_heads : int
        Attention heads H; divides `hidden_dim`.
    hidden_dim : int
        Width C of the hidden states.
    ff_dim : int
        Width F of the feed-forward network.
    dropout : float
        Probability, in [0, 1), with which training drops an element; inference never does.
    activation : str
        Activation of the feed-forward network, "gelu" (the erf form), "gelu_tanh", or one of transformers' names: "relu", "silu",
        "gelu_10", "hardswish", "laplace", "leaky_relu", "linear", "mish", "quick_gelu", "relu2", "relu6", "sigmoid",
        "sqrtsoftplus", "tanh".
    norm_first : bool
        Layer norm before each sublayer instead of after the residual sum.
    layer_norm_eps : float
        Added to the variance.
    positions : "learned", "sinusoidal", "rotary" or None
        Encoding of the position t of a token, from 0: a row of a learned table or sines, added to its embedding, or a rotation
        of each head's queries and keys.
    vocab_size : int, optional
        Size V of the token embedding; without it the encoder takes hidden states only.
    max_positions : int
        Learned positions, which limit the length of a sequence: rows of their table, behind that of `padding_idx`.
    padding_idx : int, optional
        Token id that has no position (RoBERTa, MPNet): wherever it stands, the first row of the table of learned positions, which
        has one row more, is added to it, and the tokens behind it are counted without it.
    type_vocab_size : int
        Number of token types; 0 for no token types.
    is_causal : bool
        Token t attends to tokens 0 .. t.
    embedding_dim : int, optional
        Width E of the embedding tables and of their norm, where a projection to C follows (ALBERT, ELECTRA).
    rotary_theta : float
        Base of the rotary angles ``t theta^(-2 i / D)``, at least 1e-300; channel i turns with channel i + D / 2 of its head.
    local_rotary_theta : float, optional
        Base of the rotary angles in local layers; by default `rotary_theta`.
    gated : bool
        The feed-forward network is ``output(activation(gate(x)) * input(x))`` instead of ``output(activation(input(x)))``.
    window : int, optional
        In local layers token t attends to tokens t - window .. t + window.
    global_every : int
        With a window, layer i (from 0) is global if i is a multiple of `global_every`, else local; 1 makes all layers global.
    relative_buckets : int
        Buckets of the bias by the distance of key and query, one table for all layers: 0 for no bias, or an even number from 4.
    relative_max_distance : int
        Distance from which all keys share the last bucket.

    Raises
    ------
    ValueError
        A size is not positive or above 2^62 - 1, a number is not finite or out of its range, `num_heads` does not divide
        `hidden_dim`, or an option is not one of those above.

    References
    ----------
    Rotary positions: Su et al. 2021, arXiv:2104.09864, section 3.4.2.  Gate: Shazeer 2020, arXiv:2002.05202, section 2.
    Window and global layers: Warner et al. 2024, arXiv:2412.13663, section 2.1.2.  Relative bias: Raffel et al. 2020,
    arXiv:1910.10683, section 2.1.  Factorised embedding: Lan et al. 2019, arXiv:1909.11942, section 3.1.
    """

    num_layers: int
    num_heads: int
    hidden_dim: int
    ff_dim: int
    dropout: float = 0.0
    _: KW_ONLY
    activation: Activation = "gelu"
    norm_first: bool = False
    layer_norm_eps: float = 1e-12
    positions: Positions | None = None
    vocab_size: int | None = None
    max_positions: int = 512
    padding_idx: int | None = None
    type_vocab_size: int = 0
    is_causal: bool = False
    embedding_dim: int | None = None
    rotary_theta: float = 10000.0
    local_rotary_theta: float | None = None
    gated: bool = False
    window: int | None = None
    global_every: int = 1
    relative_buckets: int = 0
    relative_max_distance: int = 128

    def __post_init__(self) -> None:
        """Check every field."""
        for name, least in _WHOLE.items():
            value = getattr(self, name)
            if value is None and name in _MAY_BE_NONE:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
            if value > _MOST:
                raise ValueError(f"{name} must be at most {_MOST}, got {value!r:.50}")
        for name in _NUMBERS:
            value = getattr(self, name)
            if value is None and name in _MAY_BE_NONE:
                continue
            number, is_base = _float(value), "theta" in name
            if not math.isfinite(number) or (is_base and number <= 0):
                raise ValueError(f"{name} must be a {'positive' if is_base else 'finite'} number, got {value!r:.50}")
            if is_base and number < _LEAST_THETA:
                raise ValueError(f"{name} must be at least {_LEAST_THETA}, got {value!r}")
            object.__setattr__(self, name, number)
        for name in ("norm_first", "is_causal", "gated"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if self.hidden_dim % self.num_heads:
            raise ValueError(f"num_heads must divide hidden_dim, got {self.num_heads} heads for a width of {self.hidden_dim}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout!r}")
        if self.layer_norm_eps < 0:
            raise ValueError(f"layer_norm_eps must be at least 0, got {self.layer_norm_eps!r}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {self.activation!r}")
        if self.positions not in (*get_args(Positions), None):
            raise ValueError(f'positions must be "learned", "sinusoidal", "rotary" or None, got {self.positions!r}')
        if self.padding_idx is not None and self.positions != "learned":
            raise ValueError(f"padding_idx {self.padding_idx} acts on learned positions only: positions is {self.positions!r}")
        if self.positions == "rotary" and self.head_dim % 2:
            raise ValueError(f"rotary positions need heads of an even size, got {self.head_dim} channels a head")
        if self.relative_buckets % 2 or self.relative_buckets == 2:
            raise ValueError(f"relative_buckets must be 0 or an even number of at least 4, got {self.relative_buckets}")
        if self.relative_buckets and self.relative_max_distance <= self.relative_buckets // 4:
            least = self.relative_buckets // 4
            raise ValueError(
                f"relative_max_distance must be greater than the {least} distances that have a bucket each"
                f" (relative_buckets / 4), got {self.relative_max_distance}"
            )

    @property
    def head_dim(self) -> int:
        """Channels D of a head."""
        return self.hidden_dim // self.num_heads

    @property
    def position_rows(self) -> int:
        """Rows of the table of learned positions: `max_positions`, and the padding's where there is a `padding_idx`."""
        return self.max_positions + (self.padding_idx is not None)

    @property
    def qkv_dim(self) -> int:
        """Width of a row of queries, keys and values: 3 C."""
        return 3 * self.hidden_dim

    @property
    def input_dim(self) -> int:
        """Width of the embedding tables: E, or C where there is no projection."""
        return self.hidden_dim if self.embedding_dim is None else self.embedding_dim

    def is_local(self, layer: int) -> bool:
        """Tell whether a layer's attention is limited to the window.

        Parameters
        ----------
        layer : int
            Counted from 0.

        Returns
        -------
        bool
        """
        return self.window is not None and layer % self.global_every != 0

    def theta(self, layer: int) -> float:
        """Return the base of a layer's rotary angles.

        Parameters
        ----------
        layer : int
            Counted from 0.

        Returns
        -------
        float
        """
        local = self.local_rotary_theta
        return self.rotary_theta if local is None or not self.is_local(layer) else local

    def reference_options(self) -> dict[str, Any]:
        """Return the options of ``fastattn.reference.encoder``.

        Returns
        -------
        dict of str
        """
        return {name: getattr(self, name) for name in _REFERENCE}


def _float(value: Any) -> float:
    """Return a real number as a float: infinity if it is too large, NaN if it is no number."""
    try:
        return float(value) if isinstance(value, Real) else math.nan
    except OverflowError:
        return math.inf


def check_precision(precision: Any, name: str = "precision") -> Precision:
    """Return the precision that an argument called `name` has; ValueError if there is no such precision."""
    if not isinstance(precision, str) or precision not in PRECISIONS:
        raise ValueError(f"{name} must be one of {', '.join(PRECISIONS)}, got {precision!r:.50}")
    return precision
