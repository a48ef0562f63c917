"""Folders of small tokenizers in which the files beside tokenizer.json disagree with it, and what a tokenizer makes of texts."""

import json
from pathlib import Path
from typing import Any

from tests.support.tokenizer_steps import byte_level, metaspace, pretokenizers

Files = dict[str, Any]

LETTERS = [chr(i) for i in range(97, 123)]
LONG = "hello world new york a cat, a dog"
TEXTS = [
    "Hello Wörld", "Wo\u0308rld Héllo", "中文hello 中 文", "a [NEW] b[NEW]  new [new]", "a [SEP]b [MASK] c [PAD]", LONG,
    "a <s> b<mask> </s> c <mask>d", " hello  world ", "[EXTRA] a[Extra]b", "",
]  # fmt: skip
PAIR = ("hello a world", "New York [NEW]")

FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


# Tokens that CamemBERT's class adds.
UNUSED = ("<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED")


def _token(number: int, content: str, **flags: bool) -> Files:
    return {"id": number, "content": content, **FLAGS, **flags}


def _processing(cls: str, sep: str, vocab: dict[str, int], pair: list[int]) -> Files:
    """Return a post-processor: `cls` text `sep`; between two texts as many `sep` as `pair` has token types before its last."""
    special = [{"SpecialToken": {"id": name, "type_id": 0}} for name in (cls, sep)]
    first, second = ({"Sequence": {"id": name, "type_id": kind}} for name, kind in (("A", 0), ("B", pair[-1])))
    between = [{"SpecialToken": {"id": sep, "type_id": 0}}] * (len(pair) - 1)
    last = {"SpecialToken": {"id": sep, "type_id": pair[-1]}}
    tokens = {name: {"id": name, "ids": [vocab[name]], "tokens": [name]} for name in (cls, sep)}
    return {
        "type": "TemplateProcessing",
        "single": [special[0], first, special[1]],
        "pair": [special[0], first, *between, second, last],
        "special_tokens": tokens,
    }


def word_piece(mpnet: bool = False, lower: bool = True) -> Files:
    """Return the tokenizer.json of a WordPiece tokenizer."""
    names = ["<s>", "<pad>", "</s>", "[UNK]"] if mpnet else ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [
        "hello",
        "world",
        "Hello",
        "new",
        "york",
        "[",
        "]",
        "<",
        ">",
        "/",
        ",",
        "wörld",
        "中",
        "文",
        "ö",
        "H",
        "W",
        "N",
        "E",
        "Y",
    ]
    tokens = [*names, *words, *LETTERS, *(f"##{letter}" for letter in [*LETTERS, "ö", "文", "中"]), *(["<mask>"] if mpnet else [])]
    vocab = {token: i for i, token in enumerate(tokens)}
    special = [*names, "<mask>"] if mpnet else names
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [_token(vocab[token], token) for token in special],
        "normalizer": {
            "type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": lower
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": _processing(*(("<s>", "</s>") if mpnet else ("[CLS]", "[SEP]")), vocab, [0, 0, 0] if mpnet else [0, 1]),
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
            "vocab": vocab,
        },
    }  # fmt: skip


def byte_pairs(space: bool = False) -> Files:
    """Return the tokenizer.json of a RoBERTa."""
    letters = [chr(i) for i in range(33, 127)] + ["Ġ", "Ã", "¶", "©", "Ģ", "ä", "¸", "Ń", "æ", "ĸ", "ĩ", "Ì", "Ī"]
    merges = [("h", "e"), ("l", "l"), ("Ġ", "he"), ("Ġhe", "ll"), ("Ġhell", "o"), ("o", "r"), ("Ġ", "w")]
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    tokens = [*special, *dict.fromkeys([*letters, *("".join(pair) for pair in merges)]), "<mask>"]
    vocab = {token: i for i, token in enumerate(tokens)}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [_token(vocab[token], token, lstrip=token == "<mask>") for token in [*special, "<mask>"]],
        "normalizer": None, "pre_tokenizer": byte_level(space),
        "post_processor": {
            "type": "RobertaProcessing", "sep": ["</s>", vocab["</s>"]], "cls": ["<s>", vocab["<s>"]],
            "trim_offsets": True, "add_prefix_space": space,
        },
        "decoder": byte_level(True),
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "", "end_of_word_suffix": "",
            "fuse_unk": False, "byte_fallback": False, "vocab": vocab, "merges": [" ".join(pair) for pair in merges],
        },
    }  # fmt: skip


def unigram(albert: bool = False) -> Files:
    """Return the tokenizer.json of an XLM-R, or of an ALBERT."""
    special = ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"] if albert else ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    words = ["▁hello", "▁world", "▁new", "▁", "▁a", *LETTERS, *"HWNEY[]<>/,", "中", "文", "ö", "é", "▁cat", "▁dog"]
    tokens = [*special, *words, *UNUSED]
    vocab = {token: i for i, token in enumerate(tokens)}
    ends = ("[CLS]", "[SEP]") if albert else ("<s>", "</s>")
    lower = [{"type": kind} for kind in ("NFKD", "StripAccents", "Lowercase")]
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [_token(vocab[token], token, lstrip=token in ("<mask>", "[MASK]")) for token in special],
        "normalizer": {"type": "Sequence", "normalizers": lower} if albert else None,
        "pre_tokenizer": pretokenizers({"type": "WhitespaceSplit"}, metaspace()),
        "post_processor": _processing(*ends, vocab, [0, 1] if albert else [0, 0, 0]),
        "decoder": metaspace(),
        "model": {
            "type": "Unigram", "unk_id": vocab["<unk>"], "byte_fallback": False,
            "vocab": [[token, 0.0 if token in special else -1.0 - len(token) % 2] for token in tokens],
        },
    }  # fmt: skip


NEW = {"content": "[NEW]", **FLAGS, "normalized": True, "special": False}
DECODER = {str(i): {"content": token, **FLAGS} for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])}
_KEY = "tokenizer_config.json"
# Changes of files: objects are merged into the file's; null removes a key.
STEPS: dict[str, Files] = {
    "nothing": {},
    "cased": {_KEY: {"do_lower_case": False}},
    "lower": {_KEY: {"do_lower_case": True}},
    "accents kept": {_KEY: {"strip_accents": False}},
    "accents stripped, cased": {_KEY: {"strip_accents": True, "do_lower_case": False}},
    "accents null": {_KEY: {"strip_accents": None}},
    "chinese words": {_KEY: {"tokenize_chinese_chars": False, "strip_accents": False}},
    "cased file": {"tokenizer.json": {"normalizer": {"lowercase": False}}},
    "cased file, cased": {"tokenizer.json": {"normalizer": {"lowercase": False}}, _KEY: {"do_lower_case": False}},
    "accents in the file": {"tokenizer.json": {"normalizer": {"strip_accents": True, "lowercase": False}}},
    "another normalizer": {"tokenizer.json": {"normalizer": {"type": "NFC"}}, _KEY: {"do_lower_case": False}},
    "a space": {_KEY: {"add_prefix_space": True}},
    "no space": {_KEY: {"add_prefix_space": False}},
    "offsets": {_KEY: {"trim_offsets": False}},
    "offsets and a space": {_KEY: {"trim_offsets": False, "add_prefix_space": True}},
}
TOKENS: dict[str, Files] = {
    "added_tokens.json": {"added_tokens.json": {"[NEW]": 500}, "special_tokens_map.json": {"additional_special_tokens": ["[EXTRA]"]}},
    "added_tokens.json, special": {
        "added_tokens.json": {"[NEW]": 500, "[EXTRA]": 501}, "special_tokens_map.json": {"additional_special_tokens": ["[NEW]"]}
    },
    "additional in the config": {_KEY: {"additional_special_tokens": ["[NEW]", "[EXTRA]"]}},
    "additional in the map": {"special_tokens_map.json": {"additional_special_tokens": ["[EXTRA]", "[NEW]"]}},
    "decoder": {_KEY: {"added_tokens_decoder": {**DECODER, "500": NEW}}},
    "decoder, special": {_KEY: {"added_tokens_decoder": {**DECODER, "500": {**NEW, "special": True, "normalized": False, "lstrip": True}}}},
    "decoder and map": {
        _KEY: {"added_tokens_decoder": {**DECODER, "500": NEW}}, "special_tokens_map.json": {"additional_special_tokens": ["[EXTRA]"]}
    },
    "decoder and added": {_KEY: {"added_tokens_decoder": DECODER}, "added_tokens.json": {"[NEW]": 500}},
    "decoder and additional": {_KEY: {"added_tokens_decoder": DECODER, "additional_special_tokens": ["[NEW]"]}},
    "a word": {_KEY: {"added_tokens_decoder": {**DECODER, "6": {**NEW, "content": "world", "single_word": True}}}},
    "mask in the config": {_KEY: {"mask_token": "[NEW]"}},
    "mask in the map": {"special_tokens_map.json": {"mask_token": {"content": "[NEW]", "lstrip": True, "rstrip": False, "normalized": False, "single_word": False}}},
    "map over config": {_KEY: {"mask_token": "new", "pad_token": "a"}, "special_tokens_map.json": {"mask_token": "[EXTRA]", "pad_token": "b"}},
    "no pad": {_KEY: {"pad_token": None}},
    "a decoder's mask": {_KEY: {"added_tokens_decoder": {**DECODER, "500": {**NEW, "content": "[EXTRA]", "rstrip": True}}, "mask_token": "[EXTRA]"}},
    "no added tokens in the file": {"tokenizer.json": {"added_tokens": []}},
    "split": {_KEY: {"split_special_tokens": True}},
    "split, added": {_KEY: {"split_special_tokens": True, "additional_special_tokens": ["[NEW]"]}},
}  # fmt: skip
LIMITS: dict[str, Files] = {
    "left in the file": {"tokenizer.json": {"truncation": {"direction": "Left", "max_length": 9, "strategy": "LongestFirst", "stride": 0}}},
    "left in the file, right": {
        "tokenizer.json": {"truncation": {"direction": "Left", "max_length": 9, "strategy": "LongestFirst", "stride": 0}},
        _KEY: {"truncation_side": "right"},
    },
    "left": {_KEY: {"truncation_side": "left"}},
    "max_len": {_KEY: {"max_len": 7}},
    "max_len and model_max_length": {_KEY: {"max_len": 7, "model_max_length": 8}},
    "a limit in the map": {"special_tokens_map.json": {"model_max_length": 8}},
    "padding in the file": {
        "tokenizer.json": {
            "padding": {"strategy": {"Fixed": 3}, "direction": "Left", "pad_to_multiple_of": None, "pad_id": 9, "pad_type_id": 0, "pad_token": "a"}
        }
    },
}  # fmt: skip

# The name of the class (None: no tokenizer_config.json says), model_type, tokenizer.json, settings.
_BERT = {**STEPS, **TOKENS, **LIMITS}
_OTHER = {**{name: STEPS[name] for name in ("nothing", "cased", "lower", "a space", "no space", "offsets")}, **TOKENS, **LIMITS}
_ROBERTA = {**_OTHER, "offsets and a space": STEPS["offsets and a space"]}
GROUPS: list[tuple[str | None, str, str, dict[str, Files]]] = [
    *((name, "bert", "bert", _BERT) for name in ("BertTokenizer", "BertTokenizerFast", None)),
    (None, "ernie", "bert", STEPS),
    *((name, "distilbert", "bert", _BERT) for name in ("DistilBertTokenizer", "DistilBertTokenizerFast", None)),
    *((name, "electra", "bert", STEPS) for name in ("ElectraTokenizer", "ElectraTokenizerFast", None)),
    *((name, "mpnet", "mpnet", _BERT) for name in ("MPNetTokenizer", "MPNetTokenizerFast", None)),
    *((name, "roberta", "roberta", _ROBERTA) for name in ("RobertaTokenizer", "RobertaTokenizerFast", None)),
    *((name, "roberta", "roberta, space", _ROBERTA) for name in ("RobertaTokenizer", None)),
    *((name, "xlm-roberta", "xlm-roberta", _OTHER) for name in ("XLMRobertaTokenizer", "XLMRobertaTokenizerFast", None)),
    *((name, "camembert", "xlm-roberta", _OTHER) for name in ("CamembertTokenizer", "CamembertTokenizerFast", None)),
    *((name, "albert", "albert", _OTHER) for name in ("AlbertTokenizer", "AlbertTokenizerFast", None)),
    *(("PreTrainedTokenizerFast", kind, file, _OTHER) for kind, file in (("bert", "bert"), ("modernbert", "roberta"))),
    (None, "modernbert", "roberta", _OTHER),
    ("BertTokenizer", "roberta", "bert", STEPS),
    ("RobertaTokenizerFast", "bert", "roberta, space", STEPS),
    *((name, kind, "vocab.txt", _BERT) for name, kind in (("BertTokenizer", "bert"), (None, "distilbert"), (None, "ernie"))),
    ("MPNetTokenizerFast", "mpnet", "mpnet vocab.txt", _BERT),
    ("ElectraTokenizer", "electra", "vocab.txt", STEPS),
    *((name, "roberta", "vocab.json", _ROBERTA) for name in ("RobertaTokenizer", None)),
]
CASES: dict[str, tuple[str | None, str, str, Files]] = {
    f"{name}, {kind}, {file}: {setting}": (name, kind, file, changes)
    for name, kind, file, settings in GROUPS
    for setting, changes in settings.items()
}


def _tokenizer(file: str) -> Files:
    if ("roberta" in file and "xlm" not in file) or file == "vocab.json":
        return byte_pairs("space" in file)
    if file in ("xlm-roberta", "albert"):
        return unigram(file == "albert")
    return word_piece("mpnet" in file)


def write_folder(folder: Path, case: str) -> None:
    """Write the tokenizer of a case, with a config.json."""
    name, kind, file, changes = CASES[case]
    files: dict[str, Files] = {"tokenizer.json": _tokenizer(file), "config.json": {"model_type": kind}}
    if name is not None or _KEY in changes:
        files[_KEY] = {"tokenizer_class": name} if name else {}
    for path, content in changes.items():
        whole = files.setdefault(path, {})
        for key, value in content.items():
            inside = isinstance(value, dict) and "type" not in value and isinstance(whole.get(key), dict)
            whole[key] = {**whole[key], **value} if inside else value
    whole = files["tokenizer.json"]
    if "vocab" in file:
        vocab = whole["model"]["vocab"]
        del files["tokenizer.json"]
        if "vocab.txt" in file:
            (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in vocab), "utf-8")
        else:
            files["vocab.json"] = vocab
            (folder / "merges.txt").write_text(
                "#version: 0.2\n" + "".join(f"{pair}\n" for pair in whole["model"]["merges"]), "utf-8"
            )
    for path, content in files.items():
        (folder / path).write_text(json.dumps(content), "utf-8")


def read(tokenizer: Any) -> dict[str, Any]:
    """Return what a tokenizer, ours or transformers', makes of the texts."""
    pair = tokenizer(*PAIR, return_token_type_ids=True)
    special = {name: getattr(tokenizer, f"{name}_token") for name in ("unk", "sep", "pad", "cls", "mask")}
    return {
        "ids": [tokenizer(text)["input_ids"] for text in TEXTS],
        "plain": tokenizer(TEXTS[3], add_special_tokens=False)["input_ids"],
        "cut": tokenizer(LONG, truncation=True, max_length=6)["input_ids"],
        "pair": pair["input_ids"],
        "types": pair["token_type_ids"],
        "offsets": [list(span) for span in tokenizer(TEXTS[7], return_offsets_mapping=True)["offset_mapping"]],
        "limit": min(tokenizer.model_max_length, 10**9),
        "side": tokenizer.truncation_side,
        "special": special,
        "tokens": len(tokenizer),
    }


def flat(found: dict[str, Any]) -> list[Any]:
    """Return the results of `read` as a list, the ids of each text on their own."""
    return [*found["ids"], *(value for name, value in found.items() if name != "ids")]
