"""One rank of training through DeepSpeed, called directly: ZeRO stages 0 to 3, CPU offload, bfloat16.

DeepSpeed compiles small C++ extensions at first use, so a C++ compiler must be installed.
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import deepspeed
import torch
from deepspeed.runtime import compiler
from transformers.integrations.deepspeed import HfDeepSpeedConfig

from insight_rl.learner.build_locks import wait_for_build_locks
from insight_rl.learner.engine import Scorer
from insight_rl.learner.logprobs import TokenScorer
from insight_rl.learner.lora import adapter_tensors, add_adapter, describe_weights, merged_tensors, reference_scorer
from insight_rl.learner.models import kernel_for, load_policy, set_policy_mode, trainable_parameters
from insight_rl.learner.settings import DeepSpeedSettings, StartSpec
from insight_rl.learner.shards import MOMENTS, WEIGHT, Fragment, adamw_state, whole_fragments
from insight_rl.nested import merged
from insight_rl.weight_sync.base import TensorInfo
from insight_rl.weight_sync.memory_folder import check_shared_memory

_MUON = "deepspeed.runtime.zero.muon.muon_optimizer"

# DeepSpeed calls collectives by their old names, once a bucket.
warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")


def _gather_head(scorer: TokenScorer) -> None:
    """Have ZeRO-3 gather the output head's weights where they are used, which is outside the head's own module."""
    for parameter in scorer.model.get_output_embeddings().parameters():
        deepspeed.zero.register_external_parameter(scorer.head, parameter)


def _import_muon_uncompiled() -> None:
    """DeepSpeed imports its Muon optimizer whichever it is given, and that module compiles three functions.

    They are not called here, and to import torch's compiler for them takes each rank three seconds at its start.
    """
    original = compiler.compile
    compiler.compile = lambda: compiler.dummy_decorator
    try:
        importlib.import_module(_MUON)
    finally:
        compiler.compile = original


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where a piece of a parameter lies in one of ZeRO's flat tensors."""

    begin: int
    """Of the piece in the parameter."""
    flat: torch.Tensor
    start: int
    """Of the piece in ``flat``."""
    size: int


class DeepSpeedEngine:
    """See :class:`~insight_rl.learner.engine.TrainEngine`."""

    def __init__(self, settings: DeepSpeedSettings) -> None:
        self._settings = settings

    def start(self, spec: StartSpec) -> None:
        self._spec = spec
        self.dtype = getattr(torch, spec.dtype)
        has_gpu = torch.cuda.is_available()
        self.device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if has_gpu else torch.device("cpu")
        if has_gpu:
            torch.cuda.set_device(self.device)
        elif int(os.environ["WORLD_SIZE"]) > 1:
            # Its sums over ranks on a CPU go through files there; without them the ranks would wait for each other.
            check_shared_memory("learner=deepspeed", "DeepSpeed")
        wait_for_build_locks()
        deepspeed.init_distributed(dist_backend="nccl" if has_gpu else "gloo", verbose=False)
        self.rank = torch.distributed.get_rank()
        self._num_ranks = torch.distributed.get_world_size()
        config = self._config()
        # While this object lives, transformers shards a ZeRO-3 model as it loads it.
        self._loading = HfDeepSpeedConfig(config) if self._settings.zero_stage == 3 else None
        # Stage 0 keeps no float32 copy of bfloat16 weights and sums their gradients in bfloat16: there what is trained
        # stays in float32 and only computing is halved.
        trained_dtype = torch.float32 if self._settings.zero_stage == 0 else self.dtype
        self.kernel = kernel_for(self._settings.attention, spec.model_path, spec.dtype)
        self.model = load_policy(
            spec.model_path,
            trained_dtype if self._settings.adapter is None else self.dtype,
            gradient_checkpointing=self._settings.gradient_checkpointing,
            kernel=self.kernel,
        )
        if self._settings.adapter is not None:
            add_adapter(self.model, self._settings.adapter, seed=spec.seed, dtype=trained_dtype)
        self._scorer = TokenScorer(self.model, temperature=spec.temperature, settings=self._settings)
        if self._settings.zero_stage == 3:
            _gather_head(self._scorer)
        _import_muon_uncompiled()
        self._engine, *_ = deepspeed.initialize(model=self._scorer, optimizer=self._optimizer(), config=config)
        stage = self._engine.zero_optimization_stage()
        assert isinstance(self._engine, deepspeed.DeepSpeedEngine), type(self._engine)
        wanted = self._settings.zero_stage
        assert stage == wanted, f"asked DeepSpeed for ZeRO stage {wanted}, got {stage}"
        # DeepSpeed sets the mode of every module as it starts.
        self._engine.eval()
        set_policy_mode(self.model)

    def _optimizer(self) -> torch.optim.Optimizer:
        arguments, parameters = self._settings.adamw(), trainable_parameters(self.model)
        if self._settings.offload == "cpu" and self.device.type == "cuda":
            return deepspeed.ops.adam.DeepSpeedCPUAdam(parameters, adamw_mode=True, **arguments)
        # Without `fused` torch takes a path on GPUs that makes another copy of the weights.
        return torch.optim.AdamW(parameters, **arguments, fused=True)

    def _config(self) -> dict[str, Any]:
        zero: dict[str, Any] = {"stage": self._settings.zero_stage}
        if self._settings.offload == "cpu":
            zero["offload_optimizer"] = {"device": "cpu"}
            if self._settings.zero_stage == 3:
                zero["offload_param"] = {"device": "cpu"}
        is_half = self.dtype == torch.bfloat16
        ours = {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "gradient_clipping": self._settings.max_grad_norm or 0.0,
            "bf16": {"enabled": is_half and self._settings.zero_stage > 0},
            "torch_autocast": {"enabled": is_half and self._settings.zero_stage == 0, "dtype": "bfloat16"},
            "data_types": {"grad_accum_dtype": "fp32"},
            "zero_optimization": zero,
            "zero_force_ds_cpu_optimizer": False,
            "steps_per_print": 2**31,
        }
        return merged(ours, self._settings.deepspeed)

    @property
    def settings(self) -> DeepSpeedSettings:
        return self._settings

    @property
    def scorer(self) -> Scorer:
        return cast("Scorer", self._engine)

    def set_calls_head(self, calls_head: bool) -> None:
        self._scorer.calls_head = calls_head

    def load_reference(self) -> Scorer:
        if self._settings.adapter is not None:
            return reference_scorer(self.scorer, self.model)
        model = load_policy(self._spec.model_path, self.dtype, gradient_checkpointing=False, kernel=self.kernel)
        scorer = TokenScorer(model.requires_grad_(False), temperature=self._spec.temperature, settings=self._settings)
        if self._settings.zero_stage < 3:
            return cast("Scorer", scorer.to(self.device))
        config = self._config()
        config["zero_optimization"].pop("offload_optimizer", None)
        _gather_head(scorer)
        engine, *_ = deepspeed.initialize(model=scorer, config=config)
        engine.eval()
        return cast("Scorer", engine)

    def accumulating(self, *, is_last: bool) -> AbstractContextManager[Any]:
        self._engine.set_gradient_accumulation_boundary(is_last)
        return nullcontext()

    def backward(self, loss: torch.Tensor) -> None:
        # DeepSpeed takes the mean over ranks; the loss is a sum whose weights already count all of them.
        self._engine.backward(loss * self._num_ranks, scale_wrt_gas=False)

    def update(self, lr: float) -> float:
        for group in self._engine.optimizer.param_groups:
            group["lr"] = lr
        # Without its own optimizer (stage 0 in float32) DeepSpeed measures no norm; its gradients are then whole.
        own_norm = torch.nn.utils.get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])
        self._engine.step()
        norm = self._engine.get_global_grad_norm()
        norm = float(own_norm if norm is None else norm)
        # DeepSpeed writes -1 for a norm that is not finite.
        return norm if norm >= 0 else float("nan")

    def describe(self) -> list[TensorInfo]:
        return describe_weights(self.model, self.dtype)

    def named_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in merged_tensors(self.model, self._gather):
            yield name, tensor.to(self.dtype)

    def adapter_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        return adapter_tensors(self.model, self._gather)

    def _gather(self, parameters: list[torch.nn.Parameter]) -> AbstractContextManager[Any]:
        # A part at a time: the whole model may not fit on a device, and gathers must not be nested.
        return deepspeed.zero.GatheredParameters(parameters, enabled=self._settings.zero_stage == 3)

    def fragments(self, *, owned: bool) -> list[Fragment]:
        trained = ((name, each) for name, each in self.model.named_parameters() if each.requires_grad)
        if self._settings.zero_stage == 0:
            share = (self.rank, self._num_ranks) if owned else (0, 1)
            return list(whole_fragments(trained, self._engine.optimizer, share=share))
        place_of = self._place_in_stage_3 if self._settings.zero_stage == 3 else self._place_in_stage_1_or_2
        fragments = []
        for name, parameter in trained:
            place = place_of(parameter)
            if place is not None and place.size > 0:
                size = getattr(parameter, "ds_numel", parameter.numel())
                fragments.append(self._fragment(name, size, place))
        return fragments

    def _place_in_stage_1_or_2(self, parameter: Any) -> _Place | None:
        found = parameter._hp_mapping
        if found is None:  # all of it lies with other ranks
            return None
        (flat,) = self._engine.optimizer.optimizer.param_groups[found.param_group_index]["params"]
        there, here = found.lp_fragment_address, found.hp_fragment_address
        return _Place(begin=there.start, flat=flat, start=here.start, size=here.numel)

    def _place_in_stage_3(self, parameter: Any) -> _Place:
        zero = self._engine.optimizer
        # DeepSpeed's public functions copy to the GPU what is offloaded.
        group, start, _ = zero.grad_position[zero.get_param_id(parameter)]
        # The pieces of the last ranks are padding in part, or all of it.
        begin = self.rank * parameter.ds_tensor.ds_numel
        size = min(parameter.ds_tensor.ds_numel, parameter.ds_numel - begin)
        return _Place(begin=begin, flat=zero.fp32_partitioned_groups_flat[group], start=start, size=size)

    def _fragment(self, name: str, num_elements: int, place: _Place) -> Fragment:
        state = adamw_state(self._engine.optimizer.optimizer, place.flat)
        tensors = {WEIGHT: place.flat, **{moment: state[moment] for moment in MOMENTS}}
        pieces = {kind: tensor.detach().narrow(0, place.start, place.size) for kind, tensor in tensors.items()}
        return Fragment(name=name, num_elements=num_elements, start=place.begin, tensors=pieces, state=state)

    def take_over_fragments(self) -> None:
        zero = self._engine.optimizer
        if self._settings.zero_stage in (1, 2):
            zero.update_lp_params()
        elif self._settings.zero_stage == 3:
            # As after a step of the optimizer.
            zero.checkpoint_event_prologue()
            for group in range(len(zero.fp32_partitioned_groups_flat)):
                zero._reassign_or_swap_out_partitioned_parameters(group)
            zero.checkpoint_event_epilogue()

    def close(self) -> None:
        self._engine.destroy()
        torch.distributed.destroy_process_group()
