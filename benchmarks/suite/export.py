"""Export of a checkpoint for every peer: ``python -m benchmarks.suite.export MODEL FOLDER``, in a process of its own.

    FOLDER/checkpoint        Hugging Face folder: fastattn, torch, sentence-transformers
    FOLDER/model.onnx        OpenVINO, which converts the file at load
    FOLDER/optimised.onnx    ONNX Runtime
    FOLDER/int8-*.onnx       ONNX Runtime in int8: both graphs, quantised dynamically
    FOLDER/openvino-int8.xml OpenVINO in int8, quantised by NNCF on real text
    FOLDER/ctranslate2       CTranslate2, which quantises at load

A failed export leaves ``<name>.error`` with the reason, and its peer is reported as failed.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.suite.corpus import CALIBRATION, calibration
from benchmarks.suite.library import MAX_TOKENS
from benchmarks.suite.shapes import MINILM, MODELS, Model

_LIBRARIES = ("torch", "transformers", "onnx", "onnxruntime", "openvino", "nncf", "ctranslate2")
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
    if model is MINILM:
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
        "architectures": ["BertForSequenceClassification"],
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
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
    # A cross-encoder's head; CTranslate2's converter requires the pooler.
    add("pooler.dense.weight", model.hidden, model.hidden)
    add("pooler.dense.bias", model.hidden)
    tensors = {f"bert.{name}": tensor for name, tensor in tensors.items()}
    add("classifier.weight", 1, model.hidden)
    add("classifier.bias", 1)
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


def export_dynamic(source: str, model: Model, folder: Path) -> None:
    """Quantise a graph's weights to signed bytes for each output channel; ONNX Runtime then quantises activations in every call.

    With one scale for a whole matrix, the library's default, cosines to float32 go down to 0.90.
    """
    from onnx import TensorProto
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # The fused operators have no shapes, of which the type of their outputs would be known.
    options = {"DefaultTensorType": TensorProto.FLOAT}
    target = folder / f"int8-{source}"
    quantize_dynamic(str(folder / source), str(target), weight_type=QuantType.QInt8, per_channel=True, extra_options=options)


def export_nncf(model: Model, folder: Path) -> None:
    """Quantise weights and activations with NNCF for a transformer, calibrated on docstrings.

    As many as its default for a trained model; for random weights, of which no text is typical, a tenth.
    """
    import nncf
    import numpy as np
    import openvino
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "checkpoint" / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)

    def inputs(text: str) -> list[Any]:
        ids = np.array([tokenizer.encode(text).ids])
        return [ids, np.ones_like(ids), np.zeros_like(ids)]

    texts = calibration(CALIBRATION if model is MINILM else CALIBRATION // 10)
    quantised = nncf.quantize(
        openvino.Core().read_model(folder / "model.onnx"),
        nncf.Dataset(texts, inputs),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(texts),
    )
    openvino.save_model(quantised, folder / "openvino-int8.xml", compress_to_fp16=False)


EXPORTS: dict[str, Callable[[Model, Path], None]] = {
    "model.onnx": export_onnx,
    "optimised.onnx": export_optimised,
    "int8-model.onnx": functools.partial(export_dynamic, "model.onnx"),
    "int8-optimised.onnx": functools.partial(export_dynamic, "optimised.onnx"),
    "openvino-int8.xml": export_nncf,
    "ctranslate2": export_ctranslate2,
}


def main(name: str, target: str) -> None:
    """Write the exports that the folder does not have."""
    model, folder = MODELS[name], Path(target)
    parts: dict[str, Callable[[Model, Path], None]] = {
        "checkpoint": lambda model, folder: write_checkpoint(model, folder / "checkpoint")
    }
    for part, export in (parts | EXPORTS).items():
        done, failed = folder / f"{part}.done", folder / f"{part}.error"
        if done.exists():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        failed.unlink(missing_ok=True)
        if (folder / part).is_dir():
            shutil.rmtree(folder / part)
        try:
            export(model, folder)
            done.touch()
        # Foreign libraries raise any exception: the reason is kept, and the peer reported as failed.
        except Exception as error:
            if part == "checkpoint":
                raise
            failed.write_text(f"{type(error).__name__}: {error}", "utf-8")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
