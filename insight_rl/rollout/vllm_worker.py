"""What runs inside the rollout process: vLLM itself, driven by messages from :mod:`insight_rl.rollout.vllm`.

vLLM has a process of its own for two reasons. It sets global state wherever it runs (default process group, random
seeds, thread settings, logging), which the learner must not share. And ending the process is the one sure way to get
all of its memory back. Functions that are sent to vLLM's own worker processes must be importable, so they are in this
module too.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from insight_rl.child_process import Channel

_CPU_KV_CACHE_BYTES = 1 << 30
# The learner lives on the same GPU; vLLM would take nine tenths of it.
_GPU_MEMORY_SHARE = 0.4
# vLLM's default on CPU is 128 tokens: prompts shorter than one block are then never shared between the rollouts.
_CPU_BLOCK_SIZE = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One prompt and how to sample it, e.g. ``Request(token_ids=[5, 17], num_rollouts=8, seed=7, ...)``."""

    token_ids: list[int]
    num_rollouts: int
    max_tokens: int
    temperature: float
    top_p: float
    seed: int
    stop_token_ids: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One rollout: its tokens (int32) as vLLM sampled them, end-of-sequence included, and their log-probs (float32)."""

    token_ids: np.ndarray
    logprobs: np.ndarray
    finish_reason: str


ALIVE = object()
"""Yielded by a method of the worker now and then during long work: nothing to report yet, but it is going on."""
_ALIVE_EVERY_S = 2.0


class RefusedError(ValueError):
    """vLLM did not accept the settings; the message is vLLM's."""


def serve(file_descriptor: int) -> None:
    """Answer the requests that come in over the socket until it is closed: the trainer has ended, or wants no more.

    Each message is ``(method, arguments)``. Answers: any number of ``("item", value)`` and ``("alive", None)``, then
    one of ``("done", None)``, ``("refused", text)`` and ``("failed", traceback)``.
    """
    channel = Channel.from_fd(file_descriptor)
    worker = _Worker()
    exit_code = 1
    try:
        while True:
            method, arguments = channel.receive()
            for answer in _answers(worker, method, arguments):
                channel.send(answer)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        exit_code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        worker.shut_down()
        sys.stderr.flush()
        # Without the interpreter's teardown, which takes seconds with vLLM loaded and frees nothing that matters.
        os._exit(exit_code)


def _answers(worker: _Worker, method: str, arguments: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """What :func:`serve` answers to one message. Errors of the socket are not caught here: they are raised outside."""
    try:
        for item in getattr(worker, method)(**arguments):
            yield ("alive", None) if item is ALIVE else ("item", item)
        yield "done", None
    except RefusedError as error:
        yield "refused", str(error)
    except Exception:  # whatever vLLM raises is for the trainer to report
        yield "failed", traceback.format_exc()


class _Worker:
    """The methods that messages name; each is a generator of the items it answers with."""

    def __init__(self) -> None:
        self._llm: Any = None
        self._sleeping_parts: set[str] = set()
        self._can_sleep = False
        self._is_half_updated = False
        self._is_cpu = False

    def start(
        self,
        *,
        model_path: str,
        dtype: str,
        max_length: int,
        seed: int,
        sleep: bool,
        transfer_backend: str | None,
        engine_args: dict[str, Any],
    ) -> Iterator[tuple[str, int]]:
        """Load the model and yield vLLM's name for the kind of device it runs on, and on how many of them it does."""
        from vllm.platforms import current_platform

        settings: dict[str, Any] = {
            "model": model_path,
            "skip_tokenizer_init": True,
            "dtype": dtype,
            "max_model_len": max_length,
            "seed": seed % 2**31,
            "enable_prefix_caching": True,
            "logprobs_mode": "processed_logprobs",
            "disable_log_stats": True,
        }
        self._is_cpu = current_platform.is_cpu()
        if self._is_cpu:
            if sleep:
                raise RefusedError("rollout.sleep=True: vLLM cannot sleep on the CPU backend; leave it at false")
            settings |= {"enforce_eager": True, "block_size": _CPU_BLOCK_SIZE}
            # A prompt cut in two makes vLLM rewind its request's generator, which torch's CPU generators cannot do.
            settings["enable_chunked_prefill"] = False
            if not os.environ.get("VLLM_CPU_KVCACHE_SPACE"):
                settings["kv_cache_memory_bytes"] = _CPU_KV_CACHE_BYTES
        else:
            settings |= {"enable_sleep_mode": sleep, "gpu_memory_utilization": _GPU_MEMORY_SHARE}
            if transfer_backend is not None:
                settings["weight_transfer_config"] = {"backend": transfer_backend}
        settings |= engine_args
        if self._is_cpu:
            self._prepare_cpu(eager=settings["enforce_eager"])
        from vllm import LLM

        try:
            self._llm = LLM(**settings)
        except (TypeError, ValueError) as error:
            raise RefusedError(str(error)) from error
        self._can_sleep = sleep
        yield current_platform.device_type, self._llm.llm_engine.vllm_config.parallel_config.world_size

    @staticmethod
    def _prepare_cpu(*, eager: bool) -> None:
        # One process is enough here and starts in a third of the time; vLLM would make two more.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        if eager:
            # Even in eager mode the sampler compiles two functions: 10 s and a C++ compiler to save microseconds.
            import torch._dynamo

            torch._dynamo.config.disable = True
            # For the processes that vLLM starts, where it does.
            os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")

    def generate(self, *, requests: list[Request]) -> Iterator[Any]:
        """Yield ``(index of the request, its samples)`` in the order in which they finish, and :data:`ALIVE`."""
        from vllm.inputs import TokensPrompt

        if self._is_half_updated:
            raise RuntimeError(
                "a weight update has begun and not ended: some of these weights are new and some are old"
            )
        self._wake("weights", "kv_cache")
        engine = self._llm.llm_engine
        unfinished = {str(index): request for index, request in enumerate(requests)}
        try:
            for request_id, request in unfinished.items():
                engine.add_request(
                    request_id, TokensPrompt(prompt_token_ids=request.token_ids), _sampling_params(request)
                )
            last_sign = time.monotonic()
            while engine.has_unfinished_requests():
                if time.monotonic() - last_sign > _ALIVE_EVERY_S:
                    last_sign = time.monotonic()
                    yield ALIVE
                for output in engine.step():
                    if output.finished:
                        request = unfinished.pop(output.request_id)
                        yield int(output.request_id), _samples(output, request)
            if unfinished:
                raise RuntimeError(f"vLLM ended without an answer to {len(unfinished)} of {len(requests)} requests")
        finally:
            if unfinished:
                engine.abort_request(list(unfinished))
        if self._can_sleep:
            self._llm.sleep(level=1)
            self._sleeping_parts = {"weights", "kv_cache"}

    def reload(self, *, folder: str) -> Iterator[None]:
        """Load the safetensors checkpoint in ``folder`` in place."""
        self._wake("weights")
        self._llm.collective_rpc("reload_weights", kwargs={"weights_path": folder})
        self._after_update()
        yield from ()

    def transfer(self, *, method: str, argument: dict[str, Any] | None) -> Iterator[None]:
        """One call of vLLM's weight transfer API: init_weight_transfer_engine, start/update/finish_weight_update."""
        self._wake("weights")
        self._is_half_updated |= method == "start_weight_update"
        getattr(self._llm, method)(*(() if argument is None else (argument,)))
        if method == "finish_weight_update":
            self._is_half_updated = False
            self._after_update()
        yield from ()

    def _after_update(self) -> None:
        if self._is_cpu:
            self._llm.apply_model(pack_embeddings)
        # Only now: a prefix computed with the old weights must not outlive them.
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("vLLM did not drop its cached prefixes after the weight update")

    def _wake(self, *parts: str) -> None:
        asleep = [part for part in parts if part in self._sleeping_parts]
        if asleep:
            self._llm.wake_up(tags=asleep)
            self._sleeping_parts -= set(asleep)

    def shut_down(self) -> None:
        if self._llm is not None:
            self._llm.llm_engine.engine_core.shutdown()


def pack_embeddings(model: Any) -> None:
    """Make the CPU backend's packed copies of the embeddings follow their weights.

    On CPU vLLM multiplies by a packed copy of each matrix. ``reload_weights`` packs what it loads; a tied ``lm_head``
    is not in the checkpoint, so its copy keeps the old embedding, without a word. Runs in vLLM's workers.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod

    for module in model.modules():
        method = getattr(module, "quant_method", None)
        if isinstance(method, UnquantizedEmbeddingMethod):
            method.process_weights_after_loading(module)


def _sampling_params(request: Request) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    greedy = request.temperature == 0
    return SamplingParams(
        # Greedy rollouts of one prompt are one and the same, and vLLM refuses to make several.
        n=1 if greedy else request.num_rollouts,
        temperature=request.temperature,
        top_p=1.0 if greedy else request.top_p,
        # vLLM seeds rollout j of a request with seed + j.
        seed=request.seed,
        max_tokens=request.max_tokens,
        # The one list of end-of-sequence ids is the trainer's; vLLM would add the tokenizer's.
        ignore_eos=True,
        stop_token_ids=request.stop_token_ids,
        logprobs=0,
        flat_logprobs=True,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _samples(output: Any, request: Request) -> tuple[Sample, ...]:
    samples = tuple(_sample(completion) for completion in output.outputs)
    return samples * request.num_rollouts if request.temperature == 0 else samples


def _sample(completion: Any) -> Sample:
    flat = completion.logprobs
    token_ids = np.array(completion.token_ids, dtype=np.int32)
    # With logprobs=0 vLLM reports the sampled token of each position and no other.
    assert np.array_equal(token_ids, flat.token_ids)
    if completion.finish_reason not in ("stop", "length"):
        raise RuntimeError(f"vLLM ended a completion with finish_reason={completion.finish_reason!r}")
    logprobs = np.array(flat.logprobs, dtype=np.float32)
    return Sample(token_ids=token_ids, logprobs=logprobs, finish_reason=completion.finish_reason)
