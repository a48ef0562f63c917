"""`fastattn convert`: every tensor of every kind of pickle, and what a folder still lacks."""

from pathlib import Path
from typing import Any

import pytest

from fastattn import Encoder, EncoderForMaskedLM
from fastattn.checkpoint.convert import convert
from fastattn.checkpoint.reader import CheckpointError, read_encoder
from tests.support.command_line import run
from tests.support.golden_models import assert_is_golden, assert_reads_as_golden, tensors, write
from tests.support.models import assert_reads_the_same, bert_tensors, write_bert, write_json

torch = pytest.importorskip("torch")


def pickled(folder: Path, content: Any, name: str = "pytorch_model.bin") -> Path:
    (write_bert(folder) / "model.safetensors").unlink()
    torch.save(content, folder / name)
    return folder


def content(prefix: str = "") -> dict[str, Any]:
    return {f"{prefix}{name}": torch.from_numpy(array) for name, array in bert_tensors().items()}


def read(path: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(path))


def test_every_tensor_is_kept(tmp_path: Path) -> None:
    shared, halves = content(), torch.arange(4, dtype=torch.bfloat16)
    extra = {
        "cls.predictions.decoder.weight": shared["embeddings.word_embeddings.weight"],
        "head.transposed": torch.arange(6.0).reshape(2, 3).T,
        "head.part": halves[1:3],
        "head.half": halves,
        "embeddings.position_ids": torch.arange(7),
        "head.empty": torch.zeros(0, 3),
        "head.number": torch.tensor(2.5),
    }
    folder = pickled(tmp_path, {**shared, **extra})
    done = convert(folder)
    assert (done.tensors, done.prefix, done.left, done.faults) == (len(shared) + len(extra), "", [], [])
    found = read(folder / "model.safetensors")
    assert found.keys() == {**shared, **extra}.keys()
    for name, tensor in {**shared, **extra}.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name
    assert_reads_the_same(folder)
    assert {path.name for path in folder.iterdir()} == {"config.json", "pytorch_model.bin", "model.safetensors"}


@pytest.mark.jit
@pytest.mark.parametrize("family", ["bert", "albert", "roberta", "electra"])
def test_heads_are_kept(tmp_path: Path, family: str) -> None:
    folder = write(tmp_path, family)
    (folder / "model.safetensors").unlink()
    torch.save({name: torch.from_numpy(array) for name, array in tensors(family).items()}, folder / "pytorch_model.bin")
    convert(folder)
    (folder / "pytorch_model.bin").unlink()
    assert_reads_as_golden(folder, family)
    assert_is_golden(family, "masked-lm", EncoderForMaskedLM.from_pretrained(folder))


def test_several_files(tmp_path: Path) -> None:
    (write_bert(tmp_path) / "model.safetensors").unlink()
    names = list(content())
    files = {"a.bin": names[:9], "b.bin": names[9:]}
    for file, part in files.items():
        torch.save({name: content()[name] for name in part}, tmp_path / file)
    write_json(tmp_path / "pytorch_model.bin.index.json", {"weight_map": {n: f for f, part in files.items() for n in part}})
    assert convert(tmp_path).tensors == len(names)
    assert_reads_the_same(tmp_path)


@pytest.mark.parametrize("prefix", ["model.model.", "model.bert.", "module.", "bert."])
def test_checkpoint_of_a_trainer(tmp_path: Path, prefix: str) -> None:
    state = {**content(prefix), "model.classifier.weight": torch.ones(1, 32)}
    folder = pickled(tmp_path, {"epoch": 3, "state_dict": state, "optimizer_states": [1]}, "model.ckpt")
    done = convert(folder)
    assert done.prefix == prefix.removesuffix("bert.")
    assert done.left == ["epoch", "optimizer_states"]
    assert done.tensors == len(state)
    assert_reads_the_same(folder)


def test_what_is_still_missing(tmp_path: Path) -> None:
    folder = pickled(tmp_path, content())
    (folder / "config.json").unlink()
    assert [str(fault) for fault in convert(folder).faults] == [f"{folder / 'config.json'}: no such file"]


def test_an_existing_file_is_not_replaced(tmp_path: Path) -> None:
    folder = write_bert(tmp_path)
    torch.save(content(), folder / "pytorch_model.bin")
    before = (folder / "model.safetensors").read_bytes()
    with pytest.raises(FileExistsError, match=r"model\.safetensors: is there already"):
        convert(folder)
    assert (folder / "model.safetensors").read_bytes() == before


class Settings:
    """An object that is no tensor."""


def test_faults(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").touch()
    with pytest.raises(FileNotFoundError, match="ONNX holds a program"):
        convert(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"it holds tests\.checkpoint\.test_convert\.Settings, which is no tensor; "
    ) as caught:
        convert(pickled(tmp_path / "code", {**content(), "args": Settings()}))
    assert "weights_only=False" not in str(caught.value)
    assert not (tmp_path / "code" / "model.safetensors").exists()
    folder = pickled(tmp_path / "pointer", {})
    (folder / "pytorch_model.bin").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    for load in (convert, read_encoder):
        with pytest.raises(CheckpointError, match=r"pytorch_model\.bin: is a Git LFS pointer"):
            load(folder)
    folder = pickled(tmp_path / "two", content(), "a.pt")
    torch.save(content(), folder / "b.pt")
    with pytest.raises(CheckpointError, match=r"a\.pt, b\.pt: rename the one"):
        convert(folder)


@pytest.mark.jit
def test_command(tmp_path: Path) -> None:
    folder = pickled(tmp_path, {"state_dict": content("model.")}, "model.ckpt")
    result = run("convert", str(folder))
    assert "model.safetensors" in result.output
    assert "the prefix 'model.' was removed" in result.output
    Encoder.from_pretrained(folder)
    run("convert", str(folder), code=2)
