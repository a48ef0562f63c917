"""Small sentence-transformers folder of a few kilobytes."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

_WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "sat", "on", "mat", "a"]
_V, _C, _F, _P = len(_WORDS), 8, 12, 16
_CONFIG: dict[str, Any] = {
    "model_type": "bert",
    "hidden_size": _C,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": _F,
    "vocab_size": _V,
    "max_position_embeddings": _P,
    "type_vocab_size": 2,
}
_SHAPES = {
    "embeddings.word_embeddings.weight": (_V, _C),
    "embeddings.position_embeddings.weight": (_P, _C),
    "embeddings.token_type_embeddings.weight": (2, _C),
    "embeddings.LayerNorm": (_C,),
    "encoder.layer.0.attention.self.query": (_C, _C),
    "encoder.layer.0.attention.self.key": (_C, _C),
    "encoder.layer.0.attention.self.value": (_C, _C),
    "encoder.layer.0.attention.output.dense": (_C, _C),
    "encoder.layer.0.attention.output.LayerNorm": (_C,),
    "encoder.layer.0.intermediate.dense": (_F, _C),
    "encoder.layer.0.output.dense": (_C, _F),
    "encoder.layer.0.output.LayerNorm": (_C,),
}


def header_and_data() -> tuple[dict[str, Any], bytes]:
    """Return the safetensors header and data of a small BERT."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for stem, shape in _SHAPES.items():
        parts = {stem: shape} if stem.endswith("weight") else {f"{stem}.weight": shape, f"{stem}.bias": shape[:1]}
        for name, size in parts.items():
            raw = np.cos(np.arange(np.prod(size))).astype("<f4").tobytes()
            header[name] = {"dtype": "F32", "shape": list(size), "data_offsets": [len(data), len(data) + len(raw)]}
            data += raw
    return header, data


def safetensors(header: Any, data: bytes, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length % 2**64) + text + data


def write_model(folder: Path) -> None:
    """Write the sentence-transformers folder."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(_CONFIG))
    (folder / "model.safetensors").write_bytes(safetensors(*header_and_data()))
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(_WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "BertTokenizer", "model_max_length": 12, "cls_token": "[CLS]"}'
    )
    (folder / "modules.json").write_text(
        json.dumps(
            [
                {"path": "", "type": "x.Transformer"},
                {"path": "1_Pooling", "type": "x.Pooling"},
                {"path": "2_N", "type": "x.Normalize"},
            ]
        )
    )
    for name in ("1_Pooling", "2_N"):
        (folder / name).mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": _C, "pooling_mode_mean_tokens": True})
    )
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 12, "do_lower_case": false}')
    (folder / "config_sentence_transformers.json").write_text('{"prompts": {"query": "the "}, "similarity_fn_name": "cosine"}')
