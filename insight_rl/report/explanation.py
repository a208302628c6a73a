"""Why a step's prompts were chosen, or one was not: a run's decision log in sentences."""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import betaincinv

from insight_rl.errors import UsageError, check, is_number
from insight_rl.report.runs import option_name, read_config
from insight_rl.selector.acquisition import difficulty_weight, mixed_outcome_chance
from insight_rl.selector.decision_log import StepDecisions, read_decisions, read_history, read_pool
from insight_rl.selector.information import mutual_information

_NUM_SUGGESTIONS = 5


@dataclass(frozen=True, kw_only=True)
class StepView:
    """One step of a run with everything that its explanation needs; arrays run along ``candidates``."""

    step: int
    selector: str
    """Option of conf/selector, or the class where it is the user's own."""
    settings: Mapping[str, Any]
    num_rollouts: int
    candidates: StepDecisions
    visits: np.ndarray
    """How often each candidate had been rolled out before this step."""
    texts: Mapping[str, str]
    """Beginning of each prompt's text by id, the whole pool; empty where the pool was too large to keep."""

    @property
    def mean(self) -> np.ndarray:
        return self.candidates.alpha / self.evidence

    @property
    def evidence(self) -> np.ndarray:
        return self.candidates.alpha + self.candidates.beta

    @property
    def information(self) -> np.ndarray:
        """I(R_1:K ; Phi) in nats."""
        return mutual_information(self.candidates.alpha, self.candidates.beta, self.num_rollouts)

    @property
    def mixed_chance(self) -> np.ndarray:
        """The chance that the belief gives to a group with both outcomes."""
        return mixed_outcome_chance(self.candidates.alpha, self.candidates.beta, self.num_rollouts)

    @property
    def weight(self) -> np.ndarray | None:
        """w(phi_bar), for selectors that have mu and eta."""
        if not {"mu", "eta"} <= self.settings.keys():
            return None
        mu, eta = (number(self.settings, name) for name in ("mu", "eta"))
        return difficulty_weight(self.mean, mu, eta)

    @property
    def is_scored(self) -> bool:
        return not np.isnan(self.candidates.score).any()

    def rank(self, row: int) -> int:
        """1 for the best score of the candidate's round; equals share a rank."""
        peers = self.candidates.round == self.candidates.round[row]
        return 1 + int((self.candidates.score[peers] > self.candidates.score[row]).sum())

    def bar(self, round_number: int) -> float:
        """The score of the last place that the scores decide in a round: that of the M-th best, less what the
        exploration floor takes."""
        inside = self.candidates.round == round_number
        num_chosen = int(self.candidates.chosen[inside].sum())
        guards = self.settings.get("guards")
        exploration = number(guards, "exploration") if isinstance(guards, dict) and "exploration" in guards else 0.0
        num_by_score = max(num_chosen - math.ceil(exploration * num_chosen), 1)
        return float(np.sort(self.candidates.score[inside])[::-1][num_by_score - 1])

    def row_of(self, prompt_id: str) -> int | None:
        """The candidate's row, or None; of a prompt drawn in several rounds, the one in which it was chosen or the
        last."""
        rows = np.flatnonzero(self.candidates.prompt_id == prompt_id)
        chosen = rows[self.candidates.chosen[rows]]
        return int(chosen[0]) if len(chosen) else int(rows[-1]) if len(rows) else None


def load_step(run_dir: Path, step: int) -> StepView:
    """Read a step of a run. Raises ``UsageError`` for a run or a step that is not there."""
    candidates = read_decisions(run_dir, step)
    if not len(candidates):
        raise UsageError(f"step={step}: nothing was selected in it (every prompt was waiting for its outcome)")
    earlier = read_history(run_dir)
    earlier = earlier.rows((earlier.step < step) & (earlier.judged > 0))
    visits = Counter(earlier.prompt_id.tolist())
    config = read_config(run_dir)
    settings = config.get("selector") or {}
    judged = int(candidates.judged.max())
    return StepView(
        step=step,
        selector=option_name("selector", config) or "the selector",
        settings=settings,
        num_rollouts=config.get("trainer", {}).get("rollouts_per_prompt", max(judged, 2)),
        candidates=candidates,
        visits=np.array([visits[each] for each in candidates.prompt_id.tolist()]),
        texts=read_pool(run_dir),
    )


def number(settings: Mapping[str, Any], name: str) -> float:
    """A setting of the selector, as the run's own config.yaml has it. Raises ``UsageError`` if it is no number."""
    value = settings[name]
    check(is_number(value), f"selector.{name}", value, "must be a number; the run's config.yaml has been changed")
    return float(value)


def find_prompt(run_dir: Path, view: StepView, wanted: str) -> str:
    """The id that ``wanted`` is or begins, with or without the task before the slash.

    Raises ``UsageError`` with the closest ids.
    """
    known = list(view.texts) or list(dict.fromkeys([*view.candidates.prompt_id, *read_history(run_dir).prompt_id]))
    if wanted in known:
        return wanted
    parts = [each for each in known if each.startswith(wanted) or each.partition("/")[2].startswith(wanted)]
    if len(parts) == 1:
        return parts[0]
    close = parts[:_NUM_SUGGESTIONS] or difflib.get_close_matches(wanted, known, n=_NUM_SUGGESTIONS, cutoff=0.0)
    where = "the pool" if view.texts else "the decision log"
    how = f"stands for {len(parts)} prompts of" if parts else "is not the id of a prompt of"
    raise UsageError(f"prompt={wanted}: {how} {where}; closest: {', '.join(close)}")


def explain_step(view: StepView) -> list[str]:
    """The step as a whole, in sentences."""
    candidates = view.candidates
    num_chosen, num_candidates = int(candidates.chosen.sum()), len(candidates)
    sentences = []
    if not view.is_scored:
        sentences.append(
            f"Step {view.step}: {view.selector} chose {num_chosen} prompts without looking at their beliefs."
        )
    else:
        sentences.append(f"Step {view.step}: {view.selector} chose {num_chosen} of {num_candidates} candidates.")
        sentences.append(_about_the_bar(view))
    num_rounds = int(candidates.round.max()) + 1
    if num_rounds > 1:
        sentences.append(f"It took {num_rounds} rounds: the gate had prompts drawn again for groups it rejected.")
    unseen = candidates.chosen & (view.visits == 0)
    sentences.append(f"{int(unseen.sum())} of the chosen had never been rolled out before.")
    judged = candidates.rows(candidates.judged > 0)
    if len(judged):
        all_right, all_wrong = int((judged.successes == judged.judged).sum()), int((judged.successes == 0).sum())
        mixed = len(judged) - all_right - all_wrong
        sentences.append(
            f"Rolled out, {mixed} of {len(judged)} groups ({mixed / len(judged):.0%}) had both outcomes and taught the "
            f"policy something; {all_right} were all right and {all_wrong} all wrong."
        )
    return sentences


def _about_the_bar(view: StepView) -> str:
    first = view.candidates.rows(view.candidates.round == 0)
    bar = view.bar(0)
    text = f"The best score was {first.score.max():.4g}, that of the last place {bar:.4g}"
    if (first.score[~first.chosen] > bar).any():
        return f"{text}; the rule draws, so that better scores have better chances but no certainty."
    tied = int((first.score == bar).sum())
    tied_chosen = int((first.chosen & (first.score == bar)).sum())
    if tied > tied_chosen:
        return f"{text}, which {tied} candidates had: chance decided which {tied_chosen} of these were taken."
    return f"{text}; the best that was left out had {first.score[~first.chosen].max(initial=-np.inf):.4g}."


def explain_prompt(view: StepView, prompt_id: str, history: StepDecisions) -> list[str]:
    """Why this prompt was chosen in the step, or was not, in sentences. ``history``: its rows of all steps."""
    row = view.row_of(prompt_id)
    if row is None:
        return [*_why_no_candidate(view, prompt_id, history), *_before_and_after(view, history)]
    sentences = [_belief_in_words(view, row)]
    if view.is_scored:
        sentences.append(_score_in_words(view, row))
    sentences.append(_verdict(view, row))
    sentences += _outcome(view, row)
    return [*sentences, *_before_and_after(view, history)]


def _why_no_candidate(view: StepView, prompt_id: str, history: StepDecisions) -> list[str]:
    num = len(np.unique(view.candidates.prompt_id))
    size = f" of {len(view.texts)}" if view.texts else ""
    if not view.is_scored:
        reason = f"Not chosen: {view.selector} drew {num}{size} prompts uniformly, and it was not among them."
    else:
        reason = (
            f"Not a candidate in step {view.step}: {num}{size} prompts were drawn uniformly to be scored, and it was "
            "not among them. Its belief was not looked at."
        )
    sentences = [reason]
    guards = view.settings.get("guards", {})
    max_visits, window = guards.get("max_visits"), guards.get("window", 0)
    recent = history.rows((history.step < view.step) & (history.step >= view.step - window) & (history.judged > 0))
    if max_visits is not None and len(recent) >= max_visits:
        sentences.append(
            f"It had been rolled out {len(recent)} times in the {window} steps before, the most that "
            f"selector.guards.max_visits={max_visits} allows."
        )
    return sentences


def _belief_in_words(view: StepView, row: int) -> str:
    alpha, beta = float(view.candidates.alpha[row]), float(view.candidates.beta[row])
    low, high = betaincinv(alpha, beta, [0.05, 0.95])
    visits = int(view.visits[row])
    times = {0: "never rolled out", 1: "rolled out once", 2: "rolled out twice"}
    seen = times.get(visits, f"rolled out {visits} times")
    return (
        f"Belief: Beta({alpha:.4g}, {beta:.4g}), {seen} before; a success rate of {view.mean[row]:.2f}, with 90 % "
        f"certainty between {low:.2f} and {high:.2f}. The chance of a mixed group was {view.mixed_chance[row]:.0%}."
    )


def _score_in_words(view: StepView, row: int) -> str:
    score, information = view.candidates.score[row], view.information[row]
    text = f"Score: {score:.4g}; {view.num_rollouts} rollouts would tell {information:.3g} nats about its success rate"
    if view.weight is None:
        return f"{text}."
    text += f", and its difficulty weight was {view.weight[row]:.3g}"
    last = _last_in(view, int(view.candidates.round[row]))
    if last is None or view.candidates.score[row] >= view.candidates.score[last]:
        return f"{text}."
    shares = information / view.information[last], view.weight[row] / view.weight[last]
    return f"{text}: {shares[0]:.2g} and {shares[1]:.2g} times those of the prompt in the last place."


def _last_in(view: StepView, round_number: int) -> int | None:
    """The chosen candidate with the lowest score in a round."""
    rows = np.flatnonzero(view.candidates.chosen & (view.candidates.round == round_number))
    return int(rows[np.argmin(view.candidates.score[rows])]) if len(rows) else None


def _verdict(view: StepView, row: int) -> str:
    candidates = view.candidates
    chosen, score, propensity = bool(candidates.chosen[row]), candidates.score[row], candidates.propensity[row]
    word = "Chosen" if chosen else "Not chosen"
    if int(candidates.round[row]) > 0:
        word += f" in round {int(candidates.round[row]) + 1}"
    if not view.is_scored:
        return f"{word}: a uniform draw, with a chance of {propensity:.2%}."
    peers = candidates.round == candidates.round[row]
    rank, num, places = view.rank(row), int(peers.sum()), int((peers & candidates.chosen).sum())
    bar = view.bar(int(candidates.round[row]))
    text = f"{word}: rank {rank} of {num} for {places} places, the last of which took a score of {bar:.4g}"
    if not math.isnan(propensity):
        drawn = " below that bar it came in by the draw" if chosen and score < bar else ""
        return f"{text}. The rule leaves it to chance: this prompt had {propensity:.1%};{drawn}".rstrip(";") + "."
    tied = int((candidates.score[peers] == score).sum())
    if score == bar and tied > 1:
        return f"{text}. {tied} candidates had this very score, and the order in which they were drawn decided."
    return f"{text}."


def _outcome(view: StepView, row: int) -> list[str]:
    successes, judged = int(view.candidates.successes[row]), int(view.candidates.judged[row])
    if not view.candidates.chosen[row]:
        return []
    if judged <= 0:
        return ["Rolled out: no rollout was judged, so the belief stayed as it was."]
    meaning = "a mixed group, which the policy learnt from"
    if successes in (0, judged):
        meaning = f"all {'right' if successes else 'wrong'}, so there was nothing for the policy to learn from"
    return [f"Rolled out: {successes} of {judged} right, {meaning}."]


def _before_and_after(view: StepView, history: StepDecisions) -> list[str]:
    rolled_out = history.rows(history.judged > 0)
    num_candidate = len(np.unique(history.step))
    if not num_candidate:
        return ["It has not been a candidate in any step so far."]
    before, after = history.rows(history.step < view.step), history.rows(history.step > view.step)
    sentences = [f"Over the whole log: a candidate in {num_candidate} steps, rolled out in {len(rolled_out)}."]
    if view.step not in history.step and len(before):
        sentences.append(f"Last a candidate before that in step {before.step[-1]}{_belief_at(before, -1)}.")
    if len(after):
        sentences.append(f"Next a candidate in step {after.step[0]}{_belief_at(after, 0)}.")
    return sentences


def _belief_at(history: StepDecisions, row: int) -> str:
    chosen = "and chosen" if history.chosen[row] else "not chosen"
    return f", with belief Beta({history.alpha[row]:.4g}, {history.beta[row]:.4g}), {chosen}"
