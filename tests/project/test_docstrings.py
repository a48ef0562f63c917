"""Docstrings of public names match their signatures: exactly the parameters are described, and each raise is listed.

Public names are those that a user reaches: `fastattn.__all__`, the names in its modules and in `fastattn.integrations`,
`fastattn.modules` and `fastattn.util`, and inherited methods.  Elsewhere one line is enough (ruff requires it); parameters
described there must be the function's.
"""

import ast
import inspect
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.layout import package, public_names

ROOT = Path(__file__).parents[2]
Function = ast.FunctionDef | ast.AsyncFunctionDef
EMPTY = ast.Module([], [])


def sections(docstring: str) -> dict[str, list[str]]:
    """Return the entries of each numpydoc section: its unindented lines."""
    lines = inspect.cleandoc(docstring).splitlines()
    heads = [i for i in range(1, len(lines)) if re.fullmatch("-{3,}", lines[i])]
    return {
        lines[head - 1]: [line for line in lines[head + 1 : end - 1] if line and not line.startswith(" ")]
        for head, end in itertools.pairwise([*heads, len(lines) + 1])
    }


def described(docstring: str) -> list[str]:
    """Return the names in the Parameters section; ``q, k : type`` counts for both."""
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
    """Return the exception classes in the function's own raise statements."""
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
    """Return the parameters of a class: those of its `__init__`, or the fields of a dataclass or NamedTuple."""
    for node in owner.body:
        if isinstance(node, Function) and node.name == "__init__":
            return parameters(node)[1:]
    if has_decorator(owner, "dataclass") or "NamedTuple" in map(ast.unparse, owner.bases):
        fields = [node for node in owner.body if isinstance(node, ast.AnnAssign)]
        return [ast.unparse(x.target) for x in fields if "KW_ONLY" not in ast.unparse(x.annotation)]
    return []


def inherited(owner: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> list[str]:
    """Return the parameters of a class, or, where it has none of its own and describes some, those of its base."""
    names = signature(owner)
    if not names and described(ast.get_docstring(owner) or ""):
        bases = (ast.unparse(base).partition("[")[0].rpartition(".")[2] for base in owner.bases)
        names = next((found for base in bases if base in classes and (found := inherited(classes[base], classes))), [])
    return names


def compare(place: str, docstring: str | None, names: list[str], exceptions: set[str]) -> Iterator[str]:
    if not docstring:
        yield f"{place} has no docstring"
        return
    if described(docstring) != names:
        yield f"{place} has ({', '.join(names)}) and describes ({', '.join(described(docstring))})"
    for name in sorted(exceptions - set(sections(docstring).get("Raises", []))):
        yield f"{place} raises {name} and does not list it"


def public(body: list[ast.stmt]) -> Iterator[Function | ast.ClassDef]:
    for node in body:
        if isinstance(node, Function | ast.ClassDef) and (not node.name.startswith("_") or node.name == "__call__"):
            yield node


def reached(modules: dict[str, ast.Module]) -> set[tuple[str, str]]:
    """Return (module, name) of each function and class that a user reaches, and of their base classes."""
    found: set[tuple[str, str]] = set()
    todo = [("__init__", name) for name in public_names(modules["__init__"])]
    todo += [
        (part, name)
        for part in (
            "corpus",
            "integrations",
            "modules",
            "training",
            "training.cross_encoder_losses",
            "training.evaluation",
            "training.losses",
            "util",
        )
        for name in public_names(modules.get(part, EMPTY))
    ]
    while todo:
        module, name = todo.pop()
        if name in modules and module == "__init__":
            todo += [(name, each) for each in public_names(modules[name])]
        here = {node.name: node for node in modules[module].body if isinstance(node, Function | ast.ClassDef)}
        if name in here and (module, name) not in found:
            found.add((module, name))
            node = here[name]
            todo += [(module, ast.unparse(base).partition("[")[0]) for base in getattr(node, "bases", [])]
        for node in modules[module].body:
            if isinstance(node, ast.ImportFrom) and name in {alias.asname or alias.name for alias in node.names}:
                source = (node.module or "").removeprefix("fastattn").removeprefix(".") or "__init__"
                todo += [(source, name)] if source in modules and source != module else []
    return found


def problems(root: Path) -> list[str]:
    found: list[str] = []
    modules = package(root)
    everybody = reached(modules)
    classes = {node.name: node for tree in modules.values() for node in tree.body if isinstance(node, ast.ClassDef)}
    for module, tree in modules.items():
        for node in tree.body:
            if isinstance(node, Function | ast.ClassDef):
                found += of_node(f"{module}.{node.name}", node, (module, node.name) in everybody, classes)
    return found


def of_node(place: str, node: Function | ast.ClassDef, full: bool, classes: dict[str, ast.ClassDef]) -> Iterator[str]:
    """Yield the faults of a function, or of a class and its methods; `full` if a user reaches the name."""
    if not isinstance(node, ast.ClassDef):
        if full or described(ast.get_docstring(node) or ""):
            yield from compare(place, ast.get_docstring(node), parameters(node), raised(node) if full else set())
        return
    inits = [x for x in node.body if isinstance(x, Function) and x.name in ("__init__", "__post_init__")]
    exceptions = set().union(*map(raised, inits))
    if full or described(ast.get_docstring(node) or ""):
        yield from compare(place, ast.get_docstring(node), inherited(node, classes), exceptions if full else set())
    for method in public(node.body):
        if isinstance(method, Function) and not has_decorator(method, "setter", "overload"):
            names = parameters(method)[0 if has_decorator(method, "staticmethod") else 1 :]
            if full or described(ast.get_docstring(method) or ""):
                yield from compare(f"{place}.{method.name}", ast.get_docstring(method), names, raised(method) if full else set())


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

class Base:
    """What encoders share."""

    def given(self, x):
        """Take x.

        Parameters
        ----------
        x : int
        """

def quick(x):
    """One line, which no user reads."""
    raise OSError

def plain(x):
    """More than one line, which no user reads.

    Parameters
    ----------
    x : int
    """

class Encoder(Base):
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
    "inherited method": ("given(self, x)", "given(self, y)", "encoder.Base.given has (y)"),
    "function that a user reaches": ("def quick(x)", "def encode(x)", "encoder.encode has (x)"),
    "its exception": ("def quick(x)", "def encode(x)", "encoder.encode raises OSError"),
    "wrong parameters elsewhere": ("def plain(x)", "def plain(y)", "encoder.plain has (y) and describes (x)"),
}


def problems_of(text: str, root: Path) -> list[str]:
    (root / "fastattn").mkdir()
    (root / "fastattn/encoder.py").write_text(text, encoding="utf-8")
    init = "from fastattn.encoder import Config, Encoder, encode\n__all__ = ['Config', 'Encoder', 'encode']"
    (root / "fastattn/__init__.py").write_text(init, encoding="utf-8")
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
