"""Encoder.from_torch: the same hidden states, and no reference to the module or its weights."""

import copy
import gc
import weakref
from typing import Any

import numpy as np
import pytest

from fastattn import Encoder
from tests.support.rounded import LOW, assert_rounded
from tests.support.tolerance import assert_matches_reference

torch = pytest.importorskip("torch")

nn = torch.nn
pytestmark = pytest.mark.jit
C = 16


def stack(norm: Any = None, **options: Any) -> Any:
    torch.manual_seed(0)
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(C, 2, 24, **options), 2, norm, enable_nested_tensor=False).eval()


@pytest.mark.parametrize(
    "module",
    [
        stack(),
        stack(nn.LayerNorm(C), norm_first=True, activation="gelu", batch_first=True),
        stack(bias=False, layer_norm_eps=1e-3, activation=nn.SiLU()),
        stack().layers[0],
        nn.Sequential(nn.Linear(C, C), stack(), nn.Linear(C, 3)),
        nn.Transformer(C, 2, 2, 1, 24, batch_first=True).encoder,
    ],
    ids=["plain", "pre", "no-bias", "layer", "inside", "transformer"],
)
def test_hidden_states(module: Any) -> None:
    module = module.eval()
    encoder = Encoder.from_torch(module)
    part = next(part for part in module.modules() if type(part).__name__.startswith("TransformerEncoder"))
    first = part.layers[0] if hasattr(part, "layers") else part
    x = torch.randn(3, 9, C)
    real = torch.arange(9) < torch.tensor([9, 4, 1])[:, None]

    def original(dtype: Any) -> Any:
        torch.backends.mha.set_fastpath_enabled(False)
        with torch.no_grad():
            given = x.to(dtype) if first.self_attn.batch_first else x.to(dtype).transpose(0, 1)
            out = copy.deepcopy(part).to(dtype)(given, src_key_padding_mask=~real)
        torch.backends.mha.set_fastpath_enabled(True)
        return (out if first.self_attn.batch_first else out.transpose(0, 1))[real].numpy()

    found = encoder(x.numpy(), real.numpy())
    assert_matches_reference(found[real.numpy()], original(torch.float64), original(torch.float32))
    assert not found[~real.numpy()].any()


def test_other_dtypes_are_converted() -> None:
    module = stack().bfloat16()
    x = np.random.default_rng(0).standard_normal((2, 5, C), np.float32)
    assert np.array_equal(Encoder.from_torch(module)(x), Encoder.from_torch(module.float())(x))


@pytest.mark.parametrize("precision", LOW)
def test_precision(precision: Any) -> None:
    module = stack()
    x = np.random.default_rng(0).standard_normal((2, 5, C), np.float32)
    exact = Encoder.from_torch(module)(x)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        found = Encoder.from_torch(module.to(dtype), precision)
        assert found.precision == precision
        assert_rounded(found(x), exact)
    message = f"^precision must be \"float32\" for float64 weights, got '{precision}': layers.0.* is float64; call float"
    with pytest.raises(ValueError, match=message):
        Encoder.from_torch(module.double(), precision)
    with pytest.raises(ValueError, match=r"^precision must be one of float32, bfloat16, int8, got 'int4'$"):
        Encoder.from_torch(module, "int4")  # type: ignore[arg-type]


def test_nothing_of_the_module_is_kept() -> None:
    module = stack()
    x = np.random.default_rng(0).standard_normal((2, 5, C), np.float32)
    encoder = Encoder.from_torch(module)
    before = encoder(x)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    assert np.array_equal(encoder(x), before)
    gone = [weakref.ref(parameter) for parameter in module.parameters()] + [weakref.ref(module)]
    del module, parameter
    gc.collect()
    assert not any(ref() for ref in gone)


class Own(nn.TransformerEncoderLayer):
    def _ff_block(self, x: Any) -> Any:
        return x


@pytest.mark.parametrize(
    "module, error, words",
    [
        (3, TypeError, "module must be a torch.nn.Module, got int"),
        (nn.Linear(2, 2), ValueError, "Linear must hold one encoder, found none; supported: an encoder of transformers"),
        (nn.ModuleList([stack(), stack()]), ValueError, "ModuleList must hold one encoder, found 2 of them"),
        (stack(nn.RMSNorm(C)), ValueError, "the final RMSNorm is not a LayerNorm with the eps of the layers"),
        (stack(nn.LayerNorm(C, eps=0.5)), ValueError, "the final LayerNorm"),
        (stack(activation=torch.tanh), ValueError, "activation tanh is not one of relu, gelu, silu"),
        (nn.TransformerEncoder(Own(C, 2, 8), 2, enable_nested_tensor=False), ValueError, "its layer is a Own"),
        (nn.MultiheadAttention(C, 2), ValueError, "found none"),
    ],
    ids=str,
)
def test_bad_input(module: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Encoder.from_torch(module)
