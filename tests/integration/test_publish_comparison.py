"""The table and the files that a published comparison comes down to."""

import csv
import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

SCRIPT = Path(__file__).parents[2] / "scripts" / "publish_comparison.py"
SPEEDUP = "setting,selector,baseline,axis,median,low,high,seeds\n"


@pytest.fixture
def script(tmp_path):
    names = runpy.run_path(str(SCRIPT))
    (tmp_path / "results").mkdir()
    names["main"].__globals__["RESULTS"] = tmp_path / "results"
    return names


@pytest.fixture(params=["", "mine,insight,area,rollouts,0,1,0.02,0.01,0.03,0.9,not settled\n"])
def over_insight(request):
    """The rows of differences.csv that compare with INSIGHT, where it is an arm."""
    return request.param


@pytest.fixture
def folder(tmp_path, over_insight):
    found = tmp_path / "compare_x"
    found.mkdir()
    (found / "curves.csv").write_text(
        "setting,selector,seed,step,rollouts,tokens,seconds,accuracy,informative_fraction\n"
        "x,random,0,0,0,,0,0.3,\nx,random,0,5,100,,1,0.31,0.2\nx,random,0,10,400,,2,0.32,0.4\n"
        "x,mine,0,0,0,,0,0.3,\nx,mine,0,10,400,,2,0.4,0.9\n"
    )
    fields = "selector,baseline,metric,axis,primary,seeds,difference,low,high,p_level_holm,verdict\n"
    (found / "differences.csv").write_text(
        fields + "mine,random,area,rollouts,1,1,0.05,0.04,0.06,0.9,better\n"
        "mine,random,final,rollouts,0,1,0.07,0.04,0.1,0.9,better\n"
        "mine,random,final,steps,0,1,0.09,0.04,0.1,0.9,better\n" + over_insight
    )
    (found / "speedup.csv").write_text(SPEEDUP + "x,mine,random,rollouts,2.5,2.1,3.0,1\nx,mine,random,steps,9,9,9,1\n")
    for picture in ("differences", "curves"):
        Image.new("RGB", (4, 4)).save(found / f"{picture}.png")
    return found


def test_the_page_the_figures_and_the_speed_ups(script, folder, over_insight, tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text(
        "before\n<!-- comparison here -->\nold\n<!-- end -->\nafter\n<!-- comparison other -->\n<!-- end -->\n"
    )
    (tmp_path / "results" / "speedup.csv").write_text(
        SPEEDUP + "a,mine,random,steps,1,1,1,10\nx,gone,random,steps,1,1,1,10\n"
    )
    monkeypatch.setattr(sys, "argv", ["publish", str(folder), "here", str(page)])
    script["main"]()
    text = page.read_text()
    insight = "+2.00 (+1.00 to +3.00) | not settled | " if over_insight else ""
    speeds = "2.50 (2.10 to 3.00) | " + ("| " if over_insight else "")
    cells = f"| mine | +5.00 (+4.00 to +6.00) | better | +7.00 (+4.00 to +10.00) | {insight}{speeds}90% | 1 |"
    assert cells.replace("| |", "|  |") in text
    # Of 400 rollouts, 100 had a share of 0.2 and 300 of 0.4.
    assert "| random |" + " |" * (7 if over_insight else 4) + " 35% | |" in text
    assert (
        "old" not in text and text.startswith("before") and text.endswith("<!-- comparison other -->\n<!-- end -->\n")
    )
    with (tmp_path / "results" / "speedup.csv").open() as file:
        assert [(row["setting"], row["selector"]) for row in csv.DictReader(file)] == [
            ("a", "mine"),
            ("x", "mine"),
            ("x", "mine"),
        ]
    assert {path.name for path in (tmp_path / "results").iterdir()} == {
        "here.csv",
        "here_differences.png",
        "here_curves.png",
        "speedup.csv",
    }


def test_a_page_without_the_markers_is_refused(script, folder, tmp_path, monkeypatch, capsys):
    page = tmp_path / "page.md"
    page.write_text("nothing\n")
    monkeypatch.setattr(sys, "argv", ["publish", str(folder), "here", str(page)])
    with pytest.raises(SystemExit):
        script["main"]()
    assert "comparison here" in capsys.readouterr().err
    assert not list((tmp_path / "results").iterdir())


def test_what_is_too_small_to_matter_and_what_is_not_reached_is_said(script):
    row = {"verdict": "better", "p_level_holm": "0.01"}
    assert script["verdict"](row) == "better, by less than the smallest effect"
    assert script["ratio"]({"median": "", "low": "0", "high": "1.02"}) == "not reached (at most 1.02)"
    assert script["ratio"](None) == ""
