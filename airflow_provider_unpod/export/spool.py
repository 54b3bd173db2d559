"""Records on their way from the API to their files, kept on the worker's disk.

Nothing of an export may be seen in its folder before the list has been read to its end and proved complete, and how a
file is written can depend on all of its rows (which decimal digits are usual, for one). So records wait here, as JSON
lines. One open file without a name serves any number of partitions.
"""

from __future__ import annotations

import json
import os
import sqlite3
import tempfile
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any

from airflow_provider_unpod.export.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Bytes of encoded records that wait in memory, over all partitions.
_BUFFERED = 2 * 2**20
#: Size in bytes of the blocks that are yielded; a block ends where a line ends.
BLOCK_SIZE = 2**20

Partition = tuple[str, ...]


def _encoder() -> Callable[[Any], str]:
    """A function that returns the JSON of a record: ASCII, so valid UTF-8 whatever the API sends, lone surrogates too.

    ``JSONEncoder.encode`` creates its C encoder for every call, which costs as much as the encoding itself. Where
    Python has that encoder, it is created once here.
    """
    encoder = json.JSONEncoder(separators=(",", ":"), allow_nan=False, check_circular=False)
    try:
        encode = json.encoder.c_make_encoder(  # type: ignore[attr-defined] # not in the type stubs
            None, encoder.default, json.encoder.encode_basestring_ascii, None, ":", ",", False, False, False
        )
        encode({}, 0)
    except (AttributeError, TypeError):
        return encoder.encode
    return lambda record: "".join(encode(record, 0))


encode_record = _encoder()


@contextmanager
def temporary_space() -> Iterator[None]:
    """Around whatever makes or writes temporary files.

    :raises ExportError: naming the folder and what to set, where they cannot be made or written.
    """
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        try:
            folder = tempfile.gettempdir()
        except OSError:  # none of the usual ones can be written
            folder = os.environ.get("TMPDIR", "every usual folder")
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ExportError(
            f"`TMPDIR` must name a folder with room for all records as JSON; {folder} has none ({reason}). Set it to "
            "another folder of the worker, or make room."
        ) from error


def temporary_file() -> IO[bytes]:
    """A file without a name: when the process ends, however it ends, nothing is left of it.

    :raises ExportError: if there is no folder for it.
    """
    with temporary_space():
        return tempfile.TemporaryFile(prefix="unpod-export-")


class Spool:
    """Lines by partition, in the order in which they came. A context manager; closing it frees the disk space.

    Uses temporary space (``$TMPDIR``) of the size of the records as JSON.
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
        with suppress(OSError):  # nobody needs what could not be written
            self._file.close()

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
        """The partitions that have rows, sorted."""
        self._flush()
        return sorted(self._segments)

    def rows(self, partition: Partition) -> int:
        """Rows of a partition."""
        self._flush()
        return self._rows.get(partition, 0)

    def blocks(self, partition: Partition) -> Iterator[bytes]:
        """The lines of a partition, each with its line end, in blocks of about ``BLOCK_SIZE``."""
        self._flush()
        block: list[bytes] = []
        size = 0
        for start, length in self._segments.get(partition, ()):
            with temporary_space():  # seeking writes what is left in the file's own buffer
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
