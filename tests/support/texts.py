"""Texts for tests: docstrings of the standard library, and hard cases for a tokenizer."""

import functools

from fastattn.cli.compare_precision import standard_texts

COUNT = 1000

# Hard cases: empty, blank, one word, other scripts, no spaces, special tokens, characters changed by normalisation, too long.
ODD = [
    "",
    " ",
    "\n\t\n",
    "a",
    "Hello",
    "don't",
    "1234567890 3.14159 1e-9",
    "[CLS] [SEP] [MASK] [UNK] [PAD]",
    "Crème brûlée, naïve café",
    "Cre\u0300me bru\u0302le\u0301e",
    "ÀÉÎÕÜ straße İstanbul",
    "Быстрая лиса прыгает через ленивую собаку.",
    "敏捷的棕色狐狸跳过了懒狗。",
    "素早い茶色の狐がのろまな犬を飛び越える。",
    "الثعلب البني السريع يقفز فوق الكلب الكسول",
    "तेज़ भूरी लोमड़ी आलसी कुत्ते के ऊपर कूदती है",
    "ไทยไม่มีช่องว่าง",
    "👩‍👩‍👧‍👦 emoji 🎉🇩🇪",
    "zero\u200bwidth\u00a0and\u2028separators\x00nul\ufffd",
    "ﬁ ligature ① ½ Ⅷ",
    "https://example.org/a/b?c=d&e=f#g",
    "snake_case CamelCase kebab-case dot.ted",
    "x" * 150,
    "!?" * 100,
    "word " * 300,
]


def _docstrings() -> list[str]:
    """Return the docstrings of the standard library's top-level modules in file order, each once."""
    return list(dict.fromkeys(standard_texts().texts))


@functools.cache
def texts() -> list[str]:
    """Return `COUNT` texts of 2 to more than 256 tokens, in a mixed order that depends only on Python's version."""
    docstrings = _docstrings()
    wanted = COUNT - len(ODD)
    step = len(docstrings) // wanted
    chosen = ODD + docstrings[::step][:wanted]
    # 389 is coprime with COUNT: every text occurs once.
    return [chosen[i * 389 % COUNT] for i in range(COUNT)]
