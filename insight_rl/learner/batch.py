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
from insight_rl.learner.settings import Kernel
from insight_rl.stored_arrays import AnyArray


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSequence:
    """One completion with all that its loss needs."""

    prompt_ids: np.ndarray
    completion_ids: AnyArray
    """int32; at least one token."""
    rollout_logprobs: AnyArray
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
class Parts:
    """The parts of rows that stand end to end in one line of T tokens: S of them, in their order.

    A part is a row of its own, or the prompt of a shared row, or one of the completions after that. Its tokens see what
    came before them in the part, and the whole of the part that ``prompts`` names.

    Example: a shared row of 3 prompt tokens and completions of 1 and 2, then a row of 4 tokens::

        lengths   [3, 1, 2, 4]
        prompts   [0, 0, 0, 3]      a prompt, and a row of its own, name themselves
    """

    lengths: tuple[int, ...]
    prompts: tuple[int, ...]

    @property
    def num_rows(self) -> int:
        return len(set(self.prompts))

    @property
    def key_lengths(self) -> tuple[int, ...]:
        """Keys that the last token of each part sees."""
        own = zip(self.lengths, self.prompts, strict=True)
        return tuple(n + (self.lengths[p] if p != s else 0) for s, (n, p) in enumerate(own))

    @property
    def keys(self) -> np.ndarray:
        """The tokens whose keys each part sees, part after part: int64, as many as the sum of ``key_lengths``."""
        ends = np.cumsum(self.lengths)
        spans = [np.arange(end - n, end) for end, n in zip(ends.tolist(), self.lengths, strict=True)]
        seen = (([] if p == s else [spans[p]]) + [spans[s]] for s, p in enumerate(self.prompts))
        return np.concatenate([span for spans_of_part in seen for span in spans_of_part])


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """B rows padded on the right to L tokens, or all rows end to end in one line (B is 1).

    They hold N completion tokens in S sequences, sequence after sequence.

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

    The two rows end to end::

        input_ids    [[11, 12, 13, 21, 11, 12, 13, 31, 32]]
        positions    [[ 0,  1,  2,  3,  0,  1,  2,  3,  4]]
        parts        lengths (4, 5), prompts (0, 1)
        sources_N    [2, 3, 6, 7, 8]
    """

    input_ids: np.ndarray
    """int64 (B, L)."""
    segments: np.ndarray | None
    """int64 (B, L): 0 prompt, j the row's j-th completion, -1 padding. ``None``: no row is shared, so that plain causal
    attention is right (padding on the right is never seen), or the rows are packed."""
    positions: np.ndarray | None
    """int64 (B, L), every completion of a row going on where the prompt ends; ``None`` for padded rows of which none
    is shared."""
    parts: Parts | None
    """Of packed rows; else ``None``."""
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


def packs_rows(kernel: Kernel) -> bool:
    """Whether the rows of a micro-batch stand end to end for it; else they are padded to equal length."""
    return kernel != "sdpa"


def make_micro_batch(rows: Sequence[Row], *, is_packed: bool = False, is_measured: bool = True) -> MicroBatch:
    """Lay rows out as arrays. Of padded rows all are shared, or none is."""
    width = max(map(len, rows))
    shape = (1, sum(map(len, rows))) if is_packed else (len(rows), width)
    input_ids = np.zeros(shape, dtype=np.int64)
    segments = np.full(shape, -1, dtype=np.int64)
    positions = np.zeros(shape, dtype=np.int64)
    flat_ids, flat_segments, flat_positions = input_ids.ravel(), segments.ravel(), positions.ravel()
    sources: list[np.ndarray] = []
    lengths: list[int] = []
    prompts: list[int] = []
    at = 0
    for b, row in enumerate(rows):
        at = at if is_packed else b * width
        prompt_ids = row.sequences[0].prompt_ids
        prompt_length, prompt_end, prompt_number = prompt_ids.size, at + prompt_ids.size, len(prompts)
        flat_ids[at:prompt_end] = prompt_ids
        flat_segments[at:prompt_end] = 0
        flat_positions[at:prompt_end] = np.arange(prompt_length)
        lengths.append(prompt_length)
        prompts.append(prompt_number)
        at = prompt_end
        for j, sequence in enumerate(row.sequences, start=1):
            end = at + sequence.completion_ids.size - 1
            flat_ids[at:end] = np.asarray(sequence.completion_ids)[:-1]
            flat_segments[at:end] = j
            flat_positions[at:end] = np.arange(prompt_length, prompt_length + end - at)
            source = np.arange(at - 1, end)
            source[0] = prompt_end - 1
            sources.append(source)
            if not row.is_shared:
                lengths[-1] += end - at
            elif end > at:
                lengths.append(end - at)
                prompts.append(prompt_number)
            at = end
    sequences = [sequence for row in rows for sequence in row.sequences]
    sizes = [sequence.completion_ids.size for sequence in sequences]
    has_mask = rows[0].is_shared and not is_packed
    return MicroBatch(
        input_ids=input_ids,
        segments=segments if has_mask else None,
        positions=positions if has_mask or is_packed else None,
        parts=Parts(lengths=tuple(lengths), prompts=tuple(prompts)) if is_packed else None,
        sources_N=np.concatenate(sources),
        targets_N=np.concatenate([np.asarray(sequence.completion_ids) for sequence in sequences], dtype=np.int64),
        sequences_N=np.repeat(np.arange(len(sequences)), sizes),
        rollout_logprobs_N=np.concatenate([np.asarray(sequence.rollout_logprobs) for sequence in sequences]),
        advantages_N=np.repeat([sequence.advantage for sequence in sequences], sizes),
        weights_N=np.repeat([sequence.weight for sequence in sequences], sizes),
        num_sequences=len(sequences),
        is_measured=is_measured,
        work=sum((row.work for row in rows), Work()) if is_measured else Work(),
    )
