"""What programs do with an encoder of transformers, accelerated: each idiom runs the kernels, and calls() shows it."""

import copy
import pickle
import warnings
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import fastattn  # noqa: E402
from fastattn import FallbackWarning  # noqa: E402
from tests.support.peer_models import model  # noqa: E402

nn = torch.nn
pytestmark = [pytest.mark.jit, pytest.mark.filterwarnings("error::fastattn.FallbackWarning")]
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}
IDS = torch.arange(12).reshape(2, 6) * 7 % 90 + 5
MASK = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])


def both(**settings: Any) -> tuple[Any, Any]:
    original = model("bert", "hidden")
    for name, value in settings.items():
        setattr(original.config, name, value)
    return fastattn.accelerate(copy.deepcopy(original)), original


def same(found: Any, expected: Any) -> None:
    assert type(found) is type(expected) and list(found) == list(expected)
    torch.testing.assert_close(tuple(found.values()), tuple(expected.values()), **TOLERANCE)


@pytest.mark.parametrize("flags", [["output_hidden_states"], ["output_attentions"], ["output_hidden_states", "output_attentions"]])
def test_outputs_that_the_configuration_asks_for(flags: list[str]) -> None:
    """Word embedders and aligners load a model with output_hidden_states, atom mappers with output_attentions."""
    module, original = both(**dict.fromkeys(flags, True))
    with torch.inference_mode():
        for options in ({}, {"output_hidden_states": False}, {"output_attentions": False, "output_hidden_states": True}):
            given = {"input_ids": IDS, "attention_mask": MASK, **options}
            same(module(**given), original(**given))
        layers = torch.stack(module(IDS, MASK, output_hidden_states=True).hidden_states[-2:]).mean(dim=0)
        expected = torch.stack(original(IDS, MASK, output_hidden_states=True).hidden_states[-2:]).mean(dim=0)
    torch.testing.assert_close(layers, expected, **TOLERANCE)
    assert fastattn.calls(module) == {"": fastattn.Calls(4, {})}


def test_scorer_that_cuts_layers() -> None:
    module, original = both()
    for one in (module, original):
        one.encoder.layer = nn.ModuleList(list(one.encoder.layer[:2]))
    with torch.inference_mode():
        for options in ({}, {"output_hidden_states": True}):
            given = {"input_ids": IDS, "attention_mask": MASK, **options}
            same(module(**given), original(**given))
    fastattn.accelerate(original)
    assert fastattn.calls(module)[""].kernels == 2


class Colbert(nn.Module):
    """A projection of every token, and of the mask tokens that expand a query."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder
        self.project = nn.Linear(32, 8, bias=False)

    def forward(self, ids: Any, mask: Any) -> Any:
        return nn.functional.normalize(self.project(self.encoder(ids, attention_mask=mask).last_hidden_state), dim=-1)


def test_late_interaction_module() -> None:
    torch.manual_seed(0)
    original = Colbert(model("bert", "hidden"))
    module = fastattn.accelerate(copy.deepcopy(original))
    with torch.inference_mode():
        found, expected = module(IDS, MASK), original(IDS, MASK)
    torch.testing.assert_close(found, expected, **TOLERANCE)
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(2, 6), **TOLERANCE)
    assert fastattn.calls(module) == {"encoder": fastattn.Calls(1, {})}


def test_program_that_records_gradients() -> None:
    """A cache of answers calls without no_grad(); its user can only freeze the model."""
    module, original = both()
    with pytest.warns(FallbackWarning, match=r"freeze it with requires_grad_\(False\)"):
        module(IDS)
    module.requires_grad_(False)
    same(module(IDS, MASK), original(IDS, MASK))
    assert fastattn.calls(module)[""].kernels == 1


def test_pipeline_that_is_kept_on_disk() -> None:
    """A language pipeline pickles its model and loads it again; keyword arguments, tuples as outputs."""
    module, original = both()
    loaded = pickle.loads(pickle.dumps(module))
    with torch.inference_mode():
        given = {"input_ids": IDS, "attention_mask": MASK, "token_type_ids": torch.zeros_like(IDS), "return_dict": False}
        for ours, theirs in zip(loaded(**given), original(**given), strict=True):
            torch.testing.assert_close(ours, theirs, **TOLERANCE)
    assert fastattn.calls(loaded)[""].kernels == 1 and fastattn.calls(module)[""].kernels == 0


def test_program_that_loads_another_copy() -> None:
    """A table that makes its model again from stored settings runs no kernels, and calls() says so."""
    module, original = both()
    with torch.inference_mode():
        original(IDS)
    assert fastattn.calls(module) == {"": fastattn.Calls(0, {})} and fastattn.calls(original) == {}
    with pytest.raises(TypeError, match=r"module must be a torch\.nn\.Module, got list"):
        fastattn.calls([])


def test_new_token_and_rows_written_by_data() -> None:
    module, _ = both()
    with torch.inference_mode():
        module(IDS)
        module.embeddings.word_embeddings.weight.data[int(IDS[0, 2])] = torch.linspace(-1, 1, 32)
        module.embeddings.position_embeddings.weight.data[3] += 1
        same(module(IDS), type(module).forward(module, IDS))
        module.encoder.layer[1].intermediate.dense.weight.data[4:11] = 0
        same(module(IDS), type(module).forward(module, IDS))
    assert fastattn.calls(module)[""].kernels == 3


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_exported_is_the_original(strict: bool) -> None:
    stack = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 24, batch_first=True), 1, enable_nested_tensor=False)
    module, x = fastattn.accelerate(stack.eval()), torch.randn(2, 5, 16)
    attention, query = fastattn.accelerate(nn.MultiheadAttention(16, 2, batch_first=True).eval()), (torch.randn(2, 5, 16),) * 3
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error", FallbackWarning)
        for one, given in ((module, (x,)), (attention, query)):
            exported = torch.export.export(one, given, strict=strict).module()
            torch.testing.assert_close(exported(*given), one(*given), **TOLERANCE)


def test_forward_has_what_a_method_has() -> None:
    module, original = both()
    ours, theirs = module.forward, original.forward
    assert ours.__self__ is module and ours.__func__ is theirs.__func__ and ours.__code__ is theirs.__code__
    assert ours.__defaults__ == theirs.__defaults__ and ours.__name__ == "forward"
    with pytest.raises(AttributeError, match="has no attribute 'weight'"):
        _ = ours.weight
    assert copy.copy(ours).module is module
