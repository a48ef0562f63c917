"""Pickles that hold anything but tensors are refused, damaged ones too; nothing that a file names runs."""

import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastattn.checkpoint.pickles import load_pickle
from fastattn.checkpoint.reader import CheckpointError, read_encoder
from fastattn.checkpoint.weights import Tensors
from tests.support.models import only_a_pickle, write_bert
from tests.support.pickles import PROTO, STOP, entries, name, number, storage, tensor, text, write_zip, writers

DATA = Path(__file__).parents[1] / "data" / "pickles"


class Call:
    """What is pickled as a call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


RAN = "ran-by-a-pickle"
CODE = {
    "os.system": (Call(os.system, f"touch {RAN}"), r"(posix|nt)\.system"),
    "os.mkdir": (Call(os.mkdir, RAN), r"(posix|nt)\.mkdir"),
    "builtins.eval": (Call(eval, f"open({RAN!r}, 'w')"), r"builtins\.eval"),
    "builtins.exec": (Call(exec, f"open({RAN!r}, 'w')"), r"builtins\.exec"),
    "getattr": (Call(getattr, "text", "join"), r"builtins\.getattr"),
    "nested": (OrderedDict(a=[{"b": (1, Call(os.mkdir, RAN))}]), r"(posix|nt)\.mkdir"),
    "an object": (io.BytesIO(), r"_io\.BytesIO"),
    "a class": (dict, r"builtins\.dict"),
    "a module's function": (pickle.loads, r"_?pickle\.loads"),
}


@writers
@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("code", CODE)
def test_code_is_not_run(
    code: str, protocol: int, write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    value, found = CODE[code]
    try:
        content = pickle.dumps({"weight": value}, protocol)
    except TypeError:
        pytest.skip("older protocols have no such objects")
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "pytorch_model.bin", content)
    # Protocols 0 and 1 make objects by a function of copyreg, and Python's older names.
    found = rf"({found}|copy_?reg\._reconstructor|__builtin__\.\w+|the opcode \w+)" if protocol < 3 else found
    with pytest.raises(CheckpointError, match=rf"pytorch_model\.bin: refused: it holds {found}, which is no tensor; supported: "):
        load_pickle(path)
    assert not (tmp_path / RAN).exists()


HOSTILE: dict[str, tuple[bytes, str]] = {
    "a plain pickle of code in place of a tensor": (entries(x=name("os", "system") + b"(" + text("true") + b"tR"), r"os\.system"),
    "by STACK_GLOBAL": (entries(x=text("os") + text("system") + b"\x93"), r"os\.system"),
    "an instance": (PROTO + b"(" + b"ios\nsystem\n" + STOP, "the opcode INST"),
    "an object": (PROTO + b"(" + name("collections", "OrderedDict") + b"o" + STOP, "the opcode OBJ"),
    "a new object": (PROTO + name("collections", "OrderedDict") + b")\x81" + STOP, "the opcode NEWOBJ"),
    "an extension": (PROTO + b"\x82\x01" + STOP, "the opcode EXT1"),
    "a persistent name": (PROTO + b"Pstorage\n" + STOP, "the opcode PERSID"),
    "dotted names": (entries(x=name("torch._utils", "_rebuild_tensor_v2.__globals__")), r"_rebuild_tensor_v2\.__globals__"),
    "another function of torch": (entries(x=name("torch._utils", "_rebuild_device_tensor_from_numpy")), "_from_numpy"),
    "torch.load": (entries(x=name("torch", "load")), r"torch\.load"),
    "the attributes of a function": (
        PROTO + name("torch._utils", "_rebuild_tensor_v2") + b"}" + text("__code__") + text("x") + b"sb" + STOP,
        "_rebuild_tensor_v2 that is changed as if it were a dict",
    ),
    "the attributes of a tensor": (entries(x=tensor() + b"}b"), "a PickledTensor that is changed as if it were a dict"),
    "items of a tensor": (entries(x=tensor() + text("a") + text("b") + b"s"), "a PickledTensor that is changed"),
    "a call of a tensor": (entries(x=tensor() + b")R"), "a call of a PickledTensor"),
    "a call of a text": (entries(x=text("print") + b")R"), "a call of a str"),
    "a call with a list": (entries(x=name("collections", "OrderedDict") + b"]R"), "a call of a collections.OrderedDict"),
    "a tensor of no storage": (
        entries(x=name("torch._utils", "_rebuild_tensor_v2") + b"(" + text("0") + number(0) + b"))\x89NtR"),
        "a call of torch._utils._rebuild_tensor_v2 with str, int, tuple, tuple",
    ),
    "a tensor of nothing": (entries(x=name("torch._utils", "_rebuild_tensor_v2") + b")R"), "_rebuild_tensor_v2 with nothing"),
    "a parameter of no tensor": (
        entries(x=name("torch._utils", "_rebuild_parameter") + b"(" + text("0") + b"\x88NtR"),
        "a call of torch._utils._rebuild_parameter with str",
    ),
    "a storage of no class": (entries(x=storage(kind="FloatTensor")), r"torch\.FloatTensor"),
    "a storage class of another module": (entries(x=storage(module="os", kind="system")), r"os\.system"),
    "a storage that is a dict's class": (entries(x=storage(module="collections", kind="OrderedDict")), "a storage of class coll"),
    "a persistent id that is a text": (entries(x=text("storage") + b"Q"), "a persistent id that is no storage"),
    "a key that is a tuple": (PROTO + b"}" + b"(" + text("a") + b"t" + text("b") + b"s" + STOP, "a dict with a tuple as a key"),
    "a key that is a large number": (
        PROTO + b"}" + b"\x8a\x09" + b"\xff" * 8 + b"\x00" + b"Ns" + STOP,
        "a dict with a int as a key",
    ),
    "bytes": (PROTO + b"C\x01a" + STOP, "the opcode SHORT_BINBYTES"),
}


@writers
@pytest.mark.parametrize("case", HOSTILE)
def test_more_than_tensors(case: str, write: Callable[..., Path], tmp_path: Path) -> None:
    content, found = HOSTILE[case]
    with pytest.raises(CheckpointError, match=rf"a\.bin: refused: it holds .*{found}.*, which is no tensor"):
        load_pickle(write(tmp_path / "a.bin", content))


BROKEN: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", ""),
    "no end": (entries(x=tensor())[:-1], "pickle exhausted|opcode"),
    "an empty stack": (PROTO + b"R" + STOP, "stack is empty|list index"),
    "a mark that is missing": (PROTO + b"}u" + STOP, "pop from empty list"),
    "a stack that another mark ends": (PROTO + b"}((sb" + STOP, "stack is empty"),
    "a memo that is not there": (PROTO + b"h\x07" + STOP, "7"),
    "a key without a value": (PROTO + b"}(" + text("a") + b"u" + STOP, "a key without a value"),
    "a tensor beyond its storage": (entries(x=tensor((2, 4), (4, 1))), "is not inside its storage of 6 elements"),
    "an offset beyond its storage": (entries(x=tensor(offset=1)), "offset 1 is not inside its storage"),
    "strides beyond the storage": (entries(x=tensor(strides=(2**40, 1))), "is not inside its storage"),
    "sizes beyond any memory": (entries(x=tensor((2**40, 2**40), (0, 0))), "is not inside its storage"),
    "more elements than the storage": (entries(x=tensor((2**33,), (0,))), "is not inside its storage"),
    "negative sizes": (entries(x=tensor((-2, 3))), "a size or an offset is -2"),
    "negative strides": (entries(x=tensor(strides=(-3, 1))), "a size or an offset is -3"),
    "a negative offset": (entries(x=tensor(offset=-1)), "a size or an offset is -1"),
    "too few strides": (entries(x=tensor(strides=(1,))), "has strides"),
    "more axes than arrays have": (entries(x=tensor((1,) * 99, (1,) * 99)), ""),
    "a storage that is shorter": (entries(x=tensor(stored=storage(numel=7))), "cut off|bytes for 7 elements"),
    "a storage beyond any memory": (entries(x=tensor(stored=storage(numel=2**62))), "cut off|bytes for"),
    "a storage that is missing": (entries(x=tensor(stored=storage("1"))), "no record|no tensor lies"),
    "a storage outside the file": (entries(x=tensor(stored=storage("../../etc/passwd"))), "no record|no tensor lies"),
    "a size that is a text": (
        entries(x=name("torch._utils", "_rebuild_tensor_v2") + b"(" + storage() + text("0") + b"))\x89NtR"),
        "a size or an offset is '0'",
    ),
    "sizes that are a list": (
        entries(x=name("torch._utils", "_rebuild_tensor_v2") + b"(" + storage() + number(0) + b"])\x89NtR"), "sizes are a list",
    ),
    "pairs that are none": (entries(x=name("collections", "OrderedDict") + b"(]" + number(1) + b"atR"), "else than pairs"),
    "a text beyond the file": (PROTO + b"X" + b"\xff\xff\xff\x7f" + STOP, ""),
    "a long text beyond the file": (PROTO + b"\x8d" + b"\xff" * 7 + b"\x7f" + STOP, ""),
    "a number of many digits": (PROTO + b"L" + b"9" * 10**5 + b"L\n" + STOP, ""),
}  # fmt: skip


@writers
@pytest.mark.parametrize("case", BROKEN)
def test_damage(case: str, write: Callable[..., Path], tmp_path: Path) -> None:
    content, found = BROKEN[case]
    with pytest.raises(CheckpointError, match=rf"(?s)a\.bin: not a whole file of pickled tensors.*({found})"):
        load_pickle(write(tmp_path / "a.bin", content))


def test_places_of_a_memo_take_no_memory(tmp_path: Path) -> None:
    """Python's own reader would make a list of so many places: 16 GB."""
    content = PROTO + b"}r\xff\xff\xff\x7f" + STOP
    assert load_pickle(write_zip(tmp_path / "a.bin", content)) == {}


def test_containers_in_themselves(tmp_path: Path) -> None:
    found = load_pickle(write_zip(tmp_path / "a.bin", PROTO + b"}q\x00" + text("a") + b"h\x00s" + STOP))
    assert found["a"] is found
    with pytest.raises(CheckpointError, match="expected a dict of tensors by name"):
        Tensors(tmp_path, [tmp_path / "a.bin"])


@pytest.mark.parametrize("part", [0.2, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("file", ["zip.bin", "older.bin"])
def test_truncated(file: str, part: float, tmp_path: Path) -> None:
    whole = (DATA / file).read_bytes()
    (tmp_path / file).write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(CheckpointError, match="not a whole file of pickled tensors"):
        load_pickle(tmp_path / file)


@pytest.mark.parametrize("file", ["zip.bin", "older.bin"])
def test_any_byte_that_is_changed(file: str, tmp_path: Path) -> None:
    """Other numbers or a CheckpointError, and no other exception."""
    whole, rng = (DATA / file).read_bytes(), np.random.default_rng(0)
    for _ in range(300):
        changed = bytearray(whole)
        for at in rng.integers(0, len(whole), int(rng.integers(1, 4))):
            changed[at] = rng.integers(256)
        (tmp_path / file).write_bytes(changed)
        try:
            load_pickle(tmp_path / file)
        except CheckpointError:
            pass


def test_records_of_a_zip(tmp_path: Path) -> None:
    content = entries(x=tensor())
    with pytest.raises(CheckpointError, match=r"'model/data\.pkl' is compressed or encrypted"):
        load_pickle(write_zip(tmp_path / "a.bin", content, compression=zipfile.ZIP_DEFLATED))
    with pytest.raises(CheckpointError, match="has no record 'model/data/0'"):
        load_pickle(write_zip(tmp_path / "a.bin", content, {}))
    with pytest.raises(CheckpointError, match=r"has 2 records data\.pkl"):
        load_pickle(_twice(tmp_path / "b.bin", content))
    whole = bytearray(write_zip(tmp_path / "c.bin", content).read_bytes())
    # The directory's offset of the last record, data/0: beyond the file.
    at = whole.rindex(b"PK\x01\x02")
    whole[at + 42 : at + 46] = struct.pack("<I", 2**31)
    (tmp_path / "c.bin").write_bytes(whole)
    with pytest.raises(CheckpointError, match="is not where the directory says"):
        load_pickle(tmp_path / "c.bin")


def _twice(path: Path, content: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for folder in ("a", "b"):
            archive.writestr(f"{folder}/data.pkl", content)
    return path


def test_more_than_tensors_in_a_model(tmp_path: Path) -> None:
    write_bert(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    write_zip(tmp_path / "pytorch_model.bin", entries(model=b"}" + text("x") + tensor() + b"s"))
    with pytest.raises(CheckpointError, match="expected a dict of tensors by name, found a dict with other values"):
        read_encoder(tmp_path)


def test_another_file_of_that_name(tmp_path: Path) -> None:
    write_bert(tmp_path)
    only_a_pickle(tmp_path)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin: not a whole file of pickled tensors .*it is no zip file"):
        read_encoder(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin: not a whole file of pickled tensors .*it is empty"):
        read_encoder(tmp_path)
