"""``insight-rl completion``: what the shell offers at TAB.

Commands and their options are answered without any library; settings and options of conf/ by Hydra's own completion.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

_EPILOG = """
examples:
  source <(insight-rl completion bash)                                       in ~/.bashrc
  source <(insight-rl completion zsh)                                        in ~/.zshrc, after compinit
  insight-rl completion fish > ~/.config/fish/completions/insight-rl.fish    once

Commands and their options come at once; settings such as selector=MO or trainer.num_ are composed first, which takes a
second or two.
"""

CONFIGS = {
    "train": "train",
    "doctor": "train",
    "evaluate": "train",
    "data": "train",
    "judge": "judge",
    "audit-rewards": "judge",
    "simulate": "simulate",
    "compare": "compare",
}
"""Commands that take changes to a configuration, and which one of conf/."""

ACTIONS = {"data": ("inspect", "prepare"), "completion": ("bash", "zsh", "fish")}
"""Words that follow a command."""

_OWN_CODE = ("--config-dir", "--allow-package")
OPTIONS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("train",): ("--multirun", "--cfg", *_OWN_CODE),
    ("doctor",): ("--rollout", *_OWN_CODE),
    ("evaluate",): ("--samples", "--data-dir", "--output-dir", "--chunk-size", "--output", *_OWN_CODE),
    ("data", "inspect"): ("--samples", "--output", *_OWN_CODE),
    ("data", "prepare"): ("--output-dir", "--format", *_OWN_CODE),
    ("plot",): ("--output",),
    ("dashboard",): ("--project", "--entity", "--group", "--output"),
    ("serve-selector",): (
        *("--host", "--port", "--data-dir", "--token-file", "--token-env", "--snapshot-every"),
        *("--max-body-mb", "--max-requests-per-s", "--max-connections", "--request-timeout-s", *_OWN_CODE),
    ),
    ("judge",): _OWN_CODE,
    ("simulate",): _OWN_CODE,
    ("compare",): _OWN_CODE,
    ("audit-rewards",): _OWN_CODE,
}
"""Of a command, or of an action of one, beside ``--help``; a test compares them with what the commands say."""

KEYS = {
    "export": ("run_dir", "output_dir", "checkpoint", "adapter", "model.path"),
    "push": (
        *("run_dir", "repo", "dry_run", "checkpoint", "records", "private", "overwrite", "license", "output_dir"),
        "model.path",
    ),
    "explain": ("run_dir", "step", "prompt"),
}
"""Of commands that take settings of their own; compared with the commands by a test too."""

_SCRIPTS = {
    "bash": """# insight-rl: source this file, or `source <(insight-rl completion bash)`.
_insight_rl() {
    local line="${COMP_LINE:0:COMP_POINT}" word current broken=""
    current="${line##*[[:space:]]}"
    # Where = ends a word for bash, only what follows it is replaced.
    [[ $COMP_WORDBREAKS == *=* && $current == *=* ]] && broken="${current%"${current##*=}"}"
    COMPREPLY=()
    while IFS= read -r word; do
        [[ -n $word && $word == "$current"* ]] && COMPREPLY+=("${word#"$broken"}")
    done < <(COMP_LINE="$line" "${COMP_WORDS[0]}" completion query 2>/dev/null)
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[=./] ]] && compopt -o nospace
    return 0
}
complete -o default -F _insight_rl insight-rl
""",
    "zsh": """# insight-rl: source this file after compinit, or `source <(insight-rl completion zsh)`.
_insight_rl() {
    local -a found
    found=("${(@f)$(COMP_LINE="${(j: :)words[1,CURRENT]}" "${words[1]}" completion query 2>/dev/null)}")
    found=(${found:#})
    if (( $#found )); then
        # What is only the beginning of a word gets no space.
        compadd -Q -S '' -- ${(M)found:#*[=./]}
        compadd -Q -- ${found:#*[=./]}
    else
        compset -P '*='
        _files
    fi
}
compdef _insight_rl insight-rl
""",
    "fish": """# insight-rl: for ~/.config/fish/completions/insight-rl.fish
function __insight_rl_query
    set -lx COMP_LINE (commandline -cp)
    insight-rl completion query 2>/dev/null
end
complete -c insight-rl -f -a '(__insight_rl_query)'
complete -c insight-rl -n 'string match -q -- "*=*" (commandline -ct)' -F
""",
}


def main(argv: Sequence[str]) -> int:
    """Print the script for a shell, or (``query``, for the scripts) what may follow the line in ``COMP_LINE``."""
    if list(argv) == ["query"]:
        for candidate in candidates(os.environ.get("COMP_LINE", "")):
            print(candidate)
        return 0
    parser = argparse.ArgumentParser(
        prog="insight-rl completion",
        description="Print the script that makes your shell complete commands, options and settings.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", choices=tuple(_SCRIPTS))
    print(_SCRIPTS[parser.parse_args(argv).shell], end="")
    return 0


def candidates(line: str) -> list[str]:
    """The words that may stand at the end of ``line``, in the place of its last word; empty where none is known."""
    from insight_rl.cli.main import COMMANDS

    words = line.split()[1:]
    current = words.pop() if words and not line[-1].isspace() else ""
    if not words:
        return _starting(current, (*COMMANDS, "--help", "--version"))
    command, *given = words
    name: tuple[str, ...] = (command,)
    if command in ACTIONS:
        if not given:
            return _starting(current, ACTIONS[command])
        name = (command, given.pop(0))
    if current.startswith("-"):
        return _starting(current, (*OPTIONS.get(name, ()), "--help"))
    if command in KEYS:
        return _starting(current, [f"{key}=" for key in KEYS[command]])
    return _settings(CONFIGS[command], given, current) if command in CONFIGS else []


def _starting(current: str, words: Sequence[str]) -> list[str]:
    return [word for word in words if word.startswith(current)]


def _settings(config_name: str, given: Sequence[str], current: str) -> list[str]:
    """Keys, groups and options by Hydra's completion, under the settings that are in the line already."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from hydra.plugins.completion_plugin import DefaultCompletionPlugin
    from omegaconf.errors import OmegaConfBaseException

    from insight_rl.config import register_schema
    from insight_rl.paths import conf_dir

    register_schema()
    settings = [word for word in given if "=" in word and not word.startswith("-")]
    settings += [f"hydra.searchpath=[file://{os.path.abspath(folder)}]" for folder in _config_dirs(given)]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        plugin = DefaultCompletionPlugin(GlobalHydra.instance().config_loader())
        try:
            found = plugin._query(config_name, " ".join([*settings, current]))
        except (HydraException, OmegaConfBaseException):
            return []  # of a line that cannot be composed nothing is known
    return [word for each in found for word in _offered(each)]


def _offered(word: str) -> list[str]:
    """A candidate of Hydra's as it can be written, without what is not for users."""
    from insight_rl.paths import conf_dir

    name = word.lstrip("+~")
    # Hydra's own settings, files that options share, and names that are filled in.
    if name.startswith("hydra") or "shared" in name or name.endswith("_name="):
        return []
    if "=" in name or name.endswith((".", "/")):
        return [word]
    # A group with groups of its own, for which Hydra leaves the sign to the user.
    has_groups = any(each.is_dir() and each.name != "shared" for each in (conf_dir() / name).glob("*"))
    return [f"{word}=", f"{word}/"] if has_groups else [f"{word}="]


def _config_dirs(given: Sequence[str]) -> list[str]:
    return [given[index + 1] for index, word in enumerate(given[:-1]) if word == "--config-dir"]
