import os
import threading
import time

import pytest
from torch.utils.file_baton import FileBaton

from insight_rl.errors import UsageError
from insight_rl.learner import build_locks
from insight_rl.learner.build_locks import wait_for_build_locks


def lock_of(root, name="deepspeed_shm_comm"):
    folder = root / "py311_cpu" / name
    folder.mkdir(parents=True)
    return folder / "lock"


def test_a_lock_that_was_left_behind_is_named_with_the_remedy(tmp_path):
    lock = lock_of(tmp_path)
    assert FileBaton(str(lock)).try_acquire()  # and its process dies
    an_hour_ago = time.time() - 3600
    os.utime(lock, (an_hour_ago, an_hour_ago))
    with pytest.raises(UsageError, match=f"killed while it compiled.*rm {lock}"):
        wait_for_build_locks(tmp_path)


def test_a_compilation_that_runs_is_waited_for(tmp_path):
    baton = FileBaton(str(lock_of(tmp_path)))
    assert baton.try_acquire()
    threading.Timer(0.3, baton.release).start()
    started_s = time.monotonic()
    wait_for_build_locks(tmp_path)
    assert time.monotonic() - started_s > 0.25


def test_a_lock_that_grows_old_meanwhile_is_not_waited_for_for_ever(tmp_path):
    lock_of(tmp_path, "cpu_adam").touch()
    with pytest.raises(UsageError, match="cpu_adam"):
        wait_for_build_locks(tmp_path, patience_s=0.3)


def test_locks_of_other_programs_are_not_looked_at(tmp_path):
    lock = lock_of(tmp_path, "somebody_elses")
    lock.touch()
    os.utime(lock, (0, 0))
    wait_for_build_locks(tmp_path)


def test_it_looks_where_torch_compiles(tmp_path, monkeypatch):
    from torch.utils.cpp_extension import _get_build_directory

    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    folder = _get_build_directory("deepspeed_shm_comm", verbose=False)
    os.makedirs(folder, exist_ok=True)
    lock = os.path.join(folder, "lock")
    open(lock, "w").close()
    os.utime(lock, (0, 0))
    assert [str(each) for each in build_locks._locks(build_locks._build_root())] == [lock]
    with pytest.raises(UsageError):
        wait_for_build_locks()
