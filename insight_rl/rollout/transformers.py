"""The rollout engine without another process: a copy of the policy in transformers, decoded here.

Each prompt is encoded once, and its G rollouts share its keys and values, or have copies of them where the model's
attention does not allow that (:mod:`insight_rl.rollout.prompt_sharing`). Rollouts that have ended leave the batch.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from insight_rl.errors import RunStopped, check
from insight_rl.learner.attention import attends_fully
from insight_rl.rollout.base import RolloutSpec, check_lengths
from insight_rl.seeding import derive_seed
from insight_rl.tokenizer import ModelTokenizer
from insight_rl.types import Completion, Metrics, Prompt, Sampling
from insight_rl.weight_sync.auto import AutoChannel
from insight_rl.weight_sync.base import SyncSeconds, WeightSource

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

    @property
    def device(self) -> torch.device:
        """What it samples on, once it is started."""
        return self._device

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
        self._shares_prompts = self._can_share_prompts()

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
        decoder = self._decoder(output.past_key_values, mask_PT, num_rollouts, sampling.max_tokens)
        logits_AV = output.logits[:, -1].repeat_interleave(num_rollouts, dim=0)
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
                decoder.select(kept)
                rows_A, tokens_A = rows_A[kept], tokens_A[kept]
            logits_AV = decoder.next_logits(tokens_A)
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

    def _decoder(self, cache: Any, mask_PT: torch.Tensor, num_rollouts: int, max_tokens: int) -> Decoder:
        if self._shares_prompts:
            from insight_rl.rollout.prompt_sharing import PromptSharingDecoder

            return PromptSharingDecoder(self._model, cache, mask_PT, num_rollouts=num_rollouts, max_tokens=max_tokens)
        return CopyingDecoder(self._model, cache, mask_PT, num_rollouts=num_rollouts)

    @torch.inference_mode()
    def _can_share_prompts(self) -> bool:
        """Try on a few tokens whether this architecture's attention can be replaced; on a GPU it has not been tried."""
        if self._device.type != "cpu" or not attends_fully(self._model.config):
            return False
        # Not on top of the file: it loads transformers, which takes seconds, and mistakes in settings are told before.
        from insight_rl.rollout.prompt_sharing import PromptSharingDecoder

        tokens = torch.tensor(self._tokenizer.eos_token_ids[:1] * 2)
        prompts = [Prompt(id="", task="", text="", token_ids=ids, answer=None) for ids in ((1, 2, 3), (2, 1))]
        logits = []
        for make in (CopyingDecoder, partial(PromptSharingDecoder, max_tokens=2)):
            output, mask_PT = self._prefill(prompts)
            decoder = make(self._model, output.past_key_values, mask_PT, num_rollouts=1)
            try:
                logits.append(torch.stack([decoder.next_logits(tokens).float() for _ in range(2)]))
            except (NotImplementedError, TypeError, AttributeError):
                return False
        gap = (logits[0].log_softmax(-1) - logits[1].log_softmax(-1)).abs().mean()
        return float(gap) < (1e-3 if self._model.dtype == torch.float32 else 0.2)

    def _to_completions(
        self,
        tokens_BT: torch.Tensor,
        logprobs_BT: torch.Tensor,
        lengths_B: torch.Tensor,
        ended_B: torch.Tensor,
        num_rollouts: int,
    ) -> list[tuple[Completion, ...]]:
        if not logprobs_BT.isfinite().all():
            raise RunStopped("the policy's probabilities are not finite: lower learner.lr, or take model.dtype=float32")
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

    def update_weights(self, weights: WeightSource, *, version: int) -> Metrics:
        seconds, started = SyncSeconds(), time.perf_counter()
        self.load(seconds.gathering(weights.named_tensors()), version=version)
        seconds.load_s = time.perf_counter() - started - seconds.gather_s
        return seconds.metrics()

    @torch.no_grad()
    def load(self, named_tensors: Iterator[tuple[str, torch.Tensor]], *, version: int) -> None:
        """Copy every parameter from ``named_tensors``, under their Hugging Face names."""
        updated = set()
        for name, tensor in named_tensors:
            self._parameters[name].copy_(tensor)
            updated.add(name)
        stale = self._parameters.keys() - updated
        if stale:
            raise RuntimeError(f"weight sync left {len(stale)} parameters as they were, among them {min(stale)}")
        self._policy_version = version

    def named_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The weights as they are loaded."""
        yield from self._parameters.items()

    def close(self) -> None:
        self._parameters = {}
        del self._model


def _cut_rows(values_BT: torch.Tensor, lengths: Sequence[int]) -> list[np.ndarray]:
    """Each row without its padding; copies, so that no completion keeps the whole batch in memory."""
    return [row[:length].copy() for row, length in zip(values_BT.cpu().numpy(), lengths, strict=True)]


class Decoder(Protocol):
    """Continues a batch of A rows a token at a time."""

    def next_logits(self, tokens_A: torch.Tensor) -> torch.Tensor:
        """Logits (A, V) after one more token of every row."""
        ...

    def select(self, kept_A: torch.Tensor) -> None:
        """Go on with the rows of these numbers only."""
        ...


class CopyingDecoder:
    """Copies a prompt's keys and values for its rollouts: for any architecture that transformers has a cache for."""

    def __init__(self, model: PreTrainedModel, cache: Any, mask_PT: torch.Tensor, *, num_rollouts: int) -> None:
        if num_rollouts > 1:
            cache.batch_repeat_interleave(num_rollouts)
        self._model, self._cache = model, cache
        self._mask_AT = mask_PT.repeat_interleave(num_rollouts, dim=0)

    def next_logits(self, tokens_A: torch.Tensor) -> torch.Tensor:
        self._mask_AT = torch.cat([self._mask_AT, self._mask_AT.new_ones(len(tokens_A), 1)], dim=1)
        output = self._model(
            input_ids=tokens_A[:, None],
            attention_mask=self._mask_AT,
            position_ids=self._mask_AT.sum(1, keepdim=True) - 1,
            past_key_values=self._cache,
            use_cache=True,
        )
        logits_AV: torch.Tensor = output.logits[:, -1]
        return logits_AV

    def select(self, kept_A: torch.Tensor) -> None:
        self._cache.batch_select_indices(kept_A)
        self._mask_AT = self._mask_AT[kept_A]


# A race of exponentials takes a random number for each token of the vocabulary; the walk along the sums takes one.
_LARGEST_RACE = 4096
_SUM_BLOCK = 256


def sample_tokens(
    logits_AV: torch.Tensor, sampling: Sampling, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """One token a row and its log-prob under the distribution it was drawn from (temperature and top_p applied)."""
    logits_AV = logits_AV.float()
    if sampling.temperature == 0:
        tokens_A = logits_AV.argmax(dim=-1)
        return tokens_A, logits_AV.log_softmax(dim=-1).gather(1, tokens_A[:, None]).squeeze(1)
    if sampling.temperature != 1:
        logits_AV = logits_AV / sampling.temperature
    if sampling.top_p < 1:
        logits_AV = keep_nucleus(logits_AV, sampling.top_p)
    if logits_AV.shape[1] > _LARGEST_RACE:
        probabilities_AV = logits_AV.softmax(dim=-1)
        tokens_A = draw_by_sums(probabilities_AV, generator)
        return tokens_A, probabilities_AV.gather(1, tokens_A[:, None]).squeeze(1).log()
    logprobs_AV = logits_AV.log_softmax(dim=-1)
    # As torch.multinomial draws, without its passes over all numbers to check them.
    noise_AV = torch.empty_like(logprobs_AV).exponential_(generator=generator)
    tokens_A = logprobs_AV.exp().div_(noise_AV).argmax(dim=-1)
    return tokens_A, logprobs_AV.gather(1, tokens_A[:, None]).squeeze(1)


def draw_by_sums(probabilities_AV: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A token (A,) of each row: where its running sum passes a uniform number. Sums are in float64, block by block."""
    num_tokens = probabilities_AV.shape[1]
    num_whole = num_tokens // _SUM_BLOCK
    whole_AV = probabilities_AV[:, : num_whole * _SUM_BLOCK].unflatten(1, (num_whole, _SUM_BLOCK))
    rest_AV = probabilities_AV[:, num_whole * _SUM_BLOCK :]
    blocks_AN = torch.cat([whole_AV.sum(-1), rest_AV.sum(-1, keepdim=True)], dim=1).double().cumsum(1)
    uniform_A1 = torch.rand(len(probabilities_AV), 1, generator=generator, device=generator.device, dtype=torch.float64)
    at_A1 = uniform_A1 * blocks_AN[:, -1:]
    block_A1 = _first_above(blocks_AN, at_A1)
    before_A1 = torch.where(block_A1 > 0, blocks_AN.gather(1, (block_A1 - 1).clamp(min=0)), 0.0)
    columns_AB = block_A1 * _SUM_BLOCK + torch.arange(_SUM_BLOCK, device=at_A1.device)
    inside_AB = probabilities_AV.gather(1, columns_AB.clamp(max=num_tokens - 1)).double()
    inside_AB = inside_AB.masked_fill_(columns_AB >= num_tokens, 0.0)
    token_A1 = _first_above(inside_AB.cumsum(1), at_A1 - before_A1)
    return columns_AB.gather(1, token_A1).squeeze(1)


def _first_above(sums_AN: torch.Tensor, at_A1: torch.Tensor) -> torch.Tensor:
    """Where the running sums first exceed ``at``; rounding may put it past their end: then where they last grew."""
    last_A1 = torch.searchsorted(sums_AN, sums_AN[:, -1:].contiguous())
    return torch.searchsorted(sums_AN, at_A1, right=True).minimum(last_A1)


def keep_nucleus(logits_AV: torch.Tensor, top_p: float) -> torch.Tensor:
    """Logits with -inf outside the smallest set of tokens whose probability reaches ``top_p``."""
    sorted_logits_AV, order_AV = logits_AV.sort(dim=-1, descending=True)
    probabilities_AV = torch.softmax(sorted_logits_AV, dim=-1)
    mass_before_AV = probabilities_AV.cumsum(dim=-1) - probabilities_AV
    sorted_logits_AV = sorted_logits_AV.masked_fill(mass_before_AV >= top_p, float("-inf"))
    return torch.empty_like(logits_AV).scatter(1, order_AV, sorted_logits_AV)
