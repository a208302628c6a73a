"""What DeepSpeed's checkpoints hold, apart from whole learners (tests/contract/test_learner_contract.py)."""

from __future__ import annotations

import pytest

pytest.importorskip("deepspeed")


def test_checkpoints_hold_no_enum_members(tmp_path) -> None:
    """Python before 3.11.4 pickles them as calls of getattr, and so could not read its own checkpoints again."""
    from deepspeed.runtime.zero.config import ZeroStageEnum

    from insight_rl.learner.deepspeed_engine import _SafeCheckpointEngine

    engine, file = _SafeCheckpointEngine(None), tmp_path / "state.pt"
    engine.save({"optimizer": {"zero_stage": ZeroStageEnum.weights, "groups": [{"lr": 0.1}]}, "step": 3}, str(file))
    data = file.read_bytes()
    assert b"getattr" not in data and b"ZeroStageEnum" not in data
    state = engine.load(str(file))
    assert state == {"optimizer": {"zero_stage": 3, "groups": [{"lr": 0.1}]}, "step": 3}
    assert type(state["optimizer"]["zero_stage"]) is int
