"""`fastattn info`."""

import pytest

from fastattn.cli import info
from fastattn.kernels.products import kinds
from tests.support.command_line import python, run

pytestmark = pytest.mark.jit


def test_info() -> None:
    result = run("info")
    for word in ("CPU", "bits", "threads", "threading layer", "kernel cache", "numba", "default model"):
        assert word in result.stdout


def test_kinds_of_product_and_what_decides_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(kinds.VARIABLE, raising=False)
    rows = dict(line.split(maxsplit=2)[0::2] for line in run("info").stdout.splitlines() if " products " in line)
    for kind in (kinds.INT8, kinds.BFLOAT16):
        said = rows[kind.precision]
        assert said.startswith(f"{kind.name} ({kind.instructions}), because the CPU has {kind.extension or 'none of'}")
        slower = kinds.slower(kind.precision)
        assert said.endswith(f"; slower than float32: {slower}" if slower else said)


def test_kinds_of_product_that_the_environment_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(kinds.VARIABLE, "int8=i16")
    (line,) = [line for line in python("info").stdout.splitlines() if line.startswith("int8 products")]
    assert line.split()[2] == "i16"
    assert f"because {kinds.VARIABLE} is 'int8=i16'" in line


def test_a_kind_that_the_system_refuses_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(kinds.VARIABLE, raising=False)
    monkeypatch.setattr(info, "TARGET", info.TARGET._replace(extensions=frozenset({"amx-int8", "avx512vnni"})))
    (vnni,) = [kind for kind in kinds.KINDS if kind.name == "vnni"]
    assert ", because the CPU has avx512vnni, and the system refuses amx" in info._products(vnni)
