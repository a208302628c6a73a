"""Sphinx's settings for the site: scripts/build_docs.py lays the pages out, and starts Sphinx with these."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
from itertools import pairwise
from pathlib import Path

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

import insight_rl

project = "insight_rl"
version = release = insight_rl.__version__
root_doc = "index"
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
extensions = ["myst_parser", "sphinx.ext.autodoc"]

# A code block that names no language is a command, a formula or a text.
highlight_language = "text"
smartquotes = False
# `text` in a docstring is code, as on the pages.
default_role = "literal"

# Pages are written for GitHub: its headings' ids, its tables, and nothing of MyST's own syntax.
myst_heading_anchors = 6
myst_enable_extensions = ["html_image"]
myst_disable_syntax = ["myst_role", "myst_line_comment", "myst_block_break", "myst_target"]

# A role that names nothing is an error. Annotations may name what no page of the site describes: see below.
nitpicky = True

# The files that pages link are pages too; that each page of docs/ is in the sidebar, scripts/build_docs.py checks.
suppress_warnings = ["toc.not_included"]

# What comes with an extra, or with another framework, is stood in for: the site is the same with and without it.
CORE = {
    *("accelerate", "datasets", "httpx", "huggingface_hub", "hydra", "insight_rl", "jinja2", "math_verify"),
    *("matplotlib", "mpmath", "numba", "numpy", "omegaconf", "packaging", "peft", "pyarrow", "pydantic", "requests"),
    *("rich", "safetensors", "scipy", "tokenizers", "torch", "transformers", "wandb", "yaml"),
}


def _imported(package: Path) -> set[str]:
    """The top-level names of all that the modules of ``package`` import, anywhere."""
    names: set[str] = set()
    for file in package.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {each.name.partition(".")[0] for each in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.partition(".")[0])
    return names


autodoc_mock_imports = sorted(_imported(Path(insight_rl.__file__).parent) - CORE - sys.stdlib_module_names)
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_type_aliases = {"Floats": "numpy.ndarray"}
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 140
add_module_names = False
toc_object_entries = False

html_theme = "furo"
html_title = f"insight_rl {version}"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}
templates_path: list[str] = []


def _found(target: str, module: str | None, cls: str | None) -> object | None:
    """What a reader of a docstring of ``module`` (and ``cls``) finds under the name ``target``; None: nothing."""
    for start in (".".join(filter(None, (module, cls))), module or "", ""):
        names = [*filter(None, start.split(".")), *target.split(".")]
        for length in range(len(names), 0, -1):
            try:
                found = importlib.import_module(".".join(names[:length]))
                for name in names[length:]:
                    found = getattr(found, name)
            except (ImportError, AttributeError):
                continue
            return found
    return None


def _resolve(app: Sphinx, env: BuildEnvironment, node: pending_xref, text: nodes.Element) -> nodes.Node | None:
    """The reference to an object that the docstring's module only imports; plain text where it has no page.

    None, and so a warning, if nothing has the name.
    """
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    if target.partition(".")[0] in autodoc_mock_imports or not isinstance(text, nodes.literal):
        return text
    found = _found(target, node.get("py:module"), node.get("py:class"))
    if found is None:
        return None
    home = f"{getattr(found, '__module__', '')}.{getattr(found, '__qualname__', '')}"
    python = env.domains["py"]
    return python.resolve_xref(env, node["refdoc"], app.builder, "obj", home, node, text) or text


def _foreign(app: Sphinx, what: str, name: str, member: object, skip: bool, options: object) -> bool | None:
    """Whether a member comes from another project. (Sphinx asks only after it has read the signature.)"""
    is_code = inspect.isroutine(member) or inspect.isclass(member)
    return True if is_code and not str(getattr(member, "__module__", "insight_rl")).startswith("insight_rl") else None


def _keep_indented(app: Sphinx, what: str, name: str, member: object, options: object, lines: list[str]) -> None:
    """Marks an indented block as text that is already laid out: formulas and small tables, in our docstrings."""
    marked: list[str] = []
    is_laid_out = False
    for before, line in pairwise(["", *lines]):
        if line and not line.startswith("    "):
            is_laid_out = False
        elif line and not before and not is_laid_out:
            is_laid_out = True
            if not _last_text(marked).endswith("::"):
                marked += [".. code-block:: text", ""]
        marked.append(line)
    lines[:] = marked


def _signature(
    app: Sphinx, what: str, name: str, member: object, options: object, arguments: str | None, returned: str | None
) -> tuple[str, str | None] | None:
    """None of a Protocol, since nobody makes an object of it; ``...`` for a default that is no text of Python."""
    if what == "class" and getattr(member, "_is_protocol", False):
        return "", None
    return None if arguments is None else (re.sub(r"= <[^<>]+>", "= ...", arguments), returned)


def _without_object(app: Sphinx, domain: str, kind: str, content: nodes.Element) -> None:
    """That a class has no base of its own is not worth a line."""
    if content.children and content[0].astext() == "Bases: object":
        del content[0]


def _last_text(lines: list[str]) -> str:
    return next((line for line in reversed(lines) if line), "")


def setup(app: Sphinx) -> None:
    app.connect("autodoc-skip-member", _foreign)
    app.connect("autodoc-process-docstring", _keep_indented)
    app.connect("autodoc-process-signature", _signature)
    app.connect("object-description-transform", _without_object)
    app.connect("missing-reference", _resolve)
