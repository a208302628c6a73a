"""One real run with every tracker: what each has on the disk, read back with its own reader, is ``metrics.jsonl``."""

from __future__ import annotations

import json
import math
import shlex

import pytest

from insight_rl.config import compose_config
from insight_rl.monitor import tensorboard, trackio
from insight_rl.monitor.dashboard import OTHER_AXES
from insight_rl.monitor.records import METRICS_FILE, read_records
from insight_rl.run import RunOutput, train

for package in ("tensorboard", "trackio", "wandb"):
    pytest.importorskip(package, reason=f"{package} is not installed")

SETTINGS = [
    "monitor=[jsonl,tensorboard,trackio,wandb]",
    "selector=insight",
    "seed=3",
    "run_group=night",
    "trainer.num_steps=4",
    "trainer.prompts_per_step=4",
    "trainer.rollouts_per_prompt=2",
    "trainer.max_completion_tokens=16",
    "evaluation.every=2",
    "evaluation.max_problems=4",
    "evaluation.samples_per_problem=2",
]
TAGS = ["model=tiny", "seed=3", "selector=insight", "task=countdown"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The run's folder, its records by step, and what it printed at its end."""
    import contextlib
    import io

    folder = tmp_path_factory.mktemp("runs") / "a run"
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setenv("WANDB_MODE", "offline")
        train(compose_config([*SETTINGS, f"run_dir='{folder}'"]), RunOutput(keeps_model=False))
    records = {record["step"]: record for record in read_records(folder / METRICS_FILE)}
    assert list(records) == [0, 1, 2, 3, 4] and "eval/accuracy" in records[2]
    return folder, records, printed.getvalue()


def numbers(record: dict) -> dict[str, float]:
    return {key: value for key, value in record.items() if isinstance(value, (int, float)) and key != "step"}


def histograms(record: dict) -> dict[str, dict]:
    return {key: value for key, value in record.items() if isinstance(value, dict)}


def test_wandb(run, read_wandb, wandb_rows):
    folder, records, _ = run
    (session,) = read_wandb(folder)
    rows = {row["step"]: row for row in wandb_rows(session)}
    assert rows.keys() == records.keys()
    for step, record in records.items():
        row = rows[step]
        assert row["_step"] == step
        assert {key: row[key] for key in numbers(record)} == numbers(record)
        for key, histogram in histograms(record).items():
            assert (row[f"{key}/values"], row[f"{key}/bins"]) == (histogram["counts"], histogram["edges"])
        for word in OTHER_AXES:
            assert row.get(f"eval_by_{word}/accuracy") == record.get("eval/accuracy")
    axes = {metric.name or metric.glob_name: metric.step_metric for metric in session["metric"]}
    assert axes["*"] == "step"
    assert {word: axes[f"eval_by_{word}/*"] for word in OTHER_AXES} == OTHER_AXES
    about = session["run"][0]
    config = {item.key: json.loads(item.value_json) for item in about.config.update}
    assert (about.run_group, about.display_name, sorted(about.tags)) == ("night", "a run", TAGS)
    assert (config["arm"], config["selector_name"], config["run_group"]) == ("insight", "insight", "night")


def test_trackio(run):
    folder, records, _ = run
    with trackio._storage(folder / trackio.FOLDER) as storage:
        rows = {row["step"]: row for row in storage.get_logs("insight_rl", "a run")}
        config = storage.get_run_config("insight_rl", "a run")
    assert rows.keys() == records.keys()
    for step, record in records.items():
        row = rows[step]
        assert {key: row[key] for key in numbers(record)} == numbers(record)
        for key, histogram in histograms(record).items():
            assert (row[key]["values"], row[key]["bins"]) == (histogram["counts"], histogram["edges"])
        for word, axis in OTHER_AXES.items():
            assert row.get(f"eval_by_{word}/accuracy") == record.get("eval/accuracy")
            assert axis in row
    assert (config["_Group"], config["arm"], config["selector_name"]) == ("night", "insight", "insight")
    assert sorted(config["tags"]) == TAGS


def test_tensorboard(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, records, _ = run
    found = EventAccumulator(
        str(folder / tensorboard.FOLDER), size_guidance=dict.fromkeys(("scalars", "histograms"), 0)
    )
    found.Reload()
    curves = {tag: {event.step: event.value for event in found.Scalars(tag)} for tag in found.Tags()["scalars"]}
    names = {name for record in records.values() for name in numbers(record)}
    assert names <= curves.keys()
    for key in names:
        written = {step: numbers(record)[key] for step, record in records.items() if key in numbers(record)}
        # Its scalars are of single precision.
        assert curves[key] == pytest.approx(written, rel=1e-6), key
    for word, axis in OTHER_AXES.items():
        evaluated = {
            record.get(axis, 0): record["eval/accuracy"] for record in records.values() if "eval/accuracy" in record
        }
        assert curves[f"eval_by_{word}/accuracy"] == pytest.approx(evaluated, rel=1e-6)
    for step, record in records.items():
        for key, histogram in histograms(record).items():
            (event,) = [event for event in found.Histograms(key) if event.step == step]
            assert list(event.histogram_value.bucket) == [0, *histogram["counts"]]
            assert list(event.histogram_value.bucket_limit) == histogram["edges"]
    about = found.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    lines = [line.strip() for line in about.splitlines()]
    assert {"arm: insight", "run_group: night", "selector_name: insight", *(f"- {tag}" for tag in TAGS)} <= set(lines)


def test_nothing_is_missing_but_what_is_no_number(run):
    """So that the comparisons above compare something."""
    _, records, _ = run
    assert "rollout/logprob_gap_mean" in numbers(records[4]) and "selector/belief_histogram" in histograms(records[4])
    others = {key for record in records.values() for key in record} - {"step"}
    others -= {key for record in records.values() for key in (*numbers(record), *histograms(record))}
    assert all(record[key] is None for record in records.values() for key in others if key in record)
    assert not any(math.isnan(value) for record in records.values() for value in numbers(record).values())


def test_each_says_at_the_end_where_to_look_and_what_to_type(run):
    folder, _, printed = run
    commands = [line.partition("`")[2].rpartition("`")[0] for line in printed.splitlines() if "`" in line]
    words = [shlex.split(command) for command in commands]
    assert ["tensorboard", "--logdir", str(folder / "tensorboard")] in words
    assert [f"TRACKIO_DIR={folder / 'trackio'}", "trackio", "show", "--project", "insight_rl"] in words
    (sync,) = [each for each in words if each[0] == "wandb"]
    assert sync[:2] == ["wandb", "sync"] and sync[2].startswith(str(folder / "wandb" / "offline-run-"))
