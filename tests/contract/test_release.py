"""scripts/release.sh refuses, before it builds anything, what does not belong together."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from insight_rl import __version__

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("change", "words", "message"),
    [
        ("another version", [], f"begins with 9.9.9, insight_rl/__init__.py says {__version__}"),
        ("tag", [], f"the tag here is v9, the version is {__version__}"),
        (None, ["--upload"], "(unreleased)'; give the day of the release in its place"),
        ("day", ["--upload"], f"there is no tag here; tag the release first: git tag v{__version__}"),
        (None, ["--uplaod"], "there is no option --uplaod"),
    ],
)
def test_what_does_not_belong_together_is_refused(change, words, message, tmp_path):
    for name in ("scripts/release.sh", "scripts/install_lib.sh", "insight_rl/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    version = "9.9.9" if change == "another version" else __version__
    day = "2026-01-31" if change == "day" else "unreleased"
    (tmp_path / "CHANGELOG.md").write_text(f"# Changelog\n\n## {version} ({day})\n")
    if change in ("tag", "day"):
        git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
        for command in (
            ["init"],
            ["add", "."],
            ["commit", "-m", "x"],
            ["tag", "v9"] if change == "tag" else ["status"],
        ):
            subprocess.run([*git, *command], check=True, capture_output=True)
    done = subprocess.run(["bash", "scripts/release.sh", *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and message in done.stderr, done.stderr


def test_the_changelog_begins_with_this_version():
    heading = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert heading and heading[1] == __version__
