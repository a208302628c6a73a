"""The check of reasoning-gym's generators, on few of them: it passes for what is sound, and finds what is not."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from insight_rl.reward import reasoning_gym

pytest.importorskip("reasoning_gym", reason="the extra gym is not installed")

SCRIPT = Path(__file__).parents[2] / "scripts" / "check_reasoning_gym.py"
SPEC = importlib.util.spec_from_file_location("check_reasoning_gym", SCRIPT)
check_reasoning_gym = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(check_reasoning_gym)


@pytest.fixture
def small(monkeypatch):
    """In this process, where a rule that is put in its place counts; few problems."""
    from insight_rl.reward.judge import InProcessJudge

    monkeypatch.setattr(check_reasoning_gym, "build_judge", lambda reward, config: InProcessJudge(reward))
    monkeypatch.setattr(check_reasoning_gym, "NUM_GUESSED", 8)
    monkeypatch.setattr(check_reasoning_gym, "NUM_LEVELS", 2)


def runs_code(answer: str, right: str) -> bool:
    """What some of the library's scorers do; the text that would make a file is all that is run here."""
    return answer == right or (answer.startswith("__import__") and bool(eval(answer)))


def run(folder, *generators):
    code = check_reasoning_gym.main(["--generators", *generators, "--golds", "3", "--output", str(folder)])
    return code, json.loads((folder / "reasoning_gym_check.json").read_text())


def test_sound_generators_pass_and_are_written_down(tmp_path, small, capsys):
    code, found = run(tmp_path, "gcd", "graph_color", "course_schedule")
    assert (code, found["code_has_run"]) == (0, False)
    for row in found["generators"].values():
        assert row["golds"] == row["golds_right"] == 9 and row["hostile"] > 200
    # Two possible answers: guessing is half right at least.
    assert found["generators"]["course_schedule"]["guess"]["default"] >= 0.5
    assert found["generators"]["graph_color"]["guess"]["default"] < 0.5
    rows = (tmp_path / "reasoning_gym_check.csv").read_text().splitlines()
    assert len(rows) == 1 + 3 * 3 and rows[1].startswith("guess,gcd,gcd_default,default,3,")
    assert "with something to look at: none" in capsys.readouterr().out


def test_a_rule_that_pays_for_anything_or_runs_text_or_misses_right_answers_is_found(tmp_path, small, monkeypatch):
    monkeypatch.setitem(reasoning_gym.RULES, "ab", lambda answer, right: right in answer)
    monkeypatch.setitem(reasoning_gym.RULES, "spiral_matrix", runs_code)
    monkeypatch.setitem(reasoning_gym.RULES, "sudoku", lambda answer, right: False)
    code, found = run(tmp_path, "ab", "spiral_matrix", "sudoku")
    assert code == 1 and found["code_has_run"]
    assert found["generators"]["ab"]["passed"] and not found["generators"]["ab"]["not_right"]
    assert found["generators"]["sudoku"]["golds_right"] == 0


def test_the_search_for_an_expression_finds_one_that_the_reward_accepts():
    terms = [(number, str(number)) for number in (1, 2, 3, 4)]
    assert check_reasoning_gym.solve_countdown(terms, 24) is not None
    assert check_reasoning_gym.solve_countdown([(1, "1"), (1, "1")], 24) is None
    prompt = check_reasoning_gym.problems("countdown", {"min_numbers": 3, "max_numbers": 3, "min_target": 1}, 1)[0]
    answer = check_reasoning_gym.gold_of(prompt)
    assert check_reasoning_gym.ReasoningGymReward(style="bare", format_value=0.0)(
        prompt, check_reasoning_gym.completion(answer)
    ).success


def test_the_page_gets_its_tables(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text("".join(f"<!-- {name} -->\nold\n<!-- end -->\n" for name in ("generators", "refused", "success")))
    monkeypatch.setattr(check_reasoning_gym, "PAGE", page)
    row = {"judge": "library", "num_levels": 4, "golds": 20, "golds_right": 20}
    row |= {"guess": {"default": 0.5, "0": 0.0}, "problems": {"default": 20, "0": 0}}
    measured = {"model": "tiny", "part": "gcd_1", "level": 1, "attempts": 8, "successes": 2}
    check_reasoning_gym.write_page({"generators": {"gcd": row}, "measured": [measured]})
    text = page.read_text()
    assert "| `gcd` | library | equal strings | 4 | 20 of 20 | 50, - % |" in text
    assert "| `gcd` | tiny | 25 % |" in text and "| `time_intervals` |" in text and "old" not in text
