"""What is said of Ray's errors; arrays that lie in its store are in tests/integration/test_ray_actors.py."""

from __future__ import annotations

import pytest

from insight_rl.runtime.ray_arrays import first_sentence


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "The actor ff26eae4bfcec9d01e9c44ca02000000 is unavailable: The actor is temporarily unavailable: "
            "RpcError: RPC error: Socket closed rpc_code: 14.",
            "The actor is unavailable",
        ),
        (
            "The actor died unexpectedly before finishing this task.\n\tclass_name: RankActor",
            "The actor died unexpectedly before finishing this task",
        ),
        ("x" * 1000, "x" * 200),
        ("", "ValueError"),
    ],
)
def test_an_error_of_ray_is_told_in_one_short_sentence(text, said):
    assert first_sentence(ValueError(text)) == said
