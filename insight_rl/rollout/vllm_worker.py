"""What runs inside a rollout process: vLLM itself, driven by messages (:mod:`insight_rl.rollout.vllm_process`).

vLLM has a process of its own for two reasons. It sets global state wherever it runs (default process group, random
seeds, thread settings, logging), which the learner must not share. And ending the process is the one sure way to get
all of its memory back. Functions that are sent to vLLM's own worker processes must be importable, so they are in this
module too.
"""

from __future__ import annotations

import glob
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from insight_rl.child_process import Channel
from insight_rl.leftovers import remove_at_the_end
from insight_rl.process_table import family_of, shared_memory_of
from insight_rl.stored_arrays import AnyArray

_CPU_KV_CACHE_BYTES = 1 << 30
GPU_SHARE_COLOCATED, GPU_SHARE_SEPARATE = 0.4, 0.9
"""Of the memory of a GPU that the learner lives on too, and of one that vLLM has to itself."""
# vLLM's default on CPU is 128 tokens: prompts shorter than one block are then never shared between the rollouts.
_CPU_BLOCK_SIZE = 32
_ENGINE_IS_DEAD = "EngineDeadError"
"""What vLLM raises, whatever it is asked for, once its engine core has died."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One prompt and how to sample it, e.g. ``Request(token_ids=[5, 17], num_rollouts=8, seed=7, ...)``."""

    prompt_id: str
    """For messages to people."""
    token_ids: list[int]
    num_rollouts: int
    max_tokens: int
    temperature: float
    top_p: float
    seed: int
    stop_token_ids: list[int]

    @property
    def num_tokens(self) -> int:
        """Of its rollouts and their prompt at their longest: what it may take of the KV cache."""
        return len(self.token_ids) + self.num_rollouts * self.max_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One rollout: its tokens (int32) as vLLM sampled them, end-of-sequence included, and their log-probs (float32)."""

    token_ids: AnyArray
    logprobs: AnyArray
    finish_reason: str
    text: str | None = None
    """The tokens as text; ``None`` leaves that to the trainer."""


ALIVE = object()
"""Yielded by a method of the worker now and then during long work: nothing to report yet, but it is going on."""
_ALIVE_EVERY_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """What a worker tells of itself once its model is loaded."""

    device: str
    """vLLM's name for what it runs on, such as ``cpu`` or ``cuda``."""
    num_devices: int
    """On how many of them: vLLM's tensor times its pipeline parallel size."""
    num_cache_tokens: int
    """Tokens that its KV cache holds."""


class RefusedError(ValueError):
    """vLLM did not accept the settings; the message is vLLM's."""


def make_worker() -> _Worker:
    """What runs in a worker, not yet started."""
    return _Worker()


class Worker(Protocol):
    """What :func:`serve_worker` needs of a worker besides the methods that messages name."""

    @property
    def is_generating(self) -> bool: ...

    def step(self) -> Iterator[Any]: ...

    def shut_down(self) -> None: ...


def serve(file_descriptor: int) -> None:
    """See :func:`serve_worker`."""
    serve_worker(make_worker(), file_descriptor)


def serve_worker(worker: Worker, file_descriptor: int) -> None:
    """Answer the messages that come in over the socket until it is closed: the trainer has ended, or wants no more.

    Each message is ``(method, arguments)``. Answers: any number of ``("item", value)``, then one of ``("done", None)``,
    ``("refused", text)`` and ``("failed", traceback)``. While requests are at work, further items come between the
    messages: their samples; and now and then ``("alive", None)``. If sampling fails, that is one more ``"failed"``.
    """
    channel = Channel.from_fd(file_descriptor)
    exit_code = 1
    try:
        while True:
            for answer in next_answers(worker, channel):
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


def next_answers(worker: Worker, channel: Channel) -> Iterator[tuple[str, Any]]:
    """Do one thing and yield what there is to answer: a message if one has come or nothing is at work, else sample."""
    if worker.is_generating and not channel.has_message():
        return _answers(worker.step)
    method, arguments = channel.receive()
    return _answers(getattr(worker, method), arguments, end=("done", None))


def _answers(
    method: Callable[..., Iterator[Any]], arguments: Mapping[str, Any] = {}, *, end: tuple[str, Any] | None = None
) -> Iterator[tuple[str, Any]]:
    """What :func:`serve_worker` answers. Errors of the socket are not caught here: they are raised outside."""
    try:
        for item in method(**arguments):
            yield ("alive", None) if item is ALIVE else ("item", item)
        if end is not None:
            yield end
    except RefusedError as error:
        yield "refused", str(error)
    except Exception as error:  # whatever vLLM raises is for the trainer to report
        if type(error).__name__ == _ENGINE_IS_DEAD:
            raise  # nothing more can come of this process: it ends, so that another takes its place
        yield "failed", traceback.format_exc()


class VersionedWorker:
    """A worker that is told which version its weights are, after they have arrived."""

    _version: int | None = 0
    """Of the weights; ``None`` from the moment they change until the new version is told."""

    def set_version(self, *, version: int) -> Iterator[None]:
        """Tell which version the weights are that have arrived; completions carry it from now on."""
        if self._version is not None:
            raise RuntimeError(f"no weights have arrived since version {self._version}, so they are not {version}")
        self._version = version
        yield from ()


class _Worker(VersionedWorker):
    """The methods that messages name; each is a generator of the items it answers with."""

    def __init__(self) -> None:
        self._llm: Any = None
        self._at_work: dict[str, tuple[int, Request, int]] = {}
        """Key, request and the version that it was begun with, by vLLM's name for it."""
        self._is_paused = False
        self._last_sign = 0.0
        self._adapter: Any = None
        """vLLM's ``LoRARequest`` of every request, once an adapter has come."""
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
        shares_gpu: bool,
        transfer_backend: str | None,
        engine_args: dict[str, Any],
    ) -> Iterator[Started]:
        """Load the model."""
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
            share = GPU_SHARE_COLOCATED if shares_gpu else GPU_SHARE_SEPARATE
            settings |= {"enable_sleep_mode": sleep, "gpu_memory_utilization": share}
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
        config = self._llm.llm_engine.vllm_config
        if config.parallel_config.world_size > 1:
            _remove_shared_memory_at_the_end()
        yield Started(
            device=current_platform.device_type,
            num_devices=config.parallel_config.world_size,
            num_cache_tokens=config.cache_config.num_gpu_blocks * config.cache_config.block_size,
        )

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

    @property
    def is_generating(self) -> bool:
        return bool(self._at_work) and not self._is_paused

    def generate(self, *, requests: Mapping[int, Request]) -> Iterator[None]:
        """Take ``requests`` in addition to those at work; their samples come from :meth:`step`, under their keys."""
        from vllm.inputs import TokensPrompt

        if self._is_half_updated:
            raise RuntimeError(
                "a weight update has begun and not ended: some of these weights are new and some are old"
            )
        if self._version is None:
            raise RuntimeError("the version of the weights that have arrived has not been told")
        self._wake("weights", "kv_cache")
        self._last_sign = time.monotonic()
        for key, request in requests.items():
            self._llm.llm_engine.add_request(
                str(key),
                TokensPrompt(prompt_token_ids=request.token_ids),
                _sampling_params(request),
                lora_request=self._adapter,
            )
            self._at_work[str(key)] = (key, request, self._version)
        yield from ()

    def step(self) -> Iterator[Any]:
        """Sample one token of every rollout at work.

        Yields ``(key, samples, version of the weights)`` for each request that is finished by it, and :data:`ALIVE`.
        The version is that of its beginning; after a :meth:`pause` its later tokens may be of newer weights.
        """
        engine = self._llm.llm_engine
        try:
            for output in engine.step():
                if output.finished:
                    key, request, version = self._at_work.pop(output.request_id)
                    yield key, _samples(output, request), version
            if self._at_work and not engine.has_unfinished_requests():
                raise RuntimeError(f"vLLM ended without an answer to {len(self._at_work)} requests")
        except BaseException:
            # Not again: whoever hears of it decides what becomes of this worker.
            self._at_work.clear()
            raise
        if time.monotonic() - self._last_sign > _ALIVE_EVERY_S:
            self._last_sign = time.monotonic()
            yield ALIVE

    def abort(self) -> Iterator[None]:
        """Drop the requests at work."""
        if self._at_work:
            self._llm.llm_engine.abort_request(list(self._at_work))
            self._at_work.clear()
        yield from ()

    def pause(self) -> Iterator[None]:
        """Sample no further until :meth:`resume`; what is at work is kept."""
        if not self._is_paused:
            # At level 0 only the scheduler sleeps: the same as pause_generation of vLLM's asynchronous engine.
            self._llm.sleep(level=0, mode="keep")
            self._is_paused = True
        yield from ()

    def resume(self) -> Iterator[None]:
        if self._is_paused:
            self._llm.wake_up(tags=["scheduling"])
            self._is_paused = False
            self._last_sign = time.monotonic()
        yield from ()

    def sleep(self) -> Iterator[None]:
        """Give the GPU's memory back: weights wait in host memory, the cache is dropped. No effect if it cannot."""
        parts = {"weights", "kv_cache"}
        if self._can_sleep and self._sleeping_parts != parts:
            self._llm.sleep(level=1)
            self._sleeping_parts = parts
        yield from ()

    def reload(self, *, folder: str) -> Iterator[None]:
        """Load the safetensors checkpoint in ``folder`` in place."""
        self._wake("weights")
        self._llm.collective_rpc("reload_weights", kwargs={"weights_path": folder})
        self._after_update()
        yield from ()

    def load_adapter(self, *, folder: str) -> Iterator[None]:
        """Take the LoRA adapter in ``folder`` in place of the one before; the folder is not needed afterwards."""
        from vllm.lora.request import LoRARequest

        self._wake("weights")
        name, number = "policy", 1
        if not self._llm.llm_engine.add_lora(LoRARequest(name, number, folder, load_inplace=True)):
            raise RuntimeError("vLLM did not load the adapter")
        # Requests name what is there, they do not load it.
        self._adapter = LoRARequest(name, number, folder)
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
        self._version = None
        if self._is_cpu:
            self._llm.apply_model(pack_embeddings)
        # Only now: a prefix computed with the old weights must not outlive them. What is at work has its own computed
        # again, with the new weights, before it goes on.
        if not self._llm.reset_prefix_cache(reset_running_requests=self._is_paused):
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


def _remove_shared_memory_at_the_end() -> None:
    """vLLM's own processes remove the buffers of their collectives only at an orderly end.

    On CPUs with AVX-512 these are files in /dev/shm, named ``vllm_dist_...``; all its processes have them open by now.
    """
    for pid in family_of(os.getpid()):
        for path in shared_memory_of(pid):
            if path.name.startswith("vllm_dist_"):
                remove_at_the_end(glob.escape(str(path)))


def _samples(output: Any, request: Request) -> tuple[Sample, ...]:
    samples = tuple(_sample(completion) for completion in output.outputs)
    return samples * request.num_rollouts if request.temperature == 0 else samples


def _sample(completion: Any) -> Sample:
    flat = completion.logprobs
    # With logprobs=0 vLLM reports the sampled token of each position and no other. Arrays would compare slower.
    assert list(completion.token_ids) == list(flat.token_ids)
    if completion.finish_reason not in ("stop", "length"):
        raise RuntimeError(f"vLLM ended a completion with finish_reason={completion.finish_reason!r}")
    logprobs = np.array(flat.logprobs, dtype=np.float32)
    token_ids = np.array(completion.token_ids, dtype=np.int32)
    return Sample(token_ids=token_ids, logprobs=logprobs, finish_reason=completion.finish_reason)
