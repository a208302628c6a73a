"""Looks into a model's folder before anything loads it: its context, and whether its weights are there and whole."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

from safetensors import SafetensorError, safe_open

from insight_rl.errors import UsageError

INDEX = "model.safetensors.index.json"
_SAMPLE_BYTES = 4096


def read_context_length(folder: Path) -> int | None:
    """Most tokens the model can attend to, from its ``config.json``; ``None`` where it does not say."""
    file = folder / "config.json"
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
        return settings.get("max_position_embeddings", settings.get("text_config", {}).get("max_position_embeddings"))
    except (ValueError, AttributeError) as error:
        raise UsageError(f"{file}: cannot be read ({error}); copy the model again from its source") from error


def count_parameters(folder: Path) -> int:
    """Parameters of the model, from the headers of its safetensors files; the weights themselves are not read.

    Raises ``UsageError`` naming the file where there are no weights, a part of them is missing, or a file is cut short
    or no safetensors. The format has no checksum: a bit flipped within a weight is not seen.
    """
    return sum(_count_in_file(file) for file in _weight_files(folder))


def fingerprint(folder: Path) -> str:
    """A hash that tells the weights in ``folder`` from any other model's: of every tensor's name, type, shape and a
    sample of its bytes (4 KiB at its start, middle and end), so that a large model takes no longer than a small one.

    Raises ``UsageError`` as :func:`count_parameters`.
    """
    digest = hashlib.sha256()
    for file in _weight_files(folder):
        with file.open("rb") as weights:
            try:
                # The format: the header's length in 8 bytes, the header in JSON, the tensors' bytes.
                start = int.from_bytes(weights.read(8), "little") + 8
                header = json.loads(weights.read(start - 8))
                places = {name: place for name, place in sorted(header.items()) if name != "__metadata__"}
                for name, place in places.items():
                    begin, end = place["data_offsets"]
                    digest.update(json.dumps([name, place["dtype"], place["shape"]]).encode())
                    size = min(_SAMPLE_BYTES, end - begin)
                    for offset in (begin, (begin + end - size) // 2, end - size):
                        weights.seek(start + offset)
                        digest.update(weights.read(size))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise UsageError(f"{file}: cannot be read ({error}); copy the model again from its source") from error
    return digest.hexdigest()


def _weight_files(folder: Path) -> list[Path]:
    index = folder / INDEX
    if not index.is_file():
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise UsageError(
                f"model.path={str(folder)!r}: it has no weights (*.safetensors); copy them there, or write them with "
                "save_pretrained(...) of transformers. Pickled weights (*.bin, *.pt) are not read: they can run code"
            )
        return files
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        files = [folder / Path(name).name for name in names]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{index}: cannot be read ({error}); copy the model again from its source") from error
    for file in files:
        if not file.is_file():
            raise UsageError(f"{file}: is missing, though {INDEX} names it; copy the model again from its source")
    return files


def _count_in_file(file: Path) -> int:
    try:
        with safe_open(file, framework="numpy") as weights:
            return sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UsageError(
            f"{file}: not a whole safetensors file ({error}); copy the model again from its source"
        ) from error
