"""The numbers behind the pictures against plain arithmetic, and what the pictures say."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from omegaconf import OmegaConf

from insight_rl.cli import plot
from insight_rl.config import compose_config
from insight_rl.errors import UsageError
from insight_rl.monitor.records import to_lines
from insight_rl.report.curves import draw_curves, mean_and_deviation, smooth
from insight_rl.report.looks import looks_of
from insight_rl.simulation.picture import looks_in


@pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 10, 200, 2000])
def test_smoothing_is_a_centred_mean_of_what_there_is(length):
    values = np.random.default_rng(length).random(length)
    smoothed, window = smooth(values)
    half = window // 2
    expected = [values[max(0, i - half) : i + half + 1].mean() for i in range(length)]
    np.testing.assert_allclose(smoothed, expected, rtol=1e-12)
    assert window % 2 == 1
    assert window <= 25


def test_runs_measured_at_the_same_points_are_averaged_there():
    x = np.array([0.0, 10.0, 20.0])
    curves = [(x, np.array([0.0, 1.0, 4.0])), (x, np.array([2.0, 3.0, 4.0])), (x[:2], np.array([1.0, 5.0]))]
    averaged = mean_and_deviation(curves)
    assert averaged is not None
    grid, mean, deviation = averaged
    assert grid.tolist() == [0.0, 10.0], "only where every run has a value"
    np.testing.assert_allclose(mean, [1.0, 3.0])
    np.testing.assert_allclose(deviation, [1.0, 2.0])


def test_runs_measured_at_other_points_are_interpolated():
    straight = (np.array([0.0, 10.0]), np.array([0.0, 10.0]))
    shifted = (np.array([2.0, 6.0, 12.0]), np.array([4.0, 8.0, 14.0]))
    averaged = mean_and_deviation([straight, shifted])
    assert averaged is not None
    grid, mean, deviation = averaged
    assert (grid[0], grid[-1]) == (2.0, 10.0)
    np.testing.assert_allclose(mean, grid + 1.0)
    np.testing.assert_allclose(deviation, np.sqrt(2.0))


def test_runs_without_a_common_range_have_no_mean():
    empty = (np.array([]), np.array([]))
    early, late = (np.array([0.0, 1.0]), np.zeros(2)), (np.array([1.0, 2.0]), np.zeros(2))
    assert mean_and_deviation([early, empty]) is None
    assert mean_and_deviation([early, late]) is None


def write_run(run_dir: Path, *, seed: int, selector: str, num_steps: int = 40, evaluate: bool = True) -> Path:
    run_dir.mkdir(parents=True)
    records = [
        {
            "step": step,
            **({"eval/accuracy": 0.3125 + step / 320} if evaluate and step % 10 == 0 else {}),
            **(
                {
                    "selector/informative_fraction": 0.5 + 0.01 * (step % 7),
                    "selector/visited_fraction": min(1.0, step / 31),
                    "rollout/num_rollouts": 512 * step,
                    "rollout/num_tokens": (5000 + 10 * seed) * step,
                }
                if step
                else {}
            ),
        }
        for step in range(num_steps + 1)
    ]
    (run_dir / "metrics.jsonl").write_text(to_lines(records))
    node = OmegaConf.to_container(compose_config([f"selector={selector}"]).selector)
    (run_dir / "config.yaml").write_text(yaml.safe_dump({"seed": seed, "selector_name": selector, "selector": node}))
    return run_dir


def words_of(picture: Path) -> str:
    """Text in an SVG of matplotlib's: each is drawn as outlines after a comment that holds it."""
    return "\n".join(re.findall(r"<!-- (.*?) -->", picture.read_text(encoding="utf-8")))


def test_one_run_says_how_far_it_came(tmp_path):
    run_dir = write_run(tmp_path / "run", seed=3, selector="insight")
    draw_curves([run_dir], tmp_path / "one.svg")
    words = words_of(tmp_path / "one.svg")
    assert "insight, seed 3, 40 steps: held-out accuracy 31.2% to 43.8% (+12.5 points)" in words
    assert "every prompt visited once (step 31)" in words
    for label in ("training step", "rollouts", "generated tokens", "Informative groups"):
        assert label in words


def test_what_a_pattern_finds_besides_runs_is_left_out(tmp_path, monkeypatch, capsys):
    sweep = tmp_path / "runs" / "sweep"
    for seed in (1, 2):
        write_run(sweep / f"run{seed}", seed=seed, selector="random")
    assert run_command(sweep) == 0  # leaves curves.png in the folder
    (sweep / "notes").mkdir()
    monkeypatch.chdir(tmp_path)
    assert run_command(*sorted(sweep.iterdir())) == 0
    out, err = capsys.readouterr()
    assert out.split()[-1] == str(sweep / "comparison.png")
    assert "curves.png is not a run and is left out" in err
    assert "notes is not a run" in err
    assert [path.name for path in tmp_path.iterdir()] == ["runs"], "nothing beside the runs"
    with pytest.raises(UsageError, match="there is no such folder"):
        run_command(sweep / "run1", sweep / "run7")
    with pytest.raises(UsageError, match=r"none has a metrics.jsonl"):
        run_command(sweep / "notes", sweep / "curves.png")


def test_lines_end_in_their_figures(tmp_path):
    runs = [write_run(tmp_path / selector, seed=1, selector=selector) for selector in ("random", "insight")]
    draw_curves(runs, tmp_path / "two.svg")
    assert words_of(tmp_path / "two.svg").splitlines().count("43.8%") == 6  # two lines in three panels


def test_runs_that_differ_in_minor_settings_have_their_names(tmp_path):
    for name, num_steps in (("short", 20), ("long", 40)):
        folder = write_run(tmp_path / name, seed=1, selector="insight", num_steps=num_steps)
        config = yaml.safe_load((folder / "config.yaml").read_text())
        config |= {"trainer": {"num_steps": num_steps}, "evaluation": {"every": num_steps // 2}}
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
    draw_curves([tmp_path], tmp_path / "two.svg")
    words = words_of(tmp_path / "two.svg").splitlines()
    assert {"short", "long"} <= set(words)
    assert not [word for word in words if "num_steps" in word or "every" in word]


def test_a_selector_has_one_colour_in_all_pictures():
    names = ["insight", "random", "inverse_evidence", "mopps"]
    every = looks_of({name: name for name in names})
    for subset in (names[::-1], names[1:], ["mopps"]):
        some = looks_of({name: name for name in subset})
        assert all(some[name].colour == every[name].colour for name in subset if name != "inverse_evidence")
    assert len({look.colour for look in every.values()}) == len(names)
    variants = looks_of({"insight": "insight", "insight:forgetting=0.5": "insight", "random": "random"})
    assert len({look.colour for look in variants.values()}) == 3
    assert looks_in(["random", "insight", "oracle"])["insight"].colour == every["insight"].colour


def test_several_runs_have_a_legend_by_what_differs(tmp_path):
    runs = [
        write_run(tmp_path / f"{selector}{seed}", seed=seed, selector=selector)
        for selector in ("random", "insight")
        for seed in (1, 2)
    ]
    draw_curves([*runs, write_run(tmp_path / "mopps", seed=1, selector="mopps")], tmp_path / "new" / "all.svg")
    words = words_of(tmp_path / "new" / "all.svg").splitlines()
    assert {"random (2 seeds)", "insight (2 seeds)", "mopps"} <= set(words)
    assert "3 settings, 5 runs" in words


@pytest.mark.parametrize("num_steps", [0, 1, 2])
@pytest.mark.parametrize("evaluate", [False, True])
def test_a_run_that_has_just_begun_is_drawn(tmp_path, num_steps, evaluate):
    run_dir = write_run(tmp_path / "run", seed=1, selector="random", num_steps=num_steps, evaluate=evaluate)
    (run_dir / "config.yaml").unlink()
    draw_curves([run_dir], tmp_path / "one.svg")
    assert ("not measured" in words_of(tmp_path / "one.svg")) == (not evaluate or num_steps == 0)


def run_command(*arguments: str | Path) -> int:
    return plot.main([str(argument) for argument in arguments])


def test_command_writes_beside_the_run_and_says_where(tmp_path, monkeypatch, capsys):
    first = write_run(tmp_path / "a", seed=1, selector="random")
    second = write_run(tmp_path / "b", seed=2, selector="random")
    monkeypatch.chdir(tmp_path)
    assert run_command(first) == 0
    assert run_command(first, second) == 0
    assert run_command(first, second, "--output", "out/picture.pdf") == 0
    assert capsys.readouterr().out.split() == [
        str(first / "curves.png"),
        str(tmp_path / "comparison.png"),
        "out/picture.pdf",
    ]
    assert (first / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert Path("out/picture.pdf").read_bytes().startswith(b"%PDF")


def test_command_names_what_is_wrong(tmp_path):
    with pytest.raises(UsageError, match=r"--output='x\.txt': must end in one of \.png, \.pdf, \.svg"):
        run_command(tmp_path, "--output", "x.txt")
    with pytest.raises(UsageError, match=r"nowhere: there is no such folder"):
        run_command(tmp_path / "nowhere")
    run_dir = write_run(tmp_path / "run", seed=1, selector="random", num_steps=1)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"file/x\.png: cannot be written"):
        run_command(run_dir, "--output", tmp_path / "file" / "x.png")
