"""vLLM's weight transfer API as weight channels: between GPUs by NCCL, on one GPU by CUDA IPC.

Adapts our weight source and our rollout process to the two interfaces that vLLM's trainer-side engines take. Written
from the sources of vLLM 0.32. Both channels need CUDA devices and have never been run on any; the tests cover the
adapters only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from insight_rl.errors import check
from insight_rl.types import Metrics
from insight_rl.weight_sync.base import RolloutProcess, WeightSource

if TYPE_CHECKING:
    import torch


class IpcChannel:
    """Shares the learner's memory with a rollout process on the same GPU, a buffer at a time.

    vLLM's buffer has to hold the largest tensor, mostly the embedding (0.3 GB for Qwen3-0.6B in bfloat16): it is made
    that large where ``buffer_bytes`` is less.
    """

    vllm_backend = "ipc"

    def __init__(self, *, buffer_bytes: int = 256 << 20) -> None:
        check(buffer_bytes >= 1 << 20, "weight_sync.buffer_bytes", buffer_bytes, "must be at least 1 MiB")
        self.buffer_bytes = buffer_bytes
        self._sender: Any = None

    def check_device(self, device: str) -> None:
        _check_gpu("ipc", device)

    def send(self, weights: WeightSource, processes: Sequence[RolloutProcess]) -> Metrics:
        (process,) = processes
        if self._sender is None:
            from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo

            largest = max(tensor.nbytes for _, tensor in weights.named_tensors())
            info = IPCTrainerInitInfo(rank=0, packed=True, packed_buffer_size_bytes=max(self.buffer_bytes, largest))
            self._sender = _open_sender(info, weights, process)
        self._sender.source = as_vllm_source(weights)
        self._sender.send_weights()
        return {}


class NcclChannel:
    """Broadcasts from the learner's GPU to the other GPUs that the rollout process runs on.

    ``num_workers`` is the number of those GPUs (vLLM's tensor times pipeline parallel size); both sides meet at
    ``address`` and ``port``. For ``learner=accelerate learner.num_ranks=1`` only, whose weights are on a GPU of the
    trainer's own process; keep vLLM off that GPU with ``rollout.engine_args={device_ids: [...]}``.
    """

    vllm_backend = "nccl"

    def __init__(self, *, num_workers: int = 1, address: str = "127.0.0.1", port: int = 29600) -> None:
        check(num_workers >= 1, "weight_sync.num_workers", num_workers, "must be at least 1 GPU")
        check(1024 <= port <= 65535, "weight_sync.port", port, "must be from 1024 to 65535")
        self.num_workers, self.address, self.port = num_workers, address, port
        self._sender: Any = None

    def check_device(self, device: str) -> None:
        _check_gpu("nccl", device)

    def send(self, weights: WeightSource, processes: Sequence[RolloutProcess]) -> Metrics:
        (process,) = processes
        if self._sender is None:
            from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

            info = NCCLTrainerInitInfo(
                rank=0, master_address=self.address, master_port=self.port, world_size=1 + self.num_workers
            )
            self._sender = _open_sender(info, weights, process)
        self._sender.source = as_vllm_source(weights)
        self._sender.send_weights()
        return {}


def _check_gpu(name: str, device: str) -> None:
    check(device != "cpu", "weight_sync", name, "vLLM runs on a CPU here; take weight_sync=auto")


def _open_sender(info: Any, weights: WeightSource, process: RolloutProcess) -> Any:
    from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

    return WeightTransferTrainerFactory.trainer_init(
        info, client=ProcessClient(process), source=as_vllm_source(weights)
    )


class ProcessClient:
    """vLLM's ``VLLMWeightSyncClient`` over our rollout process."""

    def __init__(self, process: RolloutProcess) -> None:
        self._call = process.call

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self._call("transfer", method="init_weight_transfer_engine", argument={"init_info": init_info})

    def start_weight_update(self) -> None:
        self._call("transfer", method="start_weight_update", argument=None)

    def update_weights(self, update_info: dict[str, Any] | list[dict[str, Any]]) -> None:
        self._call("transfer", method="update_weights", argument={"update_info": update_info})

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self._call("transfer", method="finish_weight_update", argument=None)


def as_vllm_source(weights: WeightSource) -> Any:
    """vLLM's ``WeightSource`` over ours. Asking for the metadata gathers sharded tensors once more."""
    from vllm.distributed.weight_transfer.base import ParamMeta
    from vllm.distributed.weight_transfer.base import WeightSource as VllmWeightSource

    class Source(VllmWeightSource):  # type: ignore[misc]
        def metadata(self) -> list[Any]:
            return [ParamMeta(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in weights.named_tensors()]

        def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
            return iter(weights.named_tensors())

    return Source()
