"""`fastattn compare`: every op and the encoder, each with an error and a ratio of times."""

import inspect
import re

import pytest

import fastattn
from fastattn.cli.cases import cases, ops
from tests.support.command_line import run

pytestmark = pytest.mark.jit


@pytest.mark.parametrize("load", [0.0, 3.25])
def test_a_busy_machine_is_told(load: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (load, 0.0, 0.0), raising=False)
    monkeypatch.setattr("fastattn.cli.compare.compare", lambda: iter(()))
    found = run("compare")
    assert found.stderr == ("warning: other programs kept 3.2 CPUs busy: these times say little\n" if load else "")
    assert "NumPy: the reference, written to be read and not to be fast" in found.stdout


def test_compare() -> None:
    result = run("compare")
    rows = re.findall(r"^(\S.*?) +(\S+) +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+)x$", result.stdout, re.M)
    assert {row[0] for row in rows} >= {case.label for case in cases()}
    for label, _, error, reference_error, ours, theirs, ratio in rows:
        # A loose bound is enough: a wrong result is off by five orders of magnitude more. The op tests have the tolerance.
        assert 0 < float(error) < 100, label
        assert 0 < float(reference_error) < 100, label
        assert float(ratio) == pytest.approx(float(theirs) / float(ours), rel=0.2, abs=0.1), label
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_every_op_has_a_case(monkeypatch: pytest.MonkeyPatch) -> None:
    public = {name for name in fastattn.__all__ if inspect.isfunction(getattr(fastattn, name))}
    public -= {"accelerate", "calls", "quantize_embeddings", "restore"}
    # What only learning computes has its tests in tests/backward.
    public -= {name for name in public if getattr(fastattn, name).__module__.startswith("fastattn.kernels.backward.")}
    assert set(ops()) == public == {case.op for case in cases()}
    monkeypatch.setattr("fastattn.cli.cases.ops", lambda: {"softmax": fastattn.softmax, "no_op": print})
    with pytest.raises(NotImplementedError, match="no inputs for no_op"):
        cases()
