"""`fastattn compare --precision`: what it reads, what it prints, and what it refuses."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastattn import CrossEncoder, SentenceTransformer
from fastattn.cli import compare_precision, fidelity
from fastattn.cli.compare_precision import (
    Chosen,
    choose,
    interleaved,
    is_cross_encoder,
    kept_products,
    standard_texts,
    weight_bytes,
)
from fastattn.encoder.encoder import Encoder
from fastattn.kernels.records import PRECISION_NUMBERS
from tests.support.command_line import run
from tests.support.models import LAYERS, WORDS, C, bert_tensors, write_bert, write_json, write_tokenizer

pytestmark = pytest.mark.jit

TEXTS = [" ".join(WORDS[4 + (7 * i + j * (i % 3 + 1)) % 30] for j in range(1 + i % 9)) for i in range(25)]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time without a warm-up: the numbers of these tests are not about speed."""
    monkeypatch.setattr(compare_precision, "_WARM_SECONDS", 0)
    monkeypatch.setattr(compare_precision, "_SECONDS", 0)


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join([*TEXTS, "", TEXTS[0]]), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_reranker(tmp_path_factory.mktemp("reranker") / "model"))


def write_reranker(folder: Path, labels: int = 1) -> Path:
    rng = np.random.default_rng(1)
    head = {"classifier.weight": rng.standard_normal((labels, C), np.float32), "classifier.bias": np.zeros(labels, np.float32)}
    names = {str(i): f"LABEL_{i}" for i in range(labels)}
    write_bert(folder, bert_tensors() | head, architectures=["BertForSequenceClassification"], id2label=names)
    write_tokenizer(folder)
    return folder


def numbers(line: str) -> list[float]:
    return [float(x.replace(",", "")) for x in re.findall(r"(?<![\w.])\d[\d,]*\.?\d*", line)]


def row(stdout: str, name: str) -> str:
    (found,) = [line for line in stdout.splitlines() if line[9:].startswith(name)]
    return found[36:]


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_embeddings(precision: str, model: str, file: str) -> None:
    stdout = run("compare", file, "--precision", precision, "-m", model).stdout
    plain, other = (SentenceTransformer(model, precision=name) for name in ("float32", precision))
    truth, found = plain.encode(TEXTS), other.encode(TEXTS)
    cosine = fidelity.cosines(truth, found)
    assert 0.9 < cosine.min() < 1
    assert f"in {precision}, beside float32: 25 texts of {file}" in stdout
    assert row(stdout, "cosine to float32") == f"{cosine.min():.5f} least, {cosine.mean():.5f} mean"
    pairs = [fidelity.pair_scores(plain.similarity(rows, rows)) for rows in (truth, found)]
    assert row(stdout, "of the similarities") == f"{fidelity.rank_correlation(*pairs):.5f} rank correlation of 300 pairs"
    assert re.search(r"^ +10 nearest neighbours +\d+\.\d% stay the same$", stdout, re.MULTILINE)
    worst = int(np.argmin(cosine))
    assert f"{cosine.min():.5f}  line {worst + 1}  {TEXTS[worst]}" in stdout
    assert re.search(rf"{precision} [a-z].*\. Speed .*; memory \d\.\d\dx\.$", " ".join(stdout.split()))
    large, small = (weight_bytes(x.encoder) for x in (plain, other))
    assert small < large
    said = f"{small / 2**20:.2f} MiB, float32 {large / 2**20:.2f} MiB: {small / large:.2f}x"
    assert row(stdout, "weights") == said


def test_layers(model: str, file: str) -> None:
    stdout = run("compare", file, "--precision", "int8", "-m", model).stdout
    names, rows = zip(*re.findall(r"^(input|\d+) +(\d\.\d+ +\d\.\d+)", stdout, re.MULTILINE), strict=True)
    assert names == ("input", *(str(i + 1) for i in range(LAYERS)))
    errors, cosines = zip(*map(numbers, rows), strict=True)
    assert 0 < errors[1] < 0.2 and 0.98 < cosines[1] < 1


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_static_embeddings(precision: str, file: str) -> None:
    """A table has no layers to compare."""
    folder = Path(__file__).parents[1] / "data" / "static" / "whole"
    result = run("compare", "--precision", precision, "--model", str(folder), file)
    assert result.exit_code == 0 and "cosine to float32" in result.stdout and "memory" in result.stdout, result.output
    assert "layer " not in result.stdout and "most changed" in result.stdout


def test_kept_products(model: str, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def layer(**precisions: str) -> Any:
        numbers = {f"{product}_precision": PRECISION_NUMBERS["int8"] for product in ("qkv", "out", "up", "down")}
        numbers |= {f"{product}_precision": PRECISION_NUMBERS[name] for product, name in precisions.items()}
        return Encoder.from_pretrained(model)._packed.layer(0)._replace(**numbers)

    assert kept_products(layer(), "int8") == {}
    assert kept_products(layer(down="float32", out="bfloat16"), "int8") == {"out": "bfloat16", "down": "float32"}
    plan = iter([{}, {"out": "float32", "down": "float32"}])
    monkeypatch.setattr(compare_precision, "kept_products", lambda *layer: next(plan))
    stdout = run("compare", file, "--precision", "int8", "-m", model).stdout
    assert re.search(r"^1 +\d\.\d+ +\d\.\d+$", stdout, re.MULTILINE)
    assert re.search(r"^2 +\d\.\d+ +\d\.\d+   out, down$", stdout, re.MULTILINE)
    said = "kept in float32, because int8 is too coarse for them: out: attention output; down: feed-forward output"
    assert said in " ".join(stdout.split())


def test_speed_is_the_median_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    now, order = [0.0], []
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def clock(name: str, times: list[float]) -> Any:
        left = iter(times)

        def call() -> None:
            order.append(name)
            now[0] += next(left)

        return call

    found = interleaved([clock("a", [1, 2, 9, 3, 4]), clock("b", [10, 30, 20, 50, 40])])
    assert found == [3, 30]
    assert order == ["a", "b"] * 5


def test_cross_encoder(reranker: str, file: str) -> None:
    stdout = run("compare", file, "--precision", "int8", "-m", reranker).stdout
    raw = [CrossEncoder(reranker, precision=name) for name in ("float32", "int8")]
    pairs = [(TEXTS[i], TEXTS[j]) for i in np.linspace(0, 24, 10).round().astype(int) for j in range(25)]
    logits = [x.predict(pairs, activation_fn="torch.nn.modules.linear.Identity").reshape(10, 25) for x in raw]
    change = np.abs(logits[0] - logits[1])
    assert change.max() > 0
    mean, most, spread = numbers(row(stdout, "change of a logit"))
    np.testing.assert_allclose([mean, most, spread], [change.mean(), change.max(), logits[0].std()], rtol=0, atol=6e-5)
    order = np.mean([fidelity.rank_correlation(a, b) for a, b in zip(*logits, strict=True)])
    assert row(stdout, "of 25 documents") == f"{order:.5f} mean rank correlation of 10 queries"
    assert row(stdout, "10 best documents").endswith("% stay the same")
    j = int(np.argmax(change)) % 25
    assert re.search(rf"^{change.max():.4f}  line \d+ and line {j + 1}  ", stdout, re.MULTILINE)
    assert "25 pairs, " in stdout


def test_docstrings_without_a_file() -> None:
    found = standard_texts()
    assert "Manage shelves of pickled objects." in {text.partition("\n")[0] for text in found.texts}
    assert len(found.texts) == len(found.places) > 1000
    chosen = choose(found)
    assert len(chosen.texts) == len(set(chosen.texts)) == 1000
    assert re.fullmatch(r"1,000 of \d,\d{3} texts of Python's docstrings, evenly spaced", chosen.source)


def test_texts_are_chosen_once_and_evenly() -> None:
    texts = [str(i // 2) for i in range(6000)] + [" "]
    chosen = choose(Chosen(texts, [f"line {i + 1}" for i in range(6001)], "x.txt"))
    assert chosen.source == "1,000 of 3,000 texts of x.txt, evenly spaced"
    assert (chosen.texts[0], chosen.places[0]) == ("0", "line 1")
    assert (chosen.texts[-1], chosen.places[-1]) == ("2999", "line 5999")
    gaps = np.diff([int(text) for text in chosen.texts])
    assert set(gaps) <= {2, 3, 4}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"config.json": {"architectures": ["BertForSequenceClassification"]}}, True),
        ({"config.json": {"architectures": ["BertModel"]}}, False),
        ({"config.json": {}}, False),
        ({"config.json": {"architectures": ["BertForSequenceClassification"]}, "modules.json": []}, False),
        ({"config_sentence_transformers.json": {"model_type": "CrossEncoder"}, "modules.json": []}, True),
        (
            {
                "config_sentence_transformers.json": {"model_type": "SentenceTransformer"},
                "config.json": {"architectures": ["BertForSequenceClassification"]},
            },
            False,
        ),
    ],
)
def test_kind_of_model(files: dict[str, Any], expected: bool, tmp_path: Path) -> None:
    for name, content in files.items():
        write_json(tmp_path / name, content)
    assert is_cross_encoder(tmp_path) is expected


def test_memory_is_that_of_all_weights(model: str) -> None:
    encoder = Encoder.from_pretrained(model)
    # Matrices are padded to whole panels.
    assert encoder.parameters_count * 4 <= weight_bytes(encoder) < encoder.parameters_count * 8


BAD = {
    "no precision": ("{file}", "FILE and --model go with --precision: give --precision bfloat16 or int8"),
    "only a model": ("-m {model}", "FILE and --model go with --precision"),
    "float32": ("{file} --precision float32", "--precision float32 would be compared with itself: give bfloat16 or int8"),
    "unknown precision": ("{file} --precision int4", "--precision must be one of float32, bfloat16, int8, got 'int4'"),
    "a column without a file": ("--precision int8 --column text", "--column, --format and --paragraphs .*: give a FILE"),
    "file missing": ("{file}.txt --precision int8", r"texts\.txt\.txt: No such file"),
    "file empty": ("{empty} --precision int8", r"empty\.txt: 0 different texts: at least 3 are needed"),
    "one text": ("{one} --precision int8", r"one\.txt: 1 different text: at least 3 are needed, for an order of similarities"),
    "model missing": ("{file} --precision int8 -m {file}/nowhere", "nowhere"),
    "two labels": ("{file} --precision int8 -m {labels}", "labels: gives 2 scores for a pair: compare needs a model of one"),
    "NaN": ("{file} --precision int8 -m {broken}", "weight"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name: str, model: str, file: str, tmp_path: Path) -> None:
    arguments, message = BAD[name]
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "one.txt").write_text("the cat\n\nthe cat\n")
    folders = {"labels": write_reranker(tmp_path / "labels", 2)}
    if name == "NaN":
        tensors = bert_tensors()
        tensors["encoder.layer.0.output.dense.weight"][0, 0] = np.nan
        folders["broken"] = write_bert(tmp_path / "broken", tensors)
        write_tokenizer(folders["broken"])
    places = {"file": file, "model": model, "empty": tmp_path / "empty.txt", "one": tmp_path / "one.txt", "broken": "", **folders}
    result = run("compare", *arguments.format(**places).split(), code=2)
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert re.match(f"error: .*{message}", line), line


def test_results_that_are_not_finite_are_refused(model: str, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str | None, is_scoring: bool, precision: str) -> Any:
        found: Any = SentenceTransformer(name)
        if precision == "int8":
            encode = found.encode_document
            found.encode_document = lambda texts, **options: np.where(np.arange(25)[:, None] > 22, np.nan, encode(texts, **options))
        return found

    monkeypatch.setattr(compare_precision, "_load", load)
    result = run("compare", file, "--precision", "int8", "-m", model, code=2)
    assert "NaN or infinity in int8 for 2 texts, first at line 24: nothing to compare" in result.stderr
