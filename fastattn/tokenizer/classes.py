"""Tokenizer classes of transformers: what each takes from the files beside tokenizer.json, and its special tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from fastattn.checkpoint.families import FAMILIES

__all__ = ["ANY", "TokenizerClass", "class_of"]


class TokenizerClass(NamedTuple):
    """A tokenizer class of transformers 4 and 5, without the differences between them."""

    name: str
    # "WordPiece", "BPE" or "Unigram"; "" for a class that takes all steps from tokenizer.json.
    model: str
    # Tokens by role, for settings that name none.
    special_tokens: Mapping[str, str]
    # The class returns token types.
    has_token_types: bool = False
    # The mask token takes the space before it, where the file does not say.
    mask_takes_space: bool = False
    extra_tokens: tuple[str, ...] = ()

    @property
    def is_bert(self) -> bool:
        """Whether do_lower_case, strip_accents and tokenize_chinese_chars replace those of a BertNormalizer."""
        return self.model == "WordPiece"


_BERT = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]"}
_ROBERTA = {
    "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "sep_token": "</s>",
    "pad_token": "<pad>", "cls_token": "<s>", "mask_token": "<mask>",
}  # fmt: skip
_ALBERT = {**_BERT, "bos_token": "[CLS]", "eos_token": "[SEP]", "unk_token": "<unk>", "pad_token": "<pad>"}
_CLIP = {
    "bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>",
}  # fmt: skip
_DEBERTA = {**_BERT, "bos_token": "[CLS]", "eos_token": "[SEP]"}
_ESM = {"unk_token": "<unk>", "cls_token": "<cls>", "pad_token": "<pad>", "mask_token": "<mask>", "eos_token": "<eos>"}
_NOT_USED = ("<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED")

# transformers' class that loads any tokenizer.json, and takes all steps from it.
ANY = TokenizerClass("PreTrainedTokenizerFast", "", {})

_CLASSES = {
    kind.name: kind
    for kind in (
        TokenizerClass("BertTokenizer", "WordPiece", _BERT, has_token_types=True),
        TokenizerClass("ElectraTokenizer", "WordPiece", _BERT, has_token_types=True),
        TokenizerClass("DistilBertTokenizer", "WordPiece", _BERT),
        TokenizerClass("MPNetTokenizer", "WordPiece", {**_ROBERTA, "unk_token": "[UNK]"}, mask_takes_space=True),
        TokenizerClass("RobertaTokenizer", "BPE", _ROBERTA, mask_takes_space=True),
        TokenizerClass("XLMRobertaTokenizer", "Unigram", _ROBERTA, mask_takes_space=True),
        TokenizerClass("CamembertTokenizer", "Unigram", _ROBERTA, mask_takes_space=True, extra_tokens=_NOT_USED),
        TokenizerClass("DebertaTokenizer", "BPE", _DEBERTA, has_token_types=True, mask_takes_space=True),
        TokenizerClass("DebertaV2Tokenizer", "Unigram", _DEBERTA, has_token_types=True),
        TokenizerClass("AlbertTokenizer", "Unigram", _ALBERT, mask_takes_space=True),
        TokenizerClass("CLIPTokenizer", "", _CLIP),
        TokenizerClass("EsmTokenizer", "", _ESM),
    )
}


def class_of(settings: Mapping[str, Any], config: Mapping[str, Any]) -> TokenizerClass:
    """Return the class that tokenizer_config.json, else config.json, names, else that of the family; `ANY` for other classes.

    A family without a class of its own, such as ModernBERT, takes all steps from tokenizer.json, whatever class is named.
    """
    family = FAMILIES.get(str(config.get("model_type")))
    own = ANY
    if family is not None:
        name = f"{family.model_class.removesuffix('Model').removesuffix('Text')}Tokenizer"
        own = _CLASSES.get(name, _CLASSES["BertTokenizer"] if family.has_token_types else ANY)
    named = settings.get("tokenizer_class") or config.get("tokenizer_class")
    if not named or (family is not None and own is ANY):
        return own
    return _CLASSES.get(str(named).removesuffix("Fast"), ANY)
