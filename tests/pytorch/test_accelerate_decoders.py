"""Decoders of transformers, accelerated: only without a cache, and in the direction that they had."""

import copy

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import fastattn  # noqa: E402
from fastattn import FallbackWarning  # noqa: E402
from tests.support.peer_models import model  # noqa: E402

pytestmark = [pytest.mark.jit, pytest.mark.filterwarnings("error::fastattn.FallbackWarning")]


def test_decoders_with_a_cache() -> None:
    """With a cache the original runs, whether the call or the configuration asks for it; and where the directions changed."""
    original = model("qwen3", "hidden", 20, "sdpa")
    module = fastattn.accelerate(copy.deepcopy(original))
    inputs = {"input_ids": torch.randint(5, 90, (2, 6), generator=torch.Generator().manual_seed(0))}
    with torch.inference_mode():
        assert list(module(**inputs)) == ["last_hidden_state"]
        expected = original(**inputs)[0]
        for options in ({}, {"use_cache": False}):
            torch.testing.assert_close(module(**inputs, **options)[0], expected, rtol=1e-4, atol=1e-4)
        assert module.forward.kernel_calls == 3
        with pytest.warns(FallbackWarning, match="use_cache is set, and its output then has the keys and values"):
            assert module(**inputs, use_cache=True).past_key_values is not None
        module.config.use_cache = True
        assert module(**inputs).past_key_values is not None
        module.config.use_cache = False
        module.config.is_causal = False
        with pytest.warns(FallbackWarning, match="its config says since then whether a token sees those behind it"):
            found = module(**inputs)[0]
        changed = copy.deepcopy(original)
        changed.config.is_causal = False
        assert torch.equal(found, changed(**inputs)[0])
        assert (found - expected).abs().max() > 0.1
