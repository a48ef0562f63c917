"""Hostile files: headers, settings, tokenizers and lines, broken by the byte, by the value and by the link."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from soak._hostile_case import Case

_GOLDEN = Path(__file__).parent.parent / "tests" / "data" / "golden"
_WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "sat", "on", "mat", "a"]
_V, _C, _F, _P = len(_WORDS), 8, 12, 16
_CONFIG: dict[str, Any] = {
    "model_type": "bert",
    "hidden_size": _C,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": _F,
    "vocab_size": _V,
    "max_position_embeddings": _P,
    "type_vocab_size": 2,
}
_SHAPES = {
    "embeddings.word_embeddings.weight": (_V, _C),
    "embeddings.position_embeddings.weight": (_P, _C),
    "embeddings.token_type_embeddings.weight": (2, _C),
    "embeddings.LayerNorm": (_C,),
    "encoder.layer.0.attention.self.query": (_C, _C),
    "encoder.layer.0.attention.self.key": (_C, _C),
    "encoder.layer.0.attention.self.value": (_C, _C),
    "encoder.layer.0.attention.output.dense": (_C, _C),
    "encoder.layer.0.attention.output.LayerNorm": (_C,),
    "encoder.layer.0.intermediate.dense": (_F, _C),
    "encoder.layer.0.output.dense": (_C, _F),
    "encoder.layer.0.output.LayerNorm": (_C,),
}


def _header() -> tuple[dict[str, Any], bytes]:
    """Return the header and the data of a small BERT."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for stem, shape in _SHAPES.items():
        parts = {stem: shape} if stem.endswith("weight") else {f"{stem}.weight": shape, f"{stem}.bias": shape[:1]}
        for name, size in parts.items():
            raw = np.cos(np.arange(np.prod(size))).astype("<f4").tobytes()
            header[name] = {"dtype": "F32", "shape": list(size), "data_offsets": [len(data), len(data) + len(raw)]}
            data += raw
    return header, data


def _safetensors(header: Any, data: bytes, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length % 2**64) + text + data


def write_model(folder: Path) -> None:
    """Write a sentence-transformers folder of a few kilobytes."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(_CONFIG))
    (folder / "model.safetensors").write_bytes(_safetensors(*_header()))
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(_WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "BertTokenizer", "model_max_length": 12, "cls_token": "[CLS]"}'
    )
    (folder / "modules.json").write_text(
        json.dumps(
            [
                {"path": "", "type": "x.Transformer"},
                {"path": "1_Pooling", "type": "x.Pooling"},
                {"path": "2_N", "type": "x.Normalize"},
            ]
        )
    )
    for name in ("1_Pooling", "2_N"):
        (folder / name).mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": _C, "pooling_mode_mean_tokens": True})
    )
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 12, "do_lower_case": false}')
    (folder / "config_sentence_transformers.json").write_text('{"prompts": {"query": "the "}, "similarity_fn_name": "cosine"}')


def junk(rng: random.Random, depth: int = 0) -> Any:
    """Return any JSON value."""
    kind = rng.randrange(9 if depth < 3 else 7)
    if kind == 0:
        return rng.choice((0, 1, 2, 8, -1, 2**31, 2**63, 2**64, 10**30, -(2**70), 10**9))
    if kind == 1:
        return rng.choice((0.5, 1e308, -1e-320, float("nan"), float("inf"), 1.0, 8.0))
    if kind == 2:
        return rng.choice((True, False, None))
    if kind in (3, 4):
        return rng.choice(
            ("", "gelu", "[CLS]", "../x", "a\0b", "\ud800", "F32", "bert", "/etc/passwd", "é" * 50, "1_Pooling", "mean", "tanh")
        )
    if kind in (5, 6):
        return rng.choice(([], {}, [None], [[]], {"": {}}, [1, 2], {"content": "[CLS]"}))
    if kind == 7:
        return [junk(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {str(junk(rng, 3)): junk(rng, depth + 1) for _ in range(rng.randrange(4))}


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every value inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [*([path] if path else []), *(place for key, item in inner for place in _places(item, (*path, key)))]


def spoil(rng: random.Random, value: Any) -> Any:
    """Return a JSON value in which a few values are others, gone, or there twice."""
    value = json.loads(json.dumps(value))
    for _ in range(1 + rng.randrange(3)):
        places = _places(value)
        if not places:
            return junk(rng)
        *outer, key = rng.choice(places)
        holder = value
        for step in outer:
            holder = holder[step]
        kind = rng.randrange(8)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[str(junk(rng, 3))] = holder[key]
        elif kind == 2 and isinstance(holder, list):
            holder.append(holder[key])
        elif kind == 3 and isinstance(holder[key], int):
            holder[key] = holder[key] + rng.choice((-1, 1, 2**32, 2**62))
        else:
            holder[key] = junk(rng)
    return value


def spoil_bytes(rng: random.Random, raw: bytes) -> bytes:
    """Return bytes of which some are others, gone or new."""
    data = bytearray(raw)
    for _ in range(1 + rng.randrange(4)):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(5)
        if kind == 0:
            del data[at:]
        elif kind == 1:
            del data[at : at + 1 + rng.randrange(8)]
        elif kind == 2:
            data[at:at] = rng.choice(
                (b"\0", b"\xff\xfe", b'"', b"{", b"[" * 2000, b'{"a":' * 1500, b"9" * 5000, b",", b"\\u0000", b"1e999")
            )
        elif kind == 3 and at < len(data):
            data[at] = rng.randrange(256)
        else:
            data[at:at] = data[at : at + 20]
    return bytes(data)


def _json(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


def spoiled(rng: random.Random, content: bytes) -> bytes:
    """Return a JSON file with a fault."""
    if rng.random() < 0.3:
        return spoil_bytes(rng, content)
    raw = _json(spoil(rng, json.loads(content)))
    if rng.random() < 0.1:
        # A key that is there twice.
        raw = raw.replace(b": ", b': null, "dtype": "F64", "shape": [1], "hidden_size": ', 1)
    return raw


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
    header, data = _header()
    path, whole = folder / "model.safetensors", _safetensors(header, data)
    # What is imported and compiled once is no case's.
    _use(folder)

    def make(rng: random.Random) -> Case:
        kind = rng.randrange(6)
        if kind == 0:
            raw = spoil_bytes(rng, whole)
        elif kind == 1:
            raw = _safetensors(header, data, rng.choice((0, 1, -1, 2**31, 2**63, len(whole), len(whole) - 8, 100_000_001)))
        elif kind == 2:
            raw = _safetensors(spoiled(rng, _json(header)), data)
        elif kind == 3:
            raw = _safetensors(spoil_bytes(rng, _json(header)), data)
        elif kind == 4:
            raw = _safetensors(spoil(rng, header), data[: rng.randrange(len(data))])
        else:
            # One tensor of another type, whose bytes are all there.
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
            raw = _safetensors(changed, body)
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
    """Write a model, and return what spoils one of its files after it has repaired the one before."""
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
    """Return a tokenizer whose steps make much of a short text, or little of it at great length."""
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
    raw = _json(changed)
    if rng.random() < 0.2:
        # The library reads steps without types as well.
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

        result = CliRunner().invoke(app, ["embed", name, "-o", str(folder / "out.jsonl"), "-m", str(folder / "model")])
        if result.exit_code not in (0, 2) or (result.exception is not None and not isinstance(result.exception, SystemExit)):
            raise RuntimeError(f"exit code {result.exit_code}") from result.exception

    path.write_bytes(b'{"text": "the cat"}')
    through_the_program(str(path))

    def make(rng: random.Random) -> Case:
        lines = []
        for _ in range(rng.randrange(4)):
            row: Any = {"text": rng.choice(("the cat", "", "\0", "a\ud800", "é\u2028x", "word " * 40)), "n": 1}
            lines.append(spoiled(rng, _json(row)) if rng.random() < 0.5 else _json(row))
        raw = rng.choice((b"", b"\xef\xbb\xbf", b"\n\n")) + rng.choice((b"\n", b"\r\n", b"\r")).join(lines)
        path.write_bytes(raw)
        program = rng.random() < 0.1

        def check(result: Any) -> None:
            if not program and not (isinstance(result, list) and all(isinstance(text, str) for text in result)):
                raise AssertionError("texts that are none")

        # The program imports rich and reads a model.
        size = len(raw) + (_size(folder) if program else 0)
        run = (lambda: through_the_program(str(path))) if program else (lambda: read_texts(str(path)))
        return Case(f"jsonl {raw!r}", run, check, (ValueError, FileNotFoundError), size)

    return make


_SECRET = b'{"model_type": "bert", "secret": 1}'


def _links_case(folder: Path) -> Callable[[random.Random], Case]:
    """Links and names that lead out of a model folder, which holds nothing of what is outside."""
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
            # As the Hub's cache has it.
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
    """Return what makes the cases of a kind, in files below `folder`."""
    with contextlib.redirect_stdout(io.StringIO()):
        return _MAKERS[kind](folder / kind)
