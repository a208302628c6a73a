"""Weights through a memory-backed folder: a safetensors checkpoint that vLLM reloads in place.

Works on one machine with any device, so it is what the CPU backend uses: there vLLM packs every matrix after loading
and frees the original, and only its own ``reload_weights`` can undo that.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from insight_rl.errors import check
from insight_rl.weight_sync.base import WeightSource
from insight_rl.weight_sync.channel import WorkerCall

_MEMORY_FOLDER = Path("/dev/shm")


class SharedMemoryChannel:
    """``folder``: where the checkpoint is written; null takes ``/dev/shm``, or the temporary folder if it is small.

    Containers often have no more than 64 MiB of ``/dev/shm``, hence the look at its free space.
    """

    vllm_backend = None

    def __init__(self, *, folder: str | None = None) -> None:
        check(folder is None or Path(folder).is_dir(), "rollout.weight_channel.folder", folder, "is not a folder")
        self.folder = folder

    def send(self, weights: WeightSource, call: WorkerCall) -> None:
        if self.folder is None:
            # Once a run: sharded weights have to be gathered to be measured.
            self.folder = _roomy_folder(sum(tensor.nbytes for _, tensor in weights.named_tensors()))
        # Removed at once: a run that is killed later must not leave gigabytes of memory behind.
        with tempfile.TemporaryDirectory(prefix="insight_rl-weights-", dir=self.folder) as folder:
            weights.save(Path(folder))
            call("reload", folder=folder)


def _roomy_folder(num_bytes: int) -> str:
    """The memory-backed folder if twice ``num_bytes`` fit into it, else the temporary folder."""
    if _MEMORY_FOLDER.is_dir() and shutil.disk_usage(_MEMORY_FOLDER).free >= 2 * num_bytes:
        return str(_MEMORY_FOLDER)
    return tempfile.gettempdir()
