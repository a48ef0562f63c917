"""Small model folders, whole or with one fault."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.checkpoint.reader import read_encoder

C, F, V, P, Y, LAYERS, HEADS = 32, 48, 40, 24, 2, 2, 4
CONFIG: dict[str, Any] = {
    "model_type": "bert",
    "hidden_size": C,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": F,
    "vocab_size": V,
    "max_position_embeddings": P,
    "type_vocab_size": Y,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
}
_WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "a", "cat", "dog", "sat", "on", "mat", "query", ":"]
WORDS = _WORDS + [f"w{i}" for i in range(V - len(_WORDS))]
_LAYER = {
    "attention.self.query": (C, C),
    "attention.self.key": (C, C),
    "attention.self.value": (C, C),
    "attention.output.dense": (C, C),
    "attention.output.LayerNorm": (C,),
    "intermediate.dense": (F, C),
    "output.dense": (C, F),
    "output.LayerNorm": (C,),
}
Tensors = dict[str, NDArray[np.float32]]


def bert_tensors() -> Tensors:
    """Return random weights under the names of Hugging Face's BERT, with a pooler, which `Encoder` ignores."""
    rng = np.random.default_rng(0)
    shapes = {f"embeddings.{k}_embeddings.weight": (n, C) for k, n in (("word", V), ("position", P), ("token_type", Y))}
    stems: dict[str, tuple[int, ...]] = {"embeddings.LayerNorm": (C,), "pooler.dense": (C, C)}
    stems |= {f"encoder.layer.{i}.{stem}": shape for i in range(LAYERS) for stem, shape in _LAYER.items()}
    tensors = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    for stem, shape in stems.items():
        scale = np.float32(0.2)
        tensors[f"{stem}.weight"] = rng.standard_normal(shape, np.float32) * scale + np.float32(len(shape) == 1)
        tensors[f"{stem}.bias"] = rng.standard_normal(shape[0], np.float32) * scale
    return tensors


def write_safetensors(path: Path, tensors: dict[str, NDArray[Any]], dtype: str = "F32") -> None:
    """Write a safetensors file; BF16 truncates each float32 to its upper half."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, array in tensors.items():
        if dtype == "BF16":
            raw = (array.view(np.uint32) >> 16).astype("<u2").tobytes()
        else:
            raw = array.astype({"F32": "<f4", "F16": "<f2", "F64": "<f8", "I64": "<i8"}[dtype]).tobytes()
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + data)


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def write_bert(folder: Path, tensors: Tensors | None = None, **changes: Any) -> Path:
    """Write ``config.json`` and ``model.safetensors``; a change to None leaves the key out."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {key: value for key, value in {**CONFIG, **changes}.items() if value is not None}
    write_json(folder / "config.json", config)
    write_safetensors(folder / "model.safetensors", bert_tensors() if tensors is None else tensors)
    return folder


def write_tokenizer(folder: Path) -> None:
    """Write a tokenizer of whole words whose file enables padding and truncation, as many models' files do."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.enable_padding(length=16)
    tokenizer.enable_truncation(8)
    tokenizer.save(str(folder / "tokenizer.json"))


def write_typed_tokenizer(folder: Path, **settings: Any) -> None:
    """Write a tokenizer whose post-processor gives a single text the token types 0, 1, ..., 1."""
    write_tokenizer(folder)
    content = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    content["post_processor"]["single"] = [
        {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 1}},
        {"SpecialToken": {"id": "[SEP]", "type_id": 1}},
    ]
    write_json(folder / "tokenizer.json", content)
    names = ["input_ids", "token_type_ids", "attention_mask"]
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": names, **special, **settings},
    )


def write_sentence_model(folder: Path, pooling: dict[str, Any] | None = None, normalize: bool = False) -> Path:
    """Write a sentence-transformers folder."""
    write_bert(folder)
    write_tokenizer(folder)
    modules = ["Transformer", "Pooling", *(["Normalize"] if normalize else [])]
    paths = ["", "1_Pooling", "2_Normalize"]
    entries = [
        {"idx": i, "name": str(i), "path": paths[i], "type": f"sentence_transformers.models.{name}"}
        for i, name in enumerate(modules)
    ]
    write_json(folder / "modules.json", entries)
    write_json(
        folder / "1_Pooling" / "config.json",
        {"word_embedding_dimension": C, "pooling_mode_mean_tokens": True} if pooling is None else pooling,
    )
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 12, "do_lower_case": False})
    return folder


def assert_reads_the_same(folder: Path, tensors: dict[str, Any] | None = None) -> None:
    _, parameters = read_encoder(folder)
    expected = bert_tensors() if tensors is None else tensors
    pairs = {
        "embeddings.token.weight": "embeddings.word_embeddings.weight",
        "embeddings.position.weight": "embeddings.position_embeddings.weight",
        "embeddings.token_type.weight": "embeddings.token_type_embeddings.weight",
        "embeddings.layer_norm.weight": "embeddings.LayerNorm.weight",
        "embeddings.layer_norm.bias": "embeddings.LayerNorm.bias",
    }
    stems = {
        "attention.query": "attention.self.query",
        "attention.key": "attention.self.key",
        "attention.value": "attention.self.value",
        "attention.output": "attention.output.dense",
        "attention.layer_norm": "attention.output.LayerNorm",
        "feed_forward.input": "intermediate.dense",
        "feed_forward.output": "output.dense",
        "feed_forward.layer_norm": "output.LayerNorm",
    }
    for i in range(LAYERS):
        for ours, theirs in stems.items():
            for part in ("weight", "bias"):
                pairs[f"layers.{i}.{ours}.{part}"] = f"encoder.layer.{i}.{theirs}.{part}"
    assert set(parameters) == set(pairs)
    for ours, theirs in pairs.items():
        assert parameters[ours].dtype == np.float32
        assert parameters[ours].flags.c_contiguous
        np.testing.assert_array_equal(parameters[ours], expected[theirs], err_msg=ours)


def only_a_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
