"""accelerate: calls that run the kernels, calls that run the original, and changes of the module between calls."""

import copy
import inspect
import io
import pickle
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import fastattn  # noqa: E402
from fastattn import FallbackWarning  # noqa: E402
from fastattn.pytorch import nn_forwards  # noqa: E402

nn = torch.nn
pytestmark = pytest.mark.jit
C, T = 16, 5


def encoder(**options: Any) -> Any:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(C, 2, 24, dropout=0.1, batch_first=True, **options)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()


@pytest.fixture
def module() -> Any:
    return fastattn.accelerate(encoder())


@pytest.fixture
def x() -> Any:
    return torch.randn(2, T, C, generator=torch.Generator().manual_seed(1))


class Runs:
    """Counts the calls that reach the kernels."""

    def __init__(self) -> None:
        self.count = 0

    def by_kernels(self, module: Any, *args: Any, **kwargs: Any) -> bool:
        """Call without gradients, check the result, and tell whether the kernels ran; a warning is an error."""
        before = self.count
        original = type(module).forward
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("error")
            found = module(*args, **kwargs)
            torch.testing.assert_close(found, original(module, *args, **kwargs), rtol=1e-4, atol=1e-4)
        return self.count > before


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    counter = Runs()
    real = nn_forwards.StackForward.run

    def counted(self: Any, plan: Any, given: Any) -> Any:
        result = real(self, plan, given)
        counter.count += 1
        return result

    monkeypatch.setattr(nn_forwards.StackForward, "run", counted)
    return counter


@pytest.fixture(autouse=True)
def slow_path() -> Iterator[None]:
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(True)


def told(call: Any) -> list[str]:
    """Return the reasons of the fallbacks in a call."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    assert all(issubclass(one.category, FallbackWarning) and one.filename == __file__ for one in caught)
    return [str(one.message).split("because ")[1] for one in caught]


def test_is_the_same_object(x: Any) -> None:
    plain = encoder()
    names, text = list(plain.state_dict()), repr(plain)
    module = fastattn.accelerate(plain)
    assert module is plain and type(module) is nn.TransformerEncoder
    assert list(module.state_dict()) == names and repr(module) == text
    assert inspect.signature(module.forward) == inspect.signature(encoder().forward)
    assert module.forward.__doc__ == nn.TransformerEncoder.forward.__doc__


def test_gradients_run_the_original_with_one_warning(module: Any, x: Any, runs: Runs) -> None:
    plain = encoder()
    reasons = told(lambda: [module(x) for _ in range(3)])
    (reason,) = reasons
    assert reason.startswith("gradients are recorded") and "torch.no_grad()" in reason and "requires_grad_(False)" in reason
    assert fastattn.calls(module) == {"": fastattn.Calls(0, {reason: 3})}
    out = module(x)
    assert torch.equal(out, plain(x)) and out.requires_grad
    out.sum().backward()
    plain(x).sum().backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(module.parameters(), plain.parameters(), strict=True))
    assert not runs.count
    assert runs.by_kernels(module, x)


def test_frozen_parameters_need_no_gradients(module: Any, x: Any, runs: Runs) -> None:
    module.requires_grad_(False)
    assert not told(lambda: module(x)) and runs.count == 1
    assert len(told(lambda: module(x.clone().requires_grad_()))) == 1 and runs.count == 1
    module.layers[1].linear2.bias.requires_grad_()
    module(x)
    assert runs.count == 1


def test_training_mode_runs_the_original_with_one_warning(module: Any, x: Any, runs: Runs) -> None:
    assert runs.by_kernels(module, x)
    module.train()
    with torch.no_grad():
        assert told(lambda: [module(x) for _ in range(3)]) == ["it is in training mode: call eval() on it first"]
        torch.manual_seed(3)
        found = module(x)
        torch.manual_seed(3)
        assert torch.equal(found, type(module).forward(module, x))
    assert not torch.equal(found, module(x))
    module.eval()
    assert runs.by_kernels(module, x)
    module.layers[0].dropout1.train()
    with torch.no_grad():
        module(x)
    assert runs.count == 2


@pytest.mark.parametrize("kind", ["plain", "foreach", "fused"])
def test_optimizer_steps_are_noticed(kind: str, module: Any, x: Any, runs: Runs) -> None:
    """The fused optimizer changes parameters without increasing their version counters."""
    assert runs.by_kernels(module, x)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1, **({kind: True} if kind != "plain" else {}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module.train()
        loss = module(x).square().mean()
        module.eval()
    assert runs.by_kernels(module, x)
    loss.backward()
    optimizer.step()
    assert runs.by_kernels(module, x)


CHANGES: dict[str, Any] = {
    "load": lambda m, o: m.load_state_dict(o.state_dict()),
    "assign": lambda m, o: m.load_state_dict(o.state_dict(), assign=True),
    "in place": lambda m, o: m.layers[1].linear1.weight.detach().mul_(2),
    "one element": lambda m, o: m.layers[0].self_attn.in_proj_weight.detach().__setitem__((1, 1), 9.0),
    "data": lambda m, o: [p.data.mul_(1.5) for p in m.parameters()],
    "rows of data": lambda m, o: m.layers[1].linear1.weight.data[5:8].zero_(),
    "new data": lambda m, o: setattr(m.layers[0].norm1.weight, "data", torch.full((C,), 3.0)),
    "new part": lambda m, o: setattr(m.layers[0], "linear2", o.layers[0].linear2),
    "new layer": lambda m, o: m.layers.__setitem__(1, o.layers[0]),
    "fewer layers": lambda m, o: setattr(m, "layers", m.layers[:1]),
    "more layers": lambda m, o: m.layers.append(o.layers[1]),
    "new norm": lambda m, o: setattr(m, "norm", nn.LayerNorm(C)),
    "shared memory": lambda m, o: m.share_memory(),
    "activation": lambda m, o: setattr(m.layers[0], "activation", nn.functional.gelu) or setattr(m, "layers", m.layers[:1]),
    "eps": lambda m, o: [setattr(norm, "eps", 0.5) for norm in m.modules() if isinstance(norm, nn.LayerNorm)],
    "there and back": lambda m, o: m.double().float(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changes_are_noticed(change: str, module: Any, x: Any, runs: Runs) -> None:
    assert runs.by_kernels(module, x)
    other = encoder()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(torch.randn_like(parameter))
        CHANGES[change](module, other)
    assert runs.by_kernels(module, x)


def test_weights_are_packed_once(module: Any, x: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    real = nn_forwards.StackForward.plan
    monkeypatch.setattr(nn_forwards.StackForward, "plan", lambda self: made.append(self) or real(self))
    with torch.inference_mode():
        for _ in range(3):
            module(x)
    assert len(made) == 1
    fastattn.accelerate(module)
    with torch.no_grad():
        module(x)
    assert len(made) == 2


def test_module_made_in_inference_mode(x: Any) -> None:
    with torch.inference_mode():
        module, plain = fastattn.accelerate(encoder()), encoder()
        torch.testing.assert_close(module(x), plain(x), rtol=1e-5, atol=1e-5)
        module.load_state_dict(fastattn.restore(encoder().apply(lambda m: None)).state_dict())
        torch.testing.assert_close(module(x), plain(x), rtol=1e-5, atol=1e-5)


def failing(call: Any) -> Any:
    """Return a function that expects the call to raise torch's error."""

    def fails() -> None:
        with pytest.raises((RuntimeError, AssertionError, TypeError)):
            call()

    return fails


def unfit(name: str, module: Any, x: Any) -> Any:
    """Return a call that the kernels do not support, and the reason."""
    if name == "half weights":
        return lambda: module.bfloat16()(x.bfloat16()), "bfloat16"
    if name == "double":
        return lambda: module.double()(x.double()), "float64"
    if name == "double input":
        return failing(lambda: module(x.double())), "src is float64: the kernels take float32"
    if name == "meta":
        return lambda: module.to("meta")(x.to("meta")), "on the device meta"
    if name == "autocast":
        return lambda: module(x), "autocast"
    if name == "hook":
        module.layers[0].linear1.register_forward_hook(lambda *args: None)
        return lambda: module(x), "forward hook"
    if name == "subclass":
        return lambda: module(x.as_subclass(type("Special", (torch.Tensor,), {}))), "src is a Special, not a plain tensor"
    if name == "shape":
        return failing(lambda: module(x[..., :3])), "src has shape"
    if name == "mask shape":
        return failing(lambda: module(x, torch.zeros(3, 3))), "mask has shape"
    if name == "mask dtype":
        return failing(lambda: module(x, torch.zeros(T, T).int())), "mask is int32"
    if name == "hint alone":
        return failing(lambda: module(x, is_causal=True)), "is_causal"
    if name == "no argument":
        return failing(lambda: module(wrong=x)), "arguments"
    if name == "twice":
        return failing(lambda: module(x, src=x)), "arguments"
    assert name == "patched part"
    module.layers[0].linear1.forward = lambda *args: torch.zeros(2, T, 24)
    return lambda: module(x), "replaced"


@pytest.mark.parametrize(
    "name",
    [
        "half weights", "double", "double input", "meta", "autocast", "hook", "subclass", "shape", "mask shape", "mask dtype",
        "hint alone", "no argument", "twice", "patched part",
    ],
)  # fmt: skip
def test_unfit_calls_run_the_original_with_one_warning(name: str, module: Any, x: Any, runs: Runs) -> None:
    call, reason = unfit(name, module, x)
    with torch.no_grad(), torch.autocast("cpu", enabled=name == "autocast"):
        for first in (True, False):
            reasons = told(call)
            assert len(reasons) == first and all(reason in one for one in reasons), reasons
    assert not runs.count


def test_hooks_of_the_module_itself_are_called(module: Any, x: Any, runs: Runs) -> None:
    seen = []
    module.register_forward_hook(lambda module, args, output: seen.append(output.shape))
    module.register_forward_pre_hook(lambda module, args: seen.append(len(args)))
    assert runs.by_kernels(module, x)
    assert seen == [1, (2, T, C)]


def test_transforms_see_the_original(module: Any, x: Any) -> None:
    from torch.func import functional_call, jvp, vmap

    plain = encoder().requires_grad_(False)
    module.requires_grad_(False)
    # MATH is torch's only attention with forward-mode gradients.
    math = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    with warnings.catch_warnings(), math:
        warnings.simplefilter("ignore")
        torch.testing.assert_close(vmap(module)(x[:, None]), vmap(plain)(x[:, None]))
        for found, expected in zip(jvp(module, (x,), (x,)), jvp(plain, (x,), (x,)), strict=True):
            torch.testing.assert_close(found, expected)
    doubled = {name: 2 * value for name, value in module.named_parameters()}
    torch.testing.assert_close(functional_call(module, doubled, x), functional_call(plain, doubled, x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(module(x), plain(x), rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_forward_mode_gradients_run_the_original(module: Any, x: Any) -> None:
    from torch.autograd import forward_ad

    module.requires_grad_(False)
    with forward_ad.dual_level(), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        with pytest.warns(FallbackWarning, match="forward-mode gradients"):
            found = forward_ad.unpack_dual(module(dual))
        assert torch.equal(found.tangent, forward_ad.unpack_dual(type(module).forward(module, dual)).tangent)


def test_compiled_is_the_original_in_one_graph(module: Any, x: Any) -> None:
    with torch.no_grad():
        expected = module(x)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compiled = torch.compile(module, backend="eager", fullgraph=True)
            torch.testing.assert_close(compiled(x), expected, rtol=1e-4, atol=1e-4)


def test_traced_is_the_original(module: Any, x: Any) -> None:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(module, x)
        y = torch.randn(3, T + 2, C)
        torch.testing.assert_close(traced(y), module(y), rtol=1e-4, atol=1e-4)


def test_copies_are_accelerated_and_independent(module: Any, x: Any, runs: Runs) -> None:
    file = io.BytesIO()
    with torch.no_grad():
        before = module(x)
    torch.save(module, file)
    file.seek(0)
    copies = [copy.deepcopy(module), pickle.loads(pickle.dumps(module)), torch.load(file, weights_only=False)]
    for other in copies:
        assert runs.by_kernels(other, x)
        with torch.no_grad():
            assert torch.equal(other(x), before)
            other.layers[0].linear1.weight.mul_(2)
            assert not torch.equal(other(x), before) and torch.equal(module(x), before)
    assert len(pickle.dumps(module)) < len(pickle.dumps(encoder())) + 500


def test_restore(module: Any, x: Any, runs: Runs) -> None:
    assert runs.by_kernels(module, x)
    assert fastattn.restore(module) is module
    assert not runs.by_kernels(module, x) and "forward" not in module.__dict__
    assert not told(lambda: module(x))
    assert fastattn.restore(module) is module


def test_threads(module: Any) -> None:
    """Race: some threads replace the packed weights meanwhile, and all must get the same bits."""
    inputs = [torch.randn(1 + i % 3, 3 + i % 7, C) for i in range(40)]
    plain = fastattn.accelerate(encoder())
    with torch.inference_mode():
        expected = [plain(x) for x in inputs]

    def run(i: int) -> Any:
        with torch.inference_mode():
            if i % 10 == 0:
                fastattn.accelerate(module)
            return module(inputs[i])

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(run, range(len(inputs))))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_modules_accelerated_together_warn_together(x: Any) -> None:
    module = fastattn.accelerate(nn.ModuleList([encoder(), encoder()]))
    assert len(told(lambda: [part(x) for part in module])) == 1


def test_part_that_cannot_be_accelerated_is_told(x: Any) -> None:
    plain = encoder(activation=torch.tanh)
    module = copy.deepcopy(plain)
    with pytest.warns(FallbackWarning, match=r"only a part was accelerated \(MultiheadAttention\).*tanh is not one of relu"):
        fastattn.accelerate(module)
    with torch.inference_mode():
        torch.testing.assert_close(module(x), plain(x), rtol=1e-5, atol=1e-5)


class Scaled(nn.TransformerEncoderLayer):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return 2 * super().forward(*args, **kwargs)


def test_subclass_that_computes_something_else() -> None:
    """The subclass's own forward runs; only its attention is accelerated."""
    plain = Scaled(C, 2, 24, batch_first=True).eval()
    module, x = fastattn.accelerate(copy.deepcopy(plain)), torch.randn(2, T, C)
    with torch.inference_mode():
        torch.testing.assert_close(module(x), plain(x), rtol=1e-5, atol=1e-5)
