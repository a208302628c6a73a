"""From a placement to the bundles of Ray's placement group: one pure function. Imports no Ray.

A bundle lies on one machine as a whole. So the GPUs of a rollout worker (tensor parallel) are one bundle, together with
the ranks that are on the same GPUs; every other GPU, and without GPUs every process, is a bundle by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from insight_rl.placement import Placement


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """What has to be on one machine.

    Example: ``Bundle(devices=("cuda:2", "cuda:3"), ranks=(2, 3), workers=(1,))``, a worker on the GPUs of two ranks.
    """

    devices: tuple[str, ...]
    """GPUs, under the names of the placement; none on a CPU."""
    ranks: tuple[int, ...]
    workers: tuple[int, ...]

    def resources(self, *, cpus_per_process: int) -> dict[str, float]:
        """What Ray has to reserve for it."""
        needed = {"CPU": float(cpus_per_process * (len(self.ranks) + len(self.workers)))}
        return needed | ({"GPU": float(len(self.devices))} if self.devices else {})


def bundles_of(placement: Placement) -> list[Bundle]:
    """The bundles in the order of their first device; on a CPU the ranks' before the workers'."""
    if placement.num_gpus == 0:
        ranks = [Bundle(devices=(), ranks=(rank,), workers=()) for rank in range(len(placement.ranks))]
        return ranks + [Bundle(devices=(), ranks=(), workers=(number,)) for number in range(len(placement.workers))]
    of_workers = list(placement.workers)
    taken = {device for devices in of_workers for device in devices}
    groups = of_workers + [(device,) for device in placement.ranks if device not in taken]
    groups.sort(key=lambda devices: int(devices[0].removeprefix("cuda:")))
    return [
        Bundle(
            devices=devices,
            ranks=tuple(rank for rank, device in enumerate(placement.ranks) if device in devices),
            workers=tuple(number for number, own in enumerate(placement.workers) if own == devices),
        )
        for devices in groups
    ]
