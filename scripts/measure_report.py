"""Measures `insight-rl report` on a made-up run of 20,000 rollouts: time, size, and the first group in a browser.

    python scripts/measure_report.py [--rollouts 20000] [--characters 800] [--browser chromium]

The browser is opened without a window, and asked over the package websockets; without the one on the PATH its part is
left out.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy as np

from insight_rl.monitor.records import METRICS_FILE, to_lines
from insight_rl.report.run_report import REPORT_FILE, write_report
from insight_rl.rollout_log import ROLLOUTS_FOLDER, RolloutLog
from insight_rl.types import Completion, Group, Prompt, Reward

_GROUP, _GROUPS_PER_STEP = 8, 64
_WORDS = [f"{a}{b}" for a in ("ba", "ke", "li", "mo", "nu", "ra", "se", "to", "vi", "zu") for b in "bcdfghklmnprst"]


def make_run(folder: Path, *, num_rollouts: int, num_characters: int) -> None:
    """A folder with metrics and a rollout log; texts are words drawn at random, so that they hardly compress."""
    generator = random.Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    num_groups = -(-num_rollouts // _GROUP)
    num_steps = -(-num_groups // _GROUPS_PER_STEP)
    log = RolloutLog(folder / ROLLOUTS_FOLDER, every=1, max_mb=1024, first_step=1, gaps=None)
    for step in range(1, num_steps + 1):
        size = min(_GROUPS_PER_STEP, num_groups - (step - 1) * _GROUPS_PER_STEP)
        log.log(step, [_group(generator, step, number, num_characters) for number in range(size)], [])
    records = [{"step": step, "eval/accuracy": step / (step + 20)} for step in range(num_steps + 1)]
    (folder / METRICS_FILE).write_text(to_lines(records), encoding="utf-8")


def _group(generator: random.Random, step: int, number: int, num_characters: int) -> Group:
    def text() -> str:
        return " ".join(generator.choices(_WORDS, k=num_characters // 4))[:num_characters]

    rewards = [generator.random() < 0.4 for _ in range(_GROUP)]
    return Group(
        prompt=Prompt(id=f"made/{step}-{number}", task="made", text=text()[:200], token_ids=(1,), answer=number),
        completions_G=tuple(
            Completion(
                token_ids=np.ones(40, np.int32),
                logprobs=np.zeros(40, np.float32),
                text=text(),
                finish_reason="stop",
                policy_version=step,
            )
            for _ in rewards
        ),
        rewards_G=tuple(Reward(value=float(is_right), success=is_right, status="") for is_right in rewards),
    )


def first_group_ms(browser: str, page: Path) -> int:
    """Milliseconds from the start of the page to the first group on it, by the page's own clock."""
    from websockets.sync.client import connect

    with tempfile.TemporaryDirectory() as profile:
        options = ["--headless", "--no-sandbox", "--remote-debugging-port=0", f"--user-data-dir={profile}"]
        process = subprocess.Popen([browser, *options, page.resolve().as_uri()], stderr=subprocess.PIPE, text=True)
        try:
            assert process.stderr is not None
            said = ""
            for line in process.stderr:
                said += line
                if found := re.search(r"ws://([^/]+)/", line):
                    break
            else:
                raise RuntimeError(f"{browser} does not answer: {said}")
            with urllib.request.urlopen(f"http://{found.group(1)}/json") as answer:
                tab = next(each for each in json.load(answer) if each["type"] == "page")
            with connect(tab["webSocketDebuggerUrl"]) as socket:
                wanted = "document.getElementById('viewer').dataset.shownAfterMs"
                for number in range(600):
                    socket.send(
                        json.dumps({"id": number, "method": "Runtime.evaluate", "params": {"expression": wanted}})
                    )
                    if shown := json.loads(socket.recv()).get("result", {}).get("result", {}).get("value"):
                        return int(shown)
                    time.sleep(0.1)
            raise RuntimeError("no group has been shown in a minute")
        finally:
            process.terminate()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, default=20_000)
    parser.add_argument("--characters", type=int, default=800)
    parser.add_argument("--browser", default="chromium")
    parser.add_argument("--keep", type=Path, help="folder for the run; default: a temporary one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary) / "run"
        make_run(folder, num_rollouts=arguments.rollouts, num_characters=arguments.characters)
        began = time.perf_counter()
        write_report(folder, folder / REPORT_FILE)
        result: dict[str, object] = {
            "rollouts": arguments.rollouts,
            "characters": arguments.rollouts * arguments.characters,
            "log_mib": round(sum(path.stat().st_size for path in (folder / ROLLOUTS_FOLDER).iterdir()) / 2**20, 1),
            "seconds": round(time.perf_counter() - began, 1),
            "page_mib": round((folder / REPORT_FILE).stat().st_size / 2**20, 1),
        }
        if browser := shutil.which(arguments.browser):
            result["first_group_ms"] = first_group_ms(browser, folder / REPORT_FILE)
        print(json.dumps(result))


if __name__ == "__main__":
    main()
