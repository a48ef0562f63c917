"""Steps of learning by one library, the worker process of `benchmarks.training`: NAME WORK BATCH TOKENS THREADS.

A line on standard input asks for one step; the answer: wall time, CPU time, a number on which both libraries agree, peak memory.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

LAYERS, HEADS, C, F, V, P = 6, 12, 384, 1536, 30522, 512
RATE = 2e-5
Step = Callable[[], float]


def inputs(batch: int, tokens: int) -> Any:
    return np.random.default_rng(0).integers(1000, V, (batch, tokens))


def own_weights() -> dict[str, Any]:
    from fastattn import EncoderConfig
    from fastattn.parameters import random_parameters

    config = EncoderConfig(LAYERS, HEADS, C, F, positions="learned", max_positions=P, vocab_size=V, type_vocab_size=2)
    return {"config": config, "parameters": random_parameters(config, 0)}


def torch_model() -> Any:
    """Return transformers' BERT with the same weights, without dropout."""
    import torch
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": C, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "intermediate_size": F, "vocab_size": V}
    settings = BertConfig(**sizes, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, attn_implementation="sdpa")
    model = BertModel(settings, add_pooling_layer=False)
    ours = own_weights()["parameters"]
    names = {
        "attention.query": "attention.self.query",
        "attention.key": "attention.self.key",
        "attention.value": "attention.self.value",
        "attention.output": "attention.output.dense",
        "attention.layer_norm": "attention.output.LayerNorm",
        "feed_forward.input": "intermediate.dense",
        "feed_forward.output": "output.dense",
        "feed_forward.layer_norm": "output.LayerNorm",
    }
    state = {
        f"embeddings.{name}_embeddings.weight": ours[f"embeddings.{key}.weight"]
        for name, key in (("word", "token"), ("position", "position"), ("token_type", "token_type"))
    }
    for part in ("weight", "bias"):
        state[f"embeddings.LayerNorm.{part}"] = ours[f"embeddings.layer_norm.{part}"]
        for i in range(LAYERS):
            for stem, theirs in names.items():
                state[f"encoder.layer.{i}.{theirs}.{part}"] = ours[f"layers.{i}.{stem}.{part}"]
    model.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in state.items()}, strict=False)
    return model.train()


def own_step(batch: int, tokens: int, precision: Any = "float32") -> Step:
    """Forward, backward and AdamW of the mean of the squares of hidden states, from packed sequences."""
    from fastattn.training import AdamW, EncoderGraph
    from fastattn.training.arithmetic import mean, square

    made = own_weights()
    graph = EncoderGraph(made["config"], made["parameters"], precision=precision)
    optimizer = AdamW(list(graph.trained()), lr=RATE)
    ids, offsets = inputs(batch, tokens).reshape(-1).astype(np.int32), np.arange(batch + 1) * tokens

    def step() -> float:
        loss = mean(square(graph(ids, offsets) - 1.0))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        graph.refresh()
        return loss.item()

    return step


def torch_step(batch: int, tokens: int) -> Step:
    import torch

    model = torch_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, fused=True)
    ids = torch.from_numpy(inputs(batch, tokens))

    def step() -> float:
        loss = (model(ids).last_hidden_state - 1.0).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.item())

    return step


def own_attention(batch: int, tokens: int) -> Step:
    from fastattn.kernels.backward._packed_attention import attention_backward, attention_forward
    from fastattn.kernels.ops._attend import NO_BOUND

    rng = np.random.default_rng(0)
    qkv = rng.standard_normal((batch * tokens, 3 * C), np.float32)
    q, k, v = qkv[:, :C], qkv[:, C : 2 * C], qkv[:, 2 * C :]
    grad, offsets = rng.standard_normal((batch * tokens, C), np.float32), np.arange(batch + 1) * tokens
    options: dict[str, Any] = {"scale": (C // HEADS) ** -0.5, "softcap": 0.0, "left": NO_BOUND, "right": NO_BOUND, "bias": None}

    def step() -> float:
        out, lse = attention_forward(q, k, v, offsets, HEADS, HEADS, **options)
        return float(attention_backward(grad, out, lse, q, k, v, offsets, HEADS, HEADS, **options)[0][0, 0])

    return step


def torch_attention(batch: int, tokens: int) -> Step:
    import torch

    rng = np.random.default_rng(0)
    qkv = torch.from_numpy(rng.standard_normal((batch * tokens, 3 * C), np.float32)).reshape(batch, tokens, 3, HEADS, C // HEADS)
    grad = torch.from_numpy(rng.standard_normal((batch * tokens, C), np.float32)).reshape(batch, tokens, HEADS, -1).transpose(1, 2)
    q, k, v = (each.transpose(1, 2).contiguous().requires_grad_() for each in qkv.unbind(2))
    grad = grad.contiguous()

    def step() -> float:
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        q.grad = k.grad = v.grad = None
        out.backward(grad)
        assert q.grad is not None
        return float(q.grad[0, 0, 0, 0])

    return step


def own_mlm(batch: int, tokens: int, precision: Any = "float32") -> Step:
    """Masked language modelling: 15 % of the tokens, the vocabulary's product fused with the loss."""
    from fastattn.kernels.backward.linear_cross_entropy import loss_and_gradients
    from fastattn.training import AdamW, EncoderGraph

    made = own_weights()
    graph = EncoderGraph(made["config"], made["parameters"], precision=precision)
    optimizer = AdamW(list(graph.trained()), lr=RATE)
    ids, offsets = inputs(batch, tokens).reshape(-1).astype(np.int32), np.arange(batch + 1) * tokens
    masked = np.flatnonzero(np.random.default_rng(1).random(ids.size) < 0.15)
    target = ids[masked].astype(np.int64)
    table = graph.parameters["embeddings.token.weight"]

    def step() -> float:
        rows = graph(ids, offsets)[masked]
        loss, (of_rows, of_table, _) = loss_and_gradients(rows.data, table.data, target, precision=precision)
        rows.backward(of_rows)
        table._add(of_table)
        optimizer.step()
        optimizer.zero_grad()
        graph.refresh()
        return float(loss)

    return step


def torch_mlm(batch: int, tokens: int) -> Step:
    """Masked language modelling as transformers does it: scores of every token."""
    import torch

    model = torch_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, fused=True)
    ids = torch.from_numpy(inputs(batch, tokens))
    labels = torch.where(torch.from_numpy(np.random.default_rng(1).random(ids.numel()) < 0.15), ids.reshape(-1), -100)

    def step() -> float:
        scores = model(ids).last_hidden_state @ model.embeddings.word_embeddings.weight.T
        loss = torch.nn.functional.cross_entropy(scores.reshape(-1, V), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.item())

    return step


def adamw(own: bool) -> Step:
    from fastattn.training import AdamW, Parameter

    arrays = [np.array(each) for each in own_weights()["parameters"].values()]
    grads = [np.full(each.shape, 1e-3, np.float32) for each in arrays]
    if own:
        parameters = [Parameter(each) for each in arrays]
        for each, grad in zip(parameters, grads, strict=True):
            each.grad = grad
        ours = AdamW(parameters, lr=RATE)

        def step() -> float:
            ours.step()
            return float(arrays[0][0, 0])

        return step
    import torch

    tensors = [torch.from_numpy(each).requires_grad_() for each in arrays]
    for tensor, grad in zip(tensors, grads, strict=True):
        tensor.grad = torch.from_numpy(grad)
    theirs = torch.optim.AdamW(tensors, lr=RATE, fused=True)

    def torch_one() -> float:
        theirs.step()
        return float(arrays[0][0, 0])

    return torch_one


WORK: dict[tuple[str, str], Callable[[int, int], Step]] = {
    ("fastattn", "step"): own_step,
    ("fastattn-bf16", "step"): lambda batch, tokens: own_step(batch, tokens, "bfloat16"),
    ("fastattn-bf16", "mlm"): lambda batch, tokens: own_mlm(batch, tokens, "bfloat16"),
    ("torch", "step"): torch_step,
    ("fastattn", "attention"): own_attention,
    ("torch", "attention"): torch_attention,
    ("fastattn", "mlm"): own_mlm,
    ("torch", "mlm"): torch_mlm,
    ("fastattn", "adamw"): lambda batch, tokens: adamw(True),
    ("torch", "adamw"): lambda batch, tokens: adamw(False),
}


def main() -> None:
    """Answer each line with the times of a step."""
    library, work, batch, tokens, threads = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6])
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = str(threads)
    step = WORK[library, work](batch, tokens)
    if library == "torch":
        import torch

        torch.set_num_threads(threads)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        value = step()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(wall, cpu, value, peak, flush=True)


if __name__ == "__main__":
    main()
