"""NaN and infinity in one sequence, row or head: the results of all others must keep their bits."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastattn
from fastattn import Encoder, EncoderConfig
from fastattn.encoder import forward
from fastattn.parameters import random_parameters

Array = NDArray[Any]
# NaN with all bits set, besides NumPy's NaN: integer arithmetic in the kernels sees another number.
FULL_NAN = np.array(0xFFFFFFFF, np.uint32).view(np.float32)[()]
BAD = {"NaN": np.float32(np.nan), "NaN of ones": FULL_NAN, "inf": np.float32(np.inf), "-inf": np.float32(-np.inf)}
# Schedule: (threads, balance from which chunks of sequences are taken, rows up to which threads share the columns).
SCHEDULES = {"chunks": (2, -1.0, 24), "one thread": (1, 2.0, 24), "rows": (2, 2.0, 0), "columns": (2, 2.0, 10**6)}
VOCABULARY = 40
POOLINGS = (None, "mean", "cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
KINDS: dict[str, dict[str, Any]] = {
    "post": {},
    "pre": {"norm_first": True, "activation": "silu"},
    "rotary": {"positions": "rotary", "gated": True, "window": 5, "global_every": 2, "activation": "gelu_tanh"},
    "relative": {"relative_buckets": 8, "is_causal": True},
    "general": {
        "positions": "rotary",
        "norm": "rms",
        "norm_first": True,
        "num_key_value_heads": 1,
        "query_key_norm": "head",
        "output_norms": True,
    },
    "disentangled": {"disentangled": ("c2p", "p2c"), "disentangled_span": 4},
}


# (name of the case, whether its result was right)
Case = tuple[str, bool]


@contextlib.contextmanager
def schedule(name: str) -> Iterator[None]:
    """Force every forward into that schedule, whatever the amount of work."""
    threads, balanced, rows = SCHEDULES[name]
    settings = {"thread_count": lambda: threads, "_FLOP_PER_US": 1.0, "_BALANCED": balanced, "_ROWS_PER_THREAD": rows}
    before = {key: getattr(forward, key) for key in settings}
    try:
        for key, value in settings.items():
            setattr(forward, key, value)
        yield
    finally:
        for key, value in before.items():
            setattr(forward, key, value)


def make(kind: str, nan_row: int | None = None) -> Encoder:
    """Return an encoder; with `nan_row`, that row of its token table has a NaN."""
    config = EncoderConfig(2, 2, 40, 72, vocab_size=VOCABULARY, **{"positions": "learned", "layer_norm_eps": 1e-5, **KINDS[kind]})
    parameters = {name: value * 8 if value.ndim == 2 else value for name, value in random_parameters(config, 3).items()}
    if nan_row is not None:
        parameters["embeddings.token.weight"][nan_row, 3] = np.nan
    return Encoder(config, parameters=parameters)


def encoder_cases(rounds: int) -> Iterator[Case]:
    """Yield cases of a bad hidden state and of a bad row in the token table, in batches of random lengths."""
    rng = np.random.default_rng(11)
    for kind in KINDS:
        model, broken = make(kind), make(kind, nan_row=VOCABULARY - 1)
        for name in SCHEDULES:
            with schedule(name):
                for _ in range(rounds):
                    lengths = rng.integers(1, 40, int(rng.integers(2, 9)))
                    offsets = np.concatenate([[0], np.cumsum(lengths)])
                    victim = int(rng.integers(len(lengths)))
                    at = int(rng.integers(offsets[victim], offsets[victim + 1]))
                    pooling = POOLINGS[int(rng.integers(len(POOLINGS)))]
                    x = rng.standard_normal((offsets[-1], 40)).astype(np.float32)
                    clean = model.forward_packed(x, offsets, pooling=pooling)
                    for what, bad in BAD.items():
                        y = x.copy()
                        y[at, rng.integers(40)] = bad
                        found = model.forward_packed(y, offsets, pooling=pooling)
                        yield (f"{kind}, {name}, {what} in a state", _only(found, clean, victim, offsets, pooling))
                        again = model.forward_packed(x, offsets, pooling=pooling)
                        yield (f"{kind}, {name}, the call after {what}", np.array_equal(again, clean))
                    ids = rng.integers(0, VOCABULARY - 1, offsets[-1])
                    clean = model.forward_packed(ids, offsets, pooling=pooling)
                    yield (
                        f"{kind}, {name}, NaN in the table",
                        np.array_equal(broken.forward_packed(ids, offsets, pooling=pooling), clean),
                    )
                    ids[at] = VOCABULARY - 1
                    found = broken.forward_packed(ids, offsets, pooling=pooling)
                    yield (f"{kind}, {name}, NaN in a row of the table", _only(found, clean, victim, offsets, pooling))


def _only(found: Array, clean: Array, victim: int, offsets: Array, pooling: str | None) -> bool:
    """Tell whether the victim sequence has a NaN and all others keep their bits.

    Under a pooling other than "mean" the victim's vector may be sound: in a causal or local layer not every token sees the bad one.
    """
    bad = np.zeros(len(found), bool)
    bad[slice(offsets[victim], offsets[victim + 1]) if pooling is None else victim] = True
    same = np.array_equal(found[~bad], clean[~bad]) and np.isfinite(clean).all()
    return bool(same and (pooling not in (None, "mean") or np.isnan(found[bad]).any()))


def op_cases(rounds: int) -> Iterator[Case]:
    """Yield cases of a bad element in one row of each op, and in one head of attention."""
    rng = np.random.default_rng(12)
    for _ in range(rounds):
        m, n = (int(rng.integers(1, 40)), int(rng.integers(1, 150)))
        x = rng.standard_normal((m, n)).astype(np.float32)
        weight = rng.standard_normal((23, n)).astype(np.float32)
        tables = rng.standard_normal((2, m, n)).astype(np.float32)
        ends = np.arange(m + 1)
        i, j = int(rng.integers(m)), int(rng.integers(n))
        ops = {
            "softmax": fastattn.softmax,
            "layer_norm": fastattn.layer_norm,
            "layer_norm of a sum": lambda x: fastattn.layer_norm(np.ones_like(x), residual=x),
            "rms_norm": fastattn.rms_norm,
            "rms_norm of a sum": lambda x: fastattn.rms_norm(np.ones_like(x), residual=x),
            "gelu": fastattn.gelu,
            "gelu, tanh form": lambda x: fastattn.gelu(x, approximate="tanh"),
            "linear": lambda x, weight=weight: fastattn.linear(x, weight, activation="silu"),
            "embedding_bag": lambda x, m=m: fastattn.embedding_bag(np.stack([np.arange(m)] * 2, 1), x),
            "splade_pooling": lambda x, weight=weight: fastattn.splade_pooling(x, weight, offsets=range(len(x) + 1)),
            "rotary_embedding": lambda x, tables=tables: fastattn.rotary_embedding(np.concatenate([x, x], 1), *tables),
            "maxsim": lambda x, weight=weight, ends=ends: fastattn.maxsim(weight, x, ends),
        }
        others = np.arange(m) != i
        for name, op in ops.items():
            clean = op(x)
            for what, bad in BAD.items():
                y = x.copy()
                y[i, j] = bad
                found = op(y)
                same = np.array_equal(found[others], clean[others])
                # In the bad row itself a NaN must stay NaN.
                element = name.startswith(("gelu", "rotary", "embedding"))
                lost = bool(np.isnan(bad)) and not (np.isnan(found[i, j]) if element else np.isnan(found[i]).all())
                yield (f"{name}, {what}", same and not lost)
        yield from _attention_cases(rng)


def _attention_cases(rng: np.random.Generator) -> Iterator[Case]:
    b, h, t, d = 2, 3, int(rng.integers(1, 70)), int(rng.integers(1, 40))
    qkv = rng.standard_normal((3, b, h, t, d)).astype(np.float32)
    mask = rng.random((b, 1, 1, t)) < 0.8
    mask[..., 0] = True
    options: dict[str, dict[str, Any]] = {
        "plain": {},
        "causal": {"is_causal": True},
        "masked": {"attn_mask": mask},
        "capped": {"softcap": 5.0},
    }
    others = np.ones((b, h), bool)
    others[1, 1] = False
    for name, chosen in options.items():
        clean = fastattn.scaled_dot_product_attention(*qkv, **chosen)
        for what, bad in BAD.items():
            for part in range(3):
                y = qkv.copy()
                # Key 0 is visible to some query under every mask.
                y[part, 1, 1, 0 if part else rng.integers(t), rng.integers(d)] = bad
                found = fastattn.scaled_dot_product_attention(*y, **chosen)
                same = np.array_equal(found[others], clean[others])
                lost = bool(np.isnan(bad)) and not np.isnan(found[1, 1]).any()
                yield (f"attention, {name}, {what} in {('q', 'k', 'v')[part]}", same and not lost)
                if part < 2:
                    found, expected = (fastattn.attention_weights(*x[:2], **chosen) for x in (y, qkv))
                    same = np.array_equal(found[others], expected[others])
                    lost = bool(np.isnan(bad)) and not np.isnan(found[1, 1]).any()
                    yield (f"attention weights, {name}, {what} in {('q', 'k')[part]}", same and not lost)
        # NaN in a masked key or value changes nothing, in its own head too.
        if name == "masked" and not mask.all():
            y = qkv.copy()
            y[1:, ~np.broadcast_to(mask[:, :, 0], (b, h, t))] = FULL_NAN
            yield ("attention, NaN behind the mask", np.array_equal(fastattn.scaled_dot_product_attention(*y, **chosen), clean))


def failures(rounds: int) -> tuple[int, list[str]]:
    """Run all cases `rounds` times; return the number of cases, and the names of those that failed."""
    found = [case for cases in (op_cases(rounds), encoder_cases(rounds)) for case in cases]
    return len(found), sorted({what for what, well in found if not well})
