import os

import pytest

from insight_rl.files import write_atomically


def test_a_file_is_replaced_as_a_whole_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "figures.json"
    write_atomically(path, "old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["figures.json"]


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, fails):
    path = tmp_path / "figures.json"
    write_atomically(path, "old")

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((os, "fsync", full) if fails == "fsync" else ("pathlib.Path.replace", full)))
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["figures.json"]


def test_the_content_is_on_disk_before_it_takes_the_name(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: events.append("fsync") or fsync(descriptor))
    monkeypatch.setattr(os, "replace", lambda *names: events.append("replace") or replace(*names))
    write_atomically(tmp_path / "a", "text")
    assert events == ["fsync", "replace", "fsync"]


def test_two_processes_may_write_the_same_file_at_a_time(tmp_path, monkeypatch):
    path, fsync = tmp_path / "shared.json", os.fsync

    def meanwhile(descriptor):
        monkeypatch.setattr(os, "fsync", fsync)
        write_atomically(path, "the other's")

    monkeypatch.setattr(os, "fsync", meanwhile)
    write_atomically(path, "the first's")
    assert path.read_text() == "the first's"
    assert os.listdir(tmp_path) == ["shared.json"]
