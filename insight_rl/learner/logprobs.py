"""Log-probs of completion tokens, computed without ever holding the logits of all tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class TokenScorer(torch.nn.Module):
    """A causal language model as a function from tokens to log-probs: what the training back ends wrap.

    The hidden states of the completion positions go through the output head in chunks; while training with more than
    one chunk, each chunk's logits are computed again in the backward pass instead of being kept.
    """

    def __init__(self, model: PreTrainedModel, *, temperature: float) -> None:
        super().__init__()
        self.model = model
        self.temperature = temperature
        self.calls_head = True
        """False for architectures that do more to the logits than apply the output head: the whole model runs then."""

    def forward(
        self,
        *,
        input_ids: torch.Tensor,
        segments: torch.Tensor | None,
        positions: torch.Tensor | None,
        sources_N: torch.Tensor,
        targets_N: torch.Tensor,
        num_chunks: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-prob and entropy (nats, no gradient) at each completion token, after temperature; both (N,), float32.

        Arguments as in :class:`~insight_rl.learner.batch.MicroBatch`.
        """
        mask = None if segments is None else sharing_mask(segments)
        inputs = {"input_ids": input_ids, "attention_mask": mask, "position_ids": positions, "use_cache": False}
        if not self.calls_head:
            logits = self.model(**inputs).logits
            return self._score(logits.flatten(0, 1)[sources_N], targets_N)
        hidden = self.model.base_model(**inputs).last_hidden_state.flatten(0, 1)[sources_N]
        if num_chunks == 1:
            return self._score_hidden(hidden, targets_N)
        chunks = [
            checkpoint(self._score_hidden, hidden_chunk, target_chunk, use_reentrant=False)
            if torch.is_grad_enabled()
            else self._score_hidden(hidden_chunk, target_chunk)
            for hidden_chunk, target_chunk in zip(
                hidden.tensor_split(num_chunks), targets_N.tensor_split(num_chunks), strict=True
            )
        ]
        logprobs, entropies = zip(*chunks, strict=True)
        return torch.cat(logprobs), torch.cat(entropies)

    def _score_hidden(self, hidden: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self._score(self.model.get_output_embeddings()(hidden), targets)

    def _score(self, logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = logits.float()
        if self.temperature != 1.0:
            logits = logits / self.temperature
        all_logprobs = logits.log_softmax(dim=-1)
        logprobs = all_logprobs.gather(-1, targets[:, None]).squeeze(-1)
        # After the log-probs, so that recomputing a chunk for the backward pass stops before it.
        with torch.no_grad():
            entropies = -(all_logprobs.exp() * all_logprobs).sum(-1)
        return logprobs, entropies


def sharing_mask(segments: torch.Tensor) -> torch.Tensor:
    """Which token sees which in rows that share a prompt: bool (B, 1, L, L), from segments (B, L).

    A token sees what stands before it in the prompt and in its own completion. Padding sees itself, because
    the softmax of nothing is not defined.
    """
    length = segments.shape[1]
    is_before = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    seen = segments[:, None, :]
    return (is_before & ((seen == 0) | (seen == segments[:, :, None])))[:, None]
