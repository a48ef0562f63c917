"""Docstrings say what the signatures say: each parameter is described, nothing else is, and what is raised is listed.

A function is public by its module's `__all__`, without one by its name; a typer command describes itself in `--help`.
"""

import ast
import inspect
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from layout import package, public_names

ROOT = Path(__file__).parents[1]
Function = ast.FunctionDef | ast.AsyncFunctionDef


def sections(docstring: str) -> dict[str, list[str]]:
    """Entries of each numpydoc section: its unindented lines."""
    lines = inspect.cleandoc(docstring).splitlines()
    heads = [i for i in range(1, len(lines)) if re.fullmatch("-{3,}", lines[i])]
    return {
        lines[head - 1]: [line for line in lines[head + 1 : end - 1] if line and not line.startswith(" ")]
        for head, end in itertools.pairwise([*heads, len(lines) + 1])
    }


def described(docstring: str) -> list[str]:
    """Names in the Parameters section; ``q, k : type`` counts for both."""
    entries = sections(docstring).get("Parameters", [])
    return [name.strip() for entry in entries for name in entry.partition(" :")[0].split(",")]


def parameters(function: Function) -> list[str]:
    a = function.args
    names = [x.arg for x in [*a.posonlyargs, *a.args]]
    names += [f"*{a.vararg.arg}"] if a.vararg else []
    names += [x.arg for x in a.kwonlyargs]
    names += [f"**{a.kwarg.arg}"] if a.kwarg else []
    return names


def raised(function: Function) -> set[str]:
    """Exception classes in the function's own raise statements."""
    found = set()
    todo: list[ast.AST] = list(function.body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Raise) and node.exc is not None:
            exception = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            name = ast.unparse(exception).rpartition(".")[2]
            found |= {name} if name[0].isupper() else set()
        if not isinstance(node, Function | ast.Lambda | ast.ClassDef):
            todo += ast.iter_child_nodes(node)
    return found


def has_decorator(node: Function | ast.ClassDef, *names: str) -> bool:
    shown = (ast.unparse(x).partition("(")[0].rpartition(".") for x in node.decorator_list)
    return any(last in names or f"{owner}." in names for owner, _, last in shown)


def signature(owner: ast.ClassDef) -> list[str]:
    """Parameters of a class: of its `__init__`, or the fields of a dataclass or NamedTuple."""
    for node in owner.body:
        if isinstance(node, Function) and node.name == "__init__":
            return parameters(node)[1:]
    if has_decorator(owner, "dataclass") or "NamedTuple" in map(ast.unparse, owner.bases):
        fields = [node for node in owner.body if isinstance(node, ast.AnnAssign)]
        return [ast.unparse(x.target) for x in fields if "KW_ONLY" not in ast.unparse(x.annotation)]
    return []


def compare(place: str, docstring: str | None, names: list[str], exceptions: set[str]) -> Iterator[str]:
    if not docstring:
        yield f"{place} has no docstring"
        return
    if described(docstring) != names:
        yield f"{place} has ({', '.join(names)}) and describes ({', '.join(described(docstring))})"
    for name in sorted(exceptions - set(sections(docstring).get("Raises", []))):
        yield f"{place} raises {name} and does not list it"


def public(body: list[ast.stmt], names: list[str] | None = None) -> Iterator[Function | ast.ClassDef]:
    for node in body:
        if isinstance(node, Function | ast.ClassDef):
            if node.name in names if names else not node.name.startswith("_") or node.name == "__call__":
                yield node


def problems(root: Path) -> list[str]:
    found: list[str] = []
    for module, tree in package(root).items():
        if module.rpartition(".")[2].startswith("_"):
            continue
        for node in public(tree.body, public_names(tree)):
            place = f"{module}.{node.name}"
            if not isinstance(node, ast.ClassDef):
                if not has_decorator(node, "app."):
                    found += compare(place, ast.get_docstring(node), parameters(node), raised(node))
                continue
            inits = [x for x in node.body if isinstance(x, Function) and x.name in ("__init__", "__post_init__")]
            exceptions = set().union(*map(raised, inits))
            found += compare(place, ast.get_docstring(node), signature(node), exceptions)
            for method in public(node.body):
                if isinstance(method, Function) and not has_decorator(method, "setter", "overload"):
                    names = parameters(method)[0 if has_decorator(method, "staticmethod") else 1 :]
                    found += compare(f"{place}.{method.name}", ast.get_docstring(method), names, raised(method))
    return found


SOUND = '''
@dataclass
class Config:
    """Sizes.

    Parameters
    ----------
    width, depth : int
    """
    width: int
    _: KW_ONLY
    depth: int

class Encoder:
    """Encodes.

    Parameters
    ----------
    config : Config
        The sizes.

    Raises
    ------
    ValueError
        The sizes are wrong.
    """
    def __init__(self, config):
        raise ValueError("config")

    @property
    def width(self):
        """Width."""

    def encode(self, q, k, *texts, scale=None, **options):
        """Encode: q = k.

        Parameters
        ----------
        q, k : ndarray
            Queries and keys.
        *texts : str
        scale : float, optional
        **options
            More.

        Returns
        -------
        ndarray
        """
        def inner():
            raise KeyError

def _private(x): pass

@app.command()
def embed(path):
    """Embed a file."""
'''
FAULTS = {
    "parameter without a description": ("**options", "**settings", "has (q, k, *texts, scale, **settings)"),
    "description without a parameter": (", scale=None", "", "has (q, k, *texts, **options)"),
    "wrong order": ("q, k : ndarray", "k, q : ndarray", "describes (k, q,"),
    "no section": ("Parameters\n        ----------", "", "describes ()"),
    "no docstring": ('"""Width."""', "pass", "encoder.Encoder.width has no docstring"),
    "field without a description": ("width, depth", "width", "encoder.Config has (width, depth)"),
    "exception that is not listed": ('ValueError("', 'TypeError("', "encoder.Encoder raises TypeError"),
    "no Raises section": ("Raises\n    ------", "", "encoder.Encoder raises ValueError"),
    "public helper": ("_private", "helper", "encoder.helper has no docstring"),
    "private by __all__": ("@app.command()", "__all__ = ['embed']", "encoder.embed has (path)"),
}


def problems_of(text: str, root: Path) -> list[str]:
    (root / "fastattn").mkdir()
    (root / "fastattn/encoder.py").write_text(text, encoding="utf-8")
    return problems(root)


def test_project() -> None:
    found = problems(ROOT)
    assert not found, "\n".join(found)


def test_sound_docstrings_pass(tmp_path: Path) -> None:
    assert problems_of(SOUND, tmp_path) == []


@pytest.mark.parametrize(("old", "new", "message"), FAULTS.values(), ids=FAULTS)
def test_fault_is_found(old: str, new: str, message: str, tmp_path: Path) -> None:
    assert old in SOUND
    found = problems_of(SOUND.replace(old, new, 1), tmp_path)
    assert any(message in line for line in found), found
