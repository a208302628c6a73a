from __future__ import annotations

import numpy as np
import pytest
import yaml
from omegaconf import OmegaConf

from insight_rl.build import build_part
from insight_rl.cli.main import main
from insight_rl.config import compose_config
from insight_rl.errors import UsageError
from insight_rl.report.explanation import StepView, explain_prompt, explain_step, find_prompt, load_step
from insight_rl.selector.decision_log import DecisionLog, StepDecisions, read_decisions, read_history
from insight_rl.types import Counts, Prompt


def counts(prompt, num_successes, num_judged):
    return Counts(prompt_id=prompt.id, num_judged=num_judged, num_successes=num_successes)


NUM_STEPS = 9


def record(run_dir, option, *, rounds=1, overrides=()):
    """A run of 9 steps x 8 of 40 prompts; prompt i is right i mod 9 times in 8."""
    tree = compose_config([f"selector={option}", "selector.candidate_ratio=2", *overrides])
    node = OmegaConf.to_container(tree.selector)
    selector = build_part("selector", node)
    pool = [
        Prompt(id=f"toy/{index:03d}", task="toy", text=f"problem {index}", token_ids=(0,), answer=None)
        for index in range(40)
    ]
    selector.open(pool, num_rollouts=8, seed=5)
    run_dir.mkdir(exist_ok=True)
    config = {"selector_name": option, "selector": node, "trainer": {"rollouts_per_prompt": 8}}
    (run_dir / "config.yaml").write_text(yaml.safe_dump(config))
    log = DecisionLog(run_dir / "decisions", selector=selector, pool=pool, first_step=0)
    for step in range(1, NUM_STEPS + 1):
        groups = []
        for _ in range(rounds):
            groups += [counts(each, int(each.id[-3:]) % 9, 8) for each in selector.select(8 // rounds)]
        log.log(step, groups, [])
        selector.observe(groups)
    return run_dir


@pytest.fixture(scope="module")
def insight_run(tmp_path_factory):
    return record(tmp_path_factory.mktemp("runs") / "insight", "insight")


def text_of(run_dir, step, prompt_id):
    return " ".join(explain_prompt(load_step(run_dir, step), prompt_id, read_history(run_dir, prompt_id=prompt_id)))


def test_the_step_as_a_whole_counts_what_the_log_says(insight_run):
    decisions = read_decisions(insight_run, NUM_STEPS)
    judged = decisions.rows(decisions.chosen)
    mixed = int(((judged.successes > 0) & (judged.successes < judged.judged)).sum())
    text = " ".join(explain_step(load_step(insight_run, NUM_STEPS)))
    assert "insight chose 8 of 16 candidates" in text
    assert f"The best score was {decisions.score.max():.4g}" in text
    assert f"{mixed} of 8 groups" in text
    earlier = read_history(insight_run)
    unseen = set(judged.prompt_id) - set(earlier.prompt_id[earlier.step < NUM_STEPS])
    assert f"{len(unseen)} of the chosen had never been rolled out before" in text


def test_in_the_first_step_chance_decides_between_equals(insight_run):
    text = " ".join(explain_step(load_step(insight_run, 1)))
    assert "which 16 candidates had: chance decided which 8 of these were taken" in text
    assert "8 of the chosen had never been rolled out before" in text
    chosen = read_decisions(insight_run, 1)
    one = text_of(insight_run, 1, chosen.prompt_id[chosen.chosen][0])
    assert "never rolled out before" in one
    assert "Chosen: rank 1 of 16 for 8 places" in one
    assert "16 candidates had this very score, and the order in which they were drawn decided" in one


def test_a_prompt_passed_over_is_compared_with_the_last_place(insight_run):
    view = load_step(insight_run, NUM_STEPS)
    decisions = view.candidates
    row = int(np.argmin(decisions.score))
    bar = float(np.sort(decisions.score)[-8])
    last = int(np.flatnonzero(decisions.chosen)[np.argmin(decisions.score[decisions.chosen])])
    text = text_of(insight_run, NUM_STEPS, decisions.prompt_id[row])
    assert f"Belief: Beta({decisions.alpha[row]:.4g}, {decisions.beta[row]:.4g})" in text
    assert f"Not chosen: rank {view.rank(row)} of 16 for 8 places, the last of which took a score of {bar:.4g}" in text
    information, weight = view.information[row], view.weight[row]
    assert information * weight == pytest.approx(decisions.score[row])
    shares = f"{information / view.information[last]:.2g} and {weight / view.weight[last]:.2g} times"
    assert shares in text
    assert "Rolled out: " not in text


@pytest.mark.parametrize(
    ("successes", "words"),
    [(0, "0 of 8 right, all wrong"), (8, "8 of 8 right, all right"), (3, "3 of 8 right, a mixed group")],
)
def test_what_a_chosen_prompt_did_is_said(insight_run, successes, words):
    history = read_history(insight_run)
    prompt_id = next(each for each in history.prompt_id.tolist() if int(each[-3:]) % 9 == successes)
    step = int(history.step[history.prompt_id == prompt_id][0])
    assert words in text_of(insight_run, step, prompt_id)


def test_a_prompt_that_was_no_candidate_is_told_when_it_was(insight_run):
    decisions = read_decisions(insight_run, 5)
    absent = next(f"toy/{i:03d}" for i in range(40) if f"toy/{i:03d}" not in decisions.prompt_id)
    history = read_history(insight_run, prompt_id=absent)
    text = text_of(insight_run, 5, absent)
    assert "Not a candidate in step 5: 16 of 40 prompts were drawn uniformly" in text
    before, after = history.step[history.step < 5], history.step[history.step > 5]
    assert (f"Last a candidate before that in step {before[-1]}" in text) == (len(before) > 0)
    assert (f"Next a candidate in step {after[0]}" in text) == (len(after) > 0)


def test_uniform_selection_says_its_chance(tmp_path):
    run_dir = tmp_path / "random"
    run_dir.mkdir()
    node = {"_target_": "insight_rl.selector.random.RandomSelector"}
    selector = build_part("selector", node)
    pool = [Prompt(id=f"toy/{i:03d}", task="toy", text="", token_ids=(0,), answer=None) for i in range(40)]
    selector.open(pool, num_rollouts=8, seed=0)
    log = DecisionLog(run_dir / "decisions", selector=selector, pool=pool, first_step=0)
    groups = [counts(each, 4, 8) for each in selector.select(10)]
    log.log(1, groups, [])
    (run_dir / "config.yaml").write_text(yaml.safe_dump({"selector": node, "trainer": {"rollouts_per_prompt": 8}}))
    view = load_step(run_dir, 1)
    assert "chose 10 prompts without looking at their beliefs" in explain_step(view)[0]
    assert "Chosen: a uniform draw, with a chance of 25.00%" in text_of(run_dir, 1, groups[0].prompt_id)
    absent = next(each.id for each in pool if each.id not in view.candidates.prompt_id)
    assert "drew 10 of 40 prompts uniformly, and it was not among them" in text_of(run_dir, 1, absent)


def test_a_rule_that_draws_says_the_chance(tmp_path):
    run_dir = record(tmp_path / "mapp", "mapp")
    decisions = read_decisions(run_dir, NUM_STEPS)
    row = int(np.flatnonzero(decisions.chosen)[0])
    text = text_of(run_dir, NUM_STEPS, decisions.prompt_id[row])
    assert f"The rule leaves it to chance: this prompt had {decisions.propensity[row]:.1%}" in text


def test_rounds_are_named(tmp_path):
    run_dir = record(tmp_path / "rounds", "insight", rounds=2)
    assert "It took 2 rounds" in " ".join(explain_step(load_step(run_dir, 3)))
    decisions = read_decisions(run_dir, 3)
    second = decisions.prompt_id[(decisions.round == 1) & decisions.chosen][0]
    assert "Chosen in round 2: rank" in text_of(run_dir, 3, second)


def test_the_cap_on_repeats_is_given_as_the_reason(tmp_path):
    guards = ["selector.guards.max_visits=1", "selector.guards.window=4"]
    run_dir = record(tmp_path / "capped", "insight", overrides=guards)
    decisions = read_decisions(run_dir, 4)
    recent = read_history(run_dir)
    recent = recent.rows((recent.step < 4) & (recent.judged > 0))
    capped = next(each for each in recent.prompt_id.tolist() if each not in decisions.prompt_id)
    assert "the most that selector.guards.max_visits=1 allows" in text_of(run_dir, 4, capped)


def test_prompts_are_found_by_id_or_its_start(insight_run):
    view = load_step(insight_run, 1)
    assert find_prompt(insight_run, view, "toy/007") == "toy/007"
    assert find_prompt(insight_run, view, "007") == "toy/007"
    with pytest.raises(UsageError, match=r"prompt=toy/03: stands for 10 prompts of the pool; closest: toy/030"):
        find_prompt(insight_run, view, "toy/03")
    with pytest.raises(UsageError, match=r"prompt=toy/0O7: is not the id of a prompt of the pool; closest: .*toy/007"):
        find_prompt(insight_run, view, "toy/0O7")


def test_the_command_prints_words_a_table_and_the_picture(insight_run, capsys):
    assert main(["explain", f"run_dir={insight_run}"]) == 0
    printed = capsys.readouterr().out
    assert f"Step {NUM_STEPS}: insight chose 8 of 16" in printed
    assert "mixed" in printed
    picture = insight_run / "explain" / "step_000009.png"
    assert str(picture) in printed.replace("\n", "")
    assert picture.read_bytes().startswith(b"\x89PNG")

    assert main(["explain", f"run_dir={insight_run}", "step=4", "prompt=toy/011"]) == 0
    assert "Prompt toy/011: 'problem 11'" in capsys.readouterr().out
    assert (insight_run / "explain" / "step_000004_toy_011.png").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["step=3"], "run_dir has no value"),
        (["run_dir=nowhere"], "no such folder"),
        (["run_dir={}", "step=77"], "steps 1-9"),
        (["run_dir={}", "step=last"], "step='last'"),
        (["run_dir={}", "promt=x"], "did you mean prompt=...?"),
    ],
)
def test_mistakes_are_named(insight_run, settings, message, capsys):
    assert main(["explain", *(setting.format(insight_run) for setting in settings)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "settings", [{"mu": "abc", "eta": 3.0}, {"mu": 0.3, "eta": None}, {"guards": {"exploration": "much"}}]
)
def test_a_setting_that_is_no_number_is_named(settings):
    one = StepDecisions(
        **{name: np.zeros(1, bool if name == "chosen" else float) for name in StepDecisions.__dataclass_fields__}
    )
    view = StepView(
        step=1, selector="insight", settings=settings, num_rollouts=8, candidates=one, visits=np.zeros(1), texts={}
    )
    with pytest.raises(UsageError, match=r"selector\.\w+='?\w+'?: must be a number"):
        view.weight, view.bar(0)
