"""Micro-batches: rows of tokens laid out as the arrays that a forward pass and its loss need. NumPy only.

A *row* is what one line of a micro-batch holds: a prompt followed by one of its completions, or by several that share
it (each sees the prompt and itself only, at its own positions). Sharing computes a prompt once instead of G times and
is chosen where it costs less; the log-probs are the same either way. The last token of a completion predicts nothing
that is trained on, so it is a target but never an input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from insight_rl.learner.flops import Work


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSequence:
    """One completion with all that its loss needs."""

    prompt_ids: np.ndarray
    completion_ids: np.ndarray
    """int32; at least one token."""
    rollout_logprobs: np.ndarray
    """float32, one for each token of the completion."""
    advantage: float
    weight: float
    """Of each of its tokens in the loss."""

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
        targets_N=np.concatenate([sequence.completion_ids for sequence in sequences], dtype=np.int64),
        sequences_N=np.repeat(np.arange(len(sequences)), lengths),
        rollout_logprobs_N=np.concatenate([sequence.rollout_logprobs for sequence in sequences]),
        advantages_N=np.repeat([sequence.advantage for sequence in sequences], lengths),
        weights_N=np.repeat([sequence.weight for sequence in sequences], lengths),
        num_sequences=len(sequences),
        is_measured=is_measured,
        work=sum((row.work for row in rows), Work()) if is_measured else Work(),
    )
