"""What `insight-rl train` does about the doctor's findings, and what the command tells."""

import pytest

from insight_rl.cli.main import main
from insight_rl.config import compose_config, parse_config
from insight_rl.doctor import checkup
from insight_rl.doctor.cards import CARDS
from insight_rl.doctor.checkup import check_up, examine, host_need, short_of_memory
from insight_rl.errors import UsageError

IMPOSSIBLE = ["rollout=vllm", "learner=deepspeed", "model=qwen3-4b", "doctor.gpu=h100-80gb"]
TIGHT = [*IMPOSSIBLE[:2], "model=qwen3-0.6b", "doctor.gpu=h100-80gb", "trainer.max_completion_tokens=1024"]


def config(*overrides):
    return parse_config(compose_config(list(overrides)))


def test_strict_refuses_what_cannot_fit_and_says_what_would():
    with pytest.raises(UsageError) as refusal:
        examine(config(*IMPOSSIBLE))
    message = str(refusal.value)
    assert "Qwen/Qwen3-4B does not fit 1 x h100-80gb" in message and "GiB" in message
    assert "it fits with learner.gradient_checkpointing=true learner.offload=cpu" in message
    assert "doctor=warn" in message and "\n" not in message


def test_warn_tells_and_off_is_silent():
    (notice,) = examine(config(*IMPOSSIBLE, "doctor=warn"))
    assert "does not fit" in notice
    assert examine(config(*IMPOSSIBLE, "doctor=off")) == []


def test_what_is_merely_tight_is_never_refused():
    (notice,) = examine(config(*TIGHT))
    assert notice.startswith("doctor: this run just fits: about")


def test_a_run_that_fits_gets_no_notice():
    assert examine(config(*TIGHT, "learner.gradient_checkpointing=true")) == []


def test_train_refuses_before_anything_is_downloaded(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("insight_rl.run.find_model", lambda _: pytest.fail("it looked for the model"))
    assert main(["train", *IMPOSSIBLE]) == 2
    assert "does not fit" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_a_model_that_is_not_known_is_no_reason_to_refuse():
    assert examine(config("model=qwen3-4b", "model.path=nobody/knows", "doctor.gpu=l4-24gb")) == []


def test_a_cache_too_small_for_one_sequence_is_refused():
    args = "+rollout.engine_args.gpu_memory_utilization=0.12"
    with pytest.raises(UsageError, match=r"holds \d+ tokens beside the weights"):
        examine(config(*IMPOSSIBLE, "learner.gradient_checkpointing=true", "learner.offload=cpu", args))


def test_too_few_gpus_are_refused():
    with pytest.raises(UsageError, match=r"learner\.num_ranks=4"):
        examine(config(*TIGHT, "learner.num_ranks=4", "learner.gradient_checkpointing=true", "doctor.num_gpus=2"))
    more = config(*TIGHT, "learner.num_ranks=4", "learner.gradient_checkpointing=true", "doctor.num_gpus=4")
    assert examine(more) == []


@pytest.mark.parametrize("gpu", ["h100", "H100-80GB", ""])
def test_a_card_that_is_not_known(gpu):
    with pytest.raises(UsageError, match="must be one of b200-180gb, h200-141gb, h100-80gb"):
        examine(config(f"doctor.gpu='{gpu}'"))


def test_a_part_of_the_users_own_is_not_judged(tmp_path):
    (tmp_path / "learner").mkdir()
    (tmp_path / "own.py").write_text("class Learner:\n    pass\n")
    (tmp_path / "learner" / "mine.yaml").write_text("_target_: own.Learner\n")
    tree = compose_config([*IMPOSSIBLE, "learner=mine"], config_dir=tmp_path)
    found = check_up(parse_config(tree))
    assert found.work.learner is None and found.reasons == ()


def test_a_tiny_run_imports_nothing_heavy():
    import subprocess
    import sys

    code = (
        "import sys; from insight_rl.config import compose_config, parse_config;"
        "from insight_rl.doctor.checkup import examine;"
        "assert examine(parse_config(compose_config(['experiment=quickstart']))) == [];"
        "assert not {'torch', 'transformers', 'vllm', 'rich'} & set(sys.modules), 'heavy'"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_main_memory_is_told_and_never_refused(monkeypatch):
    work = check_up(config("experiment=quickstart")).work
    monkeypatch.setattr(checkup, "host_memory", lambda: host_need(work))
    assert short_of_memory(work) == []
    monkeypatch.setattr(checkup, "host_memory", lambda: host_need(work) - 1)
    (notice,) = short_of_memory(work)
    assert "GiB of main memory" in notice
    assert examine(config("experiment=quickstart")) == [notice]


def test_a_run_on_the_cpu_takes_about_what_it_was_measured_to(monkeypatch):
    """The quickstart: 0.9M parameters; 512 rows of at most 127 tokens in passes of 16,384."""
    assert 0.05 * 2**30 < host_need(check_up(config("experiment=quickstart")).work) < 3 * 2**30


def test_the_gpus_that_are_here(monkeypatch):
    monkeypatch.setattr(checkup, "_GPU_FILES", ("null",))
    card = CARDS["h100-80gb"]
    monkeypatch.setattr(checkup, "cards_here", lambda: [card, card])
    found = check_up(config(*IMPOSSIBLE[:3]))
    assert (found.card, found.num_gpus, found.is_stated) == (card, 2, False)
    assert check_up(config(*IMPOSSIBLE[:3], "doctor.num_gpus=1")).num_gpus == 1


def test_a_cluster_is_not_judged_by_the_machine_that_the_command_runs_on(monkeypatch):
    monkeypatch.setattr("insight_rl.doctor.checkup.check_up", lambda config: pytest.fail("looked at this machine"))
    assert examine(config("runtime=ray", "learner.num_ranks=16")) == []
    monkeypatch.undo()
    with pytest.raises(UsageError, match="doctor: "):
        examine(config(*IMPOSSIBLE, "runtime=ray"))
