"""The dashboard on W&B: a workspace and a report, made from :data:`~insight_rl.monitor.dashboard.SECTIONS`.

Library: https://docs.wandb.ai/guides/app/features/workspaces (wandb-workspaces); the import is deferred, so that the
package need not be there. Making a definition needs no account and no network; saving it needs both.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from insight_rl.errors import UsageError, check
from insight_rl.monitor.dashboard import ARM, OTHER_AXES, SECTIONS, Chart, Section

TITLE = "insight_rl: selectors compared"
_CONFIG_ARM = f"config.{ARM}"
_WIDTH, _HEIGHT, _PER_ROW = 8, 7, 3
"""Of a panel, in W&B's grid of 24 columns."""


@dataclass(frozen=True, kw_only=True)
class Dashboard:
    """Workspace and report of a project, as wandb-workspaces has them.

    ``project``, ``entity``: where the runs are. ``group``: the sweep or comparison to show; None: all runs.
    """

    project: str
    entity: str
    group: str | None = None

    def __post_init__(self) -> None:
        check(bool(self.project), "--project", self.project, "must not be empty")
        is_plain = self.group is None or re.fullmatch(r"[\w.+-]+", self.group) is not None
        check(is_plain, "--group", self.group, "use letters, digits and . _ + -, as run_group has them")
        check_installed()

    def definition(self) -> dict[str, Any]:
        """What W&B is sent, as JSON: ``workspace`` and ``report``. Needs no account and no network.

        The names that the library draws at random for panels and blocks are numbered, so that two definitions of the
        same dashboard are equal.
        """
        made = {"workspace": self.workspace(), "report": self.report()}
        specs = {name: _plain(each._to_model().spec) for name, each in made.items()}
        return _numbered({"project": self.project, "entity": self.entity, **specs})

    def save(self) -> tuple[str, str]:
        """Save both on W&B and return their addresses. Raises ``UsageError`` where W&B does not take them."""
        import requests
        import wandb

        try:
            workspace = self.workspace().save()
            report = self.report().save()
        except (requests.RequestException, wandb.errors.Error, ValueError, KeyError, TypeError) as error:
            reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            raise UsageError(
                f"--project {self.project}: W&B did not take the dashboard ({reason}); check project, entity and "
                "network, or write the definition with --output FILE"
            ) from error
        return workspace.url, report.url

    def workspace(self) -> Any:
        import wandb_workspaces.workspaces as ws

        return ws.Workspace(
            entity=self.entity,
            project=self.project,
            name=self._title(),
            sections=[
                ws.Section(name=section.title, panels=_panels(section), is_open=True, pinned=section is SECTIONS[0])
                for section in SECTIONS
            ],
            settings=ws.WorkspaceSettings(x_axis="step", max_runs=100),
            runset_settings=ws.RunsetSettings(
                filters=self._filter(),
                groupby=[ws.Config(ARM)],
                pinned_columns=["summary:eval/accuracy", f"config:{ARM}", "config:seed"],
            ),
        )

    def report(self) -> Any:
        import wandb_workspaces.reports.v2 as wr

        blocks: list[Any] = [
            wr.P(text="One line for each arm, its seeds averaged; the band is the standard error over seeds."),
            wr.TableOfContents(),
        ]
        for section in SECTIONS:
            # Without a project it has the report's; with one the library asks W&B for the project's number.
            runset = wr.Runset(
                entity="", project="", name=self.group or "all runs", filters=self._filter(), groupby=[_CONFIG_ARM]
            )
            blocks += [wr.H2(text=section.title), wr.PanelGrid(runsets=[runset], panels=_panels(section))]
        return wr.Report(entity=self.entity, project=self.project, title=self._title(), blocks=blocks)

    def _title(self) -> str:
        return f"{TITLE} ({self.group})" if self.group else TITLE

    def _filter(self) -> str:
        # The configuration's key and not W&B's group, which a user may have given another name.
        return f"Config('run_group') = {json.dumps(self.group)}" if self.group else ""


def check_installed() -> None:
    """Raise ``UsageError`` if wandb-workspaces is missing."""
    if importlib.util.find_spec("wandb_workspaces") is None:
        raise UsageError(
            "the package wandb-workspaces is not installed; install it with `pip install 'insight-rl[dashboard]'`"
        )


def find_entity(given: str | None) -> str:
    """``given``, or the account's default entity. Raises ``UsageError`` where nobody is logged in."""
    import wandb

    remedy = "log in with `wandb login`, or write the definition with --output FILE"
    if not wandb.login(prompt=False, verify=False):
        raise UsageError(f"no W&B account is logged in on this machine; {remedy}")
    entity = given or wandb.Api().default_entity
    if not entity:
        raise UsageError(f"W&B knows no default entity for this account; give --entity, or {remedy}")
    return str(entity)


def _panels(section: Section) -> list[Any]:
    return [_panel(chart, position) for position, chart in enumerate(section.charts)]


def _panel(chart: Chart, position: int) -> Any:
    import wandb_workspaces.reports.v2 as wr

    row, column = divmod(position, _PER_ROW)
    layout = wr.Layout(x=column * _WIDTH, y=row * _HEIGHT, w=_WIDTH, h=_HEIGHT)
    by_arm = {"groupby": wr.Config(ARM), "groupby_aggfunc": "mean"}
    if chart.kind == "bars":
        return wr.BarPlot(title=chart.title, metrics=list(chart.logged_keys), layout=layout, **by_arm)
    if chart.kind == "lines":
        by_arm["groupby_rangefunc"] = "stderr"
    else:
        by_arm = {}
    axis = OTHER_AXES.get(chart.axis, "step")
    return wr.LinePlot(title=chart.title, x=axis, y=list(chart.logged_keys), layout=layout, **by_arm)


def _plain(model: Any) -> Any:
    return json.loads(model.model_dump_json(by_alias=True, exclude_none=True))


def _numbered(definition: dict[str, Any]) -> dict[str, Any]:
    """Random ids replaced by numbers in the order in which they occur."""
    ids: dict[str, str] = {}

    def walk(node: Any, key: str = "") -> Any:
        if isinstance(node, dict):
            return {name: walk(value, name) for name, value in node.items()}
        if isinstance(node, list):
            return [walk(value) for value in node]
        if key in ("id", "__id__") and isinstance(node, str) and node:
            return ids.setdefault(node, str(len(ids)))
        return node

    numbered: dict[str, Any] = walk(definition)
    return numbered


def metric_keys(definition: Sequence[Any] | dict[str, Any]) -> set[str]:
    """Every metric and axis that the panels of a definition name, to be checked against the metric dictionary."""
    found: set[str] = set()
    nodes: list[Any] = [definition]
    while nodes:
        node = nodes.pop()
        if isinstance(node, dict):
            if "chartTitle" in node:
                found |= {node["xAxis"]} if "xAxis" in node else set()
                found |= set(node["metrics"])
            nodes += node.values()
        elif isinstance(node, list):
            nodes += node
    return found
