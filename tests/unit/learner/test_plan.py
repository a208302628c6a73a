from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from insight_rl.algorithm.loss import GRPO, LossSettings
from insight_rl.learner.batch import MicroBatch, Row, TrainSequence
from insight_rl.learner.plan import (
    BatchSettings,
    RankPlan,
    SequenceTable,
    StepPlan,
    lay_out,
    make_rows,
    plan_step,
)
from insight_rl.types import Completion, Group, Prompt, Reward

LOSS = LossSettings(loss=GRPO(), clip_low=0.2, clip_high=0.2)
SETTINGS = BatchSettings(
    loss=LOSS,
    max_completion_tokens=12,
    prompts_per_update=3,
    num_ranks=1,
    tokens_per_micro_batch=40,
    share_prompts=True,
    hidden_size=16,
)


def make_group(number: int, prompt_length: int, lengths: list[int], *, truncated: tuple[int, ...] = ()) -> Group:
    """Tokens spell out where they belong: those of completions name group, rollout and place."""
    completions = tuple(
        Completion(
            token_ids=tuple(1000 + number * 10_000 + j * 100 + t for t in range(length)),
            logprobs=tuple(-(number + j / 10 + t / 1000) for t in range(length)),
            text="",
            finish_reason="length" if j in truncated else "stop",
            policy_version=0,
        )
        for j, length in enumerate(lengths)
    )
    prompt = Prompt(
        id=f"p{number}", task="t", text="", token_ids=tuple(range(number, number + prompt_length)), answer=None
    )
    return Group(prompt=prompt, completions_G=completions, rewards_G=(Reward(value=0, success=False),) * len(lengths))


@st.composite
def steps(draw) -> tuple[list[Group], list[np.ndarray]]:
    groups, advantages = [], []
    for number in range(draw(st.integers(1, 7))):
        lengths = draw(st.lists(st.integers(0, 12), min_size=2, max_size=5))
        groups.append(make_group(number, draw(st.integers(1, 15)), lengths))
        values = st.sampled_from([0.0, 1.5, -0.5, np.nan])
        is_flat = draw(st.booleans())
        advantages.append(np.array([0.0 if is_flat else draw(values) for _ in lengths]))
    return groups, advantages


def batches_of(plan: StepPlan) -> list[MicroBatch]:
    return [batch for rank in plan.ranks for update in laid_out(rank) for batch in update]


def laid_out(rank: RankPlan, *, is_packed: bool = False) -> list[list[MicroBatch]]:
    sequences = rank.table.sequences()
    return [[lay_out(batch, sequences, is_packed=is_packed) for batch in update] for update in rank.updates]


def read_back(batch: MicroBatch) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The (context, target) pairs a model would be trained on, from nothing but what it gets to see."""
    if batch.parts is not None:
        return read_back_packed(batch)
    pairs = []
    flat = batch.input_ids.ravel()
    width = batch.input_ids.shape[1]
    for source, target in zip(batch.sources_N, batch.targets_N, strict=True):
        row, at = divmod(int(source), width)
        seen = range(row * width, row * width + at + 1)
        if batch.segments is not None and batch.positions is not None:
            own = batch.segments.ravel()[source]
            seen = [i for i in seen if batch.segments.ravel()[i] in (0, own)]
            assert [batch.positions.ravel()[i] for i in seen] == list(range(len(seen)))
        if batch.segments is not None and own == 0:
            seen = [i for i in seen if batch.segments.ravel()[i] == 0]
        pairs.append((tuple(int(flat[i]) for i in seen), int(target)))
    return pairs


def read_back_packed(batch: MicroBatch) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    assert batch.parts is not None and batch.positions is not None and len(batch.input_ids) == 1
    parts = batch.parts
    part_of = np.repeat(np.arange(len(parts.lengths)), parts.lengths)
    assert len(part_of) == batch.input_ids.size
    pairs = []
    for source, target in zip(batch.sources_N.tolist(), batch.targets_N.tolist(), strict=True):
        visible = {part_of[source], parts.prompts[part_of[source]]}
        seen = [i for i in range(source + 1) if part_of[i] in visible]
        assert batch.positions[0, seen].tolist() == list(range(len(seen)))
        pairs.append((tuple(batch.input_ids[0, seen].tolist()), target))
    return pairs


@settings(deadline=None)
@given(
    step=steps(),
    num_ranks=st.integers(1, 3),
    budget=st.integers(1, 200),
    share=st.booleans(),
    size=st.integers(1, 7),
    kernel=st.sampled_from(["sdpa", "flash", "flex"]),
)
def test_every_token_with_a_gradient_is_trained_on_once_in_its_right_context(
    step, num_ranks, budget, share, size, kernel
):
    groups, advantages = step
    plan = plan_step(
        groups,
        advantages,
        dataclasses.replace(
            SETTINGS,
            num_ranks=num_ranks,
            tokens_per_micro_batch=budget,
            share_prompts=share,
            prompts_per_update=size,
            kernel=kernel,
        ),
    )
    batches = [
        batch for rank in plan.ranks for update in laid_out(rank, is_packed=kernel != "sdpa") for batch in update
    ]
    assert plan.num_inputs == sum(batch.input_ids.size for batch in batches)
    for batch in batches:
        assert batch.input_ids.size <= budget or batch.input_ids.shape[0] == 1
        assert batch.parts is None or batch.parts.num_rows == 1 or batch.input_ids.size <= budget
    expected = Counter(
        (group.prompt.token_ids + tuple(completion.token_ids[:t].tolist()), completion.token_ids[t])
        for group, values in zip(groups, advantages, strict=True)
        for completion, value in zip(group.completions_G, values, strict=True)
        if value != 0 and not np.isnan(value)
        for t in range(len(completion.token_ids))
    )
    found = Counter(pair for b in batches if b.weights_N.any() for pair in read_back(b))
    assert found == expected
    assert plan.num_tokens == expected.total()


@settings(deadline=None)
@given(step=steps(), num_ranks=st.integers(1, 3), budget=st.integers(1, 200), size=st.integers(1, 7))
def test_ranks_stay_in_step_and_budgets_are_kept(step, num_ranks, budget, size) -> None:
    groups, advantages = step
    plan = plan_step(
        groups,
        advantages,
        dataclasses.replace(SETTINGS, num_ranks=num_ranks, tokens_per_micro_batch=budget, prompts_per_update=size),
    )
    shapes = {tuple(len(update) for update in rank.updates) for rank in plan.ranks}
    assert len(shapes) == 1
    assert all(count > 0 for count in shapes.pop())
    for batch in batches_of(plan):
        assert batch.input_ids.size <= budget or batch.input_ids.shape[0] == 1
        assert batch.is_measured or not batch.weights_N.any()


@settings(deadline=None)
@given(step=steps(), num_ranks=st.integers(2, 4), budget=st.integers(1, 200), share=st.booleans())
def test_ranks_get_about_the_same_number_of_tokens_and_no_token_twice(step, num_ranks, budget, share) -> None:
    """Rows are dealt by length, back and forth: the shares differ by one row of each kind, shared and not, at most."""
    changes = {"num_ranks": num_ranks, "tokens_per_micro_batch": budget, "share_prompts": share}
    plan = plan_step(*step, dataclasses.replace(SETTINGS, prompts_per_update=len(step[0]), **changes))
    tables = [rank.table for rank in plan.ranks]
    measured = [np.flatnonzero(table.weights_S) for table in tables]
    sizes = [table.lengths_S[own].sum() for table, own in zip(tables, measured, strict=True)]
    assert sum(sizes) == plan.num_tokens
    for rank, own in zip(plan.ranks, measured, strict=True):
        placed = Counter(number for batch in rank.updates[0] for row in batch.rows for number in row)
        assert all(placed[number] == 1 for number in own.tolist())
    batches = [laid_out(rank)[0] for rank in plan.ranks]
    tokens = [sum(batch.work.num_inputs for batch in own) for own in batches]
    longest = max(batch.input_ids.shape[1] for own in batches for batch in own)
    assert max(tokens) - min(tokens) <= 2 * longest


@settings(deadline=None)
@given(step=steps(), size=st.integers(1, 7), num_ranks=st.integers(1, 3))
def test_weights_count_skipped_sequences_and_leave_out_unjudged_ones(step, size, num_ranks) -> None:
    groups, advantages = step
    plan = plan_step(groups, advantages, dataclasses.replace(SETTINGS, prompts_per_update=size, num_ranks=num_ranks))
    starts = range(0, len(groups), size)
    assert all(len(rank.updates) == len(starts) for rank in plan.ranks)
    for number, at in enumerate(starts):
        counted = [
            value
            for group, values in zip(groups[at : at + size], advantages[at : at + size], strict=True)
            for completion, value in zip(group.completions_G, values, strict=True)
            if completion.token_ids.size and not np.isnan(value)
        ]
        # grpo: each sequence that counts has weight 1 / number of them, spread over its tokens.
        total = sum(b.weights_N.sum() for rank in plan.ranks for b in laid_out(rank)[number])
        assert total == pytest.approx(np.count_nonzero(counted) / max(len(counted), 1))


def test_flat_groups_are_skipped_unless_the_kl_term_needs_them() -> None:
    groups = [make_group(0, 4, [3, 2]), make_group(1, 4, [5, 5])]
    advantages = [np.array([0.0, 0.0]), np.array([1.0, -1.0])]
    plan = plan_step(groups, advantages, SETTINGS)
    assert (plan.num_skipped_groups, plan.num_sequences, plan.num_tokens) == (1, 2, 10)
    with_kl = dataclasses.replace(SETTINGS, loss=dataclasses.replace(LOSS, kl_coef=0.1))
    plan = plan_step(groups, advantages, with_kl)
    assert (plan.num_skipped_groups, plan.num_sequences, plan.num_tokens) == (0, 4, 15)


def test_an_update_with_nothing_to_learn_still_has_one_weightless_batch_on_each_rank() -> None:
    settings_2 = dataclasses.replace(SETTINGS, num_ranks=2)
    plan = plan_step([make_group(0, 4, [3, 2])], [np.array([0.0, np.nan])], settings_2)
    assert [len(rank.updates[0]) for rank in plan.ranks] == [1, 1]
    assert not any(batch.weights_N.any() for batch in batches_of(plan))
    assert [batch.is_measured for batch in batches_of(plan)] == [True, False]


def test_no_groups_make_no_update() -> None:
    plan = plan_step([], [], SETTINGS)
    assert [rank.updates for rank in plan.ranks] == [()]


def test_truncated_completions_are_masked_in_loss_and_counts_alike() -> None:
    masking = dataclasses.replace(SETTINGS, loss=dataclasses.replace(LOSS, mask_truncated=True))
    plan = plan_step([make_group(0, 4, [3, 5, 2], truncated=(1,))], [np.array([1.0, 1.0, -1.0])], masking)
    assert plan.num_sequences == 2
    assert sum(batch.weights_N.sum() for batch in batches_of(plan)) == pytest.approx(1.0)


def test_prompts_are_shared_where_that_is_cheaper() -> None:
    def rows(prompt_length: int, lengths: list[int], **changes) -> list[Row]:
        sequences = [
            TrainSequence(
                prompt_ids=np.arange(prompt_length),
                completion_ids=np.arange(length),
                rollout_logprobs=np.zeros(length),
                advantage=1.0,
                weight=1.0,
            )
            for length in lengths
        ]
        return make_rows(sequences, dataclasses.replace(SETTINGS, tokens_per_micro_batch=10**6, **changes))

    assert [len(row.sequences) for row in rows(500, [50] * 8)] == [8]
    assert [len(row.sequences) for row in rows(10, [2000] * 8)] == [1] * 8
    assert [len(row.sequences) for row in rows(500, [50] * 8, share_prompts=False)] == [1] * 8
    # Without a square of pairs under a mask sharing never costs more.
    assert [len(row.sequences) for row in rows(10, [2000] * 8, kernel="flash")] == [8]


def test_a_group_wider_than_the_budget_is_shared_in_parts() -> None:
    groups = [make_group(0, 20, [6] * 8)]
    plan = plan_step(groups, [np.array([1.0, -1.0] * 4)], dataclasses.replace(SETTINGS, tokens_per_micro_batch=40))
    assert [batch.num_sequences for batch in batches_of(plan)] == [4, 4]
    assert [batch.input_ids.size for batch in batches_of(plan)] == [40, 40]


def test_advantages_must_match_their_groups() -> None:
    with pytest.raises(ValueError, match="p0: 3 advantages for 2 completions"):
        plan_step([make_group(0, 4, [3, 2])], [np.zeros(3)], SETTINGS)


def test_every_completion_token_needs_its_logprob() -> None:
    group = make_group(0, 4, [3, 2])
    short = dataclasses.replace(group.completions_G[1], logprobs=np.zeros(1))
    with pytest.raises(ValueError, match="p0: a completion of 2 tokens has 1 log-probs"):
        plan_step([dataclasses.replace(group, completions_G=(group.completions_G[0], short))], [np.ones(2)], SETTINGS)


@pytest.mark.parametrize("lengths", [[3, 0], [0, 0]])
def test_an_empty_completion_leaves_the_ranks_equally_many_batches(lengths) -> None:
    """One sequence for two ranks, or none at all: the other rank gets a stand-in either way."""
    plan = plan_step([make_group(0, 4, lengths)], [np.array([1.0, -1.0])], dataclasses.replace(SETTINGS, num_ranks=2))
    assert [len(rank.updates[0]) for rank in plan.ranks] == [1, 1]
    assert plan.num_sequences == np.count_nonzero(lengths)
    # A made-up token has no log-prob of the rollout: nothing may be measured on it.
    assert [batch.is_measured for batch in batches_of(plan)] == [lengths != [0, 0], False]


def test_the_example_of_the_table_is_true_and_sequences_come_back_as_they_were() -> None:
    prompt = np.array([11, 12], dtype=np.int32)
    given = [
        TrainSequence(
            prompt_ids=prompt,
            completion_ids=np.array(ids, dtype=np.int32),
            rollout_logprobs=np.full(len(ids), -0.1, dtype=np.float32),
            advantage=0.1 * len(ids),
            weight=1 / 3,
        )
        for ids in ([21, 22], [31])
    ]
    table = SequenceTable.of(given)
    assert (table.prompt_ids.tolist(), table.prompt_lengths_P.tolist()) == ([11, 12], [2])
    assert (table.completion_ids.tolist(), table.lengths_S.tolist()) == ([21, 22, 31], [2, 1])
    assert table.prompts_S.tolist() == [0, 0]
    for one, other in zip(given, table.sequences(), strict=True):
        for name in ("prompt_ids", "completion_ids", "rollout_logprobs"):
            assert getattr(one, name).dtype == getattr(other, name).dtype
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        assert (one.advantage, one.weight) == (other.advantage, other.weight)
