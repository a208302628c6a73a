"""A Llama's layers for one token of every row, on a CPU: fewer and larger operations than transformers' modules.

In a small model half the time of a decoding step goes into calls and into passes over memory between the matrix
products. Here queries, keys and values come from one product, as do the two inputs of the gate, whose weights lie one
after the other in memory; the residual is added within a product. Attention is left to the cache
(:mod:`insight_rl.rollout.prompt_sharing`).

The engine compares the logits with those of transformers' code before it uses them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class AttendsToCache(Protocol):
    """One layer's keys and values, and its attention to them."""

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor) -> Any:
        """Append a token's keys and values, (A, H, 1, D)."""
        ...

    def attend(self, queries: torch.Tensor, scaling: float | None) -> torch.Tensor:
        """Of queries (A, heads, 1, D): (A, 1, heads, D)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Weights:
    """Of one layer; views of the model's parameters, so that they follow every update in place."""

    input_norm: torch.Tensor
    queries_keys_values: torch.Tensor
    attention_out: torch.Tensor
    mlp_norm: torch.Tensor
    gate_and_up: torch.Tensor
    down: torch.Tensor


class LlamaLayers:
    """Embedding, layers and output head of a ``LlamaForCausalLM`` in float32.

    The parameters that are multiplied together become slices of one tensor; their names and values stay.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        config, inner = model.config, model.base_model
        self._num_heads = (config.num_attention_heads, config.num_key_value_heads)
        self._head_size = config.head_dim
        self._epsilon = config.rms_norm_eps
        self._embedding = inner.embed_tokens.weight
        self._rotary = inner.rotary_emb
        self._norm = inner.norm.weight
        self._head = model.get_output_embeddings().weight
        self._layers = [
            _Weights(
                input_norm=layer.input_layernorm.weight,
                queries_keys_values=_joined(layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj),
                attention_out=layer.self_attn.o_proj.weight,
                mlp_norm=layer.post_attention_layernorm.weight,
                gate_and_up=_joined(layer.mlp.gate_proj, layer.mlp.up_proj),
                down=layer.mlp.down_proj.weight,
            )
            for layer in inner.layers
        ]

    @staticmethod
    def fit(model: PreTrainedModel) -> bool:
        """Whether the model is one that these layers compute."""
        from transformers import LlamaForCausalLM

        config = model.config
        return (
            type(model) is LlamaForCausalLM
            and model.dtype == torch.float32
            and config.hidden_act == "silu"
            and not config.attention_bias
            and not config.mlp_bias
        )

    def next_logits(
        self, tokens_A: torch.Tensor, positions_A: torch.Tensor, cache: Sequence[AttendsToCache]
    ) -> torch.Tensor:
        """Logits (A, V) after one more token of every row, at these positions."""
        num_rows, size = len(tokens_A), self._head_size
        num_query_heads, num_kv_heads = self._num_heads
        num_rotated = num_query_heads + num_kv_heads
        hidden = functional.embedding(tokens_A, self._embedding)
        cos, sin = (angles[0, :, None, : size // 2] for angles in self._rotary(hidden, positions_A[None]))
        for weights, layer in zip(self._layers, cache, strict=True):
            normed = functional.rms_norm(hidden, hidden.shape[-1:], weights.input_norm, self._epsilon)
            of_heads = functional.linear(normed, weights.queries_keys_values).view(num_rows, -1, size)
            _rotate(of_heads[:, :num_rotated], cos, sin)
            queries, keys, values = of_heads.unsqueeze(2).split((num_query_heads, num_kv_heads, num_kv_heads), dim=1)
            layer.update(keys, values)
            attended = layer.attend(queries, None).view(num_rows, -1)
            hidden = torch.addmm(hidden, attended, weights.attention_out.T)
            normed = functional.rms_norm(hidden, hidden.shape[-1:], weights.mlp_norm, self._epsilon)
            gate, up = functional.linear(normed, weights.gate_and_up).chunk(2, dim=1)
            hidden = torch.addmm(hidden, functional.silu(gate).mul_(up), weights.down.T)
        normed = functional.rms_norm(hidden, hidden.shape[-1:], self._norm, self._epsilon)
        return functional.linear(normed, self._head)


def _joined(*modules: torch.nn.Linear) -> torch.Tensor:
    """The modules' weights in one tensor, of which each module's becomes a slice."""
    joined = torch.cat([module.weight for module in modules])
    at = 0
    for module in modules:
        end = at + len(module.weight)
        module.weight.data = joined[at:end]
        at = end
    return joined


def _rotate(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> None:
    """Rotary positions, in place: the first half of each head against its second; angles are (A, 1, D / 2)."""
    first, second = heads.chunk(2, dim=-1)
    turned = first * cos - second * sin
    second.mul_(cos).addcmul_(first, sin)
    first.copy_(turned)
