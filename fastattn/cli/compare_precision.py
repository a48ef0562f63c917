"""`fastattn compare --precision`: a model in another precision beside itself in float32, on texts."""

from __future__ import annotations

import ast
import statistics
import sysconfig
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastattn.checkpoint.folder import read_object
from fastattn.checkpoint.hub import find_model
from fastattn.cli import fidelity, options
from fastattn.cli.compare import take_turns
from fastattn.cli.files import read_texts
from fastattn.cli.terminal import counted, is_watched, output
from fastattn.config import PRECISIONS, Precision
from fastattn.encoder.encoder import Encoder
from fastattn.kernels.records import Layer

__all__ = [
    "Chosen",
    "checked_precision",
    "choose",
    "compare_precision",
    "interleaved",
    "is_cross_encoder",
    "kept_products",
    "standard_texts",
    "weight_bytes",
]

Array = NDArray[Any]

# Texts that are compared: the similarities of all pairs of a thousand are half a million.
_MOST = 1000
# Texts with the hidden states of every layer, and texts of the larger forward that is timed.
_LAYER_TEXTS, _BATCH = 64, 32
# Queries and documents whose every pair a cross-encoder scores.
_QUERIES, _DOCUMENTS = 10, 30
_FEWEST, _WORST = 3, 3
# A layer's products, as its record names them.
_PRODUCTS = {"qkv": "query, key and value", "out": "attention output", "up": "feed-forward input", "down": "feed-forward output"}
# Each precision of a comparison runs this long before its time counts, and then at least so often and so long.
_WARM_SECONDS, _RUNS, _SECONDS = 0.5, 5, 1.0


class Chosen(NamedTuple):
    """Texts that are compared, the place of each in its file, and where they are from."""

    texts: list[str]
    places: list[str]
    source: str


class _Found(NamedTuple):
    """Comparison of results: rows to print, the grade as of `fidelity.grade`, and the worst: number, place and text."""

    rows: list[tuple[str, str, str]]
    grade: tuple[str, str]
    worst: list[tuple[str, str, str]]


def compare_precision(
    precision: Precision, model: str | None, file: str | None, *, column: str | None = None, **reading: Any
) -> None:
    """Compare a model in a precision with itself in float32, on the texts of a file, and print; arguments as in `read_texts`."""
    from fastattn.text.modules import StaticEmbedding

    if file is None and (column or reading.get("kind") or reading.get("paragraphs")):
        raise ValueError("--column, --format and --paragraphs say how FILE is read: give a FILE")
    chosen = choose(standard_texts() if file is None else texts_of_file(file, column=column, **reading))
    is_scoring = is_cross_encoder(find_model(model))
    plain, other = _load(model, is_scoring, "float32"), _load(model, is_scoring, precision)
    name = "all-MiniLM-L6-v2" if model is None else Path(model).resolve().name
    output.print(f"{name} in {precision}, beside float32: {chosen.source}", style="bold", markup=False, soft_wrap=True)
    found = (_scores if is_scoring else _embeddings)(plain, other, precision, chosen)
    ratios, times = _speed(plain, other, is_scoring, chosen.texts)
    # Static embeddings are a table, without layers.
    static = isinstance(plain[0], StaticEmbedding)
    sizes = [x[0]._table.nbytes if static else weight_bytes(x._pipeline.transformer.encoder) for x in (plain, other)]
    large, small = (f"{size / 2**20:,.2f} MiB" for size in sizes)
    memory = ("memory", "weights", f"{small}, float32 {large}: {sizes[1] / sizes[0]:.2f}x")
    for row in (*found.rows, *times, memory):
        output.print("{:<8} {:<26} {}".format(*row), markup=False, soft_wrap=True)
    if not static:
        _print_layers(plain, other, chosen.texts)
    output.print("\nmost changed", style="bold")
    for number, place, text in found.worst:
        head = f"{number}  {place}  "
        output.print(f"{head}{_shortened(text, max(20, output.width - len(head)))}", markup=False, soft_wrap=True)
    said = fidelity.verdict(precision, found.grade, ratios, sizes[1] / sizes[0])
    output.print(f"\n{said}", style="bold", markup=False)


def checked_precision(precision: str | None) -> Precision:
    """Return a precision that can be compared with float32; ValueError for another."""
    if precision is None:
        raise ValueError("FILE and --model go with --precision: give --precision bfloat16 or int8")
    if precision == "float32":
        raise ValueError("--precision float32 would be compared with itself: give bfloat16 or int8")
    return options.precision_of(precision)


def texts_of_file(name: str, **reading: Any) -> Chosen:
    """Return all texts of a file; arguments as in `read_texts`."""
    found = read_texts(name, **reading)
    return Chosen(found.texts, [f"line {line}" for line in found.lines], found.name)


def standard_texts() -> Chosen:
    """Return the docstrings of the modules of Python's standard library, read from their sources."""
    texts, places = [], []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
                texts.append(text)
                places.append(f"{path.name}, line {getattr(node, 'lineno', 1)}")
    if not texts:
        raise ValueError("Python's standard library has no sources here whose docstrings could be compared: give a FILE of texts")
    return Chosen(texts, places, "Python's docstrings")


def choose(found: Chosen) -> Chosen:
    """Return the texts to compare: each once, evenly spaced where there are many."""
    first = {text: i for i, text in reversed(list(enumerate(found.texts))) if text.strip()}
    numbers = sorted(first.values())
    if len(numbers) < _FEWEST:
        have = counted(len(numbers), "different text")
        raise ValueError(f"{found.source}: {have}: at least {_FEWEST} are needed, for an order of similarities")
    kept = _spaced(numbers, _MOST)
    source = f"{counted(len(kept), 'text')} of {found.source}"
    if len(kept) < len(numbers):
        source = f"{len(kept):,} of {len(numbers):,} texts of {found.source}, evenly spaced"
    return Chosen([found.texts[i] for i in kept], [found.places[i] for i in kept], source)


def _spaced(items: Sequence[Any], most: int) -> list[Any]:
    """Return at most so many items, evenly spaced, in their order."""
    if len(items) <= most:
        return list(items)
    return [items[i] for i in np.linspace(0, len(items) - 1, most).round().astype(int)]


def _shortened(text: str, width: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else f"{line[: width - 4]} ..."


def is_cross_encoder(folder: Path) -> bool:
    """Tell whether a folder is that of a CrossEncoder: it says so, or it is a classifier's without modules."""
    said = read_object(folder / "config_sentence_transformers.json").get("model_type")
    if said is not None or (folder / "modules.json").exists():
        return bool(said == "CrossEncoder")
    names = read_object(folder / "config.json").get("architectures")
    return isinstance(names, list) and any(str(name).endswith("ForSequenceClassification") for name in names)


def _load(model: str | None, is_scoring: bool, precision: Precision) -> Any:
    from fastattn.text.cross_encoder import CrossEncoder
    from fastattn.text.sentence_transformer import SentenceTransformer

    if not is_scoring:
        return SentenceTransformer(model, precision=precision)
    found = CrossEncoder(model, precision=precision)
    if found.num_labels != 1:
        raise ValueError(
            f"{model}: gives {found.num_labels} scores for a pair: compare needs a model of one, which orders documents"
        )
    return found


def _embeddings(plain: Any, other: Any, precision: str, chosen: Chosen) -> _Found:
    """Compare the embeddings of documents."""
    truth, found = (x.encode_document(chosen.texts, show_progress_bar=is_watched()) for x in (plain, other))
    _check_finite(truth, "float32", chosen.places)
    _check_finite(found, precision, chosen.places)
    cosine = fidelity.cosines(truth, found)
    matrices = [x.similarity(rows, rows) for x, rows in ((plain, truth), (other, found))]
    pairs = [fidelity.pair_scores(matrix) for matrix in matrices]
    order = fidelity.rank_correlation(*pairs)
    for matrix in matrices:
        np.fill_diagonal(matrix, -np.inf)
    k = fidelity.top(len(truth) - 1)
    rows = [
        ("texts", "cosine to float32", f"{cosine.min():.5f} least, {cosine.mean():.5f} mean"),
        ("order", "of the similarities", f"{order:.5f} rank correlation of {counted(len(pairs[0]), 'pair')}"),
        ("", f"{k} nearest neighbours", f"{fidelity.same_best(matrices[0], matrices[1], k):.1%} stay the same"),
    ]
    worst = [(f"{cosine[i]:.5f}", chosen.places[i], chosen.texts[i]) for i in np.argsort(cosine)[:_WORST]]
    return _Found(rows, fidelity.grade(order, cosine), worst)


def _check_finite(results: Array, precision: str, places: list[str]) -> None:
    finite = np.isfinite(results).all(axis=1)
    if not finite.all():
        count, first = counted(int((~finite).sum()), "text"), places[int(np.argmin(finite))]
        raise ValueError(f"NaN or infinity in {precision} for {count}, first at {first}: nothing to compare")


def _scores(plain: Any, other: Any, precision: str, chosen: Chosen) -> _Found:
    """Compare the scores of every pair of a few queries and more documents; both are texts."""
    queries, documents = (_spaced(range(len(chosen.texts)), most) for most in (_QUERIES, _DOCUMENTS))
    pairs = [(chosen.texts[i], chosen.texts[j]) for i in queries for j in documents]
    raw = [
        x.predict(pairs, activation_fn="torch.nn.modules.linear.Identity", show_progress_bar=is_watched()) for x in (plain, other)
    ]
    truth, found = (np.asarray(scores, np.float32).reshape(len(queries), len(documents)) for scores in raw)
    for name, matrix in (("float32", truth), (precision, found)):
        _check_finite(matrix, name, [chosen.places[i] for i in queries])
    change = np.abs(truth.astype(np.float64) - found)
    order = [fidelity.rank_correlation(a, b) for a, b in zip(truth, found, strict=True)]
    k = fidelity.top(len(documents))
    rows = [
        ("scores", "change of a logit", f"{change.mean():.4f} mean, {change.max():.4f} most; they spread by {truth.std():.4f}"),
        (
            "order",
            f"of {len(documents)} documents",
            f"{np.mean(order):.5f} mean rank correlation of {len(queries)} queries",
        ),
        ("", f"{k} best documents", f"{fidelity.same_best(truth, found, k):.1%} stay the same"),
    ]
    worst = []
    for place in np.argsort(-change, axis=None)[:_WORST]:
        i, j = queries[place // len(documents)], documents[place % len(documents)]
        text = f"{_shortened(chosen.texts[i], 30)} | {chosen.texts[j]}"
        worst.append((f"{change.flat[place]:.4f}", f"{chosen.places[i]} and {chosen.places[j]}", text))
    return _Found(rows, fidelity.grade(float(np.mean(order))), worst)


def _speed(plain: Any, other: Any, is_scoring: bool, texts: list[str]) -> tuple[list[float], list[tuple[str, str, str]]]:
    """Time a text of middle length and a batch, with the tokenizer; return the ratios to float32, and lines to print."""
    middle = sorted(texts, key=len)[len(texts) // 2]
    ratios: list[float] = []
    rows: list[tuple[str, str, str]] = []
    for part in ([middle], _spaced(texts, _BATCH)):
        given: list[Any] = [(middle, text) for text in part] if is_scoring else part
        calls = [x.predict if is_scoring else x.encode_document for x in (plain, other)]
        slow, fast = interleaved([partial(call, given, show_progress_bar=False) for call in calls])
        ratios.append(slow / fast)
        what = counted(len(part), "pair" if is_scoring else "text")
        value = f"{fast * 1e3:.2f} ms, float32 {slow * 1e3:.2f} ms: {slow / fast:.2f}x"
        tokens = counted(plain.counts.tokens, "token")
        rows.append(("" if rows else "speed", f"{what}, {tokens}", value))
    return ratios, rows


def interleaved(runs: Sequence[Callable[[], object]]) -> list[float]:
    """Return the median seconds of each run, in turns, after turns that warm the threads up."""
    end = time.perf_counter() + _WARM_SECONDS
    while time.perf_counter() < end:
        for run in runs:
            run()
    times: list[list[float]] = [[] for _ in runs]
    end = time.perf_counter() + _SECONDS
    while len(times[0]) < _RUNS or time.perf_counter() < end:
        take_turns(runs, times)
    return list(map(statistics.median, times))


def weight_bytes(encoder: Encoder) -> int:
    """Return the bytes of an encoder's packed weights and tables."""
    return sum(array.nbytes for array in encoder._packed if isinstance(array, np.ndarray))


def kept_products(layer: Layer, precision: Precision) -> dict[str, Precision]:
    """Return the products of a layer that are not in the encoder's precision, and theirs."""
    found = {product: PRECISIONS[getattr(layer, f"{product}_precision")] for product in _PRODUCTS}
    return {product: name for product, name in found.items() if name != precision}


def _print_layers(plain: Any, other: Any, texts: list[str]) -> None:
    """Print the error of each layer's hidden states, and its products that are not in the precision."""
    encoders = [x._pipeline.transformer.encoder for x in (plain, other)]

    def hidden(text: str) -> tuple[Array, Array]:
        given = plain.preprocess([text])
        options = {"token_type_ids": given.get("token_type_ids"), "return_hidden_states": True}
        states = [encoder(given["input_ids"], **options)[1][:, 0] for encoder in encoders]
        return states[0], states[1]

    found = fidelity.layer_errors(hidden(text) for text in _spaced(texts, _LAYER_TEXTS))
    packed, precision = encoders[1]._packed, encoders[1].precision
    kept = [kept_products(packed.layer(i), precision) for i in range(len(found) - 1)]
    output.print(f"\n{'layer':<8} {'error':>9} {'cosine':>9}   {'kept' if any(kept) else ''}".rstrip(), style="bold")
    for i, (error, cosine) in enumerate(found):
        products = ", ".join(kept[i - 1]) if i else ""
        output.print(f"{i or 'input':<8} {error:9.5f} {cosine:9.5f}   {products}".rstrip(), soft_wrap=True)
    if any(kept):
        inside = sorted({name for products in kept for name in products.values()})
        meanings = "; ".join(f"{product}: {meaning}" for product, meaning in _PRODUCTS.items() if any(product in x for x in kept))
        output.print(f"kept in {' or '.join(inside)}, because {precision} is too coarse for them: {meanings}", style="dim")
