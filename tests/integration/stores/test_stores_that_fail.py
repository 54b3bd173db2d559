"""If a store refuses, the error names address and connection, before the first request to the API."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from airflow_provider_unpod.export import ExportError, write_export
from tests.export.support import FakeReading, names_in, rows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.stores.servers import Store


class Unread:
    def __iter__(self) -> Iterator[None]:
        pytest.fail("there was a request to the API")


@pytest.mark.parametrize("any_store", ["s3", "azure", "gcs"], indirect=True)
def test_a_missing_bucket_is_reported_with_address_and_connection(store: Store) -> None:
    address = store.root[:-1] + "-that-is-not-there/folder"

    with pytest.raises(ExportError, match=f"{address}.*{store.conn_id}"):
        write_export(Unread(), address, conn_id=store.conn_id)


@pytest.mark.parametrize("any_store", ["s3", "azure"], indirect=True)
def test_wrong_credentials_are_reported_without_showing_them(
    store: Store, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = json.loads(os.environ[f"AIRFLOW_CONN_{store.conn_id}".upper()])
    if store.name == "s3":
        secret = connection["password"] = "wrong" * 8
    else:
        secret = "V3Jvbmc="
        text = connection["extra"]["connection_string"]
        start = text.index("AccountKey=") + len("AccountKey=")
        connection["extra"]["connection_string"] = text[:start] + secret + text[text.index(";", start) :]
    monkeypatch.setenv("AIRFLOW_CONN_STORE_WRONG", json.dumps(connection))

    with pytest.raises(ExportError, match=f"{folder}.*'store_wrong'") as caught:
        write_export(Unread(), folder, conn_id="store_wrong")
    assert secret not in str(caught.value)


def test_a_full_disk_leaves_no_export(tmp_path: Path) -> None:
    """A file size limit simulates a full disk: writing fails in the middle of a data file."""
    import resource
    import signal

    target = tmp_path / "target"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, limits[1]))
        with pytest.raises((ExportError, OSError)):
            write_export(FakeReading(rows(20_000)), f"file://{target}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert names_in(target) == []
