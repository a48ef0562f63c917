"""README.md: its code runs and prints the output shown; its commands, targets, links and paths exist."""

import re

import pytest

from tests.support import pages

ROOT = pages.ROOT
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_code_runs_and_prints_what_it_says() -> None:
    assert pages.run(README, "README.md") > 2


def test_is_a_front_page() -> None:
    assert len(README.splitlines()) < 150


def test_make_targets_exist() -> None:
    assert {"demo", "test", "docs", "bench"} <= pages.make_targets(README) <= pages.makefile_targets()
    # README's first two make commands.
    assert re.findall(r"^make ([a-z]+)", README, re.MULTILINE)[:2] == ["demo", "test"]


def test_commands_are_those_of_the_command_line() -> None:
    assert pages.commands(README) == pages.command_line()


@pytest.mark.parametrize("path", sorted(pages.paths(README)))
def test_paths_exist(path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)]*)\)", README))))
def test_links_lead_to_files(link: str) -> None:
    assert (ROOT / link).is_file()


def test_folders_are_those_of_the_package() -> None:
    """The picture of the folders names every folder of the package, and only existing modules."""
    picture = re.search(r"^```text\nfastattn/\n(.*?)^```$", README, re.DOTALL | re.MULTILINE).group(1)  # type: ignore[union-attr]
    inside = "\n".join(line for line in picture.splitlines() if line.startswith("  "))
    folders = {path.name for path in (ROOT / "fastattn").iterdir() if (path / "__init__.py").is_file()}
    assert folders <= set(re.findall(r"(\w+)/", inside))
    for name in re.findall(r"^  ((?:[\w.]+/? )+)", inside, re.MULTILINE):
        assert all((ROOT / "fastattn" / part).exists() for part in name.split()), name


def test_numbers_have_a_place() -> None:
    assert len(re.findall(r"<!-- numbers:begin -->\n.*?<!-- numbers:end -->", README, re.DOTALL)) == 1
