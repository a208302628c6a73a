"""Which rollout engines and weight channels go with a runtime, before anything is started."""

from __future__ import annotations

from insight_rl.errors import check
from insight_rl.rollout.base import HasWorkers, RolloutEngine
from insight_rl.runtime.base import Runtime
from insight_rl.weight_sync.adapter import AdapterChannel
from insight_rl.weight_sync.base import WeightChannel
from insight_rl.weight_sync.object_store import ObjectStoreChannel
from insight_rl.weight_sync.shared_memory import SharedMemoryChannel

_FOR_ONE_MACHINE = {SharedMemoryChannel: "shared_memory", AdapterChannel: "adapter"}


def check_fit(runtime: Runtime, rollout: RolloutEngine, channel: WeightChannel) -> None:
    """Raise ``UsageError`` for what works in this process, or on this machine alone, where the run is elsewhere."""
    if runtime.is_here:
        is_remote = isinstance(channel, ObjectStoreChannel)
        check(not is_remote, "weight_sync", "object_store", "needs runtime=ray; with runtime=local take auto")
        return
    check(
        isinstance(rollout, HasWorkers),
        "runtime",
        "ray",
        "this rollout engine samples in the trainer's process, where the cluster is of no use; take rollout=vllm or "
        "rollout=transformers_workers",
    )
    name = _FOR_ONE_MACHINE.get(type(channel))
    check(name is None, "weight_sync", name, "is for one machine; with runtime=ray take weight_sync=auto")
