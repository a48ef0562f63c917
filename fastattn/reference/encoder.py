"""The encoder: embeddings, the layers and the final norm."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastattn.reference.layer import Attend, encoder_layer, layer_attention_weights, normed, product
from fastattn.reference.positions import alibi_bias, relative_bias, sinusoidal_positions
from fastattn.reference.precision import Linear

Array: TypeAlias = NDArray[Any]


def embeddings(
    parameters: Mapping[str, Array],
    x: Array,
    token_type_ids: Array | None = None,
    *,
    positions: str | None = None,
    padding_idx: int | None = None,
    mask_idx: int | None = None,
    norm: str = "layer",
    layer_norm_eps: float = 1e-12,
    linear: Linear | None = None,
) -> Array:
    """Input of the first layer, ``projection(layer_norm(token[x] + position[t] + token_type[...]))``.

    The token-type term, the norm and the projection are left out if their parameters are absent.

    Parameters
    ----------
    parameters : mapping of str to ndarray
        The encoder's parameters.
    x : ndarray, int (..., T) or float (..., T, E)
        Token ids, or vectors used instead of token embeddings; E is C without a projection.
    token_type_ids : ndarray of int, (..., T), optional
        Zeros by default.
    positions : {"learned", "sinusoidal", "rotary", "alibi", None}
        The positions to add, counted from 0; "rotary" and "alibi" add nothing here.
    padding_idx : int, optional
        Token id that has row 0 of the learned table wherever it stands; the other ids have rows 1, 2, ... in their order.
    mask_idx : int, optional
        Token id whose embedding is zero; the other embeddings of its text are divided by their share of the tokens, if there are
        any.
    norm : {"layer", "rms"}
        Kind of the norm.
    layer_norm_eps : float
        Added to the variance.
    linear : callable, optional
        As in `encoder`; the projection's name is ``embeddings.projection``.

    Returns
    -------
    ndarray, (..., T, C)
        Dtype of the parameters, or of a float `x`.

    Raises
    ------
    ValueError
        If `positions` is not one of the values above.

    References
    ----------
    Devlin et al. 2018, arXiv:1810.04805, section 3, figure 2; projection: Lan et al. 2019, arXiv:1909.11942, section 3.1.
    """
    is_ids = np.issubdtype(x.dtype, np.integer)
    hidden = parameters["embeddings.token.weight"][x] if is_ids else x  # (..., T, E)
    num_tokens, hidden_dim = hidden.shape[-2:]
    if is_ids and mask_idx is not None:
        shown = (x != mask_idx)[..., None]  # (..., T, 1)
        share = shown.mean(axis=-2, keepdims=True)  # (..., 1, 1)
        hidden = (hidden * shown / np.where(share > 0, share, 1)).astype(hidden.dtype)
    if positions == "learned":
        places = np.arange(num_tokens)
        if padding_idx is not None:
            counted = x != padding_idx if is_ids else np.ones(x.shape[:-1], bool)  # (..., T)
            places = np.cumsum(counted, axis=-1) * counted
        hidden = hidden + parameters["embeddings.position.weight"][places]
    elif positions == "sinusoidal":
        hidden = hidden + sinusoidal_positions(num_tokens, hidden_dim).astype(hidden.dtype)
    elif positions not in ("rotary", "alibi", None):
        raise ValueError(f'positions must be "learned", "sinusoidal", "rotary", "alibi" or None, got {positions!r}')
    if "embeddings.token_type.weight" in parameters:
        hidden = hidden + parameters["embeddings.token_type.weight"][0 if token_type_ids is None else token_type_ids]
    hidden = normed(parameters, "embeddings.layer_norm", hidden, eps=layer_norm_eps, kind=norm)
    if "embeddings.projection.weight" not in parameters:
        return hidden
    return product(parameters, "embeddings.projection", hidden, linear=linear)


def encoder(
    parameters: Mapping[str, Array],
    x: Array,
    attention_mask: Array | None = None,
    *,
    token_type_ids: Array | None = None,
    num_layers: int,
    num_heads: int,
    num_key_value_heads: int | None = None,
    activation: str = "gelu",
    norm: str = "layer",
    norm_first: bool = False,
    layer_norm_eps: float = 1e-12,
    positions: str | None = None,
    padding_idx: int | None = None,
    mask_idx: int | None = None,
    is_causal: bool = False,
    layers: Sequence[tuple[Any, ...]] | None = None,
    attention_scale: float | None = None,
    softcap: float | None = None,
    relative_max_distance: int = 128,
    disentangled_log: bool = False,
    linear: Linear | None = None,
    attend: Attend | None = None,
    return_hidden_states: bool = False,
    return_attention: bool = False,
) -> Any:
    """Encode each sequence separately: embeddings, every layer, and the final norm if its parameters are present.

    Parameters
    ----------
    parameters : mapping of str to ndarray
        The encoder's parameters; their dtype is the dtype of the arithmetic.
    x : ndarray, int (B, T) or float (B, T, E)
        Token ids, or vectors used instead of token embeddings.
    attention_mask : ndarray of bool or 0/1, (B, T), optional
        True marks a real token.  All other tokens are removed before the computation, so they have no influence and no
        position.
    token_type_ids : ndarray of int, (B, T), optional
        Zeros by default.
    num_layers : int
        Number of layers.
    num_heads : int
        Number of heads H.
    num_key_value_heads : int, optional
        Heads of keys and values; H by default.
    activation : str
        Activation of the feed-forward network.
    norm : {"layer", "rms"}
        Kind of every norm.
    norm_first : bool
        Pre-norm layers instead of post-norm.
    layer_norm_eps : float
        Added to the variance, or to the mean of the squares.
    positions : {"learned", "sinusoidal", "rotary", "alibi", None}
        Positions, counted from 0: added to the embeddings, a rotation of queries and keys as `layers` say, or `alibi_bias`.
    padding_idx, mask_idx : int, optional
        Arguments of `embeddings`.
    is_causal : bool
        Without `layers`: token t sees tokens 0 .. t.
    layers : sequence of (window, rotary), with (count, top_k) and (size, activation) behind them or not, optional
        Arguments of `encoder_layer`, for each layer: the third for one with experts, the fourth for one with a convolution; by
        default it sees all tokens, and nothing turns.
    attention_scale, softcap : float, optional
        Arguments of `encoder_layer`.
    relative_max_distance : int
        Argument of `relative_bias`, which every layer adds to its scores if `parameters` has ``relative_bias.weight``, and with
        `disentangled_log` of `disentangled_row`.
    disentangled_log : bool
        Whether `disentangled_row` gets a `max_distance`.
    linear : callable, optional
        ``linear(name, x, weight, bias, activation)`` computes the products of the layers and of the embeddings' projection instead
        of `reference.linear`, for example `mixed_linear` in another precision; `name` is the prefix of their parameters, such as
        ``layers.0.attention.query``.
    attend : callable, optional
        Computes the heads' attention instead of `reference.scaled_dot_product_attention`, for example
        `scaled_dot_product_attention_bfloat16`.
    return_hidden_states : bool
        Also return the hidden states of every layer.
    return_attention : bool
        Also return the `layer_attention_weights` of every layer.

    Returns
    -------
    hidden : ndarray, (B, T, C)
        Hidden states; zeros where `attention_mask` is False.  The first of a tuple if another output is requested.
    hidden_states : ndarray, (layers + 1, B, T, C)
        With `return_hidden_states`: the input of each layer, then `hidden`.
    attention : ndarray, (layers, B, H, T, T)
        With `return_attention`; zeros where `attention_mask` of the query or of the key is False.

    References
    ----------
    Devlin et al. 2018, arXiv:1810.04805, section 3; local and global layers: Warner et al. 2024, arXiv:2412.13663,
    section 2.1.2.
    """
    real = np.ones(x.shape[:2], dtype=bool) if attention_mask is None else attention_mask.astype(bool)  # (B, T)
    weight = parameters["layers.0.attention.query.weight"]
    b_all, t_all = x.shape[:2]
    states = np.zeros((num_layers + 1 if return_hidden_states else 1, b_all, t_all, weight.shape[1]), weight.dtype)
    attention = np.zeros((num_layers if return_attention else 0, b_all, num_heads, t_all, t_all), weight.dtype)
    for b in range(b_all):
        types = None if token_type_ids is None else token_type_ids[b, real[b]]
        choices: dict[str, Any] = {
            "positions": positions,
            "padding_idx": padding_idx,
            "mask_idx": mask_idx,
            "norm": norm,
            "layer_norm_eps": layer_norm_eps,
        }
        hidden = embeddings(parameters, x[b, real[b]], types, linear=linear, **choices)
        bias = position_bias(parameters, len(hidden), num_heads, positions, relative_max_distance)  # (H, T, T)
        for index in range(num_layers):
            layer: Any = ((None, 0 if is_causal else None), None) if layers is None else layers[index]
            _, _, experts, convolution = (*layer, None, None)[:4]
            options: dict[str, Any] = {
                "num_heads": num_heads,
                "num_key_value_heads": num_key_value_heads,
                "norm": norm,
                "norm_first": norm_first,
                "layer_norm_eps": layer_norm_eps,
                "window": layer[0],
                "rotary": layer[1],
                "attention_scale": attention_scale,
                "softcap": softcap,
                "disentangled_max_distance": relative_max_distance if disentangled_log else None,
                "linear": linear,
            }
            if return_hidden_states:
                states[index, b, real[b]] = hidden
            if return_attention:
                both = real[b][:, None] & real[b]  # (T, T)
                weights = layer_attention_weights(parameters, index, hidden, bias, **options)  # (H, tokens, tokens)
                attention[index, b][:, both] = weights.reshape(num_heads, -1)
            more: dict[str, Any] = {
                "attend": attend,
                "top_k": experts[1] if experts else 1,
                "convolution_activation": convolution[1] if convolution else None,
            }
            hidden = encoder_layer(parameters, index, hidden, bias, activation=activation, **more, **options)
        states[-1, b, real[b]] = normed(parameters, "layer_norm", hidden, eps=layer_norm_eps, kind=norm)
    asked = [*([states] if return_hidden_states else []), *([attention] if return_attention else [])]
    return (states[-1], *asked) if asked else states[-1]


def position_bias(
    parameters: Mapping[str, Array], num_tokens: int, num_heads: int, positions: str | None, relative_max_distance: int
) -> Array | None:
    """The bias of all layers' scores, (H, T, T): `relative_bias` or `alibi_bias`; None where there is neither."""
    if positions == "alibi":
        return alibi_bias(num_heads, num_tokens).astype(parameters["layers.0.attention.query.weight"].dtype)
    table = parameters.get("relative_bias.weight")
    return None if table is None else relative_bias(table, num_tokens, relative_max_distance)
