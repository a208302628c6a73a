"""Loads and saves Hugging Face models for training."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from insight_rl.learner.attention import choose_kernel, implementation
from insight_rl.learner.settings import Attention, Kernel

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SHARD_BYTES = 4 * 2**30
_SIDE_FILES = (".json", ".txt", ".model", ".jinja", ".py", ".tiktoken")
NamedTensors = Iterable[tuple[str, torch.Tensor]]


def load_policy(
    model_path: Path, dtype: torch.dtype, *, gradient_checkpointing: bool, kernel: Kernel = "sdpa"
) -> PreTrainedModel:
    """The model at ``model_path``, without dropout, which would make the policy ratio random.

    So the model stays in eval mode, apart from layers that recompute (:func:`set_policy_mode`).
    """
    from transformers import AutoModelForCausalLM

    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        model_path, dtype=dtype, attn_implementation=implementation(kernel)
    )
    if gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    set_policy_mode(model)
    return model


def kernel_for(attention: Attention, model_path: Path, dtype: str) -> Kernel:
    """The attention kernel for a model that computes in ``dtype``; raises ``UsageError`` as ``choose_kernel`` does."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model_path)
    return choose_kernel(attention, config, dtype, has_gpu=torch.cuda.is_available())


def set_policy_mode(model: PreTrainedModel) -> None:
    """Eval mode, without dropout; layers with gradient checkpointing alone are in training mode.

    They recompute their activations only then. Whatever else sets the mode of the whole model (DeepSpeed does, as it
    starts) switches their checkpointing off without a word; call this afterwards.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    model.eval()
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer) and module.gradient_checkpointing:
            module.training = True


def trainable_parameters(model: PreTrainedModel) -> list[torch.nn.Parameter]:
    """What the optimizer gets: all of them, or with LoRA the adapter's."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def write_weights(named_tensors: NamedTensors, folder: Path) -> None:
    """A safetensors checkpoint of ``named_tensors``, in shards of ``SHARD_BYTES`` with an index."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, str] = {}
    shard: dict[str, torch.Tensor] = {}
    num_bytes = total = 0

    def flush() -> None:
        name = f"model-{len(set(files.values())):05d}.safetensors"
        save_file(shard, folder / name, metadata={"format": "pt"})
        files.update(dict.fromkeys(shard, name))
        shard.clear()

    for name, tensor in named_tensors:
        if shard and num_bytes + tensor.nbytes > SHARD_BYTES:
            flush()
            num_bytes = 0
        # The tensor is valid only until the next one is asked for.
        shard[name] = tensor.to("cpu", copy=True).contiguous()
        num_bytes += tensor.nbytes
        total += tensor.nbytes
    flush()
    index = {"metadata": {"total_size": total}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def save_merged(
    model: PreTrainedModel, named_tensors: NamedTensors, *, source: Path, folder: Path, dtype: torch.dtype
) -> None:
    """A Hugging Face folder of ``named_tensors``, which are all parameters of ``model`` under their own names."""
    state = {name: tensor.to("cpu", copy=True) for name, tensor in named_tensors}
    persistent = {name: buffer.cpu() for name, buffer in model.named_buffers() if name in model.state_dict()}
    save_pretrained(model, state | persistent, source=source, folder=folder, dtype=dtype)


def save_pretrained(
    model: PreTrainedModel, state: dict[str, torch.Tensor], *, source: Path, folder: Path, dtype: torch.dtype
) -> None:
    """A Hugging Face folder with ``state`` as its weights; tokenizer and the like are copied from ``source``."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in sorted(source.iterdir()):
        if file.is_file() and file.suffix in _SIDE_FILES and not file.name.endswith(".index.json"):
            shutil.copyfile(file, folder / file.name)
    model.save_pretrained(folder, state_dict=state)
    config_file = folder / "config.json"
    config = json.loads(config_file.read_text())
    # The model in hand may hold float32 master weights of a bfloat16 policy.
    config["dtype"] = str(dtype).removeprefix("torch.")
    config_file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
