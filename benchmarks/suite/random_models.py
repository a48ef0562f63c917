"""Folders of models of other kinds, of random weights in the shapes of known ones; they need no download and no torch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.suite.export import write_checkpoint
from benchmarks.suite.library import MAX_TOKENS, Array
from benchmarks.suite.shapes import Model

_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
# Mean of the logits in their standard deviations: as of a trained model, most of a text's dimensions are 0.
_LOGIT_MEAN = -2.7
_DEVIATION = 0.02
# Channels of a late-interaction model's embeddings.
TOKEN_CHANNELS = 128


class Decoder(NamedTuple):
    """Sizes of a decoder; `vocab` is small, since its table takes memory and no time."""

    name: str
    layers: int
    hidden: int
    heads: int
    groups: int
    head: int
    ff: int
    vocab: int = 2000


QWEN3 = Decoder("qwen3-0.6b", 28, 1024, 16, 8, 128, 3072)
TINY_DECODER = Decoder("tiny-decoder", 2, 64, 4, 2, 24, 96)


class _Weights:
    """Random tensors by name: biases and norms too, so that a library that drops one fails its gate."""

    def __init__(self) -> None:
        self.tensors: dict[str, Array] = {}
        self._rng = np.random.default_rng(0)

    def add(self, name: str, *shape: int, mean: float = 0.0, deviation: float = _DEVIATION) -> None:
        self.tensors[name] = np.asarray(mean + deviation * self._rng.standard_normal(shape, np.float32), np.float32)

    def linear(self, name: str, outputs: int, inputs: int) -> None:
        self.add(f"{name}.weight", outputs, inputs)
        self.add(f"{name}.bias", outputs)

    def norm(self, name: str, size: int) -> None:
        self.add(f"{name}.weight", size, mean=1.0, deviation=0.1)
        self.add(f"{name}.bias", size, deviation=0.1)


def write(folder: Path, make: Callable[[Path], None]) -> Path:
    """Return the folder of a model whose ``checkpoint`` `make` has written, now or before."""
    if not (folder / "written").exists():
        shutil.rmtree(folder, ignore_errors=True)
        make(folder / "checkpoint")
        (folder / "written").touch()
    return folder


def _save(folder: Path, tensors: dict[str, Array]) -> None:
    from safetensors.numpy import save_file

    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def _write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2), "utf-8")


def _modules(folder: Path, kind: str, *modules: tuple[str, dict[str, Any]], **transformer: Any) -> None:
    """Write the files of sentence-transformers around a folder of transformers; modules by class and configuration."""
    first = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}
    entries = [first]
    for i, (name, config) in enumerate(modules, 1):
        path = f"{i}_{name.rpartition('.')[2]}"
        entries.append({"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.{name}"})
        _write_json(folder / path / "config.json", config)
    _write_json(folder / "modules.json", entries)
    _write_json(folder / "sentence_bert_config.json", {"max_seq_length": MAX_TOKENS, "do_lower_case": False, **transformer})
    _write_json(folder / "config_sentence_transformers.json", {"model_type": kind})


def splade(model: Model) -> Callable[[Path], None]:
    """Return what writes a SPLADE model: BERT with its head for masked words, and the pooling."""

    def make(folder: Path) -> None:
        from safetensors.numpy import load_file

        write_checkpoint(model, folder)
        config = json.loads((folder / "config.json").read_text("utf-8"))
        _write_json(folder / "config.json", {**config, "architectures": ["BertForMaskedLM"]})
        weights = _Weights()
        weights.linear("cls.predictions.transform.dense", model.hidden, model.hidden)
        weights.norm("cls.predictions.transform.LayerNorm", model.hidden)
        weights.add("cls.predictions.bias", config["vocab_size"], mean=_LOGIT_MEAN * _DEVIATION * model.hidden**0.5)
        stored = load_file(folder / "model.safetensors")
        kept = {name: array for name, array in stored.items() if not name.startswith(("classifier", "bert.pooler"))}
        _save(folder, {**kept, **weights.tensors})
        pooling = ("sparse_encoder.models.SpladePooling", {"pooling_strategy": "max", "activation_function": "relu"})
        _modules(folder, "SparseEncoder", pooling, transformer_task="fill-mask")

    return make


def late_interaction(model: Model) -> Callable[[Path], None]:
    """Return what writes a late-interaction model: BERT, a projection of each token, and unit length."""

    def make(folder: Path) -> None:
        write_checkpoint(model, folder)
        dense = {
            "in_features": model.hidden,
            "out_features": TOKEN_CHANNELS,
            "bias": False,
            "activation_function": "torch.nn.modules.linear.Identity",
            "module_input_name": "token_embeddings",
            "module_output_name": "token_embeddings",
        }
        _modules(
            folder,
            "MultiVectorEncoder",
            ("base.modules.dense.Dense", dense),
            ("multi_vector_encoder.modules.multi_vector_mask.MultiVectorMask", {}),
            ("sentence_transformer.modules.normalize.Normalize", {"module_input_name": "token_embeddings"}),
        )
        weights = _Weights()
        weights.add("linear.weight", TOKEN_CHANNELS, model.hidden)
        _save(folder / "1_Dense", weights.tensors)

    return make


def disentangled(model: Model) -> Callable[[Path], None]:
    """Return what writes a cross-encoder of DeBERTa-v3's blocks, with the tokenizer of the installed checkpoint."""

    def make(folder: Path) -> None:
        from fastattn.checkpoint.hub import find_model

        folder.mkdir(parents=True)
        for name in _TOKENIZER:
            shutil.copy(find_model() / name, folder)
        vocabulary = json.loads((find_model() / "config.json").read_text("utf-8"))["vocab_size"]
        config = {
            "architectures": ["DebertaV2ForSequenceClassification"], "model_type": "deberta-v2", "hidden_size": model.hidden,
            "num_hidden_layers": model.layers, "num_attention_heads": model.heads, "intermediate_size": model.ff,
            "vocab_size": vocabulary, "max_position_embeddings": 512, "type_vocab_size": 0, "hidden_act": "gelu",
            "layer_norm_eps": 1e-7, "relative_attention": True, "pos_att_type": "p2c|c2p", "position_buckets": 256,
            "max_relative_positions": -1, "norm_rel_ebd": "layer_norm", "share_att_key": True, "position_biased_input": False,
            "pooler_hidden_act": "gelu", "pooler_hidden_size": model.hidden, "pooler_dropout": 0, "pad_token_id": 0,
            "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0},
        }  # fmt: skip
        _write_json(folder / "config.json", config)
        weights, c = _Weights(), model.hidden
        weights.add("deberta.embeddings.word_embeddings.weight", vocabulary, c)
        weights.norm("deberta.embeddings.LayerNorm", c)
        weights.add("deberta.encoder.rel_embeddings.weight", 512, c)
        weights.norm("deberta.encoder.LayerNorm", c)
        for i in range(model.layers):
            layer = f"deberta.encoder.layer.{i}"
            for name in ("query_proj", "key_proj", "value_proj"):
                weights.linear(f"{layer}.attention.self.{name}", c, c)
            weights.linear(f"{layer}.attention.output.dense", c, c)
            weights.linear(f"{layer}.intermediate.dense", model.ff, c)
            weights.linear(f"{layer}.output.dense", c, model.ff)
            weights.norm(f"{layer}.attention.output.LayerNorm", c)
            weights.norm(f"{layer}.output.LayerNorm", c)
        weights.linear("pooler.dense", c, c)
        weights.linear("classifier", 1, c)
        _save(folder, weights.tensors)

    return make


def decoder(sizes: Decoder) -> Callable[[Path], None]:
    """Return what writes a decoder of Qwen3's blocks, without a tokenizer."""

    def make(folder: Path) -> None:
        folder.mkdir(parents=True)
        config = {
            "architectures": ["Qwen3Model"], "model_type": "qwen3", "hidden_size": sizes.hidden, "num_hidden_layers": sizes.layers,
            "num_attention_heads": sizes.heads, "num_key_value_heads": sizes.groups, "head_dim": sizes.head,
            "intermediate_size": sizes.ff, "vocab_size": sizes.vocab, "max_position_embeddings": 32768, "hidden_act": "silu",
            "rms_norm_eps": 1e-6, "rope_theta": 1_000_000.0, "attention_bias": False, "use_sliding_window": False,
        }  # fmt: skip
        _write_json(folder / "config.json", config)
        weights, c, d = _Weights(), sizes.hidden, sizes.head
        weights.add("embed_tokens.weight", sizes.vocab, c, deviation=0.5)
        weights.add("norm.weight", c, mean=1.0, deviation=0.1)
        for i in range(sizes.layers):
            layer = f"layers.{i}"
            for name, rows in (("q", sizes.heads), ("k", sizes.groups), ("v", sizes.groups)):
                weights.add(f"{layer}.self_attn.{name}_proj.weight", rows * d, c)
            weights.add(f"{layer}.self_attn.o_proj.weight", c, sizes.heads * d)
            for name in ("q_norm", "k_norm"):
                weights.add(f"{layer}.self_attn.{name}.weight", d, mean=1.0, deviation=0.1)
            for name in ("gate", "up"):
                weights.add(f"{layer}.mlp.{name}_proj.weight", sizes.ff, c)
            weights.add(f"{layer}.mlp.down_proj.weight", c, sizes.ff)
            for name in ("input_layernorm", "post_attention_layernorm"):
                weights.add(f"{layer}.{name}.weight", c, mean=1.0, deviation=0.1)
        _save(folder, weights.tensors)

    return make
