"""Builds the documentation as a site: the pages as they are, the files that they link, and the API from the docstrings.

    python scripts/build_docs.py
    python scripts/build_docs.py --output /tmp/site

Needs the extra `docs`; neither a GPU nor another extra, and no network. A warning of Sphinx ends it with 1. The site
opens from the disk; its search does too.

The pages are laid out in a temporary folder under their paths in the repository, and docs/site/conf.py says what Sphinx
makes of them. A link to a page leads to its page of the site, a link to a file to the file, highlighted, a link to a
folder to a list of its files. The sidebar follows docs/README.md: one part for each of its headings, the pages in the
order in which its tables link them. The last part is the API, by `API_PAGES`.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parent.parent
SETTINGS = ROOT / "docs" / "site"
HOME = "index.md"
"""Where README.md lies in the site."""

PAGES = ("*.md", "docs/*.md", "docs/results/*.md", "data/*.md")
GUIDE = Path("docs/README.md")

LANGUAGES = {
    ".py": "python",
    ".sh": "bash",
    ".toml": "toml",
    ".yaml": "yaml",
    ".yml": "yaml",
}
"""Files that are shown, by suffix; pictures are shown where they stand, and all others are files to take away."""

LONGEST_SHOWN = 64 * 1024

LINK = re.compile(r"`(?:[^`\n]|\n(?!\n))+`|(!?\[[^\]]*\]\()([^)\s]+)(\))|(<img[^>]*src=\")([^\"]+)(\")")
"""A link or a picture, or a piece of code, in which nothing is one: its groups are None."""
FENCED = re.compile(r"(^```.*?^```)", re.MULTILINE | re.DOTALL)
LINKED_ROW = re.compile(r"^\|.*\|\s*$", re.MULTILINE)

NOT_SEARCHED = "---\nno-search: true\n---\n\n"
"""Begins what a search for a word does not look for: pages are found, not files."""

API_PAGES = {
    "Data": ("types", "errors", "seeding", "stored_arrays"),
    "Selectors": ("selector.*",),
    "Gates": ("gate.*",),
    "Tasks": ("task.*",),
    "Rewards": ("reward.*", "reward.math.reward"),
    "Algorithms": ("algorithm.*",),
    "Learners": ("learner.base", "learner.settings", "learner.processes", "learner.batch"),
    "Rollout engines": ("rollout.base",),
    "Weight sync": ("weight_sync.base",),
    "Runtimes": ("runtime.base", "runtime.settings"),
    "Monitors": ("monitor.*",),
    "Trainer": ("trainer", "trainer_async", "config", "run", "checkpoint"),
    "Other frameworks": ("integration.*", "selector_service.client"),
    "Comparison": ("compare.plan", "compare.comparison", "compare.results", "compare.statistics", "compare.speedup"),
    "Simulation": ("simulation.*",),
}
"""The pages of the API, and which modules of insight_rl stand on each: those whose names somebody outside writes."""

NOT_API = ("*_kernel", "*_worker", "*_processes", "*_phrases", "*_review", "*.__init__")


class Stop(Exception):
    """What keeps the site from being built, in a sentence."""


@dataclass
class Layout:
    """The folder that Sphinx reads, filled by following links from the pages."""

    folder: Path
    placed: set[Path] = field(default_factory=set)
    """Files and folders of the repository that have their place, relative to ROOT."""

    def page(self, page: Path) -> None:
        """A page of the repository, with the links of :meth:`link`."""
        parts = FENCED.split((ROOT / page).read_text(encoding="utf-8"))
        for index in range(0, len(parts), 2):
            parts[index] = LINK.sub(lambda match: self._link(page, match), parts[index])
        self.write(_in_site(page), "".join(parts))

    def _link(self, page: Path, match: re.Match[str]) -> str:
        if not any(match.groups()):
            return match[0]
        before, target, after = (group for group in match.groups() if group is not None)
        return f"{before}{self.link(page, target)}{after}"

    def link(self, page: Path, target: str) -> str:
        """The same link for the site: what it names is laid out, unless it is there."""
        name, mark, anchor = target.partition("#")
        if not name or re.match(r"[a-z]+:", name):
            return target
        file = Path(os.path.relpath((ROOT / page).parent / name, ROOT))
        if not (ROOT / file).exists() or file.parts[0] == "..":
            raise Stop(f"{page} links {target}, which is not there")
        place = self.place(file)
        start = _in_site(page).parent
        return f"{os.path.relpath(place, start)}{mark}{anchor}"

    def place(self, file: Path) -> Path:
        """Where ``file`` of the repository lies in the site; it is put there the first time."""
        if file in _pages():
            return _in_site(file)
        is_folder = (ROOT / file).is_dir()
        place = file / "files.md" if is_folder else Path(f"{file}.md") if is_shown(file) else file
        if file in self.placed:
            return place
        self.placed.add(file)
        if is_folder:
            self.write(place, self._list_of(file))
        elif is_shown(file):
            self.write(place, _shown(file))
        else:
            (self.folder / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / file, self.folder / place)
        return place

    def _list_of(self, folder: Path) -> str:
        files = [each.relative_to(ROOT) for each in sorted((ROOT / folder).rglob("*")) if each.is_file()]
        files = [each for each in files if not any(part[0] == "." or part == "__pycache__" for part in each.parts)]
        rows = [f"- [{file.relative_to(folder)}]({os.path.relpath(self.place(file), folder)})" for file in files]
        return "\n".join([f"{NOT_SEARCHED}# {folder}/", "", *rows, ""])

    def write(self, place: Path, text: str) -> None:
        (self.folder / place).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / place).write_text(text, encoding="utf-8")


def _pages() -> list[Path]:
    return [page.relative_to(ROOT) for pattern in PAGES for page in sorted(ROOT.glob(pattern))]


def _in_site(page: Path) -> Path:
    return Path(HOME) if page == Path("README.md") else page


def is_shown(file: Path) -> bool:
    return file.suffix in LANGUAGES and (ROOT / file).stat().st_size <= LONGEST_SHOWN


def _shown(file: Path) -> str:
    """A page with the file's text."""
    text = (ROOT / file).read_text(encoding="utf-8")
    fence = "`" * (3 + max(map(len, re.findall("`+", text)), default=0))
    return f"{NOT_SEARCHED}# {file}\n\n{fence}{LANGUAGES[file.suffix]}\n{text.rstrip()}\n{fence}\n"


# ---------------------------------------------------------------------------------------------------------------------
# The sidebar


def parts_of_guide() -> Iterator[tuple[str, list[Path]]]:
    """The headings of docs/README.md, each with the files that its table links, in order."""
    for part in (ROOT / GUIDE).read_text(encoding="utf-8").split("\n## ")[1:]:
        caption, _, text = part.partition("\n")
        links = [match[2] for row in LINKED_ROW.findall(text) for match in LINK.finditer(row) if match[2]]
        names = dict.fromkeys(link.partition("#")[0] for link in links if not re.match(r"[a-z]+:|#", link))
        yield caption.strip(), [Path(os.path.relpath(ROOT / GUIDE.parent / name, ROOT)) for name in names]


def sidebar(layout: Layout) -> str:
    """The contents of the site, for the end of its first page, which does not show them."""
    parts = list(parts_of_guide())
    listed = {page for _, pages in parts for page in pages} | {GUIDE, Path("README.md")}
    for page in _pages():
        if page.parent in (Path(), Path("docs")) and page not in listed:
            raise Stop(f"{page} is in no table of {GUIDE}, which the sidebar follows: add a row there")
    blocks = [_toctree("", [f"All pages <{GUIDE}>"])]
    blocks += [_toctree(caption, [str(layout.place(page)) for page in pages]) for caption, pages in parts]
    blocks += [_toctree("API", [f"{title} <api/{_file_name(title)}.rst>" for title in API_PAGES])]
    return "\n".join(["", *blocks])


def _toctree(caption: str, entries: list[str]) -> str:
    options = [":hidden:", ":titlesonly:", *([f":caption: {caption}"] if caption else [])]
    return "\n".join(["```{toctree}", *options, "", *entries, "```", ""])


# ---------------------------------------------------------------------------------------------------------------------
# The API


def modules_of(patterns: tuple[str, ...]) -> list[str]:
    """The modules of insight_rl that the patterns name; `base` comes first, since it says what the others are."""
    names = [
        ".".join(file.relative_to(ROOT / "insight_rl").with_suffix("").parts)
        for file in sorted((ROOT / "insight_rl").rglob("*.py"))
    ]
    found: list[str] = []
    for pattern in patterns:
        matching = [
            name
            for name in names
            if fnmatch(name, pattern) and name.count(".") == pattern.count(".")
            if not any(fnmatch(name, each) for each in NOT_API)
        ]
        if not matching:
            raise Stop(f"no module is called insight_rl.{pattern}: mend API_PAGES of scripts/build_docs.py")
        found += sorted(matching, key=lambda name: (not name.endswith(".base"), name))
    return found


def _file_name(title: str) -> str:
    return title.lower().replace(" ", "_")


def write_api(layout: Layout) -> None:
    for title, patterns in API_PAGES.items():
        heading = f"{title}: the API"
        lines = [heading, "=" * len(heading), "", ".. highlight:: python", ""]
        for module in modules_of(patterns):
            name = f"insight_rl.{module}"
            lines += [name, "-" * len(name), "", f".. automodule:: {name}", ""]
        layout.write(Path("api") / f"{_file_name(title)}.rst", "\n".join(lines))


# ---------------------------------------------------------------------------------------------------------------------
# The site


def lay_out(folder: Path) -> None:
    """Writes everything that Sphinx reads into ``folder``. Raises :class:`Stop` for a page that cannot be placed."""
    layout = Layout(folder)
    for page in _pages():
        layout.page(page)
    with (folder / HOME).open("a", encoding="utf-8") as home:
        home.write(sidebar(layout))
    write_api(layout)


def build(output: Path) -> str:
    """Builds the site into ``output`` and returns the warnings, which a site that is as it should be has none of."""
    from sphinx.application import Sphinx
    from sphinx.ext.autodoc.mock import mock
    from sphinx.util.docutils import docutils_namespace, patch_docutils

    if output.exists() and not (output.is_dir() and (_is_site(output) or not any(output.iterdir()))):
        raise Stop(f"--output {output} is there and is not a site that was built before: remove it, or name another")
    warnings = io.StringIO()
    with tempfile.TemporaryDirectory() as work, patch_docutils(SETTINGS), docutils_namespace():
        source, site = Path(work, "source"), Path(work, "site")
        lay_out(source)
        app = Sphinx(source, SETTINGS, site, Path(work, "read"), "html", status=None, warning=warnings)
        # Sphinx looks for the source of base classes, and would import what is stood in for.
        with mock(app.config.autodoc_mock_imports):
            app.build()
        if output.exists():
            shutil.rmtree(output)
        shutil.copytree(site, output)
        return re.sub(r"\x1b\[[\d;]*m", "", warnings.getvalue()).replace(f"{source}{os.sep}", "")


def _is_site(folder: Path) -> bool:
    return (folder / "searchindex.js").is_file() and (folder / "objects.inv").is_file()


def main() -> int:
    parser = argparse.ArgumentParser(description="Builds the documentation as a site.")
    parser.add_argument("--output", type=Path, default=ROOT / "site", help="folder of the site (default: site)")
    output = parser.parse_args().output
    try:
        warnings = build(output)
    except ModuleNotFoundError as error:
        if error.name != "sphinx":
            raise
        print("the site needs Sphinx: pip install -e '.[docs]'", file=sys.stderr)
        return 2
    except Stop as stop:
        print(stop, file=sys.stderr)
        return 2
    if warnings:
        print(f"{warnings}every warning counts as an error", file=sys.stderr)
        return 1
    print(f"{sum(1 for _ in output.rglob('*.html'))} pages: {output / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
