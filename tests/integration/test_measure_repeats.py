"""The parts of scripts/measure_repeats.py and repeats_analysis.py that do not train, and the start of what does."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import measure_repeats
import repeats_analysis


def test_the_lab_starts_from_the_bundled_model():
    with ExitStack() as cleanup:
        lab = measure_repeats.Lab(cleanup)
        assert len(lab.pool) >= measure_repeats.NUM_SCREENED
        assert lab.lr > 0


def test_fresh_prompts_are_matched_one_to_one_with_the_least_gaps():
    rates = np.array([0.5, 0.2, 0.21, 0.9, 0.52, 0.19])
    # Both of the set would like the prompt at 4 or 5 best; each gets one of its own.
    assert measure_repeats.matched(rates, of=np.array([0, 1]), among=np.array([2, 3, 4])).tolist() == [4, 2]


@pytest.mark.parametrize("law", ["rate", "exponent"])
@pytest.mark.parametrize("value", [0.0, 0.1, 0.7])
def test_a_fit_finds_the_law_that_made_the_gains(law, value):
    fresh = np.array([1.0, 0.8, 0.7, 0.9])
    again = repeats_analysis.LAWS[law](np.array(repeats_analysis.MEASURED) - 1.0, value) * fresh
    assert repeats_analysis.fit(repeats_analysis.LAWS[law], again, fresh) == pytest.approx(value, abs=1e-4)


def test_known_ratios_are_found():
    rng = np.random.default_rng(1)
    rows = []
    for seed in range(12):
        for visit in repeats_analysis.MEASURED:
            for arm, gain in (("fresh", 1.0), ("again", 1.0 / (1 + 0.5 * (visit - 1)))):
                row = dict.fromkeys(repeats_analysis.COLUMNS, 0.0)
                rows.append(row | {"seed": seed, "visit": visit, "arm": arm, "gain": gain + 0.1 * rng.normal()})
    transfer = {"own": [0.1, 0.1, 0.1], "pairs": [[s, t % 2, t % 4, 0, 1, 0.01] for s in range(3) for t in range(8)]}
    found = repeats_analysis.analyse({"repeats": rows, "transfer": transfer})
    for ratio, visit in zip(found["gain"]["ratio"], repeats_analysis.MEASURED, strict=True):
        assert ratio[0] == pytest.approx(1.0 / (1 + 0.5 * (visit - 1)), abs=0.1)
        assert ratio[1] < ratio[0] < ratio[2]
    assert found["gain"]["rate"][0] == pytest.approx(0.5, abs=0.15)
    assert found["gain"]["rate"][1] < found["gain"]["rate"][0] < found["gain"]["rate"][2]
    shares = {row["relation"]: row["share_of_own"] for row in found["transfer"] if "share_of_own" in row}
    assert shares["all (random pairs)"] == pytest.approx([0.1, 0.1, 0.1])
