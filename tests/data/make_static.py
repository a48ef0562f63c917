"""Write the folders in data/static and what their makers compute: needs sentence-transformers and model2vec."""

import re
from pathlib import Path
from typing import Any

import numpy as np
from model2vec import StaticModel
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

FOLDER = Path(__file__).parent / "static"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"the a cat dog sat on mat tea pot milk of for and with".split(), "Query", ":"]
TEXTS = [
    "The cat sat on the mat.",
    "",
    "tea for the dog and milk for the cat with a pot of tea on a mat",
    "unknown words",
    "zebra",
    "Query: the dog",
    "tea " * 700,
]
WIDTH = 19


def tokenizer(limit: int | None = None) -> Tokenizer:
    """Return a tokenizer of whole words with special tokens, padding and, given a limit, truncation."""
    found = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    found.normalizer = normalizers.Lowercase()
    found.pre_tokenizer = pre_tokenizers.Whitespace()
    special = [("[CLS]", 2), ("[SEP]", 3)]
    found.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=special)
    found.enable_padding(length=16)
    if limit is not None:
        found.enable_truncation(limit)
    return found


def normal(*shape: int) -> Any:
    """Return normal random numbers."""
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


def main() -> None:
    """Write everything."""
    answers = {}
    for name, limit in (("whole", None), ("truncated", 4)):
        modules = [StaticEmbedding(tokenizer(limit), normal(len(WORDS), WIDTH))]
        model = SentenceTransformer(modules=[*modules, Normalize()] if limit else modules)
        model.save_pretrained(str(FOLDER / name), create_model_card=False)
    weights = np.linspace(0.1, 2, len(WORDS)).astype(np.float32)
    mapping = np.arange(len(WORDS)) * 5 % 8
    own = {
        "model2vec": StaticModel(normal(len(WORDS), WIDTH), tokenizer(), normalize=True),
        "model2vec-reduced": StaticModel(normal(8, WIDTH), tokenizer(), weights=weights, token_mapping=mapping),
    }
    for name, static in own.items():
        static.save_pretrained(FOLDER / name)
        (FOLDER / name / "README.md").unlink()
        known = [re.sub(r"zebra|unknown words|Query|\.", "", text) for text in TEXTS]
        answers[f"{name}/own"] = StaticModel.from_pretrained(FOLDER / name).encode(known, max_length=None)
    for path in sorted(path for path in FOLDER.iterdir() if path.is_dir()):
        answers[path.name] = SentenceTransformer(str(path), device="cpu").encode(TEXTS)
    np.savez_compressed(FOLDER / "answers.npz", **answers)


if __name__ == "__main__":
    main()
