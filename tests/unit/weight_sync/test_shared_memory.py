"""Weights through a folder in memory; that vLLM really takes them is shown by tests/contract and test_vllm_engine."""

from __future__ import annotations

import pytest

from insight_rl.errors import UsageError
from insight_rl.weight_sync.shared_memory import SharedMemoryChannel


def test_a_folder_that_is_not_there_is_named():
    with pytest.raises(UsageError, match=r"weight_channel\.folder='/no/such/folder'"):
        SharedMemoryChannel(folder="/no/such/folder")


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
