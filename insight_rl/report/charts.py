"""Small charts as SVG for a page: drawn without a library, in the page's own colours, narrow enough for a telephone."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

COLOURS = ("blue", "orange", "green", "pink")
"""Variables of the page's style, in the order of a chart's lines."""

_WIDTH, _HEIGHT = 320.0, 195.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 18.0, 8.0, 34.0
_NUM_TICKS = 5
_MAX_POINTS = 400
_MAX_MARKED = 30


@dataclass(frozen=True, kw_only=True)
class Line:
    """``x`` and ``y``: float64, equally long; what is not finite is left out."""

    name: str
    x: np.ndarray
    y: np.ndarray


def line_chart(
    title: str, x_name: str, lines: Sequence[Line], *, per_cent: bool = False, diagonal: bool = False, note: str = ""
) -> str:
    """A figure with its title above and the names of its lines below; empty where there is nothing to draw.

    ``per_cent``: values from 0 to 1, written as 0 to 100 %. ``diagonal``: both axes from 0 to 1, and the line on which
    they are equal.
    """
    drawn = [line for line in map(_thinned, lines) if line.x.size]
    if not drawn:
        return ""
    all_x, all_y = np.concatenate([line.x for line in drawn]), np.concatenate([line.y for line in drawn])
    x_axis = _Axis(0.0, 1.0) if diagonal else _Axis.around(all_x)
    y_axis = _Axis(0.0, 1.0) if diagonal else _Axis.around(all_y, from_zero=bool((all_y >= 0).all()))
    if per_cent and (all_y >= 0).all() and (all_y <= 1).all():
        y_axis = _Axis(max(y_axis.low, 0.0), min(y_axis.high, 1.0))
    parts = [*_grid(x_axis, y_axis, per_cent=per_cent, both=diagonal)]
    if diagonal:
        parts.append(_path(_places([0.0, 1.0], [0.0, 1.0], x_axis, y_axis), "muted", dashed=True))
    for line, colour in zip(drawn, COLOURS, strict=False):
        places = _places(line.x, line.y, x_axis, y_axis)
        parts.append(_path(places, colour))
        if len(places) <= _MAX_MARKED:
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" fill="var(--{colour})"/>' for x, y in places]
    names = [line.name for line in drawn]
    keys = "".join(
        f'<span class="key"><i style="background: var(--{colour})"></i>{html.escape(name)}</span>'
        for name, colour in zip(names, COLOURS, strict=False)
    )
    legend = f"<p>{keys}</p>" if len(drawn) > 1 else ""
    ends = "; ".join(f"{line.name} from {_number(line.y[0])} to {_number(line.y[-1])}" for line in drawn)
    label = html.escape(f"{title}, over {x_name}: {ends}")
    below = f"<p>{html.escape(note)}</p>" if note else ""
    return (
        f'<figure class="chart"><figcaption>{html.escape(title)}</figcaption>'
        f'<svg viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" role="img" aria-label="{label}">{"".join(parts)}'
        f'<text x="{_WIDTH - _RIGHT:.0f}" y="{_HEIGHT - 4:.0f}" text-anchor="end">{html.escape(x_name)}</text></svg>'
        f"{legend}{below}</figure>"
    )


def grid(charts: Sequence[str]) -> str:
    """Charts side by side, as many as there is room for; without the empty ones."""
    return f'<div class="charts">{"".join(charts)}</div>'


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float

    @classmethod
    def around(cls, values: np.ndarray, *, from_zero: bool = False) -> _Axis:
        low, high = float(values.min()), float(values.max())
        # A range that is small beside its level is shown from near the level: there the movement is.
        if from_zero and low < 0.5 * high:
            low = 0.0
        if high - low < 1e-12 * max(abs(high), abs(low)) or high == low:
            margin = abs(high) * 0.1 or 1.0
            low, high = (0.0 if from_zero and low - margin < 0 else low - margin), high + margin
        return cls(low, high)

    def ticks(self) -> list[float]:
        rough = (self.high - self.low) / _NUM_TICKS
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
        first = math.ceil(self.low / step - 1e-9)
        return [number * step for number in range(first, math.floor(self.high / step + 1e-9) + 1)]

    def share(self, value: float) -> float:
        return (value - self.low) / (self.high - self.low)


def _thinned(line: Line) -> Line:
    x, y = np.asarray(line.x, np.float64), np.asarray(line.y, np.float64)
    # Beyond this the distance of two values is no finite number.
    known = (np.abs(x) < 1e300) & (np.abs(y) < 1e300)
    x, y = x[known], y[known]
    if x.size > _MAX_POINTS:
        edges = np.linspace(0, x.size, _MAX_POINTS + 1).astype(int)
        x, y = (np.add.reduceat(values, edges[:-1]) / np.diff(edges) for values in (x, y))
    return Line(name=line.name, x=x, y=y)


def _places(
    x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray, x_axis: _Axis, y_axis: _Axis
) -> list[tuple[float, float]]:
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    return [
        (_LEFT + x_axis.share(float(a)) * width, _TOP + (1 - y_axis.share(float(b))) * height)
        for a, b in zip(x, y, strict=True)
    ]


def _grid(x_axis: _Axis, y_axis: _Axis, *, per_cent: bool, both: bool) -> list[str]:
    parts = []
    for value in y_axis.ticks():
        _, y = _places([x_axis.low], [value], x_axis, y_axis)[0]
        parts.append(f'<line x1="{_LEFT:.0f}" x2="{_WIDTH - _RIGHT:.0f}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        parts.append(f'<text x="{_LEFT - 5:.0f}" y="{y + 3.5:.1f}" text-anchor="end">{_tick(value, per_cent)}</text>')
    for value in x_axis.ticks():
        x, _ = _places([value], [y_axis.low], x_axis, y_axis)[0]
        text = _tick(value, per_cent and both)
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 14:.0f}" text-anchor="middle">{text}</text>')
    return parts


def _path(places: Sequence[tuple[float, float]], colour: str, *, dashed: bool = False) -> str:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dashes = ' stroke-dasharray="4 4"' if dashed else ""
    width = 1.2 if dashed else 2
    return f'<polyline points="{points}" fill="none" stroke="var(--{colour})" stroke-width="{width}"{dashes}/>'


def _tick(value: float, per_cent: bool) -> str:
    return f"{_number(100 * value)} %" if per_cent else _number(value)


def _number(value: float) -> str:
    size = abs(value)
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size >= limit:
            return f"{value / limit:.4g}{letter}"
    return "0" if size < 1e-12 else f"{value:.3g}"


STYLE = """
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(18rem, 100%), 1fr)); gap: 1rem 1.4rem; }
figure.chart { margin: 0; overflow: visible; max-width: 26rem; }
figure.chart figcaption { color: var(--ink); font-size: .88rem; font-weight: 600; min-height: 1.4em; }
figure.chart svg { min-width: 0; width: 100%; }
figure.chart text { font-size: 11px; fill: var(--muted); font-family: system-ui, sans-serif; }
figure.chart .grid { stroke: var(--grid); stroke-width: 1; }
figure.chart p { font-size: .8rem; color: var(--muted); margin: .1rem 0; }
.key { margin-right: .9rem; white-space: nowrap; }
.key i { display: inline-block; width: .9rem; height: .2rem; vertical-align: middle; margin-right: .3rem; }
.facts-list { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: .6rem 1.2rem;
  max-width: none; font-size: .9rem; }
.facts-list div { min-width: 0; }
.facts-list dt { float: none; margin: 0; font-weight: 400; font-size: .82rem; }
.facts-list dd { color: var(--ink); overflow-wrap: anywhere; }
table.worst td.text { min-width: 12rem; max-width: 40rem; }
table.worst small { display: block; color: var(--muted); }
pre { white-space: pre-wrap; overflow-wrap: anywhere; }
table.times td:nth-child(4) { width: 16rem; }
.part { display: block; height: .7rem; background: var(--blue); border-radius: 2px; min-width: 1px; }
"""
"""Of a page with charts, or with bars in a table."""
