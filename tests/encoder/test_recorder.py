"""Recorder: hidden states and attention of every layer match the reference, and recording leaves the result's bits alone."""

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastattn import Convolution, Encoder, EncoderConfig, LayerConfig, SentenceTransformer
from fastattn.checkpoint.families import FAMILIES
from fastattn.checkpoint.hub import find_model
from fastattn.encoder import forward
from fastattn.parameters import random_parameters
from fastattn.runtime import memory
from tests.support.cases import normal
from tests.support.golden_models import FAMILIES as GOLDEN_MODELS
from tests.support.golden_models import GOLDEN, golden, skip_unless_transformers_computes
from tests.support.tolerance import assert_matches_reference, encoder_truth_and_yardsticks

pytestmark = pytest.mark.jit

V, LAYERS = 50, 3
BOTH = {"return_hidden_states": True, "return_attention": True}
KINDS: dict[str, dict[str, Any]] = {
    "post": {"positions": "learned"},
    "pre": {"positions": "sinusoidal", "norm_first": True},
    "causal": {"is_causal": True},
    "rotary": {"positions": "rotary", "norm_first": True, "gated": True},
    "relative": {"relative_buckets": 8, "relative_max_distance": 20},
    "window": {"window": 3},
    "local and global": {
        "positions": "rotary", "window": 4, "global_every": 2, "rotary_theta": 500.0, "local_rotary_theta": 20.0, "is_causal": True,
    },
    "general": {
        "norm": "rms", "norm_first": True, "positions": "rotary", "head_size": 6, "num_key_value_heads": 1,
        "query_key_norm": "head", "output_norms": True, "attention_scale": 0.3, "softcap": 2.0,
    },
    "full norms": {"query_key_norm": "full", "positions": "alibi"},
    "disentangled": {"disentangled": ("c2p", "p2c"), "disentangled_span": 4, "disentangled_log": True},
    "convolution": {"layers": [LayerConfig(convolution=Convolution(3)), LayerConfig(), LayerConfig(convolution=Convolution(3))]},
    "all": {"positions": "rotary", "relative_buckets": 8, "window": 5, "is_causal": True, "gated": True, "embedding_dim": 12},
}  # fmt: skip


def make(kind: str = "post", c: int = 32, heads: int = 2) -> tuple[Encoder, dict[str, Any]]:
    """Return an encoder with weights large enough that attention is far from even, and the parameters."""
    config = EncoderConfig(LAYERS, heads, c, 48, vocab_size=V, layer_norm_eps=1e-5, **KINDS[kind])
    parameters = {
        name: value * (12 if value.ndim == 2 else 1) + 0.1 * normal(*value.shape, seed=len(name))
        for name, value in random_parameters(config, 1).items()
    }
    return Encoder(config, parameters=parameters), parameters


def batch(b: int, t: int) -> tuple[Any, Any]:
    """Return token ids, and a mask with padding behind, before, and in the middle."""
    rng = np.random.default_rng([b, t])
    mask = np.ones((b, t), bool)
    if b > 2:
        mask[0, t // 2 :] = False
        mask[1, : t // 3] = False
        mask[2] = rng.random(t) < 0.6
    return rng.integers(0, V, (b, t)), mask


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("c, heads", [(32, 2), (30, 3), (4, 1)])
def test_matches_reference(kind: str, c: int, heads: int) -> None:
    model, parameters = make(kind, c, heads)
    for b, t in ((1, 1), (1, 17), (4, 40), (3, 130)):
        ids, mask = batch(b, t)
        found = model(ids, mask, **BOTH)
        assert found[0].tobytes() == model(ids, mask).tobytes()
        assert found[1][-1].tobytes() == found[0].tobytes()
        options = {**model.config.reference_options(), **BOTH}
        expected = encoder_truth_and_yardsticks(parameters, ids, mask, **options)
        assert [x.shape for x in found] == [(b, t, c), (LAYERS + 1, b, t, c), (LAYERS, b, heads, t, t)]
        for ours, *exact_and_near in zip(found[1:], *(output[1:] for output in expected), strict=True):
            for layer in range(len(ours)):
                assert_matches_reference(ours[layer], *(part[layer] for part in exact_and_near))
        both = np.broadcast_to((mask[:, :, None] & mask[:, None, :])[:, None], found[2].shape)
        assert not found[2][~both].any()


def test_attention_is_far_from_even() -> None:
    """Peaked attention: with even attention, the comparison above would hardly depend on queries and keys."""
    model, _ = make()
    attention = model(*batch(1, 17), return_attention=True)[1]
    assert attention.max() > 0.5


@pytest.mark.parametrize("kind", ["post", "local and global"])
def test_hidden_state_keeps_its_bits_and_attention_too(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bits depend neither on threads, schedule and recording nor on the other sequences of the batch."""
    model, _ = make(kind)
    ids, mask = batch(4, 60)
    first = model(ids, mask, **BOTH)
    for threads in (1, 2, 3):
        monkeypatch.setattr(forward, "thread_count", lambda threads=threads: threads)
        monkeypatch.setattr(forward, "_FLOP_PER_US", 1.0)
        for threshold, rows in ((2.0, 24), (0.0, 24), (2.0, 10**6)):
            monkeypatch.setattr(forward, "_BALANCED", threshold)
            monkeypatch.setattr(forward, "_ROWS_PER_THREAD", rows)
            assert model(ids, mask).tobytes() == first[0].tobytes()
            for again, before in zip(model(ids, mask, **BOTH), first, strict=True):
                assert again.tobytes() == before.tobytes()
    alone = model(ids[3:], mask[3:], **BOTH)
    for one, all_ in zip(alone, (first[0][3:], first[1][:, 3:], first[2][:, 3:]), strict=True):
        assert np.array_equal(one, all_)


def test_one_of_the_two() -> None:
    model, _ = make()
    ids, mask = batch(3, 9)
    hidden, states, attention = model(ids, mask, **BOTH)
    for options, expected in (({"return_hidden_states": True}, states), ({"return_attention": True}, attention)):
        found = model(ids, mask, **options)
        assert isinstance(found, tuple) and len(found) == 2
        assert np.array_equal(found[0], hidden) and np.array_equal(found[1], expected)
    assert isinstance(model(ids, mask, return_attention=False), np.ndarray)


def test_hidden_states_in_place_of_ids() -> None:
    model, parameters = make("relative")
    x = normal(2, 9, 32)
    x[1, 4:] = np.nan
    mask = np.arange(9) < [[9], [4]]
    found = model(x, mask, **BOTH)
    assert all(np.isfinite(part).all() for part in found)
    options = {**model.config.reference_options(), **BOTH}
    for ours, *exact_and_near in zip(found, *encoder_truth_and_yardsticks(parameters, x, mask, **options), strict=True):
        assert_matches_reference(ours, *exact_and_near)


def test_empty() -> None:
    model, _ = make()
    for b, t in ((0, 4), (2, 0)):
        found = model(np.zeros((b, t), int), **BOTH)
        assert [x.shape for x in found] == [(b, t, 32), (LAYERS + 1, b, t, 32), (LAYERS, b, 2, t, t)]
    assert not any(x.any() for x in model(np.zeros((2, 3), int), np.zeros((2, 3)), **BOTH))
    ids, mask = batch(3, 8)
    mask[1] = False
    hidden, _, attention = model(ids, mask, **BOTH)
    assert np.array_equal(hidden, model(ids, mask)) and not attention[:, 1].any() and attention[:, 2].any()


def test_training() -> None:
    config = EncoderConfig(1, 1, 8, 8, dropout=0.5, vocab_size=V)
    ids = np.arange(5)[None]
    with pytest.raises(ValueError, match="leave out training"):
        Encoder(config)(ids, training=True, rng=np.random.default_rng(0), return_attention=True)
    assert Encoder(config)(ids, return_attention=True)[1].shape == (1, 1, 1, 5, 5)
    without = Encoder(EncoderConfig(1, 1, 8, 8, vocab_size=V))
    assert without(ids, training=True, return_hidden_states=True)[1].shape == (2, 1, 5, 8)


@pytest.mark.parametrize(
    "asked, said",
    [
        ({"return_attention": True}, r"^attention \(3, 4, 2, 100, 100\)"),
        ({"return_hidden_states": True}, r"^hidden states \(4, 4, 100, 32\)"),
        (BOTH, r"hidden states \(4, 4, 100, 32\) and attention \(3, 4, 2, 100, 100\)"),
    ],
)
def test_what_would_not_fit_is_refused_before_anything_is_done(
    asked: dict[str, bool], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = make()
    ids = np.zeros((4, 100), int)
    monkeypatch.setattr(memory, "free_bytes", lambda: 100_000)
    monkeypatch.setattr(forward, "run", lambda *_: pytest.fail("was begun"))
    with pytest.raises(MemoryError, match=rf"{said}.*GiB are free"):
        model(ids, **asked)


def test_a_million_tokens_are_refused() -> None:
    model = Encoder(EncoderConfig(LAYERS, 32, 32, 48, vocab_size=V))
    with pytest.raises(MemoryError):
        model(np.ones((1, 10**6), int), return_attention=True)


def test_free_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    free = memory.free_bytes()
    if Path("/proc/meminfo").exists():
        assert free is not None and 2**20 < free < 2**50
    monkeypatch.setattr(memory, "_groups", lambda: [tmp_path])
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("700000\n")
    (tmp_path / "memory.stat").write_text(
        "anon 500000\nfile 180000\ninactive_file 100000\nactive_file 70000\nslab_reclaimable 30000\nslab 40000\n"
    )
    assert memory.free_bytes() == 500_000
    monkeypatch.setattr(memory, "_system_free", lambda: 400_000)
    assert memory.free_bytes() == 400_000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.free_bytes() == 400_000
    monkeypatch.setattr(memory, "_system_free", lambda: None)
    assert memory.free_bytes() is None
    memory.check_fits(2**62, "anything")
    (tmp_path / "memory.limit_in_bytes").write_text("1000\n")
    (tmp_path / "memory.usage_in_bytes").write_text("400\n")
    (tmp_path / "memory.stat").write_text(
        "inactive_file 9\nactive_file 9\ntotal_inactive_file 100\ntotal_active_file 50\ntotal_rss 7\n"
    )
    assert memory.free_bytes() == 750


def assert_as_transformers(folder: Path, ids: Any, mask: Any, types: Any = None) -> None:
    """Compare every layer's attention and hidden states with those of transformers in double precision, text by text."""
    transformers = pytest.importorskip("transformers")
    torch = importlib.import_module("torch")
    name = FAMILIES[json.loads((folder / "config.json").read_text("utf-8"))["model_type"]].model_class
    if not hasattr(transformers, name):
        pytest.skip(f"transformers has no {name}")
    _, states, attention = Encoder.from_pretrained(folder)(ids, mask, token_type_ids=types, **BOTH)
    theirs = [
        getattr(transformers, name).from_pretrained(str(folder), attn_implementation="eager", dtype=dtype).eval()
        for dtype in (torch.float64, torch.float32)
    ]
    found: dict[str, list[tuple[Any, Any, Any]]] = {}
    for b, real in enumerate(mask):
        options = {} if types is None else {"token_type_ids": torch.tensor(types[b : b + 1, real].astype(np.int64))}
        with torch.no_grad():
            exact, near = (
                model(torch.tensor(ids[b : b + 1, real]), **options, output_attentions=True, output_hidden_states=True)
                for model in theirs
            )
        assert len(attention) == len(exact.attentions) and len(states) == len(exact.hidden_states)
        for layer, (truth, yardstick) in enumerate(zip(exact.attentions, near.attentions, strict=True)):
            ours = attention[layer, b][:, real][:, :, real]
            found.setdefault(f"attention {layer}", []).append((ours, truth[0].numpy(), yardstick[0].numpy()))
        # Those of CLIP end before the final norm.
        truths, yardsticks = ((*output.hidden_states[:-1], output.last_hidden_state) for output in (exact, near))
        for layer, (truth, yardstick) in enumerate(zip(truths, yardsticks, strict=True)):
            found.setdefault(f"states {layer}", []).append((states[layer, b, real], truth[0].numpy(), yardstick[0].numpy()))
    # All texts of a layer are compared at once: for a text of few tokens the yardstick can be exact by luck.
    for parts in found.values():
        assert_matches_reference(*(np.concatenate([x.reshape(-1) for x in arrays]) for arrays in zip(*parts, strict=True)))


@pytest.mark.filterwarnings("ignore")
def test_transformers() -> None:
    """The MiniLM checkpoint on a ragged batch of texts."""
    tokenizer = SentenceTransformer().tokenizer
    texts = ["The cat sat on the mat because it was tired.", "Knots", "Every good boy deserves fudge, said the music teacher."]
    rows = [tokenizer.encode(text) for text in texts]
    longest = max(map(len, rows))
    ids = np.array([row + [0] * (longest - len(row)) for row in rows])
    assert_as_transformers(find_model(), ids, np.arange(longest) < np.array([[len(row)] for row in rows]))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", GOLDEN_MODELS)
def test_families(family: str) -> None:
    """Rotary, relative, windowed, factorised: attention agrees with transformers, independently of our reference."""
    skip_unless_transformers_computes(family)
    arrays = golden(family)
    mask = arrays["attention_mask"].astype(bool)
    assert_as_transformers(GOLDEN / family, arrays["input_ids"].astype(np.int64), mask, arrays.get("token_type_ids"))
