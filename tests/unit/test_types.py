from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from insight_rl.types import Completion

COMPLETION = Completion(
    token_ids=(8, 12, 2), logprobs=(-0.1, -1.2, -0.01), text="3*7", finish_reason="stop", policy_version=1
)


def test_numbers_become_arrays_and_arrays_of_the_right_type_are_not_copied() -> None:
    assert (COMPLETION.token_ids.dtype, COMPLETION.logprobs.dtype) == (np.int32, np.float32)
    again = dataclasses.replace(COMPLETION, text="")
    assert again.token_ids is COMPLETION.token_ids and again.logprobs is COMPLETION.logprobs


@pytest.mark.parametrize(
    "change", [{"token_ids": (8, 12, 3)}, {"token_ids": (8, 12)}, {"logprobs": (0, 0, 0)}, {"text": ""}]
)
def test_completions_are_equal_if_all_they_hold_is_equal(change) -> None:
    twin = Completion(
        token_ids=np.array([8, 12, 2]),
        logprobs=np.array([-0.1, -1.2, -0.01]),
        text="3*7",
        finish_reason="stop",
        policy_version=1,
    )
    assert twin == COMPLETION and hash(COMPLETION) == hash(twin)
    assert dataclasses.replace(COMPLETION, **change) != COMPLETION
    assert len({COMPLETION, twin, dataclasses.replace(COMPLETION, **change)}) == 2
