"""``weight_sync=adapter``: the LoRA adapter alone, which vLLM applies beside the weights that it has loaded.

Megabytes travel instead of the model, and in bfloat16 the rollout's policy is nearer to the learner's: merging rounds
the sum of weight and adapter, while vLLM adds what each makes of its input. Its samples cost a little more time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from insight_rl.errors import check
from insight_rl.types import Metrics
from insight_rl.weight_sync.base import RolloutProcess, WeightSource, call_all
from insight_rl.weight_sync.memory_folder import memory_folder

_VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks that vLLM 0.32 makes room for."""

_SPARE_BYTES = 1 << 20
"""For the adapter's configuration and the header of its weights."""


def vllm_rank(rank: int) -> int:
    """What vLLM has to make room for; raises ``UsageError`` where no room is enough for an adapter of ``rank``."""
    check(
        rank <= _VLLM_RANKS[-1],
        "learner.lora.rank",
        rank,
        f"vLLM takes adapters of at most {_VLLM_RANKS[-1]}; send merged weights instead: weight_sync=auto",
    )
    return next(each for each in _VLLM_RANKS if each >= rank)


class AdapterChannel:
    """Writes the adapter as peft does, to a folder in memory from which all rollout processes load it."""

    vllm_backend = None

    def check_placement(self, placement: str) -> None:
        """Files can be read from everywhere on the machine."""

    def check_device(self, device: str) -> None:
        """Files can be read on every device."""

    def reopen(self) -> None:
        """A file is opened at each send."""

    def send(self, weights: WeightSource, processes: Sequence[RolloutProcess]) -> Metrics:
        num_bytes = sum(info.num_bytes for info in weights.describe_adapter())
        with memory_folder(num_bytes + _SPARE_BYTES) as folder:
            seconds = weights.save_adapter(folder)
            started = time.perf_counter()
            call_all(processes, "load_adapter", folder=str(folder))
            seconds.load_s += time.perf_counter() - started
        return seconds.metrics()
