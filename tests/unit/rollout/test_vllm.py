"""What the vLLM engine checks and promises before vLLM is ever imported."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from insight_rl.errors import UsageError
from insight_rl.rollout.vllm import VllmEngine


def test_importing_the_engine_imports_neither_vllm_nor_torch():
    code = "import sys, insight_rl.rollout.vllm; print(sorted({'vllm', 'torch', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("key", "value"), [("num_threads", 0), ("deadline_s", 0), ("deadline_s", float("inf"))])
def test_a_wrong_setting_is_named(key, value):
    with pytest.raises(UsageError, match=rf"rollout\.{key}={value}"):
        VllmEngine(**{key: value})


def test_without_vllm_the_remedy_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'insight-rl\[cpu\]'"):
        VllmEngine().start(model_path=tmp_path, dtype="float32", max_length=64, seed=0)
