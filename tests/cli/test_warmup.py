"""`fastattn warmup`: every op, both schedules of the encoder and the pooling are compiled."""

import re

import numpy as np
import pytest

from fastattn import Encoder
from fastattn.cli.cases import ops
from fastattn.cli.warmup import warm_up
from fastattn.kernels.compile.jit import ParallelKernel
from fastattn.kernels.encoder.schedule import run_step
from tests.support.command_line import run
from tests.support.golden_models import GOLDEN
from tests.support.guarded import all_kernels

pytestmark = pytest.mark.jit


def test_warmup() -> None:
    result = run("warmup")
    assert "encoder, one text" in result.stdout
    assert set(ops()) <= set(re.findall(r"^ +[\d.]+ s  (\w+)$", result.stdout, re.M))
    assert re.search(r"\d\.\d s  in total", result.stdout)


def test_a_low_precision_is_compiled_too() -> None:
    names = [name for name, _ in warm_up("int8")]
    assert names[:4] == ["encoder, many texts", "encoder, one text", "encoder in int8, many texts", "encoder in int8, one text"]
    before = set(run_step._addresses)
    Encoder.from_pretrained(GOLDEN / "bert", "int8")(np.zeros((2, 3), int))
    assert set(run_step._addresses) == before


def test_a_precision_that_is_unknown() -> None:
    result = run("warmup", "--precision", "int4", code=2)
    assert "--precision must be one of float32, bfloat16, int8, got 'int4'" in result.stderr


def test_no_kernel_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    called: set[str] = set()
    call = ParallelKernel.__call__
    monkeypatch.setattr(ParallelKernel, "__call__", lambda self, *args: (called.add(self.__name__), call(self, *args))[1])
    names = [name for name, _ in warm_up()]
    assert len(names) == len(set(names)) > len(ops())
    assert called == all_kernels()
