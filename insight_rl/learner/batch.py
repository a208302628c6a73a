"""Cuts the groups of a step into updates, ranks and micro-batches. NumPy only.

A *row* is what one line of a micro-batch holds: a prompt followed by one of its completions, or by several that share
it (each sees the prompt and itself only, at its own positions). Sharing computes a prompt once instead of G times and
is chosen where it costs less; the log-probs are the same either way. The last token of a completion predicts nothing
that is trained on, so it is a target but never an input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from insight_rl.algorithm.loss import LossSettings
from insight_rl.learner.flops import Work
from insight_rl.types import Completion, Group

# A micro-batch computes at most this many logits at a time (256 MiB in float32).
LOGITS_PER_CHUNK = 2**26


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSequence:
    """One completion with all that its loss needs."""

    prompt_ids: np.ndarray
    completion_ids: np.ndarray
    rollout_logprobs: np.ndarray
    advantage: float
    weight: float

    def __len__(self) -> int:
        """Input tokens when it stands alone."""
        return self.prompt_ids.size + self.completion_ids.size - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A prompt and the completions computed with it in one line.

    Example: ``Row(sequences=(one,))`` is the prompt with one completion; ``Row(sequences=(one, other))`` computes the
    prompt once for both. All sequences of a row have the same prompt.
    """

    sequences: tuple[TrainSequence, ...]

    @property
    def is_shared(self) -> bool:
        return len(self.sequences) > 1

    @property
    def work(self) -> Work:
        return Work.of_row(self.sequences[0].prompt_ids.size, [s.completion_ids.size for s in self.sequences])

    def __len__(self) -> int:
        return self.sequences[0].prompt_ids.size + sum(s.completion_ids.size - 1 for s in self.sequences)


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """B rows padded on the right to L tokens; N completion tokens in S sequences, sequence after sequence.

    Example: prompt 11 12 13 with completions 21 22 (advantage 1) and 31 32 33 (advantage -1). In two rows::

        input_ids    [[11, 12, 13, 21,  0],     the last token of a completion is no input
                      [11, 12, 13, 31, 32]]
        sources_N    [2, 3, 7, 8, 9]            the hidden state that predicts each token: row x 5 + column
        targets_N    [21, 22, 31, 32, 33]
        sequences_N  [0, 0, 1, 1, 1]
        advantages_N [1, 1, -1, -1, -1]

    In one row that shares the prompt, targets and below are the same, and::

        input_ids    [[11, 12, 13, 21, 31, 32]]
        segments     [[ 0,  0,  0,  1,  2,  2]]
        positions    [[ 0,  1,  2,  3,  3,  4]]
        sources_N    [2, 3, 2, 4, 5]            the prompt's last token predicts both first tokens
    """

    input_ids: np.ndarray
    """int64 (B, L)."""
    segments: np.ndarray | None
    """int64 (B, L): 0 prompt, j the row's j-th completion, -1 padding. ``None``: no row is shared, so that plain causal
    attention is right (padding on the right is never seen)."""
    positions: np.ndarray | None
    """int64 (B, L), every completion of a row going on where the prompt ends; ``None`` with ``segments``."""
    sources_N: np.ndarray
    """int64: index into the B * L flattened inputs whose hidden state predicts the token."""
    targets_N: np.ndarray
    sequences_N: np.ndarray
    """int64: number of the token's sequence, 0 <= s < S."""
    rollout_logprobs_N: np.ndarray
    advantages_N: np.ndarray
    weights_N: np.ndarray
    num_sequences: int
    is_measured: bool
    """False for a stand-in that only keeps the ranks in step."""
    work: Work
    """What a pass through the model has to compute; nothing for a stand-in."""

    @property
    def num_inputs(self) -> int:
        """Tokens computed, padding included."""
        return self.input_ids.size


@dataclass(frozen=True, slots=True, kw_only=True)
class RankPlan:
    """One rank's share of a step: per update its micro-batches, as many as every other rank has.

    Example: with two updates, of two micro-batches and of one, ``updates`` is ``((a, b), (c,))`` and ``chunk_counts``,
    say, ``((3, 2), (1,))``.
    """

    updates: tuple[tuple[MicroBatch, ...], ...]
    chunk_counts: tuple[tuple[int, ...], ...]
    """Into how many pieces the output head cuts each micro-batch; equal on all ranks (sharded heads are collective)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """A step, cut: what each rank computes, and the counts that the metrics report."""

    ranks: tuple[RankPlan, ...]
    num_sequences: int
    """Sequences with a forward and backward pass."""
    num_tokens: int
    """Their completion tokens."""
    num_skipped_groups: int
    num_inputs: int
    """Tokens computed over all ranks, prompts and padding included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSettings:
    """How to cut; the facts about the model come from the learner once it is loaded."""

    loss: LossSettings
    max_completion_tokens: int
    prompts_per_update: int
    num_ranks: int
    tokens_per_micro_batch: int
    share_prompts: bool
    hidden_size: int
    vocab_size: int


@dataclass(slots=True)
class _Update:
    sequences_by_group: list[list[TrainSequence]] = field(default_factory=list)
    stand_in: TrainSequence | None = None
    num_skipped_groups: int = 0


def plan_step(groups_P: Sequence[Group], advantages_P_G: Sequence[np.ndarray], settings: BatchSettings) -> StepPlan:
    """The micro-batches of a step. Sequences whose advantage is exactly 0 are left out unless the KL term needs them.

    An update in which every sequence is left out still gets one micro-batch of weight 0: its optimizer step decays
    weights and momentum as it would have. Raises ``ValueError`` for advantages that do not match the groups.
    """
    assert len(groups_P) == len(advantages_P_G), "one array of advantages per group"
    size = settings.prompts_per_update
    starts = range(0, len(groups_P), size)
    updates = [_select(groups_P[at : at + size], advantages_P_G[at : at + size], settings) for at in starts]
    batches_R_U: list[list[tuple[MicroBatch, ...]]] = [[] for _ in range(settings.num_ranks)]
    for update in updates:
        for rank, batches in enumerate(_cut(update, settings)):
            batches_R_U[rank].append(batches)
    counts = tuple(
        tuple(max(_num_chunks(batch, settings.vocab_size) for batch in same) for same in zip(*per_rank, strict=True))
        for per_rank in zip(*batches_R_U, strict=True)
    )
    trained = [s for update in updates for sequences in update.sequences_by_group for s in sequences]
    return StepPlan(
        ranks=tuple(RankPlan(updates=tuple(per_update), chunk_counts=counts) for per_update in batches_R_U),
        num_sequences=len(trained),
        num_tokens=sum(s.completion_ids.size for s in trained),
        num_skipped_groups=sum(update.num_skipped_groups for update in updates),
        num_inputs=sum(b.num_inputs for per_update in batches_R_U for batches in per_update for b in batches),
    )


def _select(groups: Sequence[Group], advantages_P_G: Sequence[np.ndarray], settings: BatchSettings) -> _Update:
    """Weigh every sequence that counts, then keep those that have a gradient."""
    loss_settings = settings.loss
    counted: list[tuple[int, int]] = []
    for number, (group, advantages) in enumerate(zip(groups, advantages_P_G, strict=True)):
        if len(advantages) != len(group.completions_G):
            raise ValueError(
                f"prompt {group.prompt.id}: {len(advantages)} advantages for {len(group.completions_G)} completions"
            )
        for j, completion in enumerate(group.completions_G):
            is_masked = loss_settings.mask_truncated and completion.is_truncated
            if completion.token_ids and not is_masked and not np.isnan(advantages[j]):
                counted.append((number, j))
    lengths = np.array([len(groups[number].completions_G[j].token_ids) for number, j in counted])
    weights = loss_settings.loss.sequence_weights(lengths, max_completion_tokens=settings.max_completion_tokens)
    update = _Update(sequences_by_group=[[] for _ in groups])
    prompts = [np.array(group.prompt.token_ids, dtype=np.int64) for group in groups]
    for (number, j), weight in zip(counted, weights.tolist(), strict=True):
        advantage = float(advantages_P_G[number][j])
        if advantage != 0.0 or loss_settings.uses_reference:
            completion = groups[number].completions_G[j]
            update.sequences_by_group[number].append(_sequence(prompts[number], completion, advantage, weight))
    update.num_skipped_groups = sum(not sequences for sequences in update.sequences_by_group)
    shortest = min(
        ((len(c.token_ids), number, j) for number, g in enumerate(groups) for j, c in enumerate(g.completions_G)),
        default=(0, 0, 0),
    )
    if shortest[0] > 0:
        _, number, j = shortest
        update.stand_in = _sequence(prompts[number], groups[number].completions_G[j], 0.0, 0.0)
    return update


def _sequence(prompt_ids: np.ndarray, completion: Completion, advantage: float, weight: float) -> TrainSequence:
    return TrainSequence(
        prompt_ids=prompt_ids,
        completion_ids=np.array(completion.token_ids, dtype=np.int64),
        rollout_logprobs=np.array(completion.logprobs, dtype=np.float64),
        advantage=advantage,
        weight=weight,
    )


def _cut(update: _Update, settings: BatchSettings) -> list[tuple[MicroBatch, ...]]:
    """The micro-batches of an update for each rank, equally many, longest first."""
    rows = [row for sequences in update.sequences_by_group for row in make_rows(sequences, settings)]
    rows.sort(key=lambda row: (row.is_shared, len(row)), reverse=True)
    rows_of_rank: list[list[Row]] = [[] for _ in range(settings.num_ranks)]
    for number, row in enumerate(rows):
        # First rank to last, then last to first, and so on: with sorted rows every rank gets about the same work.
        round_number, place = divmod(number, settings.num_ranks)
        rank = place if round_number % 2 == 0 else settings.num_ranks - 1 - place
        rows_of_rank[rank].append(row)
    budget = settings.tokens_per_micro_batch
    batches_of_rank = [[make_micro_batch(part) for part in _fill(own_rows, budget)] for own_rows in rows_of_rank]
    if update.stand_in is not None:
        stand_in = Row(sequences=(update.stand_in,))
        if not rows:
            batches_of_rank[0].append(make_micro_batch([stand_in]))
        most = max(map(len, batches_of_rank))
        for batches in batches_of_rank:
            while len(batches) < most:
                batches.append(make_micro_batch([stand_in], is_measured=False))
    return [tuple(batches) for batches in batches_of_rank]


def make_rows(sequences: Sequence[TrainSequence], settings: BatchSettings) -> list[Row]:
    """The rows of one group: shared where that costs less and the token budget allows, else one per sequence."""
    alone = [Row(sequences=(sequence,)) for sequence in sequences]
    if not settings.share_prompts or len(sequences) < 2:
        return alone
    shared: list[Row] = []
    members: list[TrainSequence] = []
    for sequence in sequences:
        row = Row(sequences=(*members, sequence))
        if members and len(row) > settings.tokens_per_micro_batch:
            shared.append(Row(sequences=tuple(members)))
            members = []
        members.append(sequence)
    shared.append(Row(sequences=tuple(members)))
    return min(alone, shared, key=lambda rows: _cost(rows, settings.hidden_size))


def _cost(rows: Sequence[Row], hidden_size: int) -> float:
    """Work of a decoder layer in units of one attended pair, about 4 h flops; a token's matrices take about 24 h^2.

    A shared row computes its whole square of pairs under a mask; plain causal attention computes half.
    """
    return sum(6 * hidden_size * len(row) + len(row) ** 2 * (1.0 if row.is_shared else 0.5) for row in rows)


def _fill(rows: Sequence[Row], budget: int) -> list[list[Row]]:
    """Consecutive rows of one kind, as many as fit in ``budget`` tokens with padding; a longer row stands alone."""
    parts: list[list[Row]] = []
    for row in rows:
        part = parts[-1] if parts else []
        # Sorted longest first: the part's first row is its width.
        if part and part[0].is_shared == row.is_shared and (len(part) + 1) * len(part[0]) <= budget:
            part.append(row)
        else:
            parts.append([row])
    return parts


def make_micro_batch(rows: Sequence[Row], *, is_measured: bool = True) -> MicroBatch:
    """Lay rows out as arrays. All rows are shared, or none is."""
    width = max(map(len, rows))
    input_ids = np.zeros((len(rows), width), dtype=np.int64)
    segments = np.full((len(rows), width), -1, dtype=np.int64)
    positions = np.zeros((len(rows), width), dtype=np.int64)
    sources: list[np.ndarray] = []
    for b, row in enumerate(rows):
        prompt_ids = row.sequences[0].prompt_ids
        start = prompt_ids.size
        input_ids[b, :start] = prompt_ids
        segments[b, :start] = 0
        positions[b, :start] = np.arange(start)
        at = start
        for j, sequence in enumerate(row.sequences, start=1):
            end = at + sequence.completion_ids.size - 1
            input_ids[b, at:end] = sequence.completion_ids[:-1]
            segments[b, at:end] = j
            positions[b, at:end] = np.arange(start, start + end - at)
            source = np.arange(at - 1, end) + b * width
            source[0] = b * width + start - 1
            sources.append(source)
            at = end
    sequences = [sequence for row in rows for sequence in row.sequences]
    lengths = [sequence.completion_ids.size for sequence in sequences]
    is_shared = rows[0].is_shared
    return MicroBatch(
        input_ids=input_ids,
        segments=segments if is_shared else None,
        positions=positions if is_shared else None,
        sources_N=np.concatenate(sources),
        targets_N=np.concatenate([sequence.completion_ids for sequence in sequences]),
        sequences_N=np.repeat(np.arange(len(sequences)), lengths),
        rollout_logprobs_N=np.concatenate([sequence.rollout_logprobs for sequence in sequences]),
        advantages_N=np.repeat([sequence.advantage for sequence in sequences], lengths),
        weights_N=np.repeat([sequence.weight for sequence in sequences], lengths),
        num_sequences=len(sequences),
        is_measured=is_measured,
        work=sum((row.work for row in rows), Work()) if is_measured else Work(),
    )


def _num_chunks(batch: MicroBatch, vocab_size: int) -> int:
    return -(-batch.targets_N.size * vocab_size // LOGITS_PER_CHUNK)
