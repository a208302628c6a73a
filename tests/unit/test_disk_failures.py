"""What a run says when its disk fails; errors of ours keep their traceback."""

import errno
import os
import shutil

import pytest

from insight_rl.disk_failures import explain_disk_failures
from insight_rl.errors import RunStopped, UsageError


def fail(error, run_dir, checkpoint="step_000020"):
    with explain_disk_failures(run_dir, lambda: checkpoint):
        raise error


def os_error(number, filename=None):
    return OSError(number, os.strerror(number), filename)


def caused_by(error):
    outer = RuntimeError("learner rank 0 failed")
    outer.__cause__ = error
    return outer


FULL = {
    "a write": os_error(errno.ENOSPC),
    "a quota": os_error(errno.EDQUOT),
    "under another error": caused_by(os_error(errno.ENOSPC)),
    "torch's own words": RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 3048512 vs 3048400"),
    "in the traceback of a rank": RuntimeError("learner rank 1 failed in save:\nOSError: No space left on device"),
}


@pytest.mark.parametrize("kind", FULL)
@pytest.mark.parametrize(("free_mib", "expected"), [(1, "the disk is full (1.0 MiB free)"), (900, "look at /tmp")])
def test_a_full_disk(kind, free_mib, expected, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=free_mib * 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(RunStopped) as stopped:
        fail(FULL[kind], tmp_path)
    message = str(stopped.value)
    assert message.startswith(f"run_dir='{tmp_path}': ") and expected in message and "\n" not in message
    assert "the same command goes on from checkpoint step_000020" in message


def test_without_a_checkpoint_it_says_so(tmp_path):
    with pytest.raises(RunStopped, match="no checkpoint yet"):
        fail(os_error(errno.ENOSPC), tmp_path, checkpoint=None)


IN_A_RANK = "learner rank 1 failed in step:\nTraceback ...\nFileNotFoundError: [Errno 2] No such file or directory: 'x'"


@pytest.mark.parametrize(
    "error",
    [FileNotFoundError(errno.ENOENT, "", "x"), UsageError("x: no step is recorded"), RuntimeError(IN_A_RANK)],
)
def test_a_deleted_folder(error, tmp_path):
    with pytest.raises(RunStopped, match="deleted or moved while the run wrote to it"):
        fail(error, tmp_path / "gone")


@pytest.mark.parametrize("number", [errno.EROFS, errno.EIO, errno.EACCES])
def test_a_file_that_cannot_be_written(number, tmp_path):
    with pytest.raises(RunStopped, match=os.strerror(number)):
        fail(os_error(number, str(tmp_path / "metrics.jsonl")), tmp_path)


@pytest.mark.parametrize(
    "error",
    [
        KeyError("accuracy"),
        RuntimeError("shape mismatch"),
        FileNotFoundError(errno.ENOENT, "", "elsewhere"),
        PermissionError(errno.EACCES, "", "/etc/shadow"),
        UsageError("learner.lr=0: must be above 0"),
        RunStopped("log-probs diverged"),
    ],
)
def test_every_other_error_stays_what_it_is(error, tmp_path):
    with pytest.raises(type(error)) as raised:
        fail(error, tmp_path)
    assert raised.value is error


def test_a_disk_that_fails_under_a_rank_is_told_as_under_the_trainer(tmp_path):
    """The rank's own error comes as words: OSError: [Errno 5] Input/output error: '...'."""
    file = tmp_path / "checkpoints" / ".writing" / "rank_00001.safetensors"
    trace = f"learner rank 1 failed in step:\nTraceback ...\nOSError: {os_error(errno.EIO, str(file))}"
    with pytest.raises(RunStopped, match=r"rank_00001\.safetensors cannot be read or written \(Input/output error\)"):
        fail(RuntimeError(trace), tmp_path)
    with pytest.raises(RuntimeError, match="Traceback"):
        fail(RuntimeError(trace), tmp_path / "another")
