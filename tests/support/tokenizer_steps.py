"""Steps of tokenizers: those of known models, and functions that write others."""

import base64
import json
import struct
import unicodedata
from pathlib import Path
from typing import Any

Change = dict[str, Any]


def replace(old: str, new: str, kind: str = "String") -> Change:
    return {"type": "Replace", "pattern": {kind: old}, "content": new}


def sequence(*steps: Any, names: str = "normalizers") -> Change:
    return {"type": "Sequence", names: list(steps)}


def pretokenizers(*steps: Any) -> Change:
    return sequence(*steps, names="pretokenizers")


def prepend(text: str) -> Change:
    return {"type": "Prepend", "prepend": text}


def metaspace(mark: str = "▁") -> Change:
    return {"type": "Metaspace", "replacement": mark, "prepend_scheme": "always", "split": True}


def byte_level(add_prefix_space: bool = False) -> Change:
    return {"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": True, "use_regex": True}


def table(key: str, text: str) -> Change:
    """Return a SentencePiece table that maps `key` to `text`, and contains Unicode's longest compatibility form."""
    units = [0] * 768
    first, second = 256, 512
    units[0] = first << 10
    units[first ^ ord(key)] = (first ^ ord(key) ^ second) << 10 | 1 << 8 | ord(key)
    units[second] = 1 << 31
    texts = text.encode() + b"\0" + unicodedata.normalize("NFKC", "\ufdfa").encode() + b"\0"
    raw = struct.pack("<I", 4 * len(units)) + struct.pack(f"<{len(units)}I", *units) + texts
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(raw).decode()}


def template(single: list[Any], count: int = 1, number: int = 2) -> Change:
    pieces = [
        {"Sequence": {"id": piece, "type_id": 0}} if piece in "AB" else {"SpecialToken": {"id": piece, "type_id": 0}}
        for piece in single
    ]
    token = {"id": "[CLS]", "ids": [number] * count, "tokens": ["[CLS]"] * count}
    pair = [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}]
    return {"type": "TemplateProcessing", "single": pieces, "pair": pair, "special_tokens": {"[CLS]": token}}


def of(kind: str) -> Change:
    return {"type": kind}


def change(folder: Path, changes: Change) -> None:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}), "utf-8")


# Steps of known models' tokenizers.
KNOWN: dict[str, Change] = {
    "albert": {
        "normalizer": sequence(
            replace("``", '"'), replace("''", '"'), of("NFKD"), of("StripAccents"), of("Lowercase"), table("\n", " ")
        ),
        "pre_tokenizer": pretokenizers(of("WhitespaceSplit"), metaspace()),
    },
    "xlm-roberta": {
        "normalizer": table("\n", " "),
        "pre_tokenizer": pretokenizers(of("WhitespaceSplit"), metaspace()),
        "post_processor": {
            "type": "RobertaProcessing",
            "sep": ["[SEP]", 3],
            "cls": ["[CLS]", 2],
            "trim_offsets": True,
            "add_prefix_space": True,
        },
    },
    "t5": {"normalizer": sequence(table("\n", " "), replace(" {2,}", "▁", "Regex")), "pre_tokenizer": metaspace()},
    "deberta": {
        "normalizer": sequence(
            {"type": "Strip", "strip_left": True, "strip_right": True}, table("\n", " "), replace(" {2,}", " ", "Regex")
        ),
        "pre_tokenizer": pretokenizers(metaspace()),
    },
    "clip": {
        "normalizer": sequence(of("NFC"), replace("\\s+", " ", "Regex"), of("Lowercase")),
        "pre_tokenizer": pretokenizers(
            {"type": "Split", "pattern": {"Regex": "'s|[\\p{L}]+|[\\p{N}]"}, "behavior": "Removed", "invert": True}, byte_level()
        ),
    },
    "llama": {"normalizer": sequence(prepend("▁"), replace(" ", "▁"))},
    "modernbert": {
        "normalizer": of("NFC"),
        "pre_tokenizer": byte_level(),
        "post_processor": sequence(template(["[CLS]", "A"]), names="processors"),
    },
    "roberta": {"pre_tokenizer": byte_level(True)},
    "bert": {
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        }
    },
    "xlnet": {
        "normalizer": sequence(
            replace("``", '"'), of("NFKD"), of("StripAccents"), table("\n", " "), replace(" {2,}", " ", "Regex")
        ),
        "pre_tokenizer": metaspace(),
    },
}
