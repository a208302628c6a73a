"""The output head: log-prob and entropy of chosen tokens, without ever holding the logits of all tokens.

The logits of a chunk of tokens are computed, reduced to two numbers per token and dropped. The backward pass computes
them again, all but those of the last chunk, which are still there. Nothing of their size is made a second time: a
block of rows at a time goes through the softmax, and the gradient is written over the logits.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import itertools
import math
import re
from collections.abc import Iterator
from typing import Any

import torch

from insight_rl.errors import check
from insight_rl.learner.settings import HeadDtype, HeadKernel, LearnerSettings

LIGER_VERSION = (0, 8, 5)
"""The lowest release whose gradient of each token's own loss was read and found right."""

LOGITS_PER_CHUNK = 2**27
"""At most as many logits exist at a time: 512 MiB in float32, 256 MiB in bfloat16."""

_LOGITS_PER_BLOCK = {"cpu": 2**18, "cuda": 2**24}
"""Logits that are worked on at a time in float32: few enough for a processor's cache, enough for a GPU's threads."""


class SelectedLogprobs(torch.nn.Module):
    """Log-prob and entropy of a target at each of N hidden states, through an output head that is a plain matrix.

    A module of its own, so that what shards the weights (ZeRO-3) can gather the head's before it runs, once for all
    chunks, and once more for their gradients.

    Example::

        SelectedLogprobs(temperature=1.0)(hidden_N_h, targets_N, model.get_output_embeddings())
    """

    def __init__(self, *, temperature: float, head_dtype: HeadDtype = "auto", kernel: HeadKernel = "chunked") -> None:
        super().__init__()
        self.temperature = temperature
        self.head_dtype = head_dtype
        self.kernel = kernel

    def forward(
        self, hidden_N_h: torch.Tensor, targets_N: torch.Tensor, head: torch.nn.Linear
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-prob (nats, after temperature) and entropy (nats, no gradient; NaN with Liger); both (N,), float32.

        ``hidden_N_h`` is (N, h), ``targets_N`` int64 (N,).
        """
        dtype = self._dtype(hidden_N_h, head)
        if self.kernel == "liger":
            return _liger_logprobs(hidden_N_h, head, targets_N, self.temperature, dtype)
        # Autocast would choose the precision of each product anew.
        with torch.autocast(hidden_N_h.device.type, enabled=False):
            logprobs_N, entropies_N = _Head.apply(
                hidden_N_h, head.weight, head.bias, targets_N, self.temperature, dtype
            )
        return logprobs_N, entropies_N

    def _dtype(self, hidden_N_h: torch.Tensor, head: torch.nn.Linear) -> torch.dtype:
        """Of the product of hidden states and weights: the head's own, or float32 where the settings ask for it."""
        if head.weight.dtype == torch.float64:
            return torch.float64
        if self.head_dtype == "float32":
            return torch.float32
        device = hidden_N_h.device.type
        return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else head.weight.dtype


class _Head(torch.autograd.Function):
    """``(logprobs, entropies) = _Head.apply(hidden_N_h, weight_V_h, bias_V, targets_N, temperature, dtype)``."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_N_h: torch.Tensor,
        weight_V_h: torch.Tensor,
        bias_V: torch.Tensor | None,
        targets_N: torch.Tensor,
        temperature: float,
        dtype: torch.dtype,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        weight, bias = weight_V_h.to(dtype), None if bias_V is None else bias_V.to(dtype)
        results = [(hidden_N_h.new_zeros(0, dtype=torch.float32),) * 3]
        logits: torch.Tensor | None = None
        for rows in _chunks(len(targets_N), len(weight_V_h)):
            logits = None  # gone before the next chunk's are made
            logits = _logits(hidden_N_h[rows].to(dtype), weight, bias)
            results.append(_reduce(logits, targets_N[rows], temperature))
        logprobs_N, lse_N, entropies_N = map(torch.cat, zip(*results, strict=True))
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(hidden_N_h, weight_V_h, bias_V, targets_N, lse_N)
            ctx.temperature, ctx.dtype = temperature, dtype
            ctx.last_logits = logits
        entropies_N = entropies_N.float()
        ctx.mark_non_differentiable(entropies_N)
        return logprobs_N.float(), entropies_N

    @staticmethod
    def backward(ctx: Any, slopes_N: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden_N_h, weight_V_h, bias_V, targets_N, lse_N = ctx.saved_tensors
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        weight, bias = weight_V_h.to(ctx.dtype), None if bias_V is None else bias_V.to(ctx.dtype)
        slopes_N = slopes_N.to(lse_N.dtype)
        # Written over below, so they serve once.
        logits, ctx.last_logits = ctx.last_logits, None
        to_hidden = torch.empty_like(hidden_N_h) if needs_hidden else None
        to_weight = torch.zeros_like(weight) if needs_weight else None
        to_bias = torch.zeros_like(bias_V) if needs_bias else None
        with torch.autocast(hidden_N_h.device.type, enabled=False):
            # The last chunk first: its logits are at hand.
            for rows in reversed(list(_chunks(len(targets_N), len(weight)))):
                hidden = hidden_N_h[rows].to(ctx.dtype)
                logits = _logits(hidden, weight, bias) if logits is None else logits
                _to_gradient(logits, targets_N[rows], lse_N[rows], slopes_N[rows], ctx.temperature)
                if to_hidden is not None:
                    to_hidden[rows] = (logits @ weight).to(to_hidden.dtype)
                if to_weight is not None:
                    torch.addmm(to_weight, logits.T, hidden, out=to_weight)
                if to_bias is not None:
                    to_bias += logits.sum(0)
                logits = None
        return (
            to_hidden,
            None if to_weight is None else to_weight.to(weight_V_h.dtype),
            to_bias,
            None,
            None,
            None,
        )


def _chunks(num_tokens: int, vocab_size: int) -> Iterator[slice]:
    """Of equal size but for one token, each of at most ``LOGITS_PER_CHUNK`` logits."""
    count = -(-num_tokens // max(1, LOGITS_PER_CHUNK // vocab_size))
    ends = [num_tokens * number // count for number in range(count + 1)] if count else []
    return (slice(start, end) for start, end in itertools.pairwise(ends))


def _logits(hidden_n_h: torch.Tensor, weight_V_h: torch.Tensor, bias_V: torch.Tensor | None) -> torch.Tensor:
    """(n, V), before temperature, in the precision of the product."""
    logits = hidden_n_h @ weight_V_h.T
    return logits if bias_V is None else logits.add_(bias_V)


def _reduce(
    logits_n_V: torch.Tensor, targets_n: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-prob, logarithm of the sum of exponentials and entropy of each row, after temperature."""
    wide = torch.promote_types(logits_n_V.dtype, torch.float32)  # the softmax is never in half precision
    logprobs_n = torch.empty(len(targets_n), dtype=wide, device=logits_n_V.device)
    lse_n, entropies_n = torch.empty_like(logprobs_n), torch.empty_like(logprobs_n)
    for rows in _blocks(logits_n_V):
        block = logits_n_V[rows].to(wide, copy=True).div_(temperature)
        top = block.amax(1, keepdim=True)
        block -= top
        chosen = block.gather(1, targets_n[rows, None]).squeeze(1)
        exponentials = block.exp()
        total = exponentials.sum(1)
        log_total = total.log()
        logprobs_n[rows] = chosen - log_total
        lse_n[rows] = log_total + top.squeeze(1)
        # log p is block - log_total; a logit of -inf counts 0 and makes no NaN.
        entropies_n[rows] = log_total - exponentials.mul_(block.clamp_(min=-1e30)).sum(1) / total
    return logprobs_n, lse_n, entropies_n


def _to_gradient(
    logits_n_V: torch.Tensor, targets_n: torch.Tensor, lse_n: torch.Tensor, slopes_n: torch.Tensor, temperature: float
) -> None:
    """Write slope x (one at the target - probability) / temperature over the logits."""
    slopes_n = slopes_n / temperature
    for rows in _blocks(logits_n_V):
        block = logits_n_V[rows].to(lse_n.dtype)  # of float32 no copy
        block.div_(temperature).sub_(lse_n[rows, None]).exp_().mul_(-slopes_n[rows, None])
        block.scatter_add_(1, targets_n[rows, None], slopes_n[rows, None])
        logits_n_V[rows] = block


def _blocks(logits_n_V: torch.Tensor) -> Iterator[slice]:
    most = _LOGITS_PER_BLOCK["cpu" if logits_n_V.device.type == "cpu" else "cuda"]
    size = max(1, most // logits_n_V.shape[1])
    return (slice(start, start + size) for start in range(0, len(logits_n_V), size))


def _liger_logprobs(
    hidden_N_h: torch.Tensor, head: torch.nn.Linear, targets_N: torch.Tensor, temperature: float, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """By Liger's fused linear cross entropy, which is the negative log-prob; it knows no entropy."""
    functional = importlib.import_module("liger_kernel.transformers.functional")
    bias: torch.Tensor | None = head.bias
    if temperature != 1.0:
        hidden_N_h = hidden_N_h.float() / temperature
        bias = None if bias is None else bias / temperature
    with torch.autocast(hidden_N_h.device.type, enabled=False):
        losses_N = functional.liger_fused_linear_cross_entropy(
            hidden_N_h.to(dtype),
            head.weight.to(dtype),
            targets_N,
            bias=None if bias is None else bias.to(dtype),
            reduction="none",
            accum_dtype=torch.float32,
        )
    logprobs_N = -losses_N.float()
    return logprobs_N, torch.full_like(logprobs_N, math.nan).detach()


def check_head(kernel: HeadKernel, *, has_gpu: bool) -> None:
    """Raises ``UsageError`` for a kernel that this machine does not have."""
    if kernel == "liger":
        check(has_gpu, "learner.head", kernel, "needs a GPU, its kernels are Triton's; take chunked")
        needed = ".".join(map(str, LIGER_VERSION))
        check(
            _liger_version() >= LIGER_VERSION,
            "learner.head",
            kernel,
            f"needs `pip install 'liger-kernel>={needed}'`; or take chunked",
        )


def _liger_version() -> tuple[int, ...]:
    try:
        version = importlib.metadata.version("liger-kernel")
    except importlib.metadata.PackageNotFoundError:
        return ()
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def check_plain_head(is_plain: bool, settings: LearnerSettings) -> None:
    """Raises ``UsageError`` where the settings ask more of a model's output head than it allows."""
    for key, value, default in (("head", settings.head, "chunked"), ("head_dtype", settings.head_dtype, "auto")):
        check(
            is_plain or value == default,
            f"learner.{key}",
            value,
            f"this model does more to its logits than multiply by a matrix; take {default}",
        )
