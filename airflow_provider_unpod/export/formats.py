"""Encodes records as files and decodes them again, without loss.

Encoders read blocks of JSON lines from a spool and yield blocks, so memory use does not depend on the size of a file.
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

# Billing rows are so repetitive that level 1 files are only a little larger, for a third of the CPU.
_GZIP_LEVEL = 1
_GZIP_CONTAINER = zlib.MAX_WBITS | 16
#: Compression of state files.
STATE_COMPRESSION = "gzip"
#: Largest record in a file, in bytes. The limit keeps a forged file from filling the memory. A response of the API has
#: at most 32 MiB, and escaping can make it three times as long.
_MAX_RECORD = 128 * 2**20
#: Bytes of JSON lines that are parsed together. Their records take about ten times as much memory.
_READ_AT_ONCE = 2**18


def columns_of(lines: Iterable[bytes], options: ExportOptions) -> tuple[Column, ...]:
    """Determine the columns of an export from the blocks of all its records. JSON lines have none.

    :raises ExportRefused: if the format cannot represent a record.
    """
    if options.file_format == JSONL:
        return ()
    return survey(_records(lines), changes=options.export_mode == CHANGES, parquet=options.file_format == PARQUET)


def encode(
    blocks: Iterator[bytes], options: ExportOptions, columns: tuple[Column, ...], partition: Mapping[str, str]
) -> Iterator[bytes]:
    """Encode one data file and yield its blocks."""
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
    """Decode the records of one data file.

    If the file is invalid, the exceptions of the format's library are raised.
    """
    if options.file_format == PARQUET:
        from airflow_provider_unpod.export import parquet

        in_path = _in_path(columns, partition)
        return (in_path | record for record in parquet.decode(file, _without(columns, in_path)))
    if options.file_format == CSV:
        return _decode_csv(decompressed(file, options.compression), columns)
    return decode_lines(file, options.compression)


def decode_lines(file: IO[bytes], compression: str | None) -> Iterator[Any]:
    """Decode the values of a JSON lines file."""
    source, rest = decompressed(file, compression), b""
    while block := source.read(max(_READ_AT_ONCE, len(rest))):
        lines, _, rest = (rest + block).rpartition(b"\n")
        if len(rest) > _MAX_RECORD:
            raise ValueError(f"a record is longer than {_MAX_RECORD} bytes")
        yield from _values_of(lines)
    yield from _values_of(rest)


def _values_of(lines: bytes) -> list[Any]:
    """Decode JSON lines as one list, which takes half as long as one by one."""
    values: list[Any] = json.loads(b"[%b]" % lines.replace(b"\n", b","))
    if lines and len(values) != lines.count(b"\n") + 1:
        raise ValueError("a line is not one JSON value")
    return values


def _bounded_lines(file: IO[Any]) -> Iterator[Any]:
    while line := file.readline(_MAX_RECORD + 1):
        if len(line) > _MAX_RECORD:
            raise ValueError(f"a record is longer than {_MAX_RECORD} bytes")
        yield line


def _in_path(columns: tuple[Column, ...], partition: Mapping[str, str]) -> dict[str, str]:
    """Return the columns that a parquet file omits because its path has them.

    Readers of Hive layouts take partition keys from the path, and pyarrow refuses a key that is also a column. If a
    record spells the value differently, ``extra`` has its spelling. Partition keys that are not columns, such as
    ``month``, are not included.
    """
    return {column.name: partition[column.name] for column in columns if column.name in partition}


def _without(columns: tuple[Column, ...], names: Container[str]) -> tuple[Column, ...]:
    return tuple(column for column in columns if column.name not in names)


def _records(blocks: Iterable[bytes]) -> Iterator[Record]:
    for block in blocks:
        yield from _values_of(block.removesuffix(b"\n"))


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
    with io.TextIOWrapper(file, encoding="utf-8", newline="") as text:
        rows = _csv_rows(_bounded_lines(text))
        if next(rows, None) != [*(column.name for column in columns), EXTRA]:
            raise ValueError("the header differs from the columns in the manifest")
        for *cells, extra in rows:
            yield table.join([cell or None for cell in cells], json.loads(extra) if extra else {})


def _csv_rows(lines: Iterable[str]) -> Iterator[list[str]]:
    """Yield the rows of a file that :func:`_encode_csv` wrote, with cells of any length.

    ``csv.reader`` is not used, because it limits the length of cells by a setting of the whole process.
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
        raise ValueError("the file ends within a row")


def _csv_cells(row: str) -> list[str]:
    if '"' not in row:
        return row.split(",")
    pieces = row.split('"')
    # Every second piece is inside quotes. Commas in the other pieces separate cells. No cell contains a NUL.
    pieces[::2] = [piece.replace(",", "\0") for piece in pieces[::2]]
    cells = '"'.join(pieces).split("\0")
    return [cell[1:-1].replace('""', '"') if cell[:1] == '"' else cell for cell in cells]


def compressed(blocks: Iterator[bytes], compression: str | None) -> Iterator[bytes]:
    """Compress ``blocks`` with gzip or zstd. The same content gives the same bytes: there is no name and no date."""
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
    """Return a decompressing reader of ``file`` that supports lines."""
    if compression is None:
        return file
    if compression == "gzip":
        return gzip.GzipFile(fileobj=file)  # type: ignore[return-value] # has all methods that are needed here
    # zstandard's streams cannot read lines.
    return io.BufferedReader(_zstandard().ZstdDecompressor().stream_reader(file, read_across_frames=True))


def require_libraries(options: ExportOptions) -> None:
    """Check that the optional libraries for these options are installed.

    :raises ExportError: if one is missing. The message names the extra to install.
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
        raise ExportError(
            "compression='zstd' requires a library: pip install 'airflow-provider-unpod[zstd]'."
        ) from error
    return zstandard
