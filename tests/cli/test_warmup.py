"""`fastattn warmup`: every op, both schedules of the encoder and the pooling are compiled."""

import re

import numpy as np
import pytest

from fastattn import Encoder, EncoderConfig
from fastattn.cli.cases import ops
from fastattn.cli.warmup import warm_up, warm_up_training
from fastattn.kernels.compile.jit import ParallelKernel
from fastattn.kernels.encoder.schedule import run_step
from fastattn.training import AdamW, EncoderGraph
from fastattn.training.functions import Dropout
from tests.support.command_line import run
from tests.support.golden_models import GOLDEN
from tests.support.guarded import all_kernels, kernels_of, package_modules

pytestmark = pytest.mark.jit

LEARNING = ("fastattn.kernels.backward.", "fastattn.kernels.optimizers")


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
    # Those of learning are compiled where they are asked for, or by the first step of a training run.
    learning = {name for module in package_modules() if module.__name__.startswith(LEARNING) for name in kernels_of(module)}
    assert called == all_kernels() - learning and "adam_kernel" in learning
    names = [name for name, _ in warm_up_training("bfloat16")]
    assert len(names) == len(set(names)) and called == all_kernels()


def test_the_kernels_of_learning_are_compiled_where_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastattn.cli.warmup.warm_up", lambda precision: iter([("softmax", 0.0)]))
    assert "learning" not in run("warmup").stdout
    result = run("warmup", "--training")
    assert all(f"learning, {name}" in result.stdout for name in ("encoder with layer norm", "losses", "AdamW", "Adagrad"))

    def compiled() -> dict[str, int]:
        kernels = [each for module in package_modules() for each in vars(module).values() if isinstance(each, ParallelKernel)]
        return {each.__name__: len(each.dispatcher.signatures) for each in kernels}

    before = compiled()
    # A step of training compiles nothing more.
    graph, ids = EncoderGraph(EncoderConfig(1, 2, 16, 24, vocab_size=9)), np.arange(9, dtype=np.int32)
    hidden = graph(ids, np.array([0, 4, 9]), None, Dropout(0.1, (1,)))
    hidden.backward(hidden.data)
    AdamW(graph.trained()).step()
    assert compiled() == before
