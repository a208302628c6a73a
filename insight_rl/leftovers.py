"""Files that must not outlive this process: removed when it ends, even if it is killed with SIGKILL.

A process that is killed cannot tidy up. So a small helper process waits at a pipe whose other end is here: when this
process ends, for whatever reason, the kernel closes the pipe, and the helper removes what it was told to remove.
"""

from __future__ import annotations

import glob
import shutil
import subprocess
import sys
import threading
from pathlib import Path

# Patterns come in as lines. Ranks that are still writing end at the same moment, hence several rounds.
_HELPER = """
import glob, os, shutil, sys, time
patterns = [line.rstrip("\\n") for line in sys.stdin]
for _ in range(10):
    for path in [path for pattern in patterns for path in glob.glob(pattern)]:
        if os.path.isdir(path):
            shutil.rmtree(path, ignore_errors=True)
        else:
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass
    time.sleep(0.1)
"""

_lock = threading.Lock()
_patterns: set[str] = set()
_helper: subprocess.Popen[bytes] | None = None


def remove_at_the_end(pattern: str) -> None:
    """Have every file and folder that matches the absolute glob ``pattern`` removed when this process ends.

    The pattern is looked up at the end, so the files need not exist yet. One helper process serves all calls.
    """
    global _helper
    with _lock:
        is_running = _helper is not None and _helper.poll() is None
        if is_running and pattern in _patterns:
            return
        _patterns.add(pattern)
        new = [pattern]
        if not is_running:
            from insight_rl.child_process import start_process

            # -I -S: no site packages, so that it starts in a few milliseconds and stays small.
            _helper = start_process([sys.executable, "-I", "-S", "-c", _HELPER], stdin=subprocess.PIPE)
            new = sorted(_patterns)
        assert _helper is not None and _helper.stdin is not None
        _helper.stdin.write("".join(f"{line}\n" for line in new).encode())
        _helper.stdin.flush()


def remove_now(pattern: str) -> None:
    """Remove every file and folder that matches the absolute glob ``pattern``."""
    for path in map(Path, glob.glob(pattern)):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
