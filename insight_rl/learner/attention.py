"""Attention over the rows of a micro-batch: which kernel runs it, and who sees whom.

==========  ==================================================  ======================================================
kernel      rows                                                shared prompts
==========  ==================================================  ======================================================
``sdpa``    padded to equal length, causal attention            under a dense mask, on a CPU only
``flash``   end to end in one line, flash attention with the    the prompt's keys and values go before those of each
            lengths of the parts; on a CPU parts of like        of its completions
            length together
``flex``    end to end in one line, FlexAttention under a       by the same block mask
            block mask; GPUs only, it has no backward on a CPU
==========  ==================================================  ======================================================

``auto`` is ``flash`` on a CPU and where the model computes in bfloat16 on a GPU; else, and for models with sliding
windows, it is ``sdpa``. The kernels for GPUs have not yet run on one.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from insight_rl.errors import UsageError, check
from insight_rl.learner.batch import Parts
from insight_rl.learner.packed_on_cpu import attend_in_batches
from insight_rl.learner.settings import Attention, Kernel

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask
    from transformers import PretrainedConfig

PACKED = "insight_rl_packed"
"""Name of :func:`packed_attention` among transformers' attention functions."""

_IMPLEMENTATIONS: dict[Kernel, str] = {"sdpa": "sdpa", "flash": PACKED, "flex": "flex_attention"}


def check_attention(attention: Attention, *, has_gpu: bool) -> None:
    """Raises ``UsageError`` for a kernel that this machine does not have."""
    check(
        attention != "flex" or has_gpu,
        "learner.attention",
        attention,
        "needs a GPU, FlexAttention has no backward pass on a CPU; take auto, sdpa or flash",
    )
    check(
        attention != "flash" or not has_gpu or _flash_package() is not None,
        "learner.attention",
        attention,
        "needs torch 2.10 or later, or `pip install flash-attn --no-build-isolation`; or take flex or sdpa",
    )


def choose_kernel(attention: Attention, config: PretrainedConfig, dtype: str, *, has_gpu: bool) -> Kernel:
    """The kernel for a model that computes in ``dtype``.

    Raises ``UsageError`` where the one that is asked for cannot run it.
    """
    is_full = attends_fully(config)
    if attention == "auto":
        has_kernel = dtype == "bfloat16" and _flash_package() is not None if has_gpu else _takes_functions(config)
        return "flash" if is_full and has_kernel else "sdpa"
    check(
        is_full or attention == "sdpa",
        "learner.attention",
        attention,
        f"packs rows, which models with sliding windows or chunks ({config.model_type}) do not allow; take sdpa",
    )
    check(
        attention != "flash" or not has_gpu or dtype == "bfloat16",
        "learner.attention",
        attention,
        f"computes in half precision on a GPU, but model.dtype={dtype}; take flex, sdpa or model.dtype=bfloat16",
    )
    return attention


def _takes_functions(config: PretrainedConfig) -> bool:
    """Whether transformers' code of this architecture asks the table of attention functions."""
    from transformers import AutoModelForCausalLM

    architecture = AutoModelForCausalLM._model_mapping.get(type(config), None)
    return bool(getattr(architecture, "_supports_attention_backend", False))


def implementation(kernel: Kernel) -> str:
    """Transformers' name of it, for ``attn_implementation``."""
    if kernel == "flash":
        from transformers import AttentionInterface

        AttentionInterface.register(PACKED, packed_attention)
    return _IMPLEMENTATIONS[kernel]


def attends_fully(config: PretrainedConfig) -> bool:
    """Whether every layer attends to all that came before, as a given attention mask can express."""
    layer_types = getattr(config, "layer_types", None) or []
    return getattr(config, "sliding_window", None) is None and all(kind == "full_attention" for kind in layer_types)


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedLayout:
    """What the kernels need to know about packed rows, on the device."""

    arguments: dict[str, Any]
    """Of :func:`packed_attention`."""
    block_mask: BlockMask | None
    """For FlexAttention."""


def packed_layout(parts: Parts, kernel: Kernel, device: torch.device) -> PackedLayout:
    """The layout of ``parts`` for ``flash`` or ``flex``."""
    if kernel == "flex":
        return PackedLayout(arguments={}, block_mask=block_mask(parts, device))

    def boundaries(lengths: Sequence[int]) -> torch.Tensor:
        return torch.from_numpy(np.cumsum((0, *lengths), dtype=np.int32)).to(device, non_blocking=True)

    is_shared = parts.key_lengths != parts.lengths
    key_index = torch.from_numpy(parts.keys).to(device, non_blocking=True) if is_shared else None
    return PackedLayout(
        arguments={
            "query_lengths": parts.lengths,
            "key_lengths": parts.key_lengths,
            "query_ends": boundaries(parts.lengths),
            "key_ends": boundaries(parts.key_lengths),
            "key_index": key_index,
        },
        block_mask=None,
    )


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    query_lengths: tuple[int, ...],
    key_lengths: tuple[int, ...],
    query_ends: torch.Tensor,
    key_ends: torch.Tensor,
    key_index: torch.Tensor | None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each part of a line, its prompt before it: called by transformers' layers.

    ``query`` is (1, heads, T, head size), ``key`` and ``value`` have the same or fewer heads. The last token of a part
    sees all its keys (the mask is aligned at the bottom right). Returns (1, T, heads, head size).
    """
    if softcap is not None or s_aux is not None:
        raise UsageError(
            f"learner.attention='flash': {type(module).__name__} changes the attention scores, which it does not "
            "know; take learner.attention=sdpa"
        )
    # Under autocast only the values come straight from a matrix product, in its precision.
    query_T, key_T, value_T = (tensor[0].to(value.dtype).transpose(0, 1) for tensor in (query, key, value))
    if key_index is not None:
        key_T, value_T = key_T.index_select(0, key_index), value_T.index_select(0, key_index)
    if query.device.type == "cpu":
        output_T = attend_in_batches(query_T, key_T, value_T, query_lengths, key_lengths, scaling)
    else:
        attend = _flash_kernel()
        output_T = attend(query_T, key_T, value_T, query_ends, key_ends, max(query_lengths), max(key_lengths), scaling)
    return output_T[None], None


_FlashKernel = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, int, int, float], torch.Tensor
]


@functools.cache
def _flash_package() -> str | None:
    """The module that has flash attention over lengths: the original where it is installed, else torch's copy."""
    if importlib.util.find_spec("flash_attn") is not None:
        return "flash_attn"
    varlen = "torch.nn.attention.varlen"
    return varlen if importlib.util.find_spec(varlen) is not None else None


def _flash_kernel() -> _FlashKernel:
    name = _flash_package()
    assert name is not None, "looked for when the settings were checked"
    package = importlib.import_module(name)
    if name == "flash_attn":
        return lambda q, k, v, ends_q, ends_k, most_q, most_k, scale: package.flash_attn_varlen_func(
            q, k, v, ends_q, ends_k, most_q, most_k, softmax_scale=scale, causal=True
        )
    return lambda q, k, v, ends_q, ends_k, most_q, most_k, scale: package.varlen_attn(
        q, k, v, ends_q, ends_k, most_q, most_k, scale=scale, window_size=(-1, 0), enable_gqa=q.shape[1] != k.shape[1]
    )


def block_mask(parts: Parts, device: torch.device) -> BlockMask:
    """Who sees whom, for FlexAttention; no tensor of T x T is made on a GPU."""
    from torch.nn.attention.flex_attention import create_block_mask

    part_T = torch.from_numpy(np.repeat(np.arange(len(parts.lengths)), parts.lengths)).to(device)
    prompt_T = torch.from_numpy(np.repeat(np.array(parts.prompts), parts.lengths)).to(device)

    def is_seen(_: torch.Tensor, __: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        is_own = (part_T[key] == part_T[query]) | (part_T[key] == prompt_T[query])
        return (key <= query) & is_own

    length = len(part_T)
    # Compiled, the mask is looked at block by block instead of whole.
    return create_block_mask(is_seen, None, None, length, length, device=device, _compile=device.type != "cpu")


def sharing_mask(segments: torch.Tensor) -> torch.Tensor:
    """Which token sees which in padded rows that share a prompt: bool (B, 1, L, L), from segments (B, L).

    A token sees what stands before it in the prompt and in its own completion. Padding sees itself, because
    the softmax of nothing is not defined.
    """
    length = segments.shape[1]
    is_before = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    seen = segments[:, None, :]
    return (is_before & ((seen == 0) | (seen == segments[:, :, None])))[:, None]
