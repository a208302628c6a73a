"""The report of one run: a page that a person reads in five minutes. See docs/report.md."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from insight_rl.clock import STEP_PHASES
from insight_rl.files import write_atomically
from insight_rl.nested import value_at
from insight_rl.report import rollout_pages
from insight_rl.report.blocks import Block, Bullets, Code, Heading, Html, Table, Text, Warning, to_html
from insight_rl.report.charts import STYLE as CHART_STYLE
from insight_rl.report.charts import Line, grid, line_chart
from insight_rl.report.run_files import RecordedRun, number, read_run
from insight_rl.report.runs import option_name
from insight_rl.report.selected import last_step_in_words, most_selected, new_by_step, reliability, stretches
from insight_rl.report.worst_cases import KINDS, Place, find_worst_cases
from insight_rl.run_command import command_of

REPORT_FILE = "report.html"
_NUM_PROMPTS = 15
_NUM_PARTS = 5
_NUM_NOTICES = 12
_MAX_PROMPT = 140
_PER_CENT = 100.0

Blocks = list[Block | Html]


def write_report(run_dir: Path, output: Path) -> None:
    """Read a run's folder and write its page. Raises ``UsageError`` for a folder that is not that of a run."""
    # Half a surrogate pair cannot be written.
    write_atomically(output, report_page(read_run(run_dir)).encode("utf-8", "replace"))


def report_page(run: RecordedRun) -> str:
    """The page as HTML."""
    worst = find_worst_cases(run.groups)
    blocks = [
        *_front(run),
        *_trained(run),
        *_curves(run),
        *_selection(run),
        *_calibration(run),
        *_worst(run, worst),
        *_rollouts(run, worst),
        *_costs(run),
    ]
    title = f"Run {run.run_dir.resolve().name}"
    return to_html(title, blocks, style=CHART_STYLE + rollout_pages.STYLE, script=rollout_pages.SCRIPT.read_text())


def _front(run: RecordedRun) -> Blocks:
    names = {group: option_name(group, run.config) or "?" for group in ("selector", "task")}
    blocks: Blocks = [Heading(1, f"Run {run.run_dir.resolve().name}: {names['selector']} on {names['task']}")]
    blocks.append(Text(_answer(run), is_lead=True))
    blocks += [Warning(f"Not all of the folder could be read. {text}.") for text in run.problems]
    if run.notices:
        # Of one that is repeated, the last.
        notices = list(dict.fromkeys(reversed(run.notices)))[:_NUM_NOTICES][::-1]
        blocks += [Heading(3, "What the run said"), Bullets(notices)]
    return blocks


def _answer(run: RecordedRun) -> str:
    """How far the run came, in two or three sentences."""
    last = run.records[-1]["step"]
    wanted = number(value_at(run.config, "trainer.num_steps"))
    of_wanted = f" of {wanted:.0f}" if wanted and wanted != last else ""
    accuracy = _values(run, "eval/accuracy")
    sentences = []
    if len(accuracy) > 1:
        width = _values(run, "eval/accuracy_half_width")
        sure = f" (each within {_points(width[-1])} points for another draw of problems)" if width.size else ""
        change = accuracy[-1] - accuracy[0]
        sentences.append(
            f"Held-out accuracy went from {_points(accuracy[0])} % to {_points(accuracy[-1])} %, "
            f"{_PER_CENT * change:+.1f} points, in {last}{of_wanted} steps{sure}."
        )
    else:
        sentences.append(f"{last}{of_wanted} steps are done; held-out accuracy was measured less than twice.")
    rollouts, tokens = (_values(run, key) for key in ("rollout/num_rollouts", "rollout/num_tokens"))
    if rollouts.size and tokens.size:
        sentences.append(f"That took {rollouts[-1]:,.0f} rollouts with {tokens[-1]:,.0f} tokens.")
    informative = _values(run, "selector/informative_fraction")
    if informative.size:
        sentences.append(
            f"On average {_points(informative.mean())} % of the groups had both right and wrong rollouts; only these "
            "teach the policy something."
        )
    return " ".join(sentences)


_OPTIONS = ("model", "task", "reward", "selector", "gate", "algorithm", "learner", "rollout", "trainer")
_SETTINGS = (
    ("seed", "seed"),
    ("steps", "trainer.num_steps"),
    ("prompts a step", "trainer.prompts_per_step"),
    ("rollouts a prompt", "trainer.rollouts_per_prompt"),
    ("longest completion, tokens", "trainer.max_completion_tokens"),
    ("temperature", "trainer.temperature"),
    ("most rollouts", "trainer.max_rollouts"),
    ("most tokens", "trainer.max_tokens"),
    ("most device seconds", "trainer.max_device_s"),
    ("learning rate", "learner.lr"),
    ("advantage", "algorithm.advantage"),
    ("precision", "model.dtype"),
    ("ranks", "learner.num_ranks"),
)


def _trained(run: RecordedRun) -> Blocks:
    blocks: Blocks = [Heading(2, "What was trained")]
    if not run.config:
        return [*blocks, Text("The folder has no config.yaml: another trainer's run, or one that was copied in part.")]
    facts = [(group, option_name(group, run.config) or "?") for group in _OPTIONS]
    facts += [(name, _short(value)) for name, key in _SETTINGS if (value := value_at(run.config, key)) is not None]
    blocks.append(Html(_facts(facts)))
    selector = value_at(run.config, "selector")
    if isinstance(selector, Mapping):
        plain = [f"{key}={_short(value)}" for key, value in selector.items() if isinstance(value, (int, float, str))]
        settings = ", ".join(each for each in plain if not each.startswith("_"))
        if settings:
            blocks.append(Text(f"Settings of the selector: {settings}."))
    command = command_of(run.config)
    if command.is_exact:
        blocks += [Text("The same run again, in a new folder:"), Code(str(command))]
    else:
        text = (
            "No command of this version makes exactly these settings: it has options of its own, or is older or newer."
        )
        blocks.append(Text(f"{text} All of them are in its config.yaml."))
    if run.versions:
        versions = ", ".join(f"{name} {version}" for name, version in run.versions.items())
        blocks.append(Text(f"Versions: {versions}."))
    return blocks


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    cells = "".join(f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>" for name, value in facts)
    return f'<dl class="facts-list">{cells}</dl>'


def _curves(run: RecordedRun) -> Blocks:
    def line(key: str, name: str = "", *, against: str = "step") -> Line:
        x, y = _series(run, key, against)
        return Line(name=name or key, x=x, y=y)

    charts = [
        line_chart("Held-out accuracy by steps", "steps", [line("eval/accuracy")], per_cent=True),
        line_chart(
            "Held-out accuracy by rollouts",
            "rollouts",
            [line("eval/accuracy", against="rollout/num_rollouts")],
            per_cent=True,
        ),
        line_chart(
            "Held-out accuracy by tokens",
            "tokens",
            [line("eval/accuracy", against="rollout/num_tokens")],
            per_cent=True,
        ),
        line_chart(
            "Groups with right and wrong rollouts",
            "steps",
            [line("selector/informative_fraction")],
            per_cent=True,
        ),
        line_chart(
            "Rollouts: share right, and mean reward",
            "steps",
            [line("reward/accuracy", "right"), line("reward/mean", "reward")],
        ),
        line_chart(
            "Length of completions, tokens",
            "steps",
            [line("rollout/mean_tokens", "mean"), line("rollout/max_tokens", "longest")],
        ),
        line_chart(
            "Cut off or not judged",
            "steps",
            [line("rollout/truncated_fraction", "cut off"), line("reward/unjudged_fraction", "not judged")],
            per_cent=True,
        ),
        line_chart(
            "Log-prob gap of engine and learner, nats",
            "steps",
            [line("rollout/logprob_gap_mean", "mean"), line("rollout/logprob_gap_max", "largest token")],
        ),
        line_chart("Entropy of the policy, nats a token", "steps", [line("learner/entropy")]),
    ]
    note = "The accuracy of the rollouts follows the selection too; compare runs by held-out accuracy. docs/metrics.md"
    return [Heading(2, "Curves"), Html(grid(charts)), Text(f"{note} explains every figure.")]


def _selection(run: RecordedRun) -> Blocks:
    blocks: Blocks = [Heading(2, "What was selected, and why")]
    if not run.selections:
        return [*blocks, Text("The folder has no selections.jsonl.")]
    steps = new_by_step(run.selections)
    total = sum(size for _, size, _ in steps)
    num_new = sum(new for _, _, new in steps)
    pool = f" of the {len(run.texts):,} in the pool" if run.texts else ""
    blocks.append(
        Text(
            f"{total:,} prompts were rolled out in {len(steps):,} steps, {num_new:,} different ones{pool}: "
            f"{_points(num_new / max(total, 1))} % of the selections were of a prompt that the run had not had before."
        )
    )
    x = np.array([step for step, _, _ in steps], np.float64)
    shares = np.array([new / max(size, 1) for _, size, new in steps])
    new = line_chart("New prompts among the selected", "steps", [Line(name="new", x=x, y=shares)], per_cent=True)
    blocks.append(Html(grid([new])))
    parts = stretches(run, _NUM_PARTS)
    if parts:
        columns = [
            ("steps", ""),
            ("selected", "prompts"),
            ("new", "share of them that the run had not had before"),
            ("informative, new", "of the new ones, share of groups with both right and wrong rollouts"),
            ("informative, again", "the same of those that it had had before"),
            ("belief", "mean success rate that the selector expected of what it selected"),
            ("score", "mean score that they were selected with; of the selector's own kind"),
        ]
        rows = [
            (
                f"{each.first_step} to {each.last_step}",
                f"{each.num_selected:,}",
                f"{_points(each.new / each.num_selected)} %",
                _share(each.informative_new, each.judged_new),
                _share(each.informative_again, each.judged_again),
                _figure(each.mean_belief, ".2f"),
                _figure(each.mean_score),
            )
            for each in parts
        ]
        blocks.append(Table(columns, rows))
    if words := last_step_in_words(run):
        blocks += [Heading(3, "The last step in words"), Text(words)]
    blocks += [Heading(3, "Selected most often"), *_prompts(run)]
    if run.decisions:
        blocks.append(Text("Why one prompt was chosen in a step, in sentences and as a picture:"))
        blocks.append(Code("insight-rl explain run_dir=... step=... prompt=..."))
    else:
        blocks.append(Text("The run has no decision log, so beliefs and scores are not known."))
    return blocks


def _prompts(run: RecordedRun) -> Blocks:
    texts = dict(run.texts)
    for group in run.groups:
        texts.setdefault(group.prompt_id, group.prompt)
    rows = []
    found = most_selected(run, _NUM_PROMPTS)
    for each in found:
        text = " ".join(str(texts.get(each.prompt_id, "")).split())
        # The end tells more than the beginning, which is often the same instruction in all prompts.
        shown = text if len(text) <= _MAX_PROMPT else f"{text[: _MAX_PROMPT // 3]} ... {text[-2 * _MAX_PROMPT // 3 :]}"
        belief = f"Beta({each.alpha:.3g}, {each.beta:.3g})" if np.isfinite(each.alpha + each.beta) else "-"
        rows.append(
            (
                each.prompt_id,
                shown or "-",
                str(each.num_times),
                f"{each.first_step} to {each.last_step}" if each.num_times > 1 else str(each.first_step),
                belief,
                _figure(each.score),
                f"{each.successes} of {each.judged}" if each.judged else "-",
            )
        )
    columns = [
        ("prompt", ""),
        ("text", ""),
        ("times", "in how many steps it was selected"),
        ("steps", "the first and the last of them"),
        ("belief", "before its last selection; the mean of Beta(a, b) is a / (a + b), and a + b is the evidence"),
        ("score", "that it was last selected with"),
        ("right", "rollouts in all these steps"),
    ]
    table = Table(columns, rows, with_text=frozenset({"text"}))
    if all(each.num_times == 1 for each in found):
        return [Text("No prompt has been selected more than once; these are the latest."), table]
    return [table]


def _calibration(run: RecordedRun) -> Blocks:
    kinds = {"rolled out before": False, "new": True}
    found = {name: reliability(run.decisions, new=new) for name, new in kinds.items()}
    found = {name: bins for name, bins in found.items() if bins}
    if not found:
        return []
    lines, rows, sentences = [], [], []
    for name, bins in found.items():
        foretold, observed = (np.array([getattr(each, key) for each in bins]) for key in ("foretold", "observed"))
        weights = np.array([each.num_rollouts for each in bins], np.float64)
        lines.append(Line(name=name, x=foretold, y=observed))
        error = float(np.average(np.abs(foretold - observed), weights=weights))
        sentences.append(f"by {_points(error)} points for prompts that were {name}")
        for each in bins:
            rates = (f"{_points(each.foretold)} %", f"{_points(each.observed)} %")
            rows.append((name, *rates, f"{each.num_groups:,}", f"{each.num_rollouts:,}"))
    brier, coverage = (
        [Line(name=name, x=x, y=y)] for name in ("brier", "coverage") for x, y in [_series(run, f"selector/{name}")]
    )
    charts = [
        line_chart("Success: foretold (across), observed (up)", "foretold", lines, per_cent=True, diagonal=True),
        line_chart("Brier score of the beliefs; a coin has 0.25", "steps", brier),
        line_chart("Groups inside the belief's 90 % interval", "steps", coverage, per_cent=True),
    ]
    columns = [
        ("prompts", ""),
        ("foretold", "mean belief of the groups in this tenth, before they were rolled out"),
        ("observed", "share of their rollouts that were right"),
        ("groups", ""),
        ("rollouts", ""),
    ]
    text = (
        f"By tenths of what they foretold, beliefs were off {' and '.join(sentences)}. On the dashed line both rates "
        "are equal. A new prompt has the belief that the selector starts with."
    )
    return [Heading(2, "Were the beliefs right?"), Text(text), Html(grid(charts)), Table(columns, rows)]


def _worst(run: RecordedRun, worst: Mapping[Place, Sequence[str]]) -> Blocks:
    if not run.groups:
        return []
    num = sum(len(group.rollouts) for group in run.groups)
    counts = Counter(key for keys in worst.values() for key in keys)
    rows = []
    for bit, kind in enumerate(KINDS):
        if not counts[kind.key]:
            continue
        share = f"{counts[kind.key]:,} ({_points(counts[kind.key] / num)} %)"
        button = f'<button class="show" type="button" data-kind="{bit}" data-order="{kind.order}">show</button>'
        words = f"<b>{html.escape(kind.title)}</b><small>{html.escape(f'{kind.meaning}; {kind.remedy}')}</small>"
        rows.append(f'<tr><td class="text">{words}</td><td>{html.escape(share)}</td><td>{button}</td></tr>')
    none = [kind.title for kind in KINDS if not counts[kind.key]]
    blocks: Blocks = [Heading(2, "Worst cases")]
    if rows:
        head = "<tr><th>kind</th><th>rollouts</th><th></th></tr>"
        table = f'<table class="worst"><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table>'
        blocks.append(Html(f'<div class="wide">{table}</div>'))
    if none:
        blocks.append(Text(f"Of the {num:,} logged rollouts none was: {'; '.join(none)}."))
    return blocks


def _rollouts(run: RecordedRun, worst: Mapping[Place, Sequence[str]]) -> Blocks:
    blocks: Blocks = [Heading(2, "Rollouts")]
    if not run.groups:
        text = "The run has no rollout log (rollouts/): it was made with rollout_log.every=0, or by an earlier version."
        return [*blocks, Text(text)]
    steps = list(dict.fromkeys(group.step for group in run.groups))
    num = sum(len(group.rollouts) for group in run.groups)
    listed = f"{', '.join(map(str, steps[:4]))}{', ...' if len(steps) > 4 else ''}"
    text = (
        f"{num:,} rollouts of {len(steps)} steps ({listed}). The arrow keys leaf too. The gap is the mean difference, "
        "over the tokens, of the log-probs of engine and learner before the update; it is not computed for rollouts "
        "that nothing was learnt from."
    )
    return [*blocks, Text(text), Html(rollout_pages.viewer(run.groups, worst))]


def _costs(run: RecordedRun) -> Blocks:
    names = (*STEP_PHASES, "evaluate", "checkpoint")
    seconds = {name: float(_values(run, f"time/{name}_s").sum()) for name in names}
    of_steps = float(_values(run, "time/step_s").sum())
    seconds["rest of the steps"] = max(of_steps - sum(seconds[name] for name in STEP_PHASES), 0.0)
    total = sum(seconds.values())
    blocks: Blocks = [Heading(2, "Time and memory")]
    if total > 0:
        bars = "".join(
            f"<tr><td>{html.escape(name)}</td><td>{value:,.1f} s</td><td>{_points(value / total)} %</td>"
            f'<td class="text"><i class="part" style="width: {value / total * _PER_CENT:.1f}%"></i></td></tr>'
            for name, value in seconds.items()
        )
        blocks.append(Html(f'<div class="wide"><table class="times"><tbody>{bars}</tbody></table></div>'))
    memory = sorted({key for record in run.records for key in record if key.startswith("memory/")})
    if memory:
        rows = [
            (key.removeprefix("memory/").removesuffix("_gib").replace("_", " "), f"{_values(run, key).max():.2f} GiB")
            for key in memory[:40]
        ]
        blocks.append(Table([("process", ""), ("most memory", "resident, or on the GPU where the name says so")], rows))
    return blocks if len(blocks) > 1 else []


def _series(run: RecordedRun, key: str, against: str = "step") -> tuple[np.ndarray, np.ndarray]:
    """``key`` where it was logged, over the latest value of ``against`` (0 before any)."""
    xs, ys, x = [], [], 0.0
    for record in run.records:
        x = record.get(against, x)
        if key in record:
            xs.append(x)
            ys.append(record[key])
    return np.array(xs, np.float64), np.array(ys, np.float64)


def _values(run: RecordedRun, key: str) -> np.ndarray:
    return _series(run, key)[1]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _MAX_PROMPT else f"{text[:_MAX_PROMPT]} ..."


def _points(value: float) -> str:
    return f"{_PER_CENT * value:.1f}"


def _share(part: int, whole: int) -> str:
    return f"{_points(part / whole)} %" if whole else "-"


def _figure(value: float, form: str = ".3g") -> str:
    return format(value, form) if np.isfinite(value) else "-"
