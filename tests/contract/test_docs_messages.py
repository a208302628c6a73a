"""The messages that docs/troubleshooting.md quotes are those of the program."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
VARIABLE = "\0"
QUOTED = re.compile(r"`([^`]+)`")
OTHER_THAN_A_MESSAGE = re.compile(r"[\w./]+(=\S*)?")
"""A key, a metric or a file."""


def _texts(file: Path) -> list[str]:
    """The string literals of a module, with what they fill in marked."""
    texts = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            texts.append(node.value)
        elif isinstance(node, ast.JoinedStr):
            texts.append("".join(p.value if isinstance(p, ast.Constant) else VARIABLE for p in node.values))
    return texts


SOURCE = [text for file in (ROOT / "insight_rl").rglob("*.py") for text in _texts(file)]


def _quoted_messages() -> list[str]:
    rows = re.findall(r"^\| (.+?) \|", (ROOT / "docs" / "troubleshooting.md").read_text(), re.MULTILINE)
    quoted = [text for row in rows for text in QUOTED.findall(row)]
    return [text for text in quoted if not OTHER_THAN_A_MESSAGE.fullmatch(text)]


@pytest.mark.parametrize("message", _quoted_messages())
def test_the_program_says_so(message):
    pattern = re.compile(".{0,200}?".join(map(re.escape, re.split(r"\.\.\.", message))), re.DOTALL)
    assert any(pattern.search(text) for text in SOURCE), f"no message of the program contains {message!r}"


def test_messages_are_found():
    assert len(_quoted_messages()) > 20
