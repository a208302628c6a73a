"""Our own trainer, without a model: what it decides when its rollouts are judged as a given function says."""

from __future__ import annotations

from insight_rl.algorithm.algorithm import Algorithm
from insight_rl.algorithm.loss import GRPO
from insight_rl.gate.admit_all import AdmitAll
from insight_rl.integration.selection import make_selector, prompt_id
from insight_rl.reward.judge import InProcessJudge
from insight_rl.seeding import derive_seed
from insight_rl.trainer import Trainer, TrainerSettings
from insight_rl.types import Completion, Prompt, Reward, Sampling


def own_decisions(prompts, verdict, *, num_steps, num_rollouts, prompts_per_step, seed, selector="insight"):
    """Positions of the ``prompts`` that are rolled out step by step, and the selector.

    ``verdict(step, prompt, rollout)``, all counted from 0, is True, False, or None for not judged.
    """
    chosen = make_selector(selector, {})
    pool = [
        Prompt(id=prompt_id(each), task="", text=str(row), token_ids=(), answer=each)
        for row, each in enumerate(prompts)
    ]
    chosen.open(pool, num_rollouts=num_rollouts, seed=derive_seed(seed, "selector"))
    parts = _Parts(verdict)
    trainer = Trainer(
        settings=TrainerSettings(
            num_steps=num_steps,
            prompts_per_step=prompts_per_step,
            sampling=Sampling(num_rollouts=num_rollouts, max_tokens=6, temperature=1.0, seed=0),
            max_mean_logprob_gap=1.0,
            evaluate_every=0,
            checkpoint_every=0,
            seed=seed,
        ),
        selector=chosen,
        gate=AdmitAll(),
        rollout=parts,
        judge=InProcessJudge(parts.reward),
        algorithm=Algorithm(loss=GRPO(), advantage="group_std", clip_low=0.2, clip_high=0.2),
        learner=_Learner(),
        evaluator=parts,
        monitors=[parts],
        selection_log=parts,
        save_checkpoint=parts.nothing,
        sync_check=lambda version: {},
    )
    trainer.train()
    return parts.rows, chosen


class _Parts:
    """Stands in for rollout engine, verifier, monitor and logs."""

    def __init__(self, verdict):
        self.verdict, self.rows = verdict, []

    def generate(self, prompts, *, sampling):
        step = len(self.rows)
        self.rows.append([int(prompt.text) for prompt in prompts])
        for prompt in prompts:
            verdicts = [self.verdict(step, prompt.answer, number) for number in range(sampling.num_rollouts)]
            yield prompt, tuple(self.completion(str(verdict)) for verdict in verdicts)

    def completion(self, text):
        return Completion(token_ids=(1,), logprobs=(0.0,), text=text, finish_reason="stop", policy_version=0)

    def reward(self, prompt, completion):
        success = {"True": True, "False": False, "None": None}[completion.text]
        return Reward(value=1.0 if success else 0.1, success=success)

    def evaluate(self, *parts, step):
        return {}

    def nothing(self, *arguments, **settings): ...

    log = nothing

    def update_weights(self, weights, *, version):
        return {}


class _Learner:
    def step(self, groups_P, advantages_P_G):
        return {"learner/num_tokens": 1, "rollout/logprob_gap_max": 0.0}

    def weights(self): ...
