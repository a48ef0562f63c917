"""Encoder.from_torch on every family of transformers."""

import copy

import pytest

from tests.support.tolerance import assert_matches_reference

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import fastattn  # noqa: E402
from tests.support.peer_models import CASES, batch, model, outputs  # noqa: E402

pytestmark = pytest.mark.jit


@pytest.mark.parametrize("family", list(CASES))
def test_encoder_from_torch(family: str) -> None:
    # CLIP has no such head, and T5's needs its decoder.
    original = model(family, "hidden" if family.startswith(("clip", "t5")) else "sequence-classification")
    inputs = batch(family, [20, 3])
    ids, mask, types = (inputs.get(name) for name in ("input_ids", "attention_mask", "token_type_ids"))
    found = fastattn.Encoder.from_torch(original)(ids, mask, token_type_ids=types)
    truth, base = (outputs(copy.deepcopy(original.base_model), "hidden", inputs, dtype) for dtype in (torch.float64, torch.float32))
    assert_matches_reference(found[mask.astype(bool)], truth, base)
