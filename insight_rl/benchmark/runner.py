"""Runs a benchmark through an engine, chunk by chunk, and skips the chunks that exist already."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from insight_rl.benchmark.benchmark import Benchmark
from insight_rl.benchmark.records import Record, to_record
from insight_rl.evaluation import Evaluator
from insight_rl.reward.base import Judge
from insight_rl.rollout.base import RolloutEngine
from insight_rl.seeding import derive_seed
from insight_rl.types import Prompt, Sampling


class Store(Protocol):
    """Records by the number of their chunk."""

    def has(self, number: int) -> bool: ...

    def read(self, number: int) -> list[Record]: ...

    def write(self, number: int, records: Sequence[Record]) -> None: ...


@dataclass(frozen=True, kw_only=True)
class BenchmarkRun:
    """A benchmark's problems, how they are sampled, and the size of the chunks."""

    name: str
    benchmark: Benchmark
    problems: Sequence[Prompt]
    sampling: Sampling
    chunk_size: int
    store: Store

    @property
    def num_chunks(self) -> int:
        return -(-len(self.problems) // self.chunk_size)

    def missing_chunks(self) -> list[int]:
        return [number for number in range(self.num_chunks) if not self.store.has(number)]

    def records(self) -> list[Record]:
        """The records of all problems, in order. Every chunk must exist."""
        return [record for number in range(self.num_chunks) for record in self.store.read(number)]

    def run(self, engine: RolloutEngine, judge: Judge, on_chunk: Callable[[int, Sequence[Record]], None]) -> None:
        """Make the missing chunks. The samples of a chunk do not depend on which other chunks exist."""
        for number in self.missing_chunks():
            problems = self.problems[number * self.chunk_size : (number + 1) * self.chunk_size]
            seed = self.sampling.seed if self.num_chunks == 1 else derive_seed(self.sampling.seed, "chunk", number)
            evaluator = Evaluator(problems=problems, sampling=dataclasses.replace(self.sampling, seed=seed))
            records = [to_record(group, self.benchmark) for group in evaluator.roll_out(engine, judge)]
            self.store.write(number, records)
            on_chunk(len(problems), records)
