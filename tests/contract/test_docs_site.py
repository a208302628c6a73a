"""The site of the documentation: built without a warning, every link leads somewhere, it searches without a network."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import subprocess
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

pytest.importorskip("furo", reason="needs the extra docs")

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "build_docs.py"


def _script():
    spec = importlib.util.spec_from_file_location("build_docs", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["build_docs"] = module  # where dataclasses look for the types of their fields
    spec.loader.exec_module(module)
    return module


build_docs = _script()


@dataclass
class Page(HTMLParser):
    """The ids, links and loaded files of a page, and its text."""

    ids: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    text: str = ""

    def __post_init__(self):
        super().__init__()

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if "id" in given:
            self.ids.add(given["id"])
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag in ("img", "script", "iframe") and "src" in given:
            self.loaded.append(given["src"])
        if tag == "link" and given["rel"] in ("stylesheet", "icon", "preload"):
            self.loaded.append(given["href"])

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site as the command builds it."""
    folder = tmp_path_factory.mktemp("docs") / "site"
    done = subprocess.run([sys.executable, SCRIPT, "--output", folder], capture_output=True, text=True, timeout=500)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site):
    pages = {}
    for file in sorted(site.rglob("*.html")):
        pages[file] = Page()
        pages[file].feed(file.read_text(encoding="utf-8"))
    return pages


@pytest.mark.slow
@pytest.mark.xdist_group("docs site")
class TestSite:
    def test_every_link_leads_to_a_page_and_a_heading(self, pages):
        dead = []
        for file, page in pages.items():
            for link in page.links:
                name, _, anchor = unquote(link).partition("#")
                if re.match(r"[a-z]+:", link):
                    continue
                target = (file.parent / name).resolve() if name else file
                if not target.is_file() or (anchor and target in pages and anchor not in pages[target].ids):
                    dead.append((file.name, link))
        assert dead == []
        assert sum(len(page.links) for page in pages.values()) > 1000

    def test_all_that_a_page_loads_is_in_the_site(self, site, pages):
        for file, page in pages.items():
            for name in page.loaded:
                path = file.parent / unquote(name).partition("?")[0]
                assert path.is_file(), f"{file.relative_to(site)} loads {name}"

    def test_every_page_of_the_repository_is_in_the_sidebar(self, site, pages):
        sidebar = pages[site / "index.html"].links
        names = [page.relative_to(ROOT).with_suffix(".html") for page in ROOT.glob("docs/*.md")]
        assert [str(name) for name in names if str(name) not in sidebar] == []

    def test_words_are_found(self, site):
        index = (site / "searchindex.js").read_text(encoding="utf-8")
        index = json.loads(index.removeprefix("Search.setIndex(").rstrip().removesuffix(")"))
        found = index["terms"]["stale"]
        files = [index["docnames"][each] for each in ([found] if isinstance(found, int) else found)]
        assert "docs/training" in files
        assert not any(name.startswith(("insight_rl/", "examples/")) for name in files), "files are not searched"
        assert "insight_rl.selector.base" in index["objects"]

    def test_the_api_has_the_docstrings(self, site, pages):
        from insight_rl.selector.base import Selector
        from insight_rl.types import Prompt

        page = pages[site / "api" / "selectors.html"]
        assert "insight_rl.selector.base.Selector" in page.ids
        assert Selector.__doc__.splitlines()[0] in page.text
        assert Selector.observe.__doc__ in page.text
        assert Prompt.__doc__.splitlines()[0] in pages[site / "api" / "data.html"].text

    def test_a_linked_file_is_shown_as_it_is(self, site, pages):
        page = pages[site / "examples" / "grpo_in_one_file.py.html"]
        assert (ROOT / "examples" / "grpo_in_one_file.py").read_text(encoding="utf-8").strip() in page.text

    def test_an_extra_is_stood_in_for(self, site, pages):
        assert "insight_rl.integration.trl.GRPOTrainer" in pages[site / "api" / "other_frameworks.html"].ids


DOCSTRINGS = '''"""Good: :class:`Real`, :func:`dumps`, :class:`trl.Trainer`. Bad: :class:`Gone`.

    laid | out      as it is
"""
from json import dumps

class Real:
    """Bad: :meth:`gone`. Good: :meth:`there`."""
    def there(self, x: "NotThere"):
        """Good: :data:`insight_rl.types.DTYPES`."""
'''


@pytest.mark.slow
@pytest.mark.xdist_group("docs site")
def test_what_names_nothing_is_told(tmp_path, monkeypatch):
    from sphinx.application import Sphinx
    from sphinx.util.docutils import docutils_namespace, patch_docutils

    source = tmp_path / "source"
    source.mkdir()
    (source / "index.md").write_text("# Top\n\n[a](#top) [b](#gone) [c](gone.md)\n\n```{toctree}\napi\n```\n")
    (source / "api.rst").write_text("API\n===\n\n.. automodule:: insight_rl_docstrings\n")
    (source / "insight_rl_docstrings.py").write_text(DOCSTRINGS)
    monkeypatch.syspath_prepend(source)
    warnings = io.StringIO()
    with patch_docutils(build_docs.SETTINGS), docutils_namespace():
        Sphinx(
            source, build_docs.SETTINGS, tmp_path / "site", tmp_path / "read", "html", status=None, warning=warnings
        ).build()
    told = re.findall(r"target not found: '?([\w.]+)", warnings.getvalue())
    assert sorted(told) == ["Gone", "gone", "gone", "gone.md"], warnings.getvalue()
    assert len(warnings.getvalue().splitlines()) == 4
    page = (tmp_path / "site" / "api.html").read_text(encoding="utf-8")
    assert "laid | out      as it is" in page


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A repository of two pages."""
    root = tmp_path / "repository"
    (root / "docs").mkdir(parents=True)
    (root / "README.md").write_text("# Top\n\n[guide](docs/README.md) [code](a.py) `[x](y)`\n")
    (root / "docs" / "README.md").write_text("# All\n\n## First part\n\n| | |\n|-|-|\n| a | [one](one.md) |\n")
    (root / "docs" / "one.md").write_text("# One\n\n[top](../README.md#top) [folder](../code/)\n\n```\n[x](y)\n```\n")
    (root / "a.py").write_text('"""Text with a\n```\nfence."""\n')
    (root / "code").mkdir()
    (root / "code" / "b.csv").write_text("1\n")
    monkeypatch.setattr(build_docs, "ROOT", root)
    monkeypatch.setattr(build_docs, "API_PAGES", {})
    return root


def test_pages_and_what_they_link_are_laid_out(small, tmp_path):
    folder = tmp_path / "source"
    build_docs.lay_out(folder)
    assert "[guide](docs/README.md) [code](a.py.md)" in (folder / "index.md").read_text()
    assert ":caption: First part\n\ndocs/one.md\n" in (folder / "index.md").read_text()
    one = (folder / "docs" / "one.md").read_text()
    assert "[top](../index.md#top) [folder](../code/files.md)\n\n```\n[x](y)\n```" in one
    assert '````python\n"""Text with a\n```\nfence."""\n````' in (folder / "a.py.md").read_text()
    assert "- [b.csv](b.csv)" in (folder / "code" / "files.md").read_text()
    assert (folder / "code" / "b.csv").is_file()


def test_a_page_without_a_place_in_the_sidebar_is_told(small, tmp_path):
    (small / "docs" / "hub.md").write_text("# Hub\n")
    with pytest.raises(build_docs.Stop, match=r"docs/hub.md is in no table of docs/README.md.*add a row there"):
        build_docs.lay_out(tmp_path / "source")


def test_a_link_to_nothing_is_told(small, tmp_path):
    (small / "docs" / "one.md").write_text("# One\n\n[gone](../gone.py)\n")
    with pytest.raises(build_docs.Stop, match=r"docs/one.md links ../gone.py, which is not there"):
        build_docs.lay_out(tmp_path / "source")


def test_a_folder_of_something_else_is_kept(tmp_path):
    (tmp_path / "own.txt").touch()
    with pytest.raises(build_docs.Stop, match="is not a site"):
        build_docs.build(tmp_path)
    assert (tmp_path / "own.txt").is_file()
