"""The definition is made by wandb-workspaces itself, offline, and holds what the dashboard is to show."""

from __future__ import annotations

import importlib.util
import socket

import pytest

from insight_rl.errors import UsageError
from insight_rl.monitor.dashboard import OTHER_AXES, SECTIONS
from insight_rl.monitor.dictionary import find_entry
from insight_rl.monitor.wandb_dashboard import Dashboard, check_installed, find_entity, metric_keys

needs_package = pytest.mark.skipif(
    importlib.util.find_spec("wandb_workspaces") is None, reason="the extra dashboard is not installed"
)


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*arguments, **more):
        raise AssertionError("a definition needs no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def panels(node) -> list[dict]:
    if isinstance(node, dict):
        found = [node["config"]] if "chartTitle" in (node.get("config") or {}) else []
        return found + [panel for value in node.values() for panel in panels(value)]
    return [panel for value in node for panel in panels(value)] if isinstance(node, list) else []


@needs_package
def test_workspace_and_report_show_every_chart_by_arm_over_its_axis(no_network):
    definition = Dashboard(project="p", entity="e", group="my-sweep").definition()
    for name in ("workspace", "report"):
        shown = {panel["chartTitle"]: panel for panel in panels(definition[name])}
        charts = {chart.title: chart for section in SECTIONS for chart in section.charts}
        assert shown.keys() == charts.keys()
        for title, panel in shown.items():
            chart = charts[title]
            assert panel["metrics"] == list(chart.logged_keys)
            if chart.kind != "bars":
                assert panel["xAxis"] == OTHER_AXES.get(chart.axis, "step")
            if chart.kind == "histogram":
                assert "groupBy" not in panel
            else:
                assert (panel["groupBy"], panel["groupAgg"]) == ("arm.value", "mean")
    (runset,) = definition["workspace"]["section"]["runSets"]
    assert runset["grouping"] == [{"section": "config", "name": "arm.value"}]
    (condition,) = runset["filters"]["filters"]
    assert condition["key"] == {"section": "config", "name": "run_group"}
    assert (condition["op"], condition["value"]) == ("=", "my-sweep")
    assert len(definition["report"]["blocks"]) > 2 * len(SECTIONS)


@needs_package
def test_every_key_of_the_definition_is_in_the_metric_dictionary(no_network):
    definition = Dashboard(project="p", entity="e").definition()
    keys = metric_keys(definition)
    assert {"eval_by_tokens/accuracy", "rollout/num_tokens", "selector/brier", "step"} <= keys
    for word in OTHER_AXES:
        keys = {key.replace(f"eval_by_{word}/", "eval/") for key in keys}
    assert sorted(key for key in keys - {"step"} if find_entry(key) is None) == []


@needs_package
def test_the_same_dashboard_has_the_same_definition():
    assert Dashboard(project="p", entity="e").definition() == Dashboard(project="p", entity="e").definition()
    assert Dashboard(project="p", entity="e").definition() != Dashboard(project="p", entity="e", group="a").definition()


def test_a_group_that_is_no_plain_word_is_refused():
    with pytest.raises(UsageError, match=r"--group=.*use letters, digits"):
        Dashboard(project="p", entity="e", group="a' or Config('x') = 1")


def test_a_missing_package_is_told_with_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"wandb-workspaces is not installed.*insight-rl\[dashboard\]"):
        check_installed()


def test_without_an_account_the_remedies_are_told(monkeypatch, tmp_path):
    for variable in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    with pytest.raises(UsageError, match=r"no W&B account .*wandb login.*--output FILE"):
        find_entity(None)
