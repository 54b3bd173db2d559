"""Encodes and decodes parquet files, in row groups of limited size. Only this module uses pyarrow."""

from __future__ import annotations

import io
import json
from typing import IO, TYPE_CHECKING, Any

from airflow_provider_unpod.export.columns import (
    CATEGORY,
    DECIMAL,
    EXTRA,
    INTEGER,
    PARQUET_CELLS,
    PRECISION,
    SCALE,
    TEXT,
    TIMESTAMP,
    Table,
)
from airflow_provider_unpod.export.errors import ExportError
from airflow_provider_unpod.export.spool import encode_record

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_unpod.export.columns import Column, Record

#: Most rows in memory as Python objects, about 2 KB each, and most characters of their text. One record may be larger.
_ROWS_PER_GROUP = 16_384
_TEXT_PER_GROUP = 16 * 2**20
#: Most bytes of a column in a row group, uncompressed: that text and the largest record, in UTF-8.
_MOST_PER_COLUMN = 256 * 2**20
#: Number of rows to decode at once. It is small, because a few bytes of a forged file can expand to long strings.
_ROWS_PER_BATCH = 128


def require_library() -> None:
    """Raise :class:`ExportError` if pyarrow is not installed. The message names the extra to install."""
    try:
        import pyarrow.parquet  # noqa: F401 - checks only whether it is installed
    except ImportError as error:
        raise ExportError(
            "file_format='parquet' requires a library: pip install 'airflow-provider-unpod[parquet]'."
        ) from error


def encode(records: Iterator[Record], compression: str | None, columns: tuple[Column, ...]) -> Iterator[bytes]:
    """Encode one file and yield its blocks."""
    import pyarrow as pa
    from pyarrow import parquet

    schema = _schema(columns)
    table = Table(columns, PARQUET_CELLS)
    sink = _Sink()
    # Ids and dates rarely repeat, so a dictionary for them would only cost space.
    repeating = [column.name for column in columns if column.type not in (INTEGER, TIMESTAMP)] + [EXTRA]
    options = {"compression": compression or "none", "use_dictionary": repeating}
    with parquet.ParquetWriter(pa.PythonFile(sink, mode="w"), schema, **options) as writer:
        for group in _groups(map(table.split, records)):
            cells = zip(*group, strict=True)
            arrays = [pa.array(values, field.type) for values, field in zip(cells, schema, strict=True)]
            writer.write_batch(pa.record_batch(arrays, schema=schema))
            yield sink.take()
    yield sink.take()


def _groups(split: Iterator[tuple[list[Any], Record]]) -> Iterator[list[list[Any]]]:
    """Yield the rows of each row group, with ``extra`` as the last cell."""
    group: list[list[Any]] = []
    size = 0
    for cells, extra in split:
        cells.append(encode_record(extra) if extra else None)
        group.append(cells)
        size += sum(len(cell) for cell in cells if type(cell) is str)
        if len(group) == _ROWS_PER_GROUP or size > _TEXT_PER_GROUP:
            yield group
            group, size = [], 0
    if group:
        yield group


def decode(file: IO[bytes], columns: tuple[Column, ...]) -> Iterator[Record]:
    """Decode the records of one file.

    If it is not a parquet file with these columns, the exceptions of pyarrow are raised.
    """
    from pyarrow import parquet

    content = parquet.ParquetFile(file)
    if not content.schema_arrow.equals(_schema(columns)):
        raise ValueError("the schema differs from the columns in the manifest")
    _refuse_large_pages(content.metadata)
    table = Table(columns, PARQUET_CELLS)
    for batch in content.iter_batches(_ROWS_PER_BATCH):
        *cells, extras = (column.to_pylist() for column in batch.columns)
        for row, extra in zip(zip(*cells, strict=True), extras, strict=True):
            yield table.join(row, json.loads(extra) if extra else {})


def _refuse_large_pages(metadata: Any) -> None:
    """Refuse a forged file that would fill the memory: pyarrow decompresses a page, up to 2 GiB, at once."""
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for place in range(group.num_columns):
            if group.column(place).total_uncompressed_size > _MOST_PER_COLUMN:
                raise ValueError(f"a column of a row group is larger than {_MOST_PER_COLUMN:,} bytes")


def _schema(columns: tuple[Column, ...]) -> Any:
    import pyarrow as pa

    types = {
        INTEGER: pa.int64(),
        TEXT: pa.string(),
        CATEGORY: pa.dictionary(pa.int32(), pa.string()),
        DECIMAL: pa.decimal128(PRECISION, SCALE),
        TIMESTAMP: pa.timestamp("us", "UTC"),
    }
    return pa.schema([*((column.name, types[column.type]) for column in columns), (EXTRA, pa.string())])


class _Sink(io.RawIOBase):
    """An in-memory file for pyarrow. The bytes written so far can be taken at any time."""

    def __init__(self) -> None:
        super().__init__()
        self._blocks: list[bytes] = []
        self._size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._blocks.append(bytes(data))
        self._size += len(self._blocks[-1])
        return len(self._blocks[-1])

    def tell(self) -> int:
        return self._size

    def take(self) -> bytes:
        """Return the bytes written since the last call."""
        blocks, self._blocks = self._blocks, []
        return b"".join(blocks)
