"""A configuration names code of ours and what the command line allows; nothing else is imported."""

from __future__ import annotations

import sys

import pytest

from insight_rl.allowed_code import Allowed, allowed, check_targets, import_target
from insight_rl.build import build_part
from insight_rl.config import compose_config
from insight_rl.errors import UsageError

HOSTILE = [
    "numpy.load",
    "torch.load",
    "os.system",
    "subprocess.run",
    "subprocess.Popen",
    "builtins.eval",
    "builtins.exec",
    "pickle.loads",
    "shutil.rmtree",
    "importlib.import_module",
    "runpy.run_path",
    "antigravity.fly",  # its import alone opens a browser
    "hydra.utils.get_class",
    "hydra.utils.instantiate",
    "insight_rl.gate.admit_all.os.system",
    "insight_rl.task.countdown.json.loads",
    "insight_rl.task.countdown.check",  # only imported there
    "insight_rl.files.write_atomically",
    "insight_rl.build.build_part",
    "insight_rl.allowed_code.allowed.allow",
    "insight_rl.cli.main.main",
    "insight_rl.selector.decision_log.DecisionLog",  # writes a folder: no part of a configuration
    "insight_rl.reward.judge_processes.JudgeProcesses",
    "insight_rl_evil.Thing",
    "insight_rl",
    "",
    "os..system",
    "__main__.x",
    3,
    None,
    ["os.system"],
]


@pytest.fixture(autouse=True)
def nothing_allowed(monkeypatch):
    monkeypatch.setattr(allowed, "packages", set())
    monkeypatch.setattr(allowed, "folders", set())
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.mark.parametrize("target", HOSTILE)
def test_foreign_code_is_neither_imported_nor_called(target):
    with pytest.raises(UsageError, match="_target_"):
        build_part("gate", {"_target_": target, "x": 1})
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    "node",
    [
        {"inner": {"_target_": "os.system", "_partial_": True}},
        {"inner": [[{"_target_": "os.system"}]]},
        {"inner": {"a": {"b": [{"c": {"_target_": "os.system"}}]}}},
        {"_args_": ["id"]},
        {"_recursive_": False},
        {"inner": {"_convert_": "all"}},
        {"_partial_": "yes"},
    ],
)
def test_the_whole_tree_is_looked_through_before_anything_is_made(node):
    with pytest.raises(UsageError, match=r"part\."):
        check_targets("part", {"_target_": "insight_rl.gate.admit_all.AdmitAll", **node})


def test_a_value_is_not_read_as_an_interpolation():
    node = dict(compose_config([]).task, style="${oc.env:HOME}", num_numbers=[3])
    with pytest.raises(UsageError, match=r"style='\$\{oc\.env:HOME\}'"):
        build_part("task", node)


def test_the_message_says_what_to_type():
    with pytest.raises(UsageError, match=r"reward\._target_='mine\.Reward': .* add --allow-package mine, or"):
        check_targets("reward", {"_target_": "mine.Reward"})


def make_module(folder, name):
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text("from shutil import rmtree\nclass Gate:\n    def __init__(self, size=1): ...\n")


def test_a_module_in_the_folder_of_config_dir_needs_no_word(tmp_path):
    make_module(tmp_path / "conf", "mine_in_folder")
    make_module(tmp_path, "mine_beside")
    sys.path.append(str(tmp_path))
    allowed.allow(folders=[tmp_path / "conf"])
    assert type(build_part("gate", {"_target_": "mine_in_folder.Gate", "size": 2})).__name__ == "Gate"
    for target in ("mine_beside.Gate", "numpy.load", "json.loads"):
        with pytest.raises(UsageError, match="--allow-package"):
            import_target("gate", target)
    with pytest.raises(UsageError, match="which is only imported there"):
        import_target("gate", "mine_in_folder.rmtree")


def test_a_module_in_that_folder_replaces_none(tmp_path):
    make_module(tmp_path, "json")
    allowed.allow(folders=[tmp_path])
    with pytest.raises(UsageError, match="json is not among the code"):
        import_target("gate", "json.Gate")


def test_a_package_that_is_named_is_allowed_and_no_other(tmp_path):
    make_module(tmp_path, "mine_named")
    sys.path.append(str(tmp_path))
    allowed.allow(["mine_named"])
    assert import_target("gate", "mine_named.Gate").__name__ == "Gate"
    with pytest.raises(UsageError, match="add --allow-package shutil"):
        import_target("gate", "mine_named.rmtree")


def test_naming_this_package_opens_no_more_of_it():
    some = Allowed()
    some.allow(["insight_rl"])
    assert not some.holds("insight_rl.files.write_atomically")


@pytest.mark.parametrize("name", ["a.b", "a/b", "", "--x"])
def test_a_package_is_named_by_its_top_level_name(name):
    with pytest.raises(UsageError, match="--allow-package"):
        Allowed().allow([name])
