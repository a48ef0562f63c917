"""Files of pickled tensors, opcode by opcode: what torch.save writes, and what it would not."""

import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PROTO, STOP = b"\x80\x02", b"."


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value: int) -> bytes:
    return b"\x8a\x08" + value.to_bytes(8, "little", signed=True)


def name(module: str, attribute: str) -> bytes:
    return b"c" + f"{module}\n{attribute}\n".encode()


def storage(key: str = "0", numel: int = 6, kind: str = "FloatStorage", module: str = "torch", device: str = "cpu") -> bytes:
    return b"(" + text("storage") + name(module, kind) + text(key) + text(device) + number(numel) + b"tQ"


def sizes(*values: int) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def tensor(
    shape: tuple[int, ...] = (2, 3), strides: tuple[int, ...] = (3, 1), offset: int = 0, stored: bytes | None = None
) -> bytes:
    parts = (storage() if stored is None else stored) + number(offset) + sizes(*shape) + sizes(*strides)
    return name("torch._utils", "_rebuild_tensor_v2") + b"(" + parts + b"\x89" + name("collections", "OrderedDict") + b")RtR"


def entries(**values: bytes) -> bytes:
    return PROTO + b"}(" + b"".join(text(key) + value for key, value in values.items()) + b"u" + STOP


def write_zip(path: Path, content: bytes, records: dict[str, bytes] | None = None, compression: int = zipfile.ZIP_STORED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("model/data.pkl", content)
        for record, data in ({"data/0": np.arange(6, dtype="<f4").tobytes()} if records is None else records).items():
            archive.writestr(f"model/{record}", data)
    return path


def write_older(path: Path, content: bytes, keys: Any = ("0",), stored: bytes | None = None) -> Path:
    about = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    head = b"".join(pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, about))
    data = struct.pack("<q", 6) + np.arange(6, dtype="<f4").tobytes() if stored is None else stored
    path.write_bytes(head + content + pickle.dumps(list(keys), 2) + data)
    return path


WRITERS = {"zip": write_zip, "older": write_older}
writers = pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
