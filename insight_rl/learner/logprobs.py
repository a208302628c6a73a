"""A causal language model as a function from tokens to log-probs: what the training back ends wrap."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from insight_rl.learner.attention import PackedLayout, sharing_mask
from insight_rl.learner.head import SelectedLogprobs
from insight_rl.learner.settings import LearnerSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class TokenScorer(torch.nn.Module):
    """Log-prob and entropy of completion tokens, computed without ever holding the logits of all of them.

    Of the model only the layers run; the hidden states of the completion positions go through the output head in
    chunks: see :class:`~insight_rl.learner.head.SelectedLogprobs`.
    """

    def __init__(self, model: PreTrainedModel, *, temperature: float, settings: LearnerSettings) -> None:
        super().__init__()
        self.model = model
        self.temperature = temperature
        self.head = SelectedLogprobs(temperature=temperature, head_dtype=settings.head_dtype, kernel=settings.head)
        self.calls_head = type(model.get_output_embeddings()) is torch.nn.Linear
        """False for architectures that do more to the logits than multiply by a matrix: the whole model runs then."""

    def forward(
        self,
        *,
        input_ids: torch.Tensor,
        segments: torch.Tensor | None,
        positions: torch.Tensor | None,
        sources_N: torch.Tensor,
        targets_N: torch.Tensor,
        layout: PackedLayout | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-prob and entropy (nats, no gradient) at each completion token, after temperature; both (N,), float32.

        Arguments as in :class:`~insight_rl.learner.batch.MicroBatch`; ``layout`` for packed rows, which have no
        ``segments``.
        """
        mask = None if segments is None else sharing_mask(segments)
        inputs = {"input_ids": input_ids, "attention_mask": mask, "position_ids": positions, "use_cache": False}
        if layout is not None:
            inputs |= layout.arguments | {"attention_mask": layout.block_mask}
        if not self.calls_head:
            logits = self.model(**inputs).logits
            return self._score(logits.flatten(0, 1)[sources_N], targets_N)
        hidden = self.model.base_model(**inputs).last_hidden_state.flatten(0, 1)[sources_N]
        logprobs_N, entropies_N = self.head(hidden, targets_N, self.model.get_output_embeddings())
        return logprobs_N, entropies_N

    def _score(self, logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        all_logprobs = (logits.float() / self.temperature).log_softmax(dim=-1)
        with torch.no_grad():
            entropies = -(all_logprobs.exp() * all_logprobs).sum(-1)
        return all_logprobs.gather(-1, targets[:, None]).squeeze(-1), entropies
