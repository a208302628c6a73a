"""What the documentation points to is there: files, headings, pages in the index, and the code it shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "data" / "README.md"]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)|<img[^>]*src=\"([^\"]+)\"|srcset=\"([^\"]+)\"")
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
SHOWN_FILE = re.compile(r"^`(examples/[^`]+)`:\n\n```\w+\n(.*?)```", re.MULTILINE | re.DOTALL)


def _anchors(page: Path) -> set[str]:
    """The ids that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page):
    dead = []
    for match in LINK.finditer(FENCED.sub("", page.read_text())):
        target = next(filter(None, match.groups()))
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in _anchors(file)):
            dead.append(target)
    assert not dead


def test_the_index_lists_every_page():
    index = (ROOT / "docs" / "README.md").read_text()
    missing = [page.name for page in (ROOT / "docs").glob("*.md") if f"({page.name})" not in index]
    assert missing == ["README.md"]


@pytest.mark.parametrize("name", ["docs/README.md", "docs/training.md", "docs/extending.md", "docs/security.md"])
def test_the_readme_links_the_guide(name):
    assert f"({name})" in (ROOT / "README.md").read_text()


def test_the_readme_shows_the_whole_tree():
    tree = (ROOT / "README.md").read_text().partition("## What is where")[2].partition("## ")[0]
    package = ROOT / "insight_rl"
    shown = set(re.findall(r"^ *([\w.]+\.py|[\w/]+/)(?= )", tree, re.MULTILINE))
    modules = {file.name for file in package.glob("*.py")} - {"__init__.py"}
    packages = {f"{init.parent.name}/" for init in package.glob("*/__init__.py")}
    folders = {f"{name}/" for name in ("conf", "data", "examples", "scripts", "docker", "docs", "tests")}
    assert (modules | packages | folders) - shown == set(), "the tree of README.md lacks these"
    gone = {name for name in shown if name.endswith(".py")} - modules
    assert not gone, "the tree of README.md names what is not there"


def test_files_shown_in_a_page_are_those_that_tests_run():
    shown = dict(SHOWN_FILE.findall((ROOT / "docs" / "extending.md").read_text()))
    own = [*(ROOT / "examples" / "conf").glob("own_*.py"), *(ROOT / "examples" / "conf").rglob("*.yaml")]
    assert shown.keys() == {str(file.relative_to(ROOT)) for file in own}
    for name, code in shown.items():
        assert code == (ROOT / name).read_text(), f"docs/extending.md shows another {name}"
    own_reward = (ROOT / "examples" / "conf" / "own_reward.py").read_text()
    assert f"```python\n{own_reward}```" in (ROOT / "docs" / "rewards.md").read_text()
