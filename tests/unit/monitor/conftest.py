"""Reads back what W&B keeps of a run without a network: the library can write these files, and only send them."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest


def _leveldb_log(content: bytes) -> Iterator[bytes]:
    """The records of a .wandb file: https://github.com/google/leveldb/blob/main/doc/log_format.md after 7 own bytes."""
    block_size, header_size, last_types = 2**15, 7, (1, 4)
    position, data = header_size, b""
    while position + header_size <= len(content):
        room = block_size - position % block_size
        if room < header_size:
            position += room
            continue
        length, kind = struct.unpack_from("<HB", content, position + 4)
        data += content[position + header_size : position + header_size + length]
        position += header_size + length
        if kind in last_types:
            yield data
            data = b""


@pytest.fixture
def read_wandb():
    """``read_wandb(run_dir)``: the records of each offline run, oldest first, by kind, as wandb's own messages."""

    def read(run_dir: Path) -> list[dict[str, list]]:
        import wandb
        from wandb.proto import wandb_internal_pb2

        # Waits until wandb's own process has written everything, as the end of a program does.
        wandb.teardown()
        sessions = []
        for path in sorted(run_dir.glob("wandb/offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime_ns):
            records: dict[str, list] = {}
            for data in _leveldb_log(path.read_bytes()):
                record = wandb_internal_pb2.Record.FromString(data)
                kind = record.WhichOneof("record_type")
                records.setdefault(kind, []).append(getattr(record, kind))
            sessions.append(records)
        return sessions

    return read


@pytest.fixture
def wandb_rows():
    """``wandb_rows(records)``: what was logged, step by step, of one of these runs."""

    def rows(records: dict[str, list]) -> list[dict[str, object]]:
        return [
            {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in row.item}
            for row in records["history"]
        ]

    return rows
