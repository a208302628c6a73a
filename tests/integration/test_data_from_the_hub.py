"""`insight-rl data prepare` from a hub on this machine, by the real libraries: newest, pinned, from the cache.

One process for all, since the libraries read the hub's address when they are imported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from insight_rl.cli.main import main
from tests.support.local_hub import LocalHub
from tests.unit.hub.conftest import write_run

PROBE = """
import json, os, sys
import datasets
from insight_rl.cli.main import main

datasets.disable_progress_bars()
for number, words in enumerate(json.loads(sys.argv[1])):
    offline = words[0] == "offline"
    datasets.config.HF_HUB_OFFLINE = offline
    import huggingface_hub
    huggingface_hub.constants.HF_HUB_OFFLINE = offline
    code = main(["data", "prepare", "task=gsm8k", *words[1:]])
    print(f"code {code}", flush=True)
    print("-----", file=sys.stderr, flush=True)
huggingface_hub.constants.HF_HUB_OFFLINE = False
from insight_rl.build import find_model
from insight_rl.config import ModelConfig

for revision in (None, sys.argv[3]):
    model = ModelConfig(path="org/model", revision=revision, dtype="float32", max_length=8, prompt_style="bare")
    print((find_model(model) / "config.json").read_text())
for name in ("decisions", "beliefs"):
    print(datasets.load_dataset(sys.argv[2], name, split="train").num_rows)
"""


def rows(number: int) -> bytes:
    lines = [{"question": f"What is {n} + {number}?", "answer": f"#### {n + number}"} for n in range(4)]
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


@pytest.fixture
def hub(tmp_path):
    hub = LocalHub()
    card = b"---\nconfigs:\n- config_name: main\n  data_files:\n  - {split: train, path: train.jsonl}\n"
    card += b"  - {split: test, path: test.jsonl}\n---\n"
    yield (
        hub,
        [
            hub.add("dataset", "openai/gsm8k", {"README.md": card, "train.jsonl": rows(number), "test.jsonl": rows(9)})
            for number in (1, 2)
        ],
    )
    hub.close()


@pytest.mark.slow
def test_rows_are_those_of_the_commit_that_is_recorded(hub, tmp_path):
    server, (first, second) = hub
    run = write_run(tmp_path / "run", "seed: 0\ntask: {}\n")
    assert main(["push", f"run_dir={run}", "repo=user/name", "records=true", "dry_run=true"]) == 0
    old_model = server.add("model", "org/model", {"config.json": b'{"number": 1}'})
    server.add("model", "org/model", {"config.json": b'{"number": 2}'})
    commands = [
        ["online", "--output-dir", "newest"],
        ["online", "--output-dir", "pinned", f"task.train_hub.revision={first}", f"task.test_hub.revision={first}"],
        ["online", "--output-dir", "nowhere", "task.train_hub.revision=" + "0" * 40],
        ["offline", "--output-dir", "cached"],
        ["offline", "--output-dir", "other", f"task.test_hub.revision={second}"],
    ]
    environment = {
        **{name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"},
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(tmp_path / "cache"),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    done = subprocess.run(
        [sys.executable, "-c", PROBE, json.dumps(commands), str(run / "hub" / "records"), old_model],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("insight-rl data: ")]
    codes = [line for line in done.stdout.splitlines() if line.startswith("code ")]
    assert codes == ["code 0", "code 0", "code 2", "code 0", "code 2"]
    for folder, commit in (("newest", second), ("pinned", first), ("cached", first)):
        source = json.loads((tmp_path / folder / "source.json").read_text())
        assert source["train"]["hub"] == {
            "name": "openai/gsm8k",
            "config": "main",
            "split": "train",
            "revision": commit,
        }
        assert source["test"]["hub"]["revision"] == commit and source["train"]["num_problems"] == 4
        train = (tmp_path / folder / "train.jsonl").read_text()
        assert json.loads(train.splitlines()[0])["question"] == f"What is 0 + {1 if commit == first else 2}?"
    assert f"task.train_hub.revision={second}" in done.stdout
    missing, other = said
    assert f"gsm8k:main:train@{'0' * 40}: " in missing and "check the name, the revision" in missing
    assert f"task.test_hub.revision='{second}': the hub cannot be reached, and its cache gives openai/gsm8k at" in other
    assert done.stdout.splitlines()[-4:] == [
        *('{"number": 2}', '{"number": 1}'),  # models: the newest, and at model.revision
        *("4", "3"),  # the records of a push, as the library loads them
    ]
