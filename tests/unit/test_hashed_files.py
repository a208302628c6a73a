import hashlib
import io
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from insight_rl import hashed_files
from insight_rl.hashed_files import HashedFile, WriteCancelled, digest_of, hashed_file


@given(pieces=st.lists(st.binary(max_size=40)), at_a_time=st.integers(1, 7))
def test_the_digest_is_that_of_the_bytes_in_the_file(tmp_path_factory, pieces, at_a_time):
    """Also where the kernel takes less than it is given."""
    path = tmp_path_factory.mktemp("hashed") / "file"

    class Reluctant(io.FileIO):
        def write(self, data):
            return super().write(data[:at_a_time])

    class ReluctantlyHashed(HashedFile, Reluctant):
        pass

    with ReluctantlyHashed(path, threading.Event()) as file:
        assert [file.write(piece) for piece in pieces] == [len(piece) for piece in pieces]
        digest = file.digest
    content = b"".join(pieces)
    assert path.read_bytes() == content
    assert digest == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()} == digest_of(path)


def test_arrays_are_written_as_they_lie(tmp_path):
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    digests = {}
    with hashed_file(tmp_path / "a", threading.Event(), digests) as file:
        assert file.write(array) == array.nbytes
    assert (tmp_path / "a").read_bytes() == array.tobytes()
    assert digests == {"a": digest_of(tmp_path / "a")}


def test_a_cancelled_writer_stops_within_a_piece(tmp_path, monkeypatch):
    monkeypatch.setattr(hashed_files, "_PIECE_BYTES", 4)
    cancelled = threading.Event()

    class Cancelling(HashedFile):
        def _write_piece(self, piece):
            super()._write_piece(piece)
            cancelled.set()

    with Cancelling(tmp_path / "a", cancelled) as file, pytest.raises(WriteCancelled):
        file.write(b"0123456789")
    assert (tmp_path / "a").read_bytes() == b"0123"


def test_nothing_is_written_twice_or_over_another_file(tmp_path):
    (tmp_path / "there").write_text("old")
    with pytest.raises(FileExistsError):
        HashedFile(tmp_path / "there", threading.Event())
    with HashedFile(tmp_path / "new", threading.Event()) as file, pytest.raises(io.UnsupportedOperation):
        file.seek(0)


def test_an_error_in_the_middle_of_a_file_names_it():
    with pytest.raises(OSError, match="No space left") as error, hashed_file_in_full_disk() as file:
        file.write(b"x" * 10)
    assert error.value.filename == "/dev/full"


def hashed_file_in_full_disk():
    class Full(HashedFile):
        def __init__(self):
            io.FileIO.__init__(self, "/dev/full", "w")
            self._path, self._cancelled = "/dev/full", threading.Event()
            self._sha256, self._size = hashlib.sha256(), 0

    return Full()
