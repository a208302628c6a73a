"""Data sets as they lie on disk and on the hub, with problems made up for these tests."""

import json
import logging
import socket
import sys
import types

import pyarrow
import pyarrow.parquet
import pytest

from insight_rl.build import build_part
from insight_rl.config import compose_config, parse_config
from insight_rl.errors import UsageError
from insight_rl.task import rows as rows_module
from insight_rl.task.dataset import DatasetTask
from insight_rl.task.math import MathRows


class PlainEncoder:
    """The wording itself; one token a character."""

    def encode(self, prompt):
        text = prompt if isinstance(prompt, str) else json.dumps(prompt)
        return text, tuple(map(ord, text))


ENCODER = PlainEncoder()
SUMS = [{"question": f"What is {n} + {n}?", "answer": str(2 * n), "level": n % 2} for n in range(1, 5)]


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def make_task(**settings):
    return DatasetTask(**{"name": "sums", "style": "bare", "rows": MathRows(), **settings})


def questions(problems):
    return [problem.question for problem in problems]


# ---------------------------------------------------------------------------------------------------------------------
# files


def write_file(path, rows):
    if path.suffix == ".jsonl":
        return write_jsonl(path, rows)
    if path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1))
    elif path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        lines = ["question,answer,level", *(f'"{row["question"]}",{row["answer"]},{row["level"]}' for row in rows)]
        path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet", ".csv"])
def test_every_kind_of_file_reads_alike(tmp_path, suffix):
    task = make_task(test_path=write_file(tmp_path / f"sums{suffix}", SUMS), metadata=["level"])
    problems = task.test_problems()
    assert [(p.question, p.answer) for p in problems] == [(row["question"], row["answer"]) for row in SUMS]
    assert [int(p.metadata["level"]) for p in problems] == [1, 0, 1, 0]


def test_a_json_file_may_hold_lines(tmp_path):
    path = tmp_path / "sums.json"
    write_jsonl(path, SUMS)
    assert len(make_task(test_path=str(path)).test_problems()) == 4


def test_lines_end_at_newlines_only(tmp_path):
    """A line separator within a JSON string is text."""
    question = "What is\u2028 2 + 2\x85?"
    path = write_jsonl(tmp_path / "sums.jsonl", [{"question": question, "answer": "4"}])
    assert questions(make_task(test_path=path).test_problems()) == [question]


def test_a_folder_as_the_hub_holds_it(tmp_path):
    """A README that names configs, and Parquet files by split: the library's own format."""
    for config, rows in (("main", SUMS), ("other", SUMS[:1])):
        (tmp_path / config).mkdir()
        for split, part in (("train", rows[:3]), ("test", rows[3:] or rows)):
            pyarrow.parquet.write_table(
                pyarrow.Table.from_pylist(part), tmp_path / config / f"{split}-00000-of-00001.parquet"
            )
    configs = "".join(
        f"- config_name: {config}\n  data_files:\n"
        + "".join(f"  - split: {split}\n    path: {config}/{split}-*\n" for split in ("train", "test"))
        for config in ("main", "other")
    )
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    hub = {"name": "someone/sums", "config": "main"}
    for streaming in (False, True):
        task = make_task(
            train_path=str(tmp_path),
            train_hub={**hub, "split": "train"},
            test_path=str(tmp_path),
            test_hub={**hub, "split": "test"},
            streaming=streaming,
        )
        assert questions(task.train_problems()) == questions(map(MathRows().problem, SUMS[:3]))
        assert questions(task.test_problems()) == [SUMS[3]["question"]]
    missing = make_task(test_path=str(tmp_path), test_hub={**hub, "split": "validation"})
    with pytest.raises(UsageError, match=r"task.test_path=.*validation.*check the folder"):
        missing.test_problems()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{oops", "row 2: not JSON"),
        ("[1, 2]", "row 2: '[1, 2]' is no object"),
        ('{"prompt": "What?", "answer": "4"}', "row 2: it has none of the fields problem, question"),
        ('{"question": "What?", "answer": {"x": 1}}', "row 2: answer="),
    ],
)
def test_a_bad_row_is_named(tmp_path, line, reason):
    path = tmp_path / "sums.jsonl"
    path.write_text(json.dumps(SUMS[0]) + "\n" + line + "\n")
    with pytest.raises(UsageError) as caught:
        make_task(test_path=str(path)).test_problems()
    assert f"task.test_path={path} {reason}" in str(caught.value)


def test_files_that_cannot_be_used_are_named(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no")
    (tmp_path / "sums.txt").write_text("2+2")
    for name, reason in {
        "none.jsonl": "No such file",
        "empty.jsonl": "holds no problem",
        "binary.jsonl": "not UTF-8",
        "broken.parquet": "cannot be read as .parquet",
        "sums.txt": "unknown kind of file; take one of .jsonl",
    }.items():
        with pytest.raises(UsageError) as caught:
            make_task(test_path=str(tmp_path / name)).test_problems()
        assert f"task.test_path={tmp_path / name}: {reason}" in str(caught.value)


# ---------------------------------------------------------------------------------------------------------------------
# the hub


@pytest.fixture
def fake_hub(monkeypatch):
    """A stand-in for the datasets library that knows no data set; its calls are kept."""
    calls = []

    def load_dataset(*args, **kwargs):
        calls.append((args, kwargs))
        raise ConnectionError("Couldn't reach the Hub\nsecond line")

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return calls


def test_a_hub_that_fails_is_explained_with_the_remedy(fake_hub):
    hub = {"name": "someone/sums", "config": "main", "split": "train"}
    with pytest.raises(UsageError) as caught:
        make_task(train_hub=hub, streaming=True).train_problems()
    assert fake_hub == [(("someone/sums", "main"), {"split": "train", "streaming": True})]
    message = str(caught.value)
    assert "task.train_hub=someone/sums:main:train: Couldn't reach the Hub; " in message
    assert "task.train_path=..." in message
    assert "second line" not in message


def test_a_local_path_goes_before_the_hub(fake_hub, tmp_path):
    task = make_task(
        test_path=write_jsonl(tmp_path / "sums.jsonl", SUMS), test_hub={"name": "someone/sums", "split": "test"}
    )
    assert len(task.test_problems()) == 4
    assert fake_hub == []


def test_without_a_network_the_library_is_told_to_look_into_its_cache(monkeypatch):
    import os

    for name in ("HF_HUB_OFFLINE", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    # Whatever the call sets is taken back at the end.
    monkeypatch.setenv("HF_HUB_OFFLINE", "")
    monkeypatch.delenv("HF_HUB_OFFLINE")

    def refuse(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(socket, "create_connection", refuse)
    rows_module._go_offline_if_unreachable()
    assert os.environ["HF_HUB_OFFLINE"] == "1"


# ---------------------------------------------------------------------------------------------------------------------
# what is kept


def test_held_out_problems_are_dropped_from_training_however_they_are_written(tmp_path, caplog):
    train = write_jsonl(tmp_path / "train.jsonl", [*SUMS, {"question": "what is  $1 + 1$", "answer": "2"}])
    test = write_jsonl(tmp_path / "test.jsonl", SUMS[:1])
    task = make_task(train_path=train, test_path=test)
    with caplog.at_level(logging.WARNING):
        assert questions(task.train_problems()) == [row["question"] for row in SUMS[1:]]
    assert "dropped 2 problems that are held out" in caplog.text
    with pytest.raises(UsageError, match="every problem is also a test problem"):
        make_task(train_path=test, test_path=train).train_problems()


def test_rows_without_an_answer_are_skipped_and_named(tmp_path, caplog):
    path = write_jsonl(tmp_path / "sums.jsonl", [SUMS[0], {"question": "Why?", "answer": None}, SUMS[1]])
    with caplog.at_level(logging.WARNING):
        assert len(make_task(test_path=path).test_problems()) == 2
    assert "skipped 1 rows without a question or an answer (row 2)" in caplog.text


def test_rows_with_the_same_question_and_another_answer_are_named(tmp_path, caplog):
    path = write_jsonl(tmp_path / "sums.jsonl", [*SUMS, SUMS[0], {**SUMS[1], "answer": "5"}])
    with caplog.at_level(logging.WARNING):
        make_task(train_path=path).train_problems()
    assert "rows 2 and 6 ask the same question and give different answers: '4' and '5'" in caplog.text
    assert "rows 1 and 5" not in caplog.text


def test_only_and_limits(tmp_path):
    path = write_jsonl(tmp_path / "sums.jsonl", SUMS)
    task = make_task(train_path=path, test_path=None, only={"level": [1]}, max_train=1)
    assert questions(task.train_problems()) == [SUMS[0]["question"]]
    assert task.test_prompts(ENCODER) == []
    assert len(make_task(test_path=path, only={"level": [0, 1]}, max_test=3).test_problems()) == 3
    with pytest.raises(UsageError, match=r"task.only.grade=\[3\].*no such field"):
        make_task(test_path=path, only={"grade": [3]}).test_problems()
    with pytest.raises(UsageError, match="holds no problem"):
        make_task(test_path=path, only={"level": [7]}).test_problems()


def test_a_task_without_training_problems_says_so():
    with pytest.raises(UsageError, match=r"task sums has no training problems.*task.train_path="):
        make_task().train_prompts(ENCODER)


def test_repeats_are_counted_in_a_test_set_and_dropped_by_their_id_in_a_pool(tmp_path):
    path = write_jsonl(tmp_path / "sums.jsonl", [SUMS[0], SUMS[1], SUMS[0], SUMS[0]])
    task = make_task(train_path=path)
    assert len({prompt.id for prompt in task.train_prompts(ENCODER)}) == 2
    first, second, *repeated = [prompt.id for prompt in make_task(test_path=path).test_prompts(ENCODER)]
    assert repeated == [f"{first}#2", f"{first}#3"]
    assert second != first


# ---------------------------------------------------------------------------------------------------------------------
# wording and ids


def test_wording_and_ids(tmp_path):
    path = write_jsonl(tmp_path / "sums.jsonl", SUMS[:1])
    (bare,) = make_task(test_path=path, instruction="Just the number.").test_prompts(ENCODER)
    assert bare.text == "What is 1 + 1?\n\nJust the number.\n\nSolution:\n"
    assert (bare.task, bare.answer) == ("sums", "2")
    (chat,) = make_task(test_path=path, style="chat", system_prompt="Be brief.").test_prompts(ENCODER)
    system, user = json.loads(chat.text)
    assert system == {"role": "system", "content": "Be brief."}
    assert user["content"] == f"What is 1 + 1?\n\n{MathRows.instruction}"
    # Beliefs of old runs are kept under this name.
    assert bare.id == chat.id == "sums/e265702b26f3ffa7"


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "a/b"},
        {"style": "prose"},
        {"rows": {"question": "x"}},
        {"train_path": ""},
        {"train_hub": "openai/gsm8k"},
        {"test_hub": {"name": "x", "commit": "main"}},
        {"test_hub": {"name": "x", "revision": ""}},
        {"test_hub": {"name": None, "split": "test"}},
        {"max_train": 0},
        {"only": {"level": 3}},
        {"system_prompt": "Be brief."},
    ],
)
def test_wrong_settings_are_named(settings):
    with pytest.raises(UsageError, match=f"task.{next(iter(settings))}"):
        make_task(**settings)


def test_a_revision_that_yaml_takes_for_a_number_is_to_be_quoted():
    with pytest.raises(UsageError, match=r"task\.train_hub\.revision=1234567: .* 'revision=\"1234567\"'"):
        make_task(train_hub={"name": "a/b", "revision": 1234567})


# ---------------------------------------------------------------------------------------------------------------------
# the options of conf/


def test_each_option_brings_its_reward_and_the_command_line_wins():
    rewards = {}
    for option in ("deepscaler", "math", "gsm8k", "webinstruct", "dataset", "mmlu", "gpqa", "mixture", "countdown"):
        rewards[option] = compose_config([f"task={option}"]).reward._target_.rpartition(".")[2]
    math = ("deepscaler", "math", "gsm8k", "webinstruct", "dataset")
    assert rewards == {
        **dict.fromkeys(math, "MathReward"),
        **dict.fromkeys(("mmlu", "gpqa"), "MultipleChoiceReward"),
        "mixture": "ByTaskReward",
        "countdown": "CountdownReward",
    }
    assert compose_config(["task=gsm8k", "reward=countdown"]).reward._target_.endswith("CountdownReward")
    assert compose_config(["reward=countdown", "task=mmlu"]).reward._target_.endswith("CountdownReward")


REAL_ROWS = {
    "deepscaler": {"problem": "What is $1+1$?", "answer": "2", "solution": "Easy."},
    "math": {"problem": "What is $1+1$?", "level": "Level 1", "type": "Algebra", "solution": "It is $\\boxed{2}$."},
    "gsm8k": {"question": "One pen and one more?", "answer": "1+1=<<1+1=2>>2\n#### 2"},
    "webinstruct": {
        "id": 7,
        "question": "One mole of He and one of Ne: how many?",
        "answer": "2",
        "answer_type": "Integer",
        "category": "Chemistry",
        "difficulty": "Primary School",
    },
    "mmlu": {"question": "1+1?", "subject": "", "choices": ["1", "2", "3", "4"], "answer": 1},
    "dataset": {"question": "What is 1+1?", "answer": 2},
}


@pytest.mark.parametrize("option", REAL_ROWS)
def test_each_option_reads_a_row_of_its_real_format(tmp_path, option):
    path = write_jsonl(tmp_path / "train.jsonl", [REAL_ROWS[option]])
    overrides = [f"task={option}", f"task.train_path={path}", "task.test_hub=null"]
    (prompt,) = build_part("task", parse_config(compose_config(overrides)).task).train_prompts(ENCODER)
    assert prompt.task == option
    assert prompt.id.startswith(f"{option}/")
    assert prompt.answer["letter"] == "B" if option == "mmlu" else prompt.answer == "2"


def test_gpqa_reads_the_csv_of_the_hub(tmp_path):
    path = tmp_path / "gpqa_main.csv"
    header = "Pre-Revision Question,Question,Correct Answer,Incorrect Answer 1,Incorrect Answer 2,Incorrect Answer 3"
    path.write_text(
        f'{header},Subdomain,High-level domain\nold,"A photon, or\ntwo?",two,one,three,four,Optics,Physics\n'
    )
    config = parse_config(compose_config(["task=gpqa", f"task.test_path={path}"]))
    (prompt,) = build_part("task", config.task).test_prompts(ENCODER)
    assert prompt.text.startswith("A photon, or\ntwo?\n\nA. ")
    assert prompt.answer["choices"]["ABCD".index(prompt.answer["letter"])] == "two"
    assert prompt.metadata["Subdomain"] == "Optics"


def test_kinds_of_answer_that_rules_cannot_judge_are_left_out_of_webinstruct(tmp_path):
    rows = [REAL_ROWS["webinstruct"], {**REAL_ROWS["webinstruct"], "question": "Why?", "answer_type": "Other"}]
    path = write_jsonl(tmp_path / "train.jsonl", rows)
    overrides = ["task=webinstruct", f"task.train_path={path}", "task.test_hub=null"]
    assert len(build_part("task", parse_config(compose_config(overrides)).task).train_problems()) == 1
    everything = [*overrides, "task.only=null"]
    assert len(build_part("task", parse_config(compose_config(everything)).task).train_problems()) == 2


@pytest.mark.parametrize("field", ["question", "answer"])
def test_a_row_that_is_no_unicode_text_is_named(field, tmp_path):
    rows = [SUMS[0], {**SUMS[1], field: "half a pair: \ud83d"}]
    path = tmp_path / "sums.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UsageError, match=r"sums\.jsonl row 2: .*is not Unicode text .*mend the row"):
        make_task(train_path=str(path)).train_prompts(ENCODER)


def test_a_broken_row_is_counted_once(tmp_path):
    path = tmp_path / "sums.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in SUMS) + "{oops\n")
    with pytest.raises(UsageError, match=r"row 5: not JSON \(.* at character 2\)") as error:
        make_task(train_path=str(path)).train_prompts(ENCODER)
    assert "line 1" not in str(error.value), "a line of the file, not of the row"
