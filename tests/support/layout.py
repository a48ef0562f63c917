"""Rules of the project's layout: a rule takes a source tree and returns its violations."""

import ast
import copy
import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

# Floors from the bottom up.  A module imports from its own floor and those below, and imports form no cycle.
# A folder stands for all its modules; a folder with floors of its own has each of them here.
FLOORS = (
    ("config", "layer_config", "runtime"),
    ("kernels", "kernels.compile"),
    ("kernels.vector", "kernels.records"),
    ("kernels.products",),
    ("kernels.ops", "kernels.optimizers", "kernels.search"),
    ("kernels.backward",),
    ("kernels.encoder",),
    ("parameters",),
    ("checkpoint",),
    ("encoder", "tokenizer"),
    ("text", "pytorch"),
    ("corpus", "training"),
    ("modules", "integrations", "ray", "util", "__init__"),
    ("serve",),
    ("cli",),
    ("__main__",),
)

# The inputs of all ops, from which trials of every op take theirs.
CASES = "fastattn/cli/cases.py"
# Files with more for each op than `CASES` has, such as edge sizes: each names every public function of `kernels/ops`.
OP_LISTS = (
    "fastattn/cli/cases.py",
    "soak/_hostile_arrays.py",
    "soak/_poison.py",
    "tests/kernels/test_torch_semantics.py",
    "tests/promises/test_hostile.py",
    "tests/support/guarded.py",
)
# Files that name most ops and need not name all.
NO_LISTS = (
    "fastattn/cli/walkthrough.py",  # the ops of one encoder
    "tests/promises/test_memory.py",  # ops that need no memory, and ops whose copies count; every op is there from `CASES`
    "tests/promises/test_numbers.py",  # results known beforehand; soak/_poison.py has every op
    "tests/reference/test_reference_encoder.py",  # the ops of one encoder
    "tests/reference/test_reference.py",  # the rotary embedding is in test_reference_encoder.py
)
# Functions of `tests.support.contract` that the tests of each op must call.
CONTRACT = ("any_layout", "any_out", "any_threads", "bad_dtypes", "bad_out")

# Modules that compute with the reference at run time: int8 is calibrated once, at load, by the definition of the encoder.
REFERENCE_USERS = {"encoder.calibration"}

MOST_LINES = 400
MOST_ARGUMENTS = 12
# Exceptions: the LLVM intrinsic of the tile and its Python twin, which get a whole tile in a call.
MANY_ARGUMENTS = {"_tile", "_tile_python"}

JIT_NAMES = {"jit", "njit", "vectorize", "guvectorize", "cfunc", "stencil", "generated_jit"}
JIT_OPTIONS = {"fastmath", "parallel", "cache", "nogil", "error_model", "forceinline", "inline", "boundscheck"}
OUR_DECORATORS = {"kernel", "inline", "ParallelKernel"}


class Import(NamedTuple):
    """Import statement's source, line and target, a module of the package or a foreign module."""

    source: str
    line: int
    target: str
    local: bool  # inside a function


@functools.cache
def parsed(text: str) -> ast.Module:
    """Parse a source text; each rule reads most of them."""
    return ast.parse(text)


def package(root: Path) -> dict[str, ast.Module]:
    """Return the package's modules by their names inside the package: ``kernels.ops.softmax``, ``__init__``."""
    modules = {}
    for path in sorted((root / "fastattn").rglob("*.py")):
        parts = path.relative_to(root / "fastattn").with_suffix("").parts
        name = ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)
        modules[name] = parsed(path.read_text(encoding="utf-8"))
    return modules


def ops(modules: dict[str, ast.Module]) -> dict[str, ast.Module]:
    """Return the modules of the ops, by stem."""
    names = [name for name in modules if name.startswith("kernels.ops.") and not name.startswith("kernels.ops._")]
    return {name.removeprefix("kernels.ops."): modules[name] for name in names}


def functions(module: ast.Module) -> dict[str, ast.FunctionDef]:
    return {node.name: node for node in module.body if isinstance(node, ast.FunctionDef)}


def public_names(module: ast.Module) -> list[str]:
    for node in module.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return []


def imports(modules: dict[str, ast.Module]) -> Iterator[Import]:
    """Yield every import; one inside a function or for types is local.  Names of the package's modules lack ``fastattn.``."""

    def inside(dotted: str) -> str:
        return dotted.removeprefix("fastattn").removeprefix(".") or "__init__"

    for source, module in modules.items():
        local = {
            id(node)
            for outer in ast.walk(module)
            if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef) or is_for_types(outer)
            for node in ast.walk(outer)
        }
        for node in ast.walk(module):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = "." * node.level + (node.module or "")
                submodules = [f"{base}.{alias.name}" for alias in node.names]
                targets = [dotted if inside(dotted) in modules else base for dotted in submodules]
            else:
                continue
            for dotted in dict.fromkeys(targets):
                ours = dotted.partition(".")[0] == "fastattn"
                yield Import(source, node.lineno, inside(dotted) if ours else dotted, id(node) in local)


def is_for_types(node: ast.AST) -> bool:
    """Tell whether a statement is ``if TYPE_CHECKING``, whose imports are not run."""
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def place(name: str) -> str:
    """Return a module's entry in `FLOORS`: its own, or that of the innermost folder listed there."""
    known = {entry for floor in FLOORS for entry in floor}
    while name not in known and "." in name:
        name = name.rpartition(".")[0]
    return name


def floor(name: str) -> int | None:
    return next((height for height, entries in enumerate(FLOORS) if place(name) in entries), None)


def every_op_has_its_files(root: Path) -> list[str]:
    return [
        f"{path} is missing"
        for stem in ops(package(root))
        for path in (f"tests/kernels/test_{stem}.py", f"benchmarks/ops/bench_{stem}.py")
        if not (root / path).is_file()
    ]


def every_backward_has_its_files(root: Path) -> list[str]:
    """Each public function of `kernels/backward` has a twin in the reference with the same arguments, a test and a benchmark."""
    modules = package(root)
    reference = {
        name: function for part, module in modules.items() if is_reference(part) for name, function in functions(module).items()
    }
    found = []
    for path, module in modules.items():
        stem = path.removeprefix("kernels.backward.")
        if stem == path or stem.startswith("_"):
            continue
        wanted = (f"tests/backward/test_{stem}.py", f"benchmarks/ops/bench_{stem}.py")
        found += [f"{file} is missing" for file in wanted if not (root / file).is_file()]
        for name in public_names(module):
            twin = reference.get(name)
            if twin is None:
                found.append(f"the reference has no {name}")
            elif arguments(functions(module)[name]) != arguments(twin):
                found.append(f"{name} has other arguments than reference.{name}")
    return found


def names_of(path: Path) -> set[str]:
    """Return the strings and attributes in a file's code: ``"softmax"`` and ``fastattn.softmax`` both give softmax."""
    if not path.is_file():
        return set()
    nodes = list(ast.walk(parsed(path.read_text(encoding="utf-8"))))
    strings = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return strings | {node.attr for node in nodes if isinstance(node, ast.Attribute)}


def every_op_is_in_every_list(root: Path) -> list[str]:
    """Each of `OP_LISTS` has every op, and the tests of each op call the whole contract."""
    modules = ops(package(root))
    public = [name for module in modules.values() for name in public_names(module)]
    lists = [(path, name) for path in OP_LISTS for name in public]
    calls = [(f"tests/kernels/test_{stem}.py", name) for stem in modules for name in CONTRACT]
    named = {path: names_of(root / path) for path, _ in (*lists, *calls)}
    return [f"{path} has no {name}" for path, name in (*lists, *calls) if name not in named[path]]


def no_list_lacks_an_op(root: Path) -> list[str]:
    """A file that names most ops names all: otherwise it is a list in which one was forgotten."""
    public = {name for module in ops(package(root)).values() for name in public_names(module)}
    found = []
    for folder in ("fastattn", "tests", "benchmarks", "soak"):
        for path in sorted((root / folder).rglob("*.py")):
            here, name = names_of(path) & public, path.relative_to(root).as_posix()
            if len(public) / 2 < len(here) < len(public) and name not in NO_LISTS:
                found.append(f"{name} has most ops, and no {', '.join(sorted(public - here))}: take them from {CASES}")
    return found


def arguments(function: ast.FunctionDef) -> str:
    """Return the names, defaults and keyword-only star of a signature, without `out` and types."""
    bare = copy.deepcopy(function.args)
    for argument in ast.walk(bare):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    options = [(x, default) for x, default in zip(bare.kwonlyargs, bare.kw_defaults, strict=True) if x.arg != "out"]
    bare.kwonlyargs, bare.kw_defaults = [x for x, _ in options], [default for _, default in options]
    return ast.unparse(bare)


def every_op_has_its_names(root: Path) -> list[str]:
    """Each op has a jitted `<stem>_kernel`, and its public function a twin in the reference with the same arguments."""
    modules = package(root)
    parts = [module for name, module in modules.items() if is_reference(name)]
    reference = {name: function for part in parts for name, function in functions(part).items()}
    found = []
    for stem, module in ops(modules).items():
        here = functions(module)
        kernel = here.get(f"{stem}_kernel")
        if kernel is None or not {ast.unparse(x) for x in kernel.decorator_list} & OUR_DECORATORS:
            found.append(f"kernels/ops/{stem}.py has no jitted {stem}_kernel")
        if not public_names(module):
            found.append(f"kernels/ops/{stem}.py has no public function in __all__")
        for name in public_names(module):
            if name not in here:
                found.append(f"kernels/ops/{stem}.py names {name} in __all__ and does not define it")
            elif name not in reference:
                found.append(f"the reference has no {name}")
            elif arguments(here[name]) != arguments(reference[name]):
                ours, twin = arguments(here[name]), arguments(reference[name])
                found.append(f"{name}({ours}) differs from reference.{name}({twin})")
    return found


def imports_point_down(root: Path) -> list[str]:
    modules = package(root)
    found = [f"{name} has no floor" for name in modules if floor(name) is None and not is_reference(name)]
    below: dict[str, set[str]] = {}
    for source, line, target, _ in imports(modules):
        if target.startswith("."):
            found.append(f"{source}:{line} imports {target} by a relative name")
        high, low = floor(source), floor(target)
        if target in modules and high is not None and low is not None:
            below.setdefault(source, set()).add(target)
            if low > high:
                found.append(f"{source}:{line} imports {target}, which is above it")
    return found + [f"imports go round: {' -> '.join(circle)}" for circle in circles(below)]


def circles(below: dict[str, set[str]]) -> list[list[str]]:
    """Return the import cycles of two modules or more, one for each module that closes a cycle."""
    done: set[str] = set()
    found: list[list[str]] = []

    def visit(name: str, path: list[str]) -> None:
        if name in path:
            found.append([*path[path.index(name) :], name])
        elif name not in done:
            for target in sorted(below.get(name, set()) - {name}):
                visit(target, [*path, name])
            done.add(name)

    for name in sorted(below):
        visit(name, [])
    return found


def is_reference(name: str) -> bool:
    return name == "reference" or name.startswith("reference.")


def reference_stands_alone(root: Path) -> list[str]:
    """The reference imports only NumPy and the standard library; only comparing commands and `REFERENCE_USERS` import it.

    `__init__` may publish it; commands import it inside functions, so that the command line starts without it.
    """
    found = []
    for source, line, target, local in imports(package(root)):
        top = target.partition(".")[0]
        inside = is_reference(source)
        if inside and not is_reference(target) and top != "numpy" and top not in sys.stdlib_module_names:
            found.append(f"{source}:{line} imports {target}")
        may_import = inside or source in {"__init__", *REFERENCE_USERS} or (place(source) == "cli" and local)
        if is_reference(target) and not may_import:
            found.append(f"{source}:{line} imports the reference")
    return found


def numba_options_in_one_place(root: Path) -> list[str]:
    """Only `kernels/compile/jit.py` calls the compiler or names its options."""
    found = []
    for source, module in package(root).items():
        if source == "kernels.compile.jit":
            continue
        for node in ast.walk(module):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "numba":
                found += [f"{source}:{node.lineno} imports {x.name}" for x in node.names if x.name in JIT_NAMES]
            elif isinstance(node, ast.Attribute) and node.attr in JIT_NAMES and ast.unparse(node.value) in ("numba", "nb"):
                found.append(f"{source}:{node.lineno} uses {ast.unparse(node)}")
            elif isinstance(node, ast.Call) and ast.unparse(node.func) not in OUR_DECORATORS:
                found += [f"{source}:{node.lineno} sets {x.arg}=" for x in node.keywords if x.arg in JIT_OPTIONS]
    return found


def no_assert(root: Path) -> list[str]:
    return [
        f"{source}:{node.lineno} asserts"
        for source, module in package(root).items()
        for node in ast.walk(module)
        if isinstance(node, ast.Assert)
    ]


def no_long_file(root: Path) -> list[str]:
    """No Python file of the package, tests, benchmarks or trials has more than `MOST_LINES` lines."""
    files = [path for folder in ("fastattn", "tests", "benchmarks", "soak") for path in sorted((root / folder).rglob("*.py"))]
    counts = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    return [f"{path.relative_to(root)} has {count} lines" for path, count in counts.items() if count > MOST_LINES]


def few_arguments(root: Path) -> list[str]:
    """No function in `kernels` takes more than `MOST_ARGUMENTS`, except those in `MANY_ARGUMENTS`."""
    found = []
    for source, module in package(root).items():
        if source.partition(".")[0] != "kernels":
            continue
        for node in ast.walk(module):
            if isinstance(node, ast.FunctionDef | ast.Lambda) and getattr(node, "name", "") not in MANY_ARGUMENTS:
                given = node.args
                count = len([*given.posonlyargs, *given.args, *given.kwonlyargs])
                if count > MOST_ARGUMENTS:
                    found.append(f"{source}:{node.lineno} takes {count} arguments")
    return found


Rule = Callable[[Path], list[str]]
RULES: tuple[Rule, ...] = (
    every_op_has_its_files,
    every_backward_has_its_files,
    every_op_has_its_names,
    every_op_is_in_every_list,
    no_list_lacks_an_op,
    imports_point_down,
    reference_stands_alone,
    numba_options_in_one_place,
    no_assert,
    few_arguments,
    no_long_file,
)
