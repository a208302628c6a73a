from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import yaml

from insight_rl.build import build_part
from insight_rl.cli.main import main
from insight_rl.errors import UsageError
from insight_rl.selector.decision_log import DecisionLog, read_history
from insight_rl.simulation.replay import caveats, load_recording, num_picks, replay
from insight_rl.simulation.settings import load
from insight_rl.simulation.synthetic_learner import make_pool
from insight_rl.types import Counts


def counts(prompt, num_successes, num_judged):
    return Counts(prompt_id=prompt.id, num_judged=num_judged, num_successes=num_successes)


RANDOM = {
    "_target_": "insight_rl.selector.random.RandomSelector",
    "prior_alpha": 1.0,
    "prior_beta": 1.0,
    "forgetting": 1.0,
}
INSIGHT = {
    "_target_": "insight_rl.selector.belief_selector.BeliefSelector",
    "score": {"_target_": "insight_rl.selector.acquisition.weighted_mutual_information", "_partial_": True},
}


def record(run_dir, node, *, num_steps=40, text=""):
    """A run over 120 prompts of which every third is half right and the others are never right."""
    selector = build_part("selector", node)
    pool = [dataclasses.replace(prompt, text=text.format(prompt.id)) for prompt in make_pool(120)]
    selector.open(pool, num_rollouts=8, seed=2)
    run_dir.mkdir()
    (run_dir / "config.yaml").write_text(yaml.safe_dump({"selector_name": "random", "selector": node}))
    (run_dir / "metrics.jsonl").write_text('{"step": 1}\n')
    log = DecisionLog(run_dir / "decisions", selector=selector, pool=pool, first_step=0)
    rng = np.random.default_rng(0)
    for step in range(1, num_steps + 1):
        prompts = selector.select(16)
        rates = [0.5 * (int(each.id) % 3 == 0) for each in prompts]
        groups = [counts(each, int(rng.binomial(8, p)), 8) for each, p in zip(prompts, rates, strict=True)]
        log.log(step, groups, [])
        selector.observe(groups)
    return run_dir


@pytest.fixture(scope="module")
def uniform_run(tmp_path_factory):
    return record(tmp_path_factory.mktemp("runs") / "uniform", RANDOM)


def variant(label):
    return load([f"selectors={label}"])[1][0]


def test_a_recording_holds_what_was_rolled_out(uniform_run):
    recording = load_recording(uniform_run)
    history = read_history(uniform_run)
    assert len(recording.steps) == 40
    assert sum(map(len, recording.steps)) == len(history) == 640
    assert {prompt.id for prompt in recording.pool} == set(history.prompt_id)
    assert recording.num_rollouts == 8
    mixed = (history.successes > 0) & (history.successes < 8)
    assert recording.informative_fractions().mean() == pytest.approx(mixed.mean())


def test_selectors_that_use_the_evidence_find_the_informative_prompts(uniform_run):
    recording = load_recording(uniform_run)
    seeds = range(4)
    uniform = replay(recording, variant("random"), share=0.25, seeds=seeds)
    difficulty = replay(recording, variant("expected_difficulty"), share=0.25, seeds=seeds)
    assert uniform.shape == (4, 40)
    assert uniform.mean() == pytest.approx(recording.informative_fractions().mean(), abs=0.05)
    late = slice(15, None)  # by then nearly every prompt has been seen
    assert difficulty[:, late].mean() > uniform[:, late].mean() + 0.3
    best = recording.best_fractions(0.25)
    assert np.all(difficulty <= best + 1e-12)
    assert np.all(best >= recording.informative_fractions())


@pytest.mark.parametrize("option", ["expected_signal", "expected_signal:forgetting=1.0:novelty=0.35"])
def test_the_rules_that_learn_a_prior_can_be_replayed(uniform_run, option):
    recording = load_recording(uniform_run)
    found = replay(recording, variant(option), share=0.25, seeds=[0])
    assert found[:, 15:].mean() > recording.informative_fractions()[15:].mean() + 0.3


def test_a_prior_from_features_sees_the_recorded_texts(tmp_path):
    run_dir = record(tmp_path / "texts", RANDOM, num_steps=2, text="Problem {}")
    assert {prompt.text for prompt in load_recording(run_dir).pool} <= {f"Problem {index}" for index in range(120)}
    found = replay(
        load_recording(run_dir),
        load(["selectors=expected_signal", "selector/prior=features"])[1][0],
        share=0.25,
        seeds=[0],
    )
    assert found.shape == (1, 2)


def test_a_seed_fixes_the_replay(uniform_run):
    recording = load_recording(uniform_run)
    first, second = (replay(recording, variant("mopps"), share=0.25, seeds=[1, 2]) for _ in range(2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first[0], first[1])


@pytest.mark.parametrize(("share", "picks"), [(0.25, 4), (0.01, 1), (0.9, 14)])
def test_the_share_is_of_the_rolled_out(uniform_run, share, picks):
    assert num_picks(load_recording(uniform_run).steps[0], share) == picks


def test_the_caveats_depend_on_who_chose(uniform_run, tmp_path):
    fair = load_recording(uniform_run)
    assert fair.is_uniform
    assert "fair sample of the pool" in caveats(fair, 0.25)
    chosen = load_recording(record(tmp_path / "chosen", INSIGHT, num_steps=3))
    assert not chosen.is_uniform
    assert "no fair sample" in caveats(chosen, 0.25)
    for recording in (fair, chosen):
        assert "nothing here says which one ends with the better model" in caveats(recording, 0.25)


def test_the_command_prints_table_and_caveats(uniform_run, tmp_path, capsys):
    arguments = [f"replay={uniform_run}", "selectors=random,insight", "num_seeds=2", f"output_dir={tmp_path}"]
    assert main(["simulate", *arguments]) == 0
    printed = capsys.readouterr().out
    for words in ("Replay of uniform (selector=random)", "best in hindsight", "insight", "A replay cannot tell"):
        assert words in printed
    numbers = json.loads((tmp_path / "replay.json").read_text())
    assert len(numbers["informative_fraction"]["insight"]) == 40 == len(numbers["steps"])
    assert (tmp_path / "replay.png").read_bytes().startswith(b"\x89PNG")


def test_a_selector_that_cannot_choose_among_given_prompts_is_named(uniform_run):
    remote = load(["selectors=remote"])[1][0]
    with pytest.raises(UsageError, match="selectors=remote: it cannot"):
        replay(load_recording(uniform_run), remote, share=0.25, seeds=[0])
