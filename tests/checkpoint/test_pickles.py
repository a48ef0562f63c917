"""Files of pickled tensors are read without torch, as torch reads them."""

import mmap
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastattn.checkpoint.convert import convert
from fastattn.checkpoint.pickles import PickledTensor, load_pickle
from fastattn.checkpoint.reader import CheckpointError
from fastattn.checkpoint.weights import Tensors
from tests.support.models import CONFIG, assert_reads_the_same, bert_tensors, write_bert, write_json
from tests.support.pickles import entries, storage, tensor, write_zip, writers

DATA = Path(__file__).parents[1] / "data" / "pickles"


@pytest.fixture(autouse=True)
def without_torch(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "torch" not in request.fixturenames:
        monkeypatch.setitem(sys.modules, "torch", None)


@pytest.fixture
def torch() -> Any:
    return pytest.importorskip("torch")


@pytest.mark.parametrize("file", ["zip.bin", "older.bin"])
def test_every_kind_of_tensor(file: str) -> None:
    found = load_pickle(DATA / file)
    dtypes = {
        "float64": "F64", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
        "uint8": "U8", "bool": "BOOL",
    }  # fmt: skip
    with np.load(DATA / "held.npz") as held:
        for key, value in found.items():
            assert isinstance(value, PickledTensor) and value.dtype == dtypes.get(key, "F32")
            array = (value.array.astype(np.uint32) << 16).view(np.float32) if value.dtype == "BF16" else value.array
            np.testing.assert_array_equal(array.astype(np.float64), held[key], err_msg=key, strict=True)
    assert len(found) == 16
    assert found["shared"].array.ctypes.data == found["plain"].array.ctypes.data


def test_tensors_by_name() -> None:
    """Floats as float32, contiguous; integers apart from them."""
    found = Tensors(DATA, [DATA / "zip.bin"])
    with np.load(DATA / "held.npz") as held:
        for key in ("float64", "float16", "bfloat16", "plain", "transposed", "part", "one", "empty", "parameter"):
            array = found.read(key, found.shape(key))
            assert array.dtype == np.float32 and array.flags.c_contiguous
            np.testing.assert_array_equal(array, held[key], err_msg=key)
        for key in ("int64", "int32", "int16", "int8", "uint8"):
            np.testing.assert_array_equal(found.read_integers(key, found.shape(key)), held[key])
            np.testing.assert_array_equal(found.read_numbers(key), held[key])
    with pytest.raises(CheckpointError, match=r"zip\.bin: tensor 'int64' has dtype I64, supported: F64"):
        found.read("int64", (2, 3))
    with pytest.raises(CheckpointError, match=r"zip\.bin: tensor 'plain' has dtype F32, supported: I64"):
        found.read_integers("plain", (4, 6))


def test_a_state_dict() -> None:
    """An OrderedDict with an attribute; the head of a model in a file of its own."""
    found = Tensors(DATA, [DATA / "linear.pt"])
    with np.load(DATA / "held.npz") as held:
        np.testing.assert_array_equal(found.read("weight", (2, 3)), held["linear.weight"])
        np.testing.assert_array_equal(found.read("bias", (2,)), held["linear.bias"])


def pickled(folder: Path, content: Any, torch: Any, **options: Any) -> Path:
    (write_bert(folder) / "model.safetensors").unlink()
    torch.save(content, folder / "pytorch_model.bin", **options)
    return folder


def torch_tensors(torch: Any, dtype: str = "float32") -> dict[str, Any]:
    return {name: torch.from_numpy(array).to(getattr(torch, dtype)) for name, array in bert_tensors().items()}


@pytest.mark.parametrize("new_format", [True, False])
def test_model(tmp_path: Path, new_format: bool, torch: Any) -> None:
    assert_reads_the_same(pickled(tmp_path, torch_tensors(torch), torch, _use_new_zipfile_serialization=new_format))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_floats(tmp_path: Path, dtype: str, torch: Any) -> None:
    content = torch_tensors(torch, dtype)
    assert_reads_the_same(pickled(tmp_path, content, torch), {key: value.float().numpy() for key, value in content.items()})


def test_what_torch_writes_is_what_torch_reads(tmp_path: Path, torch: Any) -> None:
    """The golden files of this torch: every dtype, strides, offsets, shared storages."""
    for file in ("zip.bin", "older.bin"):
        ours, theirs = load_pickle(DATA / file), torch.load(DATA / file, weights_only=True)
        assert list(ours) == list(theirs)
        for key, value in theirs.items():
            expected = value.detach().view(torch.int16) if value.dtype == torch.bfloat16 else value.detach()
            np.testing.assert_array_equal(ours[key].array.view(expected.numpy().dtype), expected.numpy(), err_msg=key)


def test_several_files(tmp_path: Path) -> None:
    """An index of pickles."""
    found = bert_tensors()
    (write_bert(tmp_path) / "model.safetensors").unlink()
    weight_map = {key: f"pytorch_model-0000{i % 2 + 1}-of-00002.bin" for i, key in enumerate(found)}
    for file in set(weight_map.values()):
        part = {key: array for key, array in found.items() if weight_map[key] == file}
        values, records = {}, {}
        for i, (key, array) in enumerate(part.items()):
            strides = tuple(stride // 4 for stride in array.strides)
            values[key] = tensor(array.shape, strides, 0, storage(str(i), array.size))
            records[f"data/{i}"] = array.tobytes()
        write_zip(tmp_path / file, entries(**values), records)
    write_json(tmp_path / "pytorch_model.bin.index.json", {"weight_map": weight_map})
    assert_reads_the_same(tmp_path)


def test_safetensors_come_first(tmp_path: Path) -> None:
    write_bert(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"no pickle at all")
    assert_reads_the_same(tmp_path)


@writers
def test_by_hand(write: Callable[..., Path], tmp_path: Path) -> None:
    """What the hostile files below vary is right by itself."""
    found = load_pickle(write(tmp_path / "a.bin", entries(x=tensor(), y=tensor((2, 2), (1, 2), 1))))
    np.testing.assert_array_equal(found["x"].array, [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(found["y"].array, [[1, 3], [2, 4]])


def test_other_byte_order(tmp_path: Path) -> None:
    records = {"data/0": np.arange(6, dtype=">f4").tobytes(), "byteorder": b"big"}
    found = Tensors(tmp_path, [write_zip(tmp_path / "a.bin", entries(x=tensor()), records)])
    np.testing.assert_array_equal(found.read("x", (2, 3)), [[0, 1, 2], [3, 4, 5]])


@writers
def test_storages_are_mapped(write: Callable[..., Path], tmp_path: Path) -> None:
    assert type(load_pickle(write(tmp_path / "a.bin", entries(x=tensor())))["x"].array.base) is mmap.mmap


def test_converted(tmp_path: Path) -> None:
    """Every tensor in its dtype, contiguous, in a file that the safetensors library reads."""
    from safetensors import safe_open

    (tmp_path / "pytorch_model.bin").write_bytes((DATA / "zip.bin").read_bytes())
    write_json(tmp_path / "config.json", CONFIG)
    assert convert(tmp_path).tensors == 16
    pickled = Tensors(tmp_path, [tmp_path / "pytorch_model.bin"])
    found = Tensors(tmp_path, [tmp_path / "model.safetensors"])
    assert found.names() == pickled.names()
    for key in found.names():
        assert found.shape(key) == pickled.shape(key)
        if key != "bool":
            np.testing.assert_array_equal(found.read_numbers(key), pickled.read_numbers(key), err_msg=key, strict=True)
    with safe_open(tmp_path / "model.safetensors", framework="numpy") as file:
        assert file.get_tensor("bool").tolist() == [True, False, True]
        assert file.get_slice("bfloat16").get_dtype() == "BF16" and file.get_slice("int16").get_dtype() == "I16"
