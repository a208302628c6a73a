"""A Hugging Face folder from a learner's part of a checkpoint: on one CPU, whatever ranks or library wrote it."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import torch

from insight_rl.errors import check
from insight_rl.learner.learner_state import LearnerState
from insight_rl.learner.lora import adapter_tensors, add_adapter, merged_tensors, write_adapter
from insight_rl.learner.models import load_policy, save_merged
from insight_rl.learner.settings import LoraSettings
from insight_rl.learner.shards import read_weights
from insight_rl.model_folder import fingerprint


def export_model(part: Path, folder: Path, *, model_path: Path, dtype: str, merge: bool) -> None:
    """Write to ``folder`` the model whose training ``part`` holds; ``model_path`` is what the training started from.

    With LoRA the merged model, or without ``merge`` the adapter alone; both as a run writes them at its end. Raises
    ``UsageError`` for a damaged part, and for another model at ``model_path``.
    """
    state = LearnerState.read(part)
    lora = LoraSettings.from_config(state.lora)
    check(
        merge or lora is not None,
        "adapter",
        "separate",
        "this run has no adapter: it trained the whole model (learner.lora.rank=null); leave the key out",
    )
    kept = getattr(torch, dtype)
    # What is trained is float32; what lies beside an adapter is as the run had it.
    model = load_policy(model_path, torch.float32 if lora is None else kept, gradient_checkpointing=False)
    if lora is not None:
        check(
            fingerprint(model_path) == state.base,
            "model.path",
            str(model_path),
            "is another model than the one that this adapter was trained beside; give that one",
        )
        add_adapter(model, lora, seed=0, dtype=torch.float32)
    read_weights(part, {name: each for name, each in model.named_parameters() if each.requires_grad})
    if merge:
        save_merged(
            model,
            ((name, tensor.to(kept)) for name, tensor in merged_tensors(model, nullcontext)),
            source=model_path,
            folder=folder,
            dtype=kept,
        )
    else:
        write_adapter(model, adapter_tensors(model, nullcontext), folder, base=model_path)
