"""The ranks' part of a checkpoint as the trainer sees it: files that come into a folder, and a record of each rank.

Imports no torch. What is in the files: :mod:`insight_rl.learner.shards`.
"""

from __future__ import annotations

import errno
import json
import threading
import time
from pathlib import Path

from insight_rl.errors import RunStopped
from insight_rl.hashed_files import Digest, WriteCancelled, digest_of

RECORD = "rank_{:05d}.json"
"""Written last by each rank: the digests of its files, and how often the optimizer has stepped."""
_LOOK_S = 0.05


class RankFiles:
    """The ranks' part of a checkpoint, written by the ranks. See :class:`~insight_rl.checkpoint.PartWriting`.

    Their records tell that they are done: through the folder, which trainer and ranks share wherever they run.
    """

    def __init__(self, folder: Path, num_ranks: int, *, deadline_s: float) -> None:
        self._folder, self._num_ranks, self._deadline_s = folder, num_ranks, deadline_s

    def write(self, cancelled: threading.Event) -> dict[str, Digest]:
        """Wait for every rank. Raises ``RunStopped`` after ``deadline_s`` (``learner.deadline_s``)."""
        deadline = time.monotonic() + self._deadline_s
        digests: dict[str, Digest] = {}
        for rank in range(self._num_ranks):
            record = self._folder / RECORD.format(rank)
            while not record.exists():
                if cancelled.wait(_LOOK_S):
                    raise WriteCancelled(str(self._folder))
                if not self._folder.is_dir():
                    raise FileNotFoundError(errno.ENOENT, "was deleted", str(self._folder))
                if time.monotonic() > deadline:
                    raise RunStopped(
                        f"learner rank {rank} has not written its part of a checkpoint within "
                        f"learner.deadline_s={self._deadline_s:g} seconds: look after the disk of {self._folder}"
                    )
            digests |= json.loads(record.read_text(encoding="utf-8"))["files"]
            digests[record.name] = digest_of(record)
        return digests
