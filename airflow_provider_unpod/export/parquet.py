"""Encodes and decodes parquet files, in row groups of limited size. Only this module uses pyarrow."""

from __future__ import annotations

import io
import json
from itertools import islice
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

#: Number of rows in memory as Python objects, about 2 KB each.
_ROWS_PER_GROUP = 16_384
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
        while group := list(islice(records, _ROWS_PER_GROUP)):
            cells: list[list[Any]] = [[] for _ in schema]
            for record in group:
                row, extra = table.split(record)
                for column, cell in zip(cells, [*row, encode_record(extra) if extra else None], strict=True):
                    column.append(cell)
            arrays = [pa.array(values, field.type) for values, field in zip(cells, schema, strict=True)]
            writer.write_batch(pa.record_batch(arrays, schema=schema))
            yield sink.take()
    yield sink.take()


def decode(file: IO[bytes], columns: tuple[Column, ...]) -> Iterator[Record]:
    """Decode the records of one file.

    If it is not a parquet file with these columns, the exceptions of pyarrow are raised.
    """
    from pyarrow import parquet

    content = parquet.ParquetFile(file)
    if not content.schema_arrow.equals(_schema(columns)):
        raise ValueError("the schema differs from the columns in the manifest")
    table = Table(columns, PARQUET_CELLS)
    for batch in content.iter_batches(_ROWS_PER_BATCH):
        *cells, extras = (column.to_pylist() for column in batch.columns)
        for row, extra in zip(zip(*cells, strict=True), extras, strict=True):
            yield table.join(row, json.loads(extra) if extra else {})


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
