"""A reward that does not fit its task is told when the pool opens."""

import pytest

from insight_rl.build import build_part
from insight_rl.config import compose_config, parse_config
from insight_rl.errors import UsageError
from insight_rl.reward_fit import check_reward_fits
from insight_rl.types import Prompt

ANSWERS = {
    "countdown": {"numbers": [3, 7, 1], "target": 24},
    "math": "15",
    "multiple_choice": {"letter": "B", "num_choices": 4},
}


def ask(reward, answers):
    node = parse_config(compose_config([f"reward={reward}"])).reward
    prompts = [Prompt(id=f"t/{i}", task="t", text="", token_ids=(), answer=answer) for i, answer in enumerate(answers)]
    return check_reward_fits(build_part("reward", node), prompts, target=node["_target_"])


@pytest.mark.parametrize("reward", ANSWERS)
@pytest.mark.parametrize("fitting", ANSWERS)
def test_each_reward_fits_its_own_answers_and_names_the_one_that_fits_others(reward, fitting):
    if reward == fitting:
        assert ask(reward, [ANSWERS[fitting]] * 2) == ()
        return
    with pytest.raises(
        UsageError, match=rf"reward={reward}: does not fit task t \(t/0: .*\); take reward={fitting}( or reward=\w+)?$"
    ):
        ask(reward, [ANSWERS[fitting]] * 2)


def test_one_bad_answer_among_others_is_a_notice():
    (notice,) = ask("math", ["1", None, "3"])
    assert "1 of 3 prompts" in notice and "t/1" in notice


def test_answers_that_no_reward_takes():
    with pytest.raises(UsageError, match="write a reward for them"):
        ask("math", [None])
