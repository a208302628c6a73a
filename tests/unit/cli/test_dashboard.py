"""The command writes the definition without an account, and says what it needs otherwise."""

from __future__ import annotations

import json

import pytest

from insight_rl.cli.dashboard import main
from insight_rl.errors import UsageError

pytest.importorskip("wandb_workspaces", reason="the extra dashboard is not installed")


def test_the_definition_as_a_file(tmp_path, capsys):
    file = tmp_path / "new" / "dashboard.json"
    assert main(["--project", "p", "--group", "sweep", "--output", str(file)]) == 0
    assert capsys.readouterr().out == f"{file}\n"
    definition = json.loads(file.read_text())
    assert definition["project"] == "p" and {"workspace", "report"} <= definition.keys()


def test_a_file_that_cannot_be_written(tmp_path):
    with pytest.raises(UsageError, match=r"cannot be written .*choose another --output"):
        main(["--output", str(tmp_path)])


def test_what_wandb_refuses_is_one_line(monkeypatch):
    from insight_rl.monitor.wandb_dashboard import Dashboard

    class Refuses:
        def save(self):
            raise ValueError("Project not found\nand more")

    monkeypatch.setattr("insight_rl.monitor.wandb_dashboard.find_entity", lambda given: given)
    monkeypatch.setattr(Dashboard, "workspace", lambda self: Refuses())
    with pytest.raises(UsageError, match=r"--project p: .*ValueError: Project not found\); .*--output FILE"):
        main(["--project", "p", "--entity", "e"])
