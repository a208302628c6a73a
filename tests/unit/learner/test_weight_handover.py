from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest
import torch

from insight_rl.errors import RunStopped
from insight_rl.learner import weight_handover
from insight_rl.learner.weight_handover import map_memory, read_from_memory, write_to_memory

TENSORS = {
    "matrix": torch.arange(12, dtype=torch.float32).reshape(3, 4).T,
    "odd": torch.arange(3, dtype=torch.uint8),
    "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "scalar": torch.tensor(7.0),
}


def handed_over() -> dict[str, torch.Tensor]:
    file, weights = write_to_memory(TENSORS.items())
    content = map_memory(weights)
    file.close()
    return dict(read_from_memory(content, weights))


def assert_same(found: dict[str, torch.Tensor]) -> None:
    assert list(found) == list(TENSORS)
    for name, tensor in TENSORS.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)


def test_tensors_arrive_as_they_were_even_after_the_writer_closed_them() -> None:
    assert_same(handed_over())


def test_without_memfd_an_unlinked_file_serves(tmp_path, monkeypatch) -> None:
    def refuse(name: str) -> int:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(os, "memfd_create", refuse)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert_same(handed_over())
    assert list(tmp_path.iterdir()) == []


def test_too_little_room_is_one_line_with_a_remedy(monkeypatch) -> None:
    monkeypatch.setattr(weight_handover, "_anonymous_file", lambda: Path("/dev/full").open("wb"))  # noqa: SIM115
    with pytest.raises(RunStopped, match=r"^no room for a copy of the weights .*No space left on device.*TMPDIR"):
        write_to_memory([("big", torch.zeros(1 << 16))])
