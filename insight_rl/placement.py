"""Which GPUs the learner's ranks and the rollout workers get: one pure function of numbers.

    place(num_gpus=8, num_ranks=4, num_workers=2, tensor_parallel_size=2, placement="separate")
    Placement(ranks=("cuda:0", "cuda:1", "cuda:2", "cuda:3"), workers=(("cuda:4", "cuda:5"), ("cuda:6", "cuda:7")))

GPUs are counted as torch counts them: among those of ``CUDA_VISIBLE_DEVICES``, where it is set. Nothing has been placed
on a GPU yet: not yet run on a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from insight_rl.errors import UsageError

PLACEMENTS = ("colocated", "separate")
_VARIABLE = "CUDA_VISIBLE_DEVICES"
_PREFIX = "cuda:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Devices under torch's names, ``cuda:<number>`` or ``cpu``."""

    ranks: tuple[str, ...]
    """One device for each rank of the learner; rank r is always on GPU r, which is its ``LOCAL_RANK``."""
    workers: tuple[tuple[str, ...], ...]
    """The devices of each rollout worker, in the order of its tensor parallel ranks."""

    @property
    def num_gpus(self) -> int:
        """GPUs that have a rank or a worker; 0 on a CPU."""
        return len({device for device in (*self.ranks, *sum(self.workers, ())) if device.startswith(_PREFIX)})


def place(*, num_gpus: int, num_ranks: int, num_workers: int, tensor_parallel_size: int, placement: str) -> Placement:
    """Devices of every rank and worker; without a GPU everything is on the CPU.

    ``colocated``: the workers share the learner's GPUs, spread over them as evenly as can be. ``separate``: the ranks
    come first, the workers take the GPUs after them. No GPU has two ranks or two workers. ``num_ranks=0``: there is no
    learner (evaluation), and all GPUs are the workers'.

    Raises ``UsageError`` where there are too few GPUs, with the settings that would fit.
    """
    if num_gpus == 0:
        worker = ("cpu",) * tensor_parallel_size
        return Placement(ranks=("cpu",) * num_ranks, workers=(worker,) * num_workers)
    if num_ranks > num_gpus:
        raise UsageError(
            f"learner.num_ranks={num_ranks}: there {_are_gpus(num_gpus)}, and each rank needs one of its own; take "
            f"learner.num_ranks={num_gpus} or more GPUs (CUDA_VISIBLE_DEVICES hides some, if it is set)"
        )
    is_separate = placement == "separate" or num_ranks == 0
    first, num_free = (num_ranks, num_gpus - num_ranks) if is_separate else (0, num_ranks)
    if num_workers * tensor_parallel_size > num_free:
        raise UsageError(_too_few(num_gpus, num_ranks, num_workers, tensor_parallel_size, placement, num_free))
    stride = tensor_parallel_size if is_separate else num_free // num_workers
    starts = range(first, first + num_workers * stride, stride)
    return Placement(
        ranks=tuple(f"{_PREFIX}{rank}" for rank in range(num_ranks)),
        workers=tuple(
            tuple(f"{_PREFIX}{start + offset}" for offset in range(tensor_parallel_size)) for start in starts
        ),
    )


def visible_devices(devices: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    """What a process's environment needs so that it sees ``devices`` alone, in this order.

    They are numbers within ``CUDA_VISIBLE_DEVICES`` of ``environ``, whose entries may be numbers or UUIDs. Handles of
    shared GPU memory name GPUs by UUID, so they mean the same GPU on both sides. Nothing for devices that are no GPUs.
    """
    numbers = [int(device.removeprefix(_PREFIX)) for device in devices if device.startswith(_PREFIX)]
    if not numbers:
        return {}
    names = [name.strip() for name in environ.get(_VARIABLE, "").split(",") if name.strip()]
    return {_VARIABLE: ",".join(names[number] if names else str(number) for number in numbers)}


def _too_few(
    num_gpus: int, num_ranks: int, num_workers: int, tensor_parallel_size: int, placement: str, num_free: int
) -> str:
    needed = num_workers * tensor_parallel_size
    if num_ranks == 0:
        which, ways = f"there {_are_gpus(num_gpus)}", []
    elif placement == "separate":
        which = f"the learner's {num_ranks} rank{_s(num_ranks)} leave {num_free} of {num_gpus} GPU{_s(num_gpus)}"
        ways = [f"learner.num_ranks={num_gpus - needed}"] if needed < num_gpus else []
        if needed <= num_ranks:
            ways.append("rollout.placement=colocated")
    else:
        which = f"the learner has {num_ranks} GPU{_s(num_ranks)}, one for each of its ranks"
        ways = [f"learner.num_ranks={needed}"] if needed <= num_gpus else []
        if needed <= num_gpus - num_ranks:
            ways.append("rollout.placement=separate")
    if num_free >= tensor_parallel_size:
        ways.append(f"rollout.num_workers={num_free // tensor_parallel_size}")
    elif num_free >= 1:
        ways.append(f"rollout.num_workers=1 rollout.tensor_parallel_size={num_free}")
    return (
        f"rollout.num_workers={num_workers} with rollout.tensor_parallel_size={tensor_parallel_size} and "
        f"rollout.placement={placement}: they need {needed} GPU{_s(needed)}, and {which}; take "
        f"{' or '.join(ways) or 'fewer ranks or more GPUs'}"
    )


def _are_gpus(number: int) -> str:
    return f"is {number} GPU" if number == 1 else f"are {number} GPUs"


def _s(number: int) -> str:
    return "" if number == 1 else "s"
