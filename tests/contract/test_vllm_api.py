"""The releases of vLLM that the pin admits have what the code uses; read from their source, so no GPU is needed."""

from __future__ import annotations

import ast
import importlib.util
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def check():
    spec = importlib.util.spec_from_file_location("check_vllm_api", ROOT / "scripts" / "check_vllm_api.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["check_vllm_api"] = module
    spec.loader.exec_module(module)
    return module


def test_the_vllm_that_is_installed_has_everything(check):
    source = check.installed()
    if source is None:
        pytest.skip("vLLM is not installed")
    assert check.problems(source) == []


def nodes_of_the_package(kind):
    for file in sorted((ROOT / "insight_rl").rglob("*.py")):
        yield from (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, kind))


def test_everything_that_is_imported_from_vllm_is_listed(check):
    used = {
        (node.module, alias.name)
        for node in nodes_of_the_package(ast.ImportFrom)
        if (node.module or "").split(".")[0] == "vllm"
        for alias in node.names
    }
    assert len(used) > 5
    assert used <= {(use.module, use.name.partition(".")[0]) for use in check.USES}
    named = {
        node.value
        for node in nodes_of_the_package(ast.Constant)
        if isinstance(node.value, str) and node.value.startswith("vllm.")
    }
    assert named <= {use.module for use in check.USES}


def test_every_keyword_of_the_sampling_and_of_the_engine_is_listed(check):
    listed = {use.name: set(use.keywords) for use in check.USES}
    tree = ast.parse((ROOT / "insight_rl" / "rollout" / "vllm_worker.py").read_text())
    (call,) = (n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "SamplingParams")
    assert {keyword.arg for keyword in call.keywords} == listed["SamplingParams"]
    values = [n.value for n in ast.walk(tree) if isinstance(n, (ast.AnnAssign, ast.AugAssign)) and is_settings(n)]
    keys = {key.value for value in values if isinstance(value, ast.Dict) for key in value.keys}
    assert len(keys) > 8
    assert keys <= listed["EngineArgs"]


def is_settings(node):
    return isinstance(node.target, ast.Name) and node.target.id == "settings"


PACKAGE = {
    "__init__.py": "MODULE_ATTRS = {}\nif TYPE_CHECKING:\n    from vllm.engine import Engine\n",
    "engine/__init__.py": "from .core import Engine\n",
    "engine/core.py": (
        "from vllm.base import Base\n"
        "class Engine(Base[int]):\n"
        "    limit: int = 3\n"
        "    def __init__(self):\n        self.core = 1\n"
        "    def add(self, request, /, params, *, lora=None): ...\n"
    ),
    "base.py": "class Base:\n    name: str\n    def step(self): ...\n    async def sleep(self, level, **rest): ...\n",
}


@pytest.mark.parametrize(
    ("name", "keywords", "positional", "problem"),
    [
        ("Engine", ("limit", "name", "core"), 0, None),
        ("Engine", ("size",), 0, "vllm.Engine has no size"),
        ("Motor", (), 0, "there is no vllm.Motor"),
        ("Engine.core", (), 0, None),
        ("Engine.step", (), 0, None),
        ("Engine.step", (), 1, "vllm.Engine.step takes 0 arguments, not 1"),
        ("Engine.step", ("fast",), 0, "vllm.Engine.step takes no fast"),
        ("Engine.stop", (), 0, "there is no vllm.Engine.stop"),
        ("Engine.add", ("params", "lora"), 1, None),
        ("Engine.add", (), 1, "vllm.Engine.add now needs params"),
        ("Engine.sleep", ("level", "mode"), 0, None),
    ],
)
@pytest.mark.parametrize("is_wheel", [False, True], ids=["folder", "wheel"])
def test_what_has_gone_or_changed_is_found(check, tmp_path, is_wheel, name, keywords, positional, problem):
    wheel = tmp_path / "vllm-9.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        for path, text in PACKAGE.items():
            file.writestr(f"vllm/{path}", text)
            (tmp_path / "vllm" / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "vllm" / path).write_text(text)
    source = check.open_source(wheel if is_wheel else tmp_path / "vllm")
    use = check.Use(module="vllm", name=name, keywords=keywords, positional=positional)
    assert check.Reader(source).problem(use) == problem


def test_the_command_ends_with_1_where_anything_is_missing(check, tmp_path, capsys):
    (tmp_path / "vllm").mkdir()
    assert check.main([str(tmp_path / "vllm")]) == 1
    out = capsys.readouterr().out
    assert "there is no vllm.LLM" in out and "there is no vllm/envs.py" in out
