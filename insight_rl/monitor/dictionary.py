"""The metric dictionary: every key a run may log, with unit, meaning and source.

``docs/metrics.md`` is this module printed: ``python -m insight_rl.monitor.dictionary > docs/metrics.md``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import groupby

METHOD = "InSight, [arXiv 2603.01907](https://arxiv.org/abs/2603.01907)"
GRPO = "GRPO, [arXiv 2402.03300](https://arxiv.org/abs/2402.03300)"
PPO = "PPO, [arXiv 1707.06347](https://arxiv.org/abs/1707.06347)"
DAPO = "DAPO, [arXiv 2503.14476](https://arxiv.org/abs/2503.14476)"
CODEX = "Chen et al., [arXiv 2107.03374](https://arxiv.org/abs/2107.03374)"
MISMATCH = "rollout correction, [TRL 3867](https://github.com/huggingface/trl/pull/3867)"
PALM = "PaLM, appendix B, [arXiv 2204.02311](https://arxiv.org/abs/2204.02311)"
KL_NOTE = "Schulman, [Approximating KL](http://joschu.net/blog/kl-approx.html)"
OURS = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricEntry:
    """One row of the dictionary.

    Example::

        MetricEntry(key="eval/pass_at_{k}", unit="0 to 1", good="higher", meaning="...", source="...")
    """

    key: str
    """``area/name``; a part in braces stands for any word, e.g. ``reward/status_{status}``."""

    unit: str

    good: str
    """``higher``, ``lower``, or what a healthy value looks like; empty where neither is better."""

    meaning: str

    source: str = OURS
    """Where the quantity is defined; empty where this project does."""

    def matches(self, key: str) -> bool:
        return _matches(self.key, key)


AREAS = {
    "eval": "Held-out problems, at step 0 (before training) and every `evaluation.every` steps.",
    "reward": "Verdicts on the rollouts of the step, discarded groups included.",
    "selector": "What the selector knows of its pool, and how good its guesses are.",
    "gate": "Admission of groups (dynamic sampling); the trivial gate admits all in one round.",
    "rollout": "Generation.",
    "sync": "Checks of the weight sync (`trainer.sync_check_every`): only in the steps that had one.",
    "learner": "The policy update. Averages are over the tokens that were trained on, unless said.",
    "async": "Overlap of rollouts and learner: only with `trainer=async`.",
    "time": (
        "Wall-clock seconds. With `trainer=async` those of select, rollout and reward are of the step's own groups, "
        "whenever they were made, so that the shares of a step may add up to more than 1."
    ),
    "memory": (
        "The largest memory of each process since the line before: `trainer`, `learner_rank_0` and so on. A single "
        "rank of learner=accelerate and the engine of rollout=transformers are part of the trainer. Only on Linux."
    ),
    "runtime": "What was lost and mended since the run was started or resumed.",
}

OF_THE_MACHINE = (
    "async/num_{name}",
    "async/{side}_idle_share",
    "time/{name}",
    "memory/{name}",
    "learner/mfu",
    "learner/tokens_per_s",
    "rollout/tokens_per_s",
    "rollout/num_replaced_workers",
    "runtime/{name}",
)
"""Keys that depend on the machine and on what else it does."""


def is_of_the_machine(key: str) -> bool:
    """Whether two runs with the same configuration and seed may differ in this metric; in all others they do not."""
    return any(_matches(pattern, key) for pattern in OF_THE_MACHINE)


def _matches(pattern: str, key: str) -> bool:
    return re.fullmatch(re.sub(r"\\\{\w+\\\}", r"[^/]+", re.escape(pattern)), key) is not None


_PHASE_MEANINGS = {
    "select": "Choosing the prompts: scores, top M, and the belief update after the step.",
    "rollout": "Generating completions, as far as the trainer waited for them.",
    "reward": "Judging completions, as far as the trainer waited for verdicts after generation.",
    "learn": "Advantages, loss, backward passes and optimizer updates.",
    "sync": "Carrying the new weights to the rollout engine.",
}


def _entry(key: str, unit: str, good: str, meaning: str, source: str = OURS) -> MetricEntry:
    return MetricEntry(key=key, unit=unit, good=good, meaning=meaning, source=source)


# fmt: off
ENTRIES: tuple[MetricEntry, ...] = (
    _entry("eval/accuracy", "0 to 1", "higher", "avg@k: share of right answers among k samples of every held-out "
           "problem (`evaluation.samples_per_problem`). Equals pass@1 in expectation.", METHOD),
    _entry("eval/accuracy_half_width", "0 to 1", "", "Half the 95 % interval of the accuracy, by the spread between "
           "the problems: how far another draw of as many problems could move it."),
    _entry("eval/pass_at_{k}", "0 to 1", "higher", "Chance that at least one of k samples is right, the unbiased "
           "estimator, averaged over problems.", CODEX),
    _entry("eval/unjudged_fraction", "0 to 1", "0", "Share of evaluation samples without a verdict (timeout, error). "
           "They count as wrong in `eval/accuracy`, which is too low by up to this much."),
    _entry("eval/truncated_fraction", "0 to 1", "lower", "Share of evaluation samples cut off at the length limit."),
    _entry("eval/mean_tokens", "tokens", "", "Mean length of the evaluation samples."),
    _entry("reward/mean", "reward", "higher", "Mean reward value of the judged rollouts, shaping included. Moves with "
           "the selection too: a selector that picks harder prompts lowers it. Compare runs by `eval/accuracy`."),
    _entry("reward/std", "reward", "", "Standard deviation of the reward over the judged rollouts."),
    _entry("reward/accuracy", "0 to 1", "near 0.5", "Share of the judged rollouts that succeed (verifier's verdict, no "
           "shaping). Near 0.5, most groups are informative."),
    _entry("reward/unjudged_fraction", "0 to 1", "0", "Share of rollouts without a verdict (timeout, error): neither "
           "trained on nor counted as evidence. The run stops above `judge.max_unjudged_fraction`."),
    _entry("reward/status_{status}", "0 to 1", "", "Share of all rollouts with this status: correct, wrong, "
           "unparsable, no_answer, timeout, error."),
    _entry("reward/part_{name}", "reward", "", "Mean contribution of one part of a composed reward."),
    _entry("selector/informative_fraction", "0 to 1", "higher", "Share of the step's rolled-out groups with both "
           "outcomes, success and failure. Only these carry a gradient; it is what selection is to raise.", DAPO),
    _entry("selector/mean_belief", "0 to 1", "", "Mean of alpha / (alpha + beta) over the pool: the success rate the "
           "selector expects of a random prompt.", METHOD),
    _entry("selector/mean_evidence", "pseudo-counts", "", "Mean of alpha + beta over the pool, the prior's share "
           "included. Grows with every visit; forgetting bounds it.", METHOD),
    _entry("selector/visited_fraction", "0 to 1", "", "Share of the pool observed at least once."),
    _entry("selector/visits_gini", "0 to 1", "", "Gini coefficient of visits per prompt: 0 if all are visited equally "
           "often, towards 1 if a few get everything."),
    _entry("selector/belief_histogram", "prompts", "", "Distribution of alpha / (alpha + beta) over the pool."),
    _entry("selector/evidence_histogram", "prompts", "", "Distribution of alpha + beta over the pool."),
    _entry("selector/prior_mean", "0 to 1", "", "Success rate that a learnt prior expects of prompts never rolled out "
           "(`selector/prior=pool` or `features`), averaged over the pool's prompts or, of `pool`, its priors."),
    _entry("selector/prior_evidence", "pseudo-counts", "", "alpha + beta of a learnt prior: how alike it takes the "
           "prompts to be. Below 2 most are expected to be all wrong or all right."),
    _entry("selector/prior_spread", "0 to 1", "", "Standard deviation over the pool of the success rates that the "
           "prior expects by the prompts' features (`selector/prior=features`): near 0 the features tell nothing."),
    _entry("selector/drift_fading", "0 to 1", "", "Share of a prompt's evidence that each step of waiting takes, as "
           "fitted to the revisits (`selector.drift=true`)."),
    _entry("selector/drift_trend", "logit per step", "", "What each step of waiting adds to the logit of a prompt's "
           "success rate, as fitted to the revisits (`selector.drift=true`)."),
    _entry("selector/score_mean", "score's own", "", "Mean score of the prompts chosen for the step (for INSIGHT, "
           "nats times the difficulty weight).", METHOD),
    _entry("selector/brier", "0 to 1", "lower", "Mean squared error of the belief's mean, before the step, against "
           "each judged outcome of the step. 0.25 is what a constant guess of one half gets."),
    _entry("selector/spearman", "-1 to 1", "higher", "Rank correlation, over the step's groups, of predicted and "
           "observed success rate."),
    _entry("selector/coverage", "0 to 1", "0.9 or more", "Share of the step's groups whose success count lies in "
           "the belief's central 90 % predictive interval."),
    _entry("selector/version_lag", "versions", "", "Mean number of policy versions by which the outcomes that the "
           "selector took in lag behind the version that the step trains; only where some do (`trainer=async`)."),
    _entry("selector/under_way", "prompts", "", "Prompts drawn by another framework and not yet finished there; this "
           "and the next two only inside slime, prime-rl and OpenRLHF."),
    _entry("selector/given_up", "prompts", "0", "Prompts since the start that came back without rollouts (cancelled, "
           "filtered, lost): nothing was learnt of them, and they may be selected again."),
    _entry("selector/late", "prompts", "0", "Of these, the prompts whose verdicts came after all, and counted."),
    _entry("selector/belief_age", "steps", "", "Mean number of steps since the step's prompts were last observed (new "
           "ones left out): how stale the beliefs were that chose them."),
    _entry("selector/reliability_{bin}", "0 to 1", "on the diagonal", "Success rate of the step's rollouts whose "
           "success was foretold in the bin: bin 0 at 0 to 0.1, bin 9 at 0.9 to 1. The reliability curve, point by "
           "point; empty bins are left out."),
    _entry("selector/alarm", "0 or 1", "0", "1 while the informative fraction has been below "
           "`selector.guards.alarm_below` for `alarm_after` steps; only with that guard on. The reason is in the log."),
    _entry("selector/verifier_false_positive", "0 to 1", "", "Rate at which failures are taken to be called successes; "
           "only with `selector.verifier_error`, given or estimated."),
    _entry("selector/verifier_false_negative", "0 to 1", "", "Rate at which successes are taken to be called failures; "
           "only with `selector.verifier_error`."),
    _entry("selector/num_retired", "prompts", "", "Mastered prompts, resting or due for review; only with "
           "`selector.retirement.rate`."),
    _entry("selector/num_reviews", "prompts", "", "Mastered prompts that were rolled out in the step; only with "
           "`selector.retirement.rate`."),
    _entry("selector/review_pass_rate", "0 to 1", "higher", "Share of these that are still mastered after it."),
    _entry("selector/mu", "0 to 1", "", "Centre of the difficulty weight; only with `selector.adapt_weight`."),
    _entry("selector/eta", "", "", "Sharpness of the difficulty weight; only with `selector.adapt_weight`."),
    _entry("gate/admitted_fraction", "0 to 1", "higher", "Share of the rolled-out groups that the learner trained on."),
    _entry("gate/num_rounds", "rounds", "lower", "How often the step selected and rolled out to fill its batch.", DAPO),
    _entry("gate/num_groups", "groups", "", "Groups rolled out in the step, the rejected ones included: its cost."),
    _entry("gate/num_kept", "groups", "", "Groups that the learner trained on."),
    _entry("gate/num_tokens", "tokens", "", "Tokens generated in the step, those of rejected groups included."),
    _entry("rollout/num_replaced_workers", "workers", "0", "Rollout workers that died or hung and were replaced, since "
           "the run was started or resumed (engines with workers of their own). What they had not finished was issued "
           "again; the log has the reasons."),
    _entry("rollout/num_rollouts", "rollouts", "", "Completions sampled for training since the start of the run, "
           "rejected groups included. An axis to compare selectors on."),
    _entry("rollout/num_tokens", "tokens", "", "Tokens of those completions since the start of the run. The fairest "
           "axis to compare selectors on: steps flatter methods that roll out more."),
    _entry("rollout/mean_tokens", "tokens", "", "Mean completion length of the step."),
    _entry("rollout/max_tokens", "tokens", "", "Longest completion of the step."),
    _entry("rollout/truncated_fraction", "0 to 1", "lower", "Share of completions cut off at "
           "`trainer.max_completion_tokens`."),
    _entry("rollout/logprob_gap_max", "nats", "0", "Largest difference, over the step's tokens, of the log-prob the "
           "engine sampled with and the learner's before its update. Rounding is near 1e-5 in float32. One large "
           "value among many tokens is an outlier; see the mean.", MISMATCH),
    _entry("rollout/logprob_gap_mean", "nats", "0", "Mean absolute difference of the same. Rounding is near 1e-6 in "
           "float32 and 0.03 to 0.07 in bfloat16; more means that the engine runs on other weights. The run stops "
           "above `trainer.max_mean_logprob_gap`; rollouts of older weights (`trainer=async`) are left out of that.",
           MISMATCH),
    _entry("rollout/tokens_per_s", "tokens/s", "higher", "Tokens generated in the step over `time/rollout_s`."),
    _entry("rollout/samples", "table", "", "A few completions with prompt, reward and status; in `samples.jsonl`."),
    _entry("sync/logprob_gap_mean", "nats", "0", "Mean absolute difference of the log-probs that a rollout worker "
           "sampled a few short completions with after the sync and the learner's: that of the worst worker. The run "
           "stops above `trainer.max_mean_logprob_gap`.", MISMATCH),
    _entry("sync/logprob_gap_max", "nats", "0", "Largest such difference, over all tokens and workers.", MISMATCH),
    _entry("learner/loss", "loss", "", "The loss that was minimised. Near 0 by construction of the advantages; its "
           "level says little.", GRPO),
    _entry("learner/grad_norm", "norm", "steady", "Gradient norm before clipping, the mean over the step's updates."),
    _entry("learner/lr", "learning rate", "", "Learning rate of the step's last update."),
    _entry("learner/clip_fraction_low", "0 to 1", "small", "Share of tokens held back by the lower clip bound "
           "(negative advantage, ratio below 1 - epsilon).", PPO),
    _entry("learner/clip_fraction_high", "0 to 1", "small", "Share of tokens held back by the upper clip bound "
           "(positive advantage, ratio above 1 + epsilon).", DAPO),
    _entry("learner/entropy", "nats", "no collapse", "Mean entropy of the policy's next-token distribution. A fall "
           "towards 0 means that exploration has ended. Not there with `learner.head=liger`."),
    _entry("learner/kl_to_rollout", "nats", "small", "Estimated KL divergence from the policy that sampled to the one "
           "being updated, per token (k3 estimator).", KL_NOTE),
    _entry("learner/kl_to_reference", "nats", "", "Estimated KL divergence to the frozen reference model, per token; "
           "only with a KL term.", GRPO),
    _entry("learner/ratio_mean", "ratio", "near 1", "Mean over tokens of the ratio that the loss clips: the learner's "
           "probability at an update over its probability before the step's first update. Exactly 1 with one update a "
           "step. With `algorithm.old_logprobs=rollout` the probability below is the rollout's."),
    _entry("learner/importance_kept_fraction", "0 to 1", "near 1", "Share of tokens whose weight in the correction "
           "between rollout and learner was neither truncated nor masked; not with `algorithm.importance=none`.",
           MISMATCH),
    _entry("learner/importance_weight_mean", "ratio", "near 1", "Mean over tokens of that weight, truncated or masked. "
           "Far from 1 the rollouts come from another policy.", MISMATCH),
    _entry("learner/num_tokens", "tokens", "", "Completion tokens trained on in the step."),
    _entry("learner/num_input_tokens", "tokens", "", "Tokens that went through the model for them, prompts and padding "
           "included."),
    _entry("learner/num_sequences", "sequences", "", "Completions trained on in the step."),
    _entry("learner/num_skipped_groups", "groups", "lower", "Groups without spread in their advantages: no forward or "
           "backward pass is spent on them, the gradient is the same."),
    _entry("learner/num_updates", "updates", "", "Optimizer updates of the step."),
    _entry("learner/num_extra_forwards", "sequences", "lower", "Sequences that went through a model only to be scored: "
           "under the reference model of a KL term, and under the policy before the step where a step has several "
           "updates. 0 otherwise. A cost that neither rollouts nor tokens show."),
    _entry("learner/mfu", "0 to 1", "higher", "Model FLOPs utilisation: what the step's passes through the model have "
           "to compute, over the time of the learner's step and over the speed of this machine's best matrix product "
           "in the same precision, measured once when the learner starts. Padding, hidden pairs of tokens and "
           "recomputation do not count. Only in steps with an update.", PALM),
    _entry("learner/tokens_per_s", "tokens/s", "higher", "`learner/num_tokens` over `time/learn_s`."),
    _entry("async/staleness_mean", "versions", "small", "Mean over the step's completions of the number of updates "
           "between the weights that each was begun with and those that the step trains; 0 in a synchronous run. With "
           "`trainer.weight_update=keep` its later tokens may be of newer weights."),
    _entry("async/staleness_max", "versions", "", "The largest of them: at most `trainer.max_staleness`."),
    _entry("async/staleness_histogram", "completions", "", "Completions of the step by their age in versions."),
    _entry("async/num_ready_steps", "steps", "", "Later steps whose rollouts were all made when the learner began with "
           "this one. Often above 0: the learner is the slower side."),
    _entry("async/num_prompts_in_flight", "prompts", "", "Prompts that were being rolled out then."),
    _entry("async/rollout_idle_share", "0 to 1", "lower", "Share of the step in which no rollouts were made: they "
           "would have become older than `trainer.max_staleness` allows, or the run is near its end."),
    _entry("async/learner_idle_share", "0 to 1", "lower", "Share of the step in which the learner waited for rollouts: "
           "those of the step, or the end of others before a weight update."),
    *(_entry(f"time/{phase}_s", "s", "lower", meaning) for phase, meaning in _PHASE_MEANINGS.items()),
    _entry("time/sync_gather_s", "s", "lower", "Of `time/sync_s`: getting whole tensors from the ranks that hold them. "
           "On a GPU these times are those of the calls; work that goes on behind them counts where it is waited for."),
    _entry("time/sync_transfer_s", "s", "lower", "Of `time/sync_s`: writing the checkpoint (shared memory), filling "
           "buffers (CUDA IPC), or broadcasting and loading, which go on together (NCCL)."),
    _entry("time/sync_load_s", "s", "lower", "Of `time/sync_s`: waiting for the rollout engine to load what has come."),
    _entry("time/sync_check_s", "s", "lower", "Of `time/sync_s`: the check of the log-probs, in steps that had one."),
    _entry("time/evaluate_s", "s", "lower", "Evaluation after the step; not part of `time/step_s`."),
    _entry("time/checkpoint_s", "s", "lower", "Training stands still for a checkpoint: its state is taken, and the one "
           "before is waited for if it is still being written; not part of `time/step_s`."),
    _entry("time/device_s", "s", "lower", "Device seconds of all steps since the start of the run, evaluations and "
           "checkpoints left out: processor seconds on a CPU (of the trainer and its child processes), wall seconds "
           "times the GPUs in use on GPUs. An axis to compare selectors on that counts the selector's own work too."),
    _entry("time/step_s", "s", "lower", "The whole training step: the five phases and the loop around them."),
    *(_entry(f"time/{phase}_share", "0 to 1", "", f"`time/{phase}_s` over `time/step_s`.")
      for phase in _PHASE_MEANINGS),
    _entry("memory/{process}_gpu_allocated_gib", "GiB", "", "GPU memory that the tensors of a rank took, at the most, "
           "in the learner's step."),
    _entry("memory/{process}_gpu_reserved_gib", "GiB", "", "What PyTorch's allocator held on the GPU for them: "
           "fragmentation is the difference."),
    _entry("memory/{process}_gib", "GiB", "", "Largest resident memory of a process and of those that it has started, "
           "shared pages included. Where the system does not let peaks be reset: since its start."),
    _entry("runtime/num_restarts", "restarts", "0", "How often the learner's ranks were lost, and the run went back to "
           "its newest checkpoint (`runtime.max_restarts`). The log has the reasons."),
)
# fmt: on


def find_entry(key: str) -> MetricEntry | None:
    """The entry that documents ``key``, or None; an exact name goes before a pattern."""
    return next((e for e in sorted(ENTRIES, key=lambda e: "{" in e.key) if e.matches(key)), None)


_HEADER = """\
# Metric dictionary

<!-- Made by `python -m insight_rl.monitor.dictionary > docs/metrics.md`; edit insight_rl/monitor/dictionary.py. -->

Every metric is named `area/name`. A run writes them to `metrics.jsonl` in its folder: one JSON object a line and step,
with `step` and the metrics of that step; step 0 is the evaluation before training. Not every key is in every step
(evaluations are rare, and each part logs only what it has), and a number that does not exist (NaN, infinity) is `null`.
Two runs with the same configuration and seed, resumed or not, have the same metrics, apart from `time/*`, `memory/*`,
`learner/mfu`, the two `tokens_per_s`, `rollout/num_replaced_workers`, `runtime/*`, and with `trainer=async` queues and
idle shares (and all of them with `trainer.weight_update=keep`, where an engine goes on while its weights change).
A histogram is `{"counts": [...], "edges": [...]}` with one edge more than counts. Tables are in `samples.jsonl`, one
object per row with `step` and `table`; messages to the user are in `notices.jsonl`.

"Good" says which direction is better, or what a healthy value looks like; it is empty where neither direction is.
"From" names where a quantity is defined; it is empty where this project defines it.

On Weights & Biases, TensorBoard and Trackio the keys are the same. The axis is `step`, and `eval/*` is logged again as
`eval_by_rollouts/*` and `eval_by_tokens/*` over `rollout/num_rollouts` and `rollout/num_tokens`.
"""


def render() -> str:
    """The dictionary as Markdown, a table for each area."""
    sections = [_HEADER]
    for area, entries in groupby(ENTRIES, key=lambda entry: entry.key.split("/")[0]):
        rows = [f"| `{e.key}` | {e.unit} | {e.good} | {e.meaning} | {e.source} |" for e in entries]
        head = ["| Key | Unit | Good | Meaning | From |", "| --- | --- | --- | --- | --- |"]
        sections.append("\n".join([f"## {area}", "", AREAS[area], "", *head, *rows]) + "\n")
    return "\n".join(sections)


if __name__ == "__main__":
    print(render(), end="")
