"""A sweep names itself and its arms, so that trackers group its runs without a click."""

from pathlib import Path

from insight_rl.cli.train import expand_combinations, name_for_trackers
from insight_rl.config import compose_config, parse_config


def named(*overrides: str) -> list[list[str]]:
    base, combinations = expand_combinations(overrides)
    return name_for_trackers([combination for combination, _ in combinations], base)


def added(*overrides: str) -> list[list[str]]:
    return [[item for item in each if item.startswith(("run_group=", "arm="))] for each in named(*overrides)]


def test_the_arm_is_that_in_which_runs_differ_but_for_the_seed():
    assert added("selector=random,insight", "seed=1,2", "run_dir=runs/my sweep", "model=tiny") == [
        ["run_group=my-sweep", "arm=random"],
        ["run_group=my-sweep", "arm=random"],
        ["run_group=my-sweep", "arm=insight"],
        ["run_group=my-sweep", "arm=insight"],
    ]
    assert added("selector=insight", "selector.forgetting=0.5,1.0", "run_dir=x")[0][1] == "arm=selector.forgetting-0.5"


def test_seeds_alone_are_of_the_selectors_arm():
    assert added("seed=1,2", "run_dir=x") == [["run_group=x"], ["run_group=x"]]


def test_the_users_own_names_win():
    assert added("selector=random,insight", "run_group=mine", "arm=a", "run_dir=x") == [["run_group=mine", "arm=a"]] * 2


def test_they_are_settings_of_a_run():
    config = parse_config(compose_config(named("selector=random,insight", f"run_dir={Path('runs/x')}")[1]))
    assert (config.run_group, config.arm, config.selector_name) == ("x", "insight", "insight")
