"""torch.nn's encoder layers and attention, accelerated: the originals' results, in every mask and layout."""

import contextlib
import copy
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.support.originals import check_against

torch = pytest.importorskip("torch")

import fastattn  # noqa: E402

nn, functional = torch.nn, torch.nn.functional
pytestmark = pytest.mark.jit

C, HEADS, FF = 24, 3, 40


@pytest.fixture(autouse=True)
def settle() -> None:
    torch.manual_seed(0)


def stack(layers: int = 2, norm: Any = None, **options: Any) -> Any:
    """Return encoder layers with random weights, biases and norms."""
    layer = nn.TransformerEncoderLayer(C, HEADS, FF, **options)
    module = nn.TransformerEncoder(layer, layers, norm=norm, enable_nested_tensor=False) if layers else layer
    return scrambled(module)


def scrambled(module: Any) -> Any:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return module.eval()


def both(module: Any) -> tuple[Any, Any]:
    original = copy.deepcopy(module)
    assert fastattn.accelerate(module) is module
    return module, original


def masks(b: int, t: int) -> dict[str, tuple[Any, Any]]:
    """Return attention masks and padding masks (b, t), in which True masks out."""
    ragged = torch.arange(t) >= torch.arange(b, 0, -1)[:, None] * t // b
    holes = torch.rand(b, t) > 0.7
    holes[:, 0] = False
    added = torch.zeros(b, t).masked_fill(ragged, -torch.inf)
    some = torch.rand(t, t) > 0.6
    some.fill_diagonal_(False)
    heads = torch.rand(b * HEADS, t, t) > 0.6
    heads.diagonal(dim1=1, dim2=2).fill_(False)
    causal = nn.Transformer.generate_square_subsequent_mask(t)
    return {
        "none": (None, None),
        "ragged": (None, ragged),
        "holes": (None, holes),
        "ragged-added": (None, added),
        "biased-keys": (None, torch.randn(b, t)),
        "causal": (causal, None),
        "causal-ragged": (causal, added),
        "causal-bool": (causal.isinf(), ragged),
        "some": (some, None),
        "some-holes": (some, torch.zeros(b, t, dtype=torch.bool)),
        "heads": (heads, None),
        "added": (torch.randn(t, t), None),
        "added-heads": (torch.randn(b * HEADS, t, t), added),
    }


def check_stack(module: Any, mask: Any, padding: Any, b: int, t: int, **hints: Any) -> None:
    module, original = both(module)
    layer = module.layers[0] if hasattr(module, "layers") else module
    swap = not layer.self_attn.batch_first
    x = torch.randn((t, b, C) if swap else (b, t, C))
    with torch.inference_mode():
        found = module(x, mask, src_key_padding_mask=padding, **hints)
    assert type(found) is torch.Tensor and found.dtype == torch.float32 and found.shape == x.shape and found.is_contiguous()
    # Positions in the padding too: they see the tokens.
    check_against(original, found, x, mask, src_key_padding_mask=padding, **hints)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("kind", masks(1, 1))
def test_masks(kind: str, batch_first: bool) -> None:
    for b, t in ((1, 1), (3, 7), (4, 33)):
        check_stack(stack(batch_first=batch_first), *masks(b, t)[kind], b, t)


@pytest.mark.parametrize("layers", [0, 1, 3])
@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_layers(layers: int, norm_first: bool, bias: bool) -> None:
    for kind in ("ragged", "added"):
        norm = nn.LayerNorm(C) if layers == 3 else None
        module = stack(layers, norm, norm_first=norm_first, bias=bias, batch_first=True)
        check_stack(module, *masks(5, 130)[kind], 5, 130)


@pytest.mark.parametrize(
    "activation",
    [
        "relu",
        "gelu",
        functional.silu,
        nn.ReLU(),
        nn.GELU(),
        nn.GELU("tanh"),
        functools.partial(functional.gelu, approximate="tanh"),
    ],
    ids=lambda each: getattr(each, "__name__", str(each)),
)
def test_activations(activation: Any) -> None:
    check_stack(stack(activation=activation, batch_first=True), None, None, 2, 9)


@pytest.mark.parametrize(
    "norm",
    [nn.LayerNorm(C, eps=1e-3), nn.LayerNorm(C, elementwise_affine=False), nn.LayerNorm(C, bias=False), nn.RMSNorm(C)],
    ids=str,
)
@pytest.mark.parametrize("batch_first", [True, False])
def test_final_norms(norm: Any, batch_first: bool) -> None:
    check_stack(stack(2, norm, batch_first=batch_first), *masks(3, 8)["ragged"], 3, 8)


def test_one_sequence_without_a_batch() -> None:
    for batch_first in (True, False):
        module, original = both(stack(batch_first=batch_first))
        x, padding = torch.randn(6, C), torch.tensor([False] * 4 + [True] * 2)
        with torch.inference_mode():
            check_against(original, module(x), x)
            found = module(x, src_key_padding_mask=padding)
        check_against(original, found, x, src_key_padding_mask=padding)


def test_padding_may_hold_anything_and_rows_may_be_all_padding() -> None:
    module, _ = both(stack(batch_first=True))
    x, padding = torch.randn(3, 5, C), torch.tensor([[0, 0, 0, 1, 1], [1, 1, 1, 1, 1], [0, 1, 0, 1, 0]], dtype=torch.bool)
    with torch.inference_mode():
        clean = module(x, src_key_padding_mask=padding)
        x[padding] = torch.nan
        assert torch.equal(module(x, src_key_padding_mask=padding)[~padding], clean[~padding])
    assert clean.isfinite().all()


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("norm", [None, nn.LayerNorm(C), nn.LayerNorm(C, eps=1e-3)], ids=str)
def test_padding_that_torch_leaves_out(norm: Any) -> None:
    """torch makes a nested tensor of padding on the right: zeros behind the layers, and the final norm of zeros."""
    layer = nn.TransformerEncoderLayer(C, 2, FF, batch_first=True)
    module, original = both(scrambled(nn.TransformerEncoder(layer, 2, norm=norm)))
    assert module.use_nested_tensor
    x = torch.randn(3, 5, C)
    for ignored in ([[0, 0, 0, 1, 1], [0, 1, 1, 1, 1], [0, 0, 0, 0, 0]], [[0, 1, 0, 1, 1], [1, 0, 0, 1, 1], [0, 0, 0, 0, 0]]):
        padding = torch.tensor(ignored, dtype=torch.bool)
        with torch.inference_mode():
            found, expected = module(x, src_key_padding_mask=padding), original(x, src_key_padding_mask=padding)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        with torch.inference_mode(), _slow_path():
            computed = original(x, src_key_padding_mask=padding)
            torch.testing.assert_close(module(x, src_key_padding_mask=padding), computed, rtol=1e-4, atol=1e-4)
        # Padding on the right is left out; before a token it is computed.
        assert torch.allclose(found, computed, rtol=1e-4, atol=1e-4) == bool(ignored[0][1])


@contextlib.contextmanager
def _slow_path() -> Iterator[None]:
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


def test_causal_with_holes() -> None:
    """A position in a hole sees the tokens before it, and none behind."""
    causal = nn.Transformer.generate_square_subsequent_mask(9)
    holes = torch.tensor([[0, 0, 1, 0, 1, 1, 0, 0, 1], [0] * 9], dtype=torch.bool)
    check_stack(stack(batch_first=True), causal.isinf(), holes, 2, 9)


def test_empty_batch() -> None:
    module, _ = both(stack(batch_first=True))
    with torch.inference_mode():
        assert module(torch.zeros(0, 4, C)).shape == (0, 4, C)
        assert module(torch.zeros(2, 0, C)).shape == (2, 0, C)


ATTENTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no-bias": {"bias": False},
    "batch-first": {"batch_first": True},
    "widths": {"kdim": 10, "vdim": 14},
    "bias-kv": {"add_bias_kv": True},
    "zero": {"add_zero_attn": True, "batch_first": True},
    "both": {"add_bias_kv": True, "add_zero_attn": True, "kdim": 10},
}


@pytest.mark.parametrize("kind", ATTENTIONS)
def test_attention_of_an_empty_batch(kind: str) -> None:
    module, original = both(scrambled(nn.MultiheadAttention(C, HEADS, **ATTENTIONS[kind])))
    for b, t, s in ((0, 4, 5), (2, 0, 5)):
        lead = [(b, length) if module.batch_first else (length, b) for length in (t, s, s)]
        inputs = [torch.zeros(*shape, width) for shape, width in zip(lead, (C, module.kdim, module.vdim), strict=True)]
        with torch.inference_mode():
            found, expected = module(*inputs), original(*inputs)
        assert [part.shape for part in found] == [part.shape for part in expected]


def test_hint_of_a_causal_mask() -> None:
    causal = nn.Transformer.generate_square_subsequent_mask(9)
    check_stack(stack(batch_first=True), causal, None, 2, 9, is_causal=True)
    check_stack(stack(0, batch_first=True), causal, None, 2, 9, is_causal=True)


@pytest.mark.parametrize("kind", ATTENTIONS)
@pytest.mark.parametrize("weights", ["none", "mean", "each"])
def test_attention(kind: str, weights: str) -> None:
    module, original = both(scrambled(nn.MultiheadAttention(C, HEADS, **ATTENTIONS[kind])))
    options = {"need_weights": weights != "none", "average_attn_weights": weights != "each"}
    some = torch.rand(5, 8) > 0.6
    some[:, 0] = False
    padded = torch.arange(8) >= torch.tensor([8, 3])[:, None]
    heads = torch.randn(2 * HEADS, 5, 8).masked_fill(torch.rand(2 * HEADS, 5, 8) > 0.8, -torch.inf)
    added = torch.zeros(2, 8).masked_fill(padded, -torch.inf)
    cases = [(None, None), (some, None), (None, padded), (some, padded), (torch.randn(5, 8), None), (heads, added)]
    lead = (lambda t: (2, t)) if module.batch_first else (lambda t: (t, 2))
    inputs = [torch.randn(*lead(t), width) for t, width in ((5, C), (8, module.kdim), (8, module.vdim))]
    for mask, padding in cases:
        arguments = {"attn_mask": mask, "key_padding_mask": padding, **options}
        with torch.inference_mode():
            found = module(*inputs, **arguments)
        check_against(original, found, *inputs, select=lambda out: out[0], **arguments)
        if weights == "none":
            assert found[1] is None
        else:
            check_against(original, found, *inputs, select=lambda out: out[1], **arguments)


@pytest.mark.parametrize("kind", ["plain", "batch-first", "zero"])
def test_self_attention(kind: str) -> None:
    module, original = both(scrambled(nn.MultiheadAttention(C, HEADS, **ATTENTIONS[kind])))
    causal = nn.Transformer.generate_square_subsequent_mask(40)
    x, alone = torch.randn((3, 40, C) if module.batch_first else (40, 3, C)), torch.randn(40, C)
    with torch.inference_mode():
        check_against(original, module(x, x, x), x, x, x, select=lambda out: out[0])
        for options in ({"need_weights": False}, {"need_weights": False, "is_causal": True}, {"is_causal": True}):
            if kind == "zero" and "is_causal" in options:
                continue
            found = module(x, x, x, attn_mask=causal, **options)
            check_against(original, found, x, x, x, attn_mask=causal, select=lambda out: out[0], **options)
        found = module(alone, alone, alone, torch.arange(40) > 30)
        for part in (0, 1):
            check_against(original, found, *[alone] * 3, torch.arange(40) > 30, select=lambda out, part=part: out[part])


def test_query_that_sees_nothing() -> None:
    module, _ = both(scrambled(nn.MultiheadAttention(C, HEADS, batch_first=True)))
    x = torch.randn(2, 4, C)
    with torch.inference_mode():
        out, weights = module(x, x, x, key_padding_mask=torch.ones(2, 4, dtype=torch.bool))
    assert not weights.any()
    np.testing.assert_array_equal(out, module.out_proj.bias.detach().expand(2, 4, C))


def test_attention_inside_a_decoder() -> None:
    decoder = scrambled(nn.TransformerDecoder(nn.TransformerDecoderLayer(C, HEADS, FF, batch_first=True), 2))
    module, original = both(decoder)
    assert all("forward" in part.__dict__ for part in module.modules() if isinstance(part, nn.MultiheadAttention))
    x, memory = torch.randn(2, 6, C), torch.randn(2, 9, C)
    causal = nn.Transformer.generate_square_subsequent_mask(6)
    with torch.inference_mode():
        check_against(original, module(x, memory, causal), x, memory, causal)
