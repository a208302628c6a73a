"""Runs are told apart by what differs between their configurations, and by nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from insight_rl.config import compose_config
from insight_rl.errors import UsageError
from insight_rl.report.runs import Run, group_runs, load_runs, option_name, read_config


def option(group: str, name: str, **changes: Any) -> dict[str, Any]:
    """What a run's configuration records of an option."""
    return {group: dict(compose_config([f"{group}={name}"])[group]) | changes, f"{group}_name": name}


def make_run(
    name: str,
    *,
    seed: int = 0,
    selector: str = "insight",
    gate: str = "admit_all",
    num_rollouts: int = 8,
    **changes: Any,
) -> Run:
    config = {
        "seed": seed,
        "run_dir": f"/somewhere/{name}",
        **option("gate", gate),
        **option("selector", selector, **changes),
        "trainer": {"num_steps": 100, "rollouts_per_prompt": num_rollouts},
        "monitor": {"console": {"lines_every": seed + 1}},
    }
    return Run(run_dir=Path(name), records=({"step": 0},), config=config)


def names(groups: dict[str, list[Run]]) -> dict[str, list[str]]:
    return {label: [str(run.run_dir) for run in runs] for label, runs in groups.items()}


def test_seeds_of_a_selector_share_a_label():
    runs = [
        make_run(f"{selector}{seed}", selector=selector, seed=seed)
        for seed in (1, 2)
        for selector in ("random", "mopps", "insight")
    ]
    assert names(group_runs(runs)) == {
        "random": ["random1", "random2"],
        "mopps": ["mopps1", "mopps2"],
        "insight": ["insight1", "insight2"],
    }


def test_settings_tell_runs_of_one_option_apart():
    runs = [
        make_run("a"),
        make_run("b", mu=0.5),
        make_run("c", selector="random"),
        make_run("d", num_rollouts=4),
    ]
    assert list(group_runs(runs)) == [
        "insight, mu=0.3, rollouts_per_prompt=8",
        "insight, mu=0.5, rollouts_per_prompt=8",
        "random, rollouts_per_prompt=8",
        "insight, mu=0.3, rollouts_per_prompt=4",
    ]


def test_the_gate_is_named_where_it_is_not_the_usual_one():
    runs = [make_run("a"), make_run("b", selector="random"), make_run("c", selector="random", gate="mixed_outcomes")]
    assert list(group_runs(runs)) == ["insight", "random", "random + mixed_outcomes"]
    assert list(group_runs([runs[1], runs[2]])) == ["admit_all", "mixed_outcomes"]


def test_a_repeated_run_is_never_averaged_with_itself():
    assert names(group_runs([make_run("a"), make_run("b"), make_run("c", seed=1)])) == {
        "a": ["a"],
        "b": ["b"],
        "": ["c"],
    }


def test_an_option_has_the_name_that_the_run_recorded():
    assert option_name("selector", option("selector", "dynamic_sampling")) == "dynamic_sampling"


def test_without_a_recorded_name_it_is_that_of_the_class():
    config = {"selector": {"_target_": "my_package.selectors.Curious", "x": 1}, "trainer": {"num_steps": 3}}
    assert option_name("selector", config) == "Curious"
    assert option_name("trainer", config) == ""
    assert option_name("selector", {}) == ""


def test_series_take_the_latest_value_of_their_axis():
    records = (
        {"step": 0, "eval/accuracy": 0.25},
        {"step": 1, "rollout/num_tokens": 80},
        {"step": 2, "rollout/num_tokens": 160, "eval/accuracy": 0.5},
        {"step": 3, "rollout/num_tokens": 240, "eval/accuracy": None},
    )
    run = Run(run_dir=Path("a"), records=records, config={})
    x, y = run.series("eval/accuracy", against="rollout/num_tokens")
    assert (x.tolist(), y.tolist()) == ([0.0, 160.0], [0.25, 0.5])
    x, y = run.series("eval/accuracy")
    assert (x.tolist(), y.tolist()) == ([0.0, 2.0], [0.25, 0.5])


def test_a_folder_of_runs_stands_for_its_runs(tmp_path):
    for name in ("1", "0"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text('{"step": 0}\n')
    (tmp_path / "1" / "config.yaml").write_text("seed: 5\n")
    runs = load_runs([tmp_path, tmp_path / "1"])
    assert [run.run_dir.name for run in runs] == ["0", "1", "1"]
    assert [run.seed for run in runs] == [None, 5, 5]


@pytest.mark.parametrize(
    ("name", "message"),
    [("absent", "there is no such folder"), ("bare", "has a metrics.jsonl"), ("begun", "holds no step yet")],
)
def test_folders_without_a_run_are_named(tmp_path, name, message):
    (tmp_path / "bare").mkdir()
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "metrics.jsonl").write_text("")
    with pytest.raises(UsageError, match=message) as error:
        load_runs([tmp_path / name])
    assert name in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "seed: !!python/object/apply:os.system [id]",
        "a: &a [1]\nb: [*a, *a]",
        "seed: [1",
        "- 1",
        "\x00",
        "[" * 3000,
    ],
    ids=["tag", "alias", "unclosed", "list", "control character", "deep"],
)
def test_a_configuration_that_no_run_wrote_is_refused_in_one_line(tmp_path, text):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UsageError, match=r"config.yaml: .*") as refusal:
        read_config(tmp_path)
    assert "\n" not in str(refusal.value)
