"""scripts/check_pins.py on a package of a few lines, from a folder in place of the registry."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]

TESTS = """
import pathlib, time, tinypin

def test_that_holds():
    assert tinypin.number >= 1

def test_that_breaks():
    assert tinypin.number < 2, "two is too many"

def test_that_fails_anyway():
    assert tinypin.number < 0
"""


@pytest.fixture(scope="module")
def check_pins():
    spec = importlib.util.spec_from_file_location("check_pins", ROOT / "scripts" / "check_pins.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["check_pins"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["check_pins"]


def wheel(folder, name, version, source, requires=()):
    folder.mkdir(exist_ok=True)
    info = f"{name}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {each}\n" for each in requires)
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        file.writestr(f"{name}.py", source)
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}")
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", "")
    return folder / f"{name}-{version}-py3-none-any.whl"


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """tinypin 1.0 is installed here; 2.0 needs what is not here, 3.0 a torch that nobody has."""
    installed = tmp_path / "installed"
    for name, requires in (("tinypin", ()), ("user", ("tinypin<2",))):
        with zipfile.ZipFile(wheel(tmp_path / "old", name, "1.0", "number = 1\n", requires)) as file:
            file.extractall(installed)
    wheel(tmp_path / "wheels", "tinypin", "2.0", "number = 2\n", ["tinyneed>=1", "pytest", "nothing; extra == 'x'"])
    wheel(tmp_path / "wheels", "tinyneed", "1.5", "")
    wheel(tmp_path / "wheels", "tinypin", "1.5", "number = 1\n", ["torch>=999"])
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_tiny.py").write_text(TESTS, encoding="utf-8")
    (tmp_path / "temporary").mkdir()
    for name, value in {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(tmp_path / "wheels"),
        "PYTHONPATH": str(installed),
        "TMPDIR": str(tmp_path / "temporary"),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # those of the project take seconds to load
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.syspath_prepend(str(installed))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    return tmp_path


def run(check_pins, monkeypatch, folder, *arguments):
    monkeypatch.setattr(check_pins, "ROOT", folder)
    monkeypatch.setattr(check_pins.signal, "signal", lambda number, handler: None)  # pytest's own stay
    status = check_pins.main(arguments, covers={"tinypin": check_pins.Cover(tests=("tests",))})
    assert list((folder / "temporary").iterdir()) == []
    return status


def test_what_breaks_is_told_from_what_failed_before(check_pins, monkeypatch, registry, capsys):
    assert run(check_pins, monkeypatch, registry, "tinypin") == 1
    said = capsys.readouterr().out
    assert said.splitlines()[1].split() == ["tinypin", "1.0", "2.0", "1", "1", "0", "BREAKS"]
    assert "moves tinyneed from none to 1.5" in said
    assert "moves pytest" not in said  # what is here will do
    assert "user 1.0 asks for tinypin<2" in said
    assert "breaks tests/test_tiny.py::test_that_breaks: AssertionError: two is too many" in said
    assert "fails without it too: tests/test_tiny.py::test_that_fails_anyway" in said


def test_a_release_that_is_there_and_one_that_asks_for_another_torch(check_pins, monkeypatch, registry, capsys):
    wheel(registry / "wheels", "tinypin", "1.0", "number = 1\n")
    (registry / "tests" / "test_tiny.py").write_text("def test_import():\n    import tinypin\n", encoding="utf-8")
    assert run(check_pins, monkeypatch, registry, "tinypin==1.0") == 0
    said = capsys.readouterr().out.splitlines()
    assert [" ".join(line.split()) for line in said[1:]] == ["tinypin 1.0 1.0 0 0 0 is here", "nothing was run"]
    assert run(check_pins, monkeypatch, registry, "tinypin==1.5") == 1
    said = capsys.readouterr().out
    assert said.splitlines()[1].split() == ["tinypin", "1.0", "1.5", "1", "0", "0", "BREAKS"]
    assert "asks for torch>=999; here is" in said


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["tinypin==9"], "pip cannot install tinypin==9"),
        (["--limit-s", "0.05", "tinypin"], "not finished within --limit-s 0.05"),
        (["torch"], "everything depends on it"),
        (["other"], "no tests are named for it; there are tinypin"),
        (["tiny pin"], "is no requirement such as"),
    ],
)
def test_what_cannot_be_found_out_is_said(check_pins, monkeypatch, registry, capsys, arguments, reason):
    assert run(check_pins, monkeypatch, registry, *arguments) == 2
    assert reason in capsys.readouterr().err


def test_a_stopped_check_leaves_no_folder_and_no_process(check_pins, registry):
    marker = registry / "started"
    sleeper = "import os, pathlib, time\n\ndef test_sleep():\n"
    sleeper += f"    pathlib.Path({str(marker)!r}).write_text(str(os.getpid()))\n    time.sleep(100)\n"
    (registry / "tests" / "test_tiny.py").write_text(sleeper, encoding="utf-8")
    program = (
        f"import sys, pathlib; sys.path.insert(0, {str(ROOT / 'scripts')!r}); import check_pins as c\n"
        f"c.ROOT = pathlib.Path({str(registry)!r})\n"
        "sys.exit(c.main(['tinypin'], covers={'tinypin': c.Cover(tests=('tests',))}))"
    )
    process = subprocess.Popen([sys.executable, "-c", program])
    try:
        deadline = time.monotonic() + 60
        while not (marker.exists() and marker.read_text()):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM
    finally:
        process.kill()
    assert list((registry / "temporary").iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.kill(int(marker.read_text()), 0)


def test_every_package_with_a_pin_is_covered_or_said_not_to_be(check_pins):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {name: needs for name, needs in project["optional-dependencies"].items() if name != "dev"}
    needs = [*project["dependencies"], *(need for each in extras.values() for need in each)]
    names = {canonicalize_name(Requirement(need).name) for need in needs} - {"insight-rl"}
    assert names <= check_pins.COVERS.keys() | check_pins.NOT_COVERED.keys()
    for cover in check_pins.COVERS.values():
        assert bool(cover.tests) != bool(cover.script)
        for path in (*cover.tests, *filter(None, [cover.script])):
            assert (ROOT / path).exists(), path
