"""Layout: the project obeys every rule, and each rule fails on a small tree with one fault."""

from pathlib import Path

import pytest

from tests.support.layout import (
    CONTRACT,
    MOST_LINES,
    OP_LISTS,
    RULES,
    Rule,
    every_backward_has_its_files,
    every_op_has_its_files,
    every_op_has_its_names,
    every_op_is_in_every_list,
    few_arguments,
    imports_point_down,
    no_assert,
    no_list_lacks_an_op,
    no_long_file,
    numba_options_in_one_place,
    package,
    reference_stands_alone,
)

ROOT = Path(__file__).parents[2]

OP = """
from fastattn.kernels.compile.jit import kernel

__all__ = ["softmax"]

@kernel
def softmax_kernel(x, out): pass

def softmax(x, axis=-1, *, eps=0.0, out=None): pass
"""
BACKWARD = """
__all__ = ["softmax_backward"]
def softmax_backward(grad, out, axis=-1): pass
"""
SOUND = {
    "fastattn/__init__.py": "from fastattn import reference\nfrom fastattn.encoder.encoder import Encoder",
    "fastattn/reference/ops.py": "import math\nimport numpy as np\ndef softmax(x, axis=-1, *, eps=0.0): pass",
    "fastattn/reference/backward.py": "def softmax_backward(grad, out, axis=-1): pass",
    "fastattn/kernels/__init__.py": "",
    "fastattn/cli/__init__.py": "",
    "fastattn/reference/__init__.py": "from fastattn.reference.ops import softmax",
    "fastattn/kernels/compile/jit.py": "import numba\ndef kernel(fn): return numba.njit(cache=True)(fn)",
    "fastattn/kernels/ops/softmax.py": OP,
    "fastattn/encoder/encoder.py": "from fastattn.kernels.ops.softmax import softmax_kernel\nclass Encoder: pass",
    "fastattn/cli/compare.py": "import fastattn\ndef compare():\n    from fastattn import reference",
    "tests/kernels/test_softmax.py": "\n".join(f"contract.{name}('softmax')" for name in CONTRACT),
    "benchmarks/ops/bench_softmax.py": "",
    **dict.fromkeys(OP_LISTS, "fastattn.softmax"),
    "fastattn/kernels/backward/softmax_backward.py": BACKWARD,
    "tests/backward/test_softmax_backward.py": "",
    "benchmarks/ops/bench_softmax_backward.py": "",
    "soak/few.py": "fastattn.softmax, fastattn.most",
}
REFERENCE = SOUND["fastattn/reference/ops.py"]
# (rule, file, its text with the fault or None for a missing file, the rule's message)
FAULTS = [
    (every_backward_has_its_files, "tests/backward/test_softmax_backward.py", None, "test_softmax_backward.py is missing"),
    (every_backward_has_its_files, "benchmarks/ops/bench_softmax_backward.py", None, "bench_softmax_backward.py is missing"),
    (every_backward_has_its_files, "fastattn/reference/backward.py", None, "the reference has no softmax_backward"),
    (
        every_backward_has_its_files,
        "fastattn/reference/backward.py",
        "def softmax_backward(out, grad): pass",
        "softmax_backward has other arguments",
    ),
    (every_op_has_its_files, "tests/kernels/test_softmax.py", None, "tests/kernels/test_softmax.py is missing"),
    (every_op_has_its_files, "benchmarks/ops/bench_softmax.py", None, "benchmarks/ops/bench_softmax.py is missing"),
    (every_op_has_its_names, "fastattn/kernels/ops/softmax.py", OP.replace("@kernel", ""), "no jitted softmax_kernel"),
    (
        every_op_has_its_names,
        "fastattn/kernels/ops/softmax.py",
        OP.replace("softmax_kernel", "rows"),
        "no jitted softmax_ke",
    ),
    (every_op_has_its_names, "fastattn/kernels/ops/softmax.py", OP.replace('["softmax"]', "[]"), "no public function"),
    (every_op_has_its_names, "fastattn/kernels/ops/softmax.py", OP.replace("def softmax(", "def s("), "does not define it"),
    (every_op_has_its_names, "fastattn/reference/ops.py", "", "the reference has no softmax"),
    (
        every_op_has_its_names,
        "fastattn/reference/ops.py",
        REFERENCE.replace("-1", "0"),
        "softmax(x, axis=-1, *, eps=0.0) differs",
    ),
    (
        every_op_has_its_names,
        "fastattn/reference/ops.py",
        REFERENCE.replace("*, ", ""),
        "reference.softmax(x, axis=-1, eps=0.0)",
    ),
    *((every_op_is_in_every_list, path, "# softmax", f"{path} has no softmax") for path in OP_LISTS),
    (every_op_is_in_every_list, "fastattn/kernels/ops/softmax.py", OP.replace('["softmax"]', '["softmax", "x"]'), "has no x"),
    (
        no_list_lacks_an_op,
        "fastattn/kernels/ops/softmax.py",
        OP.replace('["softmax"]', '["softmax", "most", "x"]'),
        "soak/few.py has most ops, and no x",
    ),
    *(
        (every_op_is_in_every_list, "tests/kernels/test_softmax.py", f"contract.not_{name}", f"test_softmax.py has no {name}")
        for name in CONTRACT
    ),
    (
        imports_point_down,
        "fastattn/encoder/encoder.py",
        "from fastattn.cli import compare",
        "encoder.encoder:1 imports cli.compare, which is above",
    ),
    (
        imports_point_down,
        "fastattn/encoder/encoder.py",
        "def f():\n    import fastattn.cli.compare",
        "encoder.encoder:2 imports cli.compare, which is above",
    ),
    (
        imports_point_down,
        "fastattn/kernels/compile/jit.py",
        "import fastattn.kernels.ops.softmax",
        "jit:1 imports kernels.ops.softmax",
    ),
    (imports_point_down, "fastattn/utils.py", "", "utils has no floor"),
    (imports_point_down, "fastattn/encoder/encoder.py", "from .kernels import softmax", "by a relative name"),
    (reference_stands_alone, "fastattn/reference/ops.py", "import fastattn.encoder", "reference.ops:1 imports encoder"),
    (reference_stands_alone, "fastattn/reference/ops.py", "from scipy import special", "reference.ops:1 imports scipy"),
    (
        reference_stands_alone,
        "fastattn/encoder/encoder.py",
        "def f():\n    import fastattn.reference",
        "encoder.encoder:2 imports the ref",
    ),
    (
        reference_stands_alone,
        "fastattn/cli/compare.py",
        "from fastattn.reference import softmax",
        "cli.compare:1 imports the reference",
    ),
    (numba_options_in_one_place, "fastattn/encoder/encoder.py", "from numba import njit", "encoder.encoder:1 imports njit"),
    (
        numba_options_in_one_place,
        "fastattn/encoder/encoder.py",
        "import numba\n@numba.jit\ndef f(): pass",
        "encoder.encoder:2 uses numba.jit",
    ),
    (numba_options_in_one_place, "fastattn/encoder/encoder.py", "f(fastmath=True)", "encoder.encoder:1 sets fastmath="),
    (no_assert, "fastattn/encoder/encoder.py", "def f(x):\n    assert x", "encoder.encoder:2 asserts"),
    (
        few_arguments,
        "fastattn/kernels/vector/rows.py",
        "def f(a, b, c, d, e, f, g, h, i, j, k, l, *, m): pass",
        "takes 13 arguments",
    ),
    (few_arguments, "fastattn/kernels/vector/rows.py", "f = lambda a, b, c, d, e, f, g, h, i, j, k, l, m: 0", "rows:1 takes 13"),
    *(
        (no_long_file, path, "\n" * (MOST_LINES + 1), f"{path} has {MOST_LINES + 1} lines")
        for path in ("fastattn/kernels/vector/rows.py", "tests/kernels/test_softmax.py", "benchmarks/ops/long.py", "soak/long.py")
    ),
]


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_project(rule: Rule) -> None:
    assert package(ROOT)
    found = rule(ROOT)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule_passes_a_sound_tree(rule: Rule, tmp_path: Path) -> None:
    write(tmp_path, SOUND)
    assert rule(tmp_path) == []


@pytest.mark.parametrize(("rule", "name", "text", "message"), FAULTS)
def test_rule_finds_the_fault(rule: Rule, name: str, text: str | None, message: str, tmp_path: Path) -> None:
    write(tmp_path, SOUND)
    if text is None:
        (tmp_path / name).unlink()
    else:
        write(tmp_path, {name: text})
    assert any(message in found for found in rule(tmp_path)), rule(tmp_path)


def test_circle_is_found(tmp_path: Path) -> None:
    circle = {"a": "b", "b": "c", "c": "a"}
    write(tmp_path, SOUND)
    write(tmp_path, {f"fastattn/kernels/vector/{x}.py": f"import fastattn.kernels.vector.{y}" for x, y in circle.items()})
    assert imports_point_down(tmp_path) == [
        "imports go round: kernels.vector.a -> kernels.vector.b -> kernels.vector.c -> kernels.vector.a"
    ]


def test_every_rule_is_shown_to_fail() -> None:
    assert {fault[0] for fault in FAULTS} == set(RULES)
