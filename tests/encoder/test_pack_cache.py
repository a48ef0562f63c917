"""Packs of int8 on disk: read where they are whole, and made again otherwise."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastattn import EncoderConfig
from fastattn.encoder import pack_cache
from fastattn.encoder.pack_cache import pack_or_load
from fastattn.encoder.packing import Packed, pack
from fastattn.parameters import random_parameters

CONFIG = EncoderConfig(1, 2, 32, 40, vocab_size=9)


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The folder of packs is a new one, for models of any size; the calls that packed anew."""
    calls: list[Any] = []

    def counted(*args: Any) -> Packed:
        calls.append(args)
        return pack(*args)

    monkeypatch.setattr(pack_cache, "pack", counted)
    monkeypatch.setattr(pack_cache, "_LEAST_BYTES", 0)
    monkeypatch.setattr(pack_cache, "cache_directory", lambda: tmp_path)
    monkeypatch.setattr(pack_cache, "cache_folders", lambda: [tmp_path])
    return calls


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def assert_same(one: Packed, other: Packed) -> None:
    for a, b in zip(one, other, strict=True):
        assert a.dtype == b.dtype
        assert a.flags.carray
        np.testing.assert_array_equal(a, b)


def test_the_second_load_reads(made: list[Any], tmp_path: Path) -> None:
    parameters = random_parameters(CONFIG, 0)
    first = pack_or_load(CONFIG, parameters, "int8")
    copies = {name: array.copy() for name, array in parameters.items()}
    second = pack_or_load(CONFIG, copies, "int8")
    assert len(made) == 1
    assert len(files(tmp_path)) == 1
    assert_same(first, second)
    assert second.matrices.ctypes.data % 64 == 0


def test_another_weight_or_configuration_is_packed(made: list[Any]) -> None:
    parameters = random_parameters(CONFIG, 0)
    pack_or_load(CONFIG, parameters, "int8")
    parameters["layers.0.attention.output.bias"][3] = 1e-3
    pack_or_load(CONFIG, parameters, "int8")
    pack_or_load(EncoderConfig(1, 4, 32, 40, vocab_size=9), parameters, "int8")
    assert len(made) == 3


def test_layers_that_share_arrays_are_not_those_of_equal_ones(made: list[Any]) -> None:
    config = EncoderConfig(2, 2, 32, 40, vocab_size=9)
    parameters = random_parameters(config, 0)
    equal = {name: parameters[name.replace("layers.1.", "layers.0.")].copy() for name in parameters}
    shared = {name: equal[name.replace("layers.1.", "layers.0.")] for name in equal}
    sizes = [pack_or_load(config, given, "int8").matrices.size for given in (equal, shared)]
    assert sizes[0] == 2 * sizes[1]
    assert len(made) == 2


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:40], lambda b: b"", lambda b: b[:-9] + b"x" + b[-8:]])
def test_a_damaged_file_is_replaced(made: list[Any], tmp_path: Path, damage: Any) -> None:
    parameters = random_parameters(CONFIG, 0)
    first = pack_or_load(CONFIG, parameters, "int8")
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert_same(pack_or_load(CONFIG, parameters, "int8"), first)
    assert path.read_bytes() == whole
    assert len(made) == 2


def test_float_packs_and_small_models_are_not_written(made: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = random_parameters(CONFIG, 0)
    pack_or_load(CONFIG, parameters, "float32")
    pack_or_load(CONFIG, parameters, "bfloat16")
    monkeypatch.setattr(pack_cache, "_LEAST_BYTES", 2**24)
    pack_or_load(CONFIG, parameters, "int8")
    assert not files(tmp_path)


def test_files_in_a_folder_that_is_not_writable_are_read(made: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path) -> None:
        raise PermissionError

    parameters, own = random_parameters(CONFIG, 0), tmp_path / "own"
    first = pack_or_load(CONFIG, parameters, "int8")
    monkeypatch.setattr(pack_cache, "cache_folders", lambda: [own, tmp_path])
    monkeypatch.setattr(pack_cache, "cache_directory", lambda: own)
    monkeypatch.setattr(pack_cache.os, "utime", refused)
    assert_same(pack_or_load(CONFIG, parameters, "int8"), first)
    assert len(made) == 1
    assert not own.exists()


def test_without_a_folder(made: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack_cache, "cache_directory", lambda: None)
    pack_or_load(CONFIG, random_parameters(CONFIG, 0), "int8")
    monkeypatch.setattr(pack_cache, "cache_directory", lambda: Path("/proc/nowhere"))
    pack_or_load(CONFIG, random_parameters(CONFIG, 0), "int8")
    assert len(made) == 2


def test_files_used_least_recently_are_removed(made: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack_cache, "_MOST_FILES", 2)
    for seed in range(4):
        pack_or_load(CONFIG, random_parameters(CONFIG, seed), "int8")
    assert len(files(tmp_path)) == 2
    pack_or_load(CONFIG, random_parameters(CONFIG, 3), "int8")
    assert len(made) == 4


def test_packs_of_other_code_are_not_read(made: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = random_parameters(CONFIG, 0)
    pack_or_load(CONFIG, parameters, "int8")
    monkeypatch.setattr(pack_cache, "content_tag", lambda *packages: "other")
    pack_or_load(CONFIG, parameters, "int8")
    assert len(made) == 2
