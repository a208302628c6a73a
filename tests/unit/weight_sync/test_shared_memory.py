"""Weights through a folder in memory; that vLLM really takes them is shown by tests/contract and test_vllm_engine."""

from __future__ import annotations

import pytest

from insight_rl.errors import UsageError
from insight_rl.weight_sync import memory_folder
from insight_rl.weight_sync.auto import AutoChannel
from insight_rl.weight_sync.base import SyncSeconds, TensorInfo
from insight_rl.weight_sync.shared_memory import SharedMemoryChannel


def test_a_folder_that_is_not_there_is_named():
    with pytest.raises(UsageError, match=r"weight_sync\.folder='/no/such/folder'"):
        SharedMemoryChannel(folder="/no/such/folder")


class Weights:
    def __init__(self, num_bytes):
        import torch

        self.tensor = torch.zeros(num_bytes, dtype=torch.uint8)
        self.saved_in = None

    def describe(self):
        return [TensorInfo(name="weight", dtype=self.tensor.dtype, shape=tuple(self.tensor.shape))]

    def named_tensors(self):
        raise AssertionError("their size is known without gathering them")

    def save(self, folder):
        self.saved_in = folder
        (folder / "model.safetensors").write_bytes(bytes(len(self.tensor)))
        return SyncSeconds(gather_s=1.0)


class Process:
    """A rollout process that looks at what it is given."""

    def __init__(self, weights):
        self.device, self.is_here = "cpu", True
        self._weights = weights
        self.calls = []

    def begin(self, method, /, **arguments):
        self.calls.append((method, arguments))
        assert (self._weights.saved_in / "model.safetensors").stat().st_size == len(self._weights.tensor)

    def finish(self):
        assert self._weights.saved_in.exists()


@pytest.mark.parametrize("channel", [SharedMemoryChannel, AutoChannel])
def test_weights_lie_in_shared_memory_only_while_they_are_loaded(channel, tmp_path, monkeypatch):
    weights = Weights(1000)
    process = Process(weights)
    monkeypatch.setattr(memory_folder, "_SHARED_MEMORY", tmp_path)
    channel().send(weights, [process])
    assert process.calls == [("reload", {"folder": str(weights.saved_in)})]
    assert weights.saved_in.parent == tmp_path
    assert list(tmp_path.iterdir()) == []
