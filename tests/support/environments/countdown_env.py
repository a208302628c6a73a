"""An environment of the verifiers library: Countdown in the wording that the bundled tiny model knows."""

import random
import time
from pathlib import Path

import verifiers.v1 as vf

from insight_rl.reward.countdown import judge_countdown


class Data(vf.TaskData):
    numbers: list[int]
    target: int


class Knobs(vf.TaskConfig):
    hang_once: str | None = None
    """A file: where it is not there, a reward makes it and never ends."""


class Countdown(vf.Task[Data, vf.State, Knobs]):
    @vf.reward(weight=2.0)
    async def hits(self, trace: vf.Trace) -> float:
        if self.config.hang_once and not Path(self.config.hang_once).exists():
            Path(self.config.hang_once).touch()
            time.sleep(3600)
        return 0.5 * (self._status(trace) == "correct")

    @vf.reward
    async def form(self, trace: vf.Trace) -> float:
        return 0.1 * (self._status(trace) == "wrong")

    @vf.metric
    async def length(self, trace: vf.Trace) -> float:
        return len(trace.last_reply)

    def _status(self, trace: vf.Trace) -> str:
        return judge_countdown(trace.last_reply, self.data.numbers, self.data.target)


class Config(vf.TasksetConfig):
    num_tasks: int = 40
    seed: int = 0
    task: Knobs = Knobs()


class CountdownTaskset(vf.Taskset[Countdown, Config]):
    def load(self):
        rng = random.Random(self.config.seed)
        for _ in range(self.config.num_tasks):
            numbers = [rng.randint(1, 20) for _ in range(3)]
            target = numbers[0] * numbers[1] + numbers[2] if rng.random() < 0.3 else sum(numbers)
            prompt = f"{','.join(map(str, numbers))}={target}:"
            yield Countdown(Data(prompt=prompt, numbers=numbers, target=target), self.config.task)


__all__ = ["CountdownTaskset"]
