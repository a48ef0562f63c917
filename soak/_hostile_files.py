"""Hostile files: headers, settings, tokenizers and lines, with faults in bytes, in JSON values and in symbolic links."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from soak._hostile_case import Case
from soak._small_model import header_and_data, safetensors, write_model
from soak._spoil import as_json, spoil, spoil_bytes, spoiled

_GOLDEN = Path(__file__).parent.parent / "tests" / "data" / "golden"


def _documented() -> tuple[type[BaseException], ...]:
    from fastattn.checkpoint.folder import CheckpointError

    return (CheckpointError, FileNotFoundError, NotADirectoryError)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _nothing(result: Any) -> None:
    pass


def _use(folder: Path) -> Any:
    """Read an encoder and run it."""
    from fastattn import Encoder
    from fastattn.checkpoint.reader import read_encoder

    config, parameters = read_encoder(folder)
    return Encoder(config, parameters=parameters).forward_packed(np.zeros(3, np.int32), np.array([0, 3]))


def _check_hidden(result: Any) -> None:
    if result.dtype != np.float32 or result.ndim != 2 or len(result) != 3:
        raise AssertionError(f"hidden states of {result.dtype} and shape {result.shape}")


def _safetensors_case(folder: Path) -> Callable[[random.Random], Case]:
    write_model(folder)
    header, data = header_and_data()
    path, whole = folder / "model.safetensors", safetensors(header, data)
    # A first run imports and compiles, so that no case pays for it.
    _use(folder)

    def make(rng: random.Random) -> Case:
        kind = rng.randrange(6)
        if kind == 0:
            raw = spoil_bytes(rng, whole)
        elif kind == 1:
            raw = safetensors(header, data, rng.choice((0, 1, -1, 2**31, 2**63, len(whole), len(whole) - 8, 100_000_001)))
        elif kind == 2:
            raw = safetensors(spoiled(rng, as_json(header)), data)
        elif kind == 3:
            raw = safetensors(spoil_bytes(rng, as_json(header)), data)
        elif kind == 4:
            raw = safetensors(spoil(rng, header), data[: rng.randrange(len(data))])
        else:
            # One tensor gets another dtype, and data of the matching length.
            changed, body = json.loads(json.dumps(header)), b""
            other = rng.choice([name for name in changed if name != "__metadata__"])
            for name, entry in changed.items():
                if name != "__metadata__":
                    kept = data[slice(*entry["data_offsets"])]
                    if name == other:
                        entry["dtype"] = rng.choice(("F64", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "I32"))
                        kept = bytes(len(kept) // 4 * {"F64": 8, "I64": 8, "F16": 2, "BF16": 2, "I32": 4}.get(entry["dtype"], 1))
                    entry["data_offsets"] = [len(body), len(body) + len(kept)]
                    body += kept
            raw = safetensors(changed, body)
        path.write_bytes(raw)
        return Case(f"safetensors {raw[:600]!r}", lambda: _use(folder), _check_hidden, _documented(), _size(folder))

    return make


def _config_case(folder: Path) -> Callable[[random.Random], Case]:
    families = sorted(path.name for path in _GOLDEN.iterdir() if (path / "config.json").is_file())
    for family in families:
        shutil.copytree(_GOLDEN / family, folder / family)
        _use(folder / family)
    contents = {family: (_GOLDEN / family / "config.json").read_bytes() for family in families}

    def make(rng: random.Random) -> Case:
        family = rng.choice(families)
        raw = spoiled(rng, contents[family])
        (folder / family / "config.json").write_bytes(raw)
        return Case(f"config.json {raw!r}", lambda: _use(folder / family), _check_hidden, _documented(), _size(folder / family))

    return make


def _restored(
    folder: Path, names: tuple[str, ...], broken: Callable[[random.Random, bytes], bytes] = spoiled
) -> Callable[[random.Random], tuple[str, bytes]]:
    """Write a model, and return a function that restores the file spoiled last and spoils another."""
    write_model(folder)
    right = {name: (folder / name).read_bytes() for name in names}
    last = [names[0]]

    def again(rng: random.Random) -> tuple[str, bytes]:
        (folder / last[0]).write_bytes(right[last[0]])
        last[0] = rng.choice(names)
        raw = broken(rng, right[last[0]])
        (folder / last[0]).write_bytes(raw)
        return last[0], raw

    return again


def _modules_case(folder: Path) -> Callable[[random.Random], Case]:
    from fastattn import SentenceTransformer

    files = ("modules.json", "1_Pooling/config.json", "sentence_bert_config.json", "config_sentence_transformers.json")
    again = _restored(folder, files)
    SentenceTransformer(str(folder)).encode(["the cat", ""])

    def make(rng: random.Random) -> Case:
        name, raw = again(rng)
        return Case(
            f"{name} {raw!r}",
            lambda: SentenceTransformer(str(folder)).encode(["the cat", ""]),
            _nothing,
            _documented(),
            _size(folder),
        )

    return make


def _bomb(rng: random.Random, content: bytes) -> bytes:
    """Return a tokenizer that is an expansion bomb (its steps grow a short text), or whose steps take very long."""
    times, size = 1 + rng.randrange(8), rng.choice((1, 2, 10, 50, 100, 1000))
    text = rng.choice("a ▁") * size
    pattern = rng.choice(({"String": "a"}, {"String": " "}, {"String": ""}, {"Regex": "."}, {"Regex": "(?=a)"}, {"Regex": "x{2,}"}))
    replace = {"type": "Replace", "pattern": pattern, "content": text}
    steps: list[Any] = [
        rng.choice(
            (
                replace,
                replace,
                {"type": "Prepend", "prepend": text},
                {"type": rng.choice(("NFKD", "NFC", "ByteLevel", "Lowercase"))},
            )
        )
        for _ in range(times)
    ]
    if rng.random() < 0.2:
        steps *= 100
    for _ in range(rng.randrange(3)):
        steps = [{"type": "Sequence", "normalizers": steps}]
    spaces = {"type": "Metaspace", "replacement": rng.choice("▁_"), "prepend_scheme": "always", "split": True}
    to_bytes = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    single = {"type": "Split", "pattern": {"Regex": "."}, "behavior": "Isolated", "invert": False}
    pieces = [rng.choice((spaces, to_bytes, single)) for _ in range(times)]
    mark, whole = {"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    number = rng.choice((2, 2, 2, 2**31 - 1, 2**31, 2**32 - 1))
    template = {
        "type": "TemplateProcessing",
        "single": rng.choice(([mark] * size * times + [whole], [whole] * times, [mark, whole])),
        "pair": [mark] * times + [whole, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [number] * 2 * size, "tokens": ["[CLS]"] * 2 * size}},
    }
    processors = {"type": "Sequence", "processors": [template] * (1 + rng.randrange(3))}
    bombs = {
        "normalizer": steps[0] if len(steps) == 1 else {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": pieces},
        "post_processor": rng.choice((template, processors)),
    }
    chosen = rng.sample(sorted(bombs), 1 + rng.randrange(3))
    changed = {**json.loads(content), **{name: bombs[name] for name in chosen}}
    raw = as_json(changed)
    if rng.random() < 0.2:
        # Steps without "type" too: the tokenizers library infers the type.
        raw = raw.replace(b'"type": "Replace", ', b"").replace(b'"type": "TemplateProcessing", ', b"")
    return raw


def _tokenizer_case(folder: Path) -> Callable[[random.Random], Case]:
    from fastattn.tokenizer.tokenizer import load_tokenizer

    def broken(rng: random.Random, raw: bytes) -> bytes:
        return _bomb(rng, raw) if b'"post_processor"' in raw and rng.random() < 0.3 else spoiled(rng, raw)

    again = _restored(folder, ("tokenizer.json", "tokenizer.json", "tokenizer_config.json"), broken)

    def use() -> None:
        tokenizer = load_tokenizer(folder)
        tokenizer.rows(["the cat sat on a mat", "", "x" * 300, "a" * 300], 12)
        tokenizer.pair_rows([("the cat", "a mat")], 12)

    use()

    def make(rng: random.Random) -> Case:
        name, raw = again(rng)
        return Case(f"{name} {raw!r}", use, _nothing, _documented(), _size(folder))

    return make


def _jsonl_case(folder: Path) -> Callable[[random.Random], Case]:
    from fastattn.cli.files import read_texts

    folder.mkdir(exist_ok=True)
    write_model(folder / "model")
    path = folder / "texts.jsonl"

    def through_the_program(name: str) -> None:
        from typer.testing import CliRunner

        from fastattn.cli.app import app

        result = CliRunner().invoke(
            app, ["embed", name, "-o", str(folder / "out.jsonl"), "-m", str(folder / "model"), "--overwrite"]
        )
        if result.exit_code not in (0, 2) or (result.exception is not None and not isinstance(result.exception, SystemExit)):
            raise RuntimeError(f"exit code {result.exit_code}") from result.exception

    path.write_bytes(b'{"text": "the cat"}')
    through_the_program(str(path))

    def make(rng: random.Random) -> Case:
        lines = []
        for _ in range(rng.randrange(4)):
            row: Any = {"text": rng.choice(("the cat", "", "\0", "a\ud800", "é\u2028x", "word " * 40)), "n": 1}
            lines.append(spoiled(rng, as_json(row)) if rng.random() < 0.5 else as_json(row))
        raw = rng.choice((b"", b"\xef\xbb\xbf", b"\n\n")) + rng.choice((b"\n", b"\r\n", b"\r")).join(lines)
        path.write_bytes(raw)
        program = rng.random() < 0.1

        def check(result: Any) -> None:
            if not program and not (isinstance(result, list) and all(isinstance(text, str) for text in result)):
                raise AssertionError("texts that are none")

        # The command line imports rich and reads a model: the case may allocate for the model's bytes too.
        size = len(raw) + (_size(folder) if program else 0)
        run = (lambda: through_the_program(str(path))) if program else (lambda: read_texts(str(path)).texts)
        return Case(f"jsonl {raw!r}", run, check, (ValueError, FileNotFoundError), size)

    return make


_SECRET = b'{"model_type": "bert", "secret": 1}'


def _links_case(folder: Path) -> Callable[[random.Random], Case]:
    """Symbolic links and paths that lead out of a model folder: reading a file outside is a fault."""
    from fastattn import SentenceTransformer

    outside, model = folder / "outside", folder / "hub" / "models--a--b" / "snapshots" / "rev"
    write_model(outside)
    (outside / "README.md").write_bytes(_SECRET)
    names = (
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "modules.json", "1_Pooling",
        "1_Pooling/config.json", "sentence_bert_config.json", "config_sentence_transformers.json",
    )  # fmt: skip

    SentenceTransformer(str(outside))

    def make(rng: random.Random) -> Case:
        shutil.rmtree(folder / "hub", ignore_errors=True)
        write_model(model)
        name = rng.choice(names)
        kind = rng.randrange(5)
        right = False
        if kind == 0:
            _replace(model / name, rng.choice((outside / name, Path(os.path.relpath(outside / name, (model / name).parent)))))
        elif kind == 1:
            # Layout of the Hub's cache: each file is a link into `blobs`.
            right = True
            for file in [path for path in model.rglob("*") if path.is_file()]:
                blob = model.parent.parent / "blobs" / f"{abs(hash(file.name))}{len(file.parts)}"
                blob.parent.mkdir(exist_ok=True)
                file.rename(blob)
                file.symlink_to(os.path.relpath(blob, file.parent))
        elif kind == 2:
            path = rng.choice(
                ("../outside", str(outside), "1_Pooling/../../../../../../outside", "x\0", "\\\\host\\x", "c:\\x", "~")
            )
            (model / "modules.json").write_text(json.dumps([{"type": "Transformer", "path": path}]))
        elif kind == 3:
            (model / "model.safetensors").unlink()
            target = rng.choice(
                ("../../../../outside/model.safetensors", str(outside / "model.safetensors"), "shard", 7, None, ["x"])
            )
            if target == "shard":
                (model / "shard").symlink_to(outside / "model.safetensors")
            (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": target}}))
        else:
            _replace(model / name, model / name)
        return Case(
            f"link {kind} {name}", lambda: SentenceTransformer(str(model)), check(right), _documented(), _size(outside), right
        )

    def check(right: bool) -> Callable[[Any], None]:
        def checked(result: Any) -> None:
            if not right:
                raise AssertionError("read something outside the folder")

        return checked

    return make


def _replace(path: Path, target: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    path.symlink_to(target)


_MAKERS = {
    "safetensors": _safetensors_case,
    "config": _config_case,
    "modules": _modules_case,
    "tokenizer": _tokenizer_case,
    "jsonl": _jsonl_case,
    "links": _links_case,
}


def maker(kind: str, folder: Path) -> Callable[[random.Random], Case]:
    """Return the function that makes cases of a kind, in files below `folder`."""
    with contextlib.redirect_stdout(io.StringIO()):
        return _MAKERS[kind](folder / kind)
