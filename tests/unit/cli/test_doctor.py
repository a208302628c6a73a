"""insight-rl doctor as a user sees it."""

import re

import pytest

from insight_rl.cli.main import main

H100 = ["doctor.gpu=h100-80gb", "doctor.num_gpus=8"]
FITS = ["rollout=vllm", "learner=deepspeed", "model=qwen3-0.6b", "learner.gradient_checkpointing=true", *H100]


@pytest.fixture
def screen(capsys, monkeypatch):
    def run(*arguments, columns=80):
        monkeypatch.setenv("COLUMNS", str(columns))
        code = main(["doctor", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.mark.parametrize("columns", [80, 120])
def test_the_screen(columns, screen):
    code, text, error = screen(*FITS, columns=columns)
    assert (code, error) == (0, "")
    assert max(map(len, text.splitlines())) <= columns
    assert len(text.splitlines()) <= 45
    flat = " ".join(text.split())
    for words in (
        "Qwen/Qwen3-0.6B (596 million parameters) on 8 x h100-80gb, as stated",
        "64 prompts x 8 rollouts = 512 completions of at most 64 tokens",
        "Memory: fits",
        "Time, an estimate",
        "Not measured on a GPU yet",
    ):
        assert words in flat
    assert "\x1b" not in text, "no colours where the output is no terminal"


def test_the_rows_add_up(screen):
    _, text, _ = screen(*FITS, columns=120)
    rows = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines() if re.search(r"\s{2,}\d+\.\d", line)]
    *parts, total = [row for row in rows if re.fullmatch(r"[\d.]+", row[1])]
    assert total[0] == "in all" and len(parts) >= 8
    backward = [float(row[1]) for row in parts if row[0] not in ("sync buffer",)]
    assert sum(backward) == pytest.approx(float(total[1]), abs=0.05 * len(parts))


def test_a_run_that_cannot_work_ends_with_code_2_and_the_reason(screen):
    code, text, error = screen(*FITS, "model=r1-distill-qwen-7b", "learner=accelerate")
    assert code == 2
    assert "does not fit" in text and "fits with: " in text
    assert "insight-rl doctor: deepseek-ai/DeepSeek-R1-Distill-Qwen-7B does not fit" in error


def test_a_model_that_nobody_knows_here(screen):
    code, text, _ = screen("model=qwen3-4b", "model.path=nobody/knows")
    assert code == 0
    assert "its sizes are not known here" in text and "torch" in text


def test_settings_are_checked_as_train_does(screen):
    code, _, error = screen("learner.lr=-1")
    assert code == 2 and "learner.lr=-1" in error
    code, _, error = screen("selector._target_=os.system")
    assert code == 2 and "is not among the code that this command may run" in error


def test_the_tiny_model_on_this_machine(screen):
    code, text, _ = screen("experiment=quickstart")
    assert code == 0
    assert "856k parameters" in text and "torch" in text
