"""The encoder: embeddings, the layers and the final norm."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastattn.reference.layer import encoder_layer, layer_attention_weights, norm, product
from fastattn.reference.positions import relative_bias, sinusoidal_positions
from fastattn.reference.precision import Linear

Array: TypeAlias = NDArray[Any]


def embeddings(
    parameters: Mapping[str, Array],
    x: Array,
    token_type_ids: Array | None = None,
    *,
    positions: str | None = None,
    padding_idx: int | None = None,
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
    positions : {"learned", "sinusoidal", "rotary", None}
        The positions to add, counted from 0; "rotary" adds nothing here.
    padding_idx : int, optional
        Token id that has row 0 of the learned table wherever it stands; the other ids have rows 1, 2, ... in their order.
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
    if positions == "learned":
        places = np.arange(num_tokens)
        if padding_idx is not None:
            counted = x != padding_idx if is_ids else np.ones(x.shape[:-1], bool)  # (..., T)
            places = np.cumsum(counted, axis=-1) * counted
        hidden = hidden + parameters["embeddings.position.weight"][places]
    elif positions == "sinusoidal":
        hidden = hidden + sinusoidal_positions(num_tokens, hidden_dim).astype(hidden.dtype)
    elif positions not in ("rotary", None):
        raise ValueError(f'positions must be "learned", "sinusoidal", "rotary" or None, got {positions!r}')
    if "embeddings.token_type.weight" in parameters:
        hidden = hidden + parameters["embeddings.token_type.weight"][0 if token_type_ids is None else token_type_ids]
    hidden = norm(parameters, "embeddings.layer_norm", hidden, eps=layer_norm_eps)
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
    activation: str = "gelu",
    norm_first: bool = False,
    layer_norm_eps: float = 1e-12,
    positions: str | None = None,
    padding_idx: int | None = None,
    is_causal: bool = False,
    rotary_theta: float = 10000.0,
    local_rotary_theta: float | None = None,
    window: int | None = None,
    global_every: int = 1,
    relative_max_distance: int = 128,
    linear: Linear | None = None,
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
    activation : str
        Activation of the feed-forward network.
    norm_first : bool
        Pre-norm layers instead of post-norm.
    layer_norm_eps : float
        Added to the variance.
    positions : {"learned", "sinusoidal", "rotary", None}
        Positions, counted from 0: added to the embeddings, or (rotary) a rotation of queries and keys.
    padding_idx : int, optional
        Argument of `embeddings`.
    is_causal : bool
        Token t sees tokens 0 .. t.
    rotary_theta : float
        Base of rotary positions.
    local_rotary_theta : float, optional
        Base of rotary positions in local layers; by default `rotary_theta`.
    window : int, optional
        In local layers token t sees tokens t - window .. t + window.
    global_every : int
        With a window, layer i is global if i is a multiple of `global_every`, else local.
    relative_max_distance : int
        Argument of `relative_bias`, which every layer adds to its scores if `parameters` has ``relative_bias.weight``.
    linear : callable, optional
        ``linear(name, x, weight, bias, activation)`` computes the products of the layers and of the embeddings' projection instead
        of `reference.linear`, for example `mixed_linear` in another precision; `name` is the prefix of their parameters, such as
        ``layers.0.attention.query``.
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
        choices: dict[str, Any] = {"positions": positions, "padding_idx": padding_idx, "layer_norm_eps": layer_norm_eps}
        hidden = embeddings(parameters, x[b, real[b]], types, linear=linear, **choices)
        table = parameters.get("relative_bias.weight")
        bias = None if table is None else relative_bias(table, len(hidden), relative_max_distance)  # (H, T, T)
        for index in range(num_layers):
            local = window is not None and index % global_every != 0
            theta = rotary_theta if local_rotary_theta is None or not local else local_rotary_theta
            options: dict[str, Any] = {
                "num_heads": num_heads,
                "norm_first": norm_first,
                "layer_norm_eps": layer_norm_eps,
                "is_causal": is_causal,
                "rotary_theta": theta if positions == "rotary" else None,
                "window": window if local else None,
                "linear": linear,
            }
            if return_hidden_states:
                states[index, b, real[b]] = hidden
            if return_attention:
                both = real[b][:, None] & real[b]  # (T, T)
                weights = layer_attention_weights(parameters, index, hidden, bias, **options)  # (H, tokens, tokens)
                attention[index, b][:, both] = weights.reshape(num_heads, -1)
            hidden = encoder_layer(parameters, index, hidden, bias, activation=activation, **options)
        states[-1, b, real[b]] = norm(parameters, "layer_norm", hidden, eps=layer_norm_eps)
    asked = [*([states] if return_hidden_states else []), *([attention] if return_attention else [])]
    return (states[-1], *asked) if asked else states[-1]
