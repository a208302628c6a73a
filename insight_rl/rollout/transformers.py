"""The rollout engine without another process: a copy of the policy in transformers, decoded here.

Each prompt is encoded once, and its G rollouts share its keys and values, or have copies of them where the model's
attention does not allow that (:mod:`insight_rl.rollout.prompt_sharing`). Rollouts that share them are one row of the
batch for as long as they have drawn the same tokens, since the next token's distribution is the same for all of them.
Rollouts that have ended leave the batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from insight_rl.errors import RunStopped, check
from insight_rl.learner.attention import attends_fully
from insight_rl.rollout.base import RolloutSpec, check_lengths
from insight_rl.rollout.llama_layers import LlamaLayers
from insight_rl.rollout.prompt_sharing import PromptSharingDecoder
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

    # Removing rows copies the cache of the others, so it is done only once so few of the rows are needed.
    _COMPACT_BELOW = 0.9

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
        self._layers = LlamaLayers(self._model) if self._device.type == "cpu" and LlamaLayers.fit(self._model) else None
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
        """Shapes: P prompts, G rollouts of each, B = P * G, R <= B of them have not ended; the decoder has A rows."""
        num_rollouts, num_all = sampling.num_rollouts, len(prompts) * sampling.num_rollouts
        tokens_BT = torch.zeros(num_all, sampling.max_tokens, dtype=torch.long, device=self._device)
        logprobs_BT = torch.zeros(num_all, sampling.max_tokens, device=self._device)
        lengths_B = torch.full((num_all,), sampling.max_tokens, device=self._device)
        ended_B = torch.zeros(num_all, dtype=torch.bool, device=self._device)

        output, mask_PT = self._prefill(prompts)
        decoder = self._decoder(output.past_key_values, mask_PT, sampling.max_tokens)
        logits_AV = output.logits[:, -1]
        going_R = torch.arange(num_all, device=self._device)
        rows_R = going_R // num_rollouts
        for t in range(sampling.max_tokens):
            tokens_R, logprobs_R = sample_tokens(logits_AV, rows_R, sampling, generator)
            tokens_BT[going_R, t] = tokens_R
            logprobs_BT[going_R, t] = logprobs_R
            ends_R = torch.isin(tokens_R, self._eos_ids)
            lengths_B[going_R[ends_R]] = t + 1
            ended_B[going_R[ends_R]] = True
            goes_on_R = ~ends_R
            going_R = going_R[goes_on_R]
            if len(going_R) == 0 or t + 1 == sampling.max_tokens:
                break
            branching = branch(
                rows_R[goes_on_R],
                tokens_R[goes_on_R],
                num_rows=len(logits_AV),
                merges=self._shares_prompts or t > 0,
                compact_below=self._COMPACT_BELOW,
            )
            if branching.parents_A is not None:
                decoder.select(branching.parents_A)
            rows_R = branching.rows_R
            logits_AV = decoder.next_logits(branching.tokens_A)
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

    def _decoder(self, cache: Any, mask_PT: torch.Tensor, max_tokens: int) -> Decoder:
        if self._shares_prompts:
            return PromptSharingDecoder(self._model, cache, mask_PT, max_tokens=max_tokens, layers=self._layers)
        return CopyingDecoder(self._model, cache, mask_PT)

    def _can_share_prompts(self) -> bool:
        """Try on a few tokens whether this architecture's attention can be replaced; on a GPU it has not been tried.

        Where the attention can, but not the layers around it, those are left to transformers.
        """
        if self._device.type != "cpu" or not attends_fully(self._model.config):
            return False
        expected = self._try(CopyingDecoder)
        if self._layers is not None and not self._agrees(expected, layers=self._layers):
            self._layers = None
        return self._agrees(expected, layers=None)

    def _agrees(self, expected: torch.Tensor, *, layers: LlamaLayers | None) -> bool:
        try:
            found = self._try(partial(PromptSharingDecoder, max_tokens=2, layers=layers))
        except (NotImplementedError, TypeError, AttributeError):
            return False
        gap = (expected - found).abs().mean()
        return float(gap) < (1e-3 if self._model.dtype == torch.float32 else 0.2)

    @torch.inference_mode()
    def _try(self, make: Callable[..., Decoder]) -> torch.Tensor:
        """Log-probs of the tokens that follow two prompts, and those that follow one more."""
        tokens = torch.tensor(self._tokenizer.eos_token_ids[:1] * 2)
        prompts = [Prompt(id="", task="", text="", token_ids=ids, answer=None) for ids in ((1, 2, 3), (2, 1))]
        output, mask_PT = self._prefill(prompts)
        decoder = make(self._model, output.past_key_values, mask_PT)
        return torch.stack([decoder.next_logits(tokens).float() for _ in range(2)]).log_softmax(-1)

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

    @torch.no_grad()
    def update_weights(self, weights: WeightSource, *, version: int) -> Metrics:
        updated = set()
        seconds, started = SyncSeconds(), time.perf_counter()
        for name, tensor in seconds.gathering(weights.named_tensors()):
            self._parameters[name].copy_(tensor)
            updated.add(name)
        seconds.load_s = time.perf_counter() - started - seconds.gather_s
        stale = self._parameters.keys() - updated
        if stale:
            raise RuntimeError(f"weight sync left {len(stale)} parameters as they were, among them {min(stale)}")
        self._policy_version = version
        return seconds.metrics()

    def close(self) -> None:
        self._parameters = {}
        del self._model


def _cut_rows(values_BT: torch.Tensor, lengths: Sequence[int]) -> list[np.ndarray]:
    """Each row without its padding; copies, so that no completion keeps the whole batch in memory."""
    return [row[:length].copy() for row, length in zip(values_BT.cpu().numpy(), lengths, strict=True)]


class Decoder(Protocol):
    """Continues a batch of A rows a token at a time; to begin with, there is a row for each prompt."""

    def next_logits(self, tokens_A: torch.Tensor) -> torch.Tensor:
        """Logits (A, V) after one more token of every row."""
        ...

    def select(self, parents_A: torch.Tensor) -> None:
        """Go on with copies of the rows of these numbers: a row may be dropped, or be continued more than once."""
        ...


class CopyingDecoder:
    """Copies a prompt's keys and values for its rollouts: for any architecture that transformers has a cache for."""

    def __init__(self, model: PreTrainedModel, cache: Any, mask_PT: torch.Tensor) -> None:
        self._model, self._cache, self._mask_AT = model, cache, mask_PT

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

    def select(self, parents_A: torch.Tensor) -> None:
        self._cache.batch_select_indices(parents_A)
        self._mask_AT = self._mask_AT[parents_A]


@dataclass(frozen=True, slots=True, kw_only=True)
class Branching:
    """How the rows of a decoder go on after R rollouts have drawn a token each."""

    parents_A: torch.Tensor | None
    """For :meth:`Decoder.select`; ``None``: the rows stay as they are."""
    tokens_A: torch.Tensor
    rows_R: torch.Tensor
    """The row of each rollout from now on."""


def branch(
    rows_R: torch.Tensor, tokens_R: torch.Tensor, *, num_rows: int, merges: bool, compact_below: float
) -> Branching:
    """Rollouts that have drawn the same token in the same row go on as one row, unless ``merges`` is false.

    Rows that no rollout needs any more are dropped once at most ``compact_below`` of the rows are needed. Until then
    every row keeps its number, so that a cache has to write only the rows that are new.

    Example: of two rows, three rollouts in row 0 draw tokens 7, 8 and 7, and none is left in row 1::

        branch([0, 0, 0], [7, 8, 7], num_rows=2, compact_below=0.5)  ->  parents [0, 1, 0], tokens [7, 0, 8]
                                                                         rows of the rollouts [0, 2, 0]
    """
    if merges:
        vocab_size = int(tokens_R.max()) + 1
        drawn_N, number_R = (rows_R * vocab_size + tokens_R).unique(return_inverse=True)
        parents_N, tokens_N = drawn_N // vocab_size, drawn_N % vocab_size
    else:
        parents_N, tokens_N, number_R = rows_R, tokens_R, torch.arange(len(rows_R), device=rows_R.device)
    is_new_N = torch.zeros_like(parents_N, dtype=torch.bool)
    is_new_N[1:] = parents_N[1:] == parents_N[:-1]
    num_new = int(is_new_N.sum())
    if len(parents_N) <= compact_below * (num_rows + num_new):
        return Branching(parents_A=parents_N, tokens_A=tokens_N, rows_R=number_R)
    places_N = torch.where(is_new_N, num_rows - 1 + is_new_N.cumsum(0), parents_N)
    tokens_A = tokens_N.new_zeros(num_rows + num_new).index_put_((places_N,), tokens_N)
    stay_A = torch.arange(num_rows, device=rows_R.device)
    parents_A = torch.cat([stay_A, parents_N[is_new_N]]) if num_new else None
    return Branching(parents_A=parents_A, tokens_A=tokens_A, rows_R=places_N[number_R])


# A race of exponentials takes a random number for each token of the vocabulary; the walk along the sums takes one.
_LARGEST_RACE = 4096
_SUM_BLOCK = 256


def sample_tokens(
    logits_AV: torch.Tensor, rows_R: torch.Tensor, sampling: Sampling, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """A token from the row of each rollout, drawn independently of the others of the row; and its log-prob.

    The log-prob is under the distribution that the token was drawn from (temperature and top_p applied). Both (R,).
    """
    logits_AV = logits_AV.float()
    if sampling.temperature == 0:
        tokens_R = logits_AV.argmax(dim=-1)[rows_R]
        return tokens_R, logits_AV.log_softmax(dim=-1)[rows_R, tokens_R]
    if sampling.temperature != 1:
        logits_AV = logits_AV / sampling.temperature
    if sampling.top_p < 1:
        logits_AV = keep_nucleus(logits_AV, sampling.top_p)
    if logits_AV.shape[1] > _LARGEST_RACE:
        probabilities_AV = logits_AV.softmax(dim=-1)
        tokens_R = draw_by_sums(probabilities_AV, rows_R, generator)
        return tokens_R, probabilities_AV[rows_R, tokens_R].log()
    logprobs_AV = logits_AV.log_softmax(dim=-1)
    # As torch.multinomial draws, without its passes over all numbers to check them.
    probabilities_RV = logprobs_AV.exp()[rows_R]
    noise_RV = torch.empty_like(probabilities_RV).exponential_(generator=generator)
    tokens_R = probabilities_RV.div_(noise_RV).argmax(dim=-1)
    return tokens_R, logprobs_AV[rows_R, tokens_R]


def draw_by_sums(probabilities_AV: torch.Tensor, rows_R: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Tokens (R,), each of its row: where the running sum passes a uniform number.

    Sums are in float64, block by block, so that a row with several rollouts is summed once.
    """
    num_tokens = probabilities_AV.shape[1]
    num_whole = num_tokens // _SUM_BLOCK
    whole_AV = probabilities_AV[:, : num_whole * _SUM_BLOCK].unflatten(1, (num_whole, _SUM_BLOCK))
    rest_AV = probabilities_AV[:, num_whole * _SUM_BLOCK :]
    blocks_AN = torch.cat([whole_AV.sum(-1), rest_AV.sum(-1, keepdim=True)], dim=1).double().cumsum(1)
    blocks_RN = blocks_AN[rows_R]
    uniform_R1 = torch.rand(len(rows_R), 1, generator=generator, device=generator.device, dtype=torch.float64)
    at_R1 = uniform_R1 * blocks_RN[:, -1:]
    block_R1 = _first_above(blocks_RN, at_R1)
    before_R1 = torch.where(block_R1 > 0, blocks_RN.gather(1, (block_R1 - 1).clamp(min=0)), 0.0)
    columns_RB = block_R1 * _SUM_BLOCK + torch.arange(_SUM_BLOCK, device=at_R1.device)
    inside_RB = probabilities_AV[rows_R[:, None], columns_RB.clamp(max=num_tokens - 1)].double()
    inside_RB = inside_RB.masked_fill_(columns_RB >= num_tokens, 0.0)
    token_R1 = _first_above(inside_RB.cumsum(1), at_R1 - before_R1)
    return columns_RB.gather(1, token_R1).squeeze(1)


def _first_above(sums_RN: torch.Tensor, at_R1: torch.Tensor) -> torch.Tensor:
    """Where the running sums first exceed ``at``; rounding may put it past their end: then where they last grew."""
    last_R1 = torch.searchsorted(sums_RN, sums_RN[:, -1:].contiguous())
    return torch.searchsorted(sums_RN, at_R1, right=True).minimum(last_R1)


def keep_nucleus(logits_AV: torch.Tensor, top_p: float) -> torch.Tensor:
    """Logits with -inf outside the smallest set of tokens whose probability reaches ``top_p``."""
    sorted_logits_AV, order_AV = logits_AV.sort(dim=-1, descending=True)
    probabilities_AV = torch.softmax(sorted_logits_AV, dim=-1)
    mass_before_AV = probabilities_AV.cumsum(dim=-1) - probabilities_AV
    sorted_logits_AV = sorted_logits_AV.masked_fill(mass_before_AV >= top_p, float("-inf"))
    return torch.empty_like(logits_AV).scatter(1, order_AV, sorted_logits_AV)
