from __future__ import annotations

import numpy as np

from insight_rl.learner.batch import Parts, Row, TrainSequence, make_micro_batch


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
    packed = make_micro_batch([Row(sequences=(one,)), Row(sequences=(other,))], is_packed=True)
    assert packed.input_ids.tolist() == [[11, 12, 13, 21, 11, 12, 13, 31, 32]]
    assert packed.positions is not None and packed.positions.tolist() == [[0, 1, 2, 3, 0, 1, 2, 3, 4]]
    assert packed.parts == Parts(lengths=(4, 5), prompts=(0, 1))
    assert packed.sources_N.tolist() == [2, 3, 6, 7, 8]
    assert alone.parts is shared.parts is packed.segments is None
    for batch in (alone, shared, packed):
        assert batch.targets_N.tolist() == [21, 22, 31, 32, 33]
        assert batch.sequences_N.tolist() == [0, 0, 1, 1, 1]
        assert batch.advantages_N.tolist() == [1, 1, -1, -1, -1]


def test_parts_know_their_keys() -> None:
    parts = Parts(lengths=(3, 1, 2, 4), prompts=(0, 0, 0, 3))
    assert parts.num_rows == 2
    assert parts.key_lengths == (3, 4, 5, 4)
    assert parts.keys.tolist() == [0, 1, 2, *(0, 1, 2, 3), *(0, 1, 2, 4, 5), *(6, 7, 8, 9)]
