"""Cuts the groups of a step into updates, ranks and micro-batches. NumPy only.

:func:`plan_step` runs in the trainer. It decides which sequence is computed where, and gives each rank the tokens of
its own sequences as a few arrays (:class:`SequenceTable`). All that a forward pass needs beside them (positions,
segments, targets, weights of tokens) follows from these, so each rank lays out its own micro-batches, one at a time
(:func:`lay_out`): eight bytes of a token travel instead of sixty.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

from insight_rl.algorithm.loss import LossSettings
from insight_rl.learner.batch import MicroBatch, Row, TrainSequence, make_micro_batch, packs_rows
from insight_rl.learner.settings import Kernel
from insight_rl.stored_arrays import AnyArray, JoinedArrays, fetch_joined
from insight_rl.types import Completion, Group


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceTable:
    """S sequences over P different prompts, as few large arrays: the form in which tokens travel to a rank.

    Example: prompt 11 12 with completions 21 22 and 31 is ``prompt_ids=[11, 12]``, ``prompt_lengths_P=[2]``,
    ``prompts_S=[0, 0]``, ``completion_ids=[21, 22, 31]``, ``lengths_S=[2, 1]``.
    """

    prompt_ids: np.ndarray
    """int32: the prompts, one after the other."""
    prompt_lengths_P: np.ndarray
    prompts_S: np.ndarray
    """int64: number of the sequence's prompt, 0 <= p < P."""
    completion_ids: np.ndarray | JoinedArrays
    """int32: the completions, one after the other. Stored arrays stay where they are until :meth:`sequences`."""
    rollout_logprobs: np.ndarray | JoinedArrays
    """float32, as ``completion_ids``."""
    lengths_S: np.ndarray
    advantages_S: np.ndarray
    weights_S: np.ndarray

    @classmethod
    def of(cls, sequences: Sequence[TrainSequence]) -> SequenceTable:
        """Sequences share a prompt where they hold the same array."""
        prompts = {id(sequence.prompt_ids): sequence.prompt_ids for sequence in sequences}
        numbers = {key: number for number, key in enumerate(prompts)}
        return cls(
            prompt_ids=_joined(prompts.values(), np.int32),
            prompt_lengths_P=np.array([prompt.size for prompt in prompts.values()], dtype=np.int64),
            prompts_S=np.array([numbers[id(sequence.prompt_ids)] for sequence in sequences], dtype=np.int64),
            completion_ids=_column([sequence.completion_ids for sequence in sequences], np.int32),
            rollout_logprobs=_column([sequence.rollout_logprobs for sequence in sequences], np.float32),
            lengths_S=np.array([sequence.completion_ids.size for sequence in sequences], dtype=np.int64),
            advantages_S=np.array([sequence.advantage for sequence in sequences], dtype=np.float64),
            weights_S=np.array([sequence.weight for sequence in sequences], dtype=np.float64),
        )

    def sequences(self) -> list[TrainSequence]:
        """What :meth:`of` was given; views, no copies, and stored arrays fetched."""
        completion_ids, rollout_logprobs = fetch_joined(self.completion_ids, self.rollout_logprobs)
        prompts = _split(self.prompt_ids, self.prompt_lengths_P)
        columns = (
            self.prompts_S.tolist(),
            _split(completion_ids, self.lengths_S),
            _split(rollout_logprobs, self.lengths_S),
            self.advantages_S.tolist(),
            self.weights_S.tolist(),
        )
        return [
            TrainSequence(
                prompt_ids=prompts[prompt],
                completion_ids=completion_ids,
                rollout_logprobs=rollout_logprobs,
                advantage=advantage,
                weight=weight,
            )
            for prompt, completion_ids, rollout_logprobs, advantage, weight in zip(*columns, strict=True)
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPlan:
    """Which sequences of its rank make up a micro-batch.

    Example: ``BatchPlan(rows=((0, 1), (2, 3)))``: two rows of two sequences each, that share their prompt.
    """

    rows: tuple[tuple[int, ...], ...]
    """Numbers of sequences in the rank's table, row by row."""
    is_measured: bool = True
    """False for a stand-in that only keeps the ranks in step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankPlan:
    """One rank's share of a step: per update its micro-batches, as many as every other rank has.

    Example: with two updates, of two micro-batches and of one, ``updates`` is ``((a, b), (c,))``.
    """

    table: SequenceTable
    updates: tuple[tuple[BatchPlan, ...], ...]


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
    completions_R: tuple[tuple[AnyArray, ...], ...]
    """By the rows of each rank's table, the ``token_ids`` of the completion: the very array that the group holds."""


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
    kernel: Kernel = "sdpa"

    @property
    def is_packed(self) -> bool:
        return packs_rows(self.kernel)


@dataclass(slots=True)
class _Update:
    sequences_by_group: list[list[TrainSequence]]
    stand_in: TrainSequence
    """Keeps a rank that has nothing to do in step with the others; weighs nothing."""
    is_stand_in_real: bool
    """False where no completion of the update has a token, so that there is nothing to measure on the stand-in."""

    @property
    def num_skipped_groups(self) -> int:
        return sum(not sequences for sequences in self.sequences_by_group)


@dataclass(frozen=True, slots=True)
class _Part:
    """The rows of a micro-batch; of padded rows all are shared, or none is."""

    rows: Sequence[Row]
    is_measured: bool = True

    def num_inputs(self, *, is_packed: bool) -> int:
        """Tokens computed, padding included."""
        return sum(map(len, self.rows)) if is_packed else len(self.rows) * max(map(len, self.rows))


def plan_step(groups_P: Sequence[Group], advantages_P_G: Sequence[np.ndarray], settings: BatchSettings) -> StepPlan:
    """The micro-batches of a step. Sequences whose advantage is exactly 0 are left out unless the KL term needs them.

    An update in which every sequence is left out still gets one micro-batch of weight 0: its optimizer step decays
    weights and momentum as it would have. Completions without a token are left out too, and count nowhere. Raises
    ``ValueError`` for advantages that do not match the groups, or log-probs that do not match the tokens.
    """
    assert len(groups_P) == len(advantages_P_G), "one array of advantages per group"
    size = settings.prompts_per_update
    starts = range(0, len(groups_P), size)
    updates = [_select(groups_P[at : at + size], advantages_P_G[at : at + size], settings) for at in starts]
    parts_U_R = [_cut(update, settings) for update in updates]
    ranks = [_rank_plan([parts_R[rank] for parts_R in parts_U_R]) for rank in range(settings.num_ranks)]
    trained = [s for update in updates for sequences in update.sequences_by_group for s in sequences]
    return StepPlan(
        ranks=tuple(rank_plan for rank_plan, _ in ranks),
        num_sequences=len(trained),
        num_tokens=sum(s.completion_ids.size for s in trained),
        num_skipped_groups=sum(update.num_skipped_groups for update in updates),
        num_inputs=sum(
            part.num_inputs(is_packed=settings.is_packed)
            for parts_R in parts_U_R
            for parts in parts_R
            for part in parts
        ),
        completions_R=tuple(tuple(s.completion_ids for s in sequences) for _, sequences in ranks),
    )


def _rank_plan(parts_U: Sequence[Sequence[_Part]]) -> tuple[RankPlan, list[TrainSequence]]:
    """A rank's share, and the sequences of its table."""
    # A stand-in may come up several times; it is sent once.
    sequences = {id(s): s for parts in parts_U for part in parts for row in part.rows for s in row.sequences}
    numbers = {key: number for number, key in enumerate(sequences)}
    plan = RankPlan(
        table=SequenceTable.of(list(sequences.values())),
        updates=tuple(
            tuple(
                BatchPlan(
                    rows=tuple(tuple(numbers[id(s)] for s in row.sequences) for row in part.rows),
                    is_measured=part.is_measured,
                )
                for part in parts
            )
            for parts in parts_U
        ),
    )
    return plan, list(sequences.values())


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
            if completion.logprobs.size != completion.token_ids.size:
                raise ValueError(
                    f"prompt {group.prompt.id}: a completion of {completion.token_ids.size} tokens has "
                    f"{completion.logprobs.size} log-probs; the rollout engine must give one for each"
                )
            if completion.token_ids.size and not is_masked and not np.isnan(advantages[j]):
                counted.append((number, j))
    lengths = np.array([groups[number].completions_G[j].token_ids.size for number, j in counted], dtype=np.int64)
    weights = loss_settings.loss.sequence_weights(lengths, max_completion_tokens=settings.max_completion_tokens)
    prompts = [np.array(group.prompt.token_ids, dtype=np.int32) for group in groups]
    sequences_by_group: list[list[TrainSequence]] = [[] for _ in groups]
    for (number, j), weight in zip(counted, weights.tolist(), strict=True):
        advantage = float(advantages_P_G[number][j])
        if advantage != 0.0 or loss_settings.uses_reference:
            completion = groups[number].completions_G[j]
            sequences_by_group[number].append(_sequence(prompts[number], completion, advantage, weight))
    stand_in, is_real = _stand_in(groups, prompts)
    return _Update(sequences_by_group=sequences_by_group, stand_in=stand_in, is_stand_in_real=is_real)


def _stand_in(groups: Sequence[Group], prompts: Sequence[np.ndarray]) -> tuple[TrainSequence, bool]:
    """The shortest completion that has a token, weighing nothing; else the first prompt's last token, made up."""
    sizes = [(c.token_ids.size, number, j) for number, g in enumerate(groups) for j, c in enumerate(g.completions_G)]
    _, number, j = min((size for size in sizes if size[0] > 0), default=(0, -1, -1))
    if number >= 0:
        return _sequence(prompts[number], groups[number].completions_G[j], 0.0, 0.0), True
    last = prompts[0][-1:]
    no_logprobs = np.zeros(last.size, dtype=np.float32)
    made_up = TrainSequence(
        prompt_ids=prompts[0], completion_ids=last, rollout_logprobs=no_logprobs, advantage=0.0, weight=0.0
    )
    return made_up, False


def _sequence(prompt_ids: np.ndarray, completion: Completion, advantage: float, weight: float) -> TrainSequence:
    return TrainSequence(
        prompt_ids=prompt_ids,
        completion_ids=completion.token_ids,
        rollout_logprobs=completion.logprobs,
        advantage=advantage,
        weight=weight,
    )


def _cut(update: _Update, settings: BatchSettings) -> list[list[_Part]]:
    """The micro-batches of an update for each rank, equally many, longest first."""
    rows = [row for sequences in update.sequences_by_group for row in make_rows(sequences, settings)]
    rows.sort(key=lambda row: (row.is_shared and not settings.is_packed, len(row)), reverse=True)
    rows_of_rank: list[list[Row]] = [[] for _ in range(settings.num_ranks)]
    for number, row in enumerate(rows):
        # First rank to last, then last to first, and so on: with sorted rows every rank gets about the same work.
        round_number, place = divmod(number, settings.num_ranks)
        rank = place if round_number % 2 == 0 else settings.num_ranks - 1 - place
        rows_of_rank[rank].append(row)
    parts_of_rank = [[_Part(part) for part in _fill(own_rows, settings)] for own_rows in rows_of_rank]
    stand_in = [Row(sequences=(update.stand_in,))]
    if not rows:
        parts_of_rank[0].append(_Part(stand_in, is_measured=update.is_stand_in_real))
    most = max(map(len, parts_of_rank))
    for parts in parts_of_rank:
        parts += [_Part(stand_in, is_measured=False)] * (most - len(parts))
    return parts_of_rank


def lay_out(batch: BatchPlan, sequences: Sequence[TrainSequence], *, is_packed: bool) -> MicroBatch:
    """A micro-batch of a rank, from the ``sequences`` of its table."""
    rows = [Row(sequences=tuple(sequences[number] for number in row)) for row in batch.rows]
    return make_micro_batch(rows, is_packed=is_packed, is_measured=batch.is_measured)


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
    return min(alone, shared, key=lambda rows: _cost(rows, settings))


def _cost(rows: Sequence[Row], settings: BatchSettings) -> float:
    """Work of a decoder layer in units of one attended pair, about 4 h flops; a token's matrices take about 24 h^2.

    Over packed rows only the pairs that see each other are computed. Of padded rows a shared one computes its whole
    square of pairs under a mask, one of its own about half.
    """
    matrices = 6 * settings.hidden_size * sum(map(len, rows))
    if settings.is_packed:
        return matrices + sum(row.work.num_pairs for row in rows)
    return matrices + sum(len(row) ** 2 * (1.0 if row.is_shared else 0.5) for row in rows)


def _fill(rows: Sequence[Row], settings: BatchSettings) -> list[list[Row]]:
    """Consecutive rows, as many as fit in the token budget with padding; a longer row stands alone.

    Padded rows of a micro-batch are of one kind: all shared, or none.
    """
    parts: list[list[Row]] = []
    for row in rows:
        part = parts[-1] if parts else []
        is_same_kind = settings.is_packed or (bool(part) and part[0].is_shared == row.is_shared)
        if (
            part
            and is_same_kind
            and _Part([*part, row]).num_inputs(is_packed=settings.is_packed) <= (settings.tokens_per_micro_batch)
        ):
            part.append(row)
        else:
            parts.append([row])
    return parts


def _column(arrays: Sequence[AnyArray], dtype: DTypeLike) -> np.ndarray | JoinedArrays:
    here = [array for array in arrays if isinstance(array, np.ndarray)]
    return _joined(here, dtype) if len(here) == len(arrays) else JoinedArrays(tuple(arrays))


def _joined(arrays: Iterable[np.ndarray], dtype: DTypeLike) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype), *arrays], dtype=dtype, casting="same_kind")


def _split(joined: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    ends = lengths.cumsum()
    return [joined[start:end] for start, end in zip(ends - lengths, ends, strict=True)]
