"""Encoders of transformers, accelerated: the originals' outputs, for every requested output and padding."""

import copy
import inspect
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.originals import widened
from tests.support.tolerance import assert_matches_reference

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import fastattn  # noqa: E402
from fastattn import FallbackWarning  # noqa: E402
from fastattn.checkpoint.reader import read_encoder  # noqa: E402
from fastattn.pytorch import transformers_forward  # noqa: E402
from tests.support import peer_models  # noqa: E402
from tests.support.double import double, exact  # noqa: E402
from tests.support.golden_models import GOLDEN  # noqa: E402
from tests.support.peer_models import CASES, WINDOWS, batch, has_sdpa, model, outputs  # noqa: E402

pytestmark = [pytest.mark.jit, pytest.mark.filterwarnings("error::fastattn.FallbackWarning")]
LENGTHS = [40, 1, 7, 130, 13]
FAMILIES = list(CASES)
# Families with a position table: the original's embeddings are called for unusual position ids.
# A variant without a golden folder has the positions of its family.
_FOLDERS = {family: GOLDEN / family if (GOLDEN / family).is_dir() else GOLDEN / family.split("-")[0] for family in FAMILIES}
_CONFIGS = {family: read_encoder(folder)[0] for family, folder in _FOLDERS.items()}
TABLES = [family for family, config in _CONFIGS.items() if config.positions == "learned" and not config.is_causal]
# Families with a position table whose scores depend on distances too.
RELATIVE = [family for family in TABLES if _CONFIGS[family].relative_buckets or _CONFIGS[family].disentangled]
# Families whose hidden states end before the final norm, and one that takes embeddings as hidden states: there the original runs.
UNLIKE = ("clip", "esm")


def both(family: str, task: str = "hidden", attention: str | None = None) -> tuple[Any, Any]:
    attention = attention or ("sdpa" if family.startswith(WINDOWS) else "eager")
    original = model(family, task, 140, attention)
    module = copy.deepcopy(original)
    assert fastattn.accelerate(module) is module
    return module, original


def tensors(family: str, lengths: list[int] = LENGTHS) -> dict[str, Any]:
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in batch(family, lengths).items()}


def check(found: Any, original: Any, inputs: dict[str, Any], *, alone: bool = True) -> None:
    """Compare every array of an output with the original's for each sequence alone, or for the whole batch.

    Sequences run alone because the output of a padded position can make others NaN in float64.
    """
    mask = inputs.get("attention_mask")
    lengths = [None] if mask is None or not alone else mask.long().sum(dim=1).tolist()

    def parts(b: int, length: int | None) -> dict[str, Any]:
        return {
            name: value[b : b + 1, :length] if isinstance(value, torch.Tensor) and length else value
            for name, value in inputs.items()
        }

    with double():
        wide_model = exact(copy.deepcopy(original))
    shown = found if isinstance(found, tuple) else tuple(found.values())
    compared: list[list[list[Any]]] = [[] for _ in shown]
    for b, length in enumerate(lengths):
        given = parts(b, length)
        wide = {name: widened(value) for name, value in given.items()}
        with torch.no_grad(), double():
            truth = wide_model(**wide)
        with torch.no_grad():
            yardstick = original(**given)
        assert type(found) is type(truth) and len(found) == len(truth)
        if not isinstance(found, tuple):
            assert list(found) == list(truth)
            truth, yardstick = tuple(truth.values()), tuple(yardstick.values())
        real = None if mask is None or length else mask.bool().numpy()
        for ours, theirs, near, kept in zip(shown, truth, yardstick, compared, strict=True):
            kept.append([flat(cut(ours, b, length), real), flat(theirs, real), flat(near, real)])
    for kept in compared:
        ours, truth, near = (np.concatenate(arrays) for arrays in zip(*kept, strict=True))
        if truth.size:
            assert_matches_reference(ours, truth, near)


def cut(x: Any, b: int, length: int | None) -> Any:
    """Return sequence `b` of an output, its first `length` tokens."""
    if length is None or x is None:
        return x
    if isinstance(x, tuple):
        return tuple(cut(part, b, length) for part in x)
    x = x[b : b + 1]
    return x[:, :, :length, :length] if x.ndim == 4 else x[:, :length] if x.ndim == 3 else x


def flat(x: Any, real: Any) -> Any:
    """Return the numbers of an output that belong to real tokens, end to end."""
    if x is None:
        return np.empty(0)
    if isinstance(x, tuple):
        return np.concatenate([np.empty(0, np.float32), *(flat(part, real) for part in x)])
    return (x.numpy() if real is None else rows(x.numpy(), real)).reshape(-1)


def rows(x: Any, real: Any) -> Any:
    """Return the rows of real tokens: of hidden states (B, T, C) or attentions (B, H, T, T); vectors (B, C) are returned whole."""
    if x.ndim == 4:
        x = x.swapaxes(1, 2)
    return x[real] if x.ndim > 2 else x


@pytest.mark.parametrize(
    ("family", "task"),
    [(family, task) for family in FAMILIES for task in peer_models.tasks(family)],
)
def test_families_and_heads(family: str, task: str) -> None:
    module, original = both(family, task)
    inputs = batch(family, LENGTHS)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FallbackWarning)
        found = outputs(module, task, inputs, alone=False)
    truth = outputs(copy.deepcopy(original), task, inputs, torch.float64)
    others = [] if not has_sdpa(family) else [model(family, task, 140, attention) for attention in ("eager", "sdpa")]
    yardsticks = [outputs(one, task, inputs, alone=alone) for one in (original, *others) for alone in (True, False)]
    assert_matches_reference(found, truth, *yardsticks)


@pytest.mark.parametrize("family", FAMILIES)
def test_outputs(family: str) -> None:
    """Outputs have the original's class and names, or are tuples of its length."""
    module, original = both(family)
    inputs = tensors(family)
    with torch.inference_mode():
        for options in ({}, {"return_dict": False}, {"return_dict": True}):
            check(module(**inputs, **options), original, {**inputs, **options})
    assert inspect.signature(module.forward) == inspect.signature(original.forward)


@pytest.mark.parametrize("family", [family for family in FAMILIES if not family.startswith("clip")])
def test_weights_are_packed_once(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    real = transformers_forward.PretrainedForward.plan
    monkeypatch.setattr(transformers_forward.PretrainedForward, "plan", lambda self: made.append(self) or real(self))
    module, _ = both(family, attention="eager")
    with torch.inference_mode():
        for options in ({}, {"output_hidden_states": True}, {"output_attentions": True}, {}):
            module(**tensors(family, [5, 3]), **options)
    # In T5 the hooks that collect its hidden states stand on an inner module, which is then another.
    assert len(made) == 1 + family.startswith("t5")


@pytest.mark.parametrize("family", [family for family in FAMILIES if not family.startswith("clip")])
def test_hidden_states_and_attentions(family: str) -> None:
    module, original = both(family, attention="eager")
    inputs = tensors(family, [12, 8, 10])
    asked = {"output_hidden_states": True}, {"output_attentions": True}, {"output_attentions": True, "output_hidden_states": True}
    with torch.inference_mode():
        for options in asked:
            check(module(**inputs, **options), original, {**inputs, **options})
        # Hooks that transformers installed to collect outputs do not disable the kernels in the next call.
        check(module(**inputs), original, inputs)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_masks(family: str, dtype: Any) -> None:
    module, original = both(family)
    inputs = tensors(family)
    with torch.inference_mode():
        plain = {name: value for name, value in inputs.items() if name != "attention_mask"}
        if CASES[family].name not in ("Roberta", "XLMRoberta", "Camembert", "MPNet", "Esm"):
            check(module(**plain), original, plain)
        found = module(**{**inputs, "attention_mask": inputs["attention_mask"].to(dtype)})
        # The original's convolution takes no boolean mask.
        inputs["attention_mask"] = inputs["attention_mask"].to(
            torch.int64 if "conv_kernel_size" in CASES[family].options else dtype
        )
        check(found, original, inputs)


@pytest.mark.parametrize("family", TABLES)
def test_holes_and_positions(family: str) -> None:
    module, original = both(family)
    inputs = tensors(family, [30, 12, 25])
    real = inputs["attention_mask"]
    first = getattr(original.embeddings, "padding_idx", -1) + 1
    places = torch.randperm(30) + first
    with torch.inference_mode():
        if family not in RELATIVE:
            real[:, 3:8] = 0
            check(module(**inputs), original, inputs, alone=False)
            inputs["input_ids"][0, 20:22] = original.config.pad_token_id
            check(module(**inputs), original, inputs, alone=False)
        for given in (places[None], places.expand(3, 30), torch.arange(30)[None] + first):
            check(module(**inputs, position_ids=given), original, {**inputs, "position_ids": given}, alone=False)


@pytest.mark.parametrize("family", [family for family in FAMILIES if not family.startswith(UNLIKE)])
def test_embeddings_in_place_of_ids(family: str) -> None:
    module, original = both(family)
    inputs = tensors(family, [30, 12, 25])
    table = original.get_input_embeddings()
    inputs["inputs_embeds"] = table(inputs.pop("input_ids")).detach() + 0.1
    # Narrower than the hidden states, and projected before the norm: the kernels know the product alone.
    folded = pytest.warns(FallbackWarning, match="inputs_embeds has shape") if family == "deberta-v2-biased" else nullcontext()
    with torch.inference_mode(), folded:
        check(module(**inputs), original, inputs)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in TABLES] + RELATIVE)
def test_holes_where_positions_are_relative(family: str) -> None:
    module, original = both(family)
    inputs = tensors(family, [30, 12])
    inputs["attention_mask"][:, 3:5] = 0
    with torch.inference_mode(), pytest.warns(FallbackWarning, match="holes"):
        assert torch.equal(module(**inputs)[0], original(**inputs)[0])
    # CLIP's positions are a table; with holes, padding would see tokens behind it.
    if family not in (*RELATIVE, "clip_text_model"):
        inputs = {**tensors(family, [30]), "position_ids": torch.arange(30)[None] * 2}
        with torch.inference_mode(), pytest.warns(FallbackWarning, match="position_ids are not 0, 1, 2"):
            assert torch.equal(module(**inputs)[0], original(**inputs)[0])


UNFIT: dict[str, tuple[dict[str, Any], str]] = {
    "4-D mask": ({"attention_mask": torch.zeros(2, 1, 6, 6)}, "attention_mask has shape"),
    "decoder's argument": ({"encoder_hidden_states": torch.zeros(2, 6, 32)}, "the argument encoder_hidden_states is given"),
    "wide ids": ({"token_type_ids": torch.zeros(1, 6, dtype=torch.int64)}, "token_type_ids has shape"),
    "some hidden states": ({"output_hidden_states": [1]}, "output_hidden_states is"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_unfit_arguments_run_the_original_with_one_warning(name: str) -> None:
    module, original = both("bert", attention="sdpa")
    extra, reason = UNFIT[name]
    inputs = {"input_ids": torch.randint(5, 90, (2, 6)), **extra}
    with torch.inference_mode():
        with pytest.warns(FallbackWarning, match=reason) as caught:
            found = [module(**inputs) for _ in range(3)]
        assert len(caught) == 1 and caught[0].filename == __file__
        assert torch.equal(found[0][0], original(**inputs)[0])


def test_attentions_of_another_implementation() -> None:
    """The sdpa implementation returns no attentions, and neither does the accelerated module."""
    module, original = both("bert", attention="sdpa")
    inputs = {"input_ids": torch.randint(5, 90, (2, 6)), "output_attentions": True}
    with torch.inference_mode(), pytest.warns(FallbackWarning, match="the attention implementation is 'sdpa'"):
        found = module(**inputs)
    assert list(found) == list(original(**inputs))


class Lora(torch.nn.Linear):
    pass


class Skipped(torch.nn.Module):
    """A layer that returns its input."""

    def forward(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        return x


@pytest.mark.parametrize(
    "change, words",
    [
        (
            lambda m: setattr(m.encoder.layer[1].output, "dense", torch.nn.Sequential(torch.nn.Linear(48, 32))),
            "container.Sequential",
        ),
        (lambda m: setattr(m.encoder.layer[1].output, "dense", Lora(48, 32).eval()), "layer.1.output.dense is a .*Lora"),
        (lambda m: m.encoder.layer[0].register_module("adapter", torch.nn.Linear(32, 32)), "no tensor 'encoder.layer.0.adapter"),
        (lambda m: setattr(m.encoder.layer[0], "forward", lambda x, *args, **kwargs: x), "forward of encoder.layer.0 was replaced"),
        (lambda m: m.encoder.layer.__setitem__(0, Skipped().eval()), "encoder.layer.0 is a .*Skipped"),
    ],
)
def test_changed_parts(change: Any, words: str) -> None:
    """Parts changed before `accelerate` raise ValueError; changed later, the original runs and a warning names the reason."""
    module, original = both("bert")
    inputs = tensors("bert", [5, 3])
    with torch.inference_mode():
        module(**inputs)
        change(module)
        with pytest.warns(FallbackWarning, match=words):
            module(**inputs)
    change(original)
    with pytest.raises(ValueError, match=words):
        fastattn.accelerate(original)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda m: setattr(m.config, "is_decoder", True), "is_decoder True is not supported"),
        (lambda m: setattr(m.embeddings.word_embeddings, "max_norm", 1.0), "embeddings.word_embeddings has max_norm"),
    ],
)
def test_settings_that_are_not_supported(change: Any, words: str) -> None:
    module = model("bert", "hidden")
    change(module)
    with pytest.raises(ValueError, match=words):
        fastattn.accelerate(module)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: setattr(m.encoder.layer[0].intermediate, "intermediate_act_fn", torch.nn.SiLU()),
        lambda m: setattr(m.encoder.layer[2].output.LayerNorm, "eps", 0.5),
        lambda m: setattr(m.encoder.layer[1].attention.self, "scaling", 1.0),
    ],
)
def test_change_that_shows_in_no_name_shows_in_the_result(change: Any) -> None:
    module, _ = both("bert")
    inputs = tensors("bert", [5, 3])
    change(module)
    with torch.inference_mode(), pytest.warns(FallbackWarning, match="on a few tokens its last_hidden_state differs"):
        found = module(**inputs)
    assert torch.equal(found[0], type(module).forward(module, **inputs)[0])


LAYERS: dict[str, Any] = {
    "first": lambda layers: layers[:1],
    "last": lambda layers: layers[-1:],
    "others": lambda layers: torch.nn.ModuleList([layers[0], layers[-1]]),
    "twice": lambda layers: torch.nn.ModuleList([*layers, *copy.deepcopy(layers)]),
}


@pytest.mark.parametrize("change", LAYERS)
@pytest.mark.parametrize("configured", [True, False])
@pytest.mark.parametrize("family", ["bert", "mpnet", "distilbert", "modernbert", "nomic_bert"])
def test_other_number_of_layers(family: str, configured: bool, change: str) -> None:
    """Programs cut the list of layers, and leave the configuration as it is."""
    module, _ = both(family)
    inputs = tensors(family, [5, 3])
    holder = getattr(module, "encoder", getattr(module, "transformer", module))
    name = "layer" if hasattr(holder, "layer") else "layers"
    setattr(holder, name, LAYERS[change](getattr(holder, name)))
    if configured:
        count = len(getattr(holder, name))
        setattr(module.config, "n_layers" if family == "distilbert" else "num_hidden_layers", count)
    original = fastattn.restore(copy.deepcopy(module))
    if family == "modernbert" and change in ("last", "twice"):
        # Its first layer has one norm less, and global layers come at regular places.
        with torch.inference_mode(), pytest.warns(FallbackWarning):
            assert torch.equal(module(**inputs)[0], original(**inputs)[0])
        return
    with torch.inference_mode():
        check(module(**inputs), original, inputs)
    real = inputs["attention_mask"].bool()
    types = inputs.get("token_type_ids")
    encoder = fastattn.Encoder.from_torch(module)
    found = encoder(inputs["input_ids"].numpy(), real.numpy(), token_type_ids=None if types is None else types.numpy())
    with torch.inference_mode():
        expected = original(**inputs)[0]
    torch.testing.assert_close(torch.from_numpy(found)[real], expected[real], rtol=1e-4, atol=1e-4)


class Own(transformers.BertModel):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return super().forward(*args, **kwargs)


def test_class_with_a_forward_of_its_own() -> None:
    with pytest.raises(ValueError, match=r"Own must hold.*found Own: it has a forward of its own, not BertModel's"):
        fastattn.accelerate(Own(peer_models.config("bert", 20)))


def test_saved_model_is_the_original(tmp_path: Path) -> None:
    module, original = both("bert", "sequence-classification")
    module.save_pretrained(tmp_path / "ours")
    original.save_pretrained(tmp_path / "theirs")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes()


def test_training_a_head_on_top() -> None:
    """Loss and gradients are the original's; after the optimizer step the kernels use the new weights."""
    module, original = both("bert", "sequence-classification")
    inputs, labels = tensors("bert", [9, 4]), torch.tensor([0, 2])
    for one in (module, original):
        optimizer = torch.optim.SGD(one.train().parameters(), lr=0.05)
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FallbackWarning)
            one(**inputs, labels=labels).loss.backward()
        optimizer.step()
        one.eval()
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), original.parameters(), strict=True))
    with torch.inference_mode():
        check(module(**inputs), original, inputs)
