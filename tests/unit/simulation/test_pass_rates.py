from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from insight_rl.build import build_part
from insight_rl.cli.main import main
from insight_rl.compare.plan import load_plan
from insight_rl.errors import UsageError
from insight_rl.paths import conf_dir
from insight_rl.simulation.pass_rates import PassRateFile
from insight_rl.simulation.settings import compose_simulation, load

ROWS = [
    {"question": " What is 2 + 3? ", "answer": "5", "pass_rate": 1.0, "attempts": 128},
    {"question": "Find x.", "answer": "x = 4", "pass_rate": 0.25, "attempts": 64},
    {"question": "What is 2 + 3?", "answer": "6", "pass_rate": 0.0, "attempts": 128},
    {"question": "Prove it.", "answer": "done", "pass_rate": 0, "attempts": 128},
]


def write(path, rows):
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", ["pool.jsonl", "pool.parquet"])
def test_problems_are_read_and_count_once_by_their_stripped_text(tmp_path, name):
    data = PassRateFile(path=write(tmp_path / name, ROWS), attempts="attempts").read()
    assert [prompt.text for prompt in data.prompts] == ["What is 2 + 3?", "Find x.", "Prove it."]
    assert [prompt.answer for prompt in data.prompts] == ["5", "x = 4", "done"]  # the first row of a text counts
    assert data.rates.tolist() == [1.0, 0.25, 0.0]
    assert data.attempts.tolist() == [128.0, 64.0, 128.0]
    assert np.allclose(np.linalg.norm(data.vectors, axis=1), 1.0)
    assert all(prompt.id.startswith("pass_rates/") for prompt in data.prompts)


def test_columns_go_by_the_names_given(tmp_path):
    rows = [{"q": f"Problem {index}", "gold": index, "solved": "0.5"} for index in range(3)]
    path = write(tmp_path / "pool.jsonl", rows)
    data = PassRateFile(path=path, text=["q"], answer=["gold"], pass_rate=["solved"], attempts=16, task="maths").read()
    assert data.prompts[2].answer == "2"
    assert data.rates.tolist() == [0.5] * 3
    assert data.attempts.tolist() == [16.0] * 3
    assert data.prompts[0].task == "maths"


def test_a_file_is_read_once_until_it_changes(tmp_path):
    path = write(tmp_path / "pool.jsonl", ROWS)
    first = PassRateFile(path=path).read()
    assert PassRateFile(path=path).read() is first
    write(tmp_path / "pool.jsonl", ROWS[1:])
    assert len(PassRateFile(path=path).read().prompts) == 3
    assert PassRateFile(path=path).read() is not first


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"pass_rate": 46.1}, r"path=.* row 3: pass_rate='46.1' is no number in \[0, 1\]; .*divide a percentage"),
        ({"pass_rate": -0.1}, "row 3: pass_rate='-0.1' is no number"),
        ({"pass_rate": float("nan")}, "row 3: pass_rate='nan' is no number"),
        ({"pass_rate": "much"}, "row 3: pass_rate='much' is no number"),
        ({"pass_rate": None}, "row 3: pass_rate='None' is no number"),
        ({"attempts": 0}, "row 3: attempts='0' is no number of at least 1"),
        ({"question": "  "}, "row 3: question is empty"),
        ({"question": 7}, "row 3: question='7' is no text"),
        ({"answer": None}, "row 3: answer is missing"),
    ],
)
def test_a_bad_row_is_named_with_its_value_and_the_remedy(tmp_path, changed, message):
    rows = [ROWS[0], ROWS[1], {**ROWS[3], **changed}]
    with pytest.raises(UsageError, match=message):
        PassRateFile(path=write(tmp_path / "pool.jsonl", rows), attempts="attempts").read()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"path": None}, "path=None: pool=pass_rates needs a file"),
        ({"path": "no/such.parquet"}, r"path='no/such.parquet': is no file"),
        ({"attempts": 0}, r"pool\.attempts=0"),
        ({"attempts": True}, r"pool\.attempts=True"),
        ({"text": "question"}, r"pool\.text='question': give a list"),
        ({"text": ["prompt"]}, "it has none of the fields prompt"),
        ({"pass_rate": ["rate"]}, "it has none of the fields rate"),
        ({"task": "a/b"}, r"pool\.task='a/b'"),
        ({"max_rows": 2}, r"pool\.max_rows=2: path=.* has more rows"),
    ],
)
def test_a_bad_setting_is_named(tmp_path, settings, message):
    path = write(tmp_path / "pool.jsonl", ROWS)
    with pytest.raises(UsageError, match=message):
        PassRateFile(**{"path": path, **settings}).read()


def test_a_file_that_is_not_what_its_name_says(tmp_path):
    path = tmp_path / "pool.parquet"
    path.write_bytes(b"PAR1 not really")
    with pytest.raises(UsageError, match=r"cannot be read as \.parquet"):
        PassRateFile(path=str(path)).read()
    other = tmp_path / "pool.txt"
    other.write_text("text")
    with pytest.raises(UsageError, match=r"unknown kind of file; take one of \.jsonl"):
        PassRateFile(path=str(other)).read()


def test_one_problem_is_no_pool(tmp_path):
    with pytest.raises(UsageError, match="fewer than two different problems"):
        PassRateFile(path=write(tmp_path / "pool.jsonl", [ROWS[0], ROWS[2]])).read()


def test_the_command_line_takes_a_file(tmp_path, capsys):
    rows = [{"question": f"What is {i} + {i}?", "answer": str(2 * i), "pass_rate": i / 60} for i in range(60)]
    path = write(tmp_path / "pool.jsonl", rows)
    small = ["num_seeds=2", "num_steps=4", "prompts_per_step=8", "num_processes=1", f"output_dir={tmp_path / 'out'}"]
    assert main(["simulate", "pool=pass_rates", f"path={path}", "selectors=random,insight", *small]) == 0
    assert "all problems of pool.jsonl, 4 steps" in capsys.readouterr().out
    assert main(["simulate", "pool=pass_rates", f"path={path}", "num_prompts=61", *small]) == 2
    assert "num_prompts=61: is more than the 60 different problems" in capsys.readouterr().err
    assert main(["simulate", "pool=pass_rates", *small]) == 2
    assert "path=None" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["path=some.parquet"], "path='some.parquet': is read by pool=pass_rates only"),
        (["pool=pass_rates", "path=x", "synthetic_learner=realistic"], "pool='pass_rates': needs the learner"),
    ],
)
def test_a_file_that_nothing_would_read_is_refused(overrides, message):
    with pytest.raises(UsageError, match=message):
        load(overrides)


PLANS = sorted(path.stem for path in (conf_dir() / "compare").glob("pass_rates*.yaml"))


@pytest.mark.parametrize("plan", PLANS)
def test_the_arms_of_the_plans_compose_and_are_what_can_be_built(tmp_path, monkeypatch, plan):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "pass_rates.parquet", ROWS)
    composed = load_plan([f"compare={plan}"])
    assert composed.kind == "simulate"
    assert composed.seeds.number >= 20
    arms = list(composed.arms.values())
    # Six plans share their arms; composing each takes a third of a second.
    for overrides in arms if plan in ("pass_rates", "pass_rates_ablation") else arms[-1:]:
        config = compose_simulation([*composed.base, *overrides])
        for part in ("synthetic_learner", "selector", "gate"):
            build_part(part, getattr(config, part))
