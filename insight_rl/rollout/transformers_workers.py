"""``rollout=transformers_workers``: the transformers engine in processes of its own, which the trainer outlives.

Slower than vLLM by far, but it needs nothing else and starts in seconds: for small models on a CPU with several cores,
and where rollouts have to be the same to the last bit whatever becomes of the workers.
"""

from __future__ import annotations

from insight_rl.errors import check
from insight_rl.rollout.base import RolloutSpec
from insight_rl.rollout.pooled_engine import PooledEngine
from insight_rl.weight_sync.auto import AutoChannel, MemoryChannel
from insight_rl.weight_sync.object_store import ObjectStoreChannel
from insight_rl.weight_sync.shared_memory import SharedMemoryChannel


class TransformersWorkers(PooledEngine):
    """Samples with :class:`~insight_rl.rollout.transformers.TransformersEngine` in ``num_workers`` processes.

    A prompt at a time, all its rollouts together. For the settings see
    :class:`~insight_rl.rollout.pooled_engine.PooledEngine`. Not run on a GPU.
    """

    # Of HasWorkers: each worker has one device, the learner's.
    tensor_parallel_size = 1
    placement = "colocated"

    def start(self, spec: RolloutSpec) -> None:
        """Raises ``UsageError`` for a weight channel that is made for vLLM."""
        given = spec.weight_channel
        channel = MemoryChannel() if given is None or isinstance(given, AutoChannel) else given
        check(
            isinstance(channel, (MemoryChannel, SharedMemoryChannel, ObjectStoreChannel)),
            "weight_sync",
            type(given).__name__,
            "is for vLLM; rollout=transformers_workers takes weight_sync=shared_memory, or auto",
        )
        arguments = {
            "model_path": str(spec.model_path),
            "dtype": spec.dtype,
            "max_length": spec.max_length,
            "seed": spec.seed,
        }
        self._start_pool(spec, "insight_rl.rollout.transformers_worker", arguments, channel)
