"""accelerate in a low precision: every kind of module, changes of weights and tables, copies, and what is refused."""

import copy
import pickle
import warnings
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import fastattn  # noqa: E402
from fastattn.encoder import slower  # noqa: E402
from fastattn.kernels.products import kinds  # noqa: E402
from tests.support.peer_models import CASES, WINDOWS, batch, model  # noqa: E402
from tests.support.rounded import LOW, assert_rounded  # noqa: E402

nn = torch.nn
pytestmark = [pytest.mark.jit, pytest.mark.filterwarnings("error::fastattn.FallbackWarning")]
C = 32


@pytest.fixture(autouse=True)
def without_gradients() -> Any:
    with torch.no_grad():
        yield


def stack(**options: Any) -> Any:
    torch.manual_seed(0)
    return nn.TransformerEncoder(
        nn.TransformerEncoderLayer(C, 2, 64, batch_first=True, **options), 2, enable_nested_tensor=False
    ).eval()


def attention() -> Any:
    torch.manual_seed(0)
    return nn.MultiheadAttention(C, 2, batch_first=True).eval()


def x() -> Any:
    return torch.randn(2, 9, C, generator=torch.Generator().manual_seed(1))


def kernel_calls(module: Any) -> list[int]:
    return [count.kernels for count in fastattn.calls(module).values()]


def bert(family: str = "bert") -> tuple[Any, dict[str, Any]]:
    inputs = {name: torch.from_numpy(array.copy()) for name, array in batch(family, [40, 1, 7, 13]).items()}
    return model(family, "hidden", 140, "sdpa" if family.startswith(WINDOWS) else "eager"), inputs


# Their embeddings are narrower, or are taken as hidden states: there the original runs.
NO_EMBEDS = ("deberta-v2-biased", "esm", "esm-learned")


@pytest.mark.parametrize("family", CASES)
@pytest.mark.parametrize("precision", LOW)
def test_encoders_of_transformers(family: str, precision: Any) -> None:
    original, inputs = bert(family)
    module = fastattn.accelerate(copy.deepcopy(original), precision=precision)
    fastattn.accelerate(original)
    real = inputs["attention_mask"].bool()
    found, exact = (one(**inputs).last_hidden_state for one in (module, original))
    assert_rounded(found[real], exact[real])
    assert kernel_calls(module) == [1]
    if family not in NO_EMBEDS:
        embeds = torch.randn(2, 5, original.get_input_embeddings().embedding_dim, generator=torch.Generator().manual_seed(2))
        assert_rounded(*(one(inputs_embeds=embeds).last_hidden_state for one in (module, original)))
        assert kernel_calls(module) == [2]


CALLS: dict[str, Any] = {
    "stack": (stack, lambda m: m(x())),
    "layer": (lambda: stack(norm_first=True).layers[0], lambda m: m(x())),
    "mask": (stack, lambda m: m(x(), torch.eye(9).bool())),
    "causal": (stack, lambda m: m(x(), nn.Transformer.generate_square_subsequent_mask(9))),
    "padding": (stack, lambda m: m(x(), src_key_padding_mask=torch.arange(9) >= torch.tensor([[9], [4]]))[:, :4]),
    "attention": (attention, lambda m: m(x(), x(), x())[0]),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("precision", LOW)
def test_modules_of_torch(name: str, precision: Any) -> None:
    make, call = CALLS[name]
    module = fastattn.accelerate(make(), precision)
    found, exact = call(module), call(fastattn.accelerate(make()))
    assert_rounded(found, exact)
    assert kernel_calls(module) == [1]
    # Another call of accelerate changes the precision.
    assert torch.equal(call(fastattn.accelerate(module)), exact)
    assert torch.equal(call(fastattn.accelerate(module, precision)), found)


@pytest.mark.parametrize("precision", LOW)
def test_changes_are_noticed(precision: Any) -> None:
    original, inputs = bert()
    module = fastattn.accelerate(copy.deepcopy(original), precision)
    fastattn.accelerate(original)
    real = inputs["attention_mask"].bool()
    word = int(inputs["input_ids"][0, 0])
    last = None
    for change in (
        lambda m: None,
        lambda m: m.embeddings.word_embeddings.weight.data[word].mul_(-1),
        lambda m: m.embeddings.position_embeddings.weight.data[2].add_(1),
        lambda m: m.encoder.layer[1].output.dense.weight.data.mul_(1.5),
        lambda m: m.load_state_dict({name: 0.9 * tensor for name, tensor in m.state_dict().items()}),
    ):
        change(module)
        change(original)
        found = module(**inputs).last_hidden_state[real]
        assert_rounded(found, original(**inputs).last_hidden_state[real])
        assert last is None or not torch.equal(found, last)
        last = found
    assert kernel_calls(module) == [5]


@pytest.mark.parametrize("precision", LOW)
def test_copies_keep_the_precision(precision: Any) -> None:
    for module, given in ((bert()[0], bert()[1]), (stack(), {"src": x()})):
        fastattn.accelerate(module, precision)
        expected = module(**given)
        for again in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
            found = again(**given)
            pair = (found, expected) if torch.is_tensor(found) else (found.last_hidden_state, expected.last_hidden_state)
            assert torch.equal(*pair)
            assert kernel_calls(again) == [1]


@pytest.mark.parametrize("name", ["stack", "attention"])
def test_weights_that_are_not_finite(name: str) -> None:
    make, call = CALLS[name]
    module = make()
    (module.layers[0].linear1.weight if name == "stack" else module.out_proj.weight)[1, 2] = torch.nan
    expected = call(module)
    tensor = "layers.0.feed_forward.input.weight" if name == "stack" else "out_proj.weight"
    with pytest.warns(fastattn.FallbackWarning, match=f"because parameter {tensor} has NaN or infinite values, which int8"):
        found = call(fastattn.accelerate(module, "int8"))
    torch.testing.assert_close(found, expected, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_weights_of_another_dtype(dtype: Any) -> None:
    for module in (bert()[0], stack(), nn.Sequential(nn.Linear(2, 2), attention())):
        module = module.to(dtype)
        for precision in LOW:
            name = str(dtype).removeprefix("torch.")
            message = (
                rf"^precision '{precision}' needs float32 weights, got {name} in \w+'s [\w.]+: call float\(\) on the module first$"
            )
            with pytest.raises(ValueError, match=message):
                fastattn.accelerate(module, precision)
        assert fastattn.calls(module) == {}
        assert fastattn.accelerate(module) is module


@pytest.mark.parametrize("wrong", ["float64", "int4", None, torch.bfloat16], ids=repr)
def test_unknown_precisions(wrong: Any) -> None:
    module = stack()
    with pytest.raises(ValueError, match=r"^precision must be one of float32, bfloat16, int8, got "):
        fastattn.accelerate(module, precision=wrong)
    assert fastattn.calls(module) == {}


def test_one_warning_of_a_slower_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slower, "_warned", set())
    monkeypatch.setattr(kinds, "slower", lambda precision: None if precision == "float32" else "no instruction")
    with pytest.warns(UserWarning, match="^precision 'int8' is slower than float32 on this CPU: no instruction$") as caught:
        module = fastattn.accelerate(attention(), "int8")
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module(x(), x(), x())
        fastattn.accelerate(stack(), "int8")(x())
