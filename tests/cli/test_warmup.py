"""`fastattn warmup`: every op, both schedules of the encoder and the pooling are compiled."""

import re

import pytest

from fastattn.cli.cases import ops
from fastattn.cli.warmup import warm_up
from fastattn.kernels.compile.jit import ParallelKernel
from tests.support.command_line import run
from tests.support.guarded import all_kernels

pytestmark = pytest.mark.jit


def test_warmup() -> None:
    result = run("warmup")
    assert "encoder, one text" in result.stdout
    assert set(ops()) <= set(re.findall(r"^ +[\d.]+ s  (\w+)$", result.stdout, re.M))
    assert re.search(r"\d\.\d s  in total", result.stdout)


def test_no_kernel_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    called: set[str] = set()
    call = ParallelKernel.__call__
    monkeypatch.setattr(ParallelKernel, "__call__", lambda self, *args: (called.add(self.__name__), call(self, *args))[1])
    names = [name for name, _ in warm_up()]
    assert len(names) == len(set(names)) > len(ops())
    assert called == all_kernels()
