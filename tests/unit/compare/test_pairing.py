"""Runs that do not match are refused, with what differs and where."""

import json
from dataclasses import asdict, replace

import pytest
import yaml

from insight_rl.compare.pairing import check_identities, check_pairs, check_simulated_pairs, read_arms, write_arms
from insight_rl.compare.tables import FinishedRun
from insight_rl.errors import UsageError
from insight_rl.nested import flatten
from insight_rl.run_identity import RunIdentity

IDENTITY = RunIdentity(model="m", pool="p", problems="q", evaluation="e")
CONFIG = {
    "seed": 0,
    "run_dir": "x",
    "selector_name": "random",
    "selector": {"_target_": "random"},
    "learner": {"lr": 1e-4},
    "trainer": {"num_steps": 10},
    "evaluation": {"every": 5, "max_problems": 64},
}
INSIGHT = {"selector_name": "insight", "selector": {"_target_": "insight", "mu": 0.3}}


def make(folder, arm, seed, *, identity=IDENTITY, **changes):
    run_dir = folder / f"{arm}_seed{seed}"
    run_dir.mkdir()
    own = INSIGHT if arm == "insight" else {}
    config = CONFIG | own | {"seed": seed, "run_dir": str(run_dir)} | changes
    (run_dir / "config.yaml").write_text(yaml.safe_dump(config))
    (run_dir / "identity.json").write_text(json.dumps(asdict(replace(identity, evaluation=f"seed {seed}"))))
    return FinishedRun(arm=arm, seed=seed, run_dir=run_dir)


ARMS = {"random": flatten(CONFIG), "insight": flatten(CONFIG | INSIGHT)}


@pytest.fixture
def runs(tmp_path):
    return [make(tmp_path, arm, seed) for seed in (0, 1) for arm in ("random", "insight")]


def test_runs_that_differ_in_their_arm_and_seed_only_match(runs, tmp_path):
    write_arms(tmp_path, ARMS)
    check_pairs(runs, read_arms(tmp_path))
    check_pairs([], ARMS)


@pytest.mark.parametrize(
    ("arm", "changes", "message"),
    [
        ("insight", {"learner": {"lr": 3e-4}}, r"learner\.lr: 0\.0001 in .*, but 0\.0003 in .*insight_seed2"),
        ("random", {"learner": {"lr": 3e-4}}, r"learner\.lr: 0\.0001 in .*random_seed0, but 0\.0003 in .*random_seed2"),
        ("insight", {"selector": {"_target_": "insight", "mu": 0.5}}, r"selector\.mu: 0\.3 in .*, but 0\.5 in"),
        ("random", {"trainer": {"num_steps": 12}}, r"trainer\.num_steps: 10 in .*, but 12 in"),
        ("random", {"evaluation": {"every": 5, "max_problems": 8}}, r"evaluation\.max_problems: 64 in"),
        ("random", {"identity": replace(IDENTITY, model="other")}, "initial model: 'm' in .*, but 'other' in"),
        ("insight", {"identity": replace(IDENTITY, pool="other")}, "pool of training prompts: 'p' in"),
        ("insight", {"identity": replace(IDENTITY, problems="other")}, "set of held-out problems: 'q' in"),
    ],
)
def test_a_run_that_does_not_match_is_refused(runs, arm, changes, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        check_pairs([*runs, make(tmp_path, arm, 2, **changes)], ARMS)


def test_when_a_run_was_evaluated_may_differ(runs, tmp_path):
    check_pairs([*runs, make(tmp_path, "random", 2, evaluation={"every": 2, "max_problems": 64})], ARMS)


def test_runs_of_a_seed_share_the_sampling_of_evaluations(runs):
    file = runs[1].run_dir / "identity.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"evaluation": "other"}))
    with pytest.raises(UsageError, match=r"sampling of evaluations: 'seed 0' in .*random_seed0, but 'other' in"):
        check_pairs(runs, ARMS)


def test_arms_are_compared_before_the_first_run():
    check_identities({"random": IDENTITY, "insight": IDENTITY})
    with pytest.raises(
        UsageError, match=r"arms\.insight: its pool of training prompts differs from that of arm random"
    ):
        check_identities({"random": IDENTITY, "insight": replace(IDENTITY, pool="other")})


def test_simulated_runs_of_a_seed_begin_alike(tmp_path):
    runs = []
    for arm, seed, start in (("random", 0, 0.4), ("insight", 0, 0.4), ("random", 1, 0.5)):
        run = FinishedRun(arm=arm, seed=seed, run_dir=tmp_path / f"{arm}_seed{seed}")
        run.run_dir.mkdir()
        (run.run_dir / "curve.json").write_text(json.dumps([{"accuracy": start}, {"accuracy": 0.9}]))
        runs.append(run)
    check_simulated_pairs(runs)
    (runs[1].run_dir / "curve.json").write_text(json.dumps([{"accuracy": 0.3}]))
    with pytest.raises(UsageError, match=r"accuracy before the first step: 0\.4 in .*, but 0\.3 in"):
        check_simulated_pairs(runs)


def test_lost_or_damaged_records_are_told(runs, tmp_path):
    with pytest.raises(UsageError, match=r"arms\.json: cannot be read"):
        read_arms(tmp_path)
    (runs[0].run_dir / "identity.json").write_text("{")
    with pytest.raises(UsageError, match=r"identity\.json: is not readable"):
        check_pairs(runs, ARMS)
