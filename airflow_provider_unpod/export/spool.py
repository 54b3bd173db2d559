"""Stores records on the worker's disk until the list has been read.

No file of an export may be written before the list is proved complete. The columns of a file may also depend on all
rows, for example the usual number of decimal digits. So records are spooled as JSON lines. One unnamed file serves any
number of partitions.
"""

from __future__ import annotations

import json
import os
import sqlite3
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from airflow_provider_unpod.export.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Most bytes of encoded records in memory, for all partitions together.
_BUFFERED = 2 * 2**20
#: Minimum size in bytes of the blocks that are yielded. A block ends at the end of a line.
BLOCK_SIZE = 2**20
#: Most KiB that a temporary database keeps in memory.
_DATABASE_CACHE = 16 * 1024

Partition = tuple[str, ...]


def json_encoder(*, ascii_only: bool) -> Callable[[Any], str]:
    """Return a function that encodes a value as JSON without blanks.

    ``JSONEncoder.encode`` creates a C encoder in every call, which takes as long as the encoding. If Python has the C
    encoder, it is created once here.
    """
    encoder = json.JSONEncoder(separators=(",", ":"), allow_nan=False, check_circular=False, ensure_ascii=ascii_only)
    text = json.encoder.encode_basestring_ascii if ascii_only else json.encoder.encode_basestring
    try:
        encode = json.encoder.c_make_encoder(  # type: ignore[attr-defined] # not in the type stubs
            None, encoder.default, text, None, ":", ",", False, False, False
        )
        encode({}, 0)
    except (AttributeError, TypeError):
        return encoder.encode
    return lambda record: "".join(encode(record, 0))


#: The result is ASCII, even if a record has unpaired surrogates.
encode_record = json_encoder(ascii_only=True)


@contextmanager
def temporary_space() -> Iterator[None]:
    """Turn errors of temporary files into :class:`ExportError`. Wrap all code that creates or writes them.

    :raises ExportError: if a temporary file cannot be created or written. The message names the folder.
    """
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        try:
            folder = tempfile.gettempdir()
        except OSError:  # none of the default folders can be written
            folder = os.environ.get("TMPDIR", "the default folders")
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ExportError(
            f"`TMPDIR` must be a folder with space for all records as JSON, got {folder} ({reason}). Set it to another "
            "folder of the worker, or free disk space."
        ) from error


def temporary_file() -> IO[bytes]:
    """Create a file without a name. It vanishes when the process ends, even if the process is killed.

    :raises ExportError: if it cannot be created.
    """
    with temporary_space():
        return tempfile.TemporaryFile(prefix="unpod-export-")


def temporary_database(table: str) -> sqlite3.Connection:
    """Create a database in a file without a name, which vanishes as that of :func:`temporary_file` does.

    Wrap its statements in :func:`temporary_space`.

    :param table: the statement that creates its table.
    :raises ExportError: if it cannot be created.
    """
    with temporary_space():
        handle, path = tempfile.mkstemp(prefix="unpod-export-")
        try:
            os.close(handle)
            # A folder writes blocks in its own thread, so a database is used from two threads, one at a time.
            database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            # The database is temporary, so it needs neither a journal nor a commit.
            database.execute("PRAGMA journal_mode = OFF")
            database.execute("PRAGMA synchronous = OFF")
            database.execute(f"PRAGMA cache_size = -{_DATABASE_CACHE}")
            database.execute("BEGIN EXCLUSIVE")
            database.execute(table)
        finally:
            Path(path).unlink()
        return database


def discard(file: IO[bytes]) -> None:
    """Close a temporary file whose content is no longer needed, even on a full disk."""
    with suppress(OSError):
        file.close()


class Spool:
    """Stores lines by partition, in order. A context manager that frees the disk space at its end.

    It needs temporary disk space (``$TMPDIR``) for all records as JSON.
    """

    def __init__(self) -> None:
        self._file = temporary_file()
        self._end = 0
        self._waiting: dict[Partition, list[str]] = {}
        self._waiting_size = 0
        self._segments: dict[Partition, list[tuple[int, int]]] = {}
        self._rows: dict[Partition, int] = {}

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *exc_info: object) -> None:
        discard(self._file)

    def add(self, partition: Partition, line: str) -> None:
        """Append one encoded record (ASCII, no line end) to a partition.

        :raises ExportError: if the worker's temporary space is full.
        """
        waiting = self._waiting.get(partition)
        if waiting is None:
            waiting = self._waiting[partition] = []
        waiting.append(line)
        self._waiting_size += len(line)
        if self._waiting_size > _BUFFERED:
            self._flush()

    def partitions(self) -> list[Partition]:
        """Return the partitions that have rows, sorted."""
        self._flush()
        return sorted(self._segments)

    def rows(self, partition: Partition) -> int:
        """Return the number of rows in a partition."""
        self._flush()
        return self._rows.get(partition, 0)

    def blocks(self, partition: Partition) -> Iterator[bytes]:
        """Yield the lines of a partition, including line ends, in blocks of about ``BLOCK_SIZE``."""
        self._flush()
        block: list[bytes] = []
        size = 0
        for start, length in self._segments.get(partition, ()):
            with temporary_space():  # seeking flushes the file's own buffer
                self._file.seek(start)
            block.append(self._file.read(length))
            size += length
            if size >= BLOCK_SIZE:
                yield b"".join(block)
                block, size = [], 0
        if block:
            yield b"".join(block)

    def _flush(self) -> None:
        with temporary_space():
            self._file.seek(self._end)
        for partition, lines in self._waiting.items():
            lines.append("")
            data = "\n".join(lines).encode("ascii")
            with temporary_space():
                self._file.write(data)
            self._segments.setdefault(partition, []).append((self._end, len(data)))
            self._rows[partition] = self._rows.get(partition, 0) + len(lines) - 1
            self._end += len(data)
        self._waiting.clear()
        self._waiting_size = 0
