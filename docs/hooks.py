"""What the documentation takes from the project while it is built: tutorials with their output, results, families, drawings."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import io
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def on_files(files: Files, config: Any) -> Files:
    """Add the pages and pictures that are not below docs/."""

    def add(name: str, content: str | bytes) -> None:
        files.append(File.generated(config, name, content=content))

    add("changes.md", (ROOT / "CHANGELOG.md").read_text("utf-8"))
    for path in sorted(RESULTS.iterdir()):
        if path.suffix == ".md":
            add(f"results/{path.name}", path.read_text("utf-8"))
        elif path.suffix in (".png", ".svg"):
            add(f"results/{path.name}", path.read_bytes())
    add("attention.png", (ROOT / "examples" / "attention.png").read_bytes())
    for name, content in {**tutorial(), **learning()}.items():
        add(name, content)
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in drawings, source code and tables."""
    drawings = _load("drawings").DRAWINGS
    markdown = re.sub(r"^\{\{ source (\S+) ?(.*) \}\}$", lambda found: source(*found.groups()), markdown, flags=re.MULTILINE)
    markdown = re.sub(r"^\{\{ drawing (\w+) \}\}$", lambda found: drawings[found[1]](), markdown, flags=re.MULTILINE)
    for mark, made in (("{{ families }}", families), ("{{ kinds }}", kinds), ("{{ op lists }}", op_lists)):
        markdown = markdown.replace(mark, made()) if mark in markdown else markdown
    return markdown


def on_page_content(html: str, **_: Any) -> str:
    """Tidy the reference: no backticks inside code, no dash before a description that is not there."""
    html = re.sub(r"<code>[^<]*`[^<]*</code>", lambda found: found[0].replace("`", ""), html)
    return re.sub(r"\s\u2013\s*<div class=\"doc-md-description\">\s*</div>", "", html)


def _load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tutorial() -> dict[str, str | bytes]:
    """Run examples/tutorial.py cell by cell: the page, with what each cell prints, and the pictures that it draws."""
    script = ROOT / "examples" / "tutorial.py"
    head, *parts = re.split(r"^# %%(.*)\n", script.read_text("utf-8"), flags=re.MULTILINE)
    del head
    page: list[str] = []
    found: dict[str, str | bytes] = {}
    names: dict[str, Any] = {"__name__": "__main__"}
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            for kind, text in zip(parts[::2], parts[1::2], strict=True):
                if "[markdown]" in kind:
                    page.append(re.sub(r"^# ?", "", text.strip(), flags=re.MULTILINE))
                    continue
                printed = io.StringIO()
                with contextlib.redirect_stdout(printed):
                    exec(compile(text, script, "exec"), names)
                page.append(f"```python\n{text.strip()}\n```")
                if said := printed.getvalue().strip("\n"):
                    page.append(f"```{{.text .output}}\n{said}\n```")
                for path in sorted(Path("tutorial-output").glob("*.png")):
                    name = f"tutorial-{path.name}"
                    if name not in found:
                        found[name] = path.read_bytes()
                        page.append(f"![{path.stem.replace('-', ' ')}]({name})")
        finally:
            os.chdir(before)
    note = "This page is `examples/tutorial.py`, run while the documentation was built; the output is what it printed."
    page.insert(1, f"*{note}*")
    return {"tutorial.md": "\n\n".join(page) + "\n", **found}


def learning() -> dict[str, str]:
    """Run examples/learning.ipynb cell by cell: the page, with what each cell prints."""
    notebook = ROOT / "examples" / "learning.ipynb"
    page: list[str] = []
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in json.loads(notebook.read_text("utf-8"))["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            page.append(text)
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(text, notebook, "exec"), names)
        page.append(f"```python\n{text}\n```")
        if said := printed.getvalue().strip("\n"):
            page.append(f"```{{.text .output}}\n{said}\n```")
    page[0] += "\n\n*This page is the notebook `examples/learning.ipynb`, run while the documentation was built.*"
    return {"learning.md": "\n\n".join(page) + "\n"}


def source(path: str, names: str) -> str:
    """Return functions of a file, or all of it, as a block of code: without docstrings longer than a line, and mypy's marks."""
    text = (ROOT / path).read_text("utf-8")
    lines = text.splitlines()
    nodes = {x.name: x for x in ast.parse(text).body if isinstance(x, ast.FunctionDef | ast.ClassDef)}
    wanted = names.split()
    if missing := set(wanted) - set(nodes):
        raise PluginError(f"{path} has no {', '.join(sorted(missing))}")
    parts = []
    for node in (nodes[name] for name in wanted):
        first = min([node.lineno, *(x.lineno for x in node.decorator_list)])
        parts.append("\n".join(lines[first - 1 : node.end_lineno]))
    code = "\n\n\n".join(parts) if wanted else text.strip()
    code = re.sub(r'("""[^"\n]*)\n\n.*?"""', r'\1"""', code, flags=re.DOTALL)
    code = re.sub(r"  # (type: ignore\[[^\]]*\]|fmt: skip)", "", code)
    return f'```{{.python .template title="{path}"}}\n{code}\n```'


def families() -> str:
    """Return the table of the families, read from `FAMILIES` and the test models in tests/data/golden."""
    from fastattn.checkpoint.config_json import Settings
    from fastattn.checkpoint.families import FAMILIES

    golden = ROOT / "tests" / "data" / "golden"
    lines = [
        "| family | `model_type` | positions | norm | feed-forward | attention | heads |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, family in FAMILIES.items():
        # Model types that share a description have one test model.
        like = [other for other in FAMILIES if FAMILIES[other].config is family.config and (golden / other).is_dir()]
        if not like:
            continue
        settings = Settings(golden / (name if name in like else like[0]) / "config.json")
        config = family.config(settings)
        positions = f"{config.positions or 'none'}{', relative bias' if config.relative_buckets else ''}"
        places = "before sublayers" if config.norm_first else "after sublayers"
        norm = f"{'RMS, ' if config.norm == 'rms' else ''}{places}{' and behind them' if config.output_norms else ''}"
        network = "gated" if config.gated else "plain"
        windows = [config.layer(i).window for i in range(config.num_layers)]
        seen = "causal" if all(right == 0 for _, right in windows) else "all"
        seen += ", and windows" if any(left is not None for left, _ in windows) else ""
        heads = ", ".join(task.removesuffix("-classification") for task in family.heads(settings))
        lines.append(f"| {family.title} | `{name}` | {positions} | {norm} | {network} | {seen} | {heads} |")
    return "\n".join(lines)


def kinds() -> str:
    """Return the table of the kinds of model, as `fastattn models --markdown` prints it."""
    from fastattn.cli.models import markdown

    return markdown()


def op_lists() -> str:
    """Return the files that name every op, as the layout test lists them, and where each names `softmax`."""
    layout = ast.parse((ROOT / "tests" / "support" / "layout.py").read_text("utf-8"))
    values = {ast.unparse(node.targets[0]): node.value for node in layout.body if isinstance(node, ast.Assign)}
    lines = ["| file | for example |", "|---|---|"]
    for path in ast.literal_eval(values["OP_LISTS"]):
        text = (ROOT / path).read_text("utf-8")
        lines.append(f"| `{path}` | `{next(line.strip() for line in text.splitlines() if 'softmax' in line)}` |")
    return "\n".join(lines)
