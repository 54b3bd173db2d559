"""Records on their way from the API to their files, kept on the worker's disk.

Nothing of an export may be seen in its folder before the list has been read to its end and proved complete, and
what a file looks like can depend on all of its rows (the scale of a decimal column, for one). So records wait
here, as JSON lines. The file has no name: when the process ends, however it ends, nothing is left of it. One open
file serves any number of partitions.
"""

from __future__ import annotations

import json
import tempfile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Bytes of encoded records that wait in memory, over all partitions.
_BUFFERED = 2 * 2**20
#: Size in bytes of the blocks that are handed on; a block ends where a line ends.
BLOCK_SIZE = 2**20

Partition = tuple[str, ...]


def _encoder() -> Callable[[Any], str]:
    """A function that gives the JSON of a record: ASCII, so valid UTF-8 whatever the API sends, lone surrogates too.

    ``JSONEncoder.encode`` makes its C encoder anew for every call, which costs as much as the encoding itself; where
    Python has that encoder, it is made once here.
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


class Spool:
    """Lines by partition, in the order in which they came. A context manager; closing it frees the disk space.

    Uses temporary space (``$TMPDIR``) of the size of the records as JSON.
    """

    def __init__(self) -> None:
        # Closed in __exit__: a `with` here would end too early.
        self._file = tempfile.TemporaryFile(prefix="unpod-export-")  # noqa: SIM115
        self._end = 0
        self._waiting: dict[Partition, list[str]] = {}
        self._waiting_size = 0
        self._segments: dict[Partition, list[tuple[int, int]]] = {}
        self._rows: dict[Partition, int] = {}

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._file.close()

    def add(self, partition: Partition, line: str) -> None:
        """Append one encoded record (ASCII, no line end) to a partition.

        :raises OSError: if the worker's temporary space is full.
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
            self._file.seek(start)
            block.append(self._file.read(length))
            size += length
            if size >= BLOCK_SIZE:
                yield b"".join(block)
                block, size = [], 0
        if block:
            yield b"".join(block)

    def _flush(self) -> None:
        self._file.seek(self._end)
        for partition, lines in self._waiting.items():
            lines.append("")
            data = "\n".join(lines).encode("ascii")
            self._file.write(data)
            self._segments.setdefault(partition, []).append((self._end, len(data)))
            self._rows[partition] = self._rows.get(partition, 0) + len(lines) - 1
            self._end += len(data)
        self._waiting.clear()
        self._waiting_size = 0
