"""Pieces written by some ranks are read by any other number of them; what is read from files is data."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from insight_rl.errors import RunStopped, UsageError
from insight_rl.files import write_atomically
from insight_rl.hashed_files import WriteCancelled, digest_of
from insight_rl.learner import shards
from insight_rl.learner.rank_files import RankFiles
from insight_rl.learner.shards import Fragment, ShardWriter, read_shards, whole_fragments, write_shards

CPU = torch.device("cpu")


def trained(sizes: dict[str, tuple[int, ...]], *, seed: int, num_steps: int = 2):
    """Parameters and an AdamW that has stepped."""
    generator = torch.Generator().manual_seed(seed)
    parameters = {name: torch.nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in sizes.items()}
    optimizer = torch.optim.AdamW(parameters.values(), lr=0.1, fused=True)
    for _ in range(num_steps):
        for parameter in parameters.values():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
    return parameters, optimizer


def write(folder: Path, parameters, optimizer, num_ranks: int) -> None:
    for rank in range(num_ranks):
        writer = ShardWriter()
        writer.begin(folder, rank, whole_fragments(parameters.items(), optimizer, share=(rank, num_ranks)), CPU)
        writer.wait()


def in_one_buffer(sizes, rank: int, num_ranks: int):
    """As ZeRO holds them: one flat tensor of all parameters, padded, and an equal part of it for each rank."""
    total = sum(int(np.prod(shape)) for shape in sizes.values())
    part = -(-total // num_ranks)
    state = {"step": torch.zeros(()), **{moment: torch.zeros(part) for moment in shards.MOMENTS}}
    flat = {"weight": torch.zeros(part), **{moment: state[moment] for moment in shards.MOMENTS}}
    fragments, offset = [], 0
    for name, shape in sizes.items():
        size = int(np.prod(shape))
        start, end = max(offset, rank * part), min(offset + size, (rank + 1) * part)
        if start < end:
            pieces = {kind: tensor[start - rank * part : end - rank * part] for kind, tensor in flat.items()}
            place = {"num_elements": size, "start": start - offset}
            fragments.append(Fragment(name=name, tensors=pieces, state=state, **place))
        offset += size
    return fragments


SHAPES = st.dictionaries(
    st.text("abc./", min_size=1, max_size=5), st.lists(st.integers(1, 5), max_size=2).map(tuple), min_size=1, max_size=4
)


@settings(deadline=None, max_examples=25)
@given(sizes=SHAPES, num_before=st.integers(1, 4), num_after=st.integers(1, 4), seed=st.integers(0, 9))
def test_any_number_of_ranks_reads_what_any_other_wrote(tmp_path_factory, sizes, num_before, num_after, seed) -> None:
    folder = tmp_path_factory.mktemp("shards")
    parameters, optimizer = trained(sizes, seed=seed)
    write(folder, parameters, optimizer, num_before)
    expected = {
        f"{kind}/{name}": tensor.detach().ravel()
        for name, each in parameters.items()
        for kind, tensor in {"weight": each, **{m: optimizer.state[each][m] for m in shards.MOMENTS}}.items()
    }
    for rank in range(num_after):
        fragments = in_one_buffer(sizes, rank, num_after)
        read_shards(folder, fragments)
        for fragment in fragments:
            for key, tensor in fragment.keys.items():
                assert torch.equal(tensor, expected[key][fragment.start :][: tensor.numel()])
            assert fragment.step == 2
    others, anew = trained(sizes, seed=seed + 1, num_steps=0)
    read_shards(folder, whole_fragments(others.items(), anew, share=(0, 1)))
    assert all(torch.equal(others[name], parameters[name]) for name in sizes)
    for name in sizes:
        theirs, ours = optimizer.state[parameters[name]], anew.state[others[name]]
        assert theirs.keys() == ours.keys() and all(torch.equal(theirs[key], ours[key]) for key in theirs)


def test_the_files_are_safetensors_with_their_digests_in_the_record(tmp_path) -> None:
    parameters, optimizer = trained({"w": (3, 4), "b": (3,)}, seed=0)
    write(tmp_path, parameters, optimizer, 2)
    found = [load_file(tmp_path / f"rank_{rank:05d}.safetensors") for rank in range(2)]
    assert torch.equal(torch.cat([shard["weight/w"] for shard in found]), parameters["w"].detach().ravel())
    digests = RankFiles(tmp_path, 2, deadline_s=5).write(threading.Event())
    assert digests == {path.name: digest_of(path) for path in tmp_path.iterdir()}


def test_what_training_changes_after_the_copy_is_not_in_the_checkpoint(tmp_path, monkeypatch) -> None:
    parameters, optimizer = trained({"w": (3, 4)}, seed=0)
    before = parameters["w"].detach().clone()
    may_copy, may_write = threading.Event(), threading.Event()
    copy, write_file = ShardWriter._copy, shards.write_shards
    monkeypatch.setattr(ShardWriter, "_copy", lambda self, fragment: may_copy.wait() and copy(self, fragment))
    monkeypatch.setattr(shards, "write_shards", lambda *arguments: may_write.wait() and write_file(*arguments))
    writer = ShardWriter()
    writer.begin(tmp_path, 0, whole_fragments(parameters.items(), optimizer, share=(0, 1)), CPU)
    training = threading.Thread(target=writer.wait_for_copy)
    training.start()
    training.join(0.05)
    assert training.is_alive(), "training went on before its state was copied"
    may_copy.set()
    training.join()
    with torch.no_grad():
        parameters["w"] += 1
    may_write.set()
    writer.wait()
    assert torch.equal(load_file(tmp_path / "rank_00000.safetensors")["weight/w"], before.ravel())


def test_copies_are_kept_for_the_next_checkpoint(tmp_path) -> None:
    parameters, optimizer = trained({"w": (3, 4)}, seed=0)
    writer, seen = ShardWriter(), []
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir()
        writer.begin(folder, 0, whole_fragments(parameters.items(), optimizer, share=(0, 1)), CPU)
        writer.wait()
        seen.append({key: copy.data_ptr() for key, copy in writer._copies.items()})
        with torch.no_grad():
            parameters["w"] += 1
    assert seen[0] == seen[1] and len(seen[0]) == 3
    one, other = (load_file(tmp_path / name / "rank_00000.safetensors")["weight/w"] for name in "01")
    assert torch.equal(one + 1, other)


def test_a_disk_that_fails_is_told_where_training_goes_on(tmp_path) -> None:
    parameters, optimizer = trained({"w": (3, 4)}, seed=0)
    writer = ShardWriter()
    fragments = list(whole_fragments(parameters.items(), optimizer, share=(0, 1)))
    writer.begin(tmp_path / "gone", 0, fragments, CPU)
    writer._thread.join()
    with pytest.raises(FileNotFoundError):
        writer.wait_for_copy()
    writer.begin(tmp_path, 0, fragments, CPU)
    writer.wait()


def test_a_cancelled_writer_leaves_no_record(tmp_path, monkeypatch) -> None:
    parameters, optimizer = trained({"w": (3, 4)}, seed=0)
    begun = threading.Event()

    def write_until_cancelled(folder, rank, fragments, cancelled):
        begun.set()
        cancelled.wait()
        return write_shards(folder, rank, fragments, cancelled)

    monkeypatch.setattr(shards, "write_shards", write_until_cancelled)
    writer = ShardWriter()
    writer.begin(tmp_path, 0, whole_fragments(parameters.items(), optimizer, share=(0, 1)), CPU)
    begun.wait()
    writer.cancel()
    assert not list(tmp_path.glob("*.json"))


def test_the_trainer_waits_for_all_ranks_and_not_without_end(tmp_path) -> None:
    parameters, optimizer = trained({"w": (3, 4)}, seed=0)
    write(tmp_path, parameters, optimizer, 1)
    with pytest.raises(RunStopped, match=r"learner rank 1 has not written .* learner\.deadline_s=0.1 "):
        RankFiles(tmp_path, 2, deadline_s=0.1).write(threading.Event())
    cancelled = threading.Event()
    cancelled.set()
    with pytest.raises(WriteCancelled):
        RankFiles(tmp_path, 2, deadline_s=60).write(cancelled)
    shutil.rmtree(tmp_path)
    with pytest.raises(FileNotFoundError):
        RankFiles(tmp_path, 2, deadline_s=60).write(threading.Event())


class RunsCode:
    """Pickled, it makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return (Path.touch, (self.file,))


def damage(folder: Path, kind: str, proof: Path) -> None:
    shard, record = folder / "rank_00001.safetensors", folder / "rank_00001.json"
    header_size = int.from_bytes(shard.read_bytes()[:8], "little")
    header = json.loads(shard.read_bytes()[8 : 8 + header_size])
    if kind == "no shard":
        shard.unlink()
    elif kind == "one too many":
        shutil.copy(shard, folder / "rank_00002.safetensors")
    elif kind == "cut short":
        shard.write_bytes(shard.read_bytes()[:-4])
    elif kind in ("pickle", "torch file"):
        buffer = io.BytesIO()
        (pickle.dump if kind == "pickle" else torch.save)(RunsCode(proof), buffer)
        shard.write_bytes(buffer.getvalue())
    elif kind == "pickle beside":
        (folder / ".metadata").write_bytes(pickle.dumps(RunsCode(proof)))
        record.write_text("[]")
    elif kind == "places":
        header["__metadata__"]["DCP_SHARDING_INFO"] = "[" * 100_000
        text = json.dumps(header).encode()
        shard.write_bytes(len(text).to_bytes(8, "little") + text + shard.read_bytes()[8 + header_size :])
    elif kind == "hole":
        places = json.loads(header["__metadata__"]["DCP_SHARDING_INFO"])
        places["weight/w"]["saved_offsets"] = [7]
        header["__metadata__"]["DCP_SHARDING_INFO"] = json.dumps(places)
        text = json.dumps(header).encode()
        shard.write_bytes(len(text).to_bytes(8, "little") + text + shard.read_bytes()[8 + header_size :])
    elif kind == "no records":
        for path in folder.glob("*.json"):
            path.unlink()
    else:
        write_atomically(record, {"record": "{", "deep record": "[" * 100_000, "steps": '{"files": {}}'}[kind])


DAMAGES = (
    *("no shard", "one too many", "cut short", "pickle", "torch file", "pickle beside"),
    *("places", "hole", "no records", "record", "deep record", "steps"),
)


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_named_and_nothing_is_executed(tmp_path, kind) -> None:
    parameters, optimizer = trained({"w": (3, 4)}, seed=0)
    folder, proof = tmp_path / "learner", tmp_path / "executed"
    folder.mkdir()
    write(folder, parameters, optimizer, 2)
    read_shards(folder, whole_fragments(parameters.items(), optimizer, share=(0, 1)))
    damage(folder, kind, proof)
    with pytest.raises(UsageError, match=r"learner: damaged \(.*\); nothing in it was executed"):
        read_shards(folder, whole_fragments(parameters.items(), optimizer, share=(0, 1)))
    assert not proof.exists()


def test_a_checkpoint_of_another_model_is_refused(tmp_path) -> None:
    parameters, optimizer = trained({"w": (3, 4)}, seed=0)
    write(tmp_path, parameters, optimizer, 1)
    others, anew = trained({"w": (3, 4), "v": (2,)}, seed=0)
    with pytest.raises(UsageError, match=r"not a checkpoint of this model \(it has no v\)"):
        read_shards(tmp_path, whole_fragments(others.items(), anew, share=(0, 1)))
    others, anew = trained({"w": (3, 5)}, seed=0)
    with pytest.raises(UsageError, match=r"there are \[12\] elements instead of 15"):
        read_shards(tmp_path, whole_fragments(others.items(), anew, share=(0, 1)))


def test_an_optimizer_that_has_not_stepped_is_kept_too(tmp_path) -> None:
    parameters, optimizer = trained({"w": (3, 4)}, seed=0, num_steps=0)
    write(tmp_path, parameters, optimizer, 2)
    others, anew = trained({"w": (3, 4)}, seed=1, num_steps=3)
    read_shards(tmp_path, whole_fragments(others.items(), anew, share=(0, 1)))
    for each, theirs in ((parameters["w"], optimizer), (others["w"], anew)):
        each.grad = torch.ones_like(each)
        theirs.step()
    assert torch.equal(parameters["w"], others["w"])
