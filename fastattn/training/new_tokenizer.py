"""Tokenizers of one's own: of characters, or trained on texts by the tokenizers library."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from fastattn.tokenizer.tokenizer import Tokenizer

__all__ = ["new_tokenizer"]

_MASKED = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
# The most characters of a trained vocabulary, as in the tokenizers library; others are unknown.
_ALPHABET = 1000
_CAUSAL = {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "<eos>"}


def new_tokenizer(
    texts: Iterable[str], *, causal: bool = False, vocab_size: int | None = None, model_max_length: int = 512
) -> Tokenizer:
    """Make a tokenizer for texts.

    Parameters
    ----------
    texts : iterable of str
        What its vocabulary is made of.
    causal : bool
        For a model of the next word: texts are given back as they are, spaces and line ends included, and get no special tokens.
        Otherwise a text stands between ``[CLS]`` and ``[SEP]``, and there is a ``[MASK]``.
    vocab_size : int, optional
        Most tokens of a trained vocabulary: WordPiece, or byte pairs for a causal model.  By default each character is a token.
    model_max_length : int
        Maximum number of tokens of a text.

    Returns
    -------
    Tokenizer

    Raises
    ------
    ValueError
        The texts have no character, or `vocab_size` is too small for the tokens that must be there.

    References
    ----------
    Sennrich et al. 2016, arXiv:1508.07909 (byte pairs); Wu et al. 2016, arXiv:1609.08144, section 4.1 (WordPiece).
    """
    from tokenizers import processors

    texts, special = list(texts), _CAUSAL if causal else _MASKED
    backend = _of_characters(texts, special) if vocab_size is None else _trained(texts, special, causal, vocab_size)
    if not causal:
        ends = [(special[role], backend.token_to_id(special[role])) for role in ("cls_token", "sep_token")]
        pair = "[CLS] $A [SEP] $B:1 [SEP]:1"
        backend.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair=pair, special_tokens=ends)
    names = ("input_ids", "attention_mask") if causal else ("input_ids", "token_type_ids", "attention_mask")
    return Tokenizer(backend, model_max_length=model_max_length, special_tokens=special, model_input_names=names)


def _of_characters(texts: Sequence[str], special: dict[str, str]) -> Any:
    from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Backend

    found = sorted(set().union(*map(set, texts)))
    if not found:
        raise ValueError("texts must have a character at least, to make a tokenizer of")
    vocabulary = {token: i for i, token in enumerate([*special.values(), *found])}
    backend = Backend(models.WordLevel(vocabulary, unk_token=special["unk_token"]))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special.values()])
    return backend


def _trained(texts: Sequence[str], special: dict[str, str], causal: bool, size: int) -> Any:
    from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers
    from tokenizers import Tokenizer as Backend

    first = list(special.values())
    backend = Backend(models.BPE() if causal else models.WordPiece(unk_token=special["unk_token"]))
    if causal:
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        alphabet, inside = pre_tokenizers.ByteLevel.alphabet(), []
    else:
        backend.normalizer = normalizers.BertNormalizer()
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.WordPiece()
        counts = Counter(character for text in texts for character in backend.normalizer.normalize_str(text))
        alphabet = sorted(sorted(filter(str.strip, counts)), key=lambda each: -counts[each])[:_ALPHABET]
        if not alphabet:
            raise ValueError("texts must have a character at least, to make a tokenizer of")
        # Named beforehand: the library numbers them in an order that differs from run to run.
        inside = [f"##{character}" for character in alphabet]
    least = len(first) + len(inside) + len(alphabet)
    if size < least:
        raise ValueError(f"vocab_size must be at least {least} for these texts: each character is a token; got {size}")
    kind: Any = trainers.BpeTrainer if causal else trainers.WordPieceTrainer
    backend.train_from_iterator(
        texts,
        kind(
            vocab_size=size,
            special_tokens=[*first, *inside],
            initial_alphabet=alphabet,
            limit_alphabet=len(alphabet),
            show_progress=False,
        ),
    )
    if not causal:
        made = Backend(models.WordPiece(backend.get_vocab(), unk_token=special["unk_token"]))
        made.normalizer, made.pre_tokenizer, made.decoder = backend.normalizer, backend.pre_tokenizer, backend.decoder
        backend = made
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in first])
    return backend
