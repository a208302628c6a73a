"""Rows of a data set, from a local file or folder or from the hub, one by one.

JSONL, Parquet and CSV files are read directly, so a bad row can be named; folders and hub names go through the
``datasets`` library, which is imported only then.
"""

from __future__ import annotations

import csv
import json
import logging
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from insight_rl.errors import UsageError, check
from insight_rl.hub_access import hub_endpoint, is_told_offline, why_unreachable

logger = logging.getLogger(__name__)

Row = Mapping[str, Any]

_PARQUET_BATCH = 1024
_ASK_S = 30.0
_COMMIT = re.compile("[0-9a-f]{40}")
_LIBRARY_ERRORS = (OSError, ValueError, RuntimeError)
"""Of ``datasets``: no network, no such name, config, split or revision, no access, and broken files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubName:
    """E.g. ``HubName(name="openai/gsm8k", config="main", split="train")``; the same split of a local folder."""

    name: str | None
    config: str | None
    split: str
    revision: str | None = None
    """A commit, tag or branch of the hub; ``None``: the newest."""

    def __str__(self) -> str:
        words = ":".join(part for part in (self.name, self.config, self.split) if part)
        return f"{words}@{self.revision}" if self.revision else words


@dataclass(frozen=True, slots=True, kw_only=True)
class RowSource:
    """A local ``path`` if there is one, else ``hub``. ``setting`` (``task.train``) begins the name of both settings."""

    setting: str
    path: Path | None
    hub: HubName | None
    streaming: bool = False
    """Hub rows are read as they are needed instead of downloading the whole set first."""
    path_key: str | None = None
    """The setting that names ``path``, where it is not ``<setting>_path``."""

    def __str__(self) -> str:
        if self.path is not None:
            return f"{self.path_key or self.setting + '_path'}={self.path}"
        return f"{self.setting}_hub={self.hub}"

    def numbered_rows(self, columns: Collection[str]) -> Iterator[tuple[int, Row]]:
        """Rows counted from 1 (JSONL: line numbers), of Parquet and the hub only ``columns`` where they exist.

        Raises ``UsageError`` with setting, source, row and remedy for what cannot be read.
        """
        if self.path is None:
            assert self.hub is not None, "a source has a path or a hub name"
            assert self.hub.name is not None, "checked by hub_name"
            yield from enumerate(self._from_library(self.hub.name, columns), start=1)
        elif self.path.is_dir():
            yield from enumerate(self._from_library(str(self.path), columns), start=1)
        else:
            yield from self._from_file(self.path, columns)

    def pinned(self) -> RowSource:
        """The same at the commit that the hub (or, without a network, its cache) has for the revision now.

        Itself for a local path, and where neither knows. Raises ``UsageError`` where the hub has no such revision.
        """
        if self.path is not None:
            return self
        assert self.hub is not None and self.hub.name is not None, "checked by hub_name"
        _go_offline_if_unreachable()
        import datasets
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError

        name, revision = self.hub.name, self.hub.revision
        commit: str | None
        if datasets.config.HF_HUB_OFFLINE or is_told_offline():
            commit = _cached_commit(self._load(name, streaming=False))
        else:
            try:
                api = HfApi(endpoint=hub_endpoint())
                commit = api.dataset_info(name, revision=revision, timeout=_ASK_S).sha
            except (HfHubHTTPError, OSError) as error:
                raise self._not_given(error) from error
        return self if commit is None else replace(self, hub=replace(self.hub, revision=commit))

    def _from_file(self, path: Path, columns: Collection[str]) -> Iterator[tuple[int, Row]]:
        reader = _READERS.get(path.suffix.lower())
        if reader is None:
            raise UsageError(f"{self}: unknown kind of file; take one of {', '.join(_READERS)} or a folder")
        try:
            yield from reader(path, columns)
        except OSError as error:
            reason = error.strerror or str(error)
            raise UsageError(f"{self}: {reason}; name a readable file or folder of rows") from error
        except UnicodeDecodeError as error:
            raise UsageError(f"{self}: not UTF-8 text ({error.reason})") from error
        except _BadRow as error:
            raise UsageError(f"{self} row {error.number}: {error.reason}") from error
        except (ValueError, csv.Error, RecursionError) as error:
            raise UsageError(f"{self}: cannot be read as {path.suffix} ({error})") from error

    def _from_library(self, name: str, columns: Collection[str]) -> Iterator[Row]:
        if self.path is None:
            _go_offline_if_unreachable()
        rows = self._load(name, streaming=self.streaming)
        try:
            present = rows.column_names
            kept = [column for column in columns if present is None or column in present]
            yield from rows.select_columns(kept) if kept else rows
        except _LIBRARY_ERRORS as error:
            raise self._not_given(error) from error

    def _load(self, name: str, *, streaming: bool) -> Any:
        """The library's data set. Raises ``UsageError`` where it is another commit than the one asked for."""
        import datasets

        config, split, revision = (None, "train", None)
        if self.hub is not None:
            config, split, revision = self.hub.config, self.hub.split, self.hub.revision
        # A folder has no revisions.
        pinned = {} if self.path is not None or revision is None else {"revision": revision}
        try:
            rows = datasets.load_dataset(name, config, split=split, streaming=streaming, **pinned)
        except _LIBRARY_ERRORS as error:
            raise self._not_given(error) from error
        # Without a network the library takes what is in its cache, whatever the revision is.
        cached = None if streaming or not pinned else _cached_commit(rows)
        if cached is not None and _COMMIT.fullmatch(str(revision)) and cached != revision:
            raise UsageError(
                f"{self.setting}_hub.revision={revision!r}: the hub cannot be reached, and its cache gives {name} at "
                f"commit {cached}; go online once, or give that commit"
            )
        return rows

    def _not_given(self, error: Exception) -> UsageError:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        remedy = (
            "check the folder, and the config and split of its data"
            if self.path is not None
            else f"give a local copy with {self.setting}_path=..., or check the name, the revision, the network, your "
            "access to it and HF_HOME"
        )
        return UsageError(f"{self}: {reason}; {remedy}")


def _cached_commit(rows: Any) -> str | None:
    """The commit that a loaded data set is of: the library's cache has a folder for each; ``None`` if it is unknown."""
    found = {Path(file["filename"]).parent.name for file in rows.cache_files}
    return found.pop() if len(found) == 1 and all(map(_COMMIT.fullmatch, found)) else None


def hub_name(key: str, value: object) -> HubName | None:
    """The checked form of a setting such as ``{name: openai/gsm8k, config: main, split: train}``; ``None`` for null."""
    if value is None:
        return None
    remedy = (
        "give name, config (or null), split and revision (a commit, a tag or null), e.g. {name: openai/gsm8k, "
        "config: main, split: train, revision: null}, or null"
    )
    check(isinstance(value, Mapping) and set(value) <= {"name", "config", "split", "revision"}, key, value, remedy)
    assert isinstance(value, Mapping)
    name, config, split = value.get("name"), value.get("config"), value.get("split", "train")
    revision = value.get("revision")
    check(isinstance(name, str) and name != "", f"{key}.name", name, remedy)
    check(config is None or isinstance(config, str), f"{key}.config", config, remedy)
    check(isinstance(split, str) and split != "", f"{key}.split", split, remedy)
    is_text = isinstance(revision, str) and revision != ""
    quotes = "give a commit or a tag; one that looks like a number in quotes twice: 'revision=\"1234567\"'"
    check(revision is None or is_text, f"{key}.revision", revision, quotes)
    return HubName(name=name, config=config, split=split, revision=revision)


class _BadRow(ValueError):
    def __init__(self, number: int, reason: str) -> None:
        super().__init__(reason)
        self.number = number
        self.reason = reason


def _read_jsonl(path: Path, columns: Collection[str]) -> Iterator[tuple[int, Row]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise _BadRow(number, f"not JSON ({json_reason(error)}); write one object a line") from error
            yield number, _as_object(number, row)


def json_reason(error: Exception) -> str:
    """What is wrong within one line of JSON; the library counts lines too, and would always say line 1."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.pos + 1}"
    return str(error) or type(error).__name__


def _read_json(path: Path, columns: Collection[str]) -> Iterator[tuple[int, Row]]:
    """One array of objects; a ``.json`` file of lines is read like ``.jsonl``."""
    with path.open(encoding="utf-8") as file:
        is_array = file.read(256).lstrip().startswith("[")
    if not is_array:
        yield from _read_jsonl(path, columns)
        return
    for number, row in enumerate(json.loads(path.read_text(encoding="utf-8")), start=1):
        yield number, _as_object(number, row)


def _as_object(number: int, row: object) -> Row:
    if not isinstance(row, dict):
        raise _BadRow(number, f"{str(row)[:60]!r} is no object; write one object a row")
    return row


def _read_parquet(path: Path, columns: Collection[str]) -> Iterator[tuple[int, Row]]:
    import pyarrow.parquet

    number = 0
    with pyarrow.parquet.ParquetFile(path) as file:
        kept = [column for column in file.schema_arrow.names if column in columns]
        for batch in file.iter_batches(_PARQUET_BATCH, columns=kept or None):
            for row in batch.to_pylist():
                number += 1
                yield number, row


def _read_csv(path: Path, columns: Collection[str]) -> Iterator[tuple[int, Row]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from enumerate(csv.DictReader(file), start=1)


_READERS: dict[str, Callable[[Path, Collection[str]], Iterator[tuple[int, Row]]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".parquet": _read_parquet,
    ".csv": _read_csv,
}


def _go_offline_if_unreachable() -> None:
    """Without a network, set the hub library to offline; else it tries for half a minute before it uses its cache."""
    reason = None if "HF_HUB_OFFLINE" in os.environ else why_unreachable()
    if reason is not None:
        logger.warning("%s: looking into its local cache", reason)
        os.environ["HF_HUB_OFFLINE"] = "1"
