"""Documentation: the build gives no warning and needs no network, every link resolves, and the code of its pages runs."""

import functools
import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import fastattn
from fastattn import integrations, modules, reference, util
from fastattn.checkpoint.families import FAMILIES
from tests.support import pages

ROOT = pages.ROOT
DOCS = ROOT / "docs"
PAGES = {path.relative_to(DOCS).as_posix(): path.read_text(encoding="utf-8") for path in sorted(DOCS.rglob("*.md"))}
# HTML tags and attributes whose resources a browser loads by itself.
LOADED = {"img": "src", "script": "src", "link": "href", "iframe": "src", "source": "src", "video": "src", "use": "href"}
HAS_MKDOCS = all(importlib.util.find_spec(name) is not None for name in ("mkdocs", "material", "mkdocstrings"))

builds = [pytest.mark.jit, pytest.mark.skipif(not HAS_MKDOCS, reason="needs the packages of the extra `docs`")]


class Page(HTMLParser):
    """HTML page: its links, loaded resources and anchors."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attributes}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        elif tag in LOADED and LOADED[tag] in found and found.get("rel") != "canonical":
            self.loads.append(found[LOADED[tag]])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    # A dead proxy: a build that needs the network fails.
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    environment = {**os.environ, **nowhere, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, encoding="utf-8", check=False)
    said = built.stderr.replace("compiling kernels for this CPU, once (up to a minute)\n", "")
    assert built.returncode == 0 and not said and not built.stdout, (said + built.stdout)[-3000:]
    return folder


@functools.cache
def read(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def broken(folder: Path) -> list[str]:
    """Return each link, anchor, picture or resource of a built site that does not resolve or is loaded from another site."""
    found = []
    for path in sorted(folder.rglob("*.html")):
        page, name = read(path), path.relative_to(folder).as_posix()
        for kind, targets in (("loads", page.loads), ("links to", page.links)):
            for target in targets:
                parts = urlsplit(target)
                if parts.scheme in ("http", "https", "mailto") or parts.netloc:
                    found += [f"{name} loads {target}"] if kind == "loads" else []
                    continue
                if parts.scheme == "data":
                    continue
                inside = unquote(parts.path)
                to = folder / inside.removeprefix("/") if inside.startswith("/") else (path.parent / inside if inside else path)
                to = to / "index.html" if to.is_dir() else to
                if not to.is_file():
                    found.append(f"{name} {kind} {target}, which is not there")
                elif parts.fragment and to.suffix == ".html" and unquote(parts.fragment) not in read(to.resolve()).anchors:
                    found.append(f"{name} {kind} {target}, an anchor that is not there")
    for path in sorted(folder.rglob("*.css")):
        for target in re.findall(r"""(?:url\(|@import )["']?([^"')]+)""", path.read_text(encoding="utf-8")):
            if re.match(r"(?:https?:)?//", target):
                found.append(f"{path.relative_to(folder).as_posix()} loads {target}")
    return found


class TestSite:
    pytestmark = builds

    def test_everything_resolves(self, site: Path) -> None:
        assert len(list(site.rglob("*.html"))) > len(PAGES)
        assert broken(site) == []

    def test_every_public_name_is_in_the_reference(self, site: Path) -> None:
        names = [f"fastattn.{name}" for name in fastattn.__all__]
        for module in (reference, modules, integrations):
            names += [f"{module.__name__}.{name}" for name in module.__all__]
        names += [f"fastattn.util.{name}" for name in util.__all__ if name not in fastattn.__all__]
        anchors = set().union(*(read(path).anchors for path in (site / "reference").glob("*.html")))
        assert sorted(set(names) - anchors) == []

    def test_inherited_methods_are_in_the_reference(self, site: Path) -> None:
        anchors = read(site / "reference" / "text.html").anchors
        for owner in (fastattn.SentenceTransformer, fastattn.CrossEncoder):
            public = [name for name in dir(owner) if not name.startswith("_")]
            methods = [name for name in public if callable(getattr(owner, name)) or isinstance(getattr(owner, name), property)]
            assert len(methods) > 20
            assert [name for name in methods if f"fastattn.{owner.__name__}.{name}" not in anchors] == []

    def test_every_family_is_among_the_models(self, site: Path) -> None:
        text = (site / "models.html").read_text(encoding="utf-8")
        assert [name for name in FAMILIES if f"<code>{name}</code>" not in text] == []

    def test_the_tutorial_has_its_output(self, site: Path) -> None:
        text = (site / "tutorial.html").read_text(encoding="utf-8")
        assert "the same bits as in the batch? True" in text
        assert "hide the password while the user types it" in text

    def test_every_drawing_is_shown(self, site: Path) -> None:
        shown = "".join(path.read_text(encoding="utf-8") for path in (site / "kernels").glob("*.html"))
        assert shown.count('<figure class="drawing">') == 6
        assert "{{" not in re.sub(r"<script.*?</script>", "", shown, flags=re.DOTALL)


FAULTS = {
    "a link": ('<a href="other.html">', "links to other.html, which is not there"),
    "an anchor": ('<a href="#nowhere">', "#nowhere, an anchor that is not there"),
    "an anchor of another page": ('<a href="b.html#nowhere">', "b.html#nowhere, an anchor"),
    "a picture": ('<img src="none.png">', "loads none.png, which is not there"),
    "a foreign picture": ('<img src="https://example.org/x.png">', "loads https://example.org/x.png"),
    "a foreign script": ('<script src="//example.org/x.js"></script>', "loads //example.org/x.js"),
    "a foreign font": ('<link href="https://example.org/font.css" rel="stylesheet">', "loads https://example.org/font.css"),
}


@pytest.mark.parametrize(("fault", "message"), FAULTS.values(), ids=FAULTS)
def test_a_broken_page_is_found(fault: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "b.html").write_text('<h1 id="here">B</h1><a href="https://example.org">elsewhere</a>', encoding="utf-8")
    (tmp_path / "a.html").write_text('<a href="b.html#here">', encoding="utf-8")
    read.cache_clear()
    assert broken(tmp_path) == []
    (tmp_path / "a.html").write_text(fault, encoding="utf-8")
    read.cache_clear()
    assert [message in line for line in broken(tmp_path)] == [True]


@pytest.mark.jit
@pytest.mark.parametrize("name", [name for name, page in PAGES.items() if pages.blocks(page, "python")])
def test_code_runs_and_prints_what_it_says(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert pages.run(PAGES[name], name) > 0


def test_make_targets_exist() -> None:
    assert set().union(*map(pages.make_targets, PAGES.values())) <= pages.makefile_targets()


def test_commands_are_those_of_the_command_line() -> None:
    assert pages.commands(PAGES["how-to/command-line.md"]) == pages.command_line()
    assert set().union(*map(pages.commands, PAGES.values())) == pages.command_line()


def test_every_test_of_a_promise_has_a_row() -> None:
    found = {f"tests/promises/{path.name}" for path in (ROOT / "tests/promises").glob("test_*.py")}
    assert found and found <= set(pages.paths(PAGES["promises.md"]))


@pytest.mark.parametrize("path", sorted(set().union(*map(pages.paths, PAGES.values()))))
def test_paths_exist(path: str) -> None:
    assert (ROOT / path).exists()
