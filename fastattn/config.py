"""EncoderConfig: the sizes and options of an encoder."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from numbers import Real
from typing import Any, Literal, get_args

from fastattn.layer_config import LayerConfig, checked_layers, default_rotary, experts_of

__all__ = ["EncoderConfig"]

# The activations that the kernels compute, under transformers' names, which has several for "gelu_tanh".
Activation = Literal[
    "gelu", "gelu_tanh", "relu", "silu", "gelu_10", "hardswish", "laplace", "leaky_relu", "linear", "mish", "quick_gelu", "relu2",
    "relu6", "sigmoid", "sqrtsoftplus", "tanh",
]  # fmt: skip
ACTIVATIONS: tuple[str, ...] = get_args(Activation)
Positions = Literal["learned", "sinusoidal", "rotary", "alibi"]
NormKind = Literal["layer", "rms"]
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
    "head_size": 1,
    "num_key_value_heads": 1,
    "disentangled_span": 0,
    "padding_idx": 0,
    "mask_idx": 0,
    "type_vocab_size": 0,
    "embedding_dim": 1,
    "window": 0,
    "global_every": 1,
    "relative_buckets": 0,
    "relative_max_distance": 1,
}
# Maximum of the integer fields: 2 window + 1 still fits 64 bits.
_MOST = 2**62 - 1
_NUMBERS = ("dropout", "layer_norm_eps", "rotary_theta", "local_rotary_theta", "attention_scale", "softcap")
# Minimum of a rotary base: with a smaller base the angles of late tokens overflow to infinity.
_LEAST_THETA = 1e-300
_MAY_BE_NONE = (
    "vocab_size", "padding_idx", "mask_idx", "embedding_dim", "window", "local_rotary_theta", "head_size", "num_key_value_heads",
    "attention_scale", "softcap",
)  # fmt: skip
_TERMS = ("c2p", "p2c")
# Fields that ``fastattn.reference.encoder`` takes as options; the other fields follow from its parameters.
_REFERENCE = (
    "num_layers",
    "num_heads",
    "num_key_value_heads",
    "activation",
    "norm",
    "norm_first",
    "layer_norm_eps",
    "positions",
    "padding_idx",
    "mask_idx",
    "attention_scale",
    "softcap",
    "relative_max_distance",
    "disentangled_log",
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
    positions : "learned", "sinusoidal", "rotary", "alibi" or None
        Encoding of the position t of a token, from 0: a row of a learned table or sines, added to its embedding, a rotation
        of each head's queries and keys, or a bias of the scores that falls with the distance, by a slope for each head.
    vocab_size : int, optional
        Size V of the token embedding; without it the encoder takes hidden states only.
    max_positions : int
        Learned positions, which limit the length of a sequence: rows of their table, behind that of `padding_idx`.
    padding_idx : int, optional
        Token id that has no position (RoBERTa, MPNet): wherever it stands, the first row of the table of learned positions, which
        has one row more, is added to it, and the tokens behind it are counted without it.
    mask_idx : int, optional
        Token id whose embedding is zero, and for which the other embeddings of its text are divided by their share of the tokens
        (ESM); a text of this token alone has embeddings of zeros.
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
    head_size : int, optional
        Channels D of a head; C / H by default.
    num_key_value_heads : int, optional
        Heads G of keys and values, each for H / G heads of queries; H by default.
    norm : "layer" or "rms"
        Kind of every norm; "rms" neither subtracts the mean nor adds a bias.
    output_norms : bool
        With `norm_first` the output of each sublayer is normed too, before it is added.  Without, the sum behind the attention is
        normed, and the layer's input added to it again before the layer's own norm: ``norm(x + output_norm(x + attention(x)))``.
    query_key_norm : "head", "full" or None
        Norm of queries and keys before they turn: over the channels of each head with one weight for all, or over all heads.
    attention_scale : float, optional
        Factor of the scores; D^-0.5 by default.
    softcap : float, optional
        Bound of the scaled scores, approached by tanh.
    layers : sequence of LayerConfig, optional
        Where each layer looks, in place of what `is_causal`, `window`, `global_every` and the bases say; its experts, convolution.
    disentangled : tuple of "c2p" and "p2c"
        Terms of the scores that depend on content and distance: queries with the key of a distance, keys with its query.
    disentangled_span : int
        Number S of distances on a side, nearest or in buckets; greater ones share the last.
    disentangled_log : bool
        Distances beyond S / 2 share buckets that grow with the logarithm up to `relative_max_distance`.

    Raises
    ------
    ValueError
        A size is not positive or above 2^62 - 1, a number is not finite or out of its range, `num_heads` does not divide
        `hidden_dim`, or an option is not one of those above.

    References
    ----------
    Rotary positions: Su et al. 2021, arXiv:2104.09864, section 3.4.2.  Gate: Shazeer 2020, arXiv:2002.05202, section 2.
    Window and global layers: Warner et al. 2024, arXiv:2412.13663, section 2.1.2.  Relative bias: Raffel et al. 2020,
    arXiv:1910.10683, section 2.1.  Factorised embedding: Lan et al. 2019, arXiv:1909.11942, section 3.1.  Slopes: Press et al.
    2021, arXiv:2108.12409, section 3.  RMS norm: Zhang & Sennrich 2019, arXiv:1910.07467.  Shared key heads: Ainslie et al.
    2023, arXiv:2305.13245, section 2.2.  Disentangled scores: He et al. 2020, arXiv:2006.03654, section 3.1.
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
    mask_idx: int | None = None
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
    head_size: int | None = None
    num_key_value_heads: int | None = None
    norm: NormKind = "layer"
    output_norms: bool = False
    query_key_norm: Literal["head", "full"] | None = None
    attention_scale: float | None = None
    softcap: float | None = None
    layers: tuple[LayerConfig, ...] | None = None
    disentangled: tuple[str, ...] = ()
    disentangled_span: int = 0
    disentangled_log: bool = False

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
        for name in ("norm_first", "is_causal", "gated", "output_norms", "disentangled_log"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if self.head_size is None and self.hidden_dim % self.num_heads:
            raise ValueError(f"num_heads must divide hidden_dim, got {self.num_heads} heads for a width of {self.hidden_dim}")
        if self.num_heads % self.key_value_heads:
            raise ValueError(f"num_key_value_heads must divide num_heads, got {self.key_value_heads} for {self.num_heads} heads")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout!r}")
        if self.layer_norm_eps < 0:
            raise ValueError(f"layer_norm_eps must be at least 0, got {self.layer_norm_eps!r}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {self.activation!r}")
        if self.positions not in (*get_args(Positions), None):
            raise ValueError(f'positions must be "learned", "sinusoidal", "rotary", "alibi" or None, got {self.positions!r}')
        if self.norm not in get_args(NormKind):
            raise ValueError(f'norm must be "layer" or "rms", got {self.norm!r}')
        if self.query_key_norm not in ("head", "full", None):
            raise ValueError(f'query_key_norm must be "head", "full" or None, got {self.query_key_norm!r}')
        for name in ("attention_scale", "softcap"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)!r}")
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
        self._check_disentangled()
        if self.layers is not None:
            is_rotary = self.positions == "rotary"
            layers = checked_layers(self.layers, self.num_layers, self.head_dim if is_rotary else 0, ACTIVATIONS)
            object.__setattr__(self, "layers", layers)
        if self.gated and experts_of(self.layers):
            raise ValueError("layers with experts exclude gated: an expert has no gate")

    def _check_disentangled(self) -> None:
        terms, span = tuple(self.disentangled), self.disentangled_span
        object.__setattr__(self, "disentangled", terms)
        if set(terms) - set(_TERMS) or len(set(terms)) < len(terms):
            raise ValueError(f"disentangled must hold each of {', '.join(_TERMS)} at most once, got {terms!r}")
        if bool(terms) != (span > 0):
            raise ValueError(f"disentangled_span must be positive with disentangled terms and only then, got {span}")
        if terms and self.key_value_heads != self.num_heads:
            raise ValueError(f"disentangled terms need as many key heads as heads, got num_key_value_heads {self.key_value_heads}")
        if self.disentangled_log and (span < 4 or self.relative_max_distance <= span // 2 + 1):
            raise ValueError(
                "disentangled_log needs a disentangled_span S of at least 4 and a relative_max_distance greater than S / 2 + 1,"
                f" got {span} and {self.relative_max_distance}"
            )
        if (self.relative_buckets > 0) + (self.positions == "alibi") + bool(terms) > 1:
            raise ValueError("relative_buckets, positions 'alibi' and disentangled exclude each other: scores have one bias")

    @property
    def head_dim(self) -> int:
        """Channels D of a head."""
        return self.hidden_dim // self.num_heads if self.head_size is None else self.head_size

    @property
    def key_value_heads(self) -> int:
        """Heads G of keys and values."""
        return self.num_heads if self.num_key_value_heads is None else self.num_key_value_heads

    @property
    def query_dim(self) -> int:
        """Width of the queries of a token: H D."""
        return self.num_heads * self.head_dim

    @property
    def key_dim(self) -> int:
        """Width of the keys of a token, and of its values: G D."""
        return self.key_value_heads * self.head_dim

    @property
    def query_norm_dim(self) -> int:
        """Channels that the norm of queries spans."""
        return self.query_dim if self.query_key_norm == "full" else self.head_dim

    @property
    def key_norm_dim(self) -> int:
        """Channels that the norm of keys spans."""
        return self.key_dim if self.query_key_norm == "full" else self.head_dim

    @property
    def disentangled_rows(self) -> int:
        """Rows of the tables of disentangled terms: 2 S."""
        return 2 * self.disentangled_span

    @property
    def rotary_dim(self) -> int:
        """Channels R of a head that turn."""
        if self.positions != "rotary":
            return 0
        rotary = None if self.layers is None else self.layers[0].rotary
        return self.head_dim if rotary is None else 2 * len(rotary.inv_freq)

    @property
    def position_rows(self) -> int:
        """Rows of the table of learned positions: `max_positions`, and the padding's where there is a `padding_idx`."""
        return self.max_positions + (self.padding_idx is not None)

    @property
    def qkv_dim(self) -> int:
        """Width of a row of queries, keys and values: (H + 2 G) D."""
        return self.query_dim + 2 * self.key_dim

    @property
    def input_dim(self) -> int:
        """Width of the embedding tables: E, or C where there is no projection."""
        return self.hidden_dim if self.embedding_dim is None else self.embedding_dim

    def layer(self, index: int) -> LayerConfig:
        """Return where a layer looks.

        Parameters
        ----------
        index : int
            Counted from 0.

        Returns
        -------
        LayerConfig
        """
        if self.layers is not None:
            return self.layers[index]
        local = self.window is not None and index % self.global_every != 0
        side = self.window if local else None
        theta = self.rotary_theta if self.local_rotary_theta is None or not local else self.local_rotary_theta
        rotary = default_rotary(theta, self.head_dim) if self.positions == "rotary" else None
        return LayerConfig((side, 0 if self.is_causal else side), rotary)

    def is_local(self, layer: int) -> bool:
        """Tell whether a layer's attention is limited to a window.

        Parameters
        ----------
        layer : int
            Counted from 0.

        Returns
        -------
        bool
        """
        return self.layer(layer).window[0] is not None

    def reference_options(self) -> dict[str, Any]:
        """Return the options of ``fastattn.reference.encoder``.

        Returns
        -------
        dict of str
        """
        layers = [self.layer(index) for index in range(self.num_layers)]
        return {**{name: getattr(self, name) for name in _REFERENCE}, "layers": layers}


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
