"""A folder for weights: where it is made, and that nothing is left of it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from insight_rl.errors import RunStopped, UsageError
from insight_rl.weight_sync import memory_folder as memory


def with_room(monkeypatch, room):
    """Let each folder of ``room`` have that many bytes free, and none be writable that is not in it."""
    monkeypatch.setattr(memory.shutil, "disk_usage", lambda folder: SimpleNamespace(free=room[Path(folder)]))
    monkeypatch.setattr(memory.os, "access", lambda folder, mode: Path(folder) in room)


@pytest.mark.parametrize("is_writable", [True, False])
def test_weights_go_to_the_temporary_folder_where_shared_memory_is_small_or_read_only(
    is_writable, tmp_path, monkeypatch
):
    shared = tmp_path / "shm"
    with_room(monkeypatch, {tmp_path: 1000} | ({shared: 1999} if is_writable else {}))
    monkeypatch.setattr(memory, "_SHARED_MEMORY", shared)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with memory.memory_folder(1000) as folder:
        assert folder.parent == tmp_path


def test_no_room_anywhere_is_one_line_with_the_size_and_the_remedy(tmp_path, monkeypatch):
    with_room(monkeypatch, {tmp_path: 10 << 20})
    monkeypatch.setattr(memory, "_SHARED_MEMORY", tmp_path / "shm")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(RunStopped, match=r"no room for the weights \(11 MiB\).*TMPDIR"), memory.memory_folder(11 << 20):
        pass


@pytest.mark.parametrize("is_writable", [True, False])
def test_nothing_is_started_on_shared_memory_that_it_cannot_use(is_writable, tmp_path, monkeypatch):
    with_room(monkeypatch, {tmp_path: 100} if is_writable else {})
    monkeypatch.setattr(memory, "_SHARED_MEMORY", tmp_path)
    with pytest.raises(UsageError, match=r"rollout=vllm: .* is read-only or has less than 16 MiB of room.*--shm-size"):
        memory.check_shared_memory("rollout=vllm", "vLLM")


def test_nothing_is_left_when_the_process_is_killed_while_the_weights_lie_there(tmp_path):
    code = (
        "import sys, time\n"
        "from insight_rl.weight_sync.memory_folder import memory_folder\n"
        "with memory_folder(0, parent=sys.argv[1]) as folder:\n"
        "    (folder / 'model.safetensors').write_bytes(bytes(1000))\n"
        "    print(folder, flush=True)\n"
        "    time.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True)
    folder = Path(process.stdout.readline().strip())
    assert (folder / "model.safetensors").exists()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 60
    while list(tmp_path.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert list(tmp_path.iterdir()) == []
