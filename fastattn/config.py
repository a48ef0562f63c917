"""EncoderConfig: the sizes and choices that make an encoder."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

__all__ = ["EncoderConfig"]

_ACTIVATIONS = ("gelu", "gelu_tanh", "relu", "silu")


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes and choices of a transformer encoder.

    Parameters
    ----------
    num_layers : int
        Layers, at least 1.
    num_heads : int
        Attention heads H; divides `hidden_dim`.
    hidden_dim : int
        Width C of the hidden states.
    ff_dim : int
        Width F of the feed-forward network.
    dropout : float
        Probability, in [0, 1), with which training drops an element; inference never does.
    activation : "gelu", "gelu_tanh", "relu" or "silu"
        Of the feed-forward network; "gelu" is the erf form.
    norm_first : bool
        Layer norm before each sublayer instead of after the residual sum.
    layer_norm_eps : float
        Added to the variance.
    positions : "learned", "sinusoidal" or None
        What is added to token t of a sequence, counted from 0.
    vocab_size : int, optional
        Size V of the token embedding; without it the encoder takes hidden states only.
    max_positions : int
        Learned positions; the longest sequence then.
    type_vocab_size : int
        Token types; 0 for none.
    is_causal : bool
        Token t attends to tokens 0 .. t.

    Raises
    ------
    ValueError
        A size is not positive, `num_heads` does not divide `hidden_dim`, or a choice is not one of those above.
    """

    num_layers: int
    num_heads: int
    hidden_dim: int
    ff_dim: int
    dropout: float = 0.0
    _: KW_ONLY
    activation: str = "gelu"
    norm_first: bool = False
    layer_norm_eps: float = 1e-12
    positions: str | None = None
    vocab_size: int | None = None
    max_positions: int = 512
    type_vocab_size: int = 0
    is_causal: bool = False

    def __post_init__(self) -> None:
        """Check every field."""
        for name in (
            "num_layers",
            "num_heads",
            "hidden_dim",
            "ff_dim",
            "vocab_size",
            "max_positions",
            "type_vocab_size",
        ):
            value, least = getattr(self, name), 0 if name == "type_vocab_size" else 1
            if value is None and name == "vocab_size":
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
        if self.hidden_dim % self.num_heads:
            raise ValueError(f"num_heads must divide hidden_dim, got {self.num_heads} heads for a width of {self.hidden_dim}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout!r}")
        if self.activation not in _ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(_ACTIVATIONS)}, got {self.activation!r}")
        if self.positions not in ("learned", "sinusoidal", None):
            raise ValueError(f'positions must be "learned", "sinusoidal" or None, got {self.positions!r}')
        if not self.layer_norm_eps >= 0:
            raise ValueError(f"layer_norm_eps must be at least 0, got {self.layer_norm_eps!r}")
