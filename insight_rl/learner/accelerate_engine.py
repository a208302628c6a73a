"""One rank of training through Hugging Face Accelerate: data parallel, mixed precision over float32 weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from insight_rl.learner.engine import Scorer
from insight_rl.learner.logprobs import TokenScorer
from insight_rl.learner.lora import adapter_tensors, add_adapter, describe_weights, merged_tensors, reference_scorer
from insight_rl.learner.models import kernel_for, load_policy, set_policy_mode, trainable_parameters
from insight_rl.learner.settings import LearnerSettings, StartSpec
from insight_rl.learner.shards import Fragment, whole_fragments
from insight_rl.weight_sync.base import TensorInfo


class AccelerateEngine:
    """See :class:`~insight_rl.learner.engine.TrainEngine`. The ranks hold equal copies of model and optimizer."""

    def __init__(self, settings: LearnerSettings) -> None:
        self._settings = settings

    def start(self, spec: StartSpec) -> None:
        self._spec = spec
        self.dtype = getattr(torch, spec.dtype)
        precision = "bf16" if self.dtype == torch.bfloat16 else "no"
        # The state is shared by all accelerators of a process and outlives them; it refuses a second precision.
        if AcceleratorState._shared_state.get("_mixed_precision", precision) != precision:
            AcceleratorState._reset_state()
        self._accelerator = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision=precision)
        self.device = self._accelerator.device
        self.rank = self._accelerator.process_index
        self.kernel = kernel_for(self._settings.attention, spec.model_path, spec.dtype)
        # AdamW at lr 1e-6 is lost in the 8 bits of bfloat16: what is trained stays float32, only computing is halved.
        self.model = load_policy(
            spec.model_path,
            torch.float32 if self._settings.adapter is None else self.dtype,
            gradient_checkpointing=self._settings.gradient_checkpointing,
            kernel=self.kernel,
        ).to(self.device)
        if self._settings.adapter is not None:
            add_adapter(self.model, self._settings.adapter, seed=spec.seed, dtype=torch.float32)
            set_policy_mode(self.model)
        self._scorer = TokenScorer(self.model, temperature=spec.temperature, settings=self._settings)
        optimizer = torch.optim.AdamW(trainable_parameters(self.model), **self._settings.adamw(), fused=True)
        self._wrapped, self._optimizer = self._accelerator.prepare(self._scorer, optimizer)

    @property
    def settings(self) -> LearnerSettings:
        return self._settings

    @property
    def scorer(self) -> Scorer:
        return cast("Scorer", self._wrapped)

    def set_calls_head(self, calls_head: bool) -> None:
        self._scorer.calls_head = calls_head

    def load_reference(self) -> Scorer:
        if self._settings.adapter is not None:
            return reference_scorer(self.scorer, self.model)
        # Never updated, so it needs no float32 weights.
        model = load_policy(self._spec.model_path, self.dtype, gradient_checkpointing=False, kernel=self.kernel)
        model = model.requires_grad_(False).to(self.device)
        scorer = TokenScorer(model, temperature=self._spec.temperature, settings=self._settings)
        return cast("Scorer", self._accelerator.prepare_model(scorer, evaluation_mode=True))

    def accumulating(self, *, is_last: bool) -> AbstractContextManager[Any]:
        if is_last:
            return nullcontext()
        return cast("AbstractContextManager[Any]", self._accelerator.no_sync(self._wrapped))

    def backward(self, loss: torch.Tensor) -> None:
        # Data parallelism takes the mean over ranks; the loss is a sum whose weights already count all of them.
        self._accelerator.backward(loss * self._accelerator.num_processes)

    def update(self, lr: float) -> float:
        limit = self._settings.max_grad_norm
        norm = self._accelerator.clip_grad_norm_(self.model.parameters(), float("inf") if limit is None else limit)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.step()
        self._optimizer.zero_grad()
        return float(norm)

    def describe(self) -> list[TensorInfo]:
        return describe_weights(self.model, self.dtype)

    def named_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in merged_tensors(self.model, nullcontext):
            yield name, tensor.to(self.dtype)

    def adapter_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        return adapter_tensors(self.model, nullcontext)

    def fragments(self, *, owned: bool) -> list[Fragment]:
        trained = ((name, each) for name, each in self.model.named_parameters() if each.requires_grad)
        share = (self.rank, self._accelerator.num_processes) if owned else (0, 1)
        return list(whole_fragments(trained, self._optimizer.optimizer, share=share))

    def take_over_fragments(self) -> None:
        """They are the parameters themselves."""

    def close(self) -> None:
        self._accelerator.free_memory()
        if torch.distributed.is_initialized() and self._accelerator.num_processes > 1:
            torch.distributed.destroy_process_group()
