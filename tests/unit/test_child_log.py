"""What a child has printed is kept under its name, and only its own is quoted."""

import errno

import pytest

from insight_rl.child_log import ChildLog
from insight_rl.disk_failures import explain_disk_failures
from insight_rl.errors import RunStopped


def test_a_log_goes_on_where_the_one_before_ended_and_quotes_its_own_part(tmp_path):
    first = ChildLog("Rollout worker 0", tmp_path)
    first.file.write(b"ValueError: of the first\n" + b"line\n" * 1000)
    assert first.end().startswith("\nIts log has: ValueError: of the first\nThe end of its log:\nline")
    first.close()
    second = ChildLog("Rollout worker 0", tmp_path)
    assert second.end() == ""
    second.file.write(b"of the second\n")
    assert second.end() == "\nThe end of its log:\nof the second"
    second.close()
    (file,) = (tmp_path / "logs").iterdir()
    assert file.name == "rollout_worker_0.log"
    assert [line for line in file.read_text().splitlines() if line.startswith("----")][1].startswith(
        "---- Rollout worker 0 is started, "
    )


def test_without_a_run_it_has_no_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    log = ChildLog("x", None)
    log.file.write(b"words\n")
    assert log.end() == "\nThe end of its log:\nwords"
    log.close()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_deleted_is_told_as_such(tmp_path):
    gone = tmp_path / "gone"
    with pytest.raises(FileNotFoundError) as error:
        ChildLog("x", gone)
    assert error.value.errno == errno.ENOENT and not gone.exists()
    with (
        pytest.raises(RunStopped, match="the folder was deleted or moved while the run wrote to it"),
        explain_disk_failures(gone, lambda: None),
    ):
        ChildLog("x", gone)
