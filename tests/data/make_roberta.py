"""Train the small byte-pair tokenizer in data/roberta: needs transformers."""

import ast
import sysconfig
from pathlib import Path

from tokenizers import ByteLevelBPETokenizer
from transformers import RobertaTokenizerFast

FOLDER = Path(__file__).parent / "roberta"


def main() -> None:
    """Write ``tokenizer.json`` and ``tokenizer_config.json``."""
    texts = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[:120]:
        texts.append(ast.get_docstring(ast.parse(path.read_bytes())) or "")
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(texts, vocab_size=700, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    FOLDER.mkdir(exist_ok=True)
    trained.save_model(str(FOLDER))
    RobertaTokenizerFast(str(FOLDER / "vocab.json"), str(FOLDER / "merges.txt"), model_max_length=96).save_pretrained(FOLDER)
    for name in ("vocab.json", "merges.txt"):
        (FOLDER / name).unlink()


if __name__ == "__main__":
    main()
