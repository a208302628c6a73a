from __future__ import annotations

import numpy as np

from insight_rl.learner.batch import Row, TrainSequence, make_micro_batch


def test_padding_is_never_a_source() -> None:
    short, long = (
        TrainSequence(
            prompt_ids=np.array([7, 8]),
            completion_ids=np.arange(length),
            rollout_logprobs=np.zeros(length),
            advantage=1.0,
            weight=1.0,
        )
        for length in (1, 6)
    )
    batch = make_micro_batch([Row(sequences=(long,)), Row(sequences=(short,))])
    assert batch.input_ids.shape == (2, 7)
    assert batch.sources_N.tolist() == [1, 2, 3, 4, 5, 6, 7 + 1]


def test_the_example_of_micro_batch_is_true() -> None:
    def sequence(ids: list[int], advantage: float) -> TrainSequence:
        return TrainSequence(
            prompt_ids=np.array([11, 12, 13]),
            completion_ids=np.array(ids),
            rollout_logprobs=np.full(len(ids), -0.5),
            advantage=advantage,
            weight=0.1,
        )

    one, other = sequence([21, 22], 1.0), sequence([31, 32, 33], -1.0)
    alone = make_micro_batch([Row(sequences=(one,)), Row(sequences=(other,))])
    shared = make_micro_batch([Row(sequences=(one, other))])
    assert alone.input_ids.tolist() == [[11, 12, 13, 21, 0], [11, 12, 13, 31, 32]]
    assert alone.sources_N.tolist() == [2, 3, 7, 8, 9]
    assert alone.segments is alone.positions is None
    assert shared.input_ids.tolist() == [[11, 12, 13, 21, 31, 32]]
    assert shared.segments is not None and shared.segments.tolist() == [[0, 0, 0, 1, 2, 2]]
    assert shared.positions is not None and shared.positions.tolist() == [[0, 1, 2, 3, 3, 4]]
    assert shared.sources_N.tolist() == [2, 3, 2, 4, 5]
    for batch in (alone, shared):
        assert batch.targets_N.tolist() == [21, 22, 31, 32, 33]
        assert batch.sequences_N.tolist() == [0, 0, 1, 1, 1]
        assert batch.advantages_N.tolist() == [1, 1, -1, -1, -1]
