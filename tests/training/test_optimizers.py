"""Optimisers against their definitions in float64 over 100 steps, and against torch.optim; clipping of gradients."""

import copy
import math
from typing import Any

import numpy as np
import pytest

from fastattn import reference
from fastattn.kernels import optimizers as kernels
from fastattn.training import optimizers
from fastattn.training.graph import Parameter
from fastattn.training.optimizer import Optimizer, clip_grad_norm_
from tests.support.cases import Array, normal, read_only
from tests.support.contract import assert_same_bits
from tests.support.linear_gradients import each_thread_count
from tests.support.tolerance import check

STEPS = 100
CASES: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {}),
    ("SGD", {"lr": 0.1, "weight_decay": 0.1, "maximize": True}),
    ("SGD", {"momentum": 0.9}),
    ("SGD", {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01}),
    ("SGD", {"momentum": 0.9, "nesterov": True, "maximize": True}),
    ("RMSprop", {}),
    ("RMSprop", {"alpha": 0.9, "eps": 1e-3, "weight_decay": 0.1, "maximize": True}),
    ("RMSprop", {"momentum": 0.9}),
    ("RMSprop", {"centered": True}),
    ("RMSprop", {"centered": True, "momentum": 0.5, "alpha": 0.4}),
    ("Adagrad", {}),
    ("Adagrad", {"lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.5, "maximize": True}),
    ("Adam", {}),
    ("Adam", {"betas": (0.3, 0.9), "eps": 1e-3, "weight_decay": 0.1, "maximize": True}),
    ("Adam", {"amsgrad": True, "betas": (0.9, 0.5)}),
    ("Adam", {"decoupled_weight_decay": True, "weight_decay": 0.1}),
    ("AdamW", {}),
    ("AdamW", {"lr": 0.1, "amsgrad": True, "weight_decay": 0.5, "betas": (0.9, 0.5), "maximize": True}),
]
ids = [f"{name}-{'-'.join(options)}" for name, options in CASES]
SIZES = (1, 7, 16, 33)


def gradients(*shape: int, steps: int = STEPS, dtype: Any = np.float32) -> Array:
    """Return gradients whose magnitudes differ by a factor of 1000, and some of which are 0."""
    grads = normal(steps, *shape, seed=1) * np.logspace(-3, 0, steps).reshape(-1, *[1] * len(shape))
    grads[1::7] = 0
    return grads.astype(dtype)


def trained(name: str, options: dict[str, Any], start: Array, grads: Array) -> Array:
    parameter = Parameter(start.copy())
    optimizer = getattr(optimizers, name)([parameter], **options)
    for grad in grads:
        parameter.grad = grad
        optimizer.step()
    return parameter.data


def definition(name: str, options: dict[str, Any]) -> Any:
    if name == "AdamW":
        options = {"weight_decay": 1e-2, "decoupled_weight_decay": True, **options}
    twin = getattr(reference, {"AdamW": "adam"}.get(name, name.lower()))
    return lambda start, grads: twin(start, grads, **options)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "options"), CASES, ids=ids)
def test_definition(name: str, options: dict[str, Any], dtype: Any) -> None:
    for size in SIZES:
        start, grads = normal(size, dtype=dtype), gradients(size, dtype=dtype)
        result = check(name, start, grads, ours=lambda p, g: trained(name, options, p, g), twin=definition(name, options))
        assert not np.array_equal(result, start)


@pytest.mark.jit
@pytest.mark.parametrize(("name", "options"), CASES, ids=ids)
def test_threads_and_blocks(name: str, options: dict[str, Any]) -> None:
    """An element's bits depend on nothing but its own numbers: not on threads, blocks, or its place in a vector."""
    for size in (kernels.BLOCK - 1, kernels.BLOCK, 40 * kernels.BLOCK + 5):
        start, grads = normal(size), gradients(size, steps=3)
        first, *others = [trained(name, options, start, grads) for _ in each_thread_count()]
        for other in others:
            assert_same_bits(other, first)
        for at in (0, 9, kernels.BLOCK - 2, size - 1):
            assert_same_bits(trained(name, options, start[at : at + 1], grads[:, at : at + 1]), first[at : at + 1])


@pytest.mark.parametrize(("name", "options"), CASES, ids=ids)
def test_torch(name: str, options: dict[str, Any]) -> None:
    """torch's own error sets the bound: ours may be twice as far from the definition in float64."""
    torch = pytest.importorskip("torch")
    size = 257
    start, grads = normal(size), gradients(size)
    parameter = torch.nn.Parameter(torch.tensor(start.copy()))
    optimizer = getattr(torch.optim, name)([parameter], **options)
    for grad in grads:
        parameter.grad = torch.tensor(grad)
        optimizer.step()
    theirs, ours = parameter.detach().numpy(), trained(name, options, start, grads)
    truth = definition(name, options)(start.astype(np.float64), grads.astype(np.float64))
    assert np.abs(ours - truth).max() <= 2 * np.abs(theirs - truth).max()


def test_defaults_are_those_of_torch() -> None:
    torch = pytest.importorskip("torch")
    for name in optimizers.__all__:
        ours = getattr(optimizers, name)([Parameter(normal(3))]).defaults
        theirs = getattr(torch.optim, name)([torch.nn.Parameter(torch.zeros(3))]).defaults
        left_out = {"foreach", "differentiable", "fused", "capturable"}
        assert ours == {key: value for key, value in theirs.items() if key not in left_out}


@pytest.mark.parametrize(("name", "options"), CASES, ids=ids)
def test_a_run_that_goes_on_has_the_same_bits(name: str, options: dict[str, Any]) -> None:
    start, grads = normal(3, 5), gradients(3, 5, steps=9)
    whole = trained(name, options, start, grads)
    first = Parameter(trained(name, options, start, grads[:0]))
    optimizer = getattr(optimizers, name)([first], **options)
    for grad in grads[:4]:
        first.grad = grad
        optimizer.step()
    kept = copy.deepcopy(optimizer.state_dict())
    second = Parameter(first.data.copy())
    first.grad = grads[4]
    optimizer.step()
    other = getattr(optimizers, name)([second], **{**options, "lr": 5.0})
    other.load_state_dict(kept)
    for grad in grads[4:]:
        second.grad = grad
        other.step()
    assert_same_bits(second.data, whole)
    assert all(x.shape == (3, 5) for x in kept["state"].get(0, {}).values() if isinstance(x, np.ndarray))


def test_state_and_loaded_state_share_no_memory() -> None:
    parameter = Parameter(normal(4))
    optimizer = optimizers.Adam([parameter])
    parameter.grad = normal(4)
    optimizer.step()
    other = optimizers.Adam([Parameter(normal(4))])
    other.load_state_dict(optimizer.state_dict())
    assert not np.shares_memory(other.state_dict()["state"][0]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])


def test_groups_have_options_of_their_own() -> None:
    a, b, c = (Parameter(np.ones(2, np.float32), name) for name in "abc")
    optimizer = optimizers.SGD([{"params": [a], "lr": 0.5}, {"params": b}], lr=0.25)
    optimizer.add_param_group({"params": [c], "weight_decay": 1.0})
    for each in (a, b, c):
        each.grad = np.ones(2, np.float32)
    optimizer.step()
    assert [each.data.tolist() for each in (a, b, c)] == [[0.5] * 2, [0.75] * 2, [0.5] * 2]
    assert [group["params"] for group in optimizer.state_dict()["param_groups"]] == [[0], [1], [2]]
    assert repr(optimizer).startswith("SGD(1 parameters: lr=0.5")
    optimizer.param_groups[1]["lr"] = 0
    optimizer.step()
    assert b.data.tolist() == [0.75] * 2


def test_data_are_changed_in_place_and_gradients_are_not() -> None:
    data, grad = normal(2, 3), read_only(np.asfortranarray(normal(2, 3, seed=2)))
    parameter, fixed = Parameter(data), Parameter(normal(3))
    before, kept = grad.copy(), fixed.data.copy()
    parameter.grad = grad
    optimizer = optimizers.SGD([parameter, fixed], lr=1.0)
    expected = data - grad
    assert optimizer.step(lambda: 3.5) == 3.5
    assert parameter.data is data
    np.testing.assert_array_equal(data, expected)
    np.testing.assert_array_equal(grad, before)
    np.testing.assert_array_equal(fixed.data, kept)
    optimizer.zero_grad()
    assert parameter.grad is None
    parameter.grad = grad
    optimizer.zero_grad(set_to_none=False)
    assert parameter.grad.tolist() == [[0] * 3] * 2


def test_empty_parameters_and_scalars() -> None:
    empty, scalar = Parameter(np.empty((0, 3), np.float32)), Parameter(np.array(2.0, np.float32))
    optimizer = optimizers.AdamW([empty, scalar], lr=0.5, weight_decay=0)
    empty.grad, scalar.grad = np.empty((0, 3), np.float32), np.array(7, np.float32)
    optimizer.step()
    assert scalar.data == 1.5


def test_nan_stays_in_its_element() -> None:
    for name, options in CASES:
        grads = gradients(9, steps=2)
        grads[0, 4] = np.nan
        assert np.isnan(trained(name, options, normal(9), grads)).tolist() == [False] * 4 + [True] + [False] * 4


def test_the_greatest_mean_of_squares_keeps_a_nan_as_in_torch() -> None:
    parameter = Parameter(normal(3))
    optimizer = optimizers.Adam([parameter], amsgrad=True)
    for grad in ([1, 1, 1], [1, np.nan, 1]):
        parameter.grad = np.array(grad, np.float32)
        optimizer.step()
    assert np.isnan(optimizer.state[parameter]["max_exp_avg_sq"]).tolist() == [False, True, False]


class Frozen:
    data = read_only(normal(3))
    grad = None


BAD: list[tuple[type[Exception], str, Any, dict[str, Any]]] = [
    (ValueError, "empty", [], {}),
    (TypeError, "params", Parameter(normal(3)), {}),
    (TypeError, "params", {"params": []}, {}),
    (TypeError, "ndarray", [normal(3)], {}),
    (TypeError, "int64", [Parameter(np.zeros(3, np.int64), "x")], {}),
    (ValueError, "writable", [Frozen()], {}),
    (ValueError, "C-contiguous", [Parameter(normal(3, 4).T)], {}),
    (TypeError, "param_group", [{"lr": 1}], {}),
    (ValueError, "betas.*know|know: beta", [{"params": [Parameter(normal(3))], "beta": 1}], {}),
    (ValueError, "twice", [Parameter(normal(3), "w")] * 2, {}),
    (ValueError, r"\blr\b", [Parameter(normal(3))], {"lr": -1}),
    (ValueError, r"\blr\b", [{"params": [Parameter(normal(3))], "lr": float("nan")}], {}),
    (TypeError, r"\blr\b", [Parameter(normal(3))], {"lr": None}),
    (ValueError, r"\bbetas\b", [Parameter(normal(3))], {"betas": (0.9, 1.0)}),
    (ValueError, r"\bbetas\b", [Parameter(normal(3))], {"betas": 0.9}),
    (ValueError, r"\beps\b", [Parameter(normal(3))], {"eps": -1e-8}),
    (ValueError, r"\bweight_decay\b", [Parameter(normal(3))], {"weight_decay": -1}),
]


@pytest.mark.parametrize(("error", "match", "params", "options"), BAD)
def test_bad_arguments(error: type[Exception], match: str, params: Any, options: dict[str, Any]) -> None:
    with pytest.raises(error, match=match):
        optimizers.Adam(params, **options)


def test_bad_options_of_the_others() -> None:
    params = [Parameter(normal(3))]
    for wrong in ({"nesterov": True}, {"nesterov": True, "momentum": 0.9, "dampening": 0.1}, {"momentum": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            optimizers.SGD(params, **wrong)
    for name in ("alpha", "momentum", "eps"):
        with pytest.raises(ValueError, match=name):
            optimizers.RMSprop(params, **{name: -1})
    for name in ("lr_decay", "initial_accumulator_value"):
        with pytest.raises(ValueError, match=name):
            optimizers.Adagrad(params, **{name: -1})


def test_bad_gradients_and_states() -> None:
    parameter = Parameter(normal(3), "layers.0.bias")
    optimizer = optimizers.Adam([parameter])
    for grad, error in ((normal(4), ValueError), (normal(3, dtype=np.float64), TypeError)):
        parameter.grad = grad
        with pytest.raises(error, match=r"layers\.0\.bias"):
            optimizer.step()
    parameter.grad = normal(3)
    optimizer.step()
    state = optimizer.state_dict()
    with pytest.raises(ValueError, match="exp_avg"):
        optimizers.Adam([Parameter(normal(5))]).load_state_dict(state)
    with pytest.raises(ValueError, match="groups"):
        optimizers.Adam([parameter, Parameter(normal(3))]).load_state_dict(state)
    with pytest.raises(ValueError, match="param_groups"):
        optimizer.load_state_dict({"state": {}})
    with pytest.raises(NotImplementedError):
        Optimizer([parameter], {})


def with_gradients(*shapes: tuple[int, ...], scale: float = 1.0, dtype: Any = np.float32) -> list[Parameter]:
    found = [Parameter(normal(*shape, dtype=dtype)) for shape in shapes]
    for i, each in enumerate(found):
        each.grad = normal(*each.shape, seed=i, scale=scale, dtype=dtype)
    return [*found, Parameter(normal(2))]


@pytest.mark.parametrize("norm_type", [2.0, 1, 3.0, math.inf])
@pytest.mark.parametrize("max_norm", [0.5, 1e6])
def test_clip(max_norm: float, norm_type: float) -> None:
    for shapes in ([(1,)], [(3, 5), (0,), (7,)], [(4097,), (5,)], [()]):
        params = with_gradients(*shapes)
        before = [each.grad.copy() for each in params if each.grad is not None]
        arrays = [each.grad for each in params]
        norm = clip_grad_norm_(params, max_norm, norm_type)
        expected = np.linalg.norm(np.concatenate([each.astype(np.float64).reshape(-1) for each in before]), norm_type)
        assert norm == pytest.approx(expected, rel=1e-14)
        factor = min(1.0, max_norm / (expected + 1e-6))
        for each, old, array in zip(params, before, arrays, strict=False):
            assert each.grad is array
            np.testing.assert_allclose(each.grad, old * factor, rtol=2e-7)


def test_clip_of_shared_and_read_only_gradients() -> None:
    """An array that two parameters share is scaled once, and counts twice, as it does in torch."""
    a, b, c = (Parameter(normal(3)) for _ in range(3))
    shared = np.ones(3, np.float32)
    a.grad, b.grad, c.grad = shared, shared[:], read_only(np.ones(3, np.float32))
    assert clip_grad_norm_([a, b, c], 1.5) == 3
    for each in (a, b, c):
        assert each.grad is not None and each.grad.tolist() == pytest.approx([0.5] * 3)


def test_clip_of_what_is_not_finite() -> None:
    for bad in (np.nan, np.inf):
        for norm_type in (2.0, 1.0, math.inf):
            params = with_gradients((3,), (4,))
            assert params[0].grad is not None
            params[0].grad[1] = bad
            with pytest.raises(RuntimeError, match="norm of the gradients"):
                clip_grad_norm_(params, 1.0, norm_type, error_if_nonfinite=True)
            assert clip_grad_norm_(params, 1.0, norm_type) in (bad, pytest.approx(bad, nan_ok=True))
            assert np.isnan(params[0].grad[1])
    with pytest.raises(ValueError, match="norm_type"):
        clip_grad_norm_(with_gradients((3,)), 1.0, 0)
    assert clip_grad_norm_([Parameter(normal(2))], 1.0) == 0
    # In float32 the squares would be infinite.
    assert clip_grad_norm_(with_gradients((5,), scale=1e30), 1.0) > 1e30


@pytest.mark.jit
def test_clip_with_any_threads() -> None:
    norms, results = [], []
    for _ in each_thread_count():
        params = with_gradients((300_001,), (5, 7))
        norms.append(clip_grad_norm_(params, 1.0))
        results.append(params[0].grad)
    assert len(set(norms)) == 1
    for other in results[1:]:
        assert_same_bits(other, results[0])


def test_clip_in_torch() -> None:
    torch = pytest.importorskip("torch")
    for norm_type in (2.0, 1.0, math.inf):
        params = with_gradients((3, 5), (7,), dtype=np.float64)
        theirs = [torch.nn.Parameter(torch.tensor(each.data)) for each in params]
        for each, ours in zip(theirs, params, strict=True):
            each.grad = None if ours.grad is None else torch.tensor(ours.grad)
        expected = torch.nn.utils.clip_grad_norm_(theirs, 0.7, norm_type)
        assert clip_grad_norm_(params, 0.7, norm_type) == pytest.approx(float(expected), rel=1e-14)
        for each, ours in zip(theirs, params, strict=True):
            if ours.grad is not None:
                np.testing.assert_allclose(ours.grad, each.grad.numpy(), rtol=1e-14)
