"""How the processes of the present run are watched, and where what they leave behind goes.

    with supervise(Supervision(run_dir=Path("runs/a"), heartbeat_deadline_s=120.0)):
        ...   # every child that is started here writes logs/<name>.log, and may be silent for so long

It is global, as the processes are: children are started by engines, learners and judges that know nothing of a run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HEARTBEAT_KEY = "runtime.heartbeat_deadline_s"


@dataclass(frozen=True, kw_only=True)
class Supervision:
    run_dir: Path | None = None
    """For logs and stacks; ``None``: logs have no names, and stacks go to the folder for temporary files."""
    heartbeat_deadline_s: float = 120.0
    """A process that has shown no heartbeat for so long, or was stopped for so long, counts as lost."""


_present = Supervision()


def present() -> Supervision:
    return _present


@contextmanager
def supervise(supervision: Supervision) -> Iterator[None]:
    """Hold within the block for every child, those that run already included."""
    global _present
    before, _present = _present, supervision
    try:
        yield
    finally:
        _present = before
