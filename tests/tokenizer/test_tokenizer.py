"""Tokenizer: transformers' methods on a tokenizer.json; the yardstick is the tokenizers library's own truncation."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models, processors

from fastattn.checkpoint.folder import CheckpointError
from fastattn.checkpoint.hub import find_model
from fastattn.tokenizer.settings import NO_LIMIT
from fastattn.tokenizer.tokenizer import Tokenizer, load_tokenizer
from tests.support.models import write_bert, write_json, write_tokenizer, write_typed_tokenizer
from tests.support.peer_cases import DATA, PAIRS
from tests.support.texts import ODD

FOLDERS = {"bert": find_model(), "roberta": DATA / "roberta"}
WORDS = "one two three four five six seven eight nine ten".split()


@pytest.fixture(params=FOLDERS)
def folder(request: pytest.FixtureRequest) -> Path:
    return FOLDERS[request.param]


@pytest.fixture
def tokenizer(folder: Path) -> Tokenizer:
    return load_tokenizer(folder)


@pytest.mark.parametrize("direction", ["right", "left"])
@pytest.mark.parametrize("length", [4, 5, 6, 7, 8, 11, 20])
def test_cut_as_the_library_cuts(folder: Path, direction: str, length: int) -> None:
    ours = load_tokenizer(folder)
    ours.truncation_side = direction
    theirs = Backend.from_file(str(folder / "tokenizer.json"))
    theirs.no_padding()
    theirs.enable_truncation(length, strategy="longest_first", direction=direction)
    texts = [" ".join(WORDS[:count]) for count in range(10)]
    pairs = [(first, second) for first in texts for second in texts]
    found = ours.pair_rows(pairs, length)
    for i, (pair, row) in enumerate(zip(pairs, found.ids, strict=True)):
        expected = theirs.encode(*pair)
        assert row.tolist() == expected.ids, pair
        assert (found.types[i].tolist() if found.types else [0] * len(row)) == expected.type_ids
    rows = ours.rows(texts, length)
    assert [row.tolist() for row in rows.ids] == [theirs.encode(text).ids for text in texts]
    assert rows.truncated == sum(len(load_tokenizer(folder).rows([text], 99).ids[0]) > length for text in texts)


def test_settings_of_the_library_are_never_changed(tokenizer: Tokenizer) -> None:
    before = tokenizer.backend_tokenizer.to_str()
    tokenizer.rows(ODD, 8)
    tokenizer.pair_rows(PAIRS, 16)
    tokenizer(ODD, truncation=True, max_length=7, padding=True)
    assert tokenizer.backend_tokenizer.to_str() == before


CALLS: list[dict[str, Any]] = [
    {},
    {"add_special_tokens": False},
    {"padding": True},
    {"truncation": True, "max_length": 7},
    {"truncation": "longest_first", "max_length": 9, "padding": "max_length"},
    {"return_token_type_ids": True, "return_attention_mask": False},
]


@pytest.mark.filterwarnings("ignore")
def test_as_transformers(tokenizer: Tokenizer, folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(str(folder))
    for inputs in (["hello world", "a"], "hello world", "", PAIRS, [list(pair) for pair in PAIRS]):
        for options in CALLS:
            expected = dict(theirs(inputs, **options))
            assert dict(tokenizer(inputs, **options)) == expected, (inputs, options)
    expected = theirs(PAIRS[0][0], PAIRS[0][1], return_offsets_mapping=True)
    assert dict(tokenizer(PAIRS[0][0], PAIRS[0][1], return_offsets_mapping=True)) == dict(expected)
    for options in ({}, {"padding": True}, {"padding": "max_length", "truncation": True, "max_length": 6, "return_tensors": "np"}):
        ours, expected = tokenizer([*PAIRS, ("a", "b c")], **options), theirs([*PAIRS, ("a", "b c")], **options)
        for i in range(len(PAIRS) + 1):
            assert ours.word_ids(i) == expected.word_ids(i), options
    assert tokenizer("hello world").word_ids() == theirs("hello world").word_ids()
    tensors = tokenizer(ODD, padding=True, truncation=True, max_length=32, return_tensors="pt")
    for name, tensor in theirs(ODD, padding=True, truncation=True, max_length=32, return_tensors="pt").items():
        assert tensor.equal(tensors[name])
    for text in ODD:
        ids = theirs.encode(text)
        assert tokenizer.encode(text) == ids
        assert tokenizer.tokenize(text) == theirs.tokenize(text)
        assert tokenizer.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True)
        assert tokenizer.convert_ids_to_tokens(ids) == theirs.convert_ids_to_tokens(ids)
    assert tokenizer.batch_decode([[5, 6], [7]]) == theirs.batch_decode([[5, 6], [7]])
    assert tokenizer.convert_tokens_to_ids(["a", "no such token"]) == theirs.convert_tokens_to_ids(["a", "no such token"])
    assert (len(tokenizer), tokenizer.vocab_size, tokenizer.get_vocab()) == (len(theirs), theirs.vocab_size, theirs.get_vocab())
    assert tokenizer.all_special_ids == theirs.all_special_ids
    for role in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"):
        assert getattr(tokenizer, f"{role}_token") == getattr(theirs, f"{role}_token"), role
        assert getattr(tokenizer, f"{role}_token_id") == getattr(theirs, f"{role}_token_id"), role
    for name in ("model_max_length", "padding_side", "truncation_side", "model_input_names", "is_fast"):
        assert getattr(tokenizer, name) == getattr(theirs, name), name
    assert [tokenizer.num_special_tokens_to_add(pair) for pair in (False, True)] == [
        theirs.num_special_tokens_to_add(pair) for pair in (False, True)
    ]
    wrapped = Tokenizer.wrap(theirs, like=tokenizer)
    assert wrapped.encode("hello world") == tokenizer.encode("hello world")
    assert wrapped.model_max_length == theirs.model_max_length


def test_calls_without_transformers(tokenizer: Tokenizer) -> None:
    batch = tokenizer(["hello world", "a"], padding=True, return_tensors="np")
    assert batch.input_ids.shape == batch["attention_mask"].shape
    assert batch.attention_mask.tolist()[1][-1] == 0
    with pytest.raises(AttributeError):
        _ = batch.pixel_values
    assert tokenizer.decode(tokenizer.encode("hello world"), skip_special_tokens=True) == "hello world"
    assert tokenizer.decode(np.array(tokenizer.encode("hello world")), skip_special_tokens=True) == "hello world"
    assert tokenizer.pad_token_id == tokenizer.convert_tokens_to_ids(tokenizer.pad_token)
    with pytest.raises(AttributeError, match="has no attribute 'colour'"):
        _ = tokenizer.colour


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"truncation": "only_first"}, "truncation must be a bool"),
        ({"padding": "left"}, "padding must be a bool"),
        ({"return_tensors": "tf"}, 'return_tensors must be "np", "pt" or None'),
        ({"return_tensors": "np"}, "needs texts of one length: pass padding=True"),
        ({"is_split_into_words": True}, "a tokenizer has no argument is_split_into_words"),
        ({"padding": "max_length", "max_length": NO_LIMIT}, 'padding="max_length" needs a max_length of at most 2147483647'),
    ],
)
def test_arguments_of_a_call(tokenizer: Tokenizer, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tokenizer(["hello world", "a"], **options)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([["a", "b", "c"]], r"text\[0\] must be a str or a pair of str, got list of 3"),
        (["a", ["a"]], r"text\[1\] must be a str or a pair of str, got list of 1"),
        ([()], r"text\[0\] must be a str or a pair of str, got tuple of 0"),
        ([{"a": 1}], r"text\[0\] must be a str or a pair of str, got dict"),
        ([("a", 1)], r"text\[0\]\[1\] must be a str, got int"),
    ],
)
def test_what_is_no_text(tokenizer: Tokenizer, inputs: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        tokenizer(inputs)


def test_half_a_surrogate_pair(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="text is not valid Unicode: it holds half a surrogate pair"):
        tokenizer("a \ud800")
    with pytest.raises(ValueError, match=r"text\[1\] is not valid Unicode"):
        tokenizer(["a", ("b", "\udfff")])
    with pytest.raises(ValueError, match="prompt is not valid Unicode"):
        tokenizer.prefix_length("\ud800", 20)


def test_texts_padded_beyond_memory(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastattn.runtime.memory.free_bytes", lambda: 2**30)
    with pytest.raises(MemoryError, match="2 texts padded to 2147483647 tokens would take"):
        tokenizer(["a", "b"], padding="max_length", max_length=2**31 - 1)


def test_ids_of_no_token(tokenizer: Tokenizer) -> None:
    assert tokenizer.convert_ids_to_tokens([999_999]) == [None]
    assert tokenizer.convert_ids_to_tokens(999_999) is None
    assert tokenizer.decode([999_999]) == ""
    for bad in (-1, 2**40):
        with pytest.raises(ValueError, match=f"token_ids must be from 0 to 4294967295, got {bad}"):
            tokenizer.decode([5, bad])
        for ids in (bad, [5, bad]):
            with pytest.raises(ValueError, match=f"ids must be from 0 to 4294967295, got {bad}"):
                tokenizer.convert_ids_to_tokens(ids)


def test_token_types(tmp_path: Path) -> None:
    write_typed_tokenizer(tmp_path)
    typed = load_tokenizer(tmp_path)
    texts = ["", "the cat", " ".join(["the"] * 9)]
    for length in (2, 3, 6, 20):
        found = typed.rows(texts, length)
        assert found.types is not None
        expected = [typed(text, truncation=True, max_length=length).token_type_ids for text in texts]
        assert [types.tolist() for types in found.types] == expected
    assert typed.pair_rows([("the", "cat")], 20).types is not None
    typed.model_input_names.remove("token_type_ids")
    assert typed.rows(texts, 20).types is None
    assert typed.pair_rows([("the", "cat")], 20).types is None


@pytest.mark.parametrize(
    ("model", "settings", "typed"),
    [
        ({}, {}, True),
        ({"model_type": "roberta"}, {}, False),
        ({"model_type": "roberta", "tokenizer_class": "BertTokenizer"}, {}, True),
        ({"tokenizer_class": "BertTokenizer"}, {"tokenizer_class": "PreTrainedTokenizerFast"}, False),
        ({}, {"model_input_names": ["input_ids", "attention_mask"]}, False),
    ],
)
def test_whether_a_call_gives_token_types(model: Any, settings: Any, typed: bool, tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    write_bert(tmp_path, **model)
    write_json(tmp_path / "tokenizer_config.json", settings)
    assert ("token_type_ids" in load_tokenizer(tmp_path)("the cat")) == typed


SETTINGS = ("truncation_side", "model_max_length", "model_input_names", "special_tokens_map")


@pytest.mark.parametrize("wrapped", [False, True])
def test_settings_are_saved(tokenizer: Tokenizer, tmp_path: Path, wrapped: bool) -> None:
    changed = Tokenizer.wrap(tokenizer.backend_tokenizer, like=tokenizer) if wrapped else tokenizer
    changed.truncation_side = "left"
    changed.model_max_length = 7
    changed.model_input_names = ["input_ids", "attention_mask", "token_type_ids"]
    changed.special_tokens_map["pad_token"] = changed.special_tokens_map["mask_token"]
    changed.save_pretrained(tmp_path)
    found = load_tokenizer(tmp_path)
    for name in SETTINGS:
        assert getattr(found, name) == getattr(changed, name), name
    assert found(WORDS[0], WORDS[1]) == changed(WORDS[0], WORDS[1])
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    for name in SETTINGS:
        assert getattr(theirs, name) == getattr(changed, name), name
    text = " ".join(WORDS)
    assert theirs(text, truncation=True)["input_ids"] == changed(text, truncation=True)["input_ids"]


def test_settings_that_stay_are_not_written(tokenizer: Tokenizer, folder: Path, tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {"model_type": "bert"})
    tokenizer.save_pretrained(tmp_path)
    name = "tokenizer_config.json"
    assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_saved_over_another(tmp_path: Path) -> None:
    """Saving a tokenizer replaces all settings in the folder, so an earlier tokenizer's do not survive."""
    load_tokenizer(FOLDERS["bert"]).save_pretrained(tmp_path)
    assert (tmp_path / "special_tokens_map.json").is_file()
    other = load_tokenizer(FOLDERS["roberta"])
    Tokenizer.wrap(other.backend_tokenizer, like=other).save_pretrained(tmp_path)
    found = load_tokenizer(tmp_path)
    for name in SETTINGS:
        assert getattr(found, name) == getattr(other, name), name
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    for name in SETTINGS:
        assert getattr(theirs, name) == getattr(other, name), name
    assert theirs("hello world") == other("hello world")


def test_saved_and_wrapped(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.encode("hello world") == tokenizer.encode("hello world")
    assert again.special_tokens_map == tokenizer.special_tokens_map
    bare = Tokenizer.wrap(Backend.from_file(str(tmp_path / "tokenizer.json")), like=tokenizer)
    assert bare.encode("hello world") == tokenizer.encode("hello world")
    assert bare.pad_token == tokenizer.pad_token
    with pytest.raises(TypeError, match=r"tokenizer must be a fastattn, tokenizers or .* got str"):
        Tokenizer.wrap("bert", like=tokenizer)


def test_fault_in_the_limit(tmp_path: Path) -> None:
    load_tokenizer(FOLDERS["roberta"]).save_pretrained(tmp_path)
    write_json(tmp_path / "tokenizer_config.json", {"model_max_length": "12"})
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json: model_max_length must be a positive number, found '12'"):
        load_tokenizer(tmp_path)


def test_special_tokens_in_a_file_of_their_own(tmp_path: Path) -> None:
    load_tokenizer(FOLDERS["roberta"]).save_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    assert load_tokenizer(tmp_path).pad_token == "<pad>"
    write_json(tmp_path / "special_tokens_map.json", {"pad_token": {"content": "<mask>", "lstrip": True}, "cls_token": "<s>"})
    found = load_tokenizer(tmp_path)
    assert (found.pad_token, found.cls_token, found.sep_token) == ("<mask>", "<s>", None)
    assert json.loads((tmp_path / "special_tokens_map.json").read_text())


def test_words_of_tokens(tokenizer: Tokenizer) -> None:
    found = tokenizer(["hello unbelievable", "a"], padding=True, return_tensors="np").to("cpu")
    words = found.word_ids(0)
    assert len(words) == found.input_ids.shape[1] == len(found.word_ids(1))
    assert words[0] is words[-1] is None and sorted(set(words[1:-1])) == [0, 1]
    assert found.word_ids(1)[:3] == [None, 0, None] and set(found.word_ids(1)[3:]) <= {None}
    assert "words" not in found
    with pytest.raises(ValueError, match="device must be None or \"cpu\", got 'cuda'"):
        found.to("cuda")


def test_a_text_of_a_pair_is_left_out(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))
    content["post_processor"]["pair"] = [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    with pytest.raises(CheckpointError, match="leaves out a text of a pair"):
        load_tokenizer(tmp_path).pair_rows([("the cat", "sat")], 20)


def test_the_second_text_of_a_pair_first(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))
    content["post_processor"]["pair"] = [{"Sequence": {"id": text, "type_id": 0}} for text in "BA"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    with pytest.raises(CheckpointError, match="puts the second text of a pair first"):
        load_tokenizer(tmp_path).pair_rows([("the cat", "sat")], 20)


def test_a_model_that_does_not_know_a() -> None:
    """Special tokens are found by tokenising another word if the vocabulary lacks "a" and an unknown token."""
    backend = Backend(models.BPE({"[CLS]": 0, "[SEP]": 1, "c": 2, "d": 3}, []))
    backend.post_processor = processors.BertProcessing(("[SEP]", 1), ("[CLS]", 0))  # type: ignore[assignment]
    some = Tokenizer(backend)
    assert some.num_special == 2 and some.rows(["cccd", "cd"], 4).ids[0].tolist() == [0, 2, 2, 1]
    assert some.pair_rows([("cc", "d")], 8).ids[0].tolist() == [0, 2, 2, 1, 3, 1]
