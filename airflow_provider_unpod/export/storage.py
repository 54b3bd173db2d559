"""The folder of an export in a store. Only this module uses object stores.

It works around two properties of fsspec. First, an exception inside ``with path.open("wb")`` *publishes* the bytes
written so far, in every store. So a failed upload is abandoned and never closed. Second, an exception in the waiting
thread (Airflow raises one for SIGTERM and timeouts) does not stop a request in progress. So all requests go through one
thread, and cleanup is queued after the interrupted request.
"""

from __future__ import annotations

import os
import re
import secrets
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, TypeVar

from airflow_provider_unpod.billing.arguments import text_of
from airflow_provider_unpod.billing.errors import UnpodConfigError
from airflow_provider_unpod.export.address import EXTRA_OF, normalized, store_address
from airflow_provider_unpod.export.errors import ExportError
from airflow_provider_unpod.export.spool import discard, temporary_file, temporary_space

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from airflow.providers.common.compat.sdk import ObjectStoragePath

#: Most bytes of a file that is read into memory at once. A manifest of about 100,000 files is that large.
LARGEST_SMALL_FILE = 32 * 2**20
#: Bytes of a transfer in memory. S3's smallest part is 5 MiB, and the default of fsspec is 50 MiB.
_BLOCK = 8 * 2**20

#: The library of each extra. Airflow's provider for a store may be installed without it.
_LIBRARIES = {"s3": "s3fs", "gcs": "gcsfs", "azure": "adlfs"}

T = TypeVar("T")


class Folder:
    """A folder in a store, accessed through ``ObjectStoragePath``. A context manager.

    File names are relative to the folder and use ``/``. If the store fails, all methods raise ``ExportError`` with the
    address and the connection.

    :param address: for example ``s3://my_aws@bucket/invoices`` or ``file:///data/invoices``. An absolute path without a
        scheme is local.
    :param conn_id: id of the storage connection. It takes precedence over one in the address.
    :raises UnpodConfigError: if the address is not a folder, the library for its store is not installed, or the
        connection does not exist.
    """

    def __init__(self, address: str | Path, conn_id: str | None = None) -> None:
        self.address = normalized(address)
        self.conn_id = None if conn_id is None else text_of(conn_id, "storage_conn_id")
        with self._explained("reached"):
            _require_filesystem(self.address)
            address, account = store_address(self.address)
            path = _object_storage_path(address, conn_id)
        self.conn_id = _conn_id_of(path)
        if self.conn_id is not None:
            _require_connection(self.conn_id, self.address)
        with self._explained("reached"):
            self._fs: Any = path.fs if account is None else _azure_filesystem(path, account, self.address)
        self._root: str = path.path.rstrip("/")
        self._local = "file" in _protocols(self._fs)
        if not self._root.strip("/"):
            raise UnpodConfigError(
                f"The path of an export must contain a folder, got {self.address!r}. Add one, such as /invoices."
            )
        self._requests = ThreadPoolExecutor(1, thread_name_prefix="unpod-export")

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._requests.shutdown(wait=True)

    def address_of(self, name: str) -> str:
        """Return the full address of a file."""
        return f"{self.address}/{name}"

    def read(self, name: str) -> bytes | None:
        """Return the content of a small file. ``None`` if it does not exist.

        :raises ExportError: also if the file is larger than :data:`LARGEST_SMALL_FILE`.
        """

        def request() -> bytes | None:
            try:
                content: bytes = self._fs.cat_file(self._path(name), end=LARGEST_SMALL_FILE + 1)
            except FileNotFoundError:
                return None
            if len(content) > LARGEST_SMALL_FILE:
                raise ExportError(f"{self.address_of(name)} must have at most {LARGEST_SMALL_FILE:,} bytes.")
            return content

        return self._request("read", name, request)

    def fetch(self, name: str, most: int) -> IO[bytes] | None:
        """Copy up to ``most`` bytes of a file to an unnamed local file. ``None`` if it does not exist."""

        def request() -> IO[bytes] | None:
            if self._local and not Path(self._path(name)).is_file():  # opening a pipe would block forever
                return None
            self._fs.invalidate_cache()  # a cached listing would hide a new file
            with (
                suppress(FileNotFoundError),
                self._fs.open(self._path(name), "rb", block_size=_BLOCK) as source,
                ExitStack() as on_failure,
            ):
                copy = temporary_file()
                on_failure.callback(discard, copy)
                while block := source.read(min(_BLOCK, most - copy.tell())):
                    with temporary_space():
                        copy.write(block)
                with temporary_space():
                    copy.seek(0)
                on_failure.pop_all()
                return copy
            return None

        return self._request("read", name, request)

    def write(self, name: str, blocks: Iterable[bytes]) -> None:
        """Create or replace a file, completely or not at all. ``blocks`` is consumed in another thread."""
        write = self._write_local if self._local else self._write_object
        self._request("written", name, lambda: write(self._path(name), blocks))

    def put(self, name: str, content: bytes) -> None:
        """Create or replace a small file in one request, completely or not at all."""
        if self._local:
            self.write(name, (content,))
        else:
            self._request("written", name, lambda: self._fs.pipe_file(self._path(name), content))

    def delete(self, names: Iterable[str]) -> None:
        """Delete files, and local folders that become empty. A missing file is not an error."""

        def request() -> None:
            for name in names:
                with suppress(FileNotFoundError):
                    self._fs.rm_file(self._path(name))
                if self._local:
                    self._remove_empty_folders(name)

        self._request("cleaned", "", request)

    def names(self) -> list[str]:
        """List all files below the folder, sorted. Empty if the folder does not exist."""

        def request() -> list[str]:
            self._fs.invalidate_cache()
            try:
                found = _local_files(self._root) if self._local else self._fs.find(self._root)
            except FileNotFoundError:
                return []
            prefix = self._root + "/"
            return sorted(path[len(prefix) :] for path in found if path.startswith(prefix))

        return self._request("listed", "", request)

    def _request(self, verb: str, name: str, request: Callable[[], T]) -> T:
        """Call the store in its own thread.

        Only errors of the store are explained, not exceptions that a signal handler raises in the waiting thread.
        """

        def explained() -> T:
            with self._explained(verb, name):
                return request()

        return self._requests.submit(explained).result()

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _write_local(self, path: str, blocks: Iterable[bytes]) -> None:
        final = Path(path)
        final.parent.mkdir(parents=True, exist_ok=True)
        # The name is unique, because two tasks may write the manifest at the same time.
        temporary = final.with_name(f".{final.name}.{secrets.token_hex(4)}.tmp")
        try:
            with temporary.open("wb") as file:
                file.writelines(blocks)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(final)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def _write_object(self, path: str, blocks: Iterable[bytes]) -> None:
        file = self._fs.open(path, "wb", block_size=_BLOCK)
        try:
            file.writelines(blocks)
        except BaseException:
            _abandon(file)
            raise
        file.close()

    def _remove_empty_folders(self, name: str) -> None:
        folder = PurePosixPath(name).parent
        while folder.name:
            try:
                Path(self._path(str(folder))).rmdir()
            except OSError:
                return
            folder = folder.parent

    @contextmanager
    def _explained(self, verb: str, name: str = "") -> Iterator[None]:
        try:
            yield
        except (ExportError, UnpodConfigError):
            raise
        except Exception as error:
            where = self.address_of(name) if name else self.address
            raise ExportError(
                f"{where} could not be {verb}, {_connection(self.conn_id)}: {type(error).__name__}: {_discreet(error)}"
            ) from error


def _local_files(root: str) -> Iterator[str]:
    """Yield the paths of all files. fsspec would list a folder that cannot be read as empty."""

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):  # another task has just deleted the folder
            raise error

    for folder, _, names in os.walk(root, onerror=refuse):
        for name in names:
            yield f"{folder}/{name}"


def _abandon(file: Any) -> None:
    """Drop an unfinished upload, so that neither closing it nor garbage collection publishes it."""
    with suppress(Exception):
        file.discard()
    file.closed = True


def _require_filesystem(address: str) -> None:
    """Raise ``UnpodConfigError`` if the store's library is missing. Airflow's own error would be retried."""
    scheme = address.partition("://")[0]
    extra = EXTRA_OF.get(scheme)
    if _has_filesystem(scheme) and (extra is None or find_spec(_LIBRARIES[extra])):
        return
    if extra is None:
        raise UnpodConfigError(
            "The path of an export must begin with file://, s3://, gs://, abfs:// or another scheme for which Airflow "
            f"has a filesystem, got {address}."
        )
    raise UnpodConfigError(f"Install the libraries for {address}: pip install 'airflow-provider-unpod[{extra}]'.")


def _has_filesystem(scheme: str) -> bool:
    try:
        from airflow.sdk.io import has_fs
    except ImportError:  # Airflow 2.11
        from airflow.io import has_fs  # type: ignore[attr-defined, no-redef]
    return bool(has_fs(scheme))


def _object_storage_path(address: str, conn_id: str | None) -> ObjectStoragePath:
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    return ObjectStoragePath(address, conn_id=conn_id) if conn_id else ObjectStoragePath(address)


def _azure_filesystem(path: ObjectStoragePath, account: str, address: str) -> Any:
    """Return the filesystem of the Azure account in the address. Airflow itself uses the connection's account.

    :raises UnpodConfigError: if the connection or the environment is for another account.
    """
    import fsspec

    conn_id = _conn_id_of(path)
    fs: Any = path.fs if conn_id else fsspec.filesystem("abfs", account_name=account)
    actual = fs.service_client.account_name if fs.connection_string else fs.account_name
    if actual != account:
        raise UnpodConfigError(
            f"The storage connection must be for account {account!r}, as in {address}, got {actual!r}, "
            f"{_connection(conn_id)}. Correct `storage_conn_id` or the path."
        )
    return fs


def _conn_id_of(path: ObjectStoragePath) -> str | None:
    try:
        conn_id: str | None = path.conn_id
    except AttributeError:  # Airflow 2.11
        conn_id = path.storage_options.get("conn_id")
    return conn_id


def _require_connection(conn_id: str, address: str) -> None:
    """Raise ``UnpodConfigError`` if the connection does not exist. The libraries would ignore it."""
    from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook

    try:
        BaseHook.get_connection(conn_id)
    except AirflowNotFoundException:
        raise UnpodConfigError(
            f"Create the storage connection {conn_id!r}, or correct `storage_conn_id`: it does not exist ({address})."
        ) from None


def _protocols(fs: Any) -> tuple[str, ...]:
    protocol = fs.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)


def _connection(conn_id: str | None) -> str:
    return f"storage connection {conn_id!r}" if conn_id else "without a storage connection"


def _discreet(error: Exception) -> str:
    """Return the store's message without query strings, which may contain a signature."""
    return re.sub(r"\?[^\s'\"]*", "?…", str(error))[:500]
