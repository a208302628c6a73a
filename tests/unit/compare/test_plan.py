"""A plan is checked as a whole before anything runs."""

import pytest

from insight_rl.compare.plan import load_plan, run_name
from insight_rl.errors import UsageError
from insight_rl.paths import conf_dir

PLANS = sorted(file.stem for file in (conf_dir() / "compare").glob("*.yaml"))
TUNING = "tuning={key: learner.lr, values: [1.0e-4, 2.0e-4], seeds: [100, 101]}"


@pytest.mark.parametrize("name", PLANS)
def test_every_plan_that_ships_can_be_read(name):
    plan = load_plan([f"compare={name}"])
    assert plan.baseline in plan.overrides
    assert len(plan.overrides) >= 2


def test_what_a_plan_says():
    plan = load_plan(["compare=smoke", "seeds.first=3", "seeds.number=2", TUNING])
    assert plan.overrides == {"random": ["selector=random"], "insight": ["selector=insight"]}
    assert list(plan.seeds.all) == [3, 4]
    assert plan.tuning is not None
    assert (plan.tuning.values, plan.tuning.seeds) == ([1e-4, 2e-4], [100, 101])
    assert run_name("insight", 3) == "insight_seed3"


def test_few_seeds_get_a_warning_in_words():
    (notice,) = load_plan(["compare=smoke", "seeds.number=4"]).notices()
    assert "only 4 seeds" in notice
    assert load_plan(["compare=smoke", "seeds.number=5"]).notices() == []


def test_null_leaves_out_an_arm_of_a_shared_file():
    plan = load_plan(["compare=smoke", '+arms.mopps=["selector=mopps"]', "arms.insight=null"])
    assert list(plan.overrides) == ["random", "mopps"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "arms=.*must name at least 2 arms; choose a plan"),
        (["compare=nothing"], "compare=nothing: there is no such option; choose one of"),
        (["compare=smoke", "kind=guess"], "kind='guess': must be one of train, simulate"),
        (["compare=smoke", "baseline=mopps"], "baseline='mopps': must be one of random, insight"),
        (["compare=smoke", "seeds.number=0"], r"seeds\.number=0: must be from 1"),
        (["compare=smoke", "budget.axis=joules"], r"budget\.axis='joules': must be one of steps"),
        (["compare=smoke", "budget.size=0"], r"budget\.size=0: must be at least 1"),
        (["compare=smoke", "primary.metric=best"], r"primary\.metric='best': must be one of area, final"),
        (["compare=smoke", "smallest_effect=0"], "smallest_effect=0"),
        (["compare=smoke", "setting=two words"], "setting='two words': must be a word"),
        (["compare=smoke", "processes=0"], "processes=0: must be at least 1"),
        (["compare=smoke", 'base=["seed=3"]'], "base='seed=3': is set by the comparison"),
        (["compare=smoke", 'arms.random=["run_dir=x"]'], r"arms\.random='run_dir=x': is set by the comparison"),
        (["compare=smoke", 'arms.random=["random"]'], r"arms\.random='random': must be overrides like"),
        (["compare=smoke", '+arms.a/b=["selector=random"]'], "."),
        (["compare=smoke", "+exclusions.mopps_seed0=broken"], "exclusions=.*are no runs of this plan"),
        (["compare=smoke", TUNING.replace("100, 101", "0, 100")], r"tuning\.seeds=\[0\]: are seeds of the comparison"),
        (["compare=smoke", TUNING.replace("2.0e-4", "1.0e-4")], r"tuning\.values=.*names a value twice"),
        (["compare=smoke", TUNING.replace("1.0e-4, ", "")], r"tuning\.values=.*at least 2 values"),
        (["compare=smoke", TUNING, 'arms.random=["selector=random","learner.lr=1"]'], r"arms\.random='learner\.lr'"),
        (["compare=smoke", "kind=simulate", "budget.axis=tokens"], r"budget\.axis='tokens': is not measured"),
        (["compare=smoke", "kind=simulate"], r"primary\.axis='tokens': is not measured in a simulation"),
    ],
)
def test_what_cannot_be_a_plan_is_refused_in_one_line(overrides, message):
    with pytest.raises(UsageError, match=message) as caught:
        load_plan(overrides)
    assert "\n" not in str(caught.value)
