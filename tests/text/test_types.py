"""Types of results, as a type checker infers them from the arguments."""

import re
import sys
from pathlib import Path

import pytest

PROGRAM = """
import numpy as np
from numpy.typing import NDArray
from fastattn import CrossEncoder, Encoder, SentenceTransformer, gelu, linear, scaled_dot_product_attention, softmax, util

model, scorer = SentenceTransformer(), CrossEncoder("name")
rows = model.encode(["a"])
reveal_type(rows)  # NDArray[float32]
reveal_type(model.encode("a"))  # NDArray[float32]
reveal_type(model.encode(["a"], "query", normalize_embeddings=True))  # NDArray[float32]
reveal_type(model.encode([("a", "b")]))  # NDArray[float32]
reveal_type(model.encode({"text": "a"}))  # NDArray[float32]
reveal_type(model.encode_query("a"))  # NDArray[float32]
reveal_type(model.encode(["a"], output_value="token_embeddings"))  # list[NDArray[float32]]
reveal_type(model.encode("a", output_value=None))  # dict[str, Any]
reveal_type(model.encode_document(["a"], output_value=None))  # list[dict[str, Any]]
reveal_type(model.encode("a", precision="int8"))  # Any
reveal_type(model.similarity(rows, rows))  # NDArray[float32]
reveal_type(scorer.predict([("a", "b")]))  # NDArray[float32]
reveal_type(scorer.rank("a", ["b"]))  # list[dict[str, Any]]
reveal_type(softmax(rows))  # NDArray[float32]
reveal_type(linear(rows, rows))  # NDArray[float32]
reveal_type(scaled_dot_product_attention(rows, rows, rows))  # NDArray[float32]
softmax("hello")  # error
gelu(rows, approximate="tnah")  # error
model.encode([1])  # error
model.encode(["a"], precision="int16")  # error
model.encode(["a"], output_value="hidden")  # error
scorer.predict([1])  # error
util.quantize_embeddings(rows, "int4")  # error
"""


def test_types(tmp_path: Path) -> None:
    api = pytest.importorskip("mypy.api")
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    root = Path(__file__).parents[2]
    said, trouble, _ = api.run([str(path), "--config-file", str(root / "pyproject.toml"), "--python-executable", sys.executable])
    assert not trouble
    found: dict[int, str] = {}
    for line, kind in re.findall(r"program\.py:(\d+): (?:note: Revealed type is \"(.*)\"|error: .*)", said):
        found[int(line)] = kind or "error"
    expected = {i: line.partition("  # ")[2] for i, line in enumerate(PROGRAM.splitlines(), 1) if "  # " in line}
    assert {line: plain(kind) for line, kind in found.items()} == expected, said


def plain(kind: str) -> str:
    """Return a type as it is written, without the modules and the shape of an array."""
    kind = kind.replace("builtins.", "").replace("typing.", "")
    arrays = re.compile(r"numpy\.ndarray\[[^\[\]]*(?:\[[^\[\]]*\])?[^\[\]]*, numpy\.dtype\[(?:numpy\.)?floating\[[^\]]*\]\]\]")
    return arrays.sub("NDArray[float32]", kind)
