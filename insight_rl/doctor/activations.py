"""Bytes that the learner keeps between forward and backward pass, and what its output head holds.

Counted by hand, tensor by tensor, for a decoder of the Llama kind under attention that keeps queries, keys, values,
output and one number per head and token (flash attention, and torch's own on a CPU). A test compares every figure with
what torch's saved-tensor hooks see when the learner's own model runs. Other architectures get the same formula, as an
approximation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from insight_rl.doctor.shapes import ModelShape

Precision = Literal["bfloat16", "float32", "autocast"]
"""``autocast``: float32 weights, matrices multiplied in bfloat16."""

LOGITS_PER_CHUNK = 2**27
LOGITS_PER_BLOCK = 2**24
"""As in :mod:`insight_rl.learner.head`, which imports torch; a test compares them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Activations:
    """Bytes for one micro-batch of ``tokens``."""

    kept: int
    """From forward to backward: of all layers, or their inputs and one layer's worth with gradient checkpointing."""
    head: int
    """Of the output head: hidden states of completion tokens, logits, its blocks, and the gradient of its weight."""
    temporary: int
    """Of the backward pass through one layer: gradients of what the layer kept."""
    weight_copies: int
    """bfloat16 copies of float32 weights."""


def count_activations(
    shape: ModelShape,
    *,
    tokens: int,
    completion_tokens: int,
    precision: Precision,
    gradient_checkpointing: bool,
    head_dtype: str = "auto",
    adapter_rank: int | None = None,
    num_parameters: int,
) -> Activations:
    """``tokens`` of prompts and completions together, padding included; ``completion_tokens`` go through the head.

    ``adapter_rank``: of a LoRA adapter on all matrices of a layer, whose own weights are frozen; one on fewer matrices
    keeps less than this.
    """
    stream = 2 if precision == "bfloat16" else 4
    matmul = 4 if precision == "float32" else 2
    layer = layer_bytes(shape, precision, adapter_rank=adapter_rank) * tokens
    kept = base_bytes(shape, precision) * tokens
    if gradient_checkpointing:
        kept += stream * shape.hidden_size * tokens * shape.num_layers + layer
    else:
        kept += layer * shape.num_layers
    head = head_bytes(
        shape,
        completion_tokens,
        precision=precision,
        head_dtype=head_dtype,
        trains_weight=adapter_rank is None,
    )
    temporary = matmul * (3 * shape.intermediate_size + 4 * shape.hidden_size) * tokens
    copies = 2 * num_parameters if precision == "autocast" else 0
    return Activations(kept=kept, head=head, temporary=temporary, weight_copies=copies)


def layer_bytes(shape: ModelShape, precision: Precision, *, adapter_rank: int | None = None) -> int:
    """What one decoder layer keeps of one token."""
    matmul = 4 if precision == "float32" else 2
    queries, keys = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    # The two norms: their input in float32, the normalised value, and the input of the matrices behind them, which
    # autocast converts once for each of the five.
    norms = {"bfloat16": 2 * (4 + 2 + 2), "float32": 2 * (4 + 4 + 4), "autocast": 2 * (4 + 4) + 2 * 5}[precision]
    kept = norms * shape.hidden_size + 2 * 4
    kept += matmul * (2 * queries + 2 * keys) + 4 * shape.num_heads  # q, k, v, attention's output; its log-sum-exp
    kept += matmul * 4 * shape.intermediate_size  # gate, its SiLU, up, and their product
    if shape.has_head_norms:
        normalised = 4 if precision == "float32" else 2
        kept += (4 + normalised) * (queries + keys) + 4 * (shape.num_heads + shape.num_kv_heads)
    if adapter_rank is not None:
        # A frozen norm needs no normalised value; an adapted matrix keeps what is between A and B.
        normed = 4 if precision == "float32" else 2
        kept -= normed * (2 * shape.hidden_size + (queries + keys if shape.has_head_norms else 0))
        kept += matmul * adapter_rank * len(shape.layer_matrices())
    return kept


def base_bytes(shape: ModelShape, precision: Precision) -> int:
    """What is kept of one token outside the layers: its id, its rotation, the last norm and its output."""
    stream = 2 if precision == "bfloat16" else 4
    return 8 + 2 * stream * shape.head_dim + (4 + stream) * shape.hidden_size + 4


def head_bytes(
    shape: ModelShape,
    num_tokens: int,
    *,
    precision: Precision,
    head_dtype: str = "auto",
    trains_weight: bool = True,
) -> int:
    """Most that the output head holds at a time, its weight left out: see :mod:`insight_rl.learner.head`.

    Forward: a chunk's logits, and two float32 blocks of them. Backward: the logits, two blocks unless they are float32
    themselves, the gradients of weight and hidden states. In both the hidden states, and the weight in the precision of
    the product.
    """
    stream, matmul = (2 if precision == "bfloat16" else 4), (4 if precision == "float32" else 2)
    size = 4 if head_dtype == "float32" else matmul
    weight = shape.vocab_size * shape.hidden_size
    most = max(1, LOGITS_PER_CHUNK // shape.vocab_size)
    chunk = -(-num_tokens // -(-num_tokens // most))
    block = 4 * min(chunk, max(1, LOGITS_PER_BLOCK // shape.vocab_size)) * shape.vocab_size
    hidden = num_tokens * shape.hidden_size * stream
    converted = 0 if size == stream else size * weight
    backward = hidden + (size * weight if trains_weight else 0) + (2 * block if size == 2 else 0)
    return hidden + converted + size * chunk * shape.vocab_size + max(2 * block, backward)
