"""Examples in docstrings run and give what they say; code on the pages is code, and names what is there."""

from __future__ import annotations

import ast
import builtins
import importlib
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "insight_rl"
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "data" / "README.md"]

NOT_RUN = {
    "insight_rl.checkpoint.StatePart": "takes a checkpoint store and a selector",
    "insight_rl.clock.Stopwatch": "takes work to measure",
    "insight_rl.heartbeat.Heartbeat": "starts a process",
    "insight_rl.learner.device_memory.ParkedMemory": "takes a model on a GPU",
    "insight_rl.learner.head.SelectedLogprobs": "takes a model",
    "insight_rl.learner.settings.StartSpec": "takes an algorithm",
    "insight_rl.recovery.Restarts": "takes a lost rank",
    "insight_rl.selector.verifier_error.VerifierError": "takes beliefs",
    "insight_rl.simulation.single_run.simulated_run": "simulates for seconds; tests/unit/simulation has it",
}
"""Examples that take more than their module has for granted."""

EXAMPLE = re.compile(r"(?:^|(?<=[.:] ))Example::\n\n((?: {4}.*\n|\n)+)", re.MULTILINE)
FENCED = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Example:
    name: str
    """Of the module, class or function, in full."""
    module: str
    code: str


def _examples(file: Path) -> list[Example]:
    module = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    found: list[Example] = []

    def look(node: ast.AST, name: str) -> None:
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node) or ""
            assert ">>>" not in text, f"{name}: write `Example::` and what comes out as a comment; that is run"
            found.extend(Example(name, module, textwrap.dedent(each)) for each in EXAMPLE.findall(text + "\n"))
            for child in node.body:
                look(child, f"{name}.{getattr(child, 'name', '')}")

    look(ast.parse(file.read_text(encoding="utf-8")), module)
    return found


EXAMPLES = [each for file in sorted(PACKAGE.rglob("*.py")) for each in _examples(file)]


def said_value(comment: str) -> tuple[object] | None:
    """The value that a comment says: a literal at its start that a ``:``, ``;`` or ``,`` ends. None: it says none."""
    for end in [len(comment), *sorted((m.start() for m in re.finditer("[:;,]", comment)), reverse=True)]:
        try:
            return (ast.literal_eval(comment[:end].strip()),)
        except (ValueError, SyntaxError):
            continue
    return None


def run_example(code: str, names: dict[str, object]) -> int:
    """Runs statement by statement and compares what a comment says of an expression; how many were compared."""
    lines = code.splitlines()
    num_compared = 0
    for statement in ast.parse(code).body:
        if not isinstance(statement, ast.Expr):
            exec(compile(ast.Module([statement], []), "<example>", "exec"), names)
            continue
        value = eval(compile(ast.Expression(statement.value), "<example>", "eval"), names)
        said = said_value(lines[statement.end_lineno - 1][statement.end_col_offset :].partition("#")[2].strip())
        if said is not None:
            assert value == said[0], f"{ast.unparse(statement)} is {value!r}"
            num_compared += 1
    return num_compared


def names_made(code: ast.AST) -> set[str]:
    """Names that some line of the code makes: variables, arguments, functions, classes, imports."""
    made: set[str] = set()
    for node in ast.walk(code):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            made.add(node.id)
        elif isinstance(node, ast.arg):
            made.add(node.arg)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            made.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            made |= {each.asname or each.name for each in node.names}
    return made


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_an_example_of_a_docstring_runs(example):
    code = ast.parse(example.code)
    if example.name in NOT_RUN:
        return
    names = dict(vars(importlib.import_module(example.module)))
    used = {node.id for node in ast.walk(code) if isinstance(node, ast.Name)}
    made = names_made(code)
    assert used - made - names.keys() - vars(builtins).keys() == set(), "these are not there: list it in NOT_RUN"
    run_example(example.code, names)


def test_examples_are_found_and_those_listed_are_there():
    assert len(EXAMPLES) > 25
    assert NOT_RUN.keys() - {each.name for each in EXAMPLES} == set()


def test_what_an_example_says_is_compared():
    assert run_example("x = 2\nx + 1   # 3: as it is\nx   # two\n{x}  # {2}, a set", {}) == 2
    with pytest.raises(AssertionError, match="x is 2"):
        run_example("x = 2\nx  # 3", {})


# ---------------------------------------------------------------------------------------------------------------------
# The pages


def _blocks(language: str) -> list[tuple[str, str]]:
    return [
        (f"{page.relative_to(ROOT)}:{text[: match.start()].count(chr(10)) + 1}", match[2])
        for page in PAGES
        for text in [page.read_text(encoding="utf-8")]
        for match in FENCED.finditer(text)
        if match[1] == language
    ]


def is_there(name: str) -> bool:
    """Whether ``name`` (dotted) is a module, or something that a module makes. By reading: TRL takes 10 s to load."""
    module, _, attribute = name.rpartition(".")
    files = [ROOT / f"{each.replace('.', '/')}{end}" for each in (name, module) for end in (".py", "/__init__.py")]
    if files[0].is_file() or files[1].is_file():
        return True
    return any(attribute in names_made(ast.parse(file.read_text(encoding="utf-8"))) for file in files if file.is_file())


def test_what_is_not_there_is_told():
    assert is_there("insight_rl.types.Prompt") and is_there("insight_rl.types") and is_there("insight_rl.gate")
    assert not is_there("insight_rl.types.Gone") and not is_there("insight_rl.gone.Prompt")


@pytest.mark.parametrize(("place", "code"), _blocks("python"), ids=lambda text: text if text[-1].isdigit() else "")
def test_python_of_a_page_is_code_and_imports_what_is_there(place, code):
    names = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{each.name}" for each in node.names]
        elif isinstance(node, ast.Import):
            names += [each.name for each in node.names]
    own = [name for name in names if name.startswith("insight_rl.")]
    assert [name for name in own if not is_there(name)] == []


@pytest.mark.parametrize(("place", "text"), _blocks("yaml"), ids=lambda text: text if text[-1].isdigit() else "")
def test_yaml_of_a_page_is_read_and_names_what_is_there(place, text):
    def targets(node: object) -> list[str]:
        if isinstance(node, list):
            return [name for each in node for name in targets(each)]
        if isinstance(node, dict):
            own = [node["_target_"]] if "_target_" in node else []
            return own + [name for each in node.values() for name in targets(each)]
        return []

    tree = yaml.safe_load(text)
    assert isinstance(tree, dict)
    assert [name for name in targets(tree) if name.startswith("insight_rl.") and not is_there(name)] == []


def test_blocks_are_found():
    assert len(_blocks("python")) >= 10 and len(_blocks("yaml")) >= 10


PATHS = re.compile(r"(?:scripts|docs|conf|insight_rl|tests|examples|docker|data)/[\w/.*-]*[\w/*]")
LATER = {
    "conf/score.yaml": "what conf/judge.yaml was called",
    "docs/results/gpu.json": "the first run on a GPU makes it",
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_are_there(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    named = {
        path for code in re.findall(r"`([^`]+)`", text) for path in re.findall(rf"(?<![\w/.]){PATHS.pattern}", code)
    }
    gone = [path for path in named if not any(ROOT.glob(path.rstrip("/"))) and "NAME" not in path]
    assert sorted(gone) == sorted(each for each in LATER if each in named)
