"""What whole learners do not show of DeepSpeed's imports (tests/contract/test_learner_contract.py)."""

from __future__ import annotations

import sys

import pytest

pytest.importorskip("deepspeed")

MUON = "deepspeed.runtime.zero.muon"


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
