"""Embedding models of decoders and of their bidirectional forms, whole: tokenizer, pooling of the last token, Dense, prompts."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastattn import Encoder, SentenceTransformer
from fastattn.modules import Pooling
from fastattn.tokenizer.tokenizer import load_tokenizer
from tests.support.golden_models import GOLDEN
from tests.support.language_model import SPECIAL, write_language_model, write_words
from tests.support.models import write_json, write_safetensors
from tests.support.peer_cases import weights

pytestmark = pytest.mark.jit
C = 32
TEXTS = [" ".join(f"w{i}" for i in range(5, 5 + n)) for n in (3, 1, 12, 30, 60, 7)]
PROMPTS = {"query": "w50 w51 ", "document": ""}
# Family: the tokens around a text, the pooling, and the widths of Dense modules.
MODELS: dict[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {
    "qwen3": ("$A <eos>", {"pooling_mode": "lasttoken", "include_prompt": True}, ()),
    "qwen3-both-ways": ("$A", {"pooling_mode": "mean", "include_prompt": False}, ()),
    "qwen2-both-ways": ("$A", {"pooling_mode": "lasttoken"}, ()),
    "eurobert": ("<bos> $A <eos>", {"pooling_mode": "mean"}, ()),
    "gemma3_text-both-ways": ("<bos> $A <eos>", {"pooling_mode": "mean"}, (48, C)),
    "gemma3_text": ("<bos> $A <eos>", {"pooling_mode": "lasttoken"}, ()),
}


def write(folder: Path, family: str) -> Path:
    """Write a folder as sentence-transformers saves it."""
    from tokenizers import Tokenizer, processors

    around, pooling, widths = MODELS[family]
    shutil.copytree(GOLDEN / family, folder, ignore=lambda _, names: [name for name in names if name.endswith(".npz")])
    write_words(folder, padding_side="left")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = [(token, tokenizer.token_to_id(token)) for token in SPECIAL.values()]
    tokenizer.post_processor = processors.TemplateProcessing(single=around, special_tokens=ids)
    tokenizer.save(str(folder / "tokenizer.json"))
    modules = ["Transformer", "Pooling", *("Dense" for _ in widths), "Normalize"]
    paths = ["", *(f"{i}_{name}" for i, name in enumerate(modules[1:], 1))]
    entries = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{name}"}
        for i, (name, path) in enumerate(zip(modules, paths, strict=True))
    ]
    write_json(folder / "modules.json", entries)
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": C, **pooling})
    inputs = C
    for i, outputs in enumerate(widths, 2):
        config = {
            "in_features": inputs,
            "out_features": outputs,
            "bias": False,
            "activation_function": "torch.nn.modules.linear.Identity",
        }
        write_json(folder / f"{i}_Dense" / "config.json", config)
        write_safetensors(folder / f"{i}_Dense" / "model.safetensors", weights(i, linear__weight=(outputs, inputs)))
        inputs = outputs
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 32, "do_lower_case": False})
    write_json(folder / "config_sentence_transformers.json", {"prompts": PROMPTS, "model_type": "SentenceTransformer"})
    return folder


@pytest.mark.parametrize("family", MODELS)
def test_the_last_token_and_the_modules(tmp_path: Path, family: str) -> None:
    """The token that is pooled is the text's last real one, an end token included, truncated or not."""
    folder = write(tmp_path / "model", family)
    model = SentenceTransformer(folder)
    around, pooling, widths = MODELS[family]
    ids = [
        [*([1] if "<bos>" in around else []), *map(int, text.replace("w", "").split()), *([2] if "<eos>" in around else [])]
        for text in TEXTS
    ]
    end = [2] if "<eos>" in around else []
    ids = [row if len(row) <= 32 else [*row[: 32 - len(end)], *end] for row in ids]
    encoder = Encoder.from_pretrained(folder)
    offsets = np.cumsum([0, *map(len, ids)])
    packed = np.concatenate([np.array(row) for row in ids])
    expected = encoder.forward_packed(packed, offsets, pooling=pooling["pooling_mode"])
    for i, _ in enumerate(widths, 2):
        expected = expected @ weights(i, linear__weight=tuple(np.array([(48, C), (C, 48)][i - 2])))["linear.weight"].T
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(model.encode(TEXTS), expected, rtol=0, atol=2e-6)
    hidden = encoder.forward_packed(packed, offsets)
    if pooling["pooling_mode"] == "lasttoken" and not widths:
        last = hidden[offsets[1:] - 1]
        np.testing.assert_allclose(model.encode(TEXTS), last / np.linalg.norm(last, axis=1, keepdims=True), rtol=0, atol=2e-6)
    np.testing.assert_array_equal(model.encode(TEXTS)[3], model.encode(TEXTS[3]))


# transformers reads every tokenizer of a qwen2 as bytes, and the one here has words.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", [family for family in MODELS if not family.startswith("qwen2")])
def test_sentence_transformers(tmp_path: Path, family: str) -> None:
    """Embeddings agree, with prompts too, on a folder and on what sentence-transformers saves of it."""
    peer = pytest.importorskip("sentence_transformers")
    folder = write(tmp_path / "model", family)
    theirs = peer.SentenceTransformer(str(folder))
    theirs.save_pretrained(str(tmp_path / "saved"))
    for ours in (SentenceTransformer(folder), SentenceTransformer(tmp_path / "saved")):
        for options in ({}, {"prompt_name": "query"}, {"prompt": "w60 w61 w62 "}):
            np.testing.assert_allclose(ours.encode(TEXTS, **options), theirs.encode(TEXTS, **options), rtol=0, atol=3e-6)


def write_bytes(folder: Path, model_type: str, kind: str, ending: bool, **settings: Any) -> Path:
    """Write a byte-level tokenizer, which adds an end token or nothing."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    folder.mkdir()
    letters = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "<|endoftext|>", "<|im_end|>", "<bos>"]
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    tokenizer.normalizer = normalizers.NFC()
    pattern = Regex(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    parts = [pre_tokenizers.Split(pattern, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)
    tokenizer.add_special_tokens(letters[256:])
    end = processors.TemplateProcessing(
        single="$A <|endoftext|>", pair="$A <|endoftext|> $B:1 <|endoftext|>:1", special_tokens=[("<|endoftext|>", 256)]
    )
    steps = [processors.ByteLevel(trim_offsets=False), *([end] if ending else [])]
    tokenizer.post_processor = processors.Sequence(steps) if ending else steps[0]
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": kind, **special, **settings})
    write_json(folder / "config.json", {"model_type": model_type})
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model_type", ["qwen3", "qwen2", "eurobert", "gemma3_text"])
def test_the_end_token_of_transformers(tmp_path: Path, model_type: str) -> None:
    """An end token is added where tokenizer.json adds it, whatever tokenizer_config.json says of bos and eos."""
    transformers = pytest.importorskip("transformers")
    counts = []
    for i, (kind, ending, settings) in enumerate(
        [
            ("Qwen2Tokenizer", True, {"add_bos_token": False}),
            ("Qwen2TokenizerFast", True, {}),
            ("Qwen2Tokenizer", False, {"add_eos_token": True}),
            ("PreTrainedTokenizerFast", True, {"add_bos_token": True, "bos_token": "<bos>"}),
            ("PreTrainedTokenizerFast", False, {"add_eos_token": True, "add_bos_token": True, "bos_token": "<bos>"}),
        ]
    ):
        folder = write_bytes(tmp_path / str(i), model_type, kind, ending, **settings)
        theirs, ours = transformers.AutoTokenizer.from_pretrained(folder), load_tokenizer(folder)
        for texts in (("ab c",), ("ab", "it's\n\n 12"), ("",)):
            assert ours(*texts)["input_ids"] == theirs(*texts)["input_ids"]
        counts.append(ours.num_special)
    assert counts == [1, 1, 0, 1, 0]


@pytest.mark.parametrize(
    ("settings", "mode"),
    [
        ({}, "lasttoken"),
        ({"is_causal": False}, "mean"),
        ({"architectures": ["Qwen3Model"]}, "mean"),
        ({"architectures": None}, "mean"),
        ({"architectures": []}, "mean"),
    ],
)
def test_the_pooling_of_a_folder_without_modules(tmp_path: Path, settings: dict[str, Any], mode: str) -> None:
    """A causal language model has read a text at its last token, as in sentence-transformers."""
    folder = write_language_model(tmp_path / "model")
    content = json.loads((folder / "config.json").read_text("utf-8"))
    write_json(folder / "config.json", {**content, **settings})
    model = SentenceTransformer(folder)
    expected = SentenceTransformer(modules=[model[0], Pooling(model[0].get_embedding_dimension(), mode)])
    np.testing.assert_array_equal(model.encode(["w7 w8 w9", "w5"]), expected.encode(["w7 w8 w9", "w5"]))
