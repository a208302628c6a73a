"""Rollouts inside a page: compressed in pieces, of which the reader's browser opens those that it shows.

The page holds a small index of all groups, for its filters, and the groups themselves in pieces of some hundred
kilobytes. Pieces are gzip in base64, so that no text in them can be taken for a part of the page. A script of our own
(``rollouts.js``) shows one group at a time.
"""

from __future__ import annotations

import base64
import gzip
import html
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from insight_rl.report.run_files import Rollout, RolloutGroup
from insight_rl.report.worst_cases import KINDS, Place

PIECE_BYTES = 512 * 1024
"""Of JSON, before it is compressed: what the browser opens at a time."""
PREVIEW = 160
"""Characters of a prompt in the index, which can be searched at once."""

SCRIPT = Path(__file__).with_name("rollouts.js")

STYLE = """
.viewer { border: 1px solid var(--grid); border-radius: 8px; padding: .8rem; margin: 1rem 0; }
.viewer .bar { display: flex; flex-wrap: wrap; gap: .5rem .8rem; align-items: end; }
.viewer label { display: grid; font-size: .8rem; color: var(--muted); gap: .15rem; flex: 1 1 9rem; max-width: 18rem; }
.viewer select, .viewer input, .viewer button, button.show { font: inherit; font-size: .9rem; padding: .3rem .5rem;
  color: var(--ink); background: var(--box); border: 1px solid var(--grid); border-radius: 6px; min-width: 0; }
.viewer select, .viewer input { width: 100%; }
button.show, .viewer button { cursor: pointer; }
.viewer button:disabled { opacity: .45; cursor: default; }
.viewer .place { margin: .8rem 0 .2rem; display: flex; flex-wrap: wrap; gap: .5rem; align-items: center; }
.viewer .place span { flex: 1 1 auto; text-align: center; font-variant-numeric: tabular-nums; }
.viewer h4 { margin: .8rem 0 .2rem; font-size: .95rem; }
.viewer pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: .3rem 0; max-height: 24rem; overflow-y: auto; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(19rem, 100%), 1fr)); gap: .7rem; }
.card { border: 1px solid var(--grid); border-left: 5px solid var(--muted); border-radius: 6px; padding: .5rem .6rem;
  min-width: 0; }
.card.right { border-left-color: var(--green); }
.card.wrong { border-left-color: var(--orange); }
.card .head { font-size: .85rem; display: flex; flex-wrap: wrap; gap: .2rem .7rem; }
.card .head b { font-size: .95rem; }
.card .head span, .facts { color: var(--muted); font-size: .82rem; }
.chip { background: var(--warn); border-radius: 4px; padding: 0 .35rem; font-size: .78rem; color: var(--ink); }
"""


def viewer(groups: Sequence[RolloutGroup], worst: Mapping[Place, Sequence[str]]) -> str:
    """The markup of a viewer of these groups, with their content; it needs :data:`SCRIPT` and :data:`STYLE`."""
    index: list[list[Any]] = []
    pieces: list[str] = []
    for number, piece in enumerate(_pieces(groups, worst)):
        pieces.append(_packed("[" + ",".join(text for _, text in piece) + "]", f"rollouts-{number}"))
        for place, (group_number, _) in enumerate(piece):
            index.append([number, place, *_summary(groups[group_number], _kinds(worst, group_number, groups))])
    kinds = [[kind.key, kind.title] for kind in KINDS]
    about = json.dumps({"kinds": kinds, "groups": index}, ensure_ascii=True, separators=(",", ":"))
    return _MARKUP + _packed(about, "rollouts-index") + "".join(pieces)


def _pieces(groups: Sequence[RolloutGroup], worst: Mapping[Place, Sequence[str]]) -> Iterator[list[tuple[int, str]]]:
    """Numbers of groups and what the browser is given of them, some groups at a time."""
    piece: list[tuple[int, str]] = []
    size = 0
    for number, group in enumerate(groups):
        text = json.dumps(_content(number, group, worst), ensure_ascii=True, separators=(",", ":"))
        if piece and size + len(text) > PIECE_BYTES:
            yield piece
            piece, size = [], 0
        piece.append((number, text))
        size += len(text)
    if piece:
        yield piece


def _content(number: int, group: RolloutGroup, worst: Mapping[Place, Sequence[str]]) -> dict[str, Any]:
    return {
        "prompt": group.prompt,
        "answer": group.answer,
        "task": group.task,
        "rollouts": [_rollout(each, worst.get((number, place), ())) for place, each in enumerate(group.rollouts)],
    }


def _rollout(rollout: Rollout, kinds: Sequence[str]) -> dict[str, Any]:
    return {
        "text": rollout.text,
        "cut": rollout.num_cut,
        "tokens": rollout.tokens,
        "finish": rollout.finish,
        "version": rollout.version,
        "success": rollout.success,
        "value": rollout.value,
        "status": rollout.status,
        "reason": rollout.reason,
        "gap": rollout.gap,
        "kinds": list(kinds),
    }


def _kinds(worst: Mapping[Place, Sequence[str]], number: int, groups: Sequence[RolloutGroup]) -> int:
    """One bit for each kind that a rollout of the group is of."""
    keys = {key for place in range(len(groups[number].rollouts)) for key in worst.get((number, place), ())}
    return sum(1 << bit for bit, kind in enumerate(KINDS) if kind.key in keys)


def _summary(group: RolloutGroup, kinds: int) -> list[Any]:
    """Step, prompt, counts of rollouts, verdicts and right ones, most tokens, largest gap, kinds: see rollouts.js."""
    gaps = [each.gap for each in group.rollouts if each.gap is not None]
    return [
        group.step,
        group.prompt_id,
        group.prompt[:PREVIEW],
        len(group.rollouts),
        sum(each.success is not None for each in group.rollouts),
        sum(each.success is True for each in group.rollouts),
        max(each.tokens for each in group.rollouts),
        max(gaps, default=None),
        kinds,
    ]


def _packed(text: str, name: str) -> str:
    content = base64.b64encode(gzip.compress(text.encode(), compresslevel=6, mtime=0)).decode()
    # A type that browsers do not run; base64 has no sign that means anything in HTML.
    return f'<script type="application/x-packed" id="{html.escape(name)}">{content}</script>\n'


_MARKUP = """<div class="viewer" id="viewer">
<noscript><p class="warning">To leaf through the rollouts the browser has to run the script of this page.</p></noscript>
<div class="bar">
<label>verdicts<select id="by-verdict"><option value="">all groups</option>
<option value="mixed">right and wrong</option><option value="right">all right</option>
<option value="wrong">all wrong</option>
<option value="unjudged">some not judged</option></select></label>
<label>worth a look<select id="by-kind"><option value="">anything</option></select></label>
<label>step<select id="by-step"><option value="">all steps</option></select></label>
<label>order<select id="order"><option value="">as rolled out</option><option value="gap">largest gap first</option>
<option value="tokens">longest first</option><option value="rare">fewest right first</option></select></label>
<label>prompt or completion contains<input id="search" type="search" autocomplete="off"></label>
</div>
<div class="place"><button id="previous" type="button">&larr; previous</button><span id="position" role="status"></span>
<button id="next" type="button">next &rarr;</button></div>
<div id="group"></div>
</div>
"""
