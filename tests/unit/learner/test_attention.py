"""Kernels of attention against attention written out, and which of them is chosen."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, MistralConfig

from insight_rl.errors import UsageError
from insight_rl.learner import attention
from insight_rl.learner.attention import block_mask, check_attention, choose_kernel, packed_attention, packed_layout
from insight_rl.learner.batch import Parts

from .conftest import attend

CPU = torch.device("cpu")
LAYOUTS = {
    "rows": Parts(lengths=(3, 1, 5), prompts=(0, 1, 2)),
    "shared": Parts(lengths=(3, 1, 4, 2), prompts=(0, 0, 0, 3)),
    "shared twice": Parts(lengths=(2, 2, 2, 1, 3), prompts=(0, 0, 2, 2, 2)),
}


def dense_mask(parts: Parts) -> torch.Tensor:
    """Token by token, from the definition of parts."""
    part_of = np.repeat(np.arange(len(parts.lengths)), parts.lengths).tolist()
    rows = [
        [k <= q and part_of[k] in (part_of[q], parts.prompts[part_of[q]]) for k in range(len(part_of))]
        for q in range(len(part_of))
    ]
    return torch.tensor(rows)


def tensors(parts: Parts, num_key_heads: int) -> list[torch.Tensor]:
    torch.manual_seed(0)
    length = sum(parts.lengths)
    return [torch.randn(1, heads, length, 8, requires_grad=True) for heads in (4, num_key_heads, num_key_heads)]


@pytest.fixture
def kernels_for_gpus(monkeypatch):
    """Stand-ins of both packages with their names of arguments: attention part by part from the ends of the parts.

    Causal masks are aligned at the bottom right, as the original documents it.
    """

    def compute(query, key, value, ends_q, ends_k, max_q, max_k, scale):
        assert ends_q.dtype == ends_k.dtype == torch.int32
        assert (max_q, max_k) == (ends_q.diff().max(), ends_k.diff().max())
        outputs = []
        for part in range(len(ends_q) - 1):
            q, (k, v) = (
                query[ends_q[part] : ends_q[part + 1]],
                (t[ends_k[part] : ends_k[part + 1]] for t in (key, value)),
            )
            is_seen = torch.ones(len(q), len(k), dtype=torch.bool).tril(len(k) - len(q))
            outputs.append(attend(*(t.transpose(0, 1)[None] for t in (q, k, v)), is_seen, scale)[0].transpose(0, 1))
        return torch.cat(outputs)

    def flash_attn_varlen_func(q, k, v, cu_seqlens_q, cu_seqlens_k, max_q, max_k, *, softmax_scale, causal):
        assert causal
        return compute(q, k, v, cu_seqlens_q, cu_seqlens_k, max_q, max_k, softmax_scale)

    def varlen_attn(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size, enable_gqa):
        assert window_size == (-1, 0)
        assert enable_gqa == (q.shape[1] != k.shape[1])
        return compute(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, scale)

    package, torchs = types.ModuleType("flash_attn"), types.ModuleType("torch.nn.attention.varlen")
    package.flash_attn_varlen_func, torchs.varlen_attn = flash_attn_varlen_func, varlen_attn
    monkeypatch.setitem(sys.modules, "flash_attn", package)
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", torchs)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("num_key_heads", [4, 2])
@pytest.mark.parametrize("kernel", ["cpu", "flash_attn", "torch.nn.attention.varlen"])
def test_packed_attention_equals_attention_written_out(
    monkeypatch, kernels_for_gpus, layout, num_key_heads, kernel
) -> None:
    parts = LAYOUTS[layout]
    inputs = tensors(parts, num_key_heads)
    arguments = packed_layout(parts, "flash", CPU).arguments
    if kernel != "cpu":
        monkeypatch.setattr(attention, "_flash_package", lambda: kernel)
        monkeypatch.setattr(
            attention,
            "attend_in_batches",
            lambda q, k, v, lengths_q, lengths_k, scale: attention._flash_kernel()(
                q, k, v, arguments["query_ends"], arguments["key_ends"], max(lengths_q), max(lengths_k), scale
            ),
        )
    found, weights = packed_attention(torch.nn.Module(), *inputs, None, scaling=0.3, dropout=0.0, **arguments)
    expected = attend(*inputs, dense_mask(parts), 0.3).transpose(1, 2)
    assert weights is None
    assert torch.allclose(found, expected, atol=1e-6)
    slopes = torch.randn_like(expected)
    ours = torch.autograd.grad((found * slopes).sum(), inputs)
    theirs = torch.autograd.grad((expected * slopes).sum(), inputs)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_block_mask_shows_what_parts_say(layout) -> None:
    parts = LAYOUTS[layout]
    mask = block_mask(parts, CPU)
    size = torch.arange(sum(parts.lengths))
    assert torch.equal(mask.mask_mod(0, 0, size[:, None], size[None]), dense_mask(parts))


def test_a_block_mask_leaves_out_what_nobody_sees() -> None:
    """Four rows of three blocks each: a row's six blocks on and below its diagonal remain of 144."""
    mask = block_mask(Parts(lengths=(384,) * 4, prompts=(0, 1, 2, 3)), CPU)
    assert int(mask.kv_num_blocks.sum() + mask.full_kv_num_blocks.sum()) == 4 * 6


def test_flex_attention_itself_agrees_in_a_forward_pass() -> None:
    from torch.nn.attention.flex_attention import flex_attention

    parts = LAYOUTS["shared"]
    query, key, value = (tensor.detach() for tensor in tensors(parts, 2))
    found = flex_attention(query, key, value, block_mask=block_mask(parts, CPU), scale=0.3, enable_gqa=True)
    assert torch.allclose(found, attend(query, key, value, dense_mask(parts), 0.3), atol=1e-6)


@pytest.mark.parametrize(
    ("asked", "dtype", "has_gpu", "chosen"),
    [
        ("auto", "bfloat16", True, "flash"),
        ("auto", "float32", True, "sdpa"),
        ("auto", "bfloat16", False, "flash"),
        ("auto", "float32", False, "flash"),
        ("flash", "float32", False, "flash"),
        ("flex", "float32", True, "flex"),
        ("sdpa", "bfloat16", True, "sdpa"),
    ],
)
def test_which_kernel_is_chosen(asked, dtype, has_gpu, chosen) -> None:
    assert choose_kernel(asked, LlamaConfig(), dtype, has_gpu=has_gpu) == chosen


def test_sliding_windows_keep_their_padding() -> None:
    windows = MistralConfig(sliding_window=64)
    assert choose_kernel("auto", windows, "bfloat16", has_gpu=True) == "sdpa"
    assert choose_kernel("auto", windows, "float32", has_gpu=False) == "sdpa"
    with pytest.raises(UsageError, match=r"learner\.attention='flash': .*sliding windows.*mistral"):
        choose_kernel("flash", windows, "bfloat16", has_gpu=True)


def test_what_cannot_run_is_refused(monkeypatch) -> None:
    with pytest.raises(UsageError, match=r"learner\.attention='flex': needs a GPU"):
        check_attention("flex", has_gpu=False)
    with pytest.raises(UsageError, match=r"learner\.attention='flash': .*model\.dtype=float32"):
        choose_kernel("flash", LlamaConfig(), "float32", has_gpu=True)
    with pytest.raises(UsageError, match=r"learner\.attention='flash': Module changes the attention scores"):
        packed_attention(
            torch.nn.Module(),
            *tensors(LAYOUTS["rows"], 2),
            None,
            scaling=1.0,
            softcap=30.0,
            **packed_layout(LAYOUTS["rows"], "flash", CPU).arguments,
        )
    monkeypatch.setattr(attention, "_flash_package", lambda: None)
    with pytest.raises(UsageError, match="flash-attn"):
        check_attention("flash", has_gpu=True)
    check_attention("flash", has_gpu=False)
    assert choose_kernel("auto", LlamaConfig(), "bfloat16", has_gpu=True) == "sdpa"
