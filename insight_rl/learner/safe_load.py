"""Reads checkpoint files without executing anything that they contain."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from insight_rl.errors import UsageError


def load_tensors(file: Path, *, allowed: Sequence[type] = ()) -> Any:
    """What ``torch.save`` wrote to ``file``: tensors on the CPU, plain values, and objects of the ``allowed`` classes.

    Everything else that a pickle can name is refused before it is called. Raises ``UsageError`` for such a file and for
    a damaged one.
    """
    try:
        with torch.serialization.safe_globals(list(allowed)):
            return torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UsageError(
            f"{file}: damaged, or it holds more than tensors and plain values; nothing in it was executed. Remove this "
            "checkpoint to go on from an older one, or take another run_dir"
        ) from error
