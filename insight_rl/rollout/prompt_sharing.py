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

    from insight_rl.rollout.llama_layers import LlamaLayers

NAME = "insight_rl_prompt_sharing"
_BLOCK = 64
_FEW_TOKENS = 16
_NUMBERS_AT_ONCE = 2**15
# Arguments of some architectures' attention that change its result.
_UNKNOWN_HERE = ("softcap", "s_aux", "position_bias", "sliding_window")


class PromptSharingDecoder:
    """Continues P prompts a token at a time, a row each to begin with; ``cache`` is what encoding them has filled.

    ``mask_PT`` says which columns are a prompt's own and no padding, which stands on the left. With ``layers`` these
    compute what comes between the attentions, in place of transformers' code.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        cache: Cache,
        mask_PT: torch.Tensor,
        *,
        max_tokens: int,
        layers: LlamaLayers | None = None,
    ) -> None:
        of_prompts = [(layer.keys, layer.values) for layer in cache.layers]
        self._cache = PromptSharingCache(of_prompts, mask_PT, max_tokens=max_tokens)
        self._model = model
        self._layers = layers
        self._positions_A = mask_PT.sum(1)

    def next_logits(self, tokens_A: torch.Tensor) -> torch.Tensor:
        """Logits (A, V) after one more token of every row."""
        positions_A = self._positions_A
        self._positions_A = positions_A + 1
        if self._layers is not None:
            return self._layers.next_logits(tokens_A, positions_A, self._cache.layers)
        with self._cache.attached_to(self._model):
            output = self._model(
                input_ids=tokens_A[:, None],
                position_ids=positions_A[:, None],
                past_key_values=self._cache,
                use_cache=True,
            )
        logits_AV: torch.Tensor = output.logits[:, -1]
        return logits_AV

    def select(self, parents_A: torch.Tensor) -> None:
        """Go on with copies of the rows of these numbers, as :meth:`PromptSharingCache.select`."""
        self._cache.select(parents_A)
        self._positions_A = self._positions_A[parents_A]


class PromptSharingCache(Cache):  # type: ignore[misc]  # transformers has no types
    """Keys and values of P prompts and of the completions of A rows; to begin with, one row of each prompt.

    ``of_prompts`` are a layer's keys and values each, (P, H, T, D); ``mask_PT`` says which of the T columns are a
    prompt's own and no padding.
    """

    def __init__(
        self, of_prompts: list[tuple[torch.Tensor, torch.Tensor]], mask_PT: torch.Tensor, *, max_tokens: int
    ) -> None:
        self.rows = _Rows(mask_PT, dtype=of_prompts[0][0].dtype)
        super().__init__(layers=[_Layer(*layer, self.rows, max_tokens=max_tokens) for layer in of_prompts])

    def select(self, parents_A: torch.Tensor) -> None:
        """Go on with copies of the rows of these numbers: a row may be dropped, or be continued more than once.

        Rows that stay where they are and are followed by copies are left in place: only the copies are written.
        """
        num_before = len(self.rows.prompts_A)
        is_appended = len(parents_A) >= num_before and bool((parents_A[:num_before] == torch.arange(num_before)).all())
        self.rows.select(parents_A)
        for layer in self.layers:
            if is_appended:
                layer.append(parents_A[num_before:], num_before)
            else:
                layer.select(parents_A)

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

    def __init__(self, mask_PT: torch.Tensor, *, dtype: torch.dtype) -> None:
        self.prompts_A = torch.arange(len(mask_PT))
        self.bias: torch.Tensor | None = None
        if not mask_PT.all():
            zeros = torch.zeros(mask_PT.shape, dtype=dtype)
            self.bias = zeros.masked_fill_(~mask_PT.bool(), float("-inf"))[:, None, None, :]
        self._lay_out()

    def select(self, parents_A: torch.Tensor) -> None:
        self.prompts_A = self.prompts_A[parents_A]
        self._lay_out()

    def _lay_out(self) -> None:
        num_rows = len(self.prompts_A)
        counts_P = torch.bincount(self.prompts_A)
        self.kept_P = counts_P.nonzero().squeeze(1)
        self.num_places = int(counts_P.max())
        number_P = torch.zeros_like(counts_P).index_put_((self.kept_P,), torch.arange(len(self.kept_P)))
        # A row's place is its number among the rows of its prompt.
        order_A = self.prompts_A.argsort(stable=True)
        first_P = counts_P.cumsum(0) - counts_P
        place_A = torch.empty_like(order_A)
        place_A[order_A] = torch.arange(num_rows) - first_P[self.prompts_A[order_A]]
        self.slot_A = number_P[self.prompts_A] * self.num_places + place_A
        # Rows in the order of the places, with no place free, need no index.
        self.is_laid_out = num_rows == len(self.kept_P) * self.num_places and bool(
            (self.slot_A == torch.arange(num_rows)).all()
        )
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
        # Keys and values, (2, tokens, rows, heads, size): there is room for more of both than there are.
        self._room = keys.new_empty(2, 0, len(rows.prompts_A), keys.shape[1], keys.shape[3])
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing is left for later."""

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any) -> tuple[Any, Any]:
        """Append a token's keys and values, (A, H, 1, D); returns the layer for its attention to read."""
        at, num_rows = self._num_tokens, len(key_states)
        if at == self._room.shape[1]:
            self._enlarge(min(max(2 * at, _BLOCK), self._max_tokens), self._room.shape[2])
        self._room[0, at, :num_rows] = key_states[:, :, 0]
        self._room[1, at, :num_rows] = value_states[:, :, 0]
        self._num_tokens += 1
        return self, self

    def _enlarge(self, num_tokens: int, num_rows: int) -> None:
        _, tokens_before, rows_before, num_heads, size = self._room.shape
        room = self._room.new_empty(2, num_tokens, num_rows, num_heads, size)
        room[:, :tokens_before, :rows_before] = self._room
        self._room = room

    def append(self, parents_N: torch.Tensor, num_rows: int) -> None:
        """Copies of these rows behind the ``num_rows`` that there are."""
        self._copy(parents_N, num_rows)

    def _copy(self, parents_N: torch.Tensor, first: int) -> None:
        """Write copies of these rows from number ``first`` on."""
        end, (_, num_tokens, num_rows, num_heads, size) = first + len(parents_N), self._room.shape
        if end > num_rows:
            self._enlarge(num_tokens, max(end, 2 * num_rows))
        # A few tokens at a time, so that what is read and written stays in the processor's cache.
        tokens_at_once = max(1, _NUMBERS_AT_ONCE // (max(1, len(parents_N)) * num_heads * size))
        for written in self._room[:, : self._num_tokens]:
            for part in written.split(tokens_at_once):
                part[:, first:end] = part.index_select(1, parents_N)

    def select(self, parents_A: torch.Tensor) -> None:
        self._copy(parents_A, 0)
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
        of_slot = of_row if rows.is_laid_out else of_row[rows.row_of_slot]
        grouped = (len(rows.kept_P), rows.num_places, num_kv_heads, num_heads // num_kv_heads)
        of_prompt = of_slot.view(*grouped, size).transpose(1, 2).flatten(2, 3)
        bias = rows.bias[rows.kept_P] if rows.bias is not None else None
        shared, shared_weight = _attention(of_prompt, self._prompt_keys, self._prompt_values, bias, scaling)
        by_head = (grouped[0], num_kv_heads, grouped[1], grouped[3])
        shared = shared.reshape(*by_head, size).transpose(1, 2).flatten(0, 1)
        shared_weight = shared_weight.reshape(by_head).transpose(1, 2).flatten(0, 1)
        if not rows.is_laid_out:
            shared, shared_weight = shared[rows.slot_A], shared_weight[rows.slot_A]

        keys, values = self._room[:, : self._num_tokens, :num_rows]
        attended = _with_completion(of_row, keys, values, shared, shared_weight, scaling)
        return attended.reshape(num_rows, 1, num_heads, size)

    def get_seq_length(self) -> int:
        return self._prompt_keys.shape[2] + self._num_tokens

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        return self._prompt_keys.shape[2] + self._max_tokens


def _with_completion(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    shared: torch.Tensor,
    shared_weight: torch.Tensor,
    scaling: float | None,
) -> torch.Tensor:
    """Attention of (A, H, n, D) to keys and values (T, A, H, D), together with the ``shared`` result of the prompt.

    ``shared_weight`` (A, H, n) is the log of the sum of exponentials of the prompt's scores: the prompt counts as one
    more key with this score.
    """
    if len(keys) > _FEW_TOKENS or queries.shape[2] > 1 or queries.dtype != torch.float32:
        own, own_weight = _attention(queries, keys.permute(1, 2, 0, 3), values.permute(1, 2, 0, 3), None, scaling)
        share = torch.sigmoid(shared_weight - own_weight).unsqueeze(-1).to(own.dtype)
        return torch.lerp(own, shared, share)
    # The kernel is made for long sequences; over a few tokens its start takes most of its time.
    scores_TAH = (queries[:, :, 0] * keys).sum(-1).mul_(queries.shape[-1] ** -0.5 if scaling is None else scaling)
    weights = torch.cat([shared_weight[None, :, :, 0], scores_TAH]).softmax(0).unsqueeze(-1)
    return (weights[1:] * values).sum(0).addcmul_(weights[0], shared[:, :, 0])


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
