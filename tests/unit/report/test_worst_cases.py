"""What is worth a look is found, and nothing else."""

from __future__ import annotations

from insight_rl.report.run_files import Rollout, RolloutGroup
from insight_rl.report.worst_cases import KINDS, NUM_LARGEST, find_worst_cases, usual_marker


def rollout(text="\\boxed{1}", *, success=True, finish="stop", gap=None, tokens=5):
    return Rollout(
        text=text,
        tokens=tokens,
        finish=finish,
        version=0,
        success=success,
        value=None,
        status="",
        reason="",
        gap=gap,
        num_cut=0,
    )


def group(*rollouts):
    return RolloutGroup(step=1, prompt_id="p", task="t", prompt="", answer="", rollouts=rollouts)


USUAL = [group(*[rollout(f"x \\boxed{{{number}}}") for number in range(10)])]


def test_nothing_is_worth_a_look_in_a_usual_run():
    assert find_worst_cases(USUAL) == {}
    assert find_worst_cases([]) == {}


def test_each_kind_is_found():
    odd = group(
        rollout(success=None),
        rollout(finish="length", success=False, text="a"),
        rollout(finish="length"),
        rollout("the answer is 1"),
        rollout("same \\boxed{1}", success=True),
        rollout("same \\boxed{1}", success=False),
        rollout("\\boxed{1}" + "again and " * 100),
        rollout("b", success=False, gap=0.5),
        rollout("c", success=False, tokens=9),
    )
    found = find_worst_cases([*USUAL, odd])
    kinds = {place: [key for key in found.get((1, place), ()) if key not in ("gap", "longest")] for place in range(9)}
    assert kinds == {
        0: ["unjudged"],
        1: ["truncated"],
        2: ["truncated", "right_but_cut"],
        3: ["no_marker"],
        4: ["two_verdicts"],
        5: ["two_verdicts"],
        6: ["repetitive"],
        7: [],
        8: [],
    }
    assert "gap" in found[1, 7] and "longest" in found[1, 8]
    assert {key for keys in found.values() for key in keys} == {kind.key for kind in KINDS}


def test_a_marker_is_usual_only_where_most_right_answers_have_it():
    assert usual_marker(USUAL[0].rollouts) == "\\boxed"
    assert usual_marker(USUAL[0].rollouts[:5]) is None, "too few to tell"
    assert usual_marker([rollout("3*7") for _ in range(20)]) is None
    assert usual_marker([rollout("Answer: 3", success=number < 15) for number in range(20)]) == "answer:"


def test_the_largest_are_few():
    many = [group(*[rollout(f"{n}\\boxed", tokens=n, gap=n / 100) for n in range(100)])]
    found = find_worst_cases(many)
    assert sorted(place for _, place in found) == list(range(100 - NUM_LARGEST, 100))
