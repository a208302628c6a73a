"""What TAB offers, through the shells themselves where they are there."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys

import pytest

from insight_rl.cli.completion import ACTIONS, CONFIGS, KEYS, OPTIONS, candidates
from insight_rl.cli.main import COMMANDS, main
from insight_rl.paths import conf_dir


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("insight-rl ", (*COMMANDS, "--help", "--version")),
        ("insight-rl tr", ("train",)),
        ("insight-rl data ", ("inspect", "prepare")),
        ("insight-rl data prepare --o", ("--output-dir",)),
        ("insight-rl completion ", ("bash", "zsh", "fish")),
        ("insight-rl push re", ("repo=", "records=")),
        ("insight-rl train --c", ("--cfg", "--config-dir")),
        ("insight-rl nothing x", ()),
    ],
)
def test_commands_options_and_keys(line, offered):
    assert sorted(candidates(line)) == sorted(offered)


def test_settings_are_those_of_the_options_chosen_in_the_line(tmp_path):
    (tmp_path / "selector").mkdir()
    (tmp_path / "selector" / "mine.yaml").write_text("_target_: x.Y\n")
    options = {path.stem for path in (conf_dir() / "selector").glob("*.yaml")}
    assert set(candidates("insight-rl train selector=")) == {f"selector={option}" for option in options}
    assert "selector.mu=" in candidates("insight-rl train selector=insight selector.")
    assert "selector.mu=" not in candidates("insight-rl train selector=random selector.")
    assert candidates("insight-rl data inspect seed=1 task=gsm") == ["task=gsm8k"]
    assert candidates("insight-rl train sel") == ["selector=", "selector/", "selector."]
    assert "selector=mine" in candidates(f"insight-rl train --config-dir {tmp_path} selector=mi")
    assert candidates("insight-rl train selector=nothing trainer.") == []


def test_every_option_of_every_command_is_offered(capsys):
    names = [(name, action) for name in COMMANDS for action in (ACTIONS[name] if name == "data" else [""])]
    for name, action in names:
        words = [name, *([action] if action else [])]
        with pytest.raises(SystemExit):
            main([*words, "--help"])
        said = re.findall(r"^  (?:-\w, )?(--[a-z-]+)", capsys.readouterr().out, re.MULTILINE)
        assert set(said) - {"--help"} == set(OPTIONS.get(tuple(words), ())), words


def test_every_key_of_a_command_is_offered():
    for name, keys in KEYS.items():
        assert tuple(importlib.import_module(COMMANDS[name][0])._KEYS) == keys
    assert set(KEYS) | set(CONFIGS) < set(COMMANDS)


@pytest.fixture
def shell(tmp_path):
    """``shell(name, script)``: its output, where `insight-rl` is this package and its completion is loaded."""
    program = tmp_path / "insight-rl"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m insight_rl "$@"\n')
    program.chmod(0o755)
    paths = os.pathsep.join(filter(None, sys.path))
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": paths, "HOME": str(tmp_path)}

    def run(name: str, script: str) -> str:
        if shutil.which(name) is None:
            pytest.skip(f"there is no {name}")
        done = subprocess.run([name, "-c", script], capture_output=True, text=True, env=environment, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


BASH = """
source <(insight-rl completion bash)
tab() {
    COMP_LINE="$1" COMP_POINT=${#1}
    read -ra COMP_WORDS <<< "$1"
    [[ $1 == *" " ]] && COMP_WORDS+=("")
    COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
    compopt() { :; }  # outside of a real TAB there is nothing to set
    _insight_rl
    echo "${COMPREPLY[*]}"
}
complete -p insight-rl
tab "insight-rl pu"
tab "insight-rl data "
tab "insight-rl train selector=mo"
COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
tab "insight-rl train selector=mo"
"""


def test_bash_replaces_what_follows_its_own_break(shell):
    assert shell("bash", BASH).splitlines() == [
        "complete -o default -F _insight_rl insight-rl",
        "push",
        "inspect prepare",
        "mopps",
        "selector=mopps",
    ]


def test_fish_offers_the_same(shell):
    script = "insight-rl completion fish | source; complete -C 'insight-rl pu'; complete -C 'insight-rl data i'"
    assert [line.split("\t")[0] for line in shell("fish", script).splitlines()] == ["push", "inspect"]


def test_zsh_reads_the_script_and_calls_it(shell):
    # Without a terminal zsh has no completion widgets: what the function hands over is caught.
    script = """
compdef() { print "compdef $*" }
source <(insight-rl completion zsh)
compadd() { while [[ $1 != -- ]]; do shift; done; shift; (( $# )) && print -l -- "$@" }
words=(insight-rl pu) CURRENT=2; _insight_rl
words=(insight-rl data "") CURRENT=3; _insight_rl
"""
    assert shell("zsh", script).splitlines() == ["compdef _insight_rl insight-rl", "push", "inspect", "prepare"]


def test_commands_are_offered_without_a_library():
    code = (
        "import sys; from insight_rl.cli.completion import candidates; candidates('insight-rl data prepare --')\n"
        "print([name for name in ('hydra', 'omegaconf', 'numpy', 'torch', 'yaml') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
