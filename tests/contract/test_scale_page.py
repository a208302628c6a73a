"""docs/scale.md is what its script makes of its inputs, and the script's model is the doctor's, carried on."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from insight_rl.doctor.duration import estimate_time
from insight_rl.doctor.shapes import count_all, read_shape


def script(name: str):
    path = Path(__file__).parents[2] / "scripts" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look for the types of their fields
    spec.loader.exec_module(module)
    return module


scale_page = script("make_scale_page")
benchmark = script("benchmark_scale")


def test_the_page_has_the_tables_of_its_script():
    page = scale_page.PAGE.read_text(encoding="utf-8")
    assert [name for _, name, _ in scale_page.MARKED.findall(page)] == list(scale_page.TABLES)
    assert page == scale_page.filled(page), "run python scripts/make_scale_page.py"


def test_a_step_on_one_machine_is_the_doctors():
    work = scale_page.workload(8, grows=False)
    assert work == scale_page.base()
    parts, doctors = scale_page.step_parts(work, "usual"), estimate_time(work, scale_page.CARD)
    assert (parts["rollout"], parts["learn"], parts["sync"]) == (doctors.generation, doctors.learning, doctors.sync)


@pytest.mark.parametrize("grows", [False, True])
@pytest.mark.parametrize("num_gpus", scale_page.GPUS)
def test_low_inputs_make_low_costs(num_gpus, grows):
    low, usual, high = (
        scale_page.step_parts(scale_page.workload(num_gpus, grows=grows), level) for level in scale_page.LEVELS
    )
    for part in usual:
        # What judging is not hidden behind generation depends on both.
        assert part == "judge" or low[part] <= usual[part] <= high[part], part
    assert scale_page.lost_share(num_gpus, "low") < scale_page.lost_share(num_gpus, "high")


def test_between_machines_the_network_is_the_link():
    assert scale_page.card_of(8, "usual") == scale_page.CARD
    assert scale_page.card_of(64, "usual").link_gbs == 50 < scale_page.CARD.link_gbs
    assert scale_page.card_of(64, "high").link_gbs < scale_page.card_of(64, "low").link_gbs


def test_gradients_take_longer_over_the_network_than_inside_a_machine():
    inside, between = (scale_page.exchange_seconds(scale_page.workload(n, grows=False), "usual") for n in (8, 64))
    # Twice two bytes a parameter and update, at half of the link.
    work = scale_page.base()
    assert between == pytest.approx(work.updates_per_step * 4 * work.num_trained / (0.5 * 50e9))
    assert inside == pytest.approx(between * 50 / scale_page.CARD.link_gbs)


def test_failures_are_those_that_were_published():
    # 419 in 54 days with 16,384 GPUs: one in three hours.
    assert scale_page.hours_between_failures(16384, "usual") == pytest.approx(54 * 24 / 419)


def test_the_first_number_of_gpus_with_a_noticeable_share():
    assert scale_page.first_share_above(lambda num_gpus, level: num_gpus / 1000, "usual") == 128
    assert scale_page.first_share_above(lambda num_gpus, level: 0.5, "low") == 8
    assert scale_page.first_share_above(lambda num_gpus, level: 0.1, "high") is None


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (0.00012, "< 0.001"),
        (0.0349, "0.035"),
        (1.26, "1.3"),
        (12.4, "12"),
        (98_765, "99,000"),
        (0.999, "1.0"),
    ],
)
def test_figures_have_two_digits(number, text):
    assert scale_page.figure(number) == text


def test_a_range_is_from_the_least_to_the_most():
    assert scale_page.span({"low": 9.0, "usual": 5.0, "high": 2.0}) == "5.0 (2.0 to 9.0)"
    assert scale_page.span({"low": 3.0, "usual": 3.0, "high": 3.0}) == "3.0"


def test_every_input_says_where_it_comes_from():
    for name, each in scale_page.inputs().items():
        assert each.source and each.unit, name
        if each.kind == "published":
            assert "arxiv.org" in each.source or "Llama 3" in each.source, name
    for name, entry in scale_page.measured().items():
        assert entry["command"] and entry["figures"], name


# ---------------------------------------------------------------------------------------------------------------------
# scripts/benchmark_scale.py, without its runs


@pytest.mark.parametrize("size", benchmark.SIZES)
def test_models_have_about_the_parameters_of_their_name(size, tmp_path):
    settings = benchmark.model_settings(size)
    shape = read_shape(settings)
    assert shape is not None
    assert count_all(shape, str(tmp_path)).total == pytest.approx(float(size[:-1]) * 1e6, rel=0.15)


def test_a_row_leaves_out_the_first_and_the_last_step():
    steps = [
        {"time/step_s": step_s, "time/learn_s": step_s / 2, "time/device_s": device_s, "reward/accuracy": 0.5}
        for step_s, device_s in ((9.0, 9.0), (1.0, 10.0), (3.0, 14.0), (8.0, 30.0))
    ]
    steps[-1]["time/checkpoint_s"] = 0.25
    counts = [{"step": step, "sent": 100 * step**2, "loopback": 7 * step} for step in (1, 2, 3, 4)]
    row = benchmark.row_of(steps, counts, num_bytes=10, workers=2)
    assert row["median_step_s"] == 2.0
    assert row["median_s"]["learn"] == 1.0
    assert row["device_s"] == 2.5
    assert row["bytes_a_step"] == {"sent": 400.0, "loopback": 7.0, "weights": 30.0}
    assert row["checkpoint_s"] == 0.25
    assert [set(step) for step in row["steps"]] == [{key for key in step if key[:4] == "time"} for step in steps]


@pytest.mark.parametrize(
    "arguments", [[], ["--engine", "transformers_workers", "--learner", "accelerate", "selector=random"]]
)
def test_its_settings_are_settings(arguments, tmp_path):
    from insight_rl.config import compose_config, parse_config

    parsed = benchmark.parse(arguments)
    for workers in parsed.workers:
        config = parse_config(
            compose_config(benchmark.overrides(parsed, tmp_path / "model", tmp_path / "run", workers=workers, ranks=2))
        )
        assert config.learner["num_ranks"] == 2
        assert config.rollout["num_workers"] == workers
        assert config.checkpoint.every == config.trainer.num_steps - 1
