"""A real W&B run without an API key: offline, unasked, in the run's folder, and resumed under the same id."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from insight_rl.errors import UsageError
from insight_rl.monitor.summary import Summary
from insight_rl.monitor.wandb import WandbMonitor
from insight_rl.types import Histogram, Metrics, Table

pytest.importorskip("wandb")

SUMMARY = Summary(
    run_dir=Path("run"),
    model_dir=None,
    num_steps=4,
    accuracy_before=0.25,
    accuracy_after=0.5,
    accuracy_best=0.5,
    best_step=4,
    num_rollouts=32,
    num_tokens=320,
    informative_fraction=0.5,
    seconds={"select": 1.0},
)


def metrics_of(step: int) -> Metrics:
    if step == 0:
        return {"eval/accuracy": 0.25}
    return {
        "reward/mean": step / 8,
        "learner/loss": float("nan"),
        "rollout/num_rollouts": 8 * step,
        "rollout/num_tokens": 80 * step,
        "selector/belief_histogram": Histogram(counts=(3, 1), edges=(0.0, 0.5, 1.0)),
        "rollout/samples": Table(columns=("prompt", "reward"), rows=(("3 7=21:", 1.0),)),
        **({"eval/accuracy": 0.5} if step == 4 else {}),
    }


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """An account that has never logged in, whatever the machine's owner has done."""
    for variable in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(variable, raising=False)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("NETRC", str(home / ".netrc"))
    return home


def run_steps(run_dir: Path, *, first_step: int, last_step: int) -> None:
    run_dir.mkdir(exist_ok=True)
    monitor = WandbMonitor(tags=["test"], group="pair")
    monitor.open(run_dir, config={"seed": 3, "selector": {"mu": 0.3}}, num_steps=4, first_step=first_step)
    monitor.notice("a word to the user")
    for step in range(first_step, last_step + 1):
        monitor.log(metrics_of(step), step=step)
    monitor.close(SUMMARY)


def test_a_real_offline_run_resumed_under_its_id(tmp_path, home, capfd, read_wandb, wandb_rows):
    run_dir = tmp_path / "demo"
    run_steps(run_dir, first_step=0, last_step=2)
    run_steps(run_dir, first_step=3, last_step=4)

    folders = sorted(str(folder) for folder in run_dir.glob("wandb/offline-run-*"))
    told = sorted(line.split("`")[1] for line in capfd.readouterr().out.splitlines() if "wandb sync" in line)
    assert told == [f"wandb sync {folder}" for folder in folders]

    first, second = read_wandb(run_dir)
    assert first["run"][0].run_id == second["run"][0].run_id == (run_dir / "wandb" / "run_id").read_text().strip()
    run = first["run"][0]
    assert (run.project, run.display_name, run.run_group, list(run.tags)) == ("insight_rl", "demo", "pair", ["test"])
    assert {item.key: json.loads(item.value_json) for item in run.config.update}["selector"] == {"mu": 0.3}

    rows = wandb_rows(first) + wandb_rows(second)
    assert [row["step"] for row in rows] == [row["_step"] for row in rows] == [0, 1, 2, 3, 4]
    assert (rows[0]["eval/accuracy"], rows[0]["rollout/num_tokens"]) == (0.25, 0)
    last = rows[4]
    assert last["reward/mean"] == 0.5
    assert last["eval_by_tokens/accuracy"] == last["eval_by_rollouts/accuracy"] == last["eval/accuracy"] == 0.5
    assert last["selector/belief_histogram/values"] == [3, 1]
    assert last["selector/belief_histogram/bins"] == [0.0, 0.5, 1.0]
    table_path = last["rollout/samples/path"]
    (table_file,) = run_dir.glob(f"wandb/offline-run-*/files/{table_path}")
    assert json.loads(table_file.read_text())["data"] == [["3 7=21:", 1.0]]

    axes = {metric.name or metric.glob_name: metric.step_metric for metric in first["metric"]}
    assert axes["*"] == "step"
    assert axes["eval_by_tokens/*"] == "rollout/num_tokens"
    assert axes["eval_by_rollouts/*"] == "rollout/num_rollouts"

    closing = {
        item.key or "/".join(item.nested_key): item.value_json for row in second["summary"] for item in row.update
    }
    assert json.loads(closing["final/accuracy_after"]) == 0.5
    assert not [path for path in home.rglob("*") if path.is_file()], "everything is below the run's folder"
    assert "API key" not in capfd.readouterr().err


def test_group_and_tags_come_from_the_configuration_where_none_are_given(tmp_path, home, read_wandb):
    names = {"selector_name": "insight", "task_name": "countdown", "model_name": "tiny"}
    config = {**names, "seed": 3, "run_group": "night"}
    monitor = WandbMonitor()
    monitor.open(tmp_path / "demo", config=config, num_steps=1, first_step=0)
    monitor.close()
    (records,) = read_wandb(tmp_path / "demo")
    run = records["run"][0]
    assert run.run_group == "night"
    assert sorted(run.tags) == ["model=tiny", "seed=3", "selector=insight", "task=countdown"]
    assert {item.key: json.loads(item.value_json) for item in run.config.update}["arm"] == "insight"


def test_starting_anew_in_a_folder_is_another_run(tmp_path, home):
    run_dir = tmp_path / "demo"
    run_steps(run_dir, first_step=0, last_step=0)
    first = (run_dir / "wandb" / "run_id").read_text()
    run_steps(run_dir, first_step=0, last_step=0)
    assert (run_dir / "wandb" / "run_id").read_text() != first


def test_bad_settings_name_key_and_remedy():
    with pytest.raises(UsageError, match=r"monitor\.wandb\.mode='of': must be one of auto, online, offline, disabled"):
        WandbMonitor(mode="of")
    with pytest.raises(UsageError, match=r"monitor\.wandb\.project=''"):
        WandbMonitor(project="")


def test_missing_package_is_reported_before_anything_loads(tmp_path, monkeypatch):
    import importlib.util

    (tmp_path / "wandb").mkdir()
    folder_only = importlib.util.spec_from_loader("wandb", loader=None, is_package=True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: folder_only)
    with pytest.raises(UsageError, match="pip install wandb"):
        WandbMonitor()
