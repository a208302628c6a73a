"""``insight-rl push``: a run's model and its card to the Hugging Face hub, or into a folder to look at first."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from insight_rl.cli.settings import check_is_new, read_keys
from insight_rl.errors import UsageError, check
from insight_rl.hub_access import is_told_offline, why_unreachable

if TYPE_CHECKING:
    from insight_rl.hub.folder import Prepared
    from insight_rl.hub.run_files import RunFiles

_EPILOG = """
examples:
  insight-rl push run_dir=runs/demo repo=user/name                       the model that the run saved at its end
  insight-rl push run_dir=runs/demo repo=user/name dry_run=true          write what would be sent, and send nothing
  insight-rl push run_dir=runs/demo repo=user/name checkpoint=best       as insight-rl export makes it
  insight-rl push run_dir=runs/demo repo=user/name records=true          the decision log and beliefs as a data set too

The repository is made if it is not there, private unless private=false. What is sent lies in hub/ of the run's folder
(or output_dir=...), with the model card to read. Without a token (HF_TOKEN, or `hf auth login`), with HF_HUB_OFFLINE=1
and where the hub cannot be reached, nothing is sent and the command says so. It asks nothing and may be given again.
"""
_KEYS = {
    "run_dir": "folder of the run",
    "repo": "user/name of the repository",
    "dry_run": "true: send nothing; false: fail where nothing can be sent",
    "checkpoint": "best, latest or a name; without it the model that the run saved",
    "records": "true: the data set user/name-records too",
    "private": "true (default) or false",
    "overwrite": "true: replace files of a repository that is there",
    "license": "the hub's short name of the license that you choose, for example apache-2.0",
    "output_dir": "where to write what is sent, new or empty",
    "model.path": "with checkpoint=: where the model lies that the run started from, if it has moved",
}
_BOOLEANS = {"true": True, "false": False}
_FOLDER = "hub"


def main(argv: Sequence[str]) -> int:
    """Write the folder, send it, and print what was sent where. Raises ``UsageError`` for what does not fit."""
    parser = argparse.ArgumentParser(
        prog="insight-rl push",
        description="Send a run's model to the Hugging Face hub with a card: data, selector, budget, results with "
        "intervals, versions and the command.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    words = "; ".join(f"{key}= {text}" for key, text in _KEYS.items())
    parser.add_argument("settings", nargs="+", metavar="key=value", help=words)
    given = _settings(parser.parse_args(argv).settings)

    from insight_rl.hub.facts import HUB_NAME
    from insight_rl.hub.run_files import RunFiles

    repo = given["repo"]
    check("/" in repo and HUB_NAME.fullmatch(repo) is not None, "repo", repo, "give user/name, as on the hub")
    flags = {key: _flag(given, key, default) for key, default in (("private", True), ("overwrite", False))}
    records = _flag(given, "records", False)
    reason = _why_not_sent(given)
    files = RunFiles(Path(given["run_dir"]))
    with ExitStack() as cleanup:
        prepared = _prepare(files, given, cleanup, with_records=records)
    for kind, each in prepared.items():
        name = repo if kind == "model" else f"{repo}-records"
        print(f"{each.folder} -> {kind} {name}{' (private)' if flags['private'] else ''}")
        for file, size in each.sizes.items():
            print(f"  {file}  {_readable(size)}")
        if each.left_out:
            print(f"  left out, since no model needs it: {', '.join(each.left_out)}")
    if reason is not None:
        print(f"dry run ({reason}): nothing was sent")
        return 0

    from insight_rl.hub.upload import Hub, find_token

    token = find_token()
    assert token is not None, "_why_not_sent has seen one"
    hub = Hub(token)
    for kind, each in prepared.items():
        name = repo if kind == "model" else f"{repo}-records"
        print(f"sent: {hub.send(each.folder, list(each.sizes), repo=name, kind=kind, **flags)}")
    return 0


def _settings(words: Sequence[str]) -> dict[str, str]:
    given = read_keys(words, _KEYS)
    check("run_dir" in given, "run_dir", None, "give the folder of a run, for example run_dir=runs/demo")
    check("repo" in given, "repo", None, "give the name that the model shall have on the hub, repo=user/name")
    name = given.get("license")
    fits = name is None or name.replace("-", "").replace(".", "").isalnum()
    check(fits, "license", name, "give the hub's short name of a license, for example apache-2.0")
    return given


def _flag(given: dict[str, str], key: str, default: bool) -> bool:
    value = given.get(key)
    check(value is None or value.lower() in _BOOLEANS, key, value, "must be true or false")
    return default if value is None else _BOOLEANS[value.lower()]


def _why_not_sent(given: dict[str, str]) -> str | None:
    """Why this is a dry run, in a clause; ``None`` where the files are sent."""
    if _flag(given, "dry_run", False):
        return "dry_run=true"

    from insight_rl.hub.upload import find_token

    reason: str | None = None
    if is_told_offline():
        reason = "HF_HUB_OFFLINE is set"
    elif find_token() is None:
        reason = "there is no token; give one as HF_TOKEN, or by `hf auth login`"
    else:
        reason = why_unreachable()
    check(reason is None or "dry_run" not in given, "dry_run", "false", f"nothing can be sent: {reason}")
    return reason


def _prepare(files: RunFiles, given: dict[str, str], cleanup: ExitStack, *, with_records: bool) -> dict[str, Prepared]:
    """By kind of repository, the folder that is to be sent."""
    from insight_rl.hub.facts import read_facts
    from insight_rl.hub.folder import find_sources, write_model, write_records_folder
    from insight_rl.hub.run_files import RunFiles

    name = given.get("checkpoint")
    checkpoint = None if name is None else _checkpoint(files, name)
    step = None if checkpoint is None else int(checkpoint.name.removeprefix("step_"))
    facts = read_facts(files, step=step)
    if checkpoint is None:
        sources = find_sources(files, what=f"the model after step {facts.num_steps}")
    else:
        exported = RunFiles(
            _exported(files, checkpoint, given.get("model.path"), is_lora=facts.is_lora, cleanup=cleanup)
        )
        chosen = ", chosen as the best by its held-out accuracy, which therefore flatters it" if name == "best" else ""
        sources = find_sources(exported, what=f"the checkpoint after step {step}{chosen}")
    output = _output_folder(files, given.get("output_dir"))
    try:
        prepared = {
            "model": write_model(
                output / "model", files, facts, sources, repo=given["repo"], license_name=given.get("license")
            )
        }
        if with_records:
            prepared["dataset"] = write_records_folder(
                output / "records", files, facts, repo=f"{given['repo']}-records"
            )
    except OSError as error:
        raise UsageError(
            f"output_dir={str(output)!r}: cannot be written ({error}); mend that, or take another"
        ) from error
    return prepared


def _checkpoint(files: RunFiles, name: str) -> Path:
    from insight_rl.cli.export import find_checkpoint

    files.check_tree("checkpoints")
    return find_checkpoint(files.root, name)


def _exported(files: RunFiles, checkpoint: Path, model_path: str | None, *, is_lora: bool, cleanup: ExitStack) -> Path:
    """A folder with ``model/`` and, of a run with LoRA, ``adapter/``, beside the run: the model may be large."""
    from insight_rl.cli.export import export_checkpoint

    try:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix=".push_", dir=files.root)))
    except OSError as error:
        raise UsageError(f"run_dir={str(files.root)!r}: cannot be written ({error.strerror}); copy it first") from error
    export_checkpoint(files.root, checkpoint, folder / "model", merge=True, model_path=model_path)
    if is_lora:
        export_checkpoint(files.root, checkpoint, folder / "adapter", merge=False, model_path=model_path)
    return folder


def _output_folder(files: RunFiles, given: str | None) -> Path:
    """An empty folder: ``hub/`` of the run is made anew each time, any other must be new or empty."""
    output = files.root / _FOLDER if given is None else Path(given).expanduser()
    try:
        if given is None:
            check(not output.is_symlink(), "run_dir", str(output), "is a link; remove it, or give output_dir=...")
            if output.exists():
                shutil.rmtree(output)
        check_is_new("output_dir", output)
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"output_dir={str(output)!r}: cannot be written ({error.strerror}); take another") from error
    return output


def _readable(size: int) -> str:
    if size < 10_000:
        return f"{size} bytes"
    return f"{size / 1e6:.1f} MB" if size < 1e9 else f"{size / 1e9:.2f} GB"
