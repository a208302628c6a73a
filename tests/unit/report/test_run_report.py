"""The page of a run: what is on it, and what a folder of somebody else cannot do to it."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest

from insight_rl.cli.main import main
from insight_rl.report.rollout_pages import SCRIPT


class Page(HTMLParser):
    """Elements with their attributes, the visible words, and the content of scripts by their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self._inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self._inside = tag
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside == "script":
            attributes, content = self.scripts[-1]
            self.scripts[-1] = (attributes, content + data)
        elif self._inside != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    def packed(self) -> dict[str, object]:
        """What the viewer's script finds, by the id of its piece."""
        pieces = {}
        for attributes, content in self.scripts:
            if attributes.get("type") == "application/x-packed":
                pieces[attributes["id"]] = json.loads(gzip.decompress(base64.b64decode(content.strip(), validate=True)))
        return pieces


def report(folder) -> Page:
    assert main(["report", f"run_dir={folder}"]) == 0
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def test_a_page_tells_the_whole_run(made_run, capsys):
    folder = made_run()
    page = report(folder)
    assert capsys.readouterr().out == f"{folder / 'report.html'}\n"
    for words in (
        "Run a run: insight on countdown",
        "Held-out accuracy went from 25.0 % to 37.0 %, +12.0 points, in 12 steps (each within 2.0 points",
        "192 rollouts with 1,920 tokens",
        "a notice",
        "insight-rl train seed=7 trainer.num_steps=12 learner.lr=0.0002",
        "Versions: insight_rl",
        "48 prompts were rolled out in 12 steps, 20 different ones of the 20 in the pool",
        "Step 12: insight chose 4 of",
        "Were the beliefs right?",
        "80 rollouts of 5 steps (1, 3, 6, 9, ...)",
        "learn18.0 s75.0 %",
        "trainer0.50 GiB",
    ):
        assert words in page.text, words
    assert "could be read" not in page.text
    charts = [attributes["aria-label"] for tag, attributes in page.elements if tag == "svg"]
    assert "Held-out accuracy by rollouts, over rollouts: eval/accuracy from 0.25 to 0.37" in charts


def test_the_viewer_has_every_logged_rollout(made_run):
    pieces = report(made_run()).packed()
    index = pieces["rollouts-index"]["groups"]
    assert len(index) == 20
    shown = [(row, pieces[f"rollouts-{row[0]}"][row[1]]) for row in index]
    assert {row[2] for row, _ in shown} == {1, 3, 6, 9, 12}
    for row, group in shown:
        rights = [each["success"] for each in group["rollouts"]]
        assert row[5:9] == [4, 4, sum(rights), 8]
        assert group["prompt"].startswith(f"prompt {row[3].removeprefix('made/')}")
        assert [each["gap"] for each in group["rollouts"]] == [0.001, 0.002, 0.003, 0.004]
        assert [each["version"] for each in group["rollouts"]] == [row[2] - 1] * 4
    most, longest = ([key for key, _ in pieces["rollouts-index"]["kinds"]].index(key) for key in ("gap", "longest"))
    assert all(row[10] >> most & 1 and row[10] >> longest & 1 for row, _ in shown)


def test_text_of_others_is_text(made_run, hostile_text):
    folder = made_run(hostile_text)
    (folder / "versions.json").write_text(json.dumps([{"after_step": 0, "versions": {"torch": hostile_text}}]))
    plain = report(folder)
    executed = [(attributes, content) for attributes, content in plain.scripts if "type" not in attributes]
    ((attributes, content),) = executed
    assert attributes == {} and content == SCRIPT.read_text()
    policy = next(a["content"] for tag, a in plain.elements if tag == "meta" and "http-equiv" in a)
    digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'") and f"script-src 'sha256-{digest}'" in policy
    assert not [tag for tag, _ in plain.elements if tag in ("img", "iframe", "object", "link", "base", "form")]
    assert not [name for _, attributes in plain.elements for name in attributes if name.startswith("on")]
    assert not [a for _, a in plain.elements for key in ("src", "href") if key in a]
    assert "alert(1)" in plain.text, "shown, and not run"
    completion = plain.packed()["rollouts-0"][0]["rollouts"][0]["text"]
    assert repr(completion) == repr(f"completion 0 {hostile_text}")


def damage_lines(folder):
    for name in ("metrics.jsonl", "selections.jsonl", "notices.jsonl"):
        with (folder / name).open("ab") as file:
            file.write(b'\xff\xfe\n[1]\n{"step": "x"}\n{"step": 1e999}\n' + b"[" * 100_000 + b"\n")


def damage_rollouts(folder):
    (folder / "rollouts" / "step_000003.jsonl.gz").write_bytes(b"\x1f\x8b\x08 no gzip")
    lines = b'{"step": 6, "completions": [{"text": 3}]}\n7\n'
    (folder / "rollouts" / "step_000006.jsonl.gz").write_bytes(gzip.compress(lines))
    (folder / "rollouts" / "step_000007.jsonl.gz").mkdir()


def damage_decisions(folder):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (folder / "decisions" / "step_000002.parquet").write_bytes(b"PAR1 no parquet PAR1")
    pq.write_table(pa.table({"step": ["x"], "alpha": [None]}), folder / "decisions" / "step_000012.parquet")
    (folder / "decisions" / "step_x.parquet").write_bytes(b"")
    (folder / "decisions" / "pool.parquet").write_bytes(b"PAR1")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (
            damage_lines,
            [
                "metrics.jsonl: lines that could not be read and are left out: 5",
                "selections.jsonl: lines that could not be read and are left out: 5",
                "notices.jsonl: lines that could not be read and are left out: 5",
            ],
        ),
        (damage_rollouts, ["rollouts/: groups or files that could not be read and are left out: 4", "48 rollouts"]),
        (
            damage_decisions,
            ["decisions/: files that could not be read and are left out: 2", "the texts of the pool could not be read"],
        ),
    ],
)
def test_what_cannot_be_read_is_counted_and_left_out(damage, words, made_run):
    folder = made_run()
    damage(folder)
    page = report(folder)
    assert "Held-out accuracy went from 25.0 % to 37.0 %" in page.text
    for each in words:
        assert each in page.text


def test_numbers_and_settings_of_any_kind_make_a_page(made_run):
    folder = made_run()
    wild = '{"step": 13, "eval/accuracy": 1e99, "reward/mean": -1e308, "time/learn_s": true, "time/step_s": null, '
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(wild + f'"a": {"9" * 400}, "learner/entropy": NaN}}\n')
        file.write('{"step": 14, "eval/accuracy": -1e99, "memory/x": "y"}\n')
    (folder / "config.yaml").write_text(
        "selector: {mu: [1], guards: {exploration: x}}\ntrainer: 3\nselector_name: ../../x\ntask_name: [a]\n"
    )
    page = report(folder)
    assert "No command of this version makes exactly these settings" in page.text


def test_a_large_text_is_cut_and_says_so(made_run):
    folder = made_run()
    completion = {"text": "x" * 50_000, "success": None, "finish": "length"}
    line = {"step": 3, "prompt_id": "p", "completions": [completion] * 2}
    (folder / "rollouts" / "step_000003.jsonl.gz").write_bytes(gzip.compress(json.dumps(line).encode() + b"\n"))
    page = report(folder)
    group = page.packed()["rollouts-0"][4]
    assert (len(group["rollouts"][0]["text"]), group["rollouts"][0]["cut"]) == (20_000, 30_000)
    assert {"unjudged", "truncated", "repetitive"} <= set(group["rollouts"][0]["kinds"])


def test_a_bomb_is_read_as_far_as_is_sensible(made_run, monkeypatch):
    from insight_rl.report import run_files

    monkeypatch.setattr(run_files, "MAX_ROLLOUT_BYTES", 2**20)
    folder = made_run()
    (folder / "rollouts" / "step_000003.jsonl.gz").write_bytes(gzip.compress(b'{"a": "' + b"x" * 2**24 + b'"}\n'))
    assert "groups or files that could not be read and are left out" in report(folder).text
    monkeypatch.setattr(run_files, "MAX_ROLLOUTS", 40)
    assert "only the first 8 groups are shown" in report(folder).text


def test_a_running_run_and_a_bare_one_have_a_page(made_run):
    folder = made_run()
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 13, "eval/acc')
    assert "could be read" not in report(folder).text
    for name in ("config.yaml", "selections.jsonl", "versions.json", "notices.jsonl"):
        (folder / name).unlink()
    for name in ("rollouts", "decisions"):
        (folder / name).rename(folder.parent / name)
    page = report(folder)
    assert "The run has no rollout log" in page.text and "no selections.jsonl" in page.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run_dir={folder}/nowhere"], "there is no such folder"),
        (
            ["run_dir={folder}"],
            "has no metrics.jsonl: .*; give one of the runs in it, e.g. .*a run",
        ),
        (["run_dir={folder}/a run", "output={folder}/a run"], "cannot be read or written"),
        ([], "run_dir has no value"),
        (["run-dir=x"], r"did you mean run_dir=\.\.\.\?"),
    ],
)
def test_wrong_arguments_end_in_one_line(arguments, message, made_run, tmp_path, capsys):
    made_run()
    assert main(["report", *(each.format(folder=tmp_path) for each in arguments)]) == 2
    printed = capsys.readouterr()
    assert len(printed.err.splitlines()) == 1 and re.search(message, printed.err), printed.err


def test_a_run_without_a_step_is_no_page_yet(made_run, capsys):
    folder = made_run()
    (folder / "metrics.jsonl").write_text("")
    assert main(["report", f"run_dir={folder}"]) == 2
    assert "holds no step that can be read" in capsys.readouterr().err


def test_another_file(made_run, tmp_path):
    folder = made_run()
    assert main(["report", f"run_dir={folder}", f"output={tmp_path}/new/page.html"]) == 0
    assert (tmp_path / "new" / "page.html").is_file() and not (folder / "report.html").exists()
