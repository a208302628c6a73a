"""Imported once by the server that runs are forked from: all that every run would otherwise import by itself."""

from __future__ import annotations

import accelerate  # noqa: F401
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast  # noqa: F401

import insight_rl.learner.accelerate_engine
import insight_rl.learner.worker
import insight_rl.rollout.transformers
import insight_rl.run
import insight_rl.selector.belief_selector
import insight_rl.trainer  # noqa: F401
