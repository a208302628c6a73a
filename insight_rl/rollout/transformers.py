"""The rollout engine without another process: a copy of the policy in transformers, decoded here.

Each prompt is encoded once, and its keys and values are copied for its G rollouts. Rollouts that have ended leave the
batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from insight_rl.errors import check
from insight_rl.rollout.base import RolloutSpec, check_lengths
from insight_rl.seeding import derive_seed
from insight_rl.tokenizer import ModelTokenizer
from insight_rl.types import Completion, Metrics, Prompt, Sampling
from insight_rl.weight_sync.auto import AutoChannel
from insight_rl.weight_sync.base import WeightSource

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class TransformersEngine:
    """Samples in batches with a KV cache, on the GPU if there is one.

    See :class:`~insight_rl.rollout.base.RolloutEngine`.
    """

    # Removing finished rows copies the cache of the others, so it is done only once so few of the rows are left.
    _COMPACT_BELOW = 0.75

    def __init__(self, *, max_batch_size: int = 2048) -> None:
        check(max_batch_size >= 1, "rollout.max_batch_size", max_batch_size, "must be at least 1 sequence")
        self.max_batch_size = max_batch_size
        self._policy_version = 0

    def start(self, spec: RolloutSpec) -> None:
        """Raises ``UsageError`` for a ``weight_channel``: there is no other process that weights could go to."""
        weight_channel = spec.weight_channel
        check(
            weight_channel is None or isinstance(weight_channel, AutoChannel),
            "weight_sync",
            type(weight_channel).__name__,
            "rollout=transformers samples in the trainer's own process and copies the weights; take weight_sync=auto",
        )
        from transformers import AutoModelForCausalLM

        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model = AutoModelForCausalLM.from_pretrained(
            spec.model_path, dtype=getattr(torch, spec.dtype), device_map=self._device
        )
        self._model: PreTrainedModel = model.eval().requires_grad_(False)
        self._tokenizer = ModelTokenizer(spec.model_path)
        self._eos_ids = torch.tensor(self._tokenizer.eos_token_ids, device=self._device)
        self._max_length = spec.max_length
        self._parameters = dict(self._model.named_parameters())

    def generate(
        self, prompts: Sequence[Prompt], *, sampling: Sampling
    ) -> Iterator[tuple[Prompt, tuple[Completion, ...]]]:
        check_lengths(prompts, sampling, max_length=self._max_length)
        return self._generate(prompts, sampling)

    def _generate(
        self, prompts: Sequence[Prompt], sampling: Sampling
    ) -> Iterator[tuple[Prompt, tuple[Completion, ...]]]:
        prompts_per_batch = max(1, self.max_batch_size // sampling.num_rollouts)
        by_length = sorted(prompts, key=lambda prompt: len(prompt.token_ids))
        for number, start in enumerate(range(0, len(by_length), prompts_per_batch)):
            batch = by_length[start : start + prompts_per_batch]
            generator = torch.Generator(self._device).manual_seed(derive_seed(sampling.seed, "batch", number))
            yield from zip(batch, self._decode(batch, sampling, generator), strict=True)

    @torch.inference_mode()
    def _decode(
        self, prompts: Sequence[Prompt], sampling: Sampling, generator: torch.Generator
    ) -> list[tuple[Completion, ...]]:
        """Shapes: P prompts, G rollouts of each, B = P * G rows (prompt by prompt), A <= B rows that have not ended."""
        num_rollouts, num_rows = sampling.num_rollouts, len(prompts) * sampling.num_rollouts
        tokens_BT = torch.zeros(num_rows, sampling.max_tokens, dtype=torch.long, device=self._device)
        logprobs_BT = torch.zeros(num_rows, sampling.max_tokens, device=self._device)
        lengths_B = torch.full((num_rows,), sampling.max_tokens, device=self._device)
        ended_B = torch.zeros(num_rows, dtype=torch.bool, device=self._device)

        output, mask_PT = self._prefill(prompts)
        cache = output.past_key_values
        if num_rollouts > 1:
            cache.batch_repeat_interleave(num_rollouts)
        logits_AV = output.logits[:, -1].repeat_interleave(num_rollouts, dim=0)
        mask_AT = mask_PT.repeat_interleave(num_rollouts, dim=0)
        rows_A = torch.arange(num_rows, device=self._device)
        for t in range(sampling.max_tokens):
            tokens_A, logprobs_A = sample_tokens(logits_AV, sampling, generator)
            tokens_BT[rows_A, t] = tokens_A
            logprobs_BT[rows_A, t] = logprobs_A
            ends_A = torch.isin(tokens_A, self._eos_ids) & ~ended_B[rows_A]
            lengths_B[rows_A[ends_A]] = t + 1
            ended_B[rows_A[ends_A]] = True
            goes_on_A = ~ended_B[rows_A]
            num_going = int(goes_on_A.sum())
            if num_going == 0 or t + 1 == sampling.max_tokens:
                break
            if num_going <= self._COMPACT_BELOW * len(rows_A):
                kept = goes_on_A.nonzero().squeeze(1)
                cache.batch_select_indices(kept)
                rows_A, mask_AT, tokens_A = rows_A[kept], mask_AT[kept], tokens_A[kept]
            mask_AT = torch.cat([mask_AT, mask_AT.new_ones(len(rows_A), 1)], dim=1)
            output = self._model(
                input_ids=tokens_A[:, None],
                attention_mask=mask_AT,
                position_ids=mask_AT.sum(1, keepdim=True) - 1,
                past_key_values=cache,
                use_cache=True,
            )
            logits_AV = output.logits[:, -1]
        return self._to_completions(tokens_BT, logprobs_BT, lengths_B, ended_B, num_rollouts)

    def _prefill(self, prompts: Sequence[Prompt]) -> tuple[Any, torch.Tensor]:
        """Encode each prompt once, padded on the left so that all end in the same column."""
        longest = max(len(prompt.token_ids) for prompt in prompts)
        ids_PT = torch.zeros(len(prompts), longest, dtype=torch.long)
        mask_PT = torch.zeros(len(prompts), longest, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids_PT[row, longest - len(prompt.token_ids) :] = torch.tensor(prompt.token_ids)
            mask_PT[row, longest - len(prompt.token_ids) :] = 1
        ids_PT, mask_PT = ids_PT.to(self._device), mask_PT.to(self._device)
        output = self._model(
            input_ids=ids_PT,
            attention_mask=mask_PT,
            position_ids=(mask_PT.cumsum(1) - 1).clamp(min=0),
            use_cache=True,
            logits_to_keep=1,
        )
        return output, mask_PT

    def _to_completions(
        self,
        tokens_BT: torch.Tensor,
        logprobs_BT: torch.Tensor,
        lengths_B: torch.Tensor,
        ended_B: torch.Tensor,
        num_rollouts: int,
    ) -> list[tuple[Completion, ...]]:
        lengths, ended = lengths_B.tolist(), ended_B.tolist()
        tokens = _cut_rows(tokens_BT.to(torch.int32), lengths)
        logprobs = _cut_rows(logprobs_BT, lengths)
        texts = self._tokenizer.decode_batch(tokens)
        completions_B = [
            Completion(
                token_ids=tokens[row],
                logprobs=logprobs[row],
                text=texts[row],
                finish_reason="stop" if ended[row] else "length",
                policy_version=self._policy_version,
            )
            for row in range(len(lengths))
        ]
        return [tuple(completions_B[row : row + num_rollouts]) for row in range(0, len(completions_B), num_rollouts)]

    @torch.no_grad()
    def update_weights(self, weights: WeightSource, *, version: int) -> Metrics:
        updated = set()
        for name, tensor in weights.named_tensors():
            self._parameters[name].copy_(tensor)
            updated.add(name)
        stale = self._parameters.keys() - updated
        if stale:
            raise RuntimeError(f"weight sync left {len(stale)} parameters as they were, among them {min(stale)}")
        self._policy_version = version
        return {}

    def close(self) -> None:
        self._parameters = {}
        del self._model


def _cut_rows(values_BT: torch.Tensor, lengths: Sequence[int]) -> list[np.ndarray]:
    """Each row without its padding; copies, so that no completion keeps the whole batch in memory."""
    return [row[:length].copy() for row, length in zip(values_BT.cpu().numpy(), lengths, strict=True)]


def sample_tokens(
    logits_AV: torch.Tensor, sampling: Sampling, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """One token a row and its log-prob under the distribution it was drawn from (temperature and top_p applied)."""
    logits_AV = logits_AV.float()
    if sampling.temperature == 0:
        logprobs_AV = torch.log_softmax(logits_AV, dim=-1)
        tokens_A = logprobs_AV.argmax(dim=-1)
    else:
        logits_AV = logits_AV / sampling.temperature
        if sampling.top_p < 1:
            logits_AV = keep_nucleus(logits_AV, sampling.top_p)
        logprobs_AV = torch.log_softmax(logits_AV, dim=-1)
        tokens_A = torch.multinomial(logprobs_AV.exp(), 1, generator=generator).squeeze(1)
    return tokens_A, logprobs_AV.gather(1, tokens_A[:, None]).squeeze(1)


def keep_nucleus(logits_AV: torch.Tensor, top_p: float) -> torch.Tensor:
    """Logits with -inf outside the smallest set of tokens whose probability reaches ``top_p``."""
    sorted_logits_AV, order_AV = logits_AV.sort(dim=-1, descending=True)
    probabilities_AV = torch.softmax(sorted_logits_AV, dim=-1)
    mass_before_AV = probabilities_AV.cumsum(dim=-1) - probabilities_AV
    sorted_logits_AV = sorted_logits_AV.masked_fill(mass_before_AV >= top_p, float("-inf"))
    return torch.empty_like(logits_AV).scatter(1, order_AV, sorted_logits_AV)
