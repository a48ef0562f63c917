"""The kernels of learning on arrays that end at guard pages, for `guarded`."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

import fastattn
from fastattn.config import ACTIVATIONS
from fastattn.kernels.backward import _products_bfloat16 as low
from fastattn.kernels.backward._packed_attention import attention_backward, attention_forward
from fastattn.kernels.backward._products import bias_gradient, pack_backward, pack_forward, product, weight_gradient
from fastattn.kernels.ops._attend import NO_BOUND
from fastattn.kernels.products.pack import panel_words
from fastattn.training import SGD, Adagrad, Adam, AdamW, Parameter, RMSprop, clip_grad_norm_

EDGES = (1, 7, 16, 33, 65)


def normal(guard: Any, *shape: int, dtype: Any = np.float32) -> Any:
    return guard.copy(np.random.default_rng(shape).standard_normal(shape).astype(dtype))


def gradients(guard: Any, dtype: Any) -> Iterator[str]:
    """Run each gradient at each edge size; yield the name of each case before it runs."""
    for n in EDGES:
        x = normal(guard, 67, n, dtype=dtype)
        one = normal(guard, n, dtype=dtype)
        yield f"gradients of rows {n}"
        fastattn.softmax_backward(x, x)
        fastattn.layer_norm_backward(x, x, one, one, residual=x)
        fastattn.layer_norm_backward(x, x)
        fastattn.rms_norm_backward(x, x, one, residual=x)
        for activation in ACTIVATIONS:
            fastattn.activation_backward(x, x, activation)
        yield f"gradient of rotary_embedding {n}"
        cos, sin = (guard.copy(table.astype(dtype)) for table in fastattn.reference.rotary_tables(3, 2 * n))
        fastattn.rotary_embedding_backward(normal(guard, 2, 3, 2 * n, dtype=dtype), cos, sin)
        yield f"gradient of embedding {n}"
        ids = guard.copy(np.random.default_rng(0).integers(0, 9, 67))
        fastattn.embedding_backward(x, ids, 9)
        fastattn.embedding_backward_rows(x, ids, 9)
        yield f"dropout {n}"
        fastattn.dropout(x, 0.3, 5, 3)
        fastattn.dropout_backward(x, 0.3, 5, 3)
        yield f"cross_entropy {n}"
        target = guard.copy(np.arange(67) % n)
        grad = normal(guard, 67, dtype=dtype)
        fastattn.cross_entropy(x, target, one * one, label_smoothing=0.1)
        fastattn.cross_entropy_backward(grad, x, target, reduction="none", label_smoothing=0.1)
    for m, n, k in itertools.product((1, 13, 257), (1, 17, 33), (1, 5, 33)):
        yield f"gradient of linear {m} {n} {k}"
        grad, x, weight = (normal(guard, *shape, dtype=dtype) for shape in ((m, n), (m, k), (n, k)))
        bias = normal(guard, n, dtype=dtype)
        fastattn.linear_backward(grad, x, weight, bias)
        if dtype is np.float32:
            product(x, pack_forward(weight), bias, guard.empty((m, n)))
            product(grad, pack_backward(weight), None, guard.empty((m, k)))
            for accumulate in (False, True):
                weight_gradient(grad, x, guard.copy(weight), accumulate)
                bias_gradient(grad, guard.copy(bias), accumulate)
            panels, rounded = (guard.empty((panel_words(*of, "bfloat16"),)) for of in ((k, m), (n, k)))
            product(x, low.pack_rows(weight, rounded.view(np.uint16)), bias, guard.empty((m, n)), precision="bfloat16")
            product(grad, low.pack_columns(weight), None, guard.empty((m, k)), precision="bfloat16")
            columns = low.pack_columns(x, panels.view(np.uint16))
            for accumulate in (False, True):
                low.weight_gradient(grad, columns, guard.copy(weight), accumulate)
    for m, n, k in ((1, 1, 1), (9, 33, 5), (300, 70, 17)):
        yield f"linear_cross_entropy {m} {n} {k}"
        x, weight = normal(guard, m, k, dtype=dtype), normal(guard, n, k, dtype=dtype)
        target, bias = guard.copy(np.arange(m) % n), normal(guard, n, dtype=dtype)
        fastattn.linear_cross_entropy(x, weight, target, linear_bias=bias, label_smoothing=0.1)
        fastattn.linear_cross_entropy_backward(np.ones((), dtype), x, weight, target, linear_bias=bias)
    for length, s, d, e in ((1, 1, 1, 1), (13, 31, 6, 5), (33, 65, 32, 32), (70, 129, 5, 17)):
        yield f"gradient of attention {length} {s} {d} {e}"
        grad, q, k, v = (normal(guard, 2, *shape, dtype=dtype) for shape in ((length, e), (length, d), (s, d), (s, e)))
        mask = guard.copy(np.random.default_rng(0).random((length, s)) > 0.5)
        added: list[dict[str, Any]] = [
            {"attn_mask": normal(guard, *shape, dtype=dtype)} for shape in ((s,), (length, 1), (length, s))
        ]
        for options in ({}, {"is_causal": True}, {"window": (3, 1)}, {"attn_mask": mask, "softcap": 2.0}, *added):
            fastattn.scaled_dot_product_attention_backward(grad, q, k, v, **options)


def learning(guard: Any) -> Iterator[str]:
    """Run attention of packed sequences, and the optimisers."""
    for lengths, heads, groups, d in (((1,), 1, 1, 1), ((5, 0, 33), 4, 2, 6), ((130, 7), 3, 3, 32)):
        yield f"attention of packed sequences {lengths} {heads} {groups} {d}"
        offsets = guard.copy(np.cumsum([0, *lengths]))
        rows = normal(guard, sum(lengths), (heads + 2 * groups) * d)
        parts = np.split(rows, [heads * d, (heads + groups) * d], axis=1)
        grad = normal(guard, sum(lengths), heads * d)
        table = normal(guard, heads, 2 * max(lengths) - 1)
        for left, right, bias in ((NO_BOUND, NO_BOUND, None), (NO_BOUND, 0, table), (3, 2, table)):
            options: dict[str, Any] = {"scale": 0.3, "softcap": 1.5, "left": left, "right": right, "bias": bias}
            out, lse = attention_forward(*parts, offsets, heads, groups, **options)
            attention_backward(grad, guard.copy(out), guard.copy(lse), *parts, offsets, heads, groups, **options)
    kinds: list[tuple[Any, dict[str, Any]]] = [
        (SGD, {"momentum": 0.9, "nesterov": True}),
        (SGD, {}),
        (RMSprop, {"centered": True, "momentum": 0.9}),
        (Adagrad, {}),
        (Adam, {"amsgrad": True}),
        (AdamW, {}),
    ]
    for (kind, options), n in itertools.product(kinds, EDGES):
        yield f"{kind.__name__} {options} {n}"
        parameter = Parameter(normal(guard, n))
        optimizer = kind([parameter], lr=1e-3, weight_decay=0.1, **options)
        for _ in range(2):
            parameter.grad = normal(guard, n)
            clip_grad_norm_([parameter], 0.1)
            optimizer.step()
