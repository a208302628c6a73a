"""How pictures look: one palette, and one colour for a selector wherever it is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

# The palette of Okabe and Ito, which colour-blind readers can tell apart; its yellow vanishes on white and is left out.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", ":")
GREY = "#666666"
_SELECTORS = ("insight", "random", "mopps", "mapp", "dps", "expected_signal", "dynamic_sampling")
"""Those with a colour of their own, in the order of the palette; the others take what a picture leaves unused."""

STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.8,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "legend.frameon": False,
}
"""matplotlib settings that every picture of the project shares."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """How the runs of one group are drawn."""

    colour: str
    marker: str
    line: Any


_LOOKS = tuple(
    Look(colour=colour, marker=marker, line=line)
    for line in LINES
    for colour, marker in zip(COLOURS, MARKERS, strict=True)
)


def looks_of(selectors: Mapping[str, str]) -> dict[str, Look]:
    """A look for each label of a picture, given the selector that it stands for.

    The first label of a selector has that selector's own colour. Further ones (other settings) have a colour that no
    other label has, as long as there are seven or fewer, and are dashed.
    """
    looks: dict[str, Look] = {}
    seen: set[str] = set()
    for label, selector in selectors.items():
        if selector in _SELECTORS and selector not in seen:
            looks[label] = _LOOKS[_SELECTORS.index(selector)]
            seen.add(selector)
    free = [look for look in _LOOKS if look not in looks.values()]
    for label, selector in selectors.items():
        if label not in looks:
            look = free.pop(0) if free else _LOOKS[len(looks) % len(_LOOKS)]
            looks[label] = replace(look, line="--") if selector in seen else look
            seen.add(selector)
    return {label: looks[label] for label in selectors}
