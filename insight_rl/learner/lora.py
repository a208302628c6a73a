"""LoRA through peft: a low-rank adapter beside frozen weights, the model without it, and the weights with it merged.

peft replaces each linear layer that is adapted in place. So the model stays what transformers made of it: its decoder,
head and names of modules are where they were, and only the weights of adapted layers are found one level deeper.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from insight_rl.errors import check
from insight_rl.learner.engine import Scorer
from insight_rl.learner.settings import ALL_LINEAR, LoraSettings
from insight_rl.weight_sync.base import TensorInfo

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Gather = Callable[[list[torch.nn.Parameter]], AbstractContextManager[Any]]
"""Makes sharded parameters whole for the length of a context; collective."""

ADAPTER_FOLDER = "adapter"
"""Of a run, beside ``model``."""

GATHER_BYTES = 256 << 20
"""Sharded weights are gathered this much at a time: one operation for many small tensors, which cost mostly latency."""

# peft's name for an adapter that has no other; our models have one.
_NAME = "default"


def add_adapter(model: PreTrainedModel, lora: LoraSettings, *, seed: int, dtype: torch.dtype) -> None:
    """Freeze the weights of ``model`` and put an adapter of ``dtype`` beside them that changes nothing yet (B is 0).

    A is drawn from ``seed`` alone. Raises ``UsageError`` as :func:`check_targets`.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=_targets(model, lora),
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        # It would make every adapter float32, which DeepSpeed refuses beside weights in bfloat16.
        get_peft_model(model, config, autocast_adapter_dtype=False)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)


def check_targets(model_path: Path, lora: LoraSettings) -> None:
    """Raise ``UsageError`` for a name in ``lora.target_modules`` that the model has not; reads its config alone."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model_path))
    _targets(model, lora)


def _targets(model: PreTrainedModel, lora: LoraSettings) -> list[str]:
    """Last parts of the names of the layers to adapt, e.g. ``["q_proj", "v_proj"]``."""
    head = model.get_output_embeddings()
    linear = [
        name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and module is not head
    ]
    known = sorted({name.rpartition(".")[2] for name in linear})
    if lora.target_modules == ALL_LINEAR:
        check(bool(known), "learner.lora.target_modules", ALL_LINEAR, "this model has no linear layers to adapt")
        return known
    for target in lora.target_modules:
        check(
            any(name == target or name.endswith(f".{target}") for name in linear),
            "learner.lora.target_modules",
            list(lora.target_modules),
            f"{target} is no linear layer of this model; there are {', '.join(known)} (embeddings and output head, "
            "which may be one matrix, are left as they are)",
        )
    return list(lora.target_modules)


@contextmanager
def _without_adapter(model: PreTrainedModel) -> Iterator[None]:
    layers = [layer for _, layer in _adapted_layers(model)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def reference_scorer(scorer: Scorer, model: PreTrainedModel) -> Scorer:
    """``scorer`` of the model with its adapter switched off, which is the model that training started from."""

    def score(**inputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        with _without_adapter(model):
            return scorer(**inputs)

    return score


def describe_weights(model: PreTrainedModel, dtype: torch.dtype) -> list[TensorInfo]:
    """What :func:`merged_tensors` yields, converted to ``dtype``; nothing is gathered."""
    # A parameter that DeepSpeed has sharded is empty between its uses, and knows its whole shape.
    shapes = {part.name: getattr(part.parameter, "ds_shape", part.parameter.shape) for part in _merged_parts(model)}
    return [TensorInfo(name=name, dtype=dtype, shape=tuple(shape)) for name, shape in shapes.items()]


def merged_tensors(
    model: PreTrainedModel, gather: Gather, *, bucket_bytes: int = GATHER_BYTES
) -> Iterator[tuple[str, torch.Tensor]]:
    """Every parameter, whole, under its Hugging Face name, a tied one once; with adapters W + scale * B @ A.

    Whoever keeps one longer than until the next is asked for keeps the memory of its bucket. A sum is float32, since
    what the adapter adds is often below the precision of bfloat16. Without an adapter these are the model's own
    parameters. Collective; about ``bucket_bytes`` are gathered at a time, in one collective operation.
    """
    for bucket in _in_buckets(_merged_parts(model), bucket_bytes):
        with gather([parameter for part in bucket for parameter in part.needs]):
            for part in bucket:
                tensor = part.parameter.detach()
                if part.factors:
                    up, down = (factor.detach().float() for factor in part.factors)
                    tensor = tensor.float() + part.scale * (up @ down)
                yield part.name, tensor


@dataclass(frozen=True, slots=True)
class _Part:
    """One of the merged weights: the model's parameter, and B and A of its adapter if it has one."""

    name: str
    parameter: torch.nn.Parameter
    factors: tuple[torch.nn.Parameter, ...] = ()
    scale: float = 1.0

    @property
    def needs(self) -> tuple[torch.nn.Parameter, ...]:
        return (self.parameter, *self.factors)

    @property
    def num_bytes(self) -> int:
        return sum(getattr(each, "ds_numel", each.numel()) * each.element_size() for each in self.needs)


def _merged_parts(model: PreTrainedModel) -> Iterator[_Part]:
    layers = dict(_adapted_layers(model))
    for name, parameter in model.named_parameters():
        if _is_adapter(name):
            continue
        owner, is_wrapped, rest = name.partition(".base_layer.")
        merged_name = f"{owner}.{rest}" if is_wrapped else name
        if rest != "weight":
            yield _Part(merged_name, parameter)
            continue
        layer = layers[owner]
        factors = (layer.lora_B[_NAME].weight, layer.lora_A[_NAME].weight)
        yield _Part(merged_name, parameter, factors, layer.scaling[_NAME])


def _in_buckets(parts: Iterable[_Part], limit_bytes: int) -> Iterator[list[_Part]]:
    """The parts in their order, as many at a time as have ``limit_bytes`` when gathered; at least one."""
    bucket: list[_Part] = []
    num_bytes = 0
    for part in parts:
        if bucket and num_bytes + part.num_bytes > limit_bytes:
            yield bucket
            bucket, num_bytes = [], 0
        bucket.append(part)
        num_bytes += part.num_bytes
    if bucket:
        yield bucket


def describe_adapter(model: PreTrainedModel) -> list[TensorInfo]:
    """What :func:`adapter_tensors` yields; nothing is gathered."""
    return [
        TensorInfo(name=_peft_name(name), dtype=each.dtype, shape=tuple(getattr(each, "ds_shape", each.shape)))
        for name, each in model.named_parameters()
        if _is_adapter(name)
    ]


def adapter_tensors(model: PreTrainedModel, gather: Gather) -> Iterator[tuple[str, torch.Tensor]]:
    """The adapter's parameters, whole, under the names that they have in peft's files. Collective."""
    for name, parameter in model.named_parameters():
        if _is_adapter(name):
            with gather([parameter]):
                yield _peft_name(name), parameter.detach()


def write_adapter(
    model: PreTrainedModel, named_tensors: Iterable[tuple[str, torch.Tensor]], folder: Path, *, base: Path
) -> None:
    """The folder that ``PeftModel.from_pretrained`` and vLLM load; ``base`` is the model that it belongs to."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    config: Any = model.peft_config[_NAME]
    was = config.inference_mode, config.base_model_name_or_path
    config.inference_mode, config.base_model_name_or_path = True, str(base)
    config.save_pretrained(folder)
    config.inference_mode, config.base_model_name_or_path = was
    tensors = {name: tensor.to("cpu", copy=True).contiguous() for name, tensor in named_tensors}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def has_adapter(model: PreTrainedModel) -> bool:
    return next(_adapted_layers(model), None) is not None


def _adapted_layers(model: PreTrainedModel) -> Iterator[tuple[str, Any]]:
    from peft.tuners.lora import LoraLayer

    return ((name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer))


def _peft_name(name: str) -> str:
    """Of an adapter's parameter, in peft's files."""
    return f"base_model.model.{name.replace(f'.{_NAME}.', '.')}"


def _is_adapter(name: str) -> bool:
    return ".lora_A." in name or ".lora_B." in name
