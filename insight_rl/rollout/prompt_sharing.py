"""Decoding on a CPU where the rollouts of a prompt share its keys and values, for transformers' own model code.

A token attends to two parts: the prompt, kept once for all of its rollouts, and its own completion, in memory that is
set aside beforehand. Each part is one call of PyTorch's kernel, and the two results are weighed by the sums of their
exponentials, which gives the attention over both together. So nothing is copied for each rollout or each token.

Transformers offers two places for this: a cache, which every attention layer hands its new keys and values to, and
attention functions, registered under a name.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "insight_rl_prompt_sharing"
_BLOCK = 64
# Arguments of some architectures' attention that change its result.
_UNKNOWN_HERE = ("softcap", "s_aux", "position_bias", "sliding_window")


class PromptSharingDecoder:
    """Continues the rollouts of P prompts a token at a time; ``cache`` is the one that encoding the prompts has filled.

    ``mask_PT`` says which columns are a prompt's own and no padding, which stands on the left.
    """

    def __init__(
        self, model: PreTrainedModel, cache: Cache, mask_PT: torch.Tensor, *, num_rollouts: int, max_tokens: int
    ) -> None:
        prompts_A = torch.arange(len(mask_PT)).repeat_interleave(num_rollouts)
        layers = [(layer.keys, layer.values) for layer in cache.layers]
        self._cache = PromptSharingCache(layers, mask_PT, prompts_A, max_tokens=max_tokens)
        self._model = model
        self._positions_A = mask_PT.sum(1)[prompts_A]

    def next_logits(self, tokens_A: torch.Tensor) -> torch.Tensor:
        """Logits (A, V) after one more token of every row."""
        with self._cache.attached_to(self._model):
            output = self._model(
                input_ids=tokens_A[:, None],
                position_ids=self._positions_A[:, None],
                past_key_values=self._cache,
                use_cache=True,
            )
        self._positions_A = self._positions_A + 1
        return output.logits[:, -1]

    def select(self, kept_A: torch.Tensor) -> None:
        """Go on with the rows of these numbers only."""
        self._cache.batch_select_indices(kept_A)
        self._positions_A = self._positions_A[kept_A]


class PromptSharingCache(Cache):  # type: ignore[misc]  # transformers has no types
    """Keys and values of P prompts and of the completions of A rows.

    ``prompt_layers`` are a layer's keys and values each, (P, H, T, D); ``mask_PT`` says which of the T columns are a
    prompt's own and no padding. Row a belongs to prompt ``prompts_A[a]``.
    """

    def __init__(
        self,
        prompt_layers: list[tuple[torch.Tensor, torch.Tensor]],
        mask_PT: torch.Tensor,
        prompts_A: torch.Tensor,
        *,
        max_tokens: int,
    ) -> None:
        self.rows = _Rows(prompts_A, mask_PT, dtype=prompt_layers[0][0].dtype)
        super().__init__(layers=[_Layer(*layer, self.rows, max_tokens=max_tokens) for layer in prompt_layers])

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Go on with these rows only."""
        self.rows.select(indices)
        for layer in self.layers:
            layer.select(indices)

    @contextmanager
    def attached_to(self, model: PreTrainedModel) -> Iterator[None]:
        """Within the block the model's attention reads this cache."""
        before = model.config._attn_implementation
        model.config._attn_implementation = NAME
        try:
            yield
        finally:
            model.config._attn_implementation = before


class _Rows:
    """Which rows there are, and their places when they are laid out by prompt: as many each as the fullest needs."""

    def __init__(self, prompts_A: torch.Tensor, mask_PT: torch.Tensor, *, dtype: torch.dtype) -> None:
        self.prompts_A = prompts_A
        self.bias: torch.Tensor | None = None
        if not mask_PT.all():
            zeros = torch.zeros(mask_PT.shape, dtype=dtype)
            self.bias = zeros.masked_fill_(~mask_PT.bool(), float("-inf"))[:, None, None, :]
        self._lay_out()

    def select(self, indices: torch.Tensor) -> None:
        self.prompts_A = self.prompts_A[indices]
        self._lay_out()

    def _lay_out(self) -> None:
        num_rows = len(self.prompts_A)
        counts_P = torch.bincount(self.prompts_A)
        self.kept_P = counts_P.nonzero().squeeze(1)
        self.num_places = int(counts_P.max())
        number_P = torch.zeros_like(counts_P).index_put_((self.kept_P,), torch.arange(len(self.kept_P)))
        # Rows of a prompt stand next to each other.
        first_P = counts_P.cumsum(0) - counts_P
        place_A = torch.arange(num_rows) - first_P[self.prompts_A]
        self.slot_A = number_P[self.prompts_A] * self.num_places + place_A
        self.is_full = num_rows == len(self.kept_P) * self.num_places
        # Places without a row repeat the first one.
        self.row_of_slot = torch.zeros(len(self.kept_P) * self.num_places, dtype=torch.long)
        self.row_of_slot[self.slot_A] = torch.arange(num_rows)


class _Layer(CacheLayerMixin):  # type: ignore[misc]
    """One layer's share of the cache; ``attend`` is its attention."""

    is_sliding = False

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, rows: _Rows, *, max_tokens: int) -> None:
        super().__init__()
        self._prompt_keys, self._prompt_values = keys, values
        self._kept_P = rows.kept_P
        self._rows = rows
        self._max_tokens = max_tokens
        self._num_tokens = 0
        _, num_heads, _, size = keys.shape
        self._room = keys.new_empty(2, len(rows.prompts_A), num_heads, 0, size)
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing is left for later."""

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any) -> tuple[Any, Any]:
        """Append a token's keys and values, (A, H, 1, D); returns the layer for its attention to read."""
        at = self._num_tokens
        self._make_room(key_states)
        self._room[0, :, :, at] = key_states[:, :, 0]
        self._room[1, :, :, at] = value_states[:, :, 0]
        self._num_tokens += 1
        return self, self

    def _make_room(self, key_states: torch.Tensor) -> None:
        capacity = self._room.shape[3]
        if self._num_tokens < capacity:
            return
        num_rows, num_heads, _, size = key_states.shape
        room = key_states.new_empty(2, num_rows, num_heads, min(max(2 * capacity, _BLOCK), self._max_tokens), size)
        room[:, :, :, :capacity] = self._room
        self._room = room

    def select(self, indices: torch.Tensor) -> None:
        self._room = self._room.index_select(1, indices)
        kept = torch.isin(self._kept_P, self._rows.kept_P)
        if not kept.all():
            self._prompt_keys, self._prompt_values = self._prompt_keys[kept], self._prompt_values[kept]
            self._kept_P = self._rows.kept_P

    def attend(self, queries: torch.Tensor, scaling: float | None) -> torch.Tensor:
        """Of queries (A, heads, 1, D) to the prompt and to the completion so far: (A, 1, heads, D)."""
        rows = self._rows
        num_rows, num_heads, _, size = queries.shape
        num_kv_heads = self._prompt_keys.shape[1]
        # Query heads of a group share keys: they are rows of one matrix.
        of_row = queries.reshape(num_rows, num_kv_heads, num_heads // num_kv_heads, size)
        keys, values = self._room[:, :, :, : self._num_tokens]
        own, own_weight = _attention(of_row, keys, values, None, scaling)

        of_slot = of_row if rows.is_full else of_row[rows.row_of_slot]
        grouped = (len(rows.kept_P), rows.num_places, num_kv_heads, num_heads // num_kv_heads)
        of_prompt = of_slot.view(*grouped, size).transpose(1, 2).flatten(2, 3)
        bias = rows.bias[rows.kept_P] if rows.bias is not None else None
        shared, shared_weight = _attention(of_prompt, self._prompt_keys, self._prompt_values, bias, scaling)
        by_head = (grouped[0], num_kv_heads, grouped[1], grouped[3])
        shared = shared.reshape(*by_head, size).transpose(1, 2).flatten(0, 1)
        shared_weight = shared_weight.reshape(by_head).transpose(1, 2).flatten(0, 1)
        if not rows.is_full:
            shared, shared_weight = shared[rows.slot_A], shared_weight[rows.slot_A]

        share = torch.sigmoid(shared_weight - own_weight).unsqueeze(-1).to(own.dtype)
        return torch.lerp(own, shared, share).reshape(num_rows, 1, num_heads, size)

    def get_seq_length(self) -> int:
        return self._prompt_keys.shape[2] + self._num_tokens

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        return self._prompt_keys.shape[2] + self._max_tokens


def _attention(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, bias: torch.Tensor | None, scaling: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """What ``scaled_dot_product_attention`` runs on a CPU, with the log of the sum of exponentials that it drops."""
    if bias is not None:
        bias = bias.expand(-1, 1, queries.shape[2], -1)
    output, log_sum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        queries, keys, values, attn_mask=bias, scale=scaling
    )
    return output, log_sum


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: _Layer,
    value: _Layer,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    **other: Any,
) -> tuple[torch.Tensor, None]:
    """An attention function of transformers; ``key`` and ``value`` are what the cache returned."""
    unknown = [name for name in _UNKNOWN_HERE if other.get(name) is not None]
    if unknown:
        raise NotImplementedError(f"attention with {', '.join(unknown)}")
    return key.attend(query, scaling), None


ALL_ATTENTION_FUNCTIONS.register(NAME, _attend)
