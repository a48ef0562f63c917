"""Folders without a whole tokenizer.json: their vocabulary is read, or the message says what to do; faults of the library."""

import copy
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fastattn.checkpoint.folder import CheckpointError
from fastattn.runtime.files import lfs_pointer
from fastattn.tokenizer.faults import call, sound
from fastattn.tokenizer.tokenizer import load_tokenizer
from tests.support.models import write_json, write_tokenizer
from tests.support.tokenizer_folders import write_folder

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 466062\n"
LOSS = "ThreadPoolBuildError { kind: IOError(Os { code: 11 }) }"


class PanicException(BaseException):
    """A panic, under the name that the tokenizers library gives it."""


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"spiece.model": "x"}, "spiece\\.model is not read here: with transformers and sentencepiece .*writes this file alone"),
        ({"vocab.txt": "[UNK]\n"}, 'AlbertTokenizer, the tokenizer\'s class, does not read it.*"tokenizer_class": "BertTokenizer"'),
        ({"vocab.json": "{}", "merges.txt": ""}, 'does not read them.*"tokenizer_class": "RobertaTokenizer"'),
        ({"vocab.json": "{}"}, r"nor a vocabulary .* copy the tokenizer's files from the model's source"),
    ],
)
def test_advice(files: dict[str, str], message: str, tmp_path: Path) -> None:
    """The advice never is a conversion that keeps the special tokens only."""
    write_json(tmp_path / "config.json", {"model_type": "albert"})
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(FileNotFoundError, match=rf"tokenizer\.json: no such file; .*{message}") as error:
        load_tokenizer(tmp_path)
    assert "AutoTokenizer" not in str(error.value) or "spiece.model" in files


def test_a_vocabulary_named_by_hand(tmp_path: Path) -> None:
    """The advice for a vocab.txt of another class works."""
    write_folder(tmp_path, "BertTokenizer, bert, vocab.txt: nothing")
    write_json(tmp_path / "config.json", {"model_type": "albert"})
    assert len(load_tokenizer(tmp_path)("hello world")["input_ids"]) == 4


@pytest.mark.parametrize("role", ["[CLS]", "[SEP]", "[UNK]"])
def test_a_vocabulary_without_a_special_token(role: str, tmp_path: Path) -> None:
    write_folder(tmp_path, "BertTokenizer, bert, vocab.txt: nothing")
    path = tmp_path / "vocab.txt"
    path.write_text(path.read_text("utf-8").replace(role, "x"), "utf-8")
    with pytest.raises(CheckpointError, match=rf"vocab\.txt: \w+_token '\[{role[1:-1]}\]' is not in the vocabulary"):
        load_tokenizer(tmp_path)


def test_a_vocabulary_that_is_no_text(tmp_path: Path) -> None:
    write_folder(tmp_path, "BertTokenizer, bert, vocab.txt: nothing")
    (tmp_path / "vocab.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match=r"vocab\.txt: not a vocabulary"):
        load_tokenizer(tmp_path)


def test_merges_that_are_none(tmp_path: Path) -> None:
    write_folder(tmp_path, "RobertaTokenizer, roberta, vocab.json: nothing")
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b c d\n")
    with pytest.raises(CheckpointError, match=r"vocab\.json: not a tokenizer"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.txt", "merges.txt"])
def test_a_pointer_of_git_lfs(name: str, tmp_path: Path) -> None:
    kind = {"vocab.txt": "BertTokenizer, bert, vocab.txt", "merges.txt": "RobertaTokenizer, roberta, vocab.json"}
    write_folder(tmp_path, f"{kind.get(name, 'BertTokenizer, bert, bert')}: nothing")
    (tmp_path / name).write_text(POINTER)
    assert lfs_pointer(tmp_path / name) and not lfs_pointer(tmp_path / "config.json")
    with pytest.raises(CheckpointError, match=rf"{name}: is a Git LFS pointer, not the file: run `git lfs pull`"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer_config.json", {"do_lower_case": "false"}, "do_lower_case must be true or false, found 'false'"),
        ("tokenizer_config.json", {"split_special_tokens": 1}, "split_special_tokens must be true or false"),
        ("tokenizer_config.json", {"added_tokens_decoder": []}, "added_tokens_decoder must map ids to tokens"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": {}}}, "added_tokens_decoder must map ids to tokens"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"7": {"content": 1}}}, "added_tokens_decoder must be a token"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"7": {"content": "\ud800"}}}, "is not a token"),
        ("tokenizer_config.json", {"additional_special_tokens": [["x"]]}, "additional_special_tokens must be a token"),
        ("tokenizer_config.json", {"truncation_side": "up"}, 'truncation_side must be "left" or "right"'),
        ("tokenizer_config.json", {"max_len": -1}, "max_len must be a positive number"),
        ("added_tokens.json", {"x": "7"}, "must map tokens to ids"),
    ],
)  # fmt: skip
def test_settings_that_are_wrong(name: str, content: Any, message: str, tmp_path: Path) -> None:
    write_folder(tmp_path, "BertTokenizer, bert, bert: nothing")
    write_json(tmp_path / name, {"tokenizer_class": "BertTokenizer", **content} if name.startswith("tok") else content)
    with pytest.raises(CheckpointError, match=message):
        load_tokenizer(tmp_path)


def test_an_added_token_that_the_settings_empty(tmp_path: Path) -> None:
    """The check of tokenizer.json holds for the tokens and steps of the other files."""
    write_folder(tmp_path, "BertTokenizer, bert, bert: nothing")
    token = {"content": "\u0301", "normalized": True, "special": False}
    write_json(tmp_path / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "added_tokens_decoder": {"900": token}})
    with pytest.raises(CheckpointError, match=r"turns the added token .* into an empty text"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("remake", [copy.copy, copy.deepcopy, lambda some: pickle.loads(pickle.dumps(some))])
def test_special_tokens_stay_split(remake: Any, tmp_path: Path) -> None:
    write_folder(tmp_path, "BertTokenizer, bert, bert: split")
    tokenizer = load_tokenizer(tmp_path)
    assert remake(tokenizer).tokenize("[MASK]") == tokenizer.tokenize("[MASK]") != ["[MASK]"]


def test_older_files_of_another_tokenizer_are_removed(tmp_path: Path) -> None:
    """A saved tokenizer does not get the added tokens of the one whose folder it is written to."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    write_folder(tmp_path / "a", "BertTokenizer, bert, bert: nothing")
    write_folder(tmp_path / "b", "BertTokenizer, bert, bert: added_tokens.json")
    tokenizer = load_tokenizer(tmp_path / "a")
    tokenizer.save_pretrained(tmp_path / "b")
    assert load_tokenizer(tmp_path / "b")("a [NEW] b") == tokenizer("a [NEW] b")


@pytest.mark.parametrize(("name", "value"), [("do_lower_case", False), ("strip_accents", False), ("tokenize_chinese_chars", False)])
def test_given_settings_are_those_of_the_file(name: str, value: bool, tmp_path: Path) -> None:
    for folder in ("file", "given"):
        (tmp_path / folder).mkdir()
        write_folder(tmp_path / folder, "BertTokenizer, bert, bert: nothing")
    write_json(tmp_path / "file" / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", name: value})
    text = "Hello Wörld 中文"
    given = load_tokenizer(tmp_path / "given", given={name: value})
    assert given(text) == load_tokenizer(tmp_path / "file")(text) != load_tokenizer(tmp_path / "given")(text)
    given.save_pretrained(tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved")(text) == given(text)


def test_given_settings_that_cannot_act(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    for name in ("strip_accents", "add_prefix_space"):
        with pytest.raises(ValueError, match=f"processor_kwargs: {name} needs a tokenizer whose"):
            load_tokenizer(tmp_path, given={name: True})
    assert load_tokenizer(tmp_path, given={"do_lower_case": False})("The CAT") == load_tokenizer(tmp_path)("The CAT")
    lower = load_tokenizer(tmp_path, given={"do_lower_case": True})
    assert lower("The CAT") == lower("the cat")
    lower.save_pretrained(tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved")("The CAT") == lower("the cat")
    with pytest.raises(ValueError, match="do_lower_case=False needs a tokenizer whose normalizer is a BertNormalizer"):
        load_tokenizer(tmp_path / "saved", given={"do_lower_case": False})


def test_a_lack_of_threads(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """One thread does all the work; if that fails too, the message is about threads and not about the file."""
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)

    def needs_threads(times: int) -> int:
        if os.environ.get("TOKENIZERS_PARALLELISM") != "false":
            raise PanicException(LOSS)
        return times

    assert call("a file", needs_threads, 7) == 7 and os.environ["TOKENIZERS_PARALLELISM"] == "false"
    assert "texts are tokenised in one thread" in caplog.text
    with pytest.raises(OSError, match=r"cannot start a thread .*TOKENIZERS_PARALLELISM=false"), sound("a file"):
        raise PanicException(LOSS)
    with pytest.raises(CheckpointError, match="a file: not a tokenizer: index"), sound("a file"):
        raise PanicException("index out of bounds")


def test_a_process_without_threads(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    if os.getuid() != 0 and resource.getrlimit(resource.RLIMIT_NPROC)[1] < 2:
        pytest.skip("no process can be started")
    program = """
import os, resource, sys
import fastattn.tokenizer.tokenizer as module
from pathlib import Path
tokenizer = module.load_tokenizer(Path(sys.argv[1]))
if os.getuid() == 0:
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
print([row.tolist() for row in tokenizer.rows(["the cat", "a dog"] * 9, 8).ids[:2]])
"""
    write_tokenizer(tmp_path)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TOKENIZERS")}
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, env=environment, check=False
    )
    assert json.loads(done.stdout) == [[2, 4, 6, 3], [2, 5, 7, 3]], done.stderr
    assert "texts are tokenised in one thread" in done.stderr


def test_repr(tmp_path: Path) -> None:
    write_folder(tmp_path, "BertTokenizer, bert, bert: max_len")
    tokenizer = load_tokenizer(tmp_path)
    shown = f"tokenizer_class='BertTokenizer', vocab_size={tokenizer.vocab_size}, tokens={len(tokenizer)}, model_max_length=7)"
    assert repr(tokenizer) == f"Tokenizer({str(tmp_path)!r}, {shown}"
    assert tokenizer._tokenizer is tokenizer.backend_tokenizer


RESIDUES = "<cls> <pad> <eos> <unk> L A G V S E R T I D P K Q N F Y M H W C X B U Z O . - <null_1> <mask>".split()


def write_residues(folder: Path) -> Path:
    """Write ESM's vocabulary, of which its folders have no tokenizer.json."""
    (folder / "vocab.txt").write_text("\n".join(RESIDUES))
    write_json(folder / "config.json", {"model_type": "esm"})
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "EsmTokenizer", "model_max_length": 1024})
    return folder


PROTEINS = {
    "MKTA": "M K T A",
    "M K  T\nA": "M K T A",
    "MK<mask>A": "M K <mask> A",
    "M<null_1>K-.": "M <null_1> K - .",
    # Other characters are one unknown token up to a space, or up to a token.
    "mkt xx A": "<unk> <unk> A",
    "MaaK É": "M <unk> K <unk>",
    "<cls>M<eos>": "<cls> M <eos>",
    " ": "",
}


@pytest.mark.parametrize("text", PROTEINS)
def test_residues(tmp_path: Path, text: str) -> None:
    expected = [RESIDUES.index(token) for token in ["<cls>", *PROTEINS[text].split(), "<eos>"]]
    assert list(load_tokenizer(write_residues(tmp_path)).encode(text)) == expected


@pytest.mark.parametrize("text", [*PROTEINS, "", "MK" * 40])
def test_residues_as_in_transformers(tmp_path: Path, text: str) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(write_residues(tmp_path))
    assert type(theirs).__name__ == "EsmTokenizer"
    assert list(load_tokenizer(tmp_path).encode(text)) == theirs(text).input_ids
