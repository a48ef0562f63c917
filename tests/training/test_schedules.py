"""Learning-rate schedules: values by hand, and those of transformers, bit for bit."""

import itertools
from typing import Any

import numpy as np
import pytest

from fastattn.training.graph import Parameter
from fastattn.training.optimizers import SGD, AdamW
from fastattn.training.schedules import SCHEDULES, LRScheduler, get_scheduler, warmup_steps_of


def rates(name: str, steps: int, *args: Any, lr: float = 1.0) -> list[float]:
    """Return the learning rates of the steps."""
    optimizer = SGD([Parameter(np.zeros(2, np.float32))], lr=lr)
    scheduler = get_scheduler(name, optimizer, *args)
    found = []
    for _ in range(steps):
        found += scheduler.get_last_lr()
        optimizer.step()
        scheduler.step()
    return found


def test_by_hand() -> None:
    assert rates("constant", 3) == [1, 1, 1]
    assert rates("constant_with_warmup", 4, 2) == [0, 0.5, 1, 1]
    assert rates("linear", 8, 2, 6) == [0, 0.5, 1, 0.75, 0.5, 0.25, 0, 0]
    assert rates("cosine", 4, 0, 2) == pytest.approx([1, 0.5, 0, 0.5], abs=1e-15)
    assert rates("cosine_with_restarts", 6, 0, 4, {"num_cycles": 2}) == pytest.approx([1, 0.5, 1, 0.5, 0, 0])
    assert rates("polynomial", 5, 1, 3, {"lr_end": 0.5, "power": 2}, lr=2.0) == [0, 2, 0.875, 0.5, 0.5]
    assert rates("inverse_sqrt", 17, 4)[::4] == pytest.approx([0, 1, 0.5**0.5, 3**-0.5, 0.5])


OPTIONS: dict[str, list[dict[str, Any]]] = {
    "cosine": [{}, {"num_cycles": 1.5}],
    "cosine_with_restarts": [{}, {"num_cycles": 3}],
    "polynomial": [{}, {"lr_end": 1e-6, "power": 2.0}],
    "inverse_sqrt": [{}, {"timescale": 7}],
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_transformers(name: str) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    for options, warmup, total in itertools.product(OPTIONS.get(name, [{}]), (0, 1, 5), (6, 23)):
        ours = AdamW([Parameter(np.zeros(2, np.float32))], lr=3e-5)
        ours.add_param_group({"params": [Parameter(np.zeros(2, np.float32))], "lr": 1e-3})
        parameters = [torch.nn.Parameter(torch.zeros(2)) for _ in range(2)]
        theirs = torch.optim.AdamW(parameters[:1], lr=3e-5)
        theirs.add_param_group({"params": parameters[1:], "lr": 1e-3})
        found = get_scheduler(name, ours, warmup, total, options)
        expected = transformers.get_scheduler(name, theirs, warmup, total, options)
        for _ in range(total + 3):
            assert found.get_last_lr() == expected.get_last_lr()
            theirs.step()
            expected.step()
            found.step()


def test_a_run_that_goes_on_has_the_same_rates() -> None:
    def new() -> LRScheduler:
        return get_scheduler("cosine", SGD([Parameter(np.zeros(2, np.float32))], lr=0.5), 2, 9)

    one, other = new(), new()
    for _ in range(4):
        one.step()
    other.load_state_dict(one.state_dict())
    for _ in range(5):
        assert other.get_last_lr() == one.get_last_lr()
        one.step()
        other.step()


def test_a_second_schedule_begins_with_the_first_rate() -> None:
    optimizer = SGD([Parameter(np.zeros(2, np.float32))], lr=0.5)
    get_scheduler("linear", optimizer, 2, 9).step()
    assert get_scheduler("constant", optimizer).get_last_lr() == [0.5]


def test_warmup_steps() -> None:
    assert warmup_steps_of(100) == 0
    assert warmup_steps_of(101, warmup_ratio=0.1) == 11
    assert warmup_steps_of(101, 7, 0.1) == 7
    assert warmup_steps_of(101, 0.5) == 51
    for wrong in ({"warmup_ratio": 1.5}, {"warmup_steps": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            warmup_steps_of(100, **wrong)


@pytest.mark.parametrize(
    ("match", "args"),
    [
        ("name.*'linear'.*'step'", ("step",)),
        ("num_warmup_steps", ("linear",)),
        ("num_training_steps", ("linear", 3)),
        ("num_cycles.*cycles", ("cosine", 3, 9, {"cycles": 2})),
        ("nothing, got num_cycles", ("constant", 3, 9, {"num_cycles": 2})),
        ("lr_end", ("polynomial", 3, 9, {"lr_end": 2.0})),
    ],
)
def test_bad_arguments(match: str, args: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match=match):
        rates(args[0], 1, *args[1:])


def test_a_state_of_other_groups() -> None:
    scheduler = get_scheduler("constant", SGD([Parameter(np.zeros(2, np.float32))]))
    with pytest.raises(ValueError, match="base_lrs"):
        scheduler.load_state_dict({"base_lrs": [1, 2], "last_epoch": 3})
