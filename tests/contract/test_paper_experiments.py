"""experiment=paper_*: the paper's settings, on hardware that they fit; and the page that lists them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from insight_rl.doctor.checkup import check_up
from insight_rl.paths import conf_dir

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_paper_page.py"
SPEC = importlib.util.spec_from_file_location("make_paper_page", SCRIPT)
paper_page = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(paper_page)

EXPERIMENTS = sorted(file.stem for file in (conf_dir() / "experiment").glob("paper_*.yaml"))
SELECTORS = (
    "random",
    "mopps",
    "inverse_evidence",
    "expected_difficulty",
    "dynamic_sampling",
    "insight",
    "information_only",
    "weight_only",
    "insight_sampled",
)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_settings_of_the_paper(experiment):
    config = paper_page.composed(experiment)
    trainer, learner, evaluation = config.trainer, config.learner, config.evaluation
    domain = experiment.split("_")[1]
    assert (trainer.num_steps, trainer.prompts_per_step, trainer.rollouts_per_prompt) == (100, 256, 8)
    assert trainer.prompts_per_update == (64 if domain == "countdown" else 128)
    assert trainer.temperature == 1.0
    assert (learner["lr"], learner["weight_decay"], learner["betas"]) == (1e-6, 0.1, [0.9, 0.999])
    assert (evaluation.samples_per_problem, evaluation.temperature, evaluation.top_p) == (16, 0.6, 0.95)
    assert config.selector_name == "insight" and config.selector["candidate_ratio"] == 16
    assert config.selector["forgetting"] == 1.0 and config.algorithm_name == "grpo"
    assert config.task_name == {"countdown": "countdown", "math": "deepscaler", "general": "webinstruct"}[domain]
    assert config.model.dtype == "bfloat16"


def test_every_model_and_domain_is_there():
    rows = set()
    for experiment in EXPERIMENTS:
        config = paper_page.composed(experiment)
        rows.add((config.task_name, config.model_name))
    models = ("qwen3-0.6b", "qwen3-4b", "r1-distill-qwen-7b")
    assert rows == {(task, model) for task in ("countdown", "deepscaler", "webinstruct") for model in models}
    assert len(EXPERIMENTS) == len(rows)


def test_every_selector_of_the_paper_is_an_option():
    """Which options compose with any experiment is tested one by one; here that one does, whatever it brings."""
    options = {file.stem for file in (conf_dir() / "selector").glob("*.yaml")}
    assert set(SELECTORS) <= options
    config = paper_page.composed("paper_math", "selector=dynamic_sampling")
    assert config.selector_name == "dynamic_sampling" and config.gate_name == "mixed_outcomes"
    assert config.trainer.prompts_per_step == 256


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_the_doctor_passes_it_on_8_gpus_of_80_gb(experiment):
    found = check_up(paper_page.composed(experiment))
    assert (found.verdict, found.reasons) == ("fits", ())
    assert found.kv_cache.num_sequences >= 16


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_the_doctor_passes_it_on_one(experiment):
    overrides, _ = paper_page.one_card(experiment)
    found = check_up(paper_page.composed(experiment, *overrides))
    assert (found.verdict, found.reasons) == ("fits", ())


def test_the_page_says_what_the_doctor_says():
    assert set(paper_page.experiments()) == set(EXPERIMENTS)
    assert paper_page.PAGE.read_text(encoding="utf-8") == paper_page.make_page(), (
        "run python scripts/make_paper_page.py"
    )
