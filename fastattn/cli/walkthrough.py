"""A transformer encoder step by step on a text whose characters are the tokens."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.columns import Columns
from rich.text import Text

from fastattn.cli.lessons.page import VALUES, check_text, error, say, title, values, visible, wrapped
from fastattn.cli.terminal import heat_map, output
from fastattn.encoder.encoder import Encoder, EncoderConfig
from fastattn.encoder.pooling import normalize, pool
from fastattn.kernels.ops.attention import scaled_dot_product_attention
from fastattn.kernels.ops.layer_norm import layer_norm
from fastattn.kernels.ops.linear import linear
from fastattn.kernels.ops.softmax import softmax
from fastattn.parameters import may_be_absent, parameters_of

__all__ = ["walk"]

Array = NDArray[Any]

# The most tokens in 80 columns: in a map with cells of two characters, and in two maps side by side.
_MAP_TOKENS, _PAIR_TOKENS = 36, 32
# Limits that keep a run to seconds and a few hundred megabytes, as that of the text: the reference keeps all scores.
_MOST = {"dim": 256, "heads": 16, "ff": 1024, "layers": 6}


def walk(text: str, *, dim: int, heads: int, ff: int, layers: int, dropout: float, seed: int) -> None:
    """Print the walkthrough; ValueError if `text` is empty or an argument exceeds its limit."""
    check_text(text)
    for name, value in (("dim", dim), ("heads", heads), ("ff", ff), ("layers", layers)):
        if value > _MOST[name]:
            raise ValueError(f"--{name} must be at most {_MOST[name]}, got {value}")
    if dim % heads:
        raise ValueError(f"--heads must divide --dim: {dim} channels cannot be split among {heads} heads")
    if not 0 <= dropout < 1:
        raise ValueError(f"--dropout must be in [0, 1), got {dropout:g}")
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
    parameters = _random_parameters(config, seed)
    ids = np.array([vocabulary.index(character) for character in text], np.int32)
    say("The weights are random: the steps are those of a trained model, the numbers and maps mean nothing yet.")
    say(
        f"In green: the distance of a kernel from the exact result, in eps ({np.finfo(np.float32).eps:.1e}), "
        "about the least relative difference in float32."
    )
    _show_tokens(text, vocabulary, ids)
    embedded = _show_embeddings(text, parameters, ids, seed)
    x = _show_positions(embedded)
    attended = _show_attention(text, config, parameters, x)
    normed = _show_add_and_norm(x, attended, parameters)
    _show_feed_forward(config, parameters, normed)
    _show_pooling(*_show_stack(config, parameters, ids))
    _show_dropout(config, parameters, ids)
    _show_causal(text, config, parameters, ids, x)


def _random_parameters(config: EncoderConfig, seed: int) -> dict[str, Array]:
    """Return weights that keep variances at about 1, so that attention is neither flat nor all on one token."""
    rng = np.random.default_rng(seed)
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
    title(1, "Text to tokens", "Every character is a token; the vocabulary is the sorted set of characters")
    say("Why: a network computes with numbers. Real models cut a text into words and pieces of words.\n")
    wrapped("vocabulary", [f"{i}:{visible(character)}" for i, character in enumerate(vocabulary)])
    wrapped("tokens, in order", [f"{visible(character)}:{i}" for character, i in zip(text, ids, strict=True)])
    say(f"ids ({len(ids)},) int32: the text has T = {len(ids)} tokens of V = {len(vocabulary)} kinds")


def _show_embeddings(text: str, parameters: dict[str, Array], ids: Array, seed: int) -> Array:
    title(2, "Embeddings", f"Each token looks up its row of a table, random here (seed {seed})")
    say("Why: an id says nothing about a character; the C numbers of a row can, and training sets them.\n")
    table = parameters["embeddings.token.weight"]
    embedded = np.asarray(table[ids])
    say(f"table {table.shape}: (V, C)  ->  x {embedded.shape}: (T, C), C channels a token; token t is row ids[t]")
    values([f"{visible(character)} at {t}" for t, character in enumerate(text[:3])], embedded)
    first, count = next(((c, text.count(c)) for c in text if text.count(c) > 1), ("", 0))
    if count:
        places = [str(t) for t, character in enumerate(text) if character == first]
        listed = ", ".join(places[:VALUES]) + (", ..." if count > VALUES else "")
        say(f"{visible(first)} stands at {listed}: one and the same row, so far without a trace of its place")
    say("a lookup computes nothing: no error")
    return embedded


def _show_positions(embedded: Array) -> Array:
    from fastattn import reference

    title(3, "Positions", "Added: sin(t / 10000^(2i/C)) in channel 2i, cos of the same angle in channel 2i+1")
    say(
        'Why: attention sees a set of tokens; without this "ab" and "ba" would be the same. '
        "Left channels turn fast, right ones slowly: in a short text the right ones look alike.\n"
    )
    t, c = embedded.shape
    exact = reference.sinusoidal_positions(t, c)
    positions = exact.astype(np.float32)
    shown = min(t, 16)
    channels = min(c, _MAP_TOKENS)
    rows = [f"t={i:<3}" for i in range(shown)]
    for line in heat_map((positions[:shown, :channels] + 1) / 2, rows):
        output.print(line)
    where = f"tokens 0 .. {shown - 1}, channels 0 .. {channels - 1}"
    say(f"positions {positions.shape}; above, {where}, from -1 (dark) to 1 (bright)")
    x = embedded + positions
    values([f"x[{i}]" for i in range(min(3, t))], x)
    error("float32 against float64", x, embedded.astype(np.float64) + exact)
    return x


def _show_attention(text: str, config: EncoderConfig, parameters: dict[str, Array], x: Array) -> Array:
    from fastattn import reference

    h, d = config.num_heads, config.head_dim
    title(4, "Self-attention", f"Each token mixes in the others; H = {h} heads of D = C/H = {d} channels")
    say(
        "Why: a token means something by what stands around it. Three linear maps of x give what a token looks for (query), what "
        "it offers (key) and what it hands over (value); a query fits a key by their product. A product of D numbers grows like "
        "sqrt(D): divided by that, softmax does not put all on one token. Each head has maps of its own.\n"
    )
    query, key, value = (_heads(config, parameters, name, x) for name in ("query", "key", "value"))
    scores = np.einsum("htd,hsd->hts", query, key) * np.float32(1 / math.sqrt(d))
    weights = softmax(scores)
    say(f"query, key, value {query.shape}: (H, T, D)")
    say(f"weights = softmax(query key^T / sqrt(D)) {weights.shape}: (H, T, T)")
    _show_softmax(text, scores[0, 0], weights[0, 0])
    output.print()
    shown = min(len(text), _MAP_TOKENS)
    labels = [visible(character) for character in text[:shown]]
    for line in heat_map(np.sqrt(weights[0, :shown, :shown]), labels, labels, high=math.sqrt(weights[0].max())):
        output.print(line)
    cut = f"; the first {shown} of {len(text)} tokens" if shown < len(text) else ""
    say(
        f"head 0: how much each token (row) looks at each other (column), brightest {weights[0].max():.2f}, by the square root{cut}"
    )
    say(f"each row sums to 1: {weights[0].sum(axis=1).min():.6f} .. {weights[0].sum(axis=1).max():.6f}")
    context = scaled_dot_product_attention(query, key, value)
    exact = [array.astype(np.float64) for array in (query, key, value)]
    error("softmax kernel", weights, reference.softmax(scores.astype(np.float64)))
    error("attention kernel", context, reference.scaled_dot_product_attention(*exact))
    joined = np.swapaxes(context, 0, 1).reshape(x.shape)
    name = "layers.0.attention.output"
    attended = linear(joined, parameters[f"{name}.weight"], parameters[f"{name}.bias"])
    say(f"heads end to end {joined.shape}, times the output weight  ->  {attended.shape}")
    values([f"out[{i}]" for i in range(min(3, len(x)))], attended)
    return attended


def _show_softmax(text: str, scores: Array, weights: Array) -> None:
    """Work out the first row of the weights: the scores of token 0 with each token."""
    shown = min(len(text), VALUES)
    powers = np.exp(scores - scores.max())
    say("head 0, the row of token 0: from each score s the greatest is taken away; the powers of e are divided by their sum")
    values(["score", "e^(s - max)", "weight"], np.stack([scores, powers, weights]))
    rest = " + ..." if len(text) > shown else ""
    say(f"the sum: {' + '.join(f'{power:.3f}' for power in powers[:shown])}{rest} = {powers.sum():.3f}")


def _show_add_and_norm(x: Array, attended: Array, parameters: dict[str, Array]) -> Array:
    from fastattn import reference

    title(5, "Add and layer norm", "z = x + attention(x); every token is brought to mean 0 and variance 1")
    say("Why: adding keeps what a token was and gives training a short way back; the norm keeps deep stacks from growing.\n")
    weight, bias = (parameters[f"layers.0.attention.layer_norm.{part}"] for part in ("weight", "bias"))
    normed = layer_norm(attended, weight, bias, residual=x, eps=1e-12)
    z = x + attended
    say(f"z {z.shape}: means {_range(z.mean(axis=1))}, deviations {_range(z.std(axis=1))}")
    say(f"y {normed.shape}: means {_range(normed.mean(axis=1))}, deviations {_range(normed.std(axis=1))}")
    values([f"y[{i}]" for i in range(min(3, len(x)))], normed)
    exact = [array.astype(np.float64) for array in (attended, weight, bias)]
    error("layer_norm kernel", normed, reference.layer_norm(*exact, residual=x.astype(np.float64), eps=1e-12))
    return normed


def _show_feed_forward(config: EncoderConfig, parameters: dict[str, Array], y: Array) -> None:
    from fastattn import reference

    c, f = config.hidden_dim, config.ff_dim
    title(6, "Feed-forward network", "Each token by itself: gelu(y W1^T + b1) W2^T + b2, then add and norm again")
    say(
        "Why: attention only mixes; here a token is worked on, and gelu, not being linear, keeps the layers from being one "
        "linear map.\n"
    )
    name = "layers.0.feed_forward"
    inner = linear(y, parameters[f"{name}.input.weight"], parameters[f"{name}.input.bias"], activation="gelu")
    result = linear(inner, parameters[f"{name}.output.weight"], parameters[f"{name}.output.bias"])
    say(f"{y.shape}  -> W1 ({f}, {c}), gelu ->  {inner.shape}  -> W2 ({c}, {f}) ->  {result.shape}")
    say(f"gelu leaves {np.mean(inner > 0):.0%} of {inner.size:,} inner values positive; the least is {inner.min():.3f}")
    values([f"out[{i}]" for i in range(min(3, len(y)))], result)
    exact = {key: array.astype(np.float64) for key, array in parameters.items()}
    error("linear + gelu kernels", result, reference.feed_forward(exact, name, y.astype(np.float64)))


def _show_stack(config: EncoderConfig, parameters: dict[str, Array], ids: Array) -> tuple[Array, Array]:
    """Show the whole encoder; return its hidden states, and the exact ones."""
    title(7, "The encoder", f"Steps 4 to 6, {config.num_layers} layers deep, in one call")
    say("Why: each layer works on what the one below made of the text.\n")
    encoder = Encoder(config, parameters=parameters)
    hidden = encoder(ids[None])[0]
    say(f"ids (1, {len(ids)})  ->  hidden states {(1, *hidden.shape)}; {encoder.parameters_count:,} parameters")
    values([f"h[{i}]" for i in range(min(3, len(ids)))], hidden)
    exact = _exact(config, parameters, ids)
    error("whole encoder", hidden, exact)
    return np.asarray(hidden), exact


def _show_pooling(hidden: Array, exact: Array) -> None:
    title(8, "Pooling", "The mean of the hidden states, brought to length 1, is the embedding of the text")
    say("Why: texts of any length become points of one space; the product of two is their similarity. This is what embed writes.\n")
    embedding = normalize(pool(hidden, np.array([0, len(hidden)]), "mean"))
    mean = exact.mean(axis=0, keepdims=True)
    say(f"hidden states {hidden.shape}  ->  embedding {embedding[0].shape}, length {np.linalg.norm(embedding):.6f}")
    values(["embedding"], embedding)
    error("pooling kernels", embedding, mean / np.linalg.norm(mean))


def _show_dropout(config: EncoderConfig, parameters: dict[str, Array], ids: Array) -> None:
    title(9, "Dropout", f"In training each element is dropped with probability {config.dropout:g}; inference drops none")
    say("Why: a network that may not rely on any single number learns to spread what it knows.\n")
    encoder = Encoder(config, parameters=parameters)

    def train(seed: int) -> Array:
        return np.asarray(encoder(ids[None], training=True, rng=np.random.default_rng(seed))[0])

    inference, first, second = encoder(ids[None])[0], train(1), train(2)
    values(["inference", "train, seed 1", "train, seed 2"], np.stack([run[0] for run in (inference, first, second)]))
    away = np.abs(first - inference).mean()
    same = "the same" if np.array_equal(first, train(1)) else "different"
    say(f"token 0 above; on average training is {away:.3f} away from inference; seed 1 again gives {same} bits")


def _show_causal(text: str, config: EncoderConfig, parameters: dict[str, Array], ids: Array, x: Array) -> None:
    from fastattn import reference

    title(10, "Bidirectional and causal", "An encoder looks both ways; a causal one only at what came before")
    say("Why: who reads a whole text (BERT, embeddings) may look ahead; who writes one token after the other (GPT) cannot.\n")
    query, key = (_heads(config, parameters, name, x) for name in ("query", "key"))
    shown = min(len(text), _PAIR_TOKENS)
    cell = 2 if shown <= _PAIR_TOKENS // 2 else 1
    labels = [visible(character) for character in text[:shown]]
    maps = []
    for name, is_causal in (("bidirectional", False), ("causal", True)):
        weights = reference.attention_weights(query, key, is_causal=is_causal)[0, :shown, :shown]
        lines = heat_map(np.sqrt(weights), labels, labels, cell=cell, high=math.sqrt(weights.max()))
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
            say(f"{name}: another last character changes {moved} of {len(ids)} hidden states")
        error(f"whole encoder, {name}", hidden, _exact(chosen, parameters, ids))


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


def _range(values: Array) -> str:
    return f"{values.min():.3f} .. {values.max():.3f}"
