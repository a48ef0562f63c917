"""Run every kernel in all its variants on arrays with a guard page (no access) right behind them, then right before them.

test_bounds.py runs this module in a process of its own: a kernel that reads or writes outside an array ends it by a signal.
"""

import ctypes
import itertools
import json
import math
import mmap
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

import fastattn
from fastattn import Encoder, EncoderConfig
from fastattn.cli.cases import Sizes, ops
from fastattn.cli.cases import cases as op_cases
from fastattn.encoder import forward, tables
from fastattn.encoder.packed_linear import PackedLinear
from fastattn.kernels.compile import jit
from fastattn.kernels.encoder.pool import POOLINGS, normalize_kernel, pool_kernel
from fastattn.kernels.ops import _arrays, linear, maxsim
from fastattn.kernels.ops._attend import KEY_BLOCK
from fastattn.kernels.ops.embedding_bag import sum_bags
from fastattn.kernels.products.float32 import SUM_BLOCK
from fastattn.kernels.products.int8 import INT8_BLOCK
from fastattn.kernels.products.pack import pack_table
from fastattn.kernels.vector.activations import ACTIVATION_KINDS
from fastattn.kernels.vector.target import TILE_ROWS
from fastattn.parameters import random_parameters
from fastattn.runtime import memory
from tests.support.guarded_gradients import gradients, learning
from tests.support.guarded_search import searches
from tests.support.rounded import LOW

PAGE = mmap.PAGESIZE
LIBC = ctypes.CDLL(None, use_errno=True)
EDGES = (1, 2, 15, 16, 17, 31, 32, 33, 65)
ROWS = (1, TILE_ROWS - 1, TILE_ROWS, TILE_ROWS + 1, 2 * TILE_ROWS + 1)
GOLDEN = Path(__file__).parents[1] / "data" / "golden"


class Guard:
    """Allocator of arrays that touch a guard page, behind them or before them."""

    def __init__(self, behind: bool) -> None:
        self.behind = behind

    def empty(self, shape: Any, dtype: Any = np.float32) -> Any:
        shape = shape if isinstance(shape, tuple) else (shape,)
        size = int(math.prod(shape)) * np.dtype(dtype).itemsize
        pages = -(-size // PAGE) + 2
        region = mmap.mmap(-1, pages * PAGE)
        start = ctypes.addressof(ctypes.c_char.from_buffer(region))
        for page in (0, pages - 1):
            if LIBC.mprotect(ctypes.c_void_p(start + page * PAGE), PAGE, 0):
                raise OSError(ctypes.get_errno(), "mprotect")
        at = (pages - 1) * PAGE - size if self.behind else PAGE
        return np.frombuffer(region, dtype, math.prod(shape), at).reshape(shape)

    def copy(self, x: Any) -> Any:
        out = self.empty(x.shape, x.dtype)
        out[...] = x
        return out


def normal(guard: Guard, *shape: int, dtype: Any = np.float32) -> Any:
    return guard.copy(np.random.default_rng(shape).standard_normal(shape).astype(dtype))


def cases(guard: Guard, dtype: Any) -> Iterator[str]:
    """Run each op at each edge size; yield the name of each case before it runs."""
    for n in (*EDGES, 511, 513):
        x = normal(guard, 3, n, dtype=dtype)
        for form in ("none", "tanh"):
            yield f"gelu {n} {form}"
            fastattn.gelu(x, approximate=form, out=guard.empty(x.shape, dtype))
        cos, sin = (guard.copy(table.astype(dtype)) for table in fastattn.reference.rotary_tables(3, 2 * n))
        yield f"rotary_embedding {n}"
        fastattn.rotary_embedding(normal(guard, 2, 3, 2 * n, dtype=dtype), cos, sin, out=guard.empty((2, 3, 2 * n), dtype))
        yield f"embedding_bag {n}"
        ids, starts = guard.copy(np.array([2, 0, 1, 2, 2])), guard.copy(np.array([0, 0, 3, 5]))
        factors = normal(guard, 5, dtype=dtype)
        for mode in ("mean", "sum"):
            bags = guard.empty((4, n), dtype)
            fastattn.embedding_bag(ids, x, starts, per_sample_weights=factors, mode=mode, out=bags)
            fastattn.embedding_bag(ids, x, starts, mode=mode, out=bags)
        if dtype is np.float32:
            for precision in LOW:
                table, bags = guard.copy(pack_table(x, precision)), guard.empty((4, n))
                sum_bags(ids, guard.copy(np.append(starts, 5)), table, factors, True, bags)
        yield f"softmax {n}"
        fastattn.softmax(x, out=guard.empty(x.shape, dtype))
        yield f"softmax {n} of nothing, and of NaN"
        for value in (-np.inf, np.nan):
            empty = guard.copy(np.full((5, n), value, dtype))
            fastattn.softmax(empty, out=guard.empty(empty.shape, dtype))
        yield f"layer_norm {n}"
        one = normal(guard, n, dtype=dtype)
        fastattn.layer_norm(x, one, one, residual=x, out=guard.empty(x.shape, dtype))
        fastattn.layer_norm(x, one, out=guard.empty(x.shape, dtype))
        fastattn.layer_norm(x[:2], normal(guard, 2, n, dtype=dtype), out=guard.empty((2, n), dtype))
        yield f"rms_norm {n}"
        fastattn.rms_norm(x, one, residual=x, out=guard.empty(x.shape, dtype))
        fastattn.rms_norm(x, one, out=guard.empty(x.shape, dtype))
        fastattn.rms_norm(x[:2], normal(guard, 2, n, dtype=dtype), out=guard.empty((2, n), dtype))
    for m, n, k in itertools.product(ROWS, EDGES, (0, 1, 5)):
        yield f"linear {m} {n} {k}"
        bias = normal(guard, n, dtype=dtype)
        out = guard.empty((m, n), dtype)
        fastattn.linear(normal(guard, m, k, dtype=dtype), normal(guard, n, k, dtype=dtype), bias, activation="gelu", out=out)
    for tokens, length, k in itertools.product((1, 16, 33), (1, 7, maxsim.ROW_BLOCK + 1), (0, 1, SUM_BLOCK + 1)):
        yield f"maxsim {tokens} {length} {k}"
        query, rows = normal(guard, tokens, k, dtype=dtype), normal(guard, 2 * length + 3, k, dtype=dtype)
        ends, starts = (guard.copy(np.array(x)) for x in ((0, length, length, 2 * length, 2 * length + 3), (0, tokens)))
        fastattn.maxsim(query, rows, ends, out=guard.empty(4, dtype))
        fastattn.maxsim(query, rows, ends, starts, length_normalize=True, out=guard.empty((1, 4), dtype))
    for activation, (m, n, k) in itertools.product(
        ACTIVATION_KINDS, ((3, 17, 3), (linear.ROW_BLOCK + 1, 33, SUM_BLOCK + 1), (17, 3, 1024))
    ):
        yield f"linear {m} {n} {k} {activation}"
        x, weight = normal(guard, m, k, dtype=dtype), normal(guard, n, k, dtype=dtype)
        fastattn.linear(x, weight, activation=activation, out=guard.empty((m, n), dtype))
    for n, strategy, function in itertools.product(EDGES, ("max", "sum"), ("relu", "log1p_relu")):
        yield f"splade_pooling {n} {strategy} {function}"
        x, weight = normal(guard, linear.ROW_BLOCK + 9, 5, dtype=dtype), normal(guard, n, 5, dtype=dtype)
        starts = guard.copy(np.array([0, 0, 3, linear.ROW_BLOCK + 2, linear.ROW_BLOCK + 9]))
        options = {"pooling_strategy": strategy, "activation_function": function}
        fastattn.splade_pooling(x, weight, normal(guard, n, dtype=dtype), starts, out=guard.empty((4, n), dtype), **options)
    for length, s, d, e in ((1, 1, 1, 1), (13, 31, 6, 5), (15, 33, 32, 32), (14, 32, 16, 33), (29, 520, 5, 64), (2, 1025, 8, 32)):
        q, k, v = (normal(guard, 2, *shape, dtype=dtype) for shape in ((length, d), (s, d), (s, e)))
        mask = guard.copy(np.random.default_rng(0).random((length, s)) > 0.5)
        for options in ({}, {"is_causal": True}, {"window": (3, 1)}, {"attn_mask": mask, "softcap": 2.0}):
            yield f"attention {length} {s} {d} {e} {list(options)}"
            fastattn.scaled_dot_product_attention(q, k, v, out=guard.empty((2, length, e), dtype), **options)
            fastattn.attention_weights(q, k, out=guard.empty((2, length, s), dtype), **options)
        yield f"attention {length} {s} {d} {e} nothing seen"
        dark = guard.copy(np.zeros((length, s), bool))
        fastattn.scaled_dot_product_attention(q, k, v, dark, out=guard.empty((2, length, e), dtype))
        fastattn.attention_weights(q, k, dark, out=guard.empty((2, length, s), dtype))
        masks = (normal(guard, *shape, dtype=dtype) for shape in ((s,), (length, 1), (2, 1, s), (1, 1), (2, length, s)))
        for mask in masks:
            yield f"attention {length} {s} {d} {e} mask {mask.shape}"
            fastattn.scaled_dot_product_attention(q, k, v, mask, scale=-0.5, out=guard.empty((2, length, e), dtype))
            fastattn.attention_weights(q, k, mask, scale=-0.5, out=guard.empty((2, length, s), dtype))
        yield f"attention {length} {s} {d} {e} groups"
        many = normal(guard, 3, 4, length, d, dtype=dtype)
        one, two = (guard.copy(np.broadcast_to(x, (3, *x.shape))) for x in (k, v))
        fastattn.scaled_dot_product_attention(many, one, two, enable_gqa=True, out=guard.empty((3, 4, length, e), dtype))
        fastattn.attention_weights(many, one, enable_gqa=True, out=guard.empty((3, 4, length, s), dtype))


def halves(guard: Guard) -> Iterator[str]:
    """Run the ops on float16, which is converted to float32."""
    public = ops()
    for n in EDGES:
        for case in op_cases(Sizes(batch=1, heads=4, tokens=3, head_dim=2 * n, ff_dim=n)):
            yield f"float16 {n} {case.label}"
            half = [guard.copy(x.astype(np.float16) if x.dtype.kind == "f" else x) for x in case.arrays]
            options = {
                name: guard.copy(x.astype(np.float16)) if isinstance(x, np.ndarray) else x for name, x in case.options.items()
            }
            shape = public[case.op](*half, **options).shape
            public[case.op](*half, **options, out=guard.empty(shape, np.float16))


def encoders(guard: Guard) -> Iterator[str]:
    """Run every schedule at edge sizes, without and with the optional building blocks."""
    blocks = {"positions": "rotary", "gated": True, "window": 3, "global_every": 2, "relative_buckets": 8}
    general = {
        "positions": "rotary", "norm": "rms", "head_size": 10, "num_key_value_heads": 1, "query_key_norm": "head", "softcap": 2.0,
        "output_norms": True, "gated": True,
    }  # fmt: skip
    distant = {"disentangled": ("c2p", "p2c"), "disentangled_span": 20, "query_key_norm": "full"}
    for (c, count, ff, first), options in itertools.product(
        ((32, 1, 64, False), (30, 5, 33, True), (6, 1, 1, False), (48, 3, 100, True)),
        ({"positions": "learned"}, {**blocks, "embedding_dim": 17}, {**blocks, "embedding_dim": 65}, general, distant),
    ):
        config = EncoderConfig(2, count, c, ff, vocab_size=9, max_positions=70, type_vocab_size=2, norm_first=first, **options)
        parameters = {name: guard.copy(value) for name, value in random_parameters(config, 0).items()}
        model = Encoder(config, parameters=parameters)
        # Tables are cut to the longest sequence, so that reading further hits the guard page.
        if config.positions == "rotary":
            rotary = guard.copy(tables.rotary_tables(tables.rotaries(config), 70))
            model._tables.rotary = lambda longest, table=rotary: table  # type: ignore[method-assign, misc]
        if config.relative_buckets or config.disentangled:
            relative = guard.copy(
                tables.relative_biases(parameters["relative_bias.weight"], 128, 70)
                if config.relative_buckets
                else tables.disentangled_rows(config.disentangled_span, None, 70)
            )
            model._tables.relative = lambda longest, table=relative: table  # type: ignore[method-assign, misc]
        for lengths in ([1], [17, 1, 33], [70], [14, 0, 28]):
            offsets = guard.copy(np.concatenate([[0], np.cumsum(lengths)]))
            n = int(offsets[-1])
            ids, types = guard.copy(np.arange(n, dtype=np.int32) % 9), guard.copy(np.arange(n, dtype=np.int32) % 2)
            for schedule in schedules():
                for pooling in POOLINGS:
                    yield f"encoder {c} {list(options)} {lengths} {schedule} {pooling}"
                    out = guard.empty((len(lengths) if pooling else n, c))
                    model.forward_packed(ids, offsets, token_type_ids=types, pooling=pooling, normalize=bool(pooling), out=out)


def wide(guard: Guard) -> Iterator[str]:
    """Run an encoder whose rows are a multiple of 4 KiB apart, which products copy, and one whose queries alone are."""
    for c, size in ((1024, 64), (48, 64), (1024, 72)):
        config = EncoderConfig(1, 16, c, 33, vocab_size=9, head_size=size, norm_first=True)
        model = Encoder(config, parameters={name: guard.copy(value) for name, value in random_parameters(config, 0).items()})
        for lengths in ([1], [131, 3]):
            yield from both_inputs(guard, model, lengths, f"encoder {c} {size}")


def distances(guard: Guard) -> Iterator[str]:
    """Run every term of content and distance with few and many rows, in and beyond those that have a distance each."""
    kinds: tuple[dict[str, Any], ...] = (
        {"disentangled": ("c2p", "p2c"), "disentangled_span": 8, "disentangled_log": True, "relative_max_distance": 30},
        {"disentangled": ("c2p",), "disentangled_span": 1},
        {"disentangled": ("p2c",), "disentangled_span": 3},
        {"disentangled": ("p2c", "c2p"), "disentangled_span": 200},
    )
    for (c, count), kind in itertools.product(((32, 1), (30, 5), (34, 2)), kinds):
        config = EncoderConfig(1, count, c, 33, vocab_size=9, **kind)
        parameters = {name: guard.copy(value) for name, value in random_parameters(config, 0).items()}
        model = Encoder(config, parameters=parameters)
        far = config.relative_max_distance if config.disentangled_log else None
        for lengths in ([1], [2, 9, 31], [230], [0, 105, 8]):
            rows = guard.copy(tables.disentangled_rows(config.disentangled_span, far, max(lengths)))
            model._tables.relative = lambda longest, rows=rows: rows  # type: ignore[method-assign, misc]
            yield from both_inputs(guard, model, lengths, f"encoder {c} {kind}")


def schedules() -> Iterator[str]:
    """Set each schedule, and yield its name."""
    for balanced, rows in ((0.0, 24), (2.0, 0), (2.0, 10**6)):
        forward._BALANCED, forward._ROWS_PER_THREAD, forward._FLOP_PER_US = balanced, rows, 0.01
        yield f"{balanced} {rows}"


def both_inputs(guard: Guard, model: Encoder, lengths: list[int], name: str) -> Iterator[str]:
    """Run every schedule on ids and on hidden states."""
    config = model.config
    offsets = guard.copy(np.concatenate([[0], np.cumsum(lengths)]))
    n = int(offsets[-1])
    for schedule in schedules():
        yield f"{name} {lengths} {schedule}"
        model.forward_packed(guard.copy(np.arange(n) % 9), offsets, out=guard.empty((n, config.hidden_dim)))
        model.forward_packed(normal(guard, n, config.input_dim), offsets, out=guard.empty((n, config.hidden_dim)))


def choices(guard: Guard) -> Iterator[str]:
    """Run every choice of a configuration that the schedules do not share, on ids and on hidden states."""
    for number, (activation, gated, positions, causal) in enumerate(
        itertools.product([name for name in ACTIVATION_KINDS if name], (False, True), ("sinusoidal", "rotary", None), (False, True))
    ):
        c, e = ((32, None), (30, 17))[number % 2]
        options: dict[str, Any] = {"gated": gated, "positions": positions, "is_causal": causal, "embedding_dim": e}
        config = EncoderConfig(2, 1 if c == 32 else 5, c, 33, activation=activation, vocab_size=9, **options)
        parameters = {name: guard.copy(value) for name, value in random_parameters(config, 0).items()}
        model = Encoder(config, parameters=parameters)
        for lengths in ([1], [17, 0, 33]):
            yield from both_inputs(guard, model, lengths, f"encoder {activation} {options}")
        yield f"encoder {options} watched, and with dropout"
        ids = guard.copy(np.arange(34).reshape(2, 17) % 9)
        model(ids, return_hidden_states=True, return_attention=True)
        dropping = Encoder(EncoderConfig(2, config.num_heads, c, 33, 0.1, activation=activation, vocab_size=9, **options))
        dropping(ids, training=True, rng=np.random.default_rng(0))


def precisions(guard: Guard) -> Iterator[str]:
    """Run products and encoders in low precision, below, at and above each block."""
    for precision, m, n, k in itertools.product(LOW, ROWS, (1, 33), (1, 65, SUM_BLOCK, INT8_BLOCK + 1)):
        yield f"{precision} {m} {n} {k}"
        PackedLinear(normal(guard, n, k), normal(guard, n), "gelu", precision)(normal(guard, m, k))
    for precision, gated, (c, e, f) in itertools.product(LOW, (False, True), ((32, None, 33), (30, 17, INT8_BLOCK + 9))):
        config = EncoderConfig(2, 2, c, f, gated=gated, norm_first=gated, embedding_dim=e, vocab_size=9)
        parameters = {name: guard.copy(value) for name, value in random_parameters(config, 0).items()}
        model = Encoder(config, parameters=parameters, precision=precision)
        for lengths in ([1], [17, 0, 33], [131, 3], [KEY_BLOCK + 5]):
            yield from both_inputs(guard, model, lengths, f"encoder {precision} {c} {e} {f} {gated}")


def poolings(guard: Guard) -> Iterator[str]:
    """Run the kernels that pool and normalise rows outside the forward."""
    for c, lengths, skip in itertools.product(EDGES, ([1], [17, 0, 3]), (0, 2)):
        offsets = guard.copy(np.concatenate([[0], np.cumsum(lengths)]))
        x = normal(guard, int(offsets[-1]), c)
        for mode in filter(None, POOLINGS):
            yield f"pooling {c} {lengths} {skip} {mode}"
            out = guard.empty((len(lengths), c))
            pool_kernel(x, offsets, skip, POOLINGS[mode], out, 1)
            pool_kernel(x, offsets, skip, POOLINGS[mode], out, 2)
            normalize_kernel(out, 1)
            normalize_kernel(out, 2)


def families(guard: Guard) -> Iterator[str]:
    """Run a checkpoint of every family, with each head that it has."""
    for folder in sorted(path for path in GOLDEN.iterdir() if (path / "config.json").is_file()):
        for kind in (
            fastattn.Encoder,
            fastattn.EncoderWithPooler,
            fastattn.EncoderForSequenceClassification,
            fastattn.EncoderForTokenClassification,
            fastattn.EncoderForMaskedLM,
        ):
            try:
                model = kind.from_pretrained(folder)
            except ValueError:
                continue  # The family lacks this head.
            yield f"{folder.name} {kind.__name__}"
            for tokens in (1, 15, 17):
                model(guard.copy(np.arange(2 * tokens).reshape(2, tokens) % 9 + 3))


def package_modules() -> list[ModuleType]:
    return [module for name, module in sys.modules.items() if name.startswith("fastattn.")]


def kernels_of(module: ModuleType) -> set[str]:
    """Return the names of a module's own kernels."""
    found = {x for x in vars(module).values() if isinstance(x, jit.ParallelKernel)}
    return {x.__name__ for x in found if x.py_func.__module__ == module.__name__}


def all_kernels() -> set[str]:
    """Return the names of the kernels in the package's modules."""
    return {name for module in package_modules() for name in kernels_of(module)}


def main() -> None:
    """Run all cases; print their number, and the kernels that no case has run."""
    run: set[str] = set()
    call = jit.ParallelKernel.__call__
    jit.ParallelKernel.__call__ = lambda self, *args: (run.add(self.__name__), call(self, *args))[1]  # type: ignore[method-assign]
    done = 0
    allocating = [module for module in package_modules() if module is not memory and hasattr(module, "aligned_empty")]
    for behind, threads in itertools.product((True, False), (False, True)):
        guard = Guard(behind)
        for module in allocating:
            module.aligned_empty = guard.empty  # type: ignore[attr-defined]
        forward._scratch = lambda name, size, guard=guard: guard.empty(size)  # type: ignore[assignment, misc]
        # Threshold for a second thread: every call exceeds it, or none.
        _arrays._US_PER_THREAD = 1e-9 if threads else 1e9
        _arrays._empty = guard.empty
        ops: tuple[Iterator[str], ...] = (cases(guard, np.float32), cases(guard, np.float64), halves(guard))
        ops += (gradients(guard, np.float32), gradients(guard, np.float64), learning(guard), searches(guard))
        for steps in (
            ops
            if threads
            else (
                *ops,
                encoders(guard),
                wide(guard),
                distances(guard),
                choices(guard),
                precisions(guard),
                poolings(guard),
                families(guard),
            )
        ):
            for name in steps:
                print(name, file=sys.stderr, flush=True)
                done += 1
    print(json.dumps({"cases": done, "not run": sorted(all_kernels() - run)}))


if __name__ == "__main__":
    main()
