"""Model folders: every supported form, and every fault with its message."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastattn import Encoder, EncoderConfig
from fastattn.checkpoint.reader import CheckpointError, read_encoder, read_head
from soak._child import ROOT
from tests.support.models import (
    CONFIG,
    HEADS,
    LAYERS,
    C,
    F,
    P,
    V,
    Y,
    assert_reads_the_same,
    bert_tensors,
    only_a_pickle,
    write_bert,
    write_json,
    write_safetensors,
)
from tests.support.peer_cases import dense, pooling, write_model

QUERY = "encoder.layer.0.attention.self.query"


def test_config(tmp_path: Path) -> None:
    config, _ = read_encoder(write_bert(tmp_path, hidden_dropout_prob=0.1, layer_norm_eps=1e-6))
    assert config == EncoderConfig(
        LAYERS,
        HEADS,
        C,
        F,
        0.1,
        layer_norm_eps=1e-6,
        positions="learned",
        vocab_size=V,
        max_positions=P,
        type_vocab_size=Y,
    )


@pytest.mark.parametrize(("theirs", "ours"), [("gelu", "gelu"), ("gelu_new", "gelu_tanh"), ("relu", "relu"), ("silu", "silu")])
def test_activation(tmp_path: Path, theirs: str, ours: str) -> None:
    assert read_encoder(write_bert(tmp_path, hidden_act=theirs))[0].activation == ours


def test_plain_names(tmp_path: Path) -> None:
    assert_reads_the_same(write_bert(tmp_path))


def test_prefixed_names(tmp_path: Path) -> None:
    tensors = {f"bert.{name}": array for name, array in bert_tensors().items()}
    tensors["cls.predictions.bias"] = np.zeros(V, np.float32)
    assert_reads_the_same(write_bert(tmp_path, tensors))


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "0.auto_model.", "question_encoder.bert_model.", "model.model."])
@pytest.mark.parametrize("own", ["", "bert."])
def test_names_of_a_wrapped_model(tmp_path: Path, wrapper: str, own: str) -> None:
    """What DataParallel, torch.compile, a SentenceTransformer and a trainer's class put before all names is no part of them."""
    tensors = {f"{wrapper}{own}{name}": array for name, array in bert_tensors().items()}
    tensors |= {f"{wrapper}classifier.weight": np.ones((2, C), np.float32), f"{wrapper}classifier.bias": np.ones(2, np.float32)}
    assert_reads_the_same(write_bert(tmp_path, tensors))
    np.testing.assert_array_equal(read_head(tmp_path, "sequence-classification").steps[-1].weight, np.ones((2, C)))


def test_two_models_in_one_file(tmp_path: Path) -> None:
    tensors = {f"{side}.{name}": array for side in ("query", "document") for name, array in bert_tensors().items()}
    table = "embeddings.word_embeddings.weight"
    message = f"'{table}' is missing; there is 'query.{table}' and 'document.{table}': take the prefix of one of them off"
    with pytest.raises(CheckpointError, match=re.escape(message)):
        read_encoder(write_bert(tmp_path, tensors))


def test_gamma_and_beta(tmp_path: Path) -> None:
    tensors = bert_tensors()
    for name in [name for name in tensors if "LayerNorm" in name]:
        new = name.replace("weight", "gamma").replace("bias", "beta")
        tensors[new] = tensors.pop(name)
    assert_reads_the_same(write_bert(tmp_path, tensors))


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F64"])
def test_other_floats_become_float32(tmp_path: Path, dtype: str) -> None:
    write_safetensors(write_bert(tmp_path) / "model.safetensors", bert_tensors(), dtype)
    tensors = bert_tensors()
    for name, array in tensors.items():
        if dtype == "F16":
            tensors[name] = array.astype(np.float16).astype(np.float32)
        elif dtype == "BF16":
            tensors[name] = (array.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    assert_reads_the_same(tmp_path, tensors)


def write_shards(folder: Path, second: str = "model-00002-of-00002.safetensors", dtypes: tuple[str, str] = ("F32", "F32")) -> Path:
    write_bert(folder)
    (folder / "model.safetensors").unlink()
    names = list(bert_tensors())
    half = len(names) // 2
    files = {"model-00001-of-00002.safetensors": names[:half], second: names[half:]}
    for (file, part), dtype in zip(files.items(), dtypes, strict=True):
        if "/" not in file:
            write_safetensors(folder / file, {name: bert_tensors()[name] for name in part}, dtype)
    index = {name: file for file, part in files.items() for name in part}
    write_json(folder / "model.safetensors.index.json", {"weight_map": index})
    return folder


def test_shards(tmp_path: Path) -> None:
    assert_reads_the_same(write_shards(tmp_path))


@pytest.mark.parametrize("dtypes", [("BF16", "BF16"), ("BF16", "F32")])
def test_shards_of_bfloat16(tmp_path: Path, dtypes: tuple[str, str]) -> None:
    """Each file in a dtype of its own, as large models are published."""
    tensors = bert_tensors()
    for i, name in enumerate(tensors):
        if dtypes[2 * i >= len(tensors) // 2 * 2] == "BF16":
            tensors[name] = (tensors[name].view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    assert_reads_the_same(write_shards(tmp_path, dtypes=dtypes), tensors)


def test_sentence_transformers_folder(tmp_path: Path) -> None:
    write_bert(tmp_path / "0_Transformer")
    modules = [{"path": "0_Transformer", "type": "sentence_transformers.models.Transformer"}]
    write_json(tmp_path / "modules.json", modules)
    assert_reads_the_same(tmp_path)


def test_writing_to_a_parameter_leaves_the_file_alone(tmp_path: Path) -> None:
    _, parameters = read_encoder(write_bert(tmp_path))
    parameters["embeddings.token.weight"][:] = 0
    assert_reads_the_same(tmp_path)


@pytest.mark.jit
def test_encoder_from_pretrained(tmp_path: Path) -> None:
    encoder = Encoder.from_pretrained(write_bert(tmp_path))
    assert encoder.config == read_encoder(tmp_path)[0]
    assert encoder(np.arange(10)[None]).shape == (1, 10, C)


def without(*names: str) -> dict[str, Any]:
    return {name: array for name, array in bert_tensors().items() if name not in names}


def cut(folder: Path, size: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])


def integers(folder: Path) -> None:
    write_safetensors(folder / "model.safetensors", bert_tensors(), "I64")


FAULTS: dict[str, tuple[Callable[[Path], Any], type[Exception], str]] = {
    "no config.json": (lambda p: (p / "config.json").unlink(), FileNotFoundError, r"config\.json: no such file"),
    "no weights": (lambda p: (p / "model.safetensors").unlink(), FileNotFoundError, r"no model\.safetensors"),
    "weights of others": (
        lambda p: ((p / "model.safetensors").rename(p / "tf_model.h5"), (p / "model.onnx").touch()),
        FileNotFoundError,
        r"no model\.safetensors.*; not supported: model\.onnx, tf_model\.h5",
    ),
    "weights are a folder": (
        lambda p: ((p / "model.safetensors").unlink(), (p / "model.safetensors").mkdir()),
        FileNotFoundError,
        r"model\.safetensors: no such file",
    ),
    "config.json is not JSON": (
        lambda p: (p / "config.json").write_text("{"),
        CheckpointError,
        r"config\.json: not a JSON file",
    ),
    "config.json is not UTF-8": (
        lambda p: (p / "config.json").write_bytes(b'{"a": "\xff"}'),
        CheckpointError,
        r"config\.json: not a JSON file",
    ),
    "config.json is deep": (
        lambda p: (p / "config.json").write_text("[" * 100_000),
        CheckpointError,
        r"config\.json: not a JSON file",
    ),
    "config.json is a list": (lambda p: write_json(p / "config.json", []), CheckpointError, "JSON object, found list"),
    "weights cut": (lambda p: cut(p, 9000), CheckpointError, r"model\.safetensors: not a complete safetensors file"),
    "header cut": (lambda p: cut(p, 100), CheckpointError, r"model\.safetensors: not a complete safetensors file"),
    "weights empty": (lambda p: cut(p, 0), CheckpointError, r"model\.safetensors: not a complete safetensors file"),
    "weights are text": (
        lambda p: (p / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n" * 3),
        CheckpointError,
        r"model\.safetensors: is a Git LFS pointer, not the file: run `git lfs pull`",
    ),
    "configuration is a pointer": (
        lambda p: (p / "config.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        CheckpointError,
        r"config\.json: is a Git LFS pointer",
    ),
    "only a pickle": (only_a_pickle, CheckpointError, r"pytorch_model\.bin: not a whole file of pickled tensors"),
    "integer weights": (integers, CheckpointError, r"has dtype I64, supported: F64, F32, F16, BF16"),
    "tensor missing": (
        lambda p: write_safetensors(p / "model.safetensors", without(f"{QUERY}.weight")),
        CheckpointError,
        rf"tensor '{re.escape(QUERY)}\.weight' is missing",
    ),
    "bias missing": (
        lambda p: write_safetensors(p / "model.safetensors", without(f"{QUERY}.bias")),
        CheckpointError,
        rf"tensor '{re.escape(QUERY)}\.bias' is missing",
    ),
    "wrong shape": (
        lambda p: write_safetensors(
            p / "model.safetensors", bert_tensors() | {f"{QUERY}.weight": np.zeros((C, C + 1), np.float32)}
        ),
        CheckpointError,
        rf"tensor '{re.escape(QUERY)}\.weight' has shape \(32, 33\), expected \(32, 32\)",
    ),
    "shard missing": (
        lambda p: (write_shards(p), (p / "model-00002-of-00002.safetensors").unlink()),
        FileNotFoundError,
        r"model-00002-of-00002\.safetensors: no such file",
    ),
    "shard outside": (lambda p: write_shards(p, "../x.safetensors"), CheckpointError, "leads out of"),
    "shard absolute": (lambda p: write_shards(p, "/etc/x.safetensors"), CheckpointError, "not the name of something"),
    "shard is a number": (
        lambda p: (
            (p / "model.safetensors").unlink(),
            write_json(p / "model.safetensors.index.json", {"weight_map": {"a": 3}}),
        ),
        CheckpointError,
        "3 is not the name of something",
    ),
    "index without map": (
        lambda p: ((p / "model.safetensors").unlink(), write_json(p / "model.safetensors.index.json", {})),
        CheckpointError,
        r"index\.json: has no weight_map",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_in_a_file(tmp_path: Path, fault: str) -> None:
    damage, kind, message = FAULTS[fault]
    folder = write_bert(tmp_path / "model")
    damage(folder)
    with pytest.raises(kind, match=message) as caught:
        read_encoder(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"model_type": "gpt2"},
            "model_type 'gpt2' is not supported; supported: bert, roberta, xlm-roberta, camembert, distilbert, mpnet, electra",
        ),
        ({"model_type": None}, "model_type None is not supported"),
        ({"model_type": ["bert"]}, r"model_type \['bert'\] is not supported"),
        ({"hidden_act": "prelu"}, "hidden_act 'prelu' is not supported; supported: gelu"),
        ({"hidden_act": ["gelu"]}, r"hidden_act \['gelu'\] is not supported"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type 'relative_key' is not supported"),
        ({"is_decoder": True}, "is_decoder True is not supported"),
        ({"num_attention_heads": 5}, "5.*32"),
        ({"num_attention_heads": 0}, "num_attention_heads must be a positive integer, found 0"),
        ({"hidden_size": "32"}, "hidden_size must be a positive integer, found '32'"),
        ({"hidden_size": 32.0}, "hidden_size must be a positive integer, found 32.0"),
        ({"num_hidden_layers": True}, "num_hidden_layers must be a positive integer, found True"),
        ({"vocab_size": None}, "vocab_size must be a positive integer, found nothing"),
        ({"vocab_size": V + 1}, r"word_embeddings\.weight' has shape \(40, 32\), expected \(41, 32\)"),
        ({"num_hidden_layers": 3}, r"tensor 'encoder\.layer\.2\.attention\.self\.query\.weight' is missing"),
        ({"layer_norm_eps": "small"}, "layer_norm_eps must be a number, found 'small'"),
        ({"layer_norm_eps": -1.0}, "layer_norm_eps must be at least 0, got -1.0"),
        ({"hidden_dropout_prob": 1.5}, r"dropout must be in \[0, 1\), got 1.5"),
    ],
)
def test_fault_in_the_configuration(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    assert all(key in CONFIG or value is not None for key, value in change.items())
    with pytest.raises(CheckpointError, match=message) as caught:
        read_encoder(write_bert(tmp_path, **change))
    assert str(tmp_path) in str(caught.value)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        read_encoder(tmp_path / "nowhere")


def test_file_for_a_folder(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("")
    with pytest.raises(NotADirectoryError, match="model: not a folder"):
        read_encoder(tmp_path / "model")


@pytest.mark.parametrize("path", ["../other", "/tmp", "a/../../b", "..\\b", "C:/x", "nul\0"])
def test_module_outside_the_folder(tmp_path: Path, path: str) -> None:
    write_json(tmp_path / "modules.json", [{"path": path, "type": "sentence_transformers.models.Transformer"}])
    with pytest.raises(CheckpointError, match=r"modules\.json"):
        read_encoder(tmp_path)


@pytest.mark.parametrize("content", [{}, [3], [{"path": ""}], [{"type": 3}]])
def test_damaged_modules(tmp_path: Path, content: Any) -> None:
    write_json(tmp_path / "modules.json", content)
    with pytest.raises(CheckpointError, match=r"modules\.json"):
        read_encoder(tmp_path)


IN_USE = """
import json, os, sys
from pathlib import Path
import numpy as np
from fastattn import EncoderWithPooler, SentenceTransformer
folder = sys.argv[1]
held = [SentenceTransformer(folder), EncoderWithPooler.from_pretrained(folder)]
ids = np.array([[2, 4, 6, 8, 3]])
answers = lambda: [held[0].encode("the cat sat").tolist(), held[1](ids).tolist(), held[1].encoder(ids).tolist()]
before, descriptors = answers(), len(os.listdir("/proc/self/fd"))
held += [SentenceTransformer(folder) for _ in range(5)]
more = len(os.listdir("/proc/self/fd")) - descriptors
mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if folder in line]
same = []
for path in Path(folder).rglob("*.safetensors"):
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
same.append(answers() == before)
for path in Path(folder).rglob("*.safetensors"):
    os.truncate(path, 0)
same.append(answers() == before)
print(json.dumps([same, more, mapped]))
"""


@pytest.mark.jit
@pytest.mark.skipif(sys.platform != "linux", reason="open files are listed in /proc")
def test_a_file_that_is_overwritten_while_its_model_is_in_use(tmp_path: Path) -> None:
    """A child process: if the weights were a memory map, truncating the file would kill the process (SIGBUS)."""
    folder = write_model(tmp_path / "model", pooling("mean"), dense(C, 24))
    command = [sys.executable, "-c", IN_USE, str(folder)]
    child = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
    assert json.loads(child.stdout) == [[True, True], 0, []]
