"""Exports behave the same on every store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from airflow_provider_unpod.billing.errors import UnpodConfigError
from airflow_provider_unpod.export import ExportError, read_export, write_export
from airflow_provider_unpod.export.options import ExportOptions
from airflow_provider_unpod.export.storage import Folder
from airflow_provider_unpod.web.report import render_report
from tests.export.support import FakeReading, new_export, records, row, rows
from tests.integration.stores.servers import AZURITE_ACCOUNT

if TYPE_CHECKING:
    from tests.integration.stores.servers import Store


def names(folder: str, store: Store) -> list[str]:
    return Folder(folder, store.conn_id).names()


@pytest.mark.parametrize("file_format", ["jsonl", "csv", "parquet"])
def test_an_export_is_read_back_and_replaced_by_the_next(store: Store, folder: str, file_format: str) -> None:
    options = ExportOptions(file_format, "gzip")
    write_export(FakeReading(rows(100)), folder, conn_id=store.conn_id, options=options)
    written = new_export(FakeReading(rows(3000)), folder, conn_id=store.conn_id, options=options)

    assert list(read_export(folder, store.conn_id)) == records(rows(3000))
    assert names(folder, store) == sorted(["_manifest.json", written.manifest.files[0].path])


def test_partitions_with_awkward_names_are_written_and_read_back(store: Store, folder: str) -> None:
    found = [row(n, currency=c, status=s) for n, (c, s) in enumerate([("U/S%D", "a b"), ("€", "..")] * 3, start=1)]
    for _ in range(2):
        written = new_export(
            FakeReading(found),
            folder,
            conn_id=store.conn_id,
            options=ExportOptions(partition_by=("currency", "status")),
        )

    assert sorted(read_export(folder, store.conn_id), key=lambda r: r["id"]) == records(found)
    assert names(folder, store) == sorted(["_manifest.json", *written.manifest.paths])


def test_the_report_is_a_file_of_the_export_and_goes_with_it(store: Store, folder: str) -> None:
    for number in (10, 11):
        written = new_export(
            FakeReading(rows(number)),
            folder,
            conn_id=store.conn_id,
            about={"organization": "acme"},
            render_report=render_report,
        )

    assert written.manifest.report is not None
    assert names(folder, store) == sorted(["_manifest.json", *written.manifest.paths])
    with read_export(folder, store.conn_id).open_report() or pytest.fail("no report") as report:
        assert b"11 invoices" in report.read()


def test_changes_are_found_by_comparison_with_the_state_file(store: Store, folder: str) -> None:
    options = ExportOptions(export_mode="changes")
    write_export(FakeReading(rows(100)), folder, conn_id=store.conn_id, options=options)
    assert write_export(FakeReading(rows(100)), folder, conn_id=store.conn_id, options=options) is None
    write_export(FakeReading(rows(101)), folder, conn_id=store.conn_id, options=options)

    assert [record["id"] for record in read_export(folder, store.conn_id)] == [101]


def test_an_upload_of_many_blocks_is_complete(store: Store, folder: str) -> None:
    found = [row(n, note="x" * 1_000_000 + str(n)) for n in range(1, 26)]
    write_export(FakeReading(found), folder, conn_id=store.conn_id)

    assert list(read_export(folder, store.conn_id)) == records(found)


def test_a_failed_read_leaves_nothing_behind(store: Store, folder: str) -> None:
    def broken():
        yield from rows(50_000)
        raise RuntimeError("the API went away")

    with pytest.raises(RuntimeError, match="went away"):
        write_export(FakeReading(broken()), folder, conn_id=store.conn_id)

    assert names(folder, store) == []


def test_an_unknown_storage_connection_is_refused_before_anything_is_read(store: Store, folder: str) -> None:
    class Unread:
        def __iter__(self):
            pytest.fail("there was a request to the API")

    with pytest.raises(UnpodConfigError, match="'no_such_connection'"):
        write_export(Unread(), folder, conn_id="no_such_connection")


def test_a_damaged_file_is_refused(store: Store, folder: str) -> None:
    written = new_export(FakeReading(rows(10)), folder, conn_id=store.conn_id)
    place = Folder(folder, store.conn_id)
    content = place.read(written.manifest.files[0].path)
    assert content is not None
    place.put(written.manifest.files[0].path, content.replace(b"1", b"2", 1))

    with pytest.raises(ExportError, match="was modified, so its export is invalid"):
        read_export(folder, store.conn_id)


@pytest.mark.parametrize("any_store", ["azure"], indirect=True)
def test_azures_own_form_of_an_address_is_the_same_folder(store: Store, folder: str) -> None:
    own_form = folder.replace("abfs://container/", f"abfs://container@{AZURITE_ACCOUNT}.dfs.core.windows.net/")
    written = new_export(FakeReading(rows(10)), own_form, conn_id=store.conn_id)

    assert written.address == own_form
    assert list(read_export(own_form, store.conn_id)) == list(read_export(folder, store.conn_id)) == records(rows(10))


@pytest.mark.parametrize("any_store", ["azure"], indirect=True)
def test_a_storage_connection_of_another_account_than_that_of_the_address_is_refused(store: Store) -> None:
    with pytest.raises(UnpodConfigError, match=f"must be for account 'acme'.*got '{AZURITE_ACCOUNT}'.*{store.conn_id}"):
        write_export(FakeReading(rows(10)), "abfs://container@acme.dfs.core.windows.net/x", conn_id=store.conn_id)
