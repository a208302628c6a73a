"""vLLM's weight transfer API as weight channels: CUDA IPC on GPUs that both sides use, NCCL between GPUs.

Weights leave the processes that own them. Each rank of the learner opens a trainer-side engine of vLLM's
(:class:`VllmSender`), and all of them send at the same time. What rank 0 has to tell the rollout processes goes through
the trainer, which passes it on to all of them at once. So the trainer itself needs no GPU and no copy of the weights.

Written from the sources of vLLM 0.32. Both channels need CUDA devices and have not yet been run on a GPU; the tests run
vLLM's own engines on a CPU with the CUDA calls alone replaced.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from insight_rl.child_process import free_port
from insight_rl.errors import RunStopped, check
from insight_rl.types import Metrics
from insight_rl.weight_sync.base import Call, RankWeights, RolloutProcess, SyncSeconds, WeightSource

if TYPE_CHECKING:
    import torch


class _VllmChannel:
    """What both channels share: senders that stay open for as long as the rollout processes are the same."""

    _ranks_go_on: bool
    """Whether the ranks can finish a transfer that one of the rollout processes has dropped out of."""

    def __init__(self, *, buffer_bytes: int) -> None:
        check(buffer_bytes >= 1 << 20, "weight_sync.buffer_bytes", buffer_bytes, "must be at least 1 MiB")
        self.buffer_bytes = buffer_bytes
        self._open_for: Sequence[RolloutProcess] = ()

    def send(self, weights: WeightSource, processes: Sequence[RolloutProcess]) -> Metrics:
        is_open = [id(process) for process in self._open_for] == [id(process) for process in processes]
        self._open_for = ()
        control = _Control(processes, goes_on=self._ranks_go_on)
        seconds = weights.send(None if is_open else self._spec(weights, processes), control.call_all)
        if control.failures:
            raise control.failures[0]
        self._open_for = list(processes)
        return seconds.metrics()

    def reopen(self) -> None:
        self._open_for = ()

    def _spec(self, weights: WeightSource, processes: Sequence[RolloutProcess]) -> VllmSenderSpec:
        raise NotImplementedError


class IpcChannel(_VllmChannel):
    """Lets every vLLM worker read the memory of the learner's rank on the same GPU, a buffer at a time.

    For rollout processes on GPUs of the learner's ranks, with tensor parallelism too: each rank shares a buffer on its
    GPU, and a worker takes the one of its own GPU. The buffer has to hold the largest tensor, mostly the embedding (0.3
    GB for Qwen3-0.6B in bfloat16): it is made that large where ``buffer_bytes`` is less.
    """

    vllm_backend = "ipc"
    _ranks_go_on = True  # nobody has to read their buffers

    def __init__(self, *, buffer_bytes: int = 256 << 20) -> None:
        super().__init__(buffer_bytes=buffer_bytes)

    def check_placement(self, placement: str) -> None:
        check(
            placement == "colocated",
            "weight_sync",
            "ipc",
            f"with rollout.placement={placement} vLLM's GPUs have no rank of the learner; take weight_sync=nccl",
        )

    def check_device(self, device: str) -> None:
        _check_gpu("ipc", device)

    def _spec(self, weights: WeightSource, processes: Sequence[RolloutProcess]) -> VllmSenderSpec:
        largest = max(info.num_bytes for info in weights.describe())
        settings = {"packed": True, "packed_buffer_size_bytes": max(self.buffer_bytes, largest)}
        return VllmSenderSpec("vllm.distributed.weight_transfer.ipc_engine", "IPCTrainerInitInfo", settings)


class NcclChannel(_VllmChannel):
    """Broadcasts from the GPU of the learner's rank 0 to all GPUs of the rollout processes, which must be others.

    The other ranks of the learner only take part in gathering. Both sides meet at a free port of rank 0's machine. On
    both ends two buffers of ``buffer_bytes``, or of the largest tensor, are needed.
    """

    vllm_backend = "nccl"
    _ranks_go_on = False  # a broadcast waits for everyone

    def __init__(self, *, buffer_bytes: int = 256 << 20) -> None:
        super().__init__(buffer_bytes=buffer_bytes)

    def check_placement(self, placement: str) -> None:
        check(
            placement == "separate",
            "weight_sync",
            "nccl",
            f"with rollout.placement={placement} vLLM and rank 0 would be on one GPU, which NCCL refuses; take "
            "weight_sync=ipc, or rollout.placement=separate",
        )

    def check_device(self, device: str) -> None:
        _check_gpu("nccl", device)

    def _spec(self, weights: WeightSource, processes: Sequence[RolloutProcess]) -> VllmSenderSpec:
        settings = {
            "packed": True,
            "packed_buffer_size_bytes": self.buffer_bytes,
            # The sender, and every GPU that receives.
            "world_size": 1 + sum(process.num_devices for process in processes),
        }
        return VllmSenderSpec(
            "vllm.distributed.weight_transfer.nccl_engine", "NCCLTrainerInitInfo", settings, meets=True
        )


def _check_gpu(name: str, device: str) -> None:
    check(device != "cpu", "weight_sync", name, "vLLM runs on a CPU here; take weight_sync=auto")


# -- the trainer's side


class _Control:
    """Passes the sender's calls on to all rollout processes at once.

    A process that fails gets no further calls; the others still do. With ``goes_on`` the sender does not hear of it, so
    that the ranks end their transfer together and can send again; else it ends the transfer, and with it the run.
    """

    def __init__(self, processes: Sequence[RolloutProcess], *, goes_on: bool) -> None:
        self._num_devices = [process.num_devices for process in processes]
        self._processes = dict(enumerate(processes))
        self._goes_on = goes_on
        self.failures: list[Exception] = []

    def call_all(self, method: str, argument: Any, meanwhile: Callable[[], None]) -> None:
        for index, process in list(self._processes.items()):
            # The sender is rank 0 of the group.
            first_rank = 1 + sum(self._num_devices[:index])
            with self._noting_failure(index):
                process.begin("transfer", method=method, argument=_for_process(method, argument, first_rank))
        waiting = set(self._processes)
        while waiting:
            # In turn, since one may wait inside a collective for another that has failed.
            for index in sorted(waiting):
                with self._noting_failure(index):
                    if not self._processes[index].is_ready():
                        continue
                    self._processes[index].finish()
                waiting.discard(index)
            waiting &= self._processes.keys()
            meanwhile()

    @contextmanager
    def _noting_failure(self, index: int) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not self._goes_on:
                # Not the error itself, for which the engine would start another process and have all send again.
                raise RunStopped(
                    f"weight_sync=nccl: the ranks cannot end a broadcast that a rollout process has dropped out of "
                    f"({error}); the run can be resumed from its last checkpoint"
                ) from error
            self.failures.append(error)
            del self._processes[index]


def _for_process(method: str, argument: Any, first_rank: int) -> Any:
    """Each process takes itself for the only one, whose ranks in the group follow the sender's."""
    if method == "init_weight_transfer_engine" and "rank_offset" in argument["init_info"]:
        return {"init_info": argument["init_info"] | {"rank_offset": first_rank}}
    return argument


# -- a rank's side


@dataclass(frozen=True)
class VllmSenderSpec:
    """See :class:`~insight_rl.weight_sync.base.SenderSpec`. Names vLLM's class: the trainer need not import vLLM."""

    module: str
    init_info: str
    settings: dict[str, Any]
    meets: bool = False
    """Whether both sides meet at a port: on the machine of rank 0, which tells the rollout processes of it."""

    def open(self, weights: RankWeights, call: Call) -> VllmSender:
        import importlib

        info = getattr(importlib.import_module(self.module), self.init_info)
        settings = self.settings
        if self.meets:
            # Where the ranks meet too; a single rank in the trainer's process has no such place.
            address = os.environ.get("MASTER_ADDR", "127.0.0.1")
            settings = settings | {"master_address": address, "master_port": free_port()}
        return VllmSender(info(rank=weights.rank, **settings), weights, call)


class VllmSender:
    """vLLM's trainer-side engine in one rank; see :class:`~insight_rl.weight_sync.base.Sender`."""

    def __init__(self, info: Any, weights: RankWeights, call: Call) -> None:
        from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

        self._call = call
        self._seconds = SyncSeconds()
        self._thread = 0
        self._engine = WeightTransferTrainerFactory.trainer_init(
            info, client=ControlClient(self._timed_call), source=as_vllm_source(weights, self._gathering)
        )

    def send_weights(self) -> SyncSeconds:
        self._seconds, self._thread = SyncSeconds(), threading.get_ident()
        started = time.perf_counter()
        self._engine.send_weights()
        seconds = self._seconds
        seconds.transfer_s = time.perf_counter() - started - seconds.gather_s - seconds.load_s
        return seconds

    def _gathering(self, tensors: Iterator[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
        return self._seconds.gathering(tensors)

    def _timed_call(self, method: str, argument: Any) -> None:
        started = time.perf_counter()
        self._call(method, argument)
        # A call from another thread goes on beside the broadcast: its time is part of the transfer.
        if threading.get_ident() == self._thread:
            self._seconds.load_s += time.perf_counter() - started


class ControlClient:
    """vLLM's ``VLLMWeightSyncClient``: calls its transfer API in the rollout processes."""

    def __init__(self, call: Call) -> None:
        self._call = call

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self._call("init_weight_transfer_engine", {"init_info": init_info})

    def start_weight_update(self) -> None:
        self._call("start_weight_update", None)

    def update_weights(self, update_info: dict[str, Any] | list[dict[str, Any]]) -> None:
        self._call("update_weights", {"update_info": update_info})

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self._call("finish_weight_update", None)


NamedTensors = Iterator[tuple[str, "torch.Tensor"]]


def as_vllm_source(weights: RankWeights, gathering: Callable[[NamedTensors], NamedTensors] = iter) -> Any:
    """vLLM's ``WeightSource`` over ours; each pass goes through ``gathering``."""
    from vllm.distributed.weight_transfer.base import ParamMeta
    from vllm.distributed.weight_transfer.base import WeightSource as VllmWeightSource

    class Source(VllmWeightSource):  # type: ignore[misc]
        def metadata(self) -> list[Any]:
            return [ParamMeta(info.name, info.dtype, info.shape) for info in weights.describe()]

        def __iter__(self) -> NamedTensors:
            return iter(gathering(weights.named_tensors()))

    return Source()
