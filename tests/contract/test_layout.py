"""tests/unit mirrors the package: where a module's tests are follows from where the module is."""

from __future__ import annotations

from pathlib import Path

import pytest

from insight_rl.paths import conf_dir

ROOT = conf_dir().parent
PACKAGE, UNIT = ROOT / "insight_rl", ROOT / "tests" / "unit"

TESTED_ELSEWHERE: dict[str, str] = {}
"""Folders of the package without unit tests, and where their tests are."""


def unmirrored(package: Path, unit: Path) -> list[str]:
    """Test modules whose name starts with no module of the folder that theirs stands for."""
    strays = []
    for test in sorted(unit.rglob("test_*.py")):
        folder = package / test.parent.relative_to(unit)
        name = test.stem.removeprefix("test_")
        modules = {module.stem for module in folder.glob("*.py") if module.stem != "__init__"}
        if not any(name == module or name.startswith(f"{module}_") for module in modules):
            strays.append(str(test.relative_to(unit)))
    return strays


def folders_without_tests(package: Path, unit: Path) -> set[str]:
    with_code = {module.parent for module in package.rglob("*.py") if module.stem != "__init__"}
    return {
        str(folder.relative_to(package))
        for folder in with_code
        if not any((unit / folder.relative_to(package)).glob("test_*.py"))
    }


def test_every_unit_test_is_named_after_a_module_and_lies_in_its_folder():
    assert unmirrored(PACKAGE, UNIT) == []


def test_every_folder_of_the_package_has_unit_tests_or_says_where_they_are():
    assert folders_without_tests(PACKAGE, UNIT) == TESTED_ELSEWHERE.keys()
    assert [path for path in TESTED_ELSEWHERE.values() if not (ROOT / path).is_file()] == []


@pytest.mark.parametrize("stray", ["gate/test_other.py", "test_open.py", "doors/test_open.py", "gate/test_opened.py"])
def test_a_stray_is_found(stray, tmp_path):
    for file in ("package/gate/open.py", "unit/gate/test_open.py", "unit/gate/test_open_twice.py", f"unit/{stray}"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    assert unmirrored(tmp_path / "package", tmp_path / "unit") == [stray]
    assert folders_without_tests(tmp_path / "package", tmp_path / "unit") == set()
