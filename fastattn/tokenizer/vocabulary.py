"""Builds a tokenizer of a folder without tokenizer.json from its vocabulary: vocab.txt, vocab.json and merges.txt, or spm.model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fastattn.checkpoint.folder import CheckpointError, whole_file
from fastattn.checkpoint.missing import SENTENCE_PIECE
from fastattn.tokenizer.faults import sound
from fastattn.tokenizer.sentence_piece import deberta_backend
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
    if settings.kind.name == "EsmTokenizer" and (folder / "vocab.txt").exists():
        return _residues(whole_file(folder / "vocab.txt"), settings)
    if settings.kind.name == "CLIPTokenizer" and (folder / "vocab.json").exists() and (folder / "merges.txt").exists():
        return _clip_byte_pairs(whole_file(folder / "vocab.json"), whole_file(folder / "merges.txt"), settings)
    if settings.kind.name == "DebertaV2Tokenizer" and (folder / "spm.model").exists():
        lower, split = settings.flag("do_lower_case", False), settings.flag("split_by_punct", False)
        path = whole_file(folder / "spm.model")
        return deberta_backend(path, do_lower_case=lower, split_by_punct=split, mask=_name(settings, "mask_token"))
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
    return "nor a vocabulary (vocab.txt; vocab.json and merges.txt; spm.model): copy the tokenizer's files from the model's source"


def _word_piece(path: Path, settings: TokenizerSettings) -> Backend:
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

    vocab = {line.rstrip("\n"): i for i, line in enumerate(_lines(path))}
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
    if settings.kind.name == "DebertaTokenizer":
        backend.post_processor = processors.TemplateProcessing(
            single=[f"{cls[0]}:0", "$A:0", f"{sep[0]}:0"],
            pair=[f"{cls[0]}:0", "$A:0", f"{sep[0]}:0", "$B:1", f"{sep[0]}:1"],
            special_tokens=[cls, sep],
        )
    else:
        backend.post_processor = processors.RobertaProcessing(sep, cls)
    return backend


def _lines(path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8") as file:
            return list(file)
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: not a vocabulary: {error}") from error


def _residues(path: Path, settings: TokenizerSettings) -> Backend:
    """Return ESM's tokenizer: each token of the vocabulary wherever it stands, and one for other characters up to a space."""
    from tokenizers import AddedToken, models, pre_tokenizers, processors
    from tokenizers import Tokenizer as Backend

    vocab = {line.strip(): i for i, line in enumerate(_lines(path))}
    cls, end = _ends(path, vocab, settings, "cls_token", "eos_token")
    backend = Backend(models.WordLevel(vocab, unk_token=_name(settings, "unk_token")))
    backend.add_tokens([AddedToken(token, normalized=False) for token in vocab])
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single=[cls[0], "$A", end[0]], pair=[cls[0], "$A", end[0], "$B", end[0]], special_tokens=[cls, end]
    )
    return backend


def _clip_byte_pairs(path: Path, merges_path: Path, settings: TokenizerSettings) -> Backend:
    from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors
    from tokenizers import Tokenizer as Backend

    with sound(path):
        vocab, merges = models.BPE.read_file(str(path), str(merges_path))
        model = models.BPE(vocab, merges, end_of_word_suffix="</w>", unk_token=_name(settings, "unk_token"))
    backend = Backend(model)
    backend.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])
    # Words, single digits, and runs of other characters; spaces are left out.
    pieces = Regex(r"<\|startoftext\|>|<\|endoftext\|>|'(?:s|t|re|ve|m|ll|d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+")
    split = pre_tokenizers.Split(pieces, behavior="removed", invert=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    backend.decoder = decoders.ByteLevel()
    first, last = _ends(path, vocab, settings, "bos_token", "eos_token")
    backend.post_processor = processors.RobertaProcessing(last, first, trim_offsets=False, add_prefix_space=False)
    return backend


def _name(settings: TokenizerSettings, role: str) -> str:
    token = settings.special.get(role)
    return settings.kind.special_tokens[role] if token is None else token.content


def _ends(
    path: Path, vocab: dict[str, int], settings: TokenizerSettings, first: str = "cls_token", last: str = "sep_token"
) -> tuple[tuple[str, int], tuple[str, int]]:
    """Return the first and the last token of a text with their ids; a CheckpointError if one is not in the vocabulary."""
    for role in (first, last, *(["unk_token"] if settings.kind.model == "WordPiece" else [])):
        if _name(settings, role) not in vocab:
            raise CheckpointError(f"{path}: {role} {_name(settings, role)!r} is not in the vocabulary of {len(vocab):,} tokens")
    start, end = _name(settings, first), _name(settings, last)
    return (start, vocab[start]), (end, vocab[end])
