"""Records as the bytes of a file, and back, exactly: what :func:`decode` gives is what was encoded.

Encoders take the JSON lines of a spool in blocks and are generators of blocks, so that a file of any size passes
through bounded memory.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from typing import IO, TYPE_CHECKING, Any

from airflow_provider_unpod.export.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_unpod.export.options import ExportOptions

Record = dict[str, Any]

# Billing rows repeat themselves so much that level 1 leaves a file only a little larger, for a third of the CPU.
_GZIP_LEVEL = 1
_GZIP_CONTAINER = zlib.MAX_WBITS | 16


def encode(blocks: Iterator[bytes], options: ExportOptions) -> Iterator[bytes]:
    """The content of one data file."""
    return compressed(blocks, options.compression)


def decode(file: IO[bytes], options: ExportOptions) -> Iterator[Record]:
    """The records of one data file.

    :raises ValueError: or another error of the format's library, if the file holds something else.
    """
    for line in decompressed(file, options.compression):
        yield json.loads(line)


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
    """``file`` without its container, to be read by lines."""
    if compression is None:
        return file
    if compression == "gzip":
        return gzip.GzipFile(fileobj=file)  # type: ignore[return-value] # is one in all that matters here
    # Unlike gzip's, its streams do not know lines.
    return io.BufferedReader(_zstandard().ZstdDecompressor().stream_reader(file, read_across_frames=True))


def require_libraries(options: ExportOptions) -> None:
    """Ask for optional libraries before anything is read.

    :raises ExportError: naming the extra to install.
    """
    if options.compression == "zstd" and options.file_format != "parquet":
        _zstandard()


def _zstandard() -> Any:
    try:
        import zstandard
    except ImportError as error:
        raise ExportError("compression='zstd' needs a library: pip install 'airflow-provider-unpod[zstd]'.") from error
    return zstandard
