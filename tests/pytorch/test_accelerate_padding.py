"""Positions in the padding of an accelerated encoder: late interaction reads them, so they are the original's."""

import copy
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")

import fastattn
from fastattn import FallbackWarning
from fastattn.checkpoint.families import FAMILIES
from tests.support.peer_models import CASES, WINDOWS, C, batch, has_sdpa, model

pytestmark = [pytest.mark.jit, pytest.mark.filterwarnings("error::fastattn.FallbackWarning")]
ATTENTIONS = [(family, kind) for family in CASES for kind in ("eager", "sdpa") if kind == "eager" or has_sdpa(family)]
BLIND = tuple(name for name, family in FAMILIES.items() if family.blind_padding)
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


def both(family: str, attention: str = "eager") -> tuple[Any, Any]:
    original = model(family, "hidden", 140, attention)
    return fastattn.accelerate(copy.deepcopy(original)), original


def expected_of(original: Any, inputs: dict[str, Any], family: str) -> Any:
    """Return the original's outputs; for padding that sees nothing, zeros."""
    found = original(**inputs)
    if family.startswith(BLIND):
        mask = inputs["attention_mask"]

        def blanked(x: Any) -> Any:
            return (
                tuple(map(blanked, x)) if isinstance(x, tuple) else x * (mask[:, None, :, None] if x.ndim == 4 else mask[..., None])
            )

        for name in found:
            found[name] = blanked(found[name])
    return found


def tensors(family: str, lengths: list[int]) -> dict[str, Any]:
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in batch(family, lengths).items()}


@pytest.mark.parametrize(("family", "attention"), ATTENTIONS)
def test_every_position_is_the_original_s(family: str, attention: str) -> None:
    """Padding ids, other ids with mask 0 as in query expansion, and the bits of real tokens whatever the padding."""
    module, original = both(family, attention)
    # With eager attention, padding behind a window gets a mean of all: not computed by the kernels.
    lengths = [40, 37, 38] if attention == "eager" and family.startswith(WINDOWS) else [40, 5, 23]
    inputs = tensors(family, lengths)
    expanded = {**inputs, "input_ids": torch.where(inputs["attention_mask"].bool(), inputs["input_ids"], 8)}
    short = {name: value[1:2, : lengths[1]] for name, value in inputs.items()}
    with torch.inference_mode():
        alone = module(**short)[0]
        for given in (inputs, expanded):
            found, expected = module(**given), expected_of(original, given, family)
            assert list(found) == list(expected)
            for name in found:
                torch.testing.assert_close(found[name], expected[name], **TOLERANCE)
            assert torch.equal(found[0][1:2, : lengths[1]], alone)
    assert fastattn.calls(module)[""] == fastattn.Calls(3, {})


# CLIP's hidden states end before the final norm: there the original runs.
@pytest.mark.parametrize("family", [family for family in CASES if not family.startswith("clip")])
def test_hidden_states_and_attentions_in_the_padding(family: str) -> None:
    module, original = both(family)
    inputs = {**tensors(family, [12, 8, 10]), "output_hidden_states": True, "output_attentions": True}
    with torch.inference_mode():
        found, expected = module(**inputs), expected_of(original, inputs, family)
    for name in ("hidden_states", "attentions"):
        assert isinstance(found[name], tuple) and len(found[name]) == len(expected[name])
        for ours, theirs in zip(found[name], expected[name], strict=True):
            torch.testing.assert_close(ours, theirs, **TOLERANCE)
    assert fastattn.calls(module)[""].kernels == 1


@pytest.mark.parametrize("family", ["bert", "roberta", "albert", "electra", "distilbert"])
def test_padding_on_the_left_and_between(family: str) -> None:
    module, original = both(family)
    inputs = tensors(family, [20, 20, 20])
    inputs["attention_mask"][0, :6] = 0
    inputs["attention_mask"][1, 4:9] = 0
    with torch.inference_mode():
        for output_attentions in (False, True):
            found, expected = (one(**inputs, output_attentions=output_attentions) for one in (module, original))
            torch.testing.assert_close(found[0], expected[0], **TOLERANCE)
            if output_attentions:
                torch.testing.assert_close(found["attentions"], expected["attentions"], **TOLERANCE)
    assert fastattn.calls(module)[""].kernels == 2


@pytest.mark.parametrize(("family", "attention"), ATTENTIONS)
def test_sequence_that_is_all_padding(family: str, attention: str) -> None:
    """Where nothing is seen, sdpa returns zeros as the kernels do; eager attention a mean of all, by the original."""
    module, original = both(family, attention)
    inputs = tensors(family, [9, 9, 9])
    inputs["attention_mask"][1] = 0
    with torch.inference_mode(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FallbackWarning)
        found, expected = module(**inputs), original(**inputs)
    for name in found:
        torch.testing.assert_close(found[name], expected[name], **TOLERANCE)
    # The masks of ESM and T5 are finite in sdpa too.
    is_mean = attention == "eager" or family.startswith(("esm", "t5"))
    assert len([one for one in caught if "sees no token" in str(one.message)]) == is_mean


def test_padding_behind_a_window() -> None:
    module, original = both("modernbert")
    inputs = tensors("modernbert", [40, 5])
    with torch.inference_mode(), pytest.warns(FallbackWarning, match="a padded position sees no token"):
        assert torch.equal(module(**inputs)[0], original(**inputs)[0])


def test_padding_beyond_the_positions_is_the_original_s_error() -> None:
    module, original = both("bert")
    inputs = {"input_ids": torch.full((1, 200), 7), "attention_mask": (torch.arange(200) < 9).long()[None]}
    with torch.inference_mode():
        with pytest.raises((IndexError, RuntimeError)) as expected:
            original(**inputs)
        with pytest.raises(expected.type), pytest.warns(FallbackWarning, match="200 positions, padding among them"):
            module(**inputs)


def test_padding_id_at_the_end_of_the_vocabulary() -> None:
    """The batch that is compared with the original has no padding among its tokens."""
    torch.manual_seed(0)
    sizes = {"hidden_size": C, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 16}
    config = transformers.RobertaConfig(vocab_size=32, pad_token_id=31, max_position_embeddings=50, **sizes)
    original = transformers.RobertaModel(config).eval()
    module = fastattn.accelerate(copy.deepcopy(original))
    ids = torch.arange(10).reshape(2, 5) + 3
    with torch.inference_mode():
        torch.testing.assert_close(module(ids)[0], original(ids)[0], **TOLERANCE)


def write_multi_vector_model(folder: Path) -> None:
    """Write a small random BERT with a tokenizer of words."""
    tokenizers = pytest.importorskip("tokenizers")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"the cat sat on a mat and dogs ran far away from home".split()]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, "[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    module = transformers.BertModel(transformers.BertConfig(vocab_size=len(words), max_position_embeddings=64, **sizes))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    module.save_pretrained(folder)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_late_interaction(tmp_path: Path) -> None:
    """Query expansion reads hidden states of mask tokens that nothing sees; the ranking depends on them."""
    sentence_transformers = pytest.importorskip("sentence_transformers")
    if not hasattr(sentence_transformers, "MultiVectorEncoder"):
        pytest.skip("this sentence-transformers has no MultiVectorEncoder")
    modules = pytest.importorskip("sentence_transformers.multi_vector_encoder.modules")
    parts = pytest.importorskip("sentence_transformers.base.modules")
    write_multi_vector_model(tmp_path)
    expansion = {"strategy": "fixed", "length": 24, "attend": False, "token": "[MASK]"}
    first = parts.Transformer(str(tmp_path), query_expansion=expansion)
    options = {"in_features": 32, "out_features": 16, "bias": False, "activation_function": torch.nn.Identity()}
    dense = parts.Dense(**options, module_input_name="token_embeddings", module_output_name="token_embeddings")
    normalize = parts.Normalize(module_input_name="token_embeddings", module_output_name="token_embeddings")
    original = sentence_transformers.MultiVectorEncoder(modules=[first, dense, normalize, modules.MultiVectorMask()], device="cpu")
    module = fastattn.accelerate(copy.deepcopy(original))
    queries, documents = ["the cat sat", "dogs ran far away"], ["a cat on a mat", "the dogs and the cat ran home", "far from home"]
    found, expected = module.encode_query(queries), original.encode_query(queries)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape == (24, 16)
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    for ours, theirs in zip(module.encode_document(documents), original.encode_document(documents), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    (count,) = fastattn.calls(module).values()
    assert count.kernels and not count.fallbacks
