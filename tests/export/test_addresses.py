"""What the path of an export can be; what it cannot be is refused before anything is read, with what to do."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_unpod.billing.errors import UnpodConfigError
from airflow_provider_unpod.export import ExportError, read_export, write_export
from tests.export.support import FakeReading, records, rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Unread:
    def __iter__(self) -> Iterator[None]:
        pytest.fail("the API was asked")


def write(path: Any, **arguments: Any) -> None:
    write_export(Unread(), path, **arguments)


WAYS: list[Callable[..., Any]] = [write, read_export]


MISTYPED: list[Any] = [None, "", " ", "None", 5, "5", "/", "out", "relative/dir", "./out", Path("out"), "C:\\out"]
MISTYPED += ["s3:/b/k", "s3://", "://b/k", "file:/tmp/x", "file://tmp/x", "file://localhost/tmp/x", "FILE://tmp/x"]
MISTYPED += ["s3:///k", "gs://a_connection@/k", "/data/a::b", "s3://bucket/a::b", "/data/a\nb", "/data/a\x00b"]


@pytest.mark.parametrize("use", WAYS)
@pytest.mark.parametrize("address", MISTYPED, ids=repr)
def test_what_is_neither_on_a_store_nor_an_absolute_path_is_refused_with_what_to_enter(
    use: Callable[..., Any], address: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(UnpodConfigError, match=r"^The path of an export .* s3://bucket/invoices.* /data/invoices"):
        use(address)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("use", WAYS)
@pytest.mark.parametrize("address", ["~", "~/x", "~somebody/x"])
def test_no_home_is_guessed(use: Callable[..., Any], address: str) -> None:
    with pytest.raises(UnpodConfigError, match="~ would be the home of whoever runs the worker"):
        use(address)


@pytest.mark.parametrize(
    "form", ["{}", "{}/", " {} ", "/{}", "file:///{}", "file://{}", "FILE://{}", "file://a_connection@{}", Path]
)
def test_an_absolute_path_may_have_any_of_its_forms(form: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_A_CONNECTION", "fs://")
    address = form(tmp_path) if form is Path else form.format(tmp_path)
    write_export(FakeReading(rows(3)), address)

    assert list(read_export(address)) == list(read_export(str(tmp_path))) == records(rows(3))


@pytest.mark.parametrize("below", ["", "/invoices"])
def test_a_file_in_place_of_the_folder_is_refused_and_nothing_is_said_to_be_left(
    below: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("mine")

    with pytest.raises(ExportError, match=f"{tmp_path}/file{below}"):
        write(f"{tmp_path}/file{below}")
    assert (tmp_path / "file").read_text() == "mine"
    assert caplog.text == ""


@pytest.mark.parametrize("use", WAYS)
@pytest.mark.parametrize(
    ("address", "extra"),
    [
        ("s3://bucket/key", "s3"),
        ("S3A://bucket/key", "s3"),
        ("gs://bucket/key", "gcs"),
        ("gcs://bucket/key", "gcs"),
        ("abfs://container/key", "azure"),
        ("abfss://container/key", "azure"),
        ("adl://container/key", "azure"),
    ],
)
@pytest.mark.parametrize("conn_id", [None, "not_there_either"])
def test_a_store_whose_library_is_missing_is_refused_with_what_to_install(
    use: Callable[..., Any], address: str, extra: str, conn_id: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for library in ("s3fs", "gcsfs", "adlfs"):
        monkeypatch.setitem(sys.modules, library, None)

    with pytest.raises(UnpodConfigError, match=rf"pip install 'airflow-provider-unpod\[{extra}\]'"):
        use(address, conn_id=conn_id)


@pytest.mark.parametrize("use", WAYS)
@pytest.mark.parametrize("address", ["ftp://host/x", "wasb://container/x", "c://out", "nonsense://x/y"])
def test_a_store_that_airflow_does_not_know_is_refused_with_those_that_can_be_used(
    use: Callable[..., Any], address: str
) -> None:
    with pytest.raises(UnpodConfigError, match=rf"{address}.* file://, s3://, gs:// or abfs://"):
        use(address)


def test_any_other_store_that_airflow_has_a_filesystem_for_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    try:
        from airflow.sdk.io import fs
    except ImportError:  # Airflow 2.11
        import airflow.io as fs
    filesystems = {**fs._register_filesystems(), "memory": lambda conn_id: MemoryFileSystem()}
    monkeypatch.setattr(fs, "_register_filesystems", lambda: filesystems)

    write_export(FakeReading(rows(3)), "memory://bucket/invoices")

    assert list(read_export("memory://bucket/invoices")) == records(rows(3))
