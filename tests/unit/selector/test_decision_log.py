from __future__ import annotations

import math
import os

import numpy as np
import pyarrow.parquet as pq
import pytest

from insight_rl.errors import UsageError
from insight_rl.selector.acquisition import mopps, weighted_mutual_information
from insight_rl.selector.belief_selector import BeliefSelector
from insight_rl.selector.decision_log import (
    SCHEMA,
    DecisionLog,
    logged_steps,
    read_decisions,
    read_history,
    read_pool,
)
from insight_rl.selector.guards import Guards
from insight_rl.selector.random import RandomSelector
from insight_rl.types import Counts, Prompt


def counts(prompt, num_successes, num_judged):
    return Counts(prompt_id=prompt.id, num_judged=num_judged, num_successes=num_successes)


def make_pool(size=60):
    ids = [f"toy/{index:03d}" for index in range(size)]
    return [Prompt(id=each, task="toy", text=f"problem {each}", token_ids=(1,), answer=None) for each in ids]


def opened(selector, pool, seed=0):
    selector.open(pool, num_rollouts=8, seed=seed)
    return selector


def run(selector, log, steps, *, num_prompts=6, rounds=1):
    """Groups of each step, in the trainer's order of calls; the outcome follows from the prompt alone."""
    all_groups = {}
    for step in steps:
        groups, scores = [], []
        for _ in range(rounds):
            prompts = selector.select(num_prompts)
            scores += selector.last_scores()
            groups += [counts(prompt, int(prompt.id[-1]) % 9, 8) for prompt in prompts]
        log.log(step, groups, scores)
        selector.observe(groups)
        all_groups[step] = groups
    return all_groups


def insight(**settings):
    return BeliefSelector(score=weighted_mutual_information, candidate_ratio=3, **settings)


def test_every_candidate_is_logged_with_what_was_known_and_what_came_of_it(tmp_path):
    pool = make_pool()
    selector = opened(insight(), pool)
    log = DecisionLog(tmp_path / "decisions", selector=selector, pool=pool, first_step=0)
    run(selector, log, [1, 2])
    before = {prompt.id: selector.belief(prompt.id) for prompt in pool}
    groups = run(selector, log, [3])[3]
    decisions = read_decisions(tmp_path, 3)
    assert len(decisions) == 18 == len(set(decisions.prompt_id))
    assert set(decisions.step) == {3}
    assert set(decisions.round) == {0}
    beliefs = list(zip(decisions.alpha, decisions.beta, strict=True))
    assert beliefs == [before[prompt_id] for prompt_id in decisions.prompt_id]
    assert decisions.score == pytest.approx(weighted_mutual_information(decisions.alpha, decisions.beta, 8))
    assert np.isnan(decisions.propensity).all()
    chosen = decisions.rows(decisions.chosen)
    assert set(chosen.prompt_id) == {group.prompt_id for group in groups}
    assert chosen.score.min() >= decisions.score[~decisions.chosen].max()
    outcomes = {group.prompt_id: (group.num_successes, group.num_judged) for group in groups}
    assert [outcomes[each] for each in chosen.prompt_id] == list(zip(chosen.successes, chosen.judged, strict=True))
    assert set(decisions.judged[~decisions.chosen]) == {-1}


def test_rounds_of_a_gate_are_told_apart(tmp_path):
    pool = make_pool()
    selector = opened(insight(), pool)
    log = DecisionLog(tmp_path / "decisions", selector=selector, pool=pool, first_step=0)
    groups = run(selector, log, [1], rounds=3)[1]
    decisions = read_decisions(tmp_path, 1)
    assert np.bincount(decisions.round).tolist() == [18, 18, 18]
    for number in range(3):
        chosen = decisions.rows((decisions.round == number) & decisions.chosen)
        assert set(chosen.prompt_id) == {group.prompt_id for group in groups[6 * number : 6 * number + 6]}


def test_files_are_plain_parquet_of_the_stated_schema(tmp_path):
    pool = make_pool()
    selector = opened(insight(), pool)
    run(selector, DecisionLog(tmp_path / "decisions", selector=selector, pool=pool, first_step=0), [7])
    table = pq.ParquetFile(tmp_path / "decisions" / "step_000007.parquet").read()
    assert table.schema.equals(SCHEMA)
    assert table.column("judged").null_count == 12
    assert read_pool(tmp_path) == {prompt.id: prompt.text for prompt in pool}


def test_a_resumed_run_drops_later_steps_and_leftovers_and_ends_the_same(tmp_path):
    pool = make_pool()
    whole = opened(insight(), pool)
    run(whole, DecisionLog(tmp_path / "whole" / "decisions", selector=whole, pool=pool, first_step=0), range(1, 7))

    folder = tmp_path / "cut" / "decisions"
    selector = opened(insight(), pool)
    log = DecisionLog(folder, selector=selector, pool=pool, first_step=0)
    run(selector, log, range(1, 4))
    state = selector.state_dict()
    run(selector, log, [4])  # after the checkpoint: as if killed in step 5
    (folder / ".step_000005.parquet.writing").write_bytes(b"half a fi")
    resumed = opened(insight(), pool, seed=9)
    resumed.load_state_dict(state)
    log = DecisionLog(folder, selector=resumed, pool=pool, first_step=4)
    assert logged_steps(tmp_path / "cut") == [1, 2, 3]
    assert not list(folder.glob("*.writing"))
    run(resumed, log, range(4, 7))
    for path in sorted((tmp_path / "whole" / "decisions").iterdir()):
        assert (folder / path.name).read_bytes() == path.read_bytes()


def test_a_killed_writer_leaves_the_steps_before_whole(tmp_path, monkeypatch):
    pool = make_pool()
    selector = opened(insight(), pool)
    log = DecisionLog(tmp_path / "decisions", selector=selector, pool=pool, first_step=0)
    run(selector, log, [1])

    def killed(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        run(selector, log, [2])
    assert logged_steps(tmp_path) == [1]
    assert len(read_decisions(tmp_path, 1)) == 18


def test_history_of_one_prompt_and_of_all_that_was_rolled_out(tmp_path):
    pool = make_pool()
    selector = opened(insight(), pool)
    log = DecisionLog(tmp_path / "decisions", selector=selector, pool=pool, first_step=0)
    groups = run(selector, log, range(1, 8))
    rolled_out = read_history(tmp_path)
    logged = list(zip(rolled_out.step.tolist(), rolled_out.prompt_id.tolist(), strict=True))
    assert sorted(logged) == sorted((step, group.prompt_id) for step, some in groups.items() for group in some)
    wanted = groups[2][0].prompt_id
    history = read_history(tmp_path, prompt_id=wanted)
    assert set(history.prompt_id) == {wanted}
    assert 2 in history.step
    assert history.chosen[history.step == 2].all()


def test_propensity_of_uniform_selection_is_m_of_those_available(tmp_path):
    pool = make_pool()
    selector = opened(RandomSelector(), pool)
    log = DecisionLog(tmp_path / "decisions", selector=selector, pool=pool, first_step=0)
    run(selector, log, [1], rounds=2)
    decisions = read_decisions(tmp_path, 1)
    assert decisions.propensity.tolist() == [6 / 60] * 6 + [6 / 54] * 6
    assert np.isnan(decisions.score).all()


def test_propensity_of_a_drawn_score_is_how_often_it_wins():
    pool = make_pool()
    selector = opened(BeliefSelector(score=mopps, candidate_ratio=10), pool)
    selector.observe([counts(prompt, 0 if int(prompt.id[-1]) < 5 else 4, 8) for prompt in pool])
    selector.select(6)
    decision = selector.last_decision
    propensity = selector.propensity(decision)
    assert np.array_equal(propensity, selector.propensity(decision))  # looking changes nothing
    rng = np.random.default_rng(1)
    wins = np.zeros(60)
    for _ in range(4000):
        wins[np.argsort(-mopps(decision.alpha, decision.beta, rng))[:6]] += 1
    assert np.abs(propensity - wins / 4000).max() < 0.12
    assert np.abs(propensity - wins / 4000).mean() < 0.03
    assert propensity.min() > 0


def test_propensity_counts_the_exploration_floor():
    pool = make_pool()
    selector = opened(insight(guards=Guards(exploration=1 / 3)), pool)
    selector.observe([counts(prompt, int(prompt.id[-1]) % 9, 8) for prompt in pool])
    selector.select(6)
    decision = selector.last_decision
    propensity = selector.propensity(decision)
    by_score = decision.chosen[:4]
    assert propensity[by_score].tolist() == [1.0] * 4
    assert np.delete(propensity, by_score) == pytest.approx(2 / 14)
    assert propensity.sum() == pytest.approx(6.0)


def test_decisions_nobody_takes_are_let_go():
    selector = opened(insight(), make_pool())
    prompts = selector.select(6)
    selector.observe([counts(prompt, 1, 8) for prompt in prompts])
    assert selector.take_decisions() == []
    selector.select(6)
    assert len(selector.take_decisions()) == 1
    assert selector.take_decisions() == []


def test_selection_among_given_prompts_is_the_rule_on_these():
    pool = make_pool()
    selector = opened(insight(), pool)
    selector.observe([counts(prompt, int(prompt.id[-1]) % 9, 8) for prompt in pool])
    ids = [prompt.id for prompt in pool[20:40]]
    picks = [prompt.id for prompt in selector.select_among(ids, 5)]
    assert set(picks) <= set(ids)
    scores = {each: float(weighted_mutual_information(*map(np.array, selector.belief(each)), 8)) for each in ids}
    assert sorted(scores[each] for each in picks) == pytest.approx(sorted(scores.values())[-5:])


def test_missing_runs_logs_and_steps_are_named(tmp_path):
    with pytest.raises(UsageError, match="no such folder"):
        logged_steps(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="no decision log"):
        logged_steps(tmp_path)
    pool = make_pool()
    selector = opened(insight(), pool)
    log = DecisionLog(tmp_path / "decisions", selector=selector, pool=pool, first_step=0)
    run(selector, log, [1, 2, 3, 9])
    with pytest.raises(UsageError, match=r"step=5: .* steps 1-3, 9"):
        read_decisions(tmp_path, 5)
    (tmp_path / "decisions" / "step_000002.parquet").write_bytes(b"PAR1")
    with pytest.raises(UsageError, match=r"step_000002\.parquet: cannot be read"):
        read_decisions(tmp_path, 2)


def test_a_step_without_a_choice_is_logged_as_such(tmp_path):
    pool = make_pool(4)
    selector = opened(insight(), pool)
    log = DecisionLog(tmp_path / "decisions", selector=selector, pool=pool, first_step=0)
    selector.select(4)
    selector.take_decisions()
    assert len(selector.select(4)) == 0
    log.log(1, [], [])
    assert len(read_decisions(tmp_path, 1)) == 0


def test_nan_stays_nan(tmp_path):
    pool = make_pool()
    selector = opened(RandomSelector(), pool)
    run(selector, DecisionLog(tmp_path / "decisions", selector=selector, pool=pool, first_step=0), [1])
    table = pq.ParquetFile(tmp_path / "decisions" / "step_000001.parquet").read()
    assert all(math.isnan(score) for score in table.column("score").to_pylist())
