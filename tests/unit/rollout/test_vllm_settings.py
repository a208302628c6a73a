"""What the vLLM engine checks and promises before vLLM is ever imported."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from insight_rl.errors import UsageError
from insight_rl.rollout.vllm import VllmEngine
from insight_rl.weight_sync.shared_memory import SharedMemoryChannel
from insight_rl.weight_sync.vllm_transfer import IpcChannel, NcclChannel


def test_importing_the_engine_imports_neither_vllm_nor_torch():
    code = "import sys, insight_rl.rollout.vllm; print(sorted({'vllm', 'torch', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("construct", "named"),
    [
        (lambda: VllmEngine(num_threads=0), "rollout.num_threads=0"),
        (lambda: SharedMemoryChannel(folder="/no/such/folder"), "/no/such/folder"),
        (lambda: IpcChannel(buffer_bytes=10), "buffer_bytes=10"),
        (lambda: NcclChannel(num_workers=0), "num_workers=0"),
        (lambda: NcclChannel(num_workers=1, port=80), "port=80"),
    ],
)
def test_a_wrong_setting_is_named(construct, named):
    with pytest.raises(UsageError, match=named):
        construct()


def test_without_vllm_the_remedy_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'insight-rl\[cpu\]'"):
        VllmEngine().start(model_path=tmp_path, dtype="float32", max_length=64, seed=0)


class Weights:
    def __init__(self, num_bytes):
        import torch

        self.tensor = torch.zeros(num_bytes, dtype=torch.uint8)
        self.saved_in = None

    def named_tensors(self):
        yield "weight", self.tensor

    def save(self, folder):
        self.saved_in = folder
        (folder / "model.safetensors").write_bytes(bytes(len(self.tensor)))


def test_weights_lie_in_shared_memory_only_while_they_are_loaded(tmp_path, monkeypatch):
    weights, calls = Weights(1000), []

    def call(method, **arguments):
        calls.append((method, arguments))
        assert (weights.saved_in / "model.safetensors").stat().st_size == 1000

    monkeypatch.setattr("insight_rl.weight_sync.shared_memory._MEMORY_FOLDER", tmp_path)
    SharedMemoryChannel().send(weights, call)
    assert calls == [("reload", {"folder": str(weights.saved_in)})]
    assert weights.saved_in.parent == tmp_path
    assert list(tmp_path.iterdir()) == []


def test_weights_go_to_the_temporary_folder_where_shared_memory_is_small(tmp_path, monkeypatch):
    class Usage:
        free = 1999

    monkeypatch.setattr("insight_rl.weight_sync.shared_memory.shutil.disk_usage", lambda _: Usage)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    weights = Weights(1000)
    SharedMemoryChannel().send(weights, lambda method, **arguments: None)
    assert weights.saved_in.parent == tmp_path
