"""What a run has selected: how often each prompt, new or again, and how well its beliefs foretold what came of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from insight_rl.errors import UsageError
from insight_rl.report.explanation import StepView, explain_step
from insight_rl.report.run_files import MAX_DECISIONS, RecordedRun
from insight_rl.report.runs import option_name
from insight_rl.selector.decision_log import StepDecisions, decision_files, read_whole

NUM_BINS = 10


@dataclass(frozen=True, kw_only=True)
class Selected:
    """One prompt over the whole run."""

    prompt_id: str
    num_times: int
    first_step: int
    last_step: int
    successes: int
    judged: int
    alpha: float
    beta: float
    score: float
    """The belief before its last selection, and the score that it was selected with; NaN without a decision log."""


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Some steps of the run, one after the other."""

    first_step: int
    last_step: int
    num_selected: int
    new: int
    """Selected for the first time in the run."""
    informative_new: int
    judged_new: int
    informative_again: int
    judged_again: int
    mean_belief: float
    mean_score: float


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Groups whose success rate was foretold between two tenths."""

    foretold: float
    """Mean belief, each group counted by its judged rollouts."""
    observed: float
    num_groups: int
    num_rollouts: int


def new_by_step(selections: dict[int, list[str]]) -> list[tuple[int, int, int]]:
    """Of each step: its number, how many prompts it selected, how many of them for the first time in the run."""
    seen: set[str] = set()
    found = []
    for step in sorted(selections):
        ids = selections[step]
        found.append((step, len(ids), len(set(ids) - seen)))
        seen.update(ids)
    return found


def most_selected(run: RecordedRun, limit: int) -> list[Selected]:
    """The prompts that were selected most often, of equals the latest first."""
    times: Counter[str] = Counter()
    steps: dict[str, list[int]] = {}
    for step in sorted(run.selections):
        for prompt_id in run.selections[step]:
            times[prompt_id] += 1
            steps.setdefault(prompt_id, []).append(step)
    chosen = sorted(times, key=lambda each: (-times[each], -steps[each][-1]))[:limit]
    wanted = set(chosen)
    outcomes: dict[str, list[list[float]]] = {each: [] for each in chosen}
    for decisions in run.decisions:
        for row, prompt_id in enumerate(decisions.prompt_id.tolist()):
            if prompt_id in wanted:
                columns = (decisions.successes, decisions.judged, decisions.alpha, decisions.beta, decisions.score)
                outcomes[prompt_id].append([float(column[row]) for column in columns])
    found = []
    for each in chosen:
        rows = outcomes[each]
        alpha, beta, score = rows[-1][2:] if rows else (np.nan, np.nan, np.nan)
        found.append(
            Selected(
                prompt_id=each,
                num_times=times[each],
                first_step=steps[each][0],
                last_step=steps[each][-1],
                successes=sum(int(row[0]) for row in rows if row[1] > 0),
                judged=sum(int(row[1]) for row in rows if row[1] > 0),
                alpha=float(alpha),
                beta=float(beta),
                score=float(score),
            )
        )
    return found


def stretches(run: RecordedRun, num_parts: int) -> list[Stretch]:
    """The run in parts of equally many steps; empty without a decision log."""
    seen: set[str] = set()
    rows: list[tuple[StepDecisions, np.ndarray]] = []
    for decisions in run.decisions:
        ids = decisions.prompt_id.tolist()
        rows.append((decisions, np.array([each not in seen for each in ids], bool)))
        seen.update(ids)
    rows = [(decisions, new) for decisions, new in rows if len(decisions)]
    found = []
    for part in np.array_split(np.arange(len(rows)), min(num_parts, len(rows))) if rows else []:
        logged = [rows[number][0] for number in part]
        new = np.concatenate([rows[number][1] for number in part])
        judged, successes, alpha, beta, score = (
            np.concatenate([getattr(each, name) for each in logged])
            for name in ("judged", "successes", "alpha", "beta", "score")
        )
        is_mixed = (successes > 0) & (successes < judged)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            mean = alpha / (alpha + beta)
        found.append(
            Stretch(
                first_step=int(logged[0].step[0]),
                last_step=int(logged[-1].step[0]),
                num_selected=len(new),
                new=int(new.sum()),
                informative_new=int((is_mixed & new).sum()),
                judged_new=int(((judged > 0) & new).sum()),
                informative_again=int((is_mixed & ~new).sum()),
                judged_again=int(((judged > 0) & ~new).sum()),
                mean_belief=float(np.mean(mean)),
                mean_score=float(np.mean(score)),
            )
        )
    return found


def last_step_in_words(run: RecordedRun) -> str:
    """What `insight-rl explain` says of the newest step with a decision log; empty where there is none to be read."""
    files = decision_files(run.run_dir)
    settings = run.config.get("selector")
    if not files:
        return ""
    step = max(files)
    earlier = [each for each in run.decisions if len(each) and each.step[0] < step]
    visits = Counter(prompt_id for each in earlier for prompt_id in each.prompt_id[each.judged > 0].tolist())
    try:
        candidates = read_whole(files[step], max_rows=MAX_DECISIONS)
        view = StepView(
            step=step,
            selector=option_name("selector", run.config) or "the selector",
            settings=settings if isinstance(settings, dict) else {},
            num_rollouts=max(int(candidates.judged.max(initial=2)), 2),
            candidates=candidates,
            visits=np.array([visits[each] for each in candidates.prompt_id.tolist()]),
            texts={},
        )
        return " ".join(explain_step(view)) if candidates.chosen.any() else ""
    except UsageError:
        return ""


def reliability(decisions: Sequence[StepDecisions], *, new: bool) -> list[Bin]:
    """Foretold and observed success rates by tenths of the belief's mean; without empty ones.

    ``new``: of the first selection of each prompt, whose belief is the prior's; else of all later ones.
    """
    if not decisions:
        return []
    alpha, beta, successes, judged = (
        np.concatenate([getattr(each, name) for each in decisions]) for name in ("alpha", "beta", "successes", "judged")
    )
    prompt_ids = np.concatenate([each.prompt_id for each in decisions]).astype(str)
    is_first = np.zeros(len(judged), bool)
    is_first[np.unique(prompt_ids, return_index=True)[1]] = True
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = alpha / (alpha + beta)
    usable = (is_first == new) & (judged > 0) & (mean >= 0) & (mean <= 1)
    mean, successes, judged = mean[usable], successes[usable], judged[usable]
    bins = np.minimum((mean * NUM_BINS).astype(int), NUM_BINS - 1)
    found = []
    for number in np.unique(bins):
        inside = bins == number
        weight = judged[inside]
        found.append(
            Bin(
                foretold=float(np.average(mean[inside], weights=weight)),
                observed=float(successes[inside].sum() / weight.sum()),
                num_groups=int(inside.sum()),
                num_rollouts=int(weight.sum()),
            )
        )
    return found
