"""What a rank writes of a checkpoint, and how any number of ranks reads it again.

Each rank writes the pieces of weights and optimizer state that it owns to a file of its own, and beside it a record
with the file's checksum and the optimizer's step counts (:mod:`insight_rl.learner.rank_files`). A tensor is kept flat:
ZeRO cuts there, in the middle of rows.

The format is that of torch's distributed checkpoints (DCP) for Hugging Face storage: safetensors whose header says in
JSON where each tensor belongs in the whole. DCP reads it and finds the pieces that a rank needs, whatever ranks wrote
them: https://docs.pytorch.org/docs/stable/distributed.checkpoint.html. DeepSpeed's universal checkpoints
(https://www.deepspeed.ai/tutorials/universal-checkpointing/) were the other choice. They are made of a finished
checkpoint by a second program, which reads it all and writes it all again; they are for DeepSpeed alone; and they are
pickles, which DeepSpeed loads with ``weights_only=False``, so that a checkpoint of somebody else could run code.

Two parts of DCP are not used. Its default storage keeps a pickle (``.metadata``). Its writer plans in collective
operations, which in a background thread would mix with the training's, and puts each file together in memory; here who
owns what is fixed when training starts, and tensors go to the file, and through the hash, as they lie.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from insight_rl.errors import UsageError
from insight_rl.files import write_atomically
from insight_rl.hashed_files import Digest, WriteCancelled, hashed_file
from insight_rl.learner.rank_files import RECORD

WEIGHT, MOMENTS = "weight", ("exp_avg", "exp_avg_sq")
_SHARD = "rank_{:05d}.safetensors"
_MAX_RECORD_BYTES = 64 << 20
_CANCEL_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fragment:
    """A piece of one trained parameter that a rank holds, with its piece of the optimizer's state.

    Example: the second of two ranks may hold elements 6 to 11 of a (3, 4) matrix ``w``::

        Fragment(name="w", num_elements=12, start=6, tensors={"weight": flat[6:]}, state=optimizer.state[w])
    """

    name: str
    num_elements: int
    """Of the whole parameter."""
    start: int
    """Where the piece begins in the flat parameter."""
    tensors: Mapping[str, torch.Tensor]
    """``weight`` and the moments of AdamW: float32, flat, of equal length; views of what is trained."""
    state: dict[str, Any]
    """AdamW's state of the tensor that the piece lies in; ``step`` counts its updates."""

    @property
    def step(self) -> int:
        return int(self.state["step"])

    def set_step(self, step: int) -> None:
        if isinstance(self.state["step"], torch.Tensor):
            self.state["step"].fill_(step)
        else:
            self.state["step"] = step

    @property
    def keys(self) -> dict[str, torch.Tensor]:
        """The tensors by their names in the files."""
        return {f"{kind}/{self.name}": tensor for kind, tensor in self.tensors.items()}


def adamw_state(optimizer: torch.optim.Optimizer, tensor: torch.Tensor) -> dict[str, Any]:
    """The optimizer's state of ``tensor``; made as its first step would make it, where that is still to come."""
    state: dict[str, Any] = optimizer.state[tensor]
    if not state:
        is_torch = isinstance(optimizer, torch.optim.AdamW)
        # DeepSpeed's AdamW for the CPU counts in a plain int.
        state["step"] = torch.zeros((), dtype=torch.float32, device=tensor.device) if is_torch else 0
        for moment in MOMENTS:
            state[moment] = torch.zeros_like(tensor, memory_format=torch.preserve_format).detach()
    return state


def whole_fragments(
    parameters: Iterable[tuple[str, torch.nn.Parameter]], optimizer: torch.optim.Optimizer, *, share: tuple[int, int]
) -> Iterator[Fragment]:
    """Of parameters that every rank has whole: the part ``(number, of)`` of each, e.g. ``(0, 1)`` for all of it."""
    number, num_shares = share
    for name, parameter in parameters:
        size = parameter.numel()
        start, end = size * number // num_shares, size * (number + 1) // num_shares
        if start == end:
            continue
        state = adamw_state(optimizer, parameter)
        tensors = {WEIGHT: parameter, **{moment: state[moment] for moment in MOMENTS}}
        yield Fragment(
            name=name,
            num_elements=size,
            start=start,
            tensors={kind: tensor.detach().view(-1)[start:end] for kind, tensor in tensors.items()},
            state=state,
        )


# -- writing


class ShardWriter:
    """Writes a rank's fragments in a thread, one checkpoint at a time, while training goes on.

    The thread copies them to main memory first; :meth:`wait_for_copy` keeps training from changing them until then.
    The copies are kept for the next checkpoint: memory that is new to a process costs more time than copying.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._cancelled = threading.Event()
        self._has_copied = threading.Event()
        self._error: Exception | None = None
        self._copies: dict[str, torch.Tensor] = {}

    def begin(self, folder: Path, rank: int, fragments: Iterable[Fragment], device: torch.device) -> None:
        """Start writing ``fragments``, which lie on ``device`` or in main memory, as ``rank``'s files in ``folder``.

        Raises what the checkpoint before failed of.
        """
        self.wait()
        self._has_copied.clear()
        self._cancelled.clear()
        arguments = (folder, rank, list(fragments), device)
        self._thread = threading.Thread(target=self._run, args=arguments, name="shard writer", daemon=True)
        self._thread.start()

    def wait_for_copy(self) -> None:
        """Return once training may change what is written; raises what writing has failed of, if it has by now."""
        if self._thread is not None:
            self._has_copied.wait()
            self.check()

    def check(self) -> None:
        """Raise what writing has failed of, if it has; never waits."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def wait(self) -> None:
        """Return once everything is on disk; raises ``OSError`` where it cannot be written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def cancel(self) -> None:
        """Write no more of it. A thread that hangs in a write is left behind."""
        self._cancelled.set()
        if self._thread is not None:
            self._thread.join(_CANCEL_S)
            self._thread = self._error = None

    def _run(self, folder: Path, rank: int, fragments: Sequence[Fragment], device: torch.device) -> None:
        try:
            if device.type == "cuda":
                torch.cuda.set_device(device)
            pieces = [self._copy(fragment) for fragment in fragments]
            self._has_copied.set()
            digests = write_shards(folder, rank, pieces, self._cancelled)
            steps = {piece.name: piece.step for piece in pieces}
            write_atomically(folder / RECORD.format(rank), json.dumps({"files": digests, "steps": steps}))
        except WriteCancelled:
            pass
        except Exception as error:  # raised again where training goes on
            self._error = error
        finally:
            self._has_copied.set()

    def _copy(self, fragment: Fragment) -> Fragment:
        copies = {}
        for kind, tensor in fragment.tensors.items():
            key = f"{kind}/{fragment.name}"
            copy = self._copies.get(key)
            if copy is None:
                # Not pinned: that would be faster from a GPU, but torch rounds such memory up to powers of two.
                copy = self._copies[key] = torch.empty(tensor.shape, dtype=tensor.dtype)
            copies[kind] = copy.copy_(tensor)
        return Fragment(
            name=fragment.name,
            num_elements=fragment.num_elements,
            start=fragment.start,
            tensors=copies,
            state={"step": fragment.step},
        )


def write_shards(
    folder: Path, rank: int, fragments: Sequence[Fragment], cancelled: threading.Event
) -> dict[str, Digest]:
    """Write the fragments, which are in main memory, as this rank's file; returns its digest by its name.

    Raises ``OSError``, and :class:`~insight_rl.hashed_files.WriteCancelled` soon after ``cancelled`` is set.
    """
    tensors = {key: tensor for fragment in fragments for key, tensor in fragment.keys.items()}
    places = {key: {"saved_offsets": [fragment.start]} for fragment in fragments for key in fragment.keys}
    digests: dict[str, Digest] = {}
    with hashed_file(folder / _SHARD.format(rank), cancelled, digests) as file:
        file.write(_header(tensors, places))
        for tensor in tensors.values():
            file.write(tensor.numpy())
    return digests


def _header(tensors: Mapping[str, torch.Tensor], places: Mapping[str, Any]) -> bytes:
    """Of a safetensors file (https://github.com/huggingface/safetensors#format), with what DCP's reader looks for."""
    metadata = {"format": "pt", "DCP_VERSION": "1.0", "DCP_SHARDING_INFO": json.dumps(places)}
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for key, tensor in tensors.items():
        assert tensor.dtype == torch.float32, f"{key} is {tensor.dtype}"
        start, end = end, end + tensor.nbytes
        header[key] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


# -- reading


def read_shards(folder: Path, fragments: Iterable[Fragment]) -> None:
    """Fill the fragments from a checkpoint that any number of ranks wrote. Executes nothing that it contains.

    Raises ``UsageError`` where the files are damaged, or hold other parameters than the fragments are of.
    """
    fragments = list(fragments)
    steps = _steps_of(folder, {fragment.name for fragment in fragments})
    with _explaining(folder):
        read_pieces(
            folder,
            {
                key: Piece(tensor=tensor, start=fragment.start, num_elements=fragment.num_elements)
                for fragment in fragments
                for key, tensor in fragment.keys.items()
            },
        )
    # Pieces of one flat buffer share a count.
    for fragment in fragments:
        fragment.set_step(0)
    for fragment in fragments:
        fragment.set_step(max(fragment.step, steps[fragment.name]))


def read_weights(folder: Path, parameters: Mapping[str, torch.Tensor]) -> None:
    """Fill whole parameters alone, without the optimizer's state; they lie in main memory. Raises as above."""
    _steps_of(folder, parameters.keys())
    pieces = {
        f"{WEIGHT}/{name}": Piece(tensor=each.detach().view(-1), start=0, num_elements=each.numel())
        for name, each in parameters.items()
    }
    with _explaining(folder):
        read_pieces(folder, pieces)


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Where to put elements ``start`` and following of a flat tensor with ``num_elements``."""

    tensor: torch.Tensor
    start: int
    num_elements: int


def read_pieces(folder: Path, pieces: Mapping[str, Piece]) -> None:
    """Fill the pieces of the tensors that the files in ``folder`` hold, by their names there.

    Raises whatever the libraries do on files that are not what they should be.
    """
    # A second of imports, which only a run that goes on needs.
    from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorStorageMetadata
    from torch.distributed.checkpoint.planner import LoadPlan, ReadItem
    from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

    class Places(DefaultLoadPlanner):
        """Tells DCP where to put what it reads."""

        def lookup_tensor(self, index: MetadataIndex) -> torch.Tensor:
            return pieces[index.fqn].tensor

    reader = HuggingFaceStorageReader(str(folder))
    metadata = reader.read_metadata()
    reader.set_up_storage_reader(metadata, is_coordinator=True)
    reads: list[ReadItem] = []
    for key, piece in pieces.items():
        stored = metadata.state_dict_metadata[key]
        assert isinstance(stored, TensorStorageMetadata)
        chunk = ChunkStorageMetadata(offsets=torch.Size([piece.start]), sizes=piece.tensor.shape)
        of_piece = create_read_items_for_chunk_list(key, stored, [chunk])
        num_read = sum(read.lengths.numel() for read in of_piece)
        if list(stored.size) != [piece.num_elements] or num_read != piece.tensor.numel():
            raise ValueError(
                f"of {key} there are {list(stored.size)} elements instead of {piece.num_elements}, and {num_read} of "
                f"the {piece.tensor.numel()} that are needed"
            )
        reads += of_piece
    with torch.no_grad():
        reader.read_data(LoadPlan(reads), Places()).wait()


def _steps_of(folder: Path, names: AbstractSet[str]) -> dict[str, int]:
    """The optimizer's step counts; raises ``UsageError`` unless the checkpoint has parameters of all ``names``."""
    steps = _read_records(folder)
    missing = names - steps.keys()
    if missing:
        raise UsageError(
            f"{folder}: not a checkpoint of this model (it has no {min(missing)}); remove it to go on from an older "
            "one, or take another run_dir"
        )
    return steps


def _read_records(folder: Path) -> dict[str, int]:
    """The step counts of all ranks; the records and the files beside them belong together."""
    steps: dict[str, int] = {}
    files: set[str] = set()
    records = sorted(folder.glob(RECORD.replace("{:05d}", "*")))
    with _explaining(folder):
        if not records:
            raise ValueError(f"there is no {RECORD.format(0)}")
        for record in records:
            if record.stat().st_size > _MAX_RECORD_BYTES:
                raise ValueError(f"{record.name} is larger than any that is written")
            content = json.loads(record.read_text(encoding="utf-8"))
            files |= set(content["files"])
            steps |= {str(name): int(step) for name, step in content["steps"].items()}
        present = {path.name for path in folder.glob("*.safetensors")}
        if present != files:
            raise ValueError(f"{min(present ^ files)} is not as the records of the ranks say")
    return steps


@contextmanager
def _explaining(folder: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    # What the libraries raise on files that are not what they claim to be has many types.
    except Exception as error:
        raise UsageError(
            f"{folder}: damaged ({error}); nothing in it was executed. Remove this checkpoint to go on from an older "
            "one, or take another run_dir"
        ) from error
