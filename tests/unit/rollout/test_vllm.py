"""What the vLLM engine checks and promises before vLLM is ever imported."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

from insight_rl.errors import UsageError
from insight_rl.rollout.base import RolloutSpec
from insight_rl.rollout.vllm import VllmEngine


def test_importing_the_engine_imports_neither_vllm_nor_torch():
    code = "import sys, insight_rl.rollout.vllm; print(sorted({'vllm', 'torch', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_workers", 0),
        ("tensor_parallel_size", 0),
        ("placement", "'beside'"),
        ("max_tokens_in_flight", 0),
        ("max_replaced_workers", -1),
        ("num_threads", 0),
        ("deadline_s", 0),
        ("deadline_s", float("inf")),
    ],
)
def test_a_wrong_setting_is_named(key, value):
    with pytest.raises(UsageError, match=rf"rollout\.{key}={value}"):
        VllmEngine(**{key: value.strip("'") if isinstance(value, str) else value})


def test_without_vllm_the_remedy_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'insight-rl\[cpu\]'"):
        VllmEngine().start(RolloutSpec(model_path=tmp_path, dtype="float32", max_length=64, seed=0))


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("tensor_parallel_size", r"rollout\.tensor_parallel_size"),
        ("data_parallel_size", r"rollout\.num_workers"),
        ("device_ids", r"rollout\.placement"),
        ("pipeline_parallel_size", r"rollout\.tensor_parallel_size"),
    ],
)
def test_settings_of_vllm_that_place_it_are_refused_with_the_key_that_does(name, key):
    with pytest.raises(UsageError, match=rf"rollout\.engine_args\.{name}=2: is set by {key}"):
        VllmEngine(engine_args={name: 2})


def test_workers_share_the_cores_unless_somebody_has_said_how_many_threads(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    threads = {number: VllmEngine(num_workers=number)._threads_per_worker() for number in (1, 2, 4, 7)}
    assert threads == {1: None, 2: 3, 4: 1, 7: 1}
    assert VllmEngine(num_workers=2, num_threads=5)._threads_per_worker() == 5
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert VllmEngine(num_workers=2)._threads_per_worker() is None
