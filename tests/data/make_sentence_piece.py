"""Writes tests/data/sentence_piece: a small model of SentencePiece as DeBERTa-v2/v3's, and its ids of some texts.

Needs sentencepiece:  python tests/data/make_sentence_piece.py
"""

# ruff: noqa: RUF001
import json
from pathlib import Path

import sentencepiece

FOLDER = Path(__file__).parent / "sentence_piece"
SENTENCES = [
    "The cat sat on the mat.", "A dog and a cat ran home, far away!",
    "Ｆｕｌｌ width and ﬁne ligatures: naïve café №5", "Zürich, Genève and 東京",
    "hello world, new york", "what is the answer to the question?", "it's 12.50 euros (or 13)", "tabs\tand  two spaces",
]  # fmt: skip
TEXTS = [
    *SENTENCES, "", " ", "  The  cat ", "unknown: ʘ ☃ 🦊", "Ｔｈｅ ｃａｔ ①②", "e\u0301 and é", "line\none", "THE CAT",
    "antidisestablishmentarianism",
    "a\u00a0b\u200bc", "▁under▁ it", "no.space,after;signs",
]  # fmt: skip


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    trained = FOLDER / "spm"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 3), model_prefix=str(trained), vocab_size=150, model_type="unigram",
        pad_id=0, bos_id=1, eos_id=2, unk_id=3, pad_piece="[PAD]", bos_piece="[CLS]", eos_piece="[SEP]", unk_piece="[UNK]",
        hard_vocab_limit=False, character_coverage=0.99,
    )  # fmt: skip
    trained.with_suffix(".vocab").unlink()
    processor = sentencepiece.SentencePieceProcessor(model_file=f"{trained}.model")
    ids = [processor.encode(text) for text in TEXTS]
    lines = ",\n".join(json.dumps([text, numbers]) for text, numbers in zip(TEXTS, ids, strict=True))
    (FOLDER / "ids.json").write_text(f"[\n{lines}\n]\n", "utf-8")


if __name__ == "__main__":
    main()
