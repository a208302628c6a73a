"""Imported once by the server that runs are forked from: all that every run would otherwise load by itself.

Libraries, compiled kernels, and the data of the comparison, read and tokenised once for all arms and seeds.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import accelerate  # noqa: F401
from transformers import (  # noqa: F401
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    set_seed,
)

import insight_rl.learner.accelerate_engine
import insight_rl.learner.worker
import insight_rl.rollout.transformers
import insight_rl.run
import insight_rl.selector.belief_selector
import insight_rl.selector.information_kernel
import insight_rl.selector.signal_kernel
import insight_rl.trainer  # noqa: F401
from insight_rl.build import build_part, find_model, keep_loaded_data, load_data, quiet_libraries
from insight_rl.child_main import prepare
from insight_rl.compare.jobs import START_VARIABLE, OwnCode
from insight_rl.config import compose_config, parse_config
from insight_rl.tokenizer import ModelTokenizer


def load_first_run() -> None:
    """End with the runner, and load the data of the first run, so that all of them find it in memory."""
    # The runs hold the pipe by which the server would notice that the runner has been killed.
    prepare(os.getppid())
    start = json.loads(os.environ[START_VARIABLE])
    config_dir = Path(start["config_dir"]) if start["config_dir"] else None
    OwnCode(config_dir=config_dir, packages=frozenset(start["packages"])).allow()
    quiet_libraries()
    keep_loaded_data()
    try:
        config = parse_config(compose_config(start["overrides"], config_dir=config_dir))
        model_path = find_model(config.model)
        # No further: what looks at GPUs would make them unusable after the fork.
        load_data(build_part("task", config.task), ModelTokenizer(model_path), config)
        MODEL_FOR_CAUSAL_LM_MAPPING.get(type(AutoConfig.from_pretrained(model_path)), None)  # imports the architecture
    except Exception:
        # Not swallowed: the check of this run meets it again, in a process that can tell the user. This one must live.
        return


if START_VARIABLE in os.environ:
    load_first_run()
