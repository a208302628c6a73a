import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from insight_rl.allowed_code import allowed
from insight_rl.config import NAMED_GROUPS, REMOVED_KEYS, compose_config, divisors, parse_config
from insight_rl.errors import UsageError
from insight_rl.paths import conf_dir
from insight_rl.run_dir import choose_run_dir
from insight_rl.target_check import check_part

PARTS = ("task", "selector", "gate", "rollout", "reward", "algorithm", "learner")
OPTIONS = [
    (group.name, option.stem)
    for group in sorted(conf_dir().iterdir())
    # These belong to conf/simulate.yaml and conf/compare.yaml.
    if group.is_dir() and group.name not in ("synthetic_learner", "pool", "compare")
    for option in sorted(group.glob("*.yaml"))
]


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_is_named_and_names_what_exists(group, option):
    name = "+benchmark@evaluation.benchmarks.it" if group == "benchmark" else group
    tree = compose_config([f"{name}={option}"])
    config = parse_config(tree)
    if group in NAMED_GROUPS:
        assert tree[f"{group}_name"] == option
    assert ("task", config.task_name) in OPTIONS
    for benchmark, node in config.evaluation.benchmarks.items():
        check_part(f"evaluation.benchmarks.{benchmark}", node)
    for part in PARTS:
        check_part(part, getattr(config, part))
    for name, node in config.monitor.items():
        check_part(f"monitor.{name}", node)


def test_the_default_is_short_enough_to_read():
    assert len(OmegaConf.to_yaml(compose_config([])).splitlines()) < 200


def test_a_folder_of_the_users_own_options(tmp_path):
    (tmp_path / "gate").mkdir()
    (tmp_path / "gate" / "mine.yaml").write_text(
        "_target_: insight_rl.gate.mixed_outcomes.MixedOutcomes\nmax_rounds: 9\n"
    )
    assert compose_config(["gate=mine"], config_dir=tmp_path).gate.max_rounds == 9


def test_an_option_of_the_users_own_is_named_by_its_file(tmp_path):
    (tmp_path / "selector").mkdir()
    (tmp_path / "selector" / "mine.yaml").write_text("defaults: [insight]\n")
    config = parse_config(compose_config(["selector=mine", "seed=4"], config_dir=tmp_path))
    assert config.selector_name == "mine"
    assert re.fullmatch(r"\d{8}-\d{6}_countdown_mine_seed4", choose_run_dir(config).name)


def test_the_names_are_not_settings():
    with pytest.raises(UsageError, match=r"selector_name=x: .* give selector=x"):
        compose_config(["selector_name=x"])


def test_dynamic_sampling_is_a_gate_that_goes_with_any_selector():
    mixed, plain = "insight_rl.gate.mixed_outcomes.MixedOutcomes", "insight_rl.gate.admit_all.AdmitAll"
    gate_of = {
        (): plain,
        ("selector=dynamic_sampling",): mixed,
        ("selector=insight", "gate=mixed_outcomes"): mixed,
        ("selector=dynamic_sampling", "gate=admit_all"): plain,
        ("experiment=quickstart", "selector=dynamic_sampling"): mixed,
    }
    for overrides, gate in gate_of.items():
        assert compose_config(overrides).gate._target_ == gate, overrides


def test_nothing_heavy_is_imported_to_check_a_configuration():
    import subprocess
    import sys

    code = (
        "import sys; from insight_rl.config import *; from insight_rl.build import *; from insight_rl.run import *; "
        "c = parse_config(compose_config([]));"
        "[build_part(k, getattr(c, k)) for k in ('task', 'selector', 'gate', 'reward', 'algorithm')];"
        "print([m for m in ('torch', 'transformers', 'vllm', 'deepspeed', 'wandb', 'ray') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


class Part:
    def __init__(self, *, size: int, rate: float = 0.5, name: str | None = None, inner: object = None) -> None: ...


TARGET = {"_target_": f"{__name__}.Part"}


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"size": 1.5}, r"part\.size=1\.5: must be a whole number"),
        ({"size": True}, r"part\.size=True: must be a whole number"),
        ({"size": 1, "rate": "fast"}, r"part\.rate='fast': must be a number"),
        ({"size": 1, "name": 3}, r"part\.name=3: must be text or null"),
        ({"size": 1, "sizes": 3}, r"part\.sizes=3: .* did you mean size"),
        ({}, r"part\.size has no value"),
        ({"size": 1, "inner": {"_target_": "no.such.Thing"}}, r"part\.inner\._target_='no\.such\.Thing'"),
        (
            {"size": 1, "inner": {"_target_": "insight_rl.gate.nope.X"}},
            r"module insight_rl\.gate\.nope is not",
        ),
        ({"size": 1, "inner": {"_target_": "insight_rl.gate.admit_all.Al"}}, r"there is no 'Al' in 'insight_rl\.gate"),
    ],
)
def test_a_part_is_checked_against_the_signature_it_names(node, message, monkeypatch):
    monkeypatch.setattr(allowed, "packages", {__name__.partition(".")[0]})
    with pytest.raises(UsageError, match=message):
        check_part("part", TARGET | node)


def test_an_integer_is_a_number_and_null_fits_an_optional(monkeypatch):
    monkeypatch.setattr(allowed, "packages", {__name__.partition(".")[0]})
    check_part("part", TARGET | {"size": 1, "rate": 2, "name": None})


@pytest.mark.parametrize("key", REMOVED_KEYS)
def test_a_removed_key_says_what_took_its_place(key, tmp_path):
    for override in (f"{key}=2.0", f"+{key}=2.0"):
        with pytest.raises(UsageError, match=rf"{re.escape(key)}=2\.0: was replaced by .*importance_high"):
            compose_config([override])
    group, _, name = key.partition(".")
    (tmp_path / group).mkdir()
    (tmp_path / group / "mine.yaml").write_text(f"defaults: [grpo, _self_]\n{name}: 2.0\n")
    with pytest.raises(UsageError, match=rf"{re.escape(key)}=2\.0: was replaced by"):
        parse_config(compose_config([f"{group}=mine"], config_dir=tmp_path))


def test_divisors():
    assert divisors(12) == [1, 2, 3, 4, 6, 12]


def test_the_tree_is_where_the_package_says():
    assert (Path(conf_dir()) / "train.yaml").is_file()


def test_a_run_may_show_nothing():
    assert parse_config(compose_config(["monitor=[]"])).monitor == {}
