"""The process in which completions are judged. :mod:`insight_rl.child_process` starts it with :func:`serve`.

Reads batches of jobs from the :class:`~insight_rl.reward.judge_processes.JudgeProcesses` that started it and writes one
line of JSON per job as soon as it is judged. Deadlines and order are kept by the parent. The worker ends when the
parent's end of the socket closes.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import resource
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np

from insight_rl.reward.base import RewardFn
from insight_rl.reward.judge import judge_one
from insight_rl.types import Completion, Prompt, Reward

MAX_JOBS = 50_000
"""After so many the worker asks to be replaced: the caches of symbolic algebra only grow."""
_MAX_REASON = 300


class PromptStub(NamedTuple):
    """What a reward may see of a prompt; the tokens stay behind."""

    id: str
    task: str
    text: str
    answer: Any
    metadata: dict[str, Any]

    def as_prompt(self) -> Prompt:
        return Prompt(token_ids=(), **self._asdict())


class CompletionStub(NamedTuple):
    """What a reward may see of a completion: its tokens are only counted."""

    text: str
    num_tokens: int
    finish_reason: str
    policy_version: int

    def as_completion(self) -> Completion:
        return Completion(
            token_ids=np.zeros(self.num_tokens, np.int32),
            logprobs=np.zeros(0, np.float32),
            text=self.text,
            finish_reason=self.finish_reason,
            policy_version=self.policy_version,
        )


class Setup(NamedTuple):
    """The first message."""

    reward: RewardFn
    max_memory_mb: int


def serve(fd: int) -> None:
    """Judge what comes in over the socket ``fd`` until the other end is closed."""
    connection = Connection(fd)
    try:
        setup = connection.recv()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (setup.max_memory_mb << 20,) * 2)
        for module in setup.reward.worker_modules:
            importlib.import_module(module)
    except EOFError:
        return
    except Exception as error:
        _write(fd, {"fatal": f"{type(error).__name__}: {error}"[:_MAX_REASON]})
        return
    _write(fd, {"ready": True})
    _judge_batches(connection, fd, setup.reward)


def _judge_batches(connection: Connection, fd: int, reward: RewardFn) -> None:
    num_jobs = 0
    threads = ThreadPoolExecutor(concurrency) if (concurrency := getattr(reward, "concurrency", 1)) > 1 else None
    while True:
        try:
            batch = connection.recv()
        except (EOFError, OSError):
            return
        judge = functools.partial(_judge, reward)
        judged = map(judge, batch) if threads is None else threads.map(judge, batch)
        for index, (result, is_out_of_memory, seconds) in enumerate(judged):
            num_jobs += 1
            is_spent = num_jobs >= MAX_JOBS and index == len(batch) - 1
            _write(
                fd,
                {
                    "value": result.value,
                    "success": result.success,
                    "status": result.status,
                    "parts": dict(result.parts),
                    "reason": result.reason[:_MAX_REASON],
                    "seconds": seconds,
                    "retire": is_out_of_memory or is_spent,
                },
            )
            if is_out_of_memory:
                return


def _judge(reward: RewardFn, job: tuple[PromptStub, CompletionStub]) -> tuple[Reward, bool, float]:
    """The reward, whether memory ran out, and the seconds it took."""
    start = time.perf_counter()
    prompt, completion = job
    result, is_out_of_memory = judge_one(reward, prompt.as_prompt(), completion.as_completion())
    return result, is_out_of_memory, time.perf_counter() - start


def _write(fd: int, message: dict[str, Any]) -> None:
    data = json.dumps(message).encode() + b"\n"
    while data:
        data = data[os.write(fd, data) :]
