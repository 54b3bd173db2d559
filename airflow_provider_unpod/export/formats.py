"""Records as the bytes of a file, and back, exactly: what :func:`decode` gives is what was encoded.

Encoders take the JSON lines of a spool in blocks and are generators of blocks, so that a file of any size passes
through bounded memory.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from typing import IO, TYPE_CHECKING, Any

from airflow_provider_unpod.export.columns import CSV_CELLS, EXTRA, Table, survey
from airflow_provider_unpod.export.errors import ExportError
from airflow_provider_unpod.export.options import CHANGES, CSV, JSONL, PARQUET
from airflow_provider_unpod.export.spool import BLOCK_SIZE, encode_record

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping

    from airflow_provider_unpod.export.columns import Column, Record
    from airflow_provider_unpod.export.options import ExportOptions

# Billing rows repeat themselves so much that level 1 leaves a file only a little larger, for a third of the CPU.
_GZIP_LEVEL = 1
_GZIP_CONTAINER = zlib.MAX_WBITS | 16
#: Of the state that exports of changes are compared with.
STATE_COMPRESSION = "gzip"
#: The most bytes of one record in a file, so that a forged file cannot fill the memory. A response of the API has
#: 32 MiB at most, which escaping can make three times as long.
_MAX_RECORD = 128 * 2**20


def columns_of(lines: Iterable[bytes], options: ExportOptions) -> tuple[Column, ...]:
    """The columns of an export, from the blocks of all its records; none for JSON lines.

    :raises ExportRefused: if the format cannot hold a record.
    """
    if options.file_format == JSONL:
        return ()
    return survey(_records(lines), changes=options.export_mode == CHANGES, parquet=options.file_format == PARQUET)


def encode(
    blocks: Iterator[bytes], options: ExportOptions, columns: tuple[Column, ...], partition: Mapping[str, str]
) -> Iterator[bytes]:
    """The content of one data file."""
    if options.file_format == PARQUET:
        from airflow_provider_unpod.export import parquet

        in_path = _in_path(columns, partition)
        records = (
            {name: value for name, value in record.items() if name not in in_path or value != in_path[name]}
            for record in _records(blocks)
        )
        return parquet.encode(records, options.compression, _without(columns, in_path))
    if options.file_format == CSV:
        blocks = _encode_csv(_records(blocks), columns)
    return compressed(blocks, options.compression)


def decode(
    file: IO[bytes], options: ExportOptions, columns: tuple[Column, ...], partition: Mapping[str, str]
) -> Iterator[Record]:
    """The records of one data file.

    Raises whatever the format's library raises, if the file contains something else.
    """
    if options.file_format == PARQUET:
        from airflow_provider_unpod.export import parquet

        in_path = _in_path(columns, partition)
        return (in_path | record for record in parquet.decode(file, _without(columns, in_path)))
    if options.file_format == CSV:
        return _decode_csv(decompressed(file, options.compression), columns)
    return decode_lines(file, options.compression)


def decode_lines(file: IO[bytes], compression: str | None) -> Iterator[Any]:
    """The values of a file of JSON lines."""
    return map(json.loads, _bounded_lines(decompressed(file, compression)))


def _bounded_lines(file: IO[Any]) -> Iterator[Any]:
    while line := file.readline(_MAX_RECORD + 1):
        if len(line) > _MAX_RECORD:
            raise ValueError(f"a record is longer than {_MAX_RECORD} bytes")
        yield line


def _in_path(columns: tuple[Column, ...], partition: Mapping[str, str]) -> dict[str, str]:
    """The columns that a parquet file leaves to its path: readers of Hive layout take partition keys from there, and
    pyarrow refuses to have them twice. A record whose value is spelled in another way has it in ``extra``. What is no
    column of ours, a field ``month`` of the API, is not in the path either.
    """
    return {column.name: partition[column.name] for column in columns if column.name in partition}


def _without(columns: tuple[Column, ...], names: Container[str]) -> tuple[Column, ...]:
    return tuple(column for column in columns if column.name not in names)


def _records(blocks: Iterable[bytes]) -> Iterator[Record]:
    for block in blocks:
        yield from map(json.loads, block.splitlines())


def _encode_csv(records: Iterator[Record], columns: tuple[Column, ...]) -> Iterator[bytes]:
    table = Table(columns, CSV_CELLS)
    text = io.StringIO()
    writer = csv.writer(text)  # its default dialect is RFC 4180, line ends included
    writer.writerow([*(column.name for column in columns), EXTRA])
    for record in records:
        cells, extra = table.split(record)
        writer.writerow([*cells, encode_record(extra) if extra else None])
        if text.tell() > BLOCK_SIZE:
            yield text.getvalue().encode()
            text.seek(0)
            text.truncate()
    yield text.getvalue().encode()


def _decode_csv(file: IO[bytes], columns: tuple[Column, ...]) -> Iterator[Record]:
    table = Table(columns, CSV_CELLS)
    rows = _csv_rows(_bounded_lines(io.TextIOWrapper(file, encoding="utf-8", newline="")))
    if next(rows, None) != [*(column.name for column in columns), EXTRA]:
        raise ValueError("the header is not that of the manifest")
    for *cells, extra in rows:
        yield table.join([cell or None for cell in cells], json.loads(extra) if extra else {})


def _csv_rows(lines: Iterable[str]) -> Iterator[list[str]]:
    """The rows that :func:`_encode_csv` wrote, with cells of any length.

    ``csv.reader`` has a limit to that, one for the whole process: not ours to change, and others may change it.
    """
    row: list[str] = []
    quotes = 0
    size = 0
    for line in lines:
        row.append(line)
        size += len(line)
        if size > _MAX_RECORD:
            raise ValueError(f"a record is longer than {_MAX_RECORD} characters")
        quotes += line.count('"')
        if quotes % 2 == 0:  # otherwise the line ends inside a quoted cell
            text = "".join(row)
            if not text.endswith("\r\n"):
                break
            yield _csv_cells(text[:-2])
            row.clear()
            size = 0
    if row:
        raise ValueError("it ends within a row")


def _csv_cells(row: str) -> list[str]:
    if '"' not in row:
        return row.split(",")
    pieces = row.split('"')
    # Every second piece is inside of quotes; commas in the others part the cells. No cell has a NUL.
    pieces[::2] = [piece.replace(",", "\0") for piece in pieces[::2]]
    cells = '"'.join(pieces).split("\0")
    return [cell[1:-1].replace('""', '"') if cell[:1] == '"' else cell for cell in cells]


def compressed(blocks: Iterator[bytes], compression: str | None) -> Iterator[bytes]:
    """``blocks`` in a gzip or zstd container that is the same for the same content: no name, no date."""
    if compression is None:
        yield from blocks
        return
    compressor: Any
    if compression == "gzip":
        compressor = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_CONTAINER)
    else:
        compressor = _zstandard().ZstdCompressor().compressobj()
    for block in blocks:
        if packed := compressor.compress(block):
            yield packed
    yield compressor.flush()


def decompressed(file: IO[bytes], compression: str | None) -> IO[bytes]:
    """``file`` decompressed, to be read by lines."""
    if compression is None:
        return file
    if compression == "gzip":
        return gzip.GzipFile(fileobj=file)  # type: ignore[return-value] # is one in all that matters here
    # Unlike gzip's, its streams do not know lines.
    return io.BufferedReader(_zstandard().ZstdDecompressor().stream_reader(file, read_across_frames=True))


def require_libraries(options: ExportOptions) -> None:
    """Require optional libraries before anything is read.

    :raises ExportError: naming the extra to install.
    """
    if options.file_format == PARQUET:
        from airflow_provider_unpod.export import parquet

        parquet.require_library()
    elif options.compression == "zstd":
        _zstandard()


def _zstandard() -> Any:
    try:
        import zstandard
    except ImportError as error:
        raise ExportError("compression='zstd' needs a library: pip install 'airflow-provider-unpod[zstd]'.") from error
    return zstandard
