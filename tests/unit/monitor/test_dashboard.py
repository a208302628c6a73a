"""A dashboard shows metrics that exist, and every run says where in it it belongs."""

from __future__ import annotations

from insight_rl.monitor.dashboard import OTHER_AXES, SECTIONS, arm_of, over_other_axes, tags_of
from insight_rl.monitor.dictionary import find_entry

CHARTS = [chart for section in SECTIONS for chart in section.charts]
CONFIG = {"selector_name": "insight", "task_name": "countdown", "model_name": "tiny", "seed": 0, "arm": None}


def test_no_key_is_invented():
    keys = [key for chart in CHARTS for key in chart.keys] + list(OTHER_AXES.values())
    assert len(keys) > 25
    assert [key for key in keys if find_entry(key) is None] == []
    assert [chart.title for chart in CHARTS if chart.axis not in ("step", *OTHER_AXES)] == []


def test_evaluations_are_shown_over_every_axis():
    axes = {chart.axis: chart.logged_keys for chart in CHARTS if chart.keys == ("eval/accuracy",)}
    assert axes == {
        "step": ("eval/accuracy",),
        "rollouts": ("eval_by_rollouts/accuracy",),
        "tokens": ("eval_by_tokens/accuracy",),
    }
    assert over_other_axes({"eval/accuracy": 0.5, "reward/mean": 0.25}) == {
        "rollouts": {"eval_by_rollouts/accuracy": 0.5},
        "tokens": {"eval_by_tokens/accuracy": 0.5},
    }


def test_a_run_names_its_arm_and_its_tags():
    assert tags_of(CONFIG) == ["selector=insight", "task=countdown", "model=tiny", "seed=0"]
    assert tags_of({"seed": 1, "selector_name": None}) == ["seed=1"]
    assert max(map(len, tags_of({"model_name": "m" * 200}))) == 64
    assert (arm_of(CONFIG), arm_of(CONFIG | {"arm": "sharp"}), arm_of({})) == ("insight", "sharp", None)
