"""Tests that need the peers: those that import, by `pytest.importorskip`, a library of the extras `peers` and `integrations`."""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
EXTRAS = ("peers", "integrations")


class Needs(NamedTuple):
    """Functions of a test file, fixtures among them, that need a peer; `everywhere` if its import does."""

    functions: frozenset[str]
    everywhere: bool


@functools.cache
def peers() -> frozenset[str]:
    """Return the import names of the libraries in the extras."""
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    lists = [re.search(rf"^{extra} = \[(.*?)^\]", text, re.DOTALL | re.MULTILINE) for extra in EXTRAS]
    names = [name for found in lists if found for name in re.findall(r'^ *"([\w-]+)', found[1], re.MULTILINE)]
    return frozenset(name.replace("-", "_") for name in names)


def outside(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes that run when the file is imported."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef):
            yield child
            yield from outside(child)


def imports_a_peer(node: ast.AST) -> bool:
    """Tell whether the node is an `importorskip` of a peer, or of a name that is not known before the run."""
    if not (isinstance(node, ast.Call) and ast.unparse(node.func).endswith("importorskip")):
        return False
    name = node.args[0]
    return not isinstance(name, ast.Constant) or str(name.value).partition(".")[0] in peers()


@functools.cache
def needs(path: Path) -> Needs:
    """Return what of a test file needs a peer, by itself or by what it calls in the same file."""
    module = ast.parse(path.read_text("utf-8"))
    inside = {node.name: list(ast.walk(node)) for node in ast.walk(module) if isinstance(node, ast.FunctionDef)}
    found = {name for name, nodes in inside.items() if any(map(imports_a_peer, nodes))}
    known = -1
    while known != len(found):
        known = len(found)
        # A fixture is an argument of the test.
        found |= {name for name, nodes in inside.items() if found & {getattr(x, "id", getattr(x, "arg", "")) for x in nodes}}
    top = list(outside(module))
    everywhere = any(imports_a_peer(x) or (isinstance(x, ast.Call) and getattr(x.func, "id", "") in found) for x in top)
    return Needs(frozenset(found), everywhere)


def needs_peers(path: Path, test: str, fixtures: list[str]) -> bool:
    """Tell whether a test needs a peer."""
    found = needs(path)
    return found.everywhere or bool(found.functions & {test, *fixtures})
