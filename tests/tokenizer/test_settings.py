"""Files beside tokenizer.json: they change steps and tokens where transformers 4 and 5 agree, and are refused where they are wrong."""

import functools
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from fastattn.tokenizer.tokenizer import load_tokenizer
from tests.support.tokenizer_folders import CASES, flat, read, write_folder

GROUPS = sorted({case.rpartition(": ")[0] for case in CASES})


@functools.cache
def recorded() -> dict[str, list[Any]]:
    """Return what transformers 4 and 5 make alike, by case; None for what they make differently."""
    content = json.loads((Path(__file__).parents[1] / "data" / "tokenizer_ids.json").read_text("utf-8"))
    return {case: [content["values"][place] for place in places] for case, places in content["cases"].items()}


def cases(group: str) -> list[str]:
    return [case for case in CASES if case.rpartition(": ")[0] == group and case in recorded()]


def without_pad(case: str, found: list[Any]) -> list[Any]:
    """Leave out a padding token that no file and no class names: it is found in the vocabulary."""
    named = case.endswith(("no pad", "map over config", "padding in the file"))
    if named or not case.startswith(("PreTrainedTokenizerFast", "None, modernbert")):
        return found
    return [{**value, "pad": None} if isinstance(value, dict) else value for value in found]


@pytest.mark.parametrize("group", GROUPS)
def test_as_transformers_4_and_5(group: str, tmp_path: Path) -> None:
    assert len(cases(group)) > 10
    for i, case in enumerate(cases(group)):
        folder = tmp_path / str(i)
        folder.mkdir()
        write_folder(folder, case)
        expected = recorded()[case]
        assert sum(value is not None for value in expected) > 4, case
        found = without_pad(case, flat(read(load_tokenizer(folder))))
        assert [ours if theirs is not None else None for ours, theirs in zip(found, expected, strict=True)] == expected, case


@pytest.mark.parametrize("group", GROUPS)
def test_saved_and_loaded_again(group: str, tmp_path: Path) -> None:
    """A saved tokenizer is the same, alone and beside the model's config.json."""
    for i, case in enumerate(cases(group)[::4]):
        folder, target = tmp_path / str(i), tmp_path / f"{i} saved"
        folder.mkdir()
        write_folder(folder, case)
        tokenizer = load_tokenizer(folder)
        tokenizer.save_pretrained(target)
        assert read(load_tokenizer(target)) == read(tokenizer), case


@pytest.mark.parametrize("group", GROUPS[::3])
def test_the_record_is_what_transformers_makes(group: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    logging.disable(logging.WARNING)
    try:
        for i, case in enumerate(cases(group)[::3]):
            folder = tmp_path / str(i)
            folder.mkdir()
            write_folder(folder, case)
            found, expected = flat(read(transformers.AutoTokenizer.from_pretrained(str(folder)))), recorded()[case]
            assert [ours if theirs is not None else None for ours, theirs in zip(found, expected, strict=True)] == expected, case
    finally:
        logging.disable(logging.NOTSET)
