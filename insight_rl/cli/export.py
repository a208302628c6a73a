"""``insight-rl export``: one Hugging Face folder from a checkpoint of a run, whatever ranks wrote it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from insight_rl.build import find_model, quiet_libraries
from insight_rl.checkpoint import CheckpointStore, part_folder
from insight_rl.cli.settings import check_is_new, read_keys
from insight_rl.config import ModelConfig
from insight_rl.errors import UsageError, check
from insight_rl.recorded_config import CONFIG_FILE, read_recorded_config

_EPILOG = """
examples:
  insight-rl export run_dir=runs/demo output_dir=exported                       the newest checkpoint
  insight-rl export run_dir=runs/demo output_dir=exported checkpoint=best       the best by held-out accuracy
  insight-rl export run_dir=runs/demo output_dir=exported checkpoint=step_000020
  insight-rl export run_dir=runs/lora output_dir=exported adapter=separate      the adapter alone, for peft and vLLM

The folder loads in transformers and vLLM. It needs the model that the run started from, for its architecture and
tokenizer, and with LoRA for its weights: model.path=... where that has moved. No GPU is used; the model must fit in
this machine's memory in float32.
"""
_KEYS = ("run_dir", "output_dir", "checkpoint", "adapter", "model.path")
_ADAPTER = ("merged", "separate")


def main(argv: Sequence[str]) -> int:
    """Write the folder, print where it is, and return the exit code. Raises ``UsageError`` for what does not fit."""
    parser = argparse.ArgumentParser(
        prog="insight-rl export",
        description="Make one Hugging Face model of a checkpoint: the whole model, or with LoRA the adapter too.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "settings", nargs="+", metavar="key=value", help="run_dir=, output_dir=, checkpoint=, adapter=, model.path="
    )
    given = _settings(parser.parse_args(argv).settings)
    run_dir, output = (Path(given[key]).expanduser() for key in ("run_dir", "output_dir"))
    adapter = given.get("adapter", "merged")
    check(adapter in _ADAPTER, "adapter", adapter, f"must be one of {', '.join(_ADAPTER)}")
    check_is_new("output_dir", output)
    checkpoint = find_checkpoint(run_dir, given.get("checkpoint", "latest"))
    export_checkpoint(run_dir, checkpoint, output, merge=adapter == "merged", model_path=given.get("model.path"))
    print(f"{output}: {'the adapter' if adapter == 'separate' else 'the model'} of {checkpoint.name} in {run_dir}")
    return 0


def find_checkpoint(run_dir: Path, name: str) -> Path:
    """The folder of ``latest``, ``best`` or a checkpoint by its name. Raises ``UsageError`` where there is none."""
    return CheckpointStore(run_dir / "checkpoints", keep_last=1).sound(name)


def export_checkpoint(run_dir: Path, checkpoint: Path, output: Path, *, merge: bool, model_path: str | None) -> None:
    """Write the model of a checkpoint to ``output``; with LoRA merged, or without ``merge`` the adapter alone.

    ``model_path``: where the model lies that the run started from, if not where it was. Raises ``UsageError``.
    """
    model = _model(run_dir, model_path)
    part = part_folder(checkpoint, "learner")
    started_from = find_model(model)

    quiet_libraries()
    from insight_rl.learner.exported_model import export_model

    try:
        export_model(part, output, model_path=started_from, dtype=model.dtype, merge=merge)
    except OSError as error:
        raise UsageError(
            f"output_dir={str(output)!r}: cannot be written ({error}); mend that, or take another"
        ) from error


def _settings(words: Sequence[str]) -> dict[str, str]:
    given = read_keys(words, _KEYS)
    for key in ("run_dir", "output_dir"):
        check(key in given, key, None, f"give a folder, for example {key}=runs/demo")
    return given


def _model(run_dir: Path, path: str | None) -> ModelConfig:
    """The model that the run started from, as it recorded it, or at ``path``."""
    recorded = read_recorded_config(run_dir).get("model")
    recorded = recorded if isinstance(recorded, dict) else {}
    settings = recorded if path is None else recorded | {"path": path}
    types = {"path": str, "dtype": str, "max_length": int, "prompt_style": str}
    for key, kind in types.items():
        if not isinstance(settings.get(key), kind):
            raise UsageError(f"{run_dir / CONFIG_FILE}: model.{key}={settings.get(key)!r} is none that a run records")
    # Another folder is no revision of the hub's.
    revision = recorded.get("revision") if path is None else None
    if not isinstance(revision, (str, type(None))):
        raise UsageError(f"{run_dir / CONFIG_FILE}: model.revision={revision!r} is none that a run records")
    return ModelConfig(**{key: settings[key] for key in types}, revision=revision)
