"""How much a step of the learner computes, counted from its batches, and how fast this machine could do it.

Only what the algorithm needs is counted: no padding, no pair of tokens that a mask hides, nothing that is computed a
second time to save memory. A prompt that several completions share counts once, because it is computed once.

Source: model FLOPs utilisation as in PaLM (arXiv 2204.02311, appendix B): 6 flops for each weight and token of a
training pass (2 forward, 4 backward) plus 12 for each attended pair of tokens and unit of attention width.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_PEAK_SECONDS = 0.1
_GEMM_SIZES = (256, 512, 1024, 2048, 4096, 8192)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What goes through the model in one pass.

    Example: a prompt of 3 tokens with a completion of 2, whose last is no input:
    ``Work(num_inputs=4, num_pairs=10, num_targets=2)``.
    """

    num_inputs: int = 0
    """Tokens that go through the layers."""
    num_pairs: int = 0
    """Pairs of tokens of which one sees the other, or itself."""
    num_targets: int = 0
    """Positions that go through the output head."""

    def __add__(self, other: Work) -> Work:
        return Work(
            num_inputs=self.num_inputs + other.num_inputs,
            num_pairs=self.num_pairs + other.num_pairs,
            num_targets=self.num_targets + other.num_targets,
        )

    @classmethod
    def of_row(cls, prompt_length: int, completion_lengths: list[int]) -> Work:
        """A prompt and the completions that share it, each seeing the prompt and itself only."""
        lengths = [length - 1 for length in completion_lengths]
        return cls(
            num_inputs=prompt_length + sum(lengths),
            num_pairs=_triangle(prompt_length) + sum(length * prompt_length + _triangle(length) for length in lengths),
            num_targets=sum(completion_lengths),
        )


def _triangle(length: int) -> int:
    return length * (length + 1) // 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """The sizes of a dense decoder that its flops depend on.

    Every expert of a mixture of experts would count as used, and every layer as attending to all that came before.
    """

    layer_weights: int
    """Entries of all matrices that a token is multiplied by, over all layers; embeddings and output head left out."""
    trained_weights: int
    """Those of them that are trained: fewer with adapters."""
    head_weights: int
    trained_head_weights: int
    attention_width: int
    """Heads times size of a head, summed over the layers."""

    @classmethod
    def of(cls, model: PreTrainedModel) -> ModelShape:
        from torch.nn import Linear

        head: Any = model.get_output_embeddings()
        layers = [m for m in model.modules() if isinstance(m, Linear) and m is not head]
        config: Any = model.config.get_text_config()
        heads = config.num_attention_heads
        head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
        return cls(
            layer_weights=sum(map(_size, layers)),
            trained_weights=sum(_size(layer) for layer in layers if layer.weight.requires_grad),
            head_weights=_size(head),
            trained_head_weights=_size(head) if head.weight.requires_grad else 0,
            attention_width=heads * head_size * config.num_hidden_layers,
        )

    def forward(self, work: Work) -> int:
        """Floating-point operations of a forward pass; a multiplication and an addition are two."""
        return (
            2 * self.layer_weights * work.num_inputs
            + 2 * self.head_weights * work.num_targets
            + 4 * self.attention_width * work.num_pairs
        )

    def training(self, work: Work) -> int:
        """The same with the backward pass: once more for the activations, and once for the weights that are trained."""
        weights = 2 * self.trained_weights * work.num_inputs + 2 * self.trained_head_weights * work.num_targets
        return 2 * self.forward(work) + 4 * self.attention_width * work.num_pairs + weights


def _size(linear: Any) -> int:
    # Not the parameter's own size: a sharded one has none.
    return int(linear.in_features * linear.out_features)


def measure_peak(device: torch.device, dtype: torch.dtype, *, budget_s: float = _PEAK_SECONDS) -> float:
    """Floating-point operations a second of this process in its best matrix product, measured for about ``budget_s``.

    Square matrices, larger ones as long as the time allows. With several ranks on one machine all measure at once, so
    each gets the share that it will have in training.
    """
    import torch

    best = 0.0
    end = time.perf_counter() + budget_s
    for size in _GEMM_SIZES:
        one = torch.randn(size, size, device=device).to(dtype)
        # The first product also starts threads and builds kernels.
        durations = [_seconds_of_product(one) for _ in range(3)]
        best = max(best, 2 * size**3 / min(durations))
        # The next size takes eight times as long.
        if time.perf_counter() + 3 * 8 * min(durations) > end:
            break
    return best


def _seconds_of_product(one: torch.Tensor) -> float:
    import torch

    began = time.perf_counter()
    torch.nn.functional.linear(one, one)
    if one.is_cuda:
        torch.cuda.synchronize(one.device)
    return time.perf_counter() - began
