"""The forwards of torch.nn.TransformerEncoder, TransformerEncoderLayer and MultiheadAttention, through the kernels."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fastattn.checkpoint.torch_errors import NotAccelerated
from fastattn.checkpoint.torch_nn import Stack, check_attention, read_stack
from fastattn.config import Precision
from fastattn.encoder.encoder import Encoder
from fastattn.encoder.every_position import Order, encode, encode_with_mask, order
from fastattn.encoder.packed_linear import PackedLinear
from fastattn.encoder.padding import pack, unpack
from fastattn.kernels.ops.attention import scaled_dot_product_attention
from fastattn.kernels.ops.attention_weights import attention_weights
from fastattn.parameters import check_finite
from fastattn.pytorch.arrays import array
from fastattn.pytorch.forward import Forward
from fastattn.pytorch.masks import attention_mask, ignored, is_causal, mask_array

Array = NDArray[Any]


class _Layers:
    """A stack of layers, and its two encoders, causal and not, each packed when it is first needed."""

    def __init__(self, stack: Stack, precision: Precision) -> None:
        self.stack, self._precision = stack, precision
        self._parameters = stack.parameters(array)
        check_finite(self._parameters, precision)
        self._encoders: dict[bool, Encoder] = {}
        self._lock = threading.Lock()

    def encoder(self, causal: bool) -> Encoder:
        """Return the encoder."""
        with self._lock:
            if causal not in self._encoders:
                config = dataclasses.replace(self.stack.config, is_causal=causal)
                self._encoders[causal] = Encoder(config, parameters=self._parameters, precision=self._precision)
            return self._encoders[causal]


class StackForward(Forward):
    """Forward of a TransformerEncoder or of one layer."""

    def plan(self) -> _Layers:
        """Pack the weights."""
        stack = read_stack(self.module)
        if stack is None:
            raise NotAccelerated("its methods were replaced")
        return _Layers(stack, self.precision)

    def run(self, plan: _Layers, arguments: dict[str, Any]) -> Any:
        """Encode `src`."""
        src = array("src", arguments["src"])
        heads, c = plan.stack.config.num_heads, plan.stack.config.hidden_dim
        if src.ndim not in (2, 3) or src.shape[-1] != c:
            raise NotAccelerated(f"src has shape {src.shape}, which does not end with {c} channels")
        batched = src.ndim == 3
        swap = batched and not plan.stack.batch_first
        x = src.swapaxes(0, 1) if swap else src if batched else src[None]
        b, t = x.shape[:2]
        mask = mask_array(self._names[1], arguments.get(self._names[1]), (t, t), (b * heads, t, t))
        padding = mask_array("src_key_padding_mask", arguments.get("src_key_padding_mask"), (b, t) if batched else (t,))
        padding = padding if padding is None or batched else padding[None]
        if arguments.get("is_causal") and mask is None:
            raise NotAccelerated("is_causal is set without a mask: torch takes it only as a hint about the mask")
        hidden = None if padding is None else ignored(padding)
        causal = mask is not None and is_causal(mask)
        encoder = plan.encoder(causal)
        placed = None
        if (mask is None or causal) and (padding is None or hidden is not None):
            placed = order(np.ones((b, t), np.bool_) if hidden is None else ~hidden)
        if placed is not None and hidden is not None and mask is None and self._leaves_out_padding(src, placed):
            found = _encode_tokens(plan.stack, encoder, x, hidden)
        elif placed is not None and (placed.is_given or not causal):
            found = encode(encoder, placed.rows(x), placed)[0]
        else:
            whole: Any = attention_mask(mask, padding, heads)
            found = encode_with_mask(encoder, x, whole)
        result = torch.from_numpy(np.ascontiguousarray(found.swapaxes(0, 1)) if swap else found)
        if plan.stack.after is not None:
            result = plan.stack.after(result)
        return result if batched else result[0]

    def _leaves_out_padding(self, src: Array, placed: Order) -> bool:
        """Tell whether torch would turn the batch into a nested tensor, so that padding is zeros behind the layers."""
        if src.ndim != 3 or not getattr(self.module, "use_nested_tensor", False) or not torch.backends.mha.get_fastpath_enabled():
            return False
        if not placed.is_given and not getattr(self.module, "mask_check", True):
            raise NotAccelerated("mask_check is False, and padding comes before a token")
        return placed.is_given


def _encode_tokens(stack: Stack, encoder: Encoder, x: Array, hidden: Array) -> Array:
    """Return hidden states (B, T, C) of the tokens; those of padding, which `hidden` marks, are zeros before a final norm."""
    batch = pack(x, ~hidden)
    found = unpack(encoder.forward_packed(batch.rows, batch.offsets), batch.real)
    if stack.norm is not None:
        with torch.no_grad():
            found[hidden] = stack.norm(torch.zeros(x.shape[2])).numpy()
    return found


class _Projections:
    """The packed weights of an attention module."""

    def __init__(self, module: Any, precision: Precision) -> None:
        c = module.embed_dim
        if module._qkv_same_embed_dim:
            whole = array("in_proj_weight", module.in_proj_weight)
            weights = [whole[i * c : (i + 1) * c] for i in range(3)]
        else:
            names = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
            weights = [array(name, getattr(module, name)) for name in names]
        bias = None if module.in_proj_bias is None else array("in_proj_bias", module.in_proj_bias)
        biases = [None if bias is None else bias[i * c : (i + 1) * c] for i in range(3)]
        out, output = module.out_proj, array("out_proj.weight", module.out_proj.weight)
        check_finite({**dict(zip(("query", "key", "value"), weights, strict=True)), "out_proj.weight": output}, precision)
        pairs = zip(weights, biases, strict=True)
        self.query, self.key, self.value = (PackedLinear(w, b, precision=precision) for w, b in pairs)
        bias = None if out.bias is None else array("out_proj.bias", out.bias)
        self.out = PackedLinear(output, bias, precision=precision)
        # Keys and values that are appended to those of the tokens, (rows, C) each.
        more = [(np.zeros((1, c), np.float32),) * 2] if module.add_zero_attn else []
        if module.bias_k is not None:
            learned = (array("bias_k", module.bias_k).reshape(1, c), array("bias_v", module.bias_v).reshape(1, c))
            more = [learned, *more]
        self.more = [np.concatenate(rows) for rows in zip(*more, strict=True)] if more else []


class AttentionForward(Forward):
    """Forward of a MultiheadAttention.  A query without any key to see gets weights of 0, and a context of 0 before `out_proj`."""

    def plan(self) -> _Projections:
        """Pack the weights."""
        check_attention(self.module)
        return _Projections(self.module, self.precision)

    def run(self, plan: _Projections, arguments: dict[str, Any]) -> Any:
        """Attend from `query` to `key` and `value`."""
        module = self.module
        query, key, value = (array(name, arguments[name]) for name in ("query", "key", "value"))
        batched = query.ndim == 3
        swap = batched and not module.batch_first
        if query.ndim not in (2, 3) or not query.ndim == key.ndim == value.ndim:
            raise NotAccelerated(f"query, key and value have the shapes {query.shape}, {key.shape}, {value.shape}")
        query, key, value = (x.swapaxes(0, 1) if swap else x if batched else x[None] for x in (query, key, value))
        (b, length), s = query.shape[:2], key.shape[1]
        widths = [x.shape[2] for x in (query, key, value)]
        if widths != [module.embed_dim, module.kdim, module.vdim] or key.shape[:2] != (b, s) or value.shape[:2] != (b, s):
            raise NotAccelerated(f"query, key and value have the shapes {query.shape}, {key.shape}, {value.shape}")
        heads = module.num_heads
        mask = mask_array("attn_mask", arguments.get("attn_mask"), (length, s), (b * heads, length, s))
        padding = mask_array("key_padding_mask", arguments.get("key_padding_mask"), (b, s) if batched else (s,))
        padding = padding if padding is None or batched else padding[None]
        if arguments.get("is_causal") and mask is None:
            raise NotAccelerated("is_causal is set without a mask: torch takes it only as a hint about the mask")
        if arguments.get("is_causal") and plan.more:
            raise NotAccelerated(
                "is_causal is set, and bias_k or add_zero_attn adds keys, about which the hint and the mask differ"
            )
        q, k, v = plan.query(query), plan.key(key), plan.value(value)
        if plan.more:
            rows = [np.broadcast_to(more, (b, *more.shape)) for more in plan.more]
            k, v = np.concatenate([k, rows[0]], axis=1), np.concatenate([v, rows[1]], axis=1)
            extra = [(0, 0), (0, len(plan.more[0]))]
            mask = mask if mask is None else np.pad(mask, [(0, 0)] * (mask.ndim - 2) + extra)
            padding = padding if padding is None else np.pad(padding, extra)
        q, k, v = (x.reshape(*x.shape[:2], heads, x.shape[2] // heads).transpose(0, 2, 1, 3) for x in (q, k, v))
        causal = mask is not None and padding is None and is_causal(mask)
        options: dict[str, Any] = {"is_causal": causal, "attn_mask": None if causal else attention_mask(mask, padding, heads)}
        context = scaled_dot_product_attention(q, k, v, **options)
        order = (2, 0, 1, 3) if swap else (0, 2, 1, 3)
        joined = np.ascontiguousarray(context.transpose(order)).reshape(*((length, b) if swap else (b, length)), module.embed_dim)
        result = torch.from_numpy(plan.out(joined))
        weights = None
        if arguments.get("need_weights", True):
            each = attention_weights(q, k, **options)
            weights = torch.from_numpy(each.mean(axis=1) if arguments.get("average_attn_weights", True) else each)
        if batched:
            return result, weights
        return result[0], None if weights is None else weights[0]
