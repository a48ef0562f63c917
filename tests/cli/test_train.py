"""`fastattn train`: every kind of data, a run that was stopped, and errors, which leave what is there."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import fastattn
from fastattn.checkpoint.folder import CheckpointError
from fastattn.cli.training_curve import sparkline
from fastattn.cli.training_data import read_columns, read_documents
from fastattn.cli.training_run import Lora
from fastattn.training import TrainableEncoder, generate
from tests.support.command_line import ROOT, run
from tests.support.models import write_tokenizer

pytestmark = pytest.mark.jit

PAIRS = [("the cat sat", "a cat on the mat"), ("the dog", "a dog sat"), ("w14 w15", "w15 w14"), ("on the mat", "mat the on")]
BOOK = "the cat sat on the mat.\nthe dog sat on the cat.\n" * 20
SMALL = ("--layers", "1", "--heads", "2", "--dim", "32", "--ff", "32", "--length", "16", "--batch-size", "8")


def rows(path: Path, *columns: str, label: Any = None) -> str:
    """Write the pairs, or the first text of each, as JSON lines."""
    made = [dict(zip(columns, pair, strict=False)) for pair in PAIRS * 2]
    if label is not None:
        made = [{**row, "label": label(i)} for i, row in enumerate(made)]
    path.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
    return str(path)


def book(path: Path) -> str:
    path.write_text(BOOK, encoding="utf-8")
    return str(path)


def classifier(folder: Path) -> str:
    """Return a folder with a classifier of sequences."""
    from tests.support.golden_models import settings, write

    write(folder, "bert", vocab_size=settings("bert")["vocab_size"])
    write_tokenizer(folder)
    return str(folder)


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


class TestRows:
    def test_pairs_triplets_and_scores(self, tmp_path: Path, model: str) -> None:
        cases = {
            "pairs": (rows(tmp_path / "p.jsonl", "anchor", "positive"), ()),
            "scores": (rows(tmp_path / "s.jsonl", "a", "b", label=lambda i: i % 4 / 3), ("--loss", "CosineSimilarityLoss")),
            "classes": (rows(tmp_path / "c.jsonl", "a", "b", label=lambda i: i % 3), ("--loss", "SoftmaxLoss")),
        }
        before = weights(Path(model))
        for name, (data, more) in cases.items():
            out = tmp_path / name
            result = run("train", data, "-o", str(out), "-m", model, "--epochs", "2", "--batch-size", "4", "--json", *more)
            report = json.loads(result.stdout)
            assert report["steps"] == 4 and report["tokens"] > 0 and report["out"] == str(out)
            assert weights(out) != before
            assert fastattn.SentenceTransformer(str(out)).encode("the cat").shape == (32,)
            assert not out.with_name(f"{name}.partial").exists()

    def test_csv_columns_in_order_and_evaluation(self, tmp_path: Path, model: str) -> None:
        path = tmp_path / "x.csv"
        path.write_text("id,b,a,score\n" + "".join(f"{i},{b},{a},{i % 2}\n" for i, (a, b) in enumerate(PAIRS)), encoding="utf-8")
        columns = ("--column", "a", "--column", "b", "--column", "score")
        result = run("train", str(path), "-o", str(tmp_path / "o"), "-m", model, *columns, "--eval", str(path), "--lr", "1e-3")
        assert "step 1: evaluation loss" in result.stderr
        assert read_columns(str(path), columns=["a", "score"])["score"] == [0, 1, 0, 1]

    def test_parquet(self, tmp_path: Path) -> None:
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        first, second = zip(*PAIRS, strict=True)
        pq.write_table(pa.table({"a": first, "b": second, "n": [1, 2, 3, 4], "score": [0.5, 1, 0, 0]}), tmp_path / "x.parquet")
        found = read_columns(str(tmp_path / "x.parquet"), columns=["b", "score"])
        assert found == {"b": list(second), "score": [0.5, 1, 0, 0]}
        with pytest.raises(ValueError, match="row 1: 'n' must be text, got int; --column names"):
            read_columns(str(tmp_path / "x.parquet"))

    def test_labelled_texts_make_a_classifier(self, tmp_path: Path, model: str) -> None:
        data = rows(tmp_path / "l.jsonl", "text", label=lambda i: i % 4)
        run(
            "train",
            data,
            "-o",
            str(tmp_path / "o"),
            "-m",
            model,
            "--lr",
            "1e-2",
            "--epochs",
            "20",
            "--batch-size",
            "8",
            "--warmup",
            "0",
        )
        found = fastattn.EncoderForSequenceClassification.from_pretrained(tmp_path / "o")
        encode = fastattn.SentenceTransformer(str(tmp_path / "o")).tokenizer.encode
        assert [int(found(np.array([encode(first)])).argmax()) for first, _ in PAIRS] == [0, 1, 2, 3]

    def test_labelled_texts_and_a_reranker(self, tmp_path: Path) -> None:
        folder = classifier(tmp_path / "m")
        labelled = rows(tmp_path / "l.jsonl", "text", label=lambda i: i % 3)
        run("train", labelled, "-o", str(tmp_path / "o"), "-m", folder, "--lr", "1e-3", "--batch-size", "4")
        assert weights(tmp_path / "o") != weights(Path(folder))
        logits = fastattn.EncoderForSequenceClassification.from_pretrained(tmp_path / "o")(np.array([[2, 4, 3]]))
        assert logits.shape[1] == len(TrainableEncoder(folder, "sequence-classification").id2label)
        pairs = rows(tmp_path / "p.jsonl", "query", "text", label=lambda i: i % 3)
        run("train", pairs, "-o", str(tmp_path / "r"), "-m", folder, "--batch-size", "4")
        assert fastattn.CrossEncoder(str(tmp_path / "r")).predict([PAIRS[0]]).shape[0] == 1


class TestWords:
    def test_causal_with_a_picture(self, tmp_path: Path) -> None:
        out, picture = tmp_path / "o", tmp_path / "loss.png"
        options = ("--epochs", "25", "--lr", "1e-2", "--eval", book(tmp_path / "b.txt"), "--plot", str(picture))
        result = run("train", book(tmp_path / "b.txt"), "-o", str(out), "--causal", *SMALL, *options)
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert "█" in result.stderr and "tokens/s" in result.stderr and "accuracy" in result.stderr
        shares = np.array(list(Counter(BOOK).values())) / len(BOOK)
        losses = [float(line.split("loss ")[1].split(",")[0]) for line in result.stderr.splitlines() if "evaluation" in line]
        assert len(losses) == 25 and losses[-1] < 0.6 * float(-(shares * np.log(shares)).sum())
        assert len(generate(TrainableEncoder(out), "the dog ", 15)) == 15

    def test_masked_with_a_trained_vocabulary_then_further(self, tmp_path: Path) -> None:
        data = book(tmp_path / "b.txt")
        run("train", data, "-o", str(tmp_path / "o"), "--mlm", "--vocab-size", "80", *SMALL)
        run("train", data, "-o", str(tmp_path / "p"), "--mlm", "-m", str(tmp_path / "o"), "--lr", "1e-3", "--length", "8")
        assert weights(tmp_path / "o") != weights(tmp_path / "p")
        assert fastattn.Encoder.from_pretrained(tmp_path / "p").config.max_positions == 16

    def test_products_in_bfloat16(self, tmp_path: Path) -> None:
        data = book(tmp_path / "b.txt")
        for name, options in (("o", ()), ("p", ("--bf16",)), ("q", ("--bf16",))):
            run("train", data, "-o", str(tmp_path / name), "--causal", *SMALL, *options)
        assert weights(tmp_path / "o") != weights(tmp_path / "p") == weights(tmp_path / "q")

    def test_documents(self, tmp_path: Path) -> None:
        path = tmp_path / "b.txt"
        path.write_bytes(b"one\r\n\r\ntwo\nthree\n")
        given: dict[str, Any] = {"kind": None, "column": None, "encoding": "utf-8"}
        assert read_documents(str(path), paragraphs=False, whole=True, **given) == ["one\n\ntwo\nthree\n"]
        assert read_documents(str(path), paragraphs=False, whole=False, **given) == ["one", "two", "three"]
        assert read_documents(str(path), paragraphs=True, whole=True, **given) == ["one", "two\nthree"]
        path.write_bytes(b"one\n\xff\n")
        with pytest.raises(ValueError, match="line 2: not utf-8"):
            read_documents(str(path), paragraphs=False, whole=True, **given)


def start(data: str, out: Path, *more: str) -> "subprocess.Popen[str]":
    # A process that is started in the background ignores SIGINT, and those that it starts do too.
    code = "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "runpy.run_module('fastattn', run_name='__main__', alter_sys=True)"
    command = [sys.executable, "-c", code, "train", data, "-o", str(out), "--causal", *SMALL, "--save-every", "3", *more]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT of another process")
class TestLora:
    def test_each_kind_of_model(self, tmp_path: Path, model: str) -> None:
        pairs, labelled = rows(tmp_path / "p.jsonl", "a", "b"), rows(tmp_path / "l.jsonl", "text", label=lambda i: i % 3)
        scored = rows(tmp_path / "s.jsonl", "a", "b", label=lambda i: i % 3)
        cases = {
            "embeddings": (pairs, model, ("--lora-alpha", "16")),
            "classes": (labelled, model, ("--lora-target", "query", "--lora-target", "output.dense")),
            "scores": (scored, str(tmp_path / "classes"), ("--lora-target", "all-linear", "--loss", "CrossEntropyLoss")),
        }
        for name, (data, source, more) in cases.items():
            out = tmp_path / name
            run("train", data, "-o", str(out), "-m", source, "--lora-r", "2", "--lr", "0.01", "-q", "--batch-size", "4", *more)
            # A new classifier brings the prefix of its class.
            before, after = (
                {key.removeprefix("bert."): array for key, array in load_file(Path(folder) / "model.safetensors").items()}
                for folder in (source, out)
            )
            changed = {key for key in after if key in before and not np.array_equal(before[key], after[key])}
            inside = {key for key in changed if "classifier" not in key}
            assert any("attention.self.query.weight" in key for key in inside)
            assert all(key.endswith("weight") and "embeddings" not in key and "LayerNorm" not in key for key in inside)
            assert any("output.dense" in key for key in inside) == (name != "embeddings")
            assert any("attention.self.value" in key for key in inside) == (name != "classes")
            assert not (out / "adapter_config.json").exists()

    def test_resumed_has_the_same_bits(self, tmp_path: Path, model: str) -> None:
        data = rows(tmp_path / "p.jsonl", "a", "b")
        command = ("train", data, "-m", model, "--lora-r", "2", "-q", "--batch-size", "4", "--epochs", "2", "--save-every", "1")
        run(*command, "-o", str(tmp_path / "whole"))
        script = (
            "import sys; from fastattn.cli.app import app; from fastattn.training import checkpoints; old = checkpoints.write\n"
            "def write(trainer, *rest):\n"
            "    made = old(trainer, *rest)\n"
            "    return made if trainer.state.global_step < 2 else sys.exit(3)\n"
            "checkpoints.write = write; app(sys.argv[1:])"
        )
        out = ("-o", str(tmp_path / "out"))
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        stopped = subprocess.run([sys.executable, "-c", script, *command, *out], env=environment, capture_output=True, check=False)
        assert stopped.returncode == 3 and (tmp_path / "out.partial").is_dir()
        result = run(*command, *out, "--resume", "--lora-alpha", "5", code=2)
        assert "its adapter's lora_alpha is 2, here it is 5.0" in result.stderr
        run(*command, *out, "--resume")
        assert weights(tmp_path / "out") == weights(tmp_path / "whole")

    @pytest.mark.parametrize("error", [CheckpointError("a folder: cannot be trained"), ValueError("the model has an adapter")])
    def test_errors_of_the_model_are_none_of_an_option(self, error: ValueError) -> None:
        class Refusing:
            def add_adapter(self, config: Any) -> None:
                raise error

        with pytest.raises(type(error), match=f"^{error}$"):
            Lora(2).adapt(Refusing())

    def test_errors(self, tmp_path: Path, model: str) -> None:
        data = rows(tmp_path / "p.jsonl", "a", "b")
        cases = {
            ("--lora-alpha", "3"): "--lora-alpha: goes with --lora-r",
            ("--lora-target", "query"): "--lora-target: goes with --lora-r",
            ("--lora-r", "2", "--lora-target", "q_proj"): "--lora-target: target_modules: no product of the model has the name",
            ("--lora-r", "2", "--lora-alpha", "inf"): "--lora-alpha: lora_alpha must be a finite number, got inf",
        }
        for options, message in cases.items():
            result = run("train", data, "-o", str(tmp_path / "out"), "-m", model, *options, code=2)
            assert message in " ".join(result.stderr.split())
        result = run("train", book(tmp_path / "b.txt"), "-o", str(tmp_path / "out"), "--causal", "--lora-r", "2", code=2)
        assert "--lora-r: a model from nothing has no weights to keep" in result.stderr
        assert not (tmp_path / "out").exists()


def test_interrupted_and_resumed_has_the_same_bits(tmp_path: Path) -> None:
    data, out, long = book(tmp_path / "b.txt"), tmp_path / "o", ("--epochs", "60", "--dropout", "0.1")
    process = start(data, out, *long)
    while process.poll() is None and not list(tmp_path.glob("o.partial/checkpoint-*")):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    begun = time.perf_counter()
    _, said = process.communicate(timeout=60)
    assert time.perf_counter() - begun < 20, "one second, and room for a busy machine"
    assert process.returncode != 0 and "--resume continues from there" in said
    assert not out.exists() and len(list(tmp_path.glob("o.partial/*"))) == 1
    run("train", data, "-o", str(out), "--causal", *SMALL, "--save-every", "3", *long, code=2)
    run("train", data, "-o", str(out), "--causal", *SMALL, "--save-every", "0", *long, "--resume")
    run("train", data, "-o", str(tmp_path / "p"), "--causal", *SMALL, "--save-every", "0", *long)
    assert weights(out) == weights(tmp_path / "p")


class TestErrors:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ("--mlm --causal", "--mlm and --causal: a model predicts"),
            ("--layers 2", "--layers: goes with --mlm or --causal without --model"),
            ("--mlm -m {model} --vocab-size 9", "--vocab-size: goes with"),
            ("--mlm --loss CoSENTLoss", "--loss: --mlm has its own"),
            ("--mlm --column a --column b", "predicted words stand in one column, got a, b"),
            ("--length 9", "--length: goes with --mlm and --causal"),
            ("--dropout 1", "--dropout must be in 0 .. 1"),
            ("--loss Loss", "--loss must be one of MultipleNegativesRankingLoss"),
            ("--loss CrossEntropyLoss", "for a SentenceTransformer, got 'CrossEntropyLoss'"),
            ("--plot x.gif", "--plot: cannot draw .gif; supported: .png"),
            ("--batch-size 1", "--batch-size must be at least 2"),
            ("--column anchor", "one column of texts and no labels, got anchor"),
            ("--column anchor --column other", "line 1: no column 'other', found columns anchor, positive"),
            ("--loss CosineSimilarityLoss", "the dataset has columns of texts anchor, positive, and no labels"),
            ("--loss TripletLoss", "the dataset has columns of texts anchor, positive, and no labels"),
            ("--epochs 0", "--epochs must be greater than 0"),
            ("--resume", "there is no checkpoint to resume from"),
            ("--mlm --heads 3 --column anchor", "num_heads must divide hidden_dim"),
        ],
    )
    def test_options(self, tmp_path: Path, model: str, options: str, message: str) -> None:
        data = rows(tmp_path / "d.jsonl", "anchor", "positive")
        given = options.format(model=model).split()
        if "-m" not in given and "--heads" not in given:
            given += [] if {"--mlm", "--causal"} & set(given) else ["-m", model]
        said = " ".join(run("train", data, "-o", str(tmp_path / "o"), *given, code=2).stderr.split())
        assert message in said
        assert [path.name for path in tmp_path.iterdir()] == ["d.jsonl"]

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("e.jsonl", "", "has no rows"),
            ("e.csv", "a,b\n", "has no rows"),
            ("e.txt", "x\n", "is text, on which --mlm and --causal train"),
            ("n.jsonl", '{"a": "x", "b": 3}\n', "line 1: 'b' must be text, got int"),
            ("f.jsonl", '{"a": "x"\n', "line 1: not JSON"),
            ("l.csv", "a,b,label\nx,y,good\n", "line 2: 'label' must be a number, got 'good'"),
            ("m.jsonl", '{"a": "x", "b": "y"}\n{"a": "x"}\n', "line 2: no column 'b', found columns a"),
        ],
    )
    def test_files(self, tmp_path: Path, model: str, name: str, content: str, message: str) -> None:
        (tmp_path / name).write_text(content, encoding="utf-8")
        said = run("train", str(tmp_path / name), "-o", str(tmp_path / "o"), "-m", model, code=2).stderr
        assert message in " ".join(said.split())

    def test_labels_out_of_range(self, tmp_path: Path) -> None:
        folder, data = classifier(tmp_path / "m"), rows(tmp_path / "l.jsonl", "text", label=lambda i: i)
        said = run("train", data, "-o", str(tmp_path / "o"), "-m", folder, code=2).stderr
        assert "labels must be in 0 .. 2 for the 3 classes of the model, got 3 in row 3" in " ".join(said.split())

    def test_outputs(self, tmp_path: Path) -> None:
        data, out = book(tmp_path / "b.txt"), tmp_path / "o"
        out.mkdir()
        (out / "mine").write_text("x", encoding="utf-8")
        command = ("train", data, "-o", str(out), "--causal", *SMALL)
        assert "is there already: --overwrite replaces it" in run(*command, code=2).stderr
        assert "is not a model folder, so it is not replaced" in run(*command, "--overwrite", code=2).stderr
        assert (out / "mine").read_text(encoding="utf-8") == "x"
        (out / "config.json").write_text("{}", encoding="utf-8")
        run(*command, "--overwrite")
        assert not (out / "mine").exists() and (out / "model.safetensors").is_file()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["b.txt", "o"]
        (tmp_path / "link").symlink_to(out)
        before = weights(out)
        run("train", data, "-o", str(tmp_path / "link"), "--causal", *SMALL, "--overwrite", "--seed", "5")
        assert (tmp_path / "link").is_symlink() and weights(out) != before
        assert sorted(path.name for path in tmp_path.iterdir()) == ["b.txt", "link", "o"]
        assert "--out must name a folder to be written, got '.'" in run("train", data, "-o", ".", "--causal", code=2).stderr
        assert "--epochs must be greater than 0" in run(*command[:3], "x", "--causal", "--epochs", "0", code=2).stderr

    @pytest.mark.filterwarnings("ignore::RuntimeWarning")
    def test_a_loss_that_is_not_finite(self, tmp_path: Path) -> None:
        data, out = book(tmp_path / "b.txt"), tmp_path / "o"
        said = run(
            "train", data, "-o", str(out), "--causal", *SMALL, "--lr", "1e38", "--warmup", "0", "--epochs", "9", code=2
        ).stderr
        assert "the loss is nan in step" in said and "of the rows" in said and not out.exists()

    def test_a_run_that_has_no_checkpoint_yet_begins_anew(self, tmp_path: Path) -> None:
        data, out = book(tmp_path / "b.txt"), tmp_path / "o"
        (tmp_path / "o.partial").mkdir()
        command = ("train", data, "-o", str(out), "--causal", *SMALL)
        run(*command)
        assert out.is_dir() and not (tmp_path / "o.partial").exists()

    def test_full_disk_keeps_the_old_model(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        data, out = book(tmp_path / "b.txt"), tmp_path / "o"
        run("train", data, "-o", str(out), "--causal", *SMALL)
        before = weights(out)
        monkeypatch.setattr("fastattn.runtime.files.shutil.disk_usage", lambda path: type("Usage", (), {"free": 0}))
        said = run("train", data, "-o", str(out), "--causal", *SMALL, "--overwrite", "--seed", "7", code=2).stderr
        assert "No space left" in said and "has no checkpoint yet" in said
        assert weights(out) == before and sorted(path.name for path in tmp_path.iterdir()) == ["b.txt", "o"]

    def test_an_output_that_cannot_be_put_in_place_is_what_it_was(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        data, out, rename = book(tmp_path / "b.txt"), tmp_path / "o", Path.rename

        def refused(path: Path, target: Path) -> Path:
            if path.name.endswith(".new"):
                raise PermissionError(13, "Permission denied", str(target))
            return rename(path, target)

        run("train", data, "-o", str(out), "--causal", *SMALL)
        before = weights(out)
        monkeypatch.setattr(Path, "rename", refused)
        run("train", data, "-o", str(out), "--causal", *SMALL, "--overwrite", "--seed", "7", code=2)
        assert weights(out) == before and sorted(path.name for path in tmp_path.iterdir()) == ["b.txt", "o"]

    def test_a_run_with_other_options_is_not_resumed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device", "o")

        data, out = book(tmp_path / "b.txt"), tmp_path / "o"
        monkeypatch.setattr("fastattn.cli.train._replace", full)
        command = ("train", data, "-o", str(out), "--causal", *SMALL, "--save-every", "2")
        assert "--resume continues from there" in run(*command, code=2).stderr
        monkeypatch.undo()
        for more, named in ((("--seed", "7"), "its seed is 42, here it is 7"), (("--lr", "0.1"), "its learning_rate is 0.001")):
            assert named in run(*command, "--resume", *more, code=2).stderr
        run(*command, "--resume")
        assert out.is_dir()


def test_sparkline() -> None:
    assert sparkline([3.0, 2.0, 1.0]) == "█▅▁" or sparkline([3.0, 2.0, 1.0]) == "█▄▁"
    assert sparkline([1.0, 1.0]) == "▁▁" and sparkline([]) == "" and sparkline([1.0, float("inf")]) == ""
    assert len(sparkline(np.arange(1000.0).tolist())) == 40
