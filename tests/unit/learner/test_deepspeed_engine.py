"""What whole learners do not show of DeepSpeed (tests/contract/test_learner_contract.py): checkpoints, imports."""

from __future__ import annotations

import sys

import pytest

pytest.importorskip("deepspeed")

MUON = "deepspeed.runtime.zero.muon"


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


def test_muon_is_imported_without_torchs_compiler(monkeypatch) -> None:
    """DeepSpeed imports it for every optimizer; compiling what is never called took seconds of each rank's start."""
    from deepspeed.runtime import compiler

    from insight_rl.learner.deepspeed_engine import _import_muon_uncompiled

    for name in ("muon_optimizer", "original_muon"):
        monkeypatch.delitem(sys.modules, f"{MUON}.{name}", raising=False)
    compile_before = compiler.compile
    _import_muon_uncompiled()
    muon_update = sys.modules[f"{MUON}.original_muon"].muon_update
    assert not hasattr(muon_update, "_torchdynamo_orig_callable")
    assert hasattr(compiler.compile()(lambda x: x), "_torchdynamo_orig_callable") and compiler.compile is compile_before
