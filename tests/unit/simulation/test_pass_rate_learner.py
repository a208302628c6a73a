from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import stats

from insight_rl.errors import UsageError
from insight_rl.gate.admit_all import AdmitAll
from insight_rl.selector.random import RandomSelector
from insight_rl.simulation.experiment import CURVES, Size, run
from insight_rl.simulation.oracle import OracleSelector
from insight_rl.simulation.pass_rate_learner import PassRateLearner
from insight_rl.simulation.pass_rates import PassRateFile
from insight_rl.simulation.single_run import simulated_run

NUM = 400


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Texts of two kinds, half of each; pass rates 0, 1/128, ..., 1 in turn."""
    path = tmp_path_factory.mktemp("pool") / "rates.jsonl"
    kinds = ("What is the sum of {0} and {0}?", "In the triangle ABC with side {0}, find the largest angle.")
    rows = [
        {"question": kinds[i % 2].format(i), "answer": str(i), "pass_rate": (i * 37 % 129) / 128} for i in range(NUM)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def make(path):
    def make(*, seed=0, num_prompts=None, **settings):
        repeats = {"repeat_exponent": 0.0, "diminishing": 0.0, "own_diminishing": 0.0}
        still = {"own": 0.1, "transfer": 0.3, "common": 0.0, "drift": 0.0, **repeats}
        learner = PassRateLearner(pool=PassRateFile(path=path), **(still | settings))
        learner.open(num_prompts=num_prompts, seed=seed)
        return learner

    return make


def logits(rates):
    return np.log(rates) - np.log1p(-rates)


def trained(learner, indices, successes, num_rollouts=8):
    """One step in which the prompts at ``indices`` had these verdicts, all of them right; the change of the logits."""
    indices, successes = np.array(indices), np.array(successes)
    learner.roll_out(indices, num_rollouts)
    learner._truly_right[indices] = learner._rightly_right[indices] = successes
    before = logits(learner.success_rates())
    learner.train(indices, successes, num_rollouts)
    return logits(learner.success_rates()) - before


def test_rates_start_near_the_file_s(make):
    learner = make()
    given = {json_rate(prompt.answer): None for prompt in learner.prompts}
    assert len(given) == 129
    rates = np.array([json_rate(prompt.answer) for prompt in learner.prompts])
    drawn = learner.success_rates()
    assert np.abs(drawn - rates).max() < 5 * math.sqrt(0.25 / 128)
    # Beta(S + 0.3, F + 0.3): the probability integral transform of the draws is uniform.
    uniform = stats.beta(128 * rates + 0.3, 128 * (1 - rates) + 0.3).cdf(drawn)
    assert stats.kstest(uniform, "uniform").pvalue > 0.001
    assert np.array_equal(learner.hopeless, drawn < 0.01)


def json_rate(answer):
    return (int(answer) * 37 % 129) / 128


def test_a_group_teaches_the_prompt_and_its_cluster(make):
    learner = make(own=0.1, transfer=0.3)
    cluster = learner._cluster
    moved = trained(learner, [5], [2])
    gain = math.sqrt(0.25 * 0.75)
    size = np.sum(cluster == cluster[5])
    shared = 0.3 * 0.1 * gain * 50 / max(size, 25)
    expected = np.where(cluster == cluster[5], shared, 0.0)
    expected[5] += 0.1 * gain
    assert moved == pytest.approx(expected, abs=1e-9)
    assert np.unique(cluster).size == NUM / 50


def test_repeats_teach_others_and_the_prompt_less(make):
    learner = make(own=0.1, transfer=0.3, diminishing=1.0, own_diminishing=0.5)
    relative = np.flatnonzero(learner._cluster == learner._cluster[5])
    relative = relative[relative != 5][0]
    first, second, third = (trained(learner, [5], [4]) for _ in range(3))
    assert second[relative] == pytest.approx(first[relative] / 2)
    assert third[relative] == pytest.approx(first[relative] / 3)
    own = [moved[5] - moved[relative] for moved in (first, second, third)]
    assert own[1:] == pytest.approx([own[0] / 1.5, own[0] / 2.0])


def test_repeats_may_wear_off_by_a_power(make):
    learner = make(repeat_exponent=0.5)
    relative = np.flatnonzero(learner._cluster == learner._cluster[5])
    relative = relative[relative != 5][0]
    moved = [trained(learner, [5], [4])[relative] for _ in range(4)]
    assert moved == pytest.approx([moved[0] / math.sqrt(visit) for visit in (1, 2, 3, 4)])


def test_what_a_step_does_to_all(make):
    learner = make(own=0.1, transfer=0.3, common=0.01, forgetting=0.5)
    first = trained(learner, [5], [4])
    strangers = learner._cluster != learner._cluster[5]
    assert first[strangers] == pytest.approx(0.01 * 0.1 * 0.5)
    relative = np.flatnonzero(~strangers & (np.arange(NUM) != 5))[0]
    shared = first[relative] - 0.01 * 0.1 * 0.5
    quiet = trained(learner, [6], [0])  # nothing is learnt, the cluster forgets half
    assert quiet[relative] == pytest.approx(-shared / 2)
    assert quiet[strangers] == pytest.approx(0.0, abs=1e-9)


def test_the_walk_has_the_stated_size(make):
    learner = make(drift=0.05)
    moved = trained(learner, [5], [0])
    assert moved.std() == pytest.approx(0.05, rel=0.15)
    assert abs(moved.mean()) < 4 * 0.05 / math.sqrt(NUM)


def test_hard_prompts_may_teach_more(make):
    moved = trained(make(own=0.1, transfer=0.0, hard_gain=True), [5, 6], [2, 6])
    gain = 0.1 * math.sqrt(0.25 * 0.75)
    assert moved[[5, 6]] == pytest.approx([gain * 1.6 * 0.75, gain * 1.6 * 0.25])


def test_uniform_groups_teach_nothing_and_wear_nothing_off(make):
    learner, fresh = make(), make()
    assert trained(learner, [1, 2], [0, 8]) == pytest.approx(0.0, abs=1e-12)
    assert trained(learner, [1], [4]) == pytest.approx(trained(fresh, [1], [4]))


def test_wrong_verdicts_come_at_the_stated_rates_and_teach_less(make):
    learner = make(false_positive=0.2, false_negative=0.1)
    rates, everyone = learner.success_rates(), np.arange(NUM)
    seen = np.mean([learner.roll_out(everyone, 8) for _ in range(400)], axis=0) / 8
    expected = rates * 0.9 + (1 - rates) * 0.2
    assert np.abs(seen - expected).max() < 5 * math.sqrt(0.25 / 3200)
    assert seen.mean() == pytest.approx(expected.mean(), abs=0.002)


def test_the_worth_of_a_group_is_what_its_advantages_favour_the_right_rollouts_by(make):
    learner = make(own=1.0, transfer=0.0)
    truth = np.array([1, 1, 1, 0, 0, 0, 0, 0])
    verdicts = np.array([1, 1, 0, 0, 0, 0, 0, 1])  # one false negative, one false positive
    advantages = (verdicts - verdicts.mean()) / verdicts.std()
    learner.roll_out(np.array([7]), 8)
    learner._truly_right[7], learner._rightly_right[7] = truth.sum(), (truth * verdicts).sum()
    before = logits(learner.success_rates())
    learner.train(np.array([7]), np.array([verdicts.sum()]), 8)
    assert (logits(learner.success_rates()) - before)[7] == pytest.approx(np.mean(advantages * truth))
    # A hopeless prompt that looks mixed by a false positive teaches nothing.
    learner._truly_right[8] = learner._rightly_right[8] = 0
    before = learner.success_rates()[8]
    learner.train(np.array([8]), np.array([1]), 8)
    assert learner.success_rates()[8] == pytest.approx(before)


class Recorder(RandomSelector):
    """Keeps what it chose, step by step."""

    def open(self, pool, **settings):
        super().open(pool, **settings)
        self.pool, self.chosen = {prompt.id for prompt in pool}, []

    def observe(self, outcomes):
        self.chosen.append({outcome.prompt_id for outcome in outcomes})
        super().observe(outcomes)


SIZE = Size(num_prompts=None, num_steps=12, prompts_per_step=32, rollouts_per_prompt=8)


@pytest.mark.parametrize("make_selector", [lambda _: Recorder(), lambda learner: OracleSelector(learner)])
def test_late_prompts_are_never_chosen_before_their_step(make, make_selector):
    learner = make(late_share=1 / 3, late_step=7)
    selector = make_selector(learner)
    seen, original = [], learner.train
    learner.train = lambda indices, *rest: (seen.append(set(indices.tolist())), original(indices, *rest))
    curves = run(selector, AdmitAll(), learner, size=SIZE, seed=0)
    late = set(learner.late.tolist())
    assert len(late) == round(NUM / 3)
    assert not any(late & chosen for chosen in seen[:6])
    assert all(late & chosen for chosen in seen[6:])
    assert np.all(curves[CURVES.index("regret")] >= 0.0)


def test_late_prompts_of_a_selector_that_cannot_wait_are_refused(make):
    class Plain:
        def open(self, pool, *, num_rollouts, seed): ...

    with pytest.raises(UsageError, match=r"synthetic_learner\.late_share: Plain has no withhold"):
        run(Plain(), AdmitAll(), make(late_share=0.5, late_step=3), size=SIZE, seed=0)


def test_held_out_prompts_are_never_in_the_pool_and_are_what_counts(make):
    learner, selector = make(held_out=0.25, transfer=1.0), Recorder()
    held_out = {str(index) for index in range(NUM)} - {prompt.answer for prompt in learner.prompts}
    assert len(held_out) == 100
    rates = np.array([json_rate(answer) for answer in held_out])
    assert learner.mean_success() == pytest.approx(rates.mean(), abs=0.02)
    before = learner.mean_success()
    curves = run(selector, AdmitAll(), learner, size=SIZE, seed=0)
    assert len(selector.pool) == 300
    assert set().union(*selector.chosen) <= selector.pool
    assert curves[CURVES.index("mean_success"), -1] == learner.mean_success() > before + 0.005


def test_hardness_draws_hard_prompts(make):
    easy, hard = (make(num_prompts=100, hardness=h).success_rates().mean() for h in (0.0, 3.0))
    assert easy == pytest.approx(0.5, abs=0.08)
    assert hard < 0.3


def test_shuffled_texts_are_those_of_others(make):
    plain, shuffled = make(), make(shuffled_texts=True)
    assert [prompt.id for prompt in plain.prompts] == [prompt.id for prompt in shuffled.prompts]
    assert np.array_equal(plain.success_rates(), shuffled.success_rates())
    texts = [prompt.text for prompt in plain.prompts], [prompt.text for prompt in shuffled.prompts]
    assert sorted(texts[0]) == sorted(texts[1])
    assert np.mean([one == other for one, other in zip(*texts, strict=True)]) < 0.05


def test_a_seed_fixes_the_pool_and_another_is_another(make):
    first, again, other = make(num_prompts=50), make(num_prompts=50), make(num_prompts=50, seed=1)
    assert [p.id for p in first.prompts] == [p.id for p in again.prompts]
    assert np.array_equal(first.success_rates(), again.success_rates())
    assert [p.id for p in first.prompts] != [p.id for p in other.prompts]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"own": -1.0}, r"synthetic_learner\.own=-1\.0: must be a number of at least 0"),
        ({"held_out": 1.0}, r"synthetic_learner\.held_out=1\.0: must be in \[0, 1\)"),
        ({"late_step": 0}, r"synthetic_learner\.late_step=0"),
        ({"hard_gain": 1}, r"synthetic_learner\.hard_gain=1: must be true or false"),
        ({"held_out": 0.999, "late_share": 0.9, "num_prompts": 2}, "none is left to begin with"),
        ({"num_prompts": NUM + 1}, f"num_prompts={NUM + 1}: is more than the {NUM} different problems"),
        ({"num_prompts": NUM, "hardness": 2.0}, r"problems that synthetic_learner\.hardness=2\.0 leaves"),
    ],
)
def test_mistakes_are_named(make, settings, message):
    with pytest.raises(UsageError, match=message):
        make(**settings)


def test_a_learner_without_a_file_says_what_is_missing():
    with pytest.raises(UsageError, match="pool=pass_rates"):
        PassRateLearner(pool=None)


ROWS = ("step", "rollouts", "tokens", "seconds", "accuracy", "informative_fraction")


def test_a_single_run_gives_rows_for_a_comparison(path):
    overrides = ["pool=pass_rates", f"path={path}", "num_steps=7", "prompts_per_step=16", "record_every=3"]
    rows = simulated_run([*overrides, "selector=insight"], 4)
    assert [tuple(row) for row in rows] == [ROWS] * 4
    assert [row["step"] for row in rows] == [0, 3, 6, 7]
    assert [row["rollouts"] for row in rows] == [0, 384, 768, 896]
    assert rows[0]["informative_fraction"] is None
    assert all(row["tokens"] is None for row in rows)
    assert all(0.0 <= row["informative_fraction"] <= 1.0 for row in rows[1:])
    assert sorted(row["seconds"] for row in rows) == [row["seconds"] for row in rows]
    again, random, oracle, other = (
        simulated_run([*overrides, *own], seed)
        for own, seed in (
            (["selector=insight"], 4),
            (["selector=random"], 4),
            (["oracle=true"], 4),
            (["selector=random"], 5),
        )
    )
    assert [row["accuracy"] for row in again] == [row["accuracy"] for row in rows]
    assert random[0] == rows[0] == oracle[0]  # the arms of a seed begin with the same pool
    assert other[0] != random[0]
    assert oracle[-1]["informative_fraction"] > random[-1]["informative_fraction"]


def test_a_single_run_counts_the_rollouts_of_rejected_groups(path):
    overrides = ["pool=pass_rates", f"path={path}", "num_steps=2", "prompts_per_step=16", "record_every=1"]
    rows = simulated_run([*overrides, "selector=dynamic_sampling"], 0)
    assert rows[-1]["rollouts"] > 2 * 16 * 8
    assert rows[-1]["rollouts"] % 8 == 0
