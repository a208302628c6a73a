"""The table of scripts/simulate_wrong_verdicts.py, from rows made by hand."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "scripts" / "simulate_wrong_verdicts.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("simulate_wrong_verdicts", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_selector_meets_every_share_with_each_correction(script):
    arms = [(setting, name) for setting, name, _ in script.arms()]
    assert len(set(arms)) == len(arms) == 3 * 1 + 4 * (2 + 3 + 3)
    flips = {setting: overrides for setting, name, overrides in script.arms() if name == "insight_given"}
    assert "selector.verifier_error=0.2" in flips["wrong_20"]
    assert "synthetic_learner.false_negative=0.2" in flips["wrong_20"]


def test_differences_are_paired_and_half_a_seed_is_left_out(script, tmp_path):
    """Gains of 1 and 3 points for arms without, 2 points more for those with correction; seed 2 has one arm only."""
    output = tmp_path / "rows.csv"
    with output.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(script.COLUMNS)
        for setting, arm, _ in script.arms():
            more = 0.02 if arm.endswith(("_given", "_estimate")) else 0.0
            for seed, gain in ((0, 0.01), (1, 0.03)):
                for step, accuracy in ((0, 0.4), (100, 0.4 + gain + more)):
                    writer.writerow([setting, arm, seed, step, 0, "", 0.0, accuracy, ""])
        writer.writerow(["wrong_00", "random", 2, 0, 0, "", 0.0, 0.9, ""])
    lines = script.table(output)
    assert lines[0].startswith("2 pools")
    row = next(line for line in lines if line.startswith("| insight |")).split(" | ")
    assert row[1].startswith("2.00 ± 12.7")  # t quantile of one degree of freedom
    assert row[4] == "+2.00 ± 0.00"
    assert next(line for line in lines if line.startswith("| random |")).split(" | ")[4].strip(" |") == ""
