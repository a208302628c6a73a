from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from insight_rl.errors import UsageError
from insight_rl.learner.safe_load import load_tensors


@dataclass
class Record:
    value: int


class RunsCode:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return (Path.touch, (self.file,))


def test_tensors_plain_values_and_allowed_classes_come_back(tmp_path) -> None:
    file = tmp_path / "state.pt"
    torch.save({"weights": torch.arange(3), "step": 7, "record": Record(5)}, file)
    state = load_tensors(file, allowed=[Record])
    assert torch.equal(state["weights"], torch.arange(3))
    assert (state["step"], state["record"]) == (7, Record(5))


@pytest.mark.parametrize("as_zip", [True, False])
def test_code_is_refused_and_not_run(tmp_path, as_zip) -> None:
    file, proof = tmp_path / "state.pt", tmp_path / "executed"
    torch.save({"weights": torch.zeros(3), "extra": RunsCode(proof)}, file, _use_new_zipfile_serialization=as_zip)
    with pytest.raises(UsageError, match=r"^.*state\.pt: damaged, or .*; nothing in it was executed"):
        load_tensors(file)
    assert not proof.exists()
    torch.load(file, weights_only=False)
    assert proof.exists(), "else nothing was tried"


def test_a_class_that_is_not_allowed_is_refused(tmp_path) -> None:
    torch.save({"record": Record(5)}, tmp_path / "state.pt")
    with pytest.raises(UsageError, match="damaged, or"):
        load_tensors(tmp_path / "state.pt")


@pytest.mark.parametrize("keep", [0, 1, 100, 900])
def test_a_file_cut_short_is_refused_in_one_line(tmp_path, keep) -> None:
    file = tmp_path / "state.pt"
    torch.save({"weights": torch.zeros(200)}, file)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(UsageError) as error:
        load_tensors(file)
    assert "\n" not in str(error.value)


def test_a_missing_file_stays_a_missing_file(tmp_path) -> None:
    with pytest.raises(FileNotFoundError):
        load_tensors(tmp_path / "state.pt")
