"""Every command of README.md and docs/ is run, smaller, or listed here with the reason why not."""

from __future__ import annotations

import functools
import glob
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from insight_rl.cli.main import _FORMER_NAMES, main
from insight_rl.cli.main import COMMANDS as COMMANDS_OF_CLI
from insight_rl.compare.plan import load_plan
from insight_rl.config import compose_config
from insight_rl.recorded_config import read_recorded_config
from insight_rl.simulation.settings import load as load_simulation

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OTHER_PAGES = [*ROOT.glob("C*.md"), *ROOT.glob("docs/results/*.md"), ROOT / "data" / "README.md"]
"""Of these only the commands and settings that sentences name are looked at: they tell of what was done."""

NOT_RUN = {
    "bash scripts/quickstart.sh": "installs with pip; what it runs is experiment=quickstart, which is run here",
    "bash scripts/test.sh": "runs this test",
    "insight-rl data prepare task=gsm8k task.train_hub.revision=*": "needs the hub; see test_data_from_the_hub.py",
    "insight-rl train task=gsm8k task.train_hub.revision=*": "needs the hub; see test_data_from_the_hub.py",
    "insight-rl completion *": "prints a script; the shells themselves run it in tests/unit/cli/test_completion.py",
    "bash scripts/reproduce_*": "installs, and trains for minutes to hours; their plans are read by the contract tests",
    "insight-rl compare *": "trains for minutes; a small comparison runs in tests/integration/test_compare.py",
    "python scripts/compare_async.py *": "trains for minutes; the loop runs in tests/integration/test_async.py",
    "python scripts/look_into_comparison.py *": "needs a comparison before it",
    "python scripts/measure_repeats.py": "trains for ten minutes",
    "python scripts/simulate_wrong_verdicts.py *": "needs a file of pass rates; tests/unit/simulation has its table",
    "insight-rl simulate pool=pass_rates *": "needs a file of pass rates; tests/unit/simulation makes one and runs it",
    "pip install *": "installs",
    "insight-rl * rollout=vllm *engine_args*": "needs a GPU; vLLM itself runs in tests/integration/test_vllm_engine.py",
    "insight-rl evaluate evaluation=math_suite model=qwen3-0.6b rollout=vllm": "starts vLLM: see test_vllm_engine.py",
    "insight-rl train *runtime=ray *": "needs a cluster; tests/integration/test_ray_run.py starts one",
    "insight-rl train *learner=deepspeed *": "DeepSpeed's stages and ranks run in tests/contract",
    "insight-rl train *learner.num_ranks=2": "starts two ranks, as tests/contract/test_learner_contract.py does",
    "insight-rl train *trainer=async *": "starts two workers; tests/integration/test_async.py runs the loop",
    "insight-rl train *experiment=paper_*": "needs a GPU and hours",
    "insight-rl evaluate run_dir=runs/paper_*": "needs the run before it",
    "insight-rl train experiment=paper_countdown *": "needs a GPU",
    "insight-rl train task=dataset 'task.train_hub=*": "streams from the hub",
    "insight-rl train task=reasoning_gym*": "a model from the hub; see tests/unit/task/test_reasoning_gym.py",
    "python scripts/check_reasoning_gym.py*": "takes minutes; see tests/integration/test_check_reasoning_gym.py",
    "insight-rl train task=verifiers *": "an environment of yours; tests/integration/test_verifiers_run.py has one",
    "insight-rl train task=webinstruct *": "a judge model; tests/integration/test_verifiers_run.py has a server",
    "insight-rl dashboard --group *": "saves in a W&B account; the definition is tested in tests/unit/monitor",
    "python -m insight_rl.monitor.dictionary > docs/metrics.md": "compared by tests/unit/monitor/test_dictionary.py",
    "python scripts/benchmark_*": "measures time on a quiet machine",
    "python scripts/build_docs.py*": "run by tests/contract/test_docs_site.py",
    "python scripts/make_scale_page.py": "the page is compared by tests/contract/test_scale_page.py",
    "python scripts/check_features.py *": "needs a file of pass rates; see tests/integration/test_check_features.py",
    "python scripts/check_gpu.py*": "needs a GPU; its small form runs in tests/integration/test_check_gpu.py",
    "python scripts/check_openrlhf.py": "needs OpenRLHF; see tests/unit/integration/test_openrlhf.py",
    "python scripts/check_pins.py*": "installs from the registry; see tests/integration/test_check_pins.py",
    "python scripts/check_information.py --points 100000": "see tests/unit/selector/test_information.py",
    "python scripts/check_speedup_estimator.py": "takes a minute; the estimator has tests/unit/compare/test_speedup.py",
    "python scripts/check_ray.py*": "its small form runs in tests/integration/test_ray_run.py",
    "python scripts/check_service_crash.py *": "run by tests/integration/test_service_crash.py",
    "python scripts/measure_report.py": "measures time in a browser; the page has tests/unit/report/test_run_report.py",
    "python scripts/compare_trl_selection.py *": "trains for an hour; see tests/integration/test_trl_integration.py",
}
"""Patterns of commands, with the reason why they are not run."""

SMALLER = {
    "train": (
        "trainer.prompts_per_step=4 trainer.rollouts_per_prompt=2 trainer.prompts_per_update=4 "
        "evaluation.max_problems=4 evaluation.samples_per_problem=2"
    ),
    "evaluate": "evaluation.max_problems=3 evaluation.samples_per_problem=2",
    "simulate": "num_prompts=60 num_steps=3 num_seeds=2 prompts_per_step=8 num_processes=1",
    "serve-selector": "--port 0",
}
"""Appended to a command: the last value of a setting counts."""

ROOMY = "model.path=roomy model.dtype=float32 model.max_length=2048"
"""A model with random weights and room for a text."""

WITH = {
    "insight-rl evaluate evaluation=*": f"{ROOMY} evaluation.max_completion_tokens=4 --data-dir bench",
    "insight-rl data inspect task=gsm8k *": "model.path=roomy task.train_path=gsm8k.jsonl task.test_path=math500.jsonl",
    "insight-rl data prepare task=deepscaler *": "task.train_path=math_train.jsonl task.test_path=math500.jsonl",
    "insight-rl data prepare task=gsm8k *": "task.train_path=gsm8k.jsonl task.test_path=math500.jsonl",
    "insight-rl train task=*_path=*": f"{ROOMY} trainer.max_completion_tokens=4",
    "insight-rl train reward=math 'reward.shaping=*": (
        f"{ROOMY} trainer.max_completion_tokens=4 "
        "task=math task.train_path=math_train.jsonl task.test_path=math500.jsonl"
    ),
}
"""What a command needs beyond that here, where there is no hub: files and a model for its text."""

REPLACED = {
    "seed=1,2": "seed=1",
    "step=36": "step=1",
    "step=40": "step=2",
    "prompt=3d5de30": "prompt={prompt}",
}
"""Arguments that stand for what an example run does not have."""

MADE = {
    "insight-rl train * run_dir=runs/mopps": "runs/mopps/metrics.jsonl runs/mopps/model/model.safetensors",
    "insight-rl train -m * run_dir=runs/sweep": "runs/sweep/*random*/curves.png runs/sweep/*insight*/curves.png",
    "insight-rl plot runs/sweep/*": "runs/sweep/comparison.png",
    "insight-rl evaluate evaluation=*": "runs/evaluation_*/report.md",
    "insight-rl dashboard --output *": "dashboard.json",
    "insight-rl explain *": "runs/demo/explain/*.png",
    "insight-rl report run_dir=runs/demo output=demo.html": "demo.html runs/demo/report.html",
    "insight-rl simulate synthetic_learner=hopeless80 *": "runs/simulation_*/simulation.png",
    "insight-rl data prepare task=deepscaler *": "data/deepscaler/train.parquet data/deepscaler/test.parquet",
    "insight-rl data prepare task=gsm8k *": "data/gsm8k/train.jsonl data/gsm8k/source.json",
    "insight-rl push *": "runs/*/hub/model/README.md",
    "insight-rl judge *": "out.jsonl",
    "insight-rl export * output_dir=exported": "exported/model.safetensors",
    "insight-rl audit-rewards samples=*": "audit.json",
}
"""Files that are there once a command has run."""

COMPOSE = {
    **dict.fromkeys(("train", "doctor", "data", "evaluate"), compose_config),
    "judge": functools.partial(compose_config, config_name="judge"),
    "simulate": load_simulation,
    "compare": load_plan,
}
"""Commands whose arguments are settings, and what reads those."""

PROGRAMS = ("insight-rl", "python", "bash", "pip", "docker")


def commands_of(text: str) -> list[str]:
    """The commands of a page in order: of its code blocks, and the scripts that its sentences name with arguments."""
    commands: list[str] = []
    block: list[str] = []
    fence: str | None = None
    for line in [*text.splitlines(), ""]:
        if line.startswith("```"):
            commands += [] if fence not in (None, "", "bash") else _commands_of_block(block)
            fence, block = (line[3:].strip(), []) if fence is None else (None, [])
        elif fence is not None or line.startswith("    "):
            block.append(line if fence is not None else line[4:])
        else:
            commands += _commands_of_block(block)
            block = []
            commands += [each for each in re.findall(r"`([^`]+)`", line) if each.startswith(("python ", "bash "))]
    return list(commands)


def _commands_of_block(lines: list[str]) -> list[str]:
    """Joins what a backslash or an open quote continues; cuts remarks, which are set off by two spaces."""
    commands: list[str] = []
    pending = ""
    for line in lines:
        pending = f"{pending} {line.strip()}" if pending else re.split(r"(?<=\S) {2,}", line, maxsplit=1)[0]
        if pending.endswith("\\"):
            pending = pending[:-1].rstrip()
            continue
        if pending.count("'") % 2:
            continue
        if pending.split(" ")[0] in PROGRAMS or pending.startswith("export "):
            commands.append(pending)
        pending = ""
    return commands


def named_in(text: str) -> list[str]:
    """The commands of insight-rl that sentences and tables name."""
    outside = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return [" ".join(each.split()) for each in re.findall(r"`(insight-rl [^`]+)`", outside)]


def is_like(command: str, pattern: str) -> bool:
    return fnmatchcase(command, pattern.replace("[", "[[]"))


def is_sweep(command: str) -> bool:
    return command.startswith("insight-rl train -m ")


def listed(command: str) -> str | None:
    return next((pattern for pattern in NOT_RUN if is_like(command, pattern)), None)


COMMANDS = {page: commands_of(page.read_text(encoding="utf-8")) for page in PAGES}
RUN = {page: [each for each in commands if not listed(each)] for page, commands in COMMANDS.items()}
EVERY = [command for commands in COMMANDS.values() for command in commands]


def test_commands_are_found_as_a_reader_finds_them():
    page = (
        "Run `python scripts/x.py --n 3` or\n`insight-rl train` and\n\n    insight-rl plot runs/a     its curves\n"
        "    insight-rl train a=1 \\\n        b=2\n\n    a table\n\n```bash\nexport A=b\ninsight-rl train 'c=[\n"
        "  d]'   # remark\n# note\ncurl x\n```\n\n```python\nbash = 1\n```\n"
    )
    assert commands_of(page) == [
        "python scripts/x.py --n 3",
        "insight-rl plot runs/a",
        "insight-rl train a=1 b=2",
        "export A=b",
        "insight-rl train 'c=[ d]'   # remark",
    ]


def test_every_command_is_run_or_listed():
    assert len(EVERY) > 40
    programs = {command.split()[0] for commands in RUN.values() for command in commands}
    assert programs <= {"insight-rl", "export"}, "list the others with the reason why they are not run"


@pytest.mark.parametrize("table", [NOT_RUN, MADE, WITH], ids=["NOT_RUN", "MADE", "WITH"])
def test_what_is_said_of_a_command_is_said_of_one_that_is_there(table):
    assert [pattern for pattern in table if not any(is_like(command, pattern) for command in EVERY)] == []
    assert [text for text in REPLACED if not any(text in command for command in EVERY)] == []


def names_given(command: str) -> tuple[str, list[str]]:
    """A command's name and arguments; what stands for something else is left out (``seed=...``, ``compare=NAME``)."""
    _, name, *arguments = shlex.split(re.sub(r" \[([^]]+)\]", r" \1", command), comments=True)
    return name, [each for each in arguments if "..." not in each and not each.endswith("=NAME")]


NOT_RUN_HERE = [each for each in EVERY if listed(each) and each.startswith("insight-rl ")]
IN_SENTENCES = [each for page in [*PAGES, *OTHER_PAGES] for each in named_in(page.read_text(encoding="utf-8"))]
NAMED = sorted(
    each
    for each in {*NOT_RUN_HERE, *IN_SENTENCES}
    if not re.match(r"insight-rl (COMMAND|--)|.* --config-dir my_conf", each)
)
"""Commands that are not run, and those that sentences name. my_conf is the reader's folder."""


@pytest.mark.parametrize("command", NAMED)
def test_a_command_that_is_not_run_has_settings_and_flags_that_are_there(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("FILE.jsonl").touch()
    name, arguments = names_given(command.replace("=FILE", "=FILE.jsonl"))
    name = _FORMER_NAMES.get(name, name)
    module = importlib.import_module(COMMANDS_OF_CLI[name][0])
    flags = [each for each in arguments if each.startswith("--")]
    source = Path(module.__file__).read_text(encoding="utf-8") + (ROOT / "insight_rl/cli/own_code.py").read_text()
    assert [each for each in flags if f'"{each}"' not in source and each != "--help"] == []
    # A sweep and a suite are composed one by one when they run; here the first of each choice.
    settings = [re.sub(r"^(\w+)=(\w+),.*", r"\1=\2", each) for each in arguments if re.match(r"[\w./@+~]+=", each)]
    if settings and name in COMPOSE and not settings[0].startswith("report="):
        COMPOSE[name](settings)


def test_commands_in_sentences_are_found_without_what_stands_for_something():
    text = "`insight-rl train [a=b]\nc=...` and `insight-rl data x=FILE` | `python x`\n```bash\ninsight-rl plot\n```\n"
    assert named_in(text) == ["insight-rl train [a=b] c=...", "insight-rl data x=FILE"]
    assert [names_given(each) for each in named_in(text)] == [("train", ["a=b"]), ("data", ["x=FILE"])]
    assert len(IN_SENTENCES) > 20


@pytest.mark.parametrize("command", sorted({each for each in EVERY if each.startswith("python scripts/")}))
def test_scripts_have_the_documented_arguments(command):
    _, script, *arguments = shlex.split(command, comments=True)
    source = (ROOT / script).read_text()
    assert [each for each in arguments if each.startswith("--") and f'"{each}"' not in source] == []


# ---------------------------------------------------------------------------------------------------------------------
# What is run


@pytest.fixture(scope="module")
def roomy(tmp_path_factory):
    """A model of random weights that reads printable text, with a chat template and room for 2,048 tokens."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("roomy")
    words = ["<pad>", "<bos>", "<eos>", "<unk>", "\n", *map(chr, range(32, 127))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("[\\s\\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>"
    )
    fast.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
    fast.save_pretrained(folder)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(words),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=1,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The finished run that pages speak of as runs/demo."""
    folder = tmp_path_factory.mktemp("demo") / "demo"
    small = ["trainer.num_steps=2", *SMALLER["train"].split()]
    assert main(["train", "experiment=quickstart", *small, f"run_dir={folder}"]) == 0
    return folder


@pytest.fixture
def workplace(tmp_path, roomy, demo, monkeypatch):
    """A folder with what the pages take for granted: examples/, runs/demo and files of problems."""
    for name in ("examples", "scripts"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "roomy").symlink_to(roomy)
    shutil.copytree(demo, tmp_path / "runs" / "demo")
    for name, rows in PROBLEMS.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = tmp_path / "my_conf" / "selector" / "my_selector.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("_target_: insight_rl.selector.random.RandomSelector\n")
    monkeypatch.chdir(tmp_path)
    # Commands may set variables for the processes that they start.
    variables = os.environ.copy()
    yield tmp_path
    os.environ.clear()
    os.environ.update(variables)


def _sums(question: str, answer: str, *, first: int = 1, **more) -> list[dict]:
    return [{question: f"{n} + {n}?", answer: str(2 * n)} | more for n in range(first, first + 9)]


CHOICE = {"question": "Which?", "choices": ["one", "two", "three", "four"], "answer": 1}
PROBLEMS = {
    "math_train.jsonl": _sums("question", "answer"),
    "math500.jsonl": _sums("question", "answer", first=50),
    "gsm8k.jsonl": _sums("question", "answer"),
    "my.jsonl": _sums("prompt", "gold"),
    "quiz.jsonl": [CHOICE | {"question": f"Which {n}?"} for n in range(9)],
    "in.jsonl": [{"response": "so \\boxed{12}", "answer": "12"}, {"response": "13", "answer": "12"}],
    "samples.jsonl": [{"prompt_id": "a", "completion": "\\boxed{12}", "answer": "12", "success": True, "value": 1.0}],
    **{f"bench/{name}.jsonl": _sums("question", "answer") for name in ("aime24", "amc23", "math500", "gsm8k")},
    "bench/minerva_math.jsonl": _sums("question", "answer"),
    "bench/olympiadbench.jsonl": _sums("question", "final_answer"),
    "bench/mmlu.jsonl": [CHOICE | {"subject": "anatomy"}],
    "bench/gpqa.jsonl": [CHOICE],
}


def made_smaller(command: str, demo: Path) -> str:
    """``command`` with few steps and problems, and with the files that are here."""
    prompt_id = json.loads((demo / "selections.jsonl").read_text().splitlines()[1])["prompt_ids"][0]
    for old, new in REPLACED.items():
        command = command.replace(old, new.format(prompt=prompt_id.split("/")[-1][:8]))
    name = command.split()[1]
    if name == "train":
        # A twentieth, so that a run which a page lets go on has steps left to do.
        steps = [int(each) for each in re.findall(r"trainer\.num_steps=(\d+)", command)]
        command = re.sub(r"trainer\.num_steps=\d+", "", command)
        command += f" trainer.num_steps={max(steps, default=20) // 20}"
    added = [SMALLER.get(name, "")] + [more for pattern, more in WITH.items() if is_like(command, pattern + "*")]
    arguments, redirection = re.fullmatch(r"(.*?)((?: [<>] \S+)*)", command, re.DOTALL).groups()
    return " ".join(filter(None, [arguments, *added, redirection]))


def run(command: str, capfd: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The command's exit code and what it wrote. In this process, which has torch loaded, unless it needs a shell."""
    if re.search(r" [<>] ", command):
        shell = f'insight-rl() {{ {shlex.quote(sys.executable)} -m insight_rl "$@"; }}\n{command}'
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, env=environment)
        return done.returncode, done.stdout + done.stderr
    _, *arguments = shlex.split(command, comments=True)
    arguments = [path for each in arguments for path in (sorted(glob.glob(each)) if "*" in each else [each])]
    capfd.readouterr()
    code = main(arguments)
    return code, "".join(capfd.readouterr())


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory):
    """The folders of sweeps, by command: the longest of all, so one that stands on two pages is run once."""
    parent = tmp_path_factory.mktemp("sweeps")
    folders: dict[str, Path] = {}

    def run_once(command: str, capfd: pytest.CaptureFixture[str]) -> tuple[int, str]:
        (target,) = (Path(each.removeprefix("run_dir=")) for each in command.split() if each.startswith("run_dir="))
        if command in folders:
            shutil.copytree(folders[command], target)
            return 0, ""
        code, output = run(command, capfd)
        check_sweep(target)
        folders[command] = parent / str(len(folders))
        shutil.copytree(target, folders[command])
        return code, output

    return run_once


def check_sweep(folder: Path) -> None:
    """Each combination in a folder of its own, known by what differs, with the same problems before training."""
    names = ["selector-random", "selector-insight"]
    assert {path.name for path in folder.iterdir()} == set(names)
    recorded = [read_recorded_config(folder / name) for name in names]
    assert [(each["run_group"], each["arm"]) for each in recorded] == [("sweep", "random"), ("sweep", "insight")]
    starts = [json.loads((folder / name / "metrics.jsonl").read_text().splitlines()[0]) for name in names]
    assert [start["step"] for start in starts] == [0, 0]
    assert starts[0]["eval/accuracy"] == starts[1]["eval/accuracy"]


@pytest.mark.slow
# One worker of a parallel test run does all pages that have a sweep.
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.xdist_group("sweeps") if any(map(is_sweep, RUN[page])) else [])
        for page in PAGES
        if RUN[page]
    ],
    ids=lambda page: page.stem,
)
def test_the_commands_of_a_page_do_what_it_says(page, workplace, demo, sweeps, monkeypatch, capfd, request):
    if any("train " in each and "run_dir=runs/demo" in each for each in RUN[page]):
        shutil.rmtree(workplace / "runs" / "demo")
    for command in RUN[page]:
        if command.startswith("export "):
            name, _, value = command.removeprefix("export ").partition("=")
            monkeypatch.setenv(name, value)
            if name == "PYTHONPATH":
                monkeypatch.syspath_prepend(value)
            continue
        if " serve-selector" in command:
            start = request.getfixturevalue("start_service")
            monkeypatch.setenv("INSIGHT_RL_SELECTOR_URL", start(workplace / "selector-service")[1])
            continue
        smaller = made_smaller(command, demo)
        code, output = (sweeps if is_sweep(command) else run)(smaller, capfd)
        assert code == 0, f"{command}\nas {smaller}\nended with {code}:\n{output}"
        for pattern, files in MADE.items():
            missing = [each for each in files.split() if is_like(command, pattern) and not glob.glob(each)]
            assert not missing, f"{command} has not made {missing}:\n{output}"
        if "--cfg" in command:
            assert "trainer:" in output and "selector:" in output


@pytest.mark.slow
def test_a_run_leaves_what_the_readme_says(demo):
    table = (ROOT / "README.md").read_text().partition("in the run's folder")[2].partition("\n\n")[0]
    names = [name for row in table.splitlines() for name in re.findall(r"`([\w./]+)`", row.partition(" | ")[0])]
    assert len(names) > 6
    assert [name for name in names if not (demo / name).exists()] == []
