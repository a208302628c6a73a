import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "check_layers.py"
SPEC = importlib.util.spec_from_file_location("check_layers", SCRIPT)
check_layers = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(check_layers)


def test_no_import_runs_upward_and_none_in_a_circle():
    assert check_layers.problems(check_layers.imports()) == []


def test_selectors_import_neither_monitors_nor_the_service():
    graph = check_layers.by_part(check_layers.imports())
    assert not graph["selector"] & {"monitor", "report", "selector_service", "simulation", "build"}
    assert not graph["monitor"] & {"selector", "report"}


LAYERS = (("__init__",), ("low",), ("middle", "beside"), ("top",))


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"low": "", "middle": "", "beside": "", "top": "from package import low"}, None),
        ({"low": "def f():\n    from package.top import x", "middle": "", "beside": "", "top": ""}, "above it"),
        ({"low": "import package.middle", "middle": "", "beside": "", "top": ""}, "above it"),
        (
            {"low": "", "middle": "from package import beside", "beside": "from package.middle import x", "top": ""},
            "circle of modules: package.beside -> package.middle -> package.beside",
        ),
        ({"low": "", "middle": "", "beside": "", "top": "", "new": ""}, "new has no layer"),
        ({"low": "", "middle": "", "beside": ""}, "top is in the layers but not"),
    ],
)
def test_what_should_not_be_is_found(tmp_path, files, found):
    package = tmp_path / "package"
    package.mkdir()
    for name, text in {"__init__": "", **files}.items():
        (package / f"{name}.py").write_text(text)
    problems = check_layers.problems(check_layers.imports(package), LAYERS)
    assert (problems == []) if found is None else any(found in each for each in problems)
