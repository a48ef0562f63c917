"""Export of a checkpoint for every peer: ``python -m benchmarks.suite.export MODEL FOLDER``, in a process of its own.

    FOLDER/checkpoint        Hugging Face folder: fastattn, torch, sentence-transformers
    FOLDER/model.onnx        OpenVINO, which converts the file at load
    FOLDER/optimised.onnx    ONNX Runtime
    FOLDER/ctranslate2       CTranslate2

A failed export leaves ``<name>.error`` with the reason, and its peer is reported as failed.
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.suite.shapes import BERT_BASE, MODELS, Model

_LIBRARIES = ("torch", "transformers", "onnx", "onnxruntime", "ctranslate2")
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def export_key() -> str:
    """Return a folder name made from the versions of the exporting libraries: other versions export anew."""
    found = []
    for name in _LIBRARIES:
        try:
            found.append(f"{name}-{importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return "_".join(found) or "checkpoint-only"


def write_checkpoint(model: Model, folder: Path) -> None:
    """Write the Hugging Face folder: the installed checkpoint, or random weights with that checkpoint's tokenizer.

    Biases and norms are random too: with zeros and ones, a peer that drops them would pass the gate.
    """
    import numpy as np
    from safetensors.numpy import save_file

    from fastattn.checkpoint.hub import find_model

    installed = find_model()
    if model is not BERT_BASE:
        shutil.copytree(installed, folder)
        return
    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copy(installed / name, folder)
    config = json.loads((installed / "config.json").read_text("utf-8"))
    config |= {
        "hidden_size": model.hidden,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "intermediate_size": model.ff,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2), "utf-8")
    rng = np.random.default_rng(0)
    tensors = {}

    def add(name: str, *shape: int, mean: float = 0.0, deviation: float = 0.02) -> None:
        tensors[name] = (mean + deviation * rng.standard_normal(shape, np.float32)).astype(np.float32)

    def norm(name: str) -> None:
        add(f"{name}.weight", model.hidden, mean=1.0, deviation=0.1)
        add(f"{name}.bias", model.hidden, deviation=0.1)

    add("embeddings.word_embeddings.weight", config["vocab_size"], model.hidden)
    add("embeddings.position_embeddings.weight", config["max_position_embeddings"], model.hidden)
    add("embeddings.token_type_embeddings.weight", config["type_vocab_size"], model.hidden)
    norm("embeddings.LayerNorm")
    for i in range(model.layers):
        layer = f"encoder.layer.{i}"
        sizes = {f"attention.self.{name}": (model.hidden, model.hidden) for name in ("query", "key", "value")}
        sizes |= {
            "attention.output.dense": (model.hidden, model.hidden),
            "intermediate.dense": (model.ff, model.hidden),
            "output.dense": (model.hidden, model.ff),
        }
        for name, shape in sizes.items():
            add(f"{layer}.{name}.weight", *shape)
            add(f"{layer}.{name}.bias", shape[0])
        norm(f"{layer}.attention.output.LayerNorm")
        norm(f"{layer}.output.LayerNorm")
    # CTranslate2's converter requires BertModel's pooler.
    add("pooler.dense.weight", model.hidden, model.hidden)
    add("pooler.dense.bias", model.hidden)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def export_onnx(model: Model, folder: Path) -> None:
    """Trace the transformers model, with dynamic axes for batch and tokens."""
    import torch
    import transformers

    # Eager attention: the optimizer fuses its graph, but not the graph of sdpa.
    bert = transformers.BertModel.from_pretrained(
        folder / "checkpoint", attn_implementation="eager", dtype=torch.float32, add_pooling_layer=False
    ).eval()

    class LastHiddenState(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.bert = bert

        def forward(self, *arguments: Any) -> Any:
            return self.bert(**dict(zip(_INPUTS, arguments, strict=True))).last_hidden_state

    ids = torch.arange(1000, 1016).reshape(2, 8)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            LastHiddenState(),
            (ids, mask, torch.zeros_like(ids)),
            str(folder / "model.onnx"),
            dynamo=False,
            opset_version=17,
            input_names=list(_INPUTS),
            output_names=["last_hidden_state"],
            dynamic_axes={name: {0: "B", 1: "T"} for name in (*_INPUTS, "last_hidden_state")},
        )


def export_optimised(model: Model, folder: Path) -> None:
    """Fuse attention, GELU, embeddings and norms with ONNX Runtime's optimizer for BERT."""
    from onnxruntime.transformers import optimizer

    graph = optimizer.optimize_model(
        str(folder / "model.onnx"), model_type="bert", num_heads=model.heads, hidden_size=model.hidden, opt_level=0
    )
    fused = graph.get_fused_operator_statistics()
    if fused["Attention"] != model.layers or fused["BiasGelu"] != model.layers:
        raise RuntimeError(f"the optimizer did not fuse every layer: {fused}")
    graph.save_model_to_file(str(folder / "optimised.onnx"))


def export_ctranslate2(model: Model, folder: Path) -> None:
    """Convert with CTranslate2's own converter, float32."""
    from ctranslate2.converters import TransformersConverter

    TransformersConverter(str(folder / "checkpoint")).convert(str(folder / "ctranslate2"), quantization="float32")


EXPORTS: dict[str, Callable[[Model, Path], None]] = {
    "model.onnx": export_onnx,
    "optimised.onnx": export_optimised,
    "ctranslate2": export_ctranslate2,
}


def main(name: str, target: str) -> None:
    """Write all exports, unless the folder already has them."""
    model, folder = MODELS[name], Path(target)
    done = folder / "done"
    if done.exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_checkpoint(model, folder / "checkpoint")
    complete = True
    for part, export in EXPORTS.items():
        try:
            export(model, folder)
        # Foreign libraries raise any exception: the reason is kept, and the peer reported as failed.
        except Exception as error:
            complete = False
            (folder / f"{part}.error").write_text(f"{type(error).__name__}: {error}", "utf-8")
    if complete:
        done.touch()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
