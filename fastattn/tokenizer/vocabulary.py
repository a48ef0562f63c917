"""Builds a tokenizer of a folder without tokenizer.json from its vocabulary: vocab.txt, or vocab.json and merges.txt."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fastattn.checkpoint.folder import CheckpointError, whole_file
from fastattn.checkpoint.missing import SENTENCE_PIECE
from fastattn.tokenizer.faults import sound
from fastattn.tokenizer.settings import TokenizerSettings

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

__all__ = ["build_backend"]


def build_backend(folder: Path, settings: TokenizerSettings) -> Backend:
    """Return the tokenizer that transformers' class makes of the vocabulary; FileNotFoundError if the class has none here."""
    if settings.kind.model == "WordPiece" and (folder / "vocab.txt").exists():
        return _word_piece(whole_file(folder / "vocab.txt"), settings)
    if settings.kind.model == "BPE" and (folder / "vocab.json").exists() and (folder / "merges.txt").exists():
        return _byte_pairs(whole_file(folder / "vocab.json"), whole_file(folder / "merges.txt"), settings)
    raise FileNotFoundError(f"{folder / 'tokenizer.json'}: no such file; {_advice(folder, settings)}")


def _advice(folder: Path, settings: TokenizerSettings) -> str:
    name = settings.kind.name
    for file in SENTENCE_PIECE:
        if (folder / file).exists():
            return (
                f"{file} is not read here: with transformers and sentencepiece installed, "
                f"AutoTokenizer.from_pretrained(folder).backend_tokenizer.save(folder + '/tokenizer.json') writes this file alone"
            )
    if (folder / "vocab.txt").exists():
        return (
            f"vocab.txt is there, and {name}, the tokenizer's class, does not read it; if it is a WordPiece vocabulary, write "
            '{"tokenizer_class": "BertTokenizer", "do_lower_case": true} (false if it is cased) into tokenizer_config.json'
        )
    if (folder / "vocab.json").exists() and (folder / "merges.txt").exists():
        return (
            f"vocab.json and merges.txt are there, and {name}, the tokenizer's class, does not read them; if they are those of a "
            'RoBERTa, write {"tokenizer_class": "RobertaTokenizer"} into tokenizer_config.json'
        )
    return "nor a vocabulary (vocab.txt; vocab.json and merges.txt): copy the tokenizer's files from the model's source"


def _word_piece(path: Path, settings: TokenizerSettings) -> Backend:
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

    try:
        with path.open(encoding="utf-8") as file:
            vocab = {line.rstrip("\n"): i for i, line in enumerate(file)}
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: not a vocabulary: {error}") from error
    unk, (cls, sep) = _name(settings, "unk_token"), _ends(path, vocab, settings)
    backend = Backend(models.WordPiece(vocab, unk_token=unk))
    # The other settings are applied later, as to the normalizer of a tokenizer.json.
    backend.normalizer = normalizers.BertNormalizer(handle_chinese_chars=settings.flag("tokenize_chinese_chars", True))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    between = [f"{sep[0]}:0"] if settings.kind.name == "MPNetTokenizer" else []
    second = 0 if between else 1
    backend.post_processor = processors.TemplateProcessing(
        single=[f"{cls[0]}:0", "$A:0", f"{sep[0]}:0"],
        pair=[f"{cls[0]}:0", "$A:0", f"{sep[0]}:0", *between, f"$B:{second}", f"{sep[0]}:{second}"],
        special_tokens=[cls, sep],
    )
    return backend


def _byte_pairs(path: Path, merges_path: Path, settings: TokenizerSettings) -> Backend:
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers, processors

    with sound(path):
        vocab, merges = models.BPE.read_file(str(path), str(merges_path))
        model = models.BPE(vocab, merges, continuing_subword_prefix="", end_of_word_suffix="", fuse_unk=False)
    cls, sep = _ends(path, vocab, settings)
    backend = Backend(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.RobertaProcessing(sep, cls)
    return backend


def _name(settings: TokenizerSettings, role: str) -> str:
    token = settings.special.get(role)
    return settings.kind.special_tokens[role] if token is None else token.content


def _ends(path: Path, vocab: dict[str, int], settings: TokenizerSettings) -> tuple[tuple[str, int], tuple[str, int]]:
    """Return the first and the last token of a text with their ids; a CheckpointError if one is not in the vocabulary."""
    needed = ("cls_token", "sep_token", "unk_token")
    for role in needed if settings.kind.model == "WordPiece" else needed[:2]:
        if _name(settings, role) not in vocab:
            raise CheckpointError(f"{path}: {role} {_name(settings, role)!r} is not in the vocabulary of {len(vocab):,} tokens")
    cls, sep = _name(settings, "cls_token"), _name(settings, "sep_token")
    return (cls, vocab[cls]), (sep, vocab[sep])
