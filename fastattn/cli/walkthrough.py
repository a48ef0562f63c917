"""A transformer encoder step by step on a text whose characters are the tokens."""

from __future__ import annotations

import math
import textwrap
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.columns import Columns
from rich.text import Text

from fastattn.cli.terminal import error_in_eps, heat_map, output
from fastattn.encoder.encoder import Encoder, EncoderConfig
from fastattn.kernels.ops.attention import scaled_dot_product_attention
from fastattn.kernels.ops.layer_norm import layer_norm
from fastattn.kernels.ops.linear import linear
from fastattn.kernels.ops.softmax import softmax
from fastattn.parameters import may_be_absent, parameters_of

__all__ = ["walk"]

Array = NDArray[Any]

_SEED = 0
# The most tokens in 80 columns: in a map with cells of two characters, and in two maps side by side.
_MAP_TOKENS, _PAIR_TOKENS = 36, 32
_VALUES = 6
# Limits that keep a run to seconds and a few hundred megabytes: the reference keeps the scores of every head.
_MOST_TOKENS = 256
_MOST = {"dim": 256, "heads": 16, "ff": 1024, "layers": 6}


def walk(text: str, *, dim: int, heads: int, ff: int, layers: int, dropout: float) -> None:
    """Print the walkthrough; ValueError if `text` is empty or an argument exceeds its limit."""
    if not text:
        raise ValueError("the text is empty: give at least one character")
    if len(text) > _MOST_TOKENS:
        raise ValueError(f"text must have at most {_MOST_TOKENS} characters, got {len(text)}")
    for name, value in (("dim", dim), ("heads", heads), ("ff", ff), ("layers", layers)):
        if value > _MOST[name]:
            raise ValueError(f"{name} must be at most {_MOST[name]}, got {value}")
    vocabulary = sorted(set(text))
    config = EncoderConfig(
        num_layers=layers,
        num_heads=heads,
        hidden_dim=dim,
        ff_dim=ff,
        dropout=dropout,
        positions="sinusoidal",
        vocab_size=len(vocabulary),
    )
    parameters = _random_parameters(config)
    ids = np.array([vocabulary.index(character) for character in text], np.int32)
    _show_tokens(text, vocabulary, ids)
    embedded = _show_embeddings(text, parameters, ids)
    x = _show_positions(embedded)
    attended = _show_attention(text, config, parameters, x)
    normed = _show_add_and_norm(x, attended, parameters)
    _show_feed_forward(config, parameters, normed)
    _show_stack(config, parameters, ids)
    _show_dropout(config, parameters, ids)
    _show_causal(text, config, parameters, ids, x)


def _random_parameters(config: EncoderConfig) -> dict[str, Array]:
    """Return weights that keep variances at about 1, so that attention is neither flat nor all on one token."""
    rng = np.random.default_rng(_SEED)
    parameters: dict[str, Array] = {}
    for name, parameter in parameters_of(config):
        if may_be_absent(config, name, parameter):
            continue
        shape = parameter.shape_in(config)
        if parameter.kind == "norm":
            weight = np.ones(shape, np.float32)
        else:
            weight = rng.standard_normal(shape, np.float32)
        if parameter.kind == "matrix":
            weight = weight / np.float32(math.sqrt(shape[1]))
        parameters[f"{name}.weight"] = weight
        if parameter.kind != "table":
            parameters[f"{name}.bias"] = np.zeros(shape[0], np.float32)
    return parameters


def _show_tokens(text: str, vocabulary: list[str], ids: Array) -> None:
    _title(1, "Text to tokens", "every character is a token; the vocabulary is the sorted set of characters")
    _wrapped("vocabulary", [f"{i}:{_visible(character)}" for i, character in enumerate(vocabulary)])
    _wrapped("tokens, in order", [f"{_visible(character)}:{i}" for character, i in zip(text, ids, strict=True)])
    _say(f"ids ({len(ids)},) int32: the text has T = {len(ids)} tokens of V = {len(vocabulary)} kinds")


def _show_embeddings(text: str, parameters: dict[str, Array], ids: Array) -> Array:
    _title(2, "Embeddings", f"each token looks up its row of a table, random here (seed {_SEED})")
    table = parameters["embeddings.token.weight"]
    embedded = np.asarray(table[ids])
    _say(f"table {table.shape}  ->  x {embedded.shape}: token t is row ids[t]")
    _values([f"{_visible(character)} at {t}" for t, character in enumerate(text[:3])], embedded)
    first, count = next(((c, text.count(c)) for c in text if text.count(c) > 1), ("", 0))
    if count:
        places = [str(t) for t, character in enumerate(text) if character == first]
        listed = ", ".join(places[:_VALUES]) + (", ..." if count > _VALUES else "")
        _say(f"{_visible(first)} stands at {listed}: one and the same row, so far without a trace of its place")
    _say("a lookup computes nothing: no error")
    return embedded


def _show_positions(embedded: Array) -> Array:
    from fastattn import reference

    _title(3, "Positions", "added: sin(t / 10000^(2i/C)) in channel 2i, cos of the same angle in channel 2i+1")
    t, c = embedded.shape
    exact = reference.sinusoidal_positions(t, c)
    positions = exact.astype(np.float32)
    shown = min(t, 16)
    channels = min(c, _MAP_TOKENS)
    rows = [f"t={i:<3}" for i in range(shown)]
    for line in heat_map((positions[:shown, :channels] + 1) / 2, rows):
        output.print(line)
    where = f"tokens 0 .. {shown - 1}, channels 0 .. {channels - 1}"
    _say(f"positions {positions.shape}; above, {where}, from -1 (dark) to 1 (bright)")
    x = embedded + positions
    _values([f"x[{i}]" for i in range(min(3, t))], x)
    _error("float32 against float64", x, embedded.astype(np.float64) + exact)
    return x


def _show_attention(text: str, config: EncoderConfig, parameters: dict[str, Array], x: Array) -> Array:
    from fastattn import reference

    h, d = config.num_heads, config.head_dim
    _title(4, "Self-attention", f"each token mixes in the others; H = {h} heads of D = C/H = {d} channels")
    query, key, value = (_heads(config, parameters, name, x) for name in ("query", "key", "value"))
    scores = np.einsum("htd,hsd->hts", query, key) * np.float32(1 / math.sqrt(d))
    weights = softmax(scores)
    _say(f"query, key, value {query.shape}: (H, T, D)")
    _say(f"weights = softmax(query key^T / sqrt(D)) {weights.shape}: (H, T, T)")
    output.print()
    shown = min(len(text), _MAP_TOKENS)
    labels = [_visible(character) for character in text[:shown]]
    for line in heat_map(weights[0, :shown, :shown], labels, labels, high=float(weights[0].max())):
        output.print(line)
    cut = f"; the first {shown} of {len(text)} tokens" if shown < len(text) else ""
    _say(f"head 0: how much each token (row) looks at each other (column), brightest {weights[0].max():.2f}{cut}")
    _say(f"each row sums to 1: {weights[0].sum(axis=1).min():.6f} .. {weights[0].sum(axis=1).max():.6f}")
    context = scaled_dot_product_attention(query, key, value)
    exact = [array.astype(np.float64) for array in (query, key, value)]
    _error("softmax kernel", weights, reference.softmax(scores.astype(np.float64)))
    _error("attention kernel", context, reference.scaled_dot_product_attention(*exact))
    joined = np.swapaxes(context, 0, 1).reshape(x.shape)
    name = "layers.0.attention.output"
    attended = linear(joined, parameters[f"{name}.weight"], parameters[f"{name}.bias"])
    _say(f"heads end to end {joined.shape}, times the output weight  ->  {attended.shape}")
    _values([f"out[{i}]" for i in range(min(3, len(x)))], attended)
    return attended


def _show_add_and_norm(x: Array, attended: Array, parameters: dict[str, Array]) -> Array:
    from fastattn import reference

    _title(5, "Add and layer norm", "z = x + attention(x); every token is brought to mean 0 and variance 1")
    weight, bias = (parameters[f"layers.0.attention.layer_norm.{part}"] for part in ("weight", "bias"))
    normed = layer_norm(attended, weight, bias, residual=x, eps=1e-12)
    z = x + attended
    _say(f"z {z.shape}: means {_range(z.mean(axis=1))}, deviations {_range(z.std(axis=1))}")
    _say(f"y {normed.shape}: means {_range(normed.mean(axis=1))}, deviations {_range(normed.std(axis=1))}")
    _values([f"y[{i}]" for i in range(min(3, len(x)))], normed)
    exact = [array.astype(np.float64) for array in (attended, weight, bias)]
    _error("layer_norm kernel", normed, reference.layer_norm(*exact, residual=x.astype(np.float64), eps=1e-12))
    return normed


def _show_feed_forward(config: EncoderConfig, parameters: dict[str, Array], y: Array) -> None:
    from fastattn import reference

    c, f = config.hidden_dim, config.ff_dim
    _title(6, "Feed-forward network", "each token by itself: gelu(y W1^T + b1) W2^T + b2, then add and norm again")
    name = "layers.0.feed_forward"
    inner = linear(y, parameters[f"{name}.input.weight"], parameters[f"{name}.input.bias"], activation="gelu")
    result = linear(inner, parameters[f"{name}.output.weight"], parameters[f"{name}.output.bias"])
    _say(f"{y.shape}  -> W1 ({f}, {c}), gelu ->  {inner.shape}  -> W2 ({c}, {f}) ->  {result.shape}")
    _say(f"gelu leaves {np.mean(inner > 0):.0%} of {inner.size:,} inner values positive; the least is {inner.min():.3f}")
    _values([f"out[{i}]" for i in range(min(3, len(y)))], result)
    exact = {key: array.astype(np.float64) for key, array in parameters.items()}
    _error("linear + gelu kernels", result, reference.feed_forward(exact, name, y.astype(np.float64)))


def _show_stack(config: EncoderConfig, parameters: dict[str, Array], ids: Array) -> None:
    _title(7, "The encoder", f"steps 4 to 6, {config.num_layers} layers deep, in one call")
    encoder = Encoder(config, parameters=parameters)
    hidden = encoder(ids[None])[0]
    _say(f"ids (1, {len(ids)})  ->  hidden states {(1, *hidden.shape)}; {encoder.parameters_count:,} parameters")
    _values([f"h[{i}]" for i in range(min(3, len(ids)))], hidden)
    _error("whole encoder", hidden, _exact(config, parameters, ids))


def _show_dropout(config: EncoderConfig, parameters: dict[str, Array], ids: Array) -> None:
    _title(8, "Dropout", f"in training each element is dropped with probability {config.dropout:g}; inference drops none")
    encoder = Encoder(config, parameters=parameters)

    def train(seed: int) -> Array:
        return np.asarray(encoder(ids[None], training=True, rng=np.random.default_rng(seed))[0])

    inference, first, second = encoder(ids[None])[0], train(1), train(2)
    _values(["inference", "train, seed 1", "train, seed 2"], np.stack([run[0] for run in (inference, first, second)]))
    away = np.abs(first - inference).mean()
    same = "the same" if np.array_equal(first, train(1)) else "different"
    _say(f"token 0 above; on average training is {away:.3f} away from inference; seed 1 again gives {same} bits")


def _show_causal(text: str, config: EncoderConfig, parameters: dict[str, Array], ids: Array, x: Array) -> None:
    from fastattn import reference

    _title(9, "Bidirectional and causal", "an encoder looks both ways; a causal one only at what came before")
    query, key = (_heads(config, parameters, name, x) for name in ("query", "key"))
    shown = min(len(text), _PAIR_TOKENS)
    cell = 2 if shown <= _PAIR_TOKENS // 2 else 1
    labels = [_visible(character) for character in text[:shown]]
    maps = []
    for name, is_causal in (("bidirectional", False), ("causal", True)):
        weights = reference.attention_weights(query, key, is_causal=is_causal)[0, :shown, :shown]
        lines = heat_map(weights, labels, labels, cell=cell, high=float(weights.max()))
        maps.append(Text("\n").join([Text(name, "bold"), *lines]))
    output.print(Columns(maps, padding=(0, 6)))
    output.print()
    other = ids.copy()
    other[-1] = (ids[-1] + 1) % len(parameters["embeddings.token.weight"])
    for name, is_causal in (("bidirectional", False), ("causal", True)):
        chosen = replace(config, is_causal=is_causal)
        encoder = Encoder(chosen, parameters=parameters)
        hidden = encoder(ids[None])[0]
        if other[-1] != ids[-1]:
            moved = int(np.any(hidden != encoder(other[None])[0], axis=1).sum())
            _say(f"{name}: another last character changes {moved} of {len(ids)} hidden states")
        _error(f"whole encoder, {name}", hidden, _exact(chosen, parameters, ids))


def _heads(config: EncoderConfig, parameters: dict[str, Array], name: str, x: Array) -> Array:
    """Return the query, key or value of layer 0, (H, T, D)."""
    prefix = f"layers.0.attention.{name}"
    rows = linear(x, parameters[f"{prefix}.weight"], parameters[f"{prefix}.bias"])
    split = rows.reshape(len(x), config.num_heads, -1)
    return np.ascontiguousarray(np.swapaxes(split, 0, 1))


def _exact(config: EncoderConfig, parameters: dict[str, Array], ids: Array) -> Array:
    """Return the reference's hidden states in float64, (T, C)."""
    from fastattn import reference

    hidden: Array = reference.encoder(
        {name: array.astype(np.float64) for name, array in parameters.items()},
        ids[None],
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        activation=config.activation,
        norm_first=config.norm_first,
        layer_norm_eps=config.layer_norm_eps,
        positions=config.positions,
        is_causal=config.is_causal,
    )[0]
    return hidden


def _title(number: int, name: str, meaning: str) -> None:
    output.print(f"\n{number}  {name}", style="bold cyan", markup=False)
    _say(f"{meaning[0].upper()}{meaning[1:]}.")
    output.print()


def _say(line: str) -> None:
    for part in textwrap.wrap(line, output.width - 3) or [""]:
        output.print(f"   {part}", markup=False)


def _error(what: str, result: Array, truth: Array) -> None:
    error = error_in_eps(result, truth)
    output.print(f"   {what}: worst error against the reference {error:.2f} eps", markup=False, style="green")


def _values(labels: list[str], rows: Array) -> None:
    """Print the first channels of the first rows."""
    width = max(map(len, labels))
    for label, row in zip(labels, rows, strict=False):
        numbers = " ".join(f"{value:8.3f}" for value in row[:_VALUES])
        output.print(f"   {label:<{width}} {numbers}{' ...' if len(row) > _VALUES else ''}", markup=False)


def _wrapped(name: str, items: list[str]) -> None:
    """Print items in columns that fit the width."""
    _say(f"{name}:")
    cell = max(map(len, items)) + 2
    each = max(1, (output.width - 6) // cell)
    for start in range(0, len(items), each):
        output.print("      " + "".join(item.ljust(cell) for item in items[start : start + each]).rstrip(), markup=False)


def _range(values: Array) -> str:
    return f"{values.min():.3f} .. {values.max():.3f}"


def _visible(character: str) -> str:
    """Return a printable stand-in for a space or control character; other characters unchanged."""
    if character == " ":
        return "␣"
    return character if character.isprintable() else {"\n": "␤", "\t": "␉"}.get(character, "·")
