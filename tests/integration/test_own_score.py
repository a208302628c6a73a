"""The example of docs/selectors.md: a score from outside the repository, in five lines, no file of ours touched."""

from __future__ import annotations

from insight_rl.build import build_part
from insight_rl.config import compose_config, parse_config
from insight_rl.types import Prompt

SCORE = """\
def hardest_first(alpha, beta, power=1.0):
    return (beta / (alpha + beta)) ** power
"""
OPTION = """\
_target_: insight_rl.selector.belief_selector.BeliefSelector
score: {_target_: my_scores.hardest_first, _partial_: true}
power: 2.0
"""


def test_a_score_of_ones_own(tmp_path):
    (tmp_path / "my_scores.py").write_text(SCORE)
    (tmp_path / "selector").mkdir()
    (tmp_path / "selector" / "mine.yaml").write_text(OPTION)
    config = compose_config(["selector=mine", "selector.power=3"], config_dir=tmp_path)
    selector = build_part("selector", parse_config(config).selector)
    selector.open(
        [Prompt(id=str(i), task="toy", text="", token_ids=(), answer=None) for i in range(9)], num_rollouts=8, seed=0
    )
    selector.select(2)
    assert selector.last_scores() == [0.125, 0.125]
