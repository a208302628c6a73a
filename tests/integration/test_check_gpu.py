"""scripts/check_gpu.py on a CPU: what it can check there, what it says of the rest, and what it does with a failure."""

from __future__ import annotations

import importlib
import json
import math
import time

import pytest

from insight_rl.config import compose_config
from insight_rl.learner.accelerate_engine import AccelerateEngine
from insight_rl.paths import conf_dir


@pytest.fixture
def check_gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(conf_dir().parent / "scripts"))
    return importlib.import_module("check_gpu")


@pytest.fixture
def place(check_gpu, tmp_path):
    return check_gpu.Place(device="cpu", folder=tmp_path)


def run_here(check_gpu, place, name):
    assert check_gpu.run_here(name, place) == 0
    return json.loads(check_gpu.result_file(place, name).read_text())


@pytest.mark.slow
def test_a_run_on_a_cpu_compares_with_float64_and_says_what_it_has_not_checked(check_gpu, tmp_path, capsys):
    output = tmp_path / "figures.json"
    arguments = ["--device", "cpu", "--only", "accelerate", "run ipc", "--output", str(output)]
    assert check_gpu.main(arguments) == 0
    assert "needs a GPU" in capsys.readouterr().out
    report = json.loads(output.read_text())
    assert report["device"] == "cpu" and report["gpus"] == []
    result = report["checks"]["accelerate"]
    assert result["status"] == "ok"
    assert result["figures"]["float32/gradient_error"] < 1e-4
    assert report["checks"]["run ipc"] == {"status": "needs a GPU", "seconds": 0.0, "reason": "needs a GPU"}


def test_a_wrong_gradient_fails_its_check_and_the_figures_are_kept(check_gpu, place, monkeypatch):
    backward = AccelerateEngine.backward
    monkeypatch.setattr(AccelerateEngine, "backward", lambda self, loss: backward(self, 1.01 * loss))
    result = run_here(check_gpu, place, "accelerate")
    assert result["status"] == "failed"
    assert "float32/gradient_error = 0.01, above 0.001" in result["reason"]
    assert result["figures"]["float32/gap_mean"] < 1e-5


def test_speed_of_a_step_and_a_whole_run(check_gpu, place):
    assert run_here(check_gpu, place, "load accelerate")["figures"]["learner/mfu"] > 0
    run = run_here(check_gpu, place, "run transformers")
    assert run["status"] == "ok", run
    assert run["figures"]["gap_mean/3"] < 1e-4 and run["figures"]["time/step_s"] > 0


def test_an_error_is_a_failure_and_no_end(check_gpu, place, monkeypatch):
    def fail(check, place, figures):
        figures.add("seen", 1)
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore")

    monkeypatch.setitem(check_gpu.CHECKS, "broken", check_gpu.CHECKS["accelerate"].__class__(name="broken", run=fail))
    reason = "RuntimeError: CUDA error: an illegal memory access was encountered"
    assert run_here(check_gpu, place, "broken") == {"status": "failed", "reason": reason, "figures": {"seen": 1.0}}


def test_a_check_that_does_not_end_is_ended(check_gpu, place, monkeypatch):
    monkeypatch.setattr(check_gpu, "CHECK_LIMIT_S", 0.2)
    result = check_gpu.run_apart("accelerate", place, time.monotonic() + 60)
    assert (result["status"], result["reason"]) == ("failed", "no answer within 0 s")
    assert check_gpu.run_apart("accelerate", place, time.monotonic())["status"] == "no time"


@pytest.mark.parametrize(
    ("statuses", "device", "code"),
    [
        (["ok", "ok"], "cuda", 0),
        (["ok", "needs a GPU", "not installed"], "cpu", 0),
        (["ok", "needs a GPU"], "cuda", 3),
        (["ok", "not installed"], "cuda", 3),
        (["ok", "no time"], "cpu", 3),
        (["no time", "failed"], "cuda", 1),
    ],
)
def test_the_exit_code_claims_no_more_than_was_checked(check_gpu, statuses, device, code):
    results = {str(number): {"status": status} for number, status in enumerate(statuses)}
    assert check_gpu.exit_code(results, device) == code


def test_a_figure_that_is_no_number_is_above_its_limit(check_gpu):
    figures = check_gpu.Figures()
    figures.add("a", 1, at_most=1)
    figures.add("b", math.nan, at_most=1)
    assert figures.complaints() == ["b = nan, above 1"]


def test_every_check_has_settings_that_there_are(check_gpu):
    """Put together by learner and engine, as composing them one by one takes seconds."""
    together: dict[str, dict[str, str]] = {}
    for check in check_gpu.CHECKS.values():
        settings = dict(each.split("=") for each in check.overrides)
        together.setdefault(f"{settings.get('learner')} {settings.get('rollout')}", {}).update(settings)
    for settings in together.values():
        compose_config([f"{key}={value}" for key, value in settings.items()])


def test_without_a_gpu_the_whole_is_refused(check_gpu, monkeypatch, capsys):
    monkeypatch.setattr(check_gpu, "has_cuda", lambda: False)
    with pytest.raises(SystemExit):
        check_gpu.main([])
    assert "--device cpu" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        check_gpu.main(["--only", "zero-9"])
    assert "there is no zero-9" in capsys.readouterr().err
