from __future__ import annotations

import pytest

from insight_rl.learner.schedule import lr_at


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]),
        ("cosine", [0.5, 1.0, 1.0, 0.8535533905932737, 0.5, 0.14644660940672627]),
    ],
)
def test_learning_rate_warms_up_and_then_follows_its_schedule(schedule, expected) -> None:
    found = [lr_at(step, num_steps=6, peak=1.0, warmup_steps=2, schedule=schedule) for step in range(1, 7)]
    assert found == pytest.approx(expected)
