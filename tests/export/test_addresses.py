"""Valid and invalid paths of exports. Invalid ones are refused before the first request, with a remedy."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_unpod.billing.errors import UnpodConfigError
from airflow_provider_unpod.export import ExportError, export_files, path_segment, read_export, write_export
from airflow_provider_unpod.export.address import normalized, store_address, without_connection
from tests.export.support import FakeReading, records, rows
from tests.properties import examples

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Unread:
    def __iter__(self) -> Iterator[None]:
        pytest.fail("there was a request to the API")


def write(path: Any, **arguments: Any) -> None:
    write_export(Unread(), path, **arguments)


WAYS: list[Callable[..., Any]] = [write, read_export, export_files]


MISTYPED: list[Any] = [None, "", " ", "None", 5, "5", "/", "out", "relative/dir", "./out", Path("out"), "C:\\out"]
MISTYPED += ["s3:/b/k", "s3://", "://b/k", "file:/tmp/x", "file://tmp/x", "file://localhost/tmp/x", "FILE://tmp/x"]
MISTYPED += ["s3:///k", "gs://a_connection@/k", "/data/a::b", "s3://bucket/a::b", "/data/a\nb", "/data/a\x00b"]


@pytest.mark.parametrize("use", WAYS)
@pytest.mark.parametrize("address", MISTYPED, ids=repr)
def test_a_path_that_is_neither_in_a_store_nor_absolute_is_refused_with_the_remedy(
    use: Callable[..., Any], address: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(UnpodConfigError, match=r"^The path of an export .* s3://bucket/invoices.* /data/invoices"):
        use(address)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("use", WAYS)
@pytest.mark.parametrize("address", ["~", "~/x", "~somebody/x"])
def test_a_home_folder_is_not_guessed(use: Callable[..., Any], address: str) -> None:
    with pytest.raises(UnpodConfigError, match="~ would be the home folder of the worker's user"):
        use(address)


DOTS = ["/data/..", "/data/../x", "s3://b/./k", "s3://b/k/..", "gs://b/../k", "/data/."]
ENCODED_DOTS = [
    "/data/%2e%2e/x",
    "s3://b/%2E./k",
    "/data/..\\x",
    "s3://b/x\\..",
    "/data/\uff0e\uff0e/x",
    "/data/..;x=1/y",
]
ENCODED_DOTS += ["/data/%2e", "/data/.. /x", "/data/\u2025/x", "gs://b/x\\%2e%2e\\y"]


@pytest.mark.parametrize("use", WAYS)
@pytest.mark.parametrize("address", [*DOTS, *ENCODED_DOTS])
def test_dots_do_not_lead_out_of_a_folder_in_any_spelling(use: Callable[..., Any], address: str) -> None:
    with pytest.raises(UnpodConfigError, match=r"must not contain `.+`, .*path_segment`"):
        use(address)


OBJECTS = ["/data/{{ ds }}/x", "s3://b/{% if x %}", "/data/{ds}", "/data/${DAY}", "/data/<NA>", "s3://b/month=<NA>"]
OBJECTS += ["/data/<generator object at 0x7f>", "/data/['acme']", "/data/('acme', 1)", '/data/{"password": "geheim"}']
OBJECTS += [
    "s3://b/Connection(conn_id='x', login='me', password='geheim', port=1)",
    "/data/Connection(password='geheim'",
]


@pytest.mark.parametrize("use", WAYS)
@pytest.mark.parametrize("address", OBJECTS)
def test_an_unrendered_template_and_the_str_of_an_object_are_refused_and_not_shown(
    use: Callable[..., Any], address: str
) -> None:
    with pytest.raises(UnpodConfigError, match=r"must not contain .*Render the template to a string") as caught:
        use(address)
    assert "geheim" not in str(caught.value)


BLANK = ["/data/NaN", "s3://b/month=NaT", "/data/acme-NaT/k", "/data/2026-NaN", "/data/x=NULL", "/data/nan"]
BLANK += ["/data/None", "s3://b/None/k", "s3://b/month=None", "s3://b/acme-None/k", "s3://None/k", "/data/x_None_y"]
BLANK += [
    "/data//k",
    "s3://b//k",
    "s3://b/k//",
    "s3://b/org=/k",
    "s3://b/org= /k",
    "/data/null",
    "/data/[]/x",
    "/data/NaT",
]


@pytest.mark.parametrize("address", BLANK)
def test_a_folder_name_that_a_template_renders_to_a_missing_value_is_refused(address: str) -> None:
    with pytest.raises(UnpodConfigError, match=r"must not contain .*Did a template render to nothing"):
        write(address)


@pytest.mark.parametrize(
    "address",
    [
        "s3://bucket/Nonesuch",
        "/data/x=y",
        "/data/nonempty",
        "/data/month=2026-02",
        "/d/..x",
        "/data/hai-nan/NaTional",
        "/data/a%20b/c;version=1",
        "s3://bucket/a b/O'Brien (1)/x+y,z@home",
        "/data/.../..%2Fx",
    ],
)
def test_a_folder_name_that_only_resembles_a_missing_value_or_an_object_is_accepted(address: str) -> None:
    assert normalized(address).endswith(address)


@pytest.mark.parametrize("use", WAYS)
@pytest.mark.parametrize(
    "address",
    [
        "s3://AKIAKEY:geheim@bucket/k",
        "s3://AKIAKEY:ge/heim+geheim@bucket/k",
        "s3://bucket/k?X-Amz-Signature=geheim",
        "abfs://container@account.dfs.core.windows.net/k?sv=2026&sig=geheim",
        "file://user:geheim@/data/k",
        "https://user:geheim@host/k",
        "user:geheim@host/k",
        "/data/k?token=geheim",
        "/data/k#access_token=geheim",
        "s3://AKIAKEY%3Ageheim@bucket/k",
        "s3://AKIAKEY%3ageheim%40bucket/k",
    ],
)
def test_credentials_in_a_path_are_refused_and_not_shown(use: Callable[..., Any], address: str) -> None:
    with pytest.raises(UnpodConfigError, match="storage_conn_id") as caught:
        use(address)
    assert "geheim" not in str(caught.value)
    assert "AKIAKEY" not in str(caught.value)


@settings(max_examples=examples(300))
@given(
    st.text(min_size=1)
    | st.sampled_from(["..", ".", "None", "a-None", "null", "nan", "a/../b", "?", "x:y@z", "[]", "a NaT", "NaN"])
    | st.sampled_from(["%2e%2e", "..\\x", "\uff0e\uff0e", "..;x", ".. ", "#", "<NA>", "{{ x }}", "['a']", "%2E%2E-"])
)
def test_a_quoted_name_is_one_folder_whatever_it_contains(name: str) -> None:
    if not name.strip():
        with pytest.raises(UnpodConfigError, match="must not be empty"):
            path_segment(name)
        return
    folder = path_segment(name)

    assert normalized(f"s3://bucket/exports/{folder}") == f"s3://bucket/exports/{folder}"
    assert normalized(f"/data/{folder}") == f"file:///data/{folder}"
    assert "/" not in folder
    decoded = unquote(folder, errors="surrogatepass")
    # Different names are different folders: no other name has a percent-encoded dot.
    assert decoded == (name if name not in (".", "..") else f"{name}-")
    assert name in (".", "..") or "%2E" not in folder


@pytest.mark.parametrize(
    ("address", "for_airflow", "for_others"),
    [
        ("abfs://box@acme.dfs.core.windows.net/a/b", "abfs://box/a/b", "abfs://box@acme.dfs.core.windows.net/a/b"),
        ("abfss://box@acme.blob.core.chinacloudapi.cn", "abfss://box", "abfss://box@acme.blob.core.chinacloudapi.cn"),
        (
            "abfs://my_az@box@acme.dfs.core.windows.net/a",
            "abfs://my_az@box/a",
            "abfs://box@acme.dfs.core.windows.net/a",
        ),
    ],
)
def test_azures_own_form_of_an_address_is_supported(address: str, for_airflow: str, for_others: str) -> None:
    assert normalized(address) == address
    assert store_address(address) == (for_airflow, "acme")
    assert without_connection(address) == for_others


@pytest.mark.parametrize("address", ["abfs://my_az@box/a/b", "abfs://box/a", "s3://my_aws@acme.dfs.example.net/a"])
def test_other_addresses_reach_airflow_as_they_are(address: str) -> None:
    assert store_address(address) == (address, None)
    assert "my_a" not in without_connection(address)


@pytest.mark.parametrize(
    "form", ["{}", "{}/", " {} ", "/{}", "file:///{}", "file://{}", "FILE://{}", "file://a_connection@{}", Path]
)
def test_all_forms_of_an_absolute_path_are_accepted(form: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_A_CONNECTION", "fs://")
    address = form(tmp_path) if form is Path else form.format(tmp_path)
    write_export(FakeReading(rows(3)), address)

    assert list(read_export(address)) == list(read_export(str(tmp_path))) == records(rows(3))


@pytest.mark.parametrize("below", ["", "/invoices"])
def test_a_file_in_place_of_the_folder_is_refused_without_a_warning_about_leftover_files(
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
def test_a_store_without_a_filesystem_in_airflow_is_refused_with_those_that_have_one(
    use: Callable[..., Any], address: str
) -> None:
    with pytest.raises(UnpodConfigError, match=rf"file://, s3://, gs://, abfs:// .*{address}"):
        use(address)


def test_any_other_store_that_airflow_has_a_filesystem_for_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    try:
        from airflow.sdk.io import fs
    except ImportError:  # Airflow 2.11
        import airflow.io as fs  # type: ignore[no-redef]  # the same module, under its old name
    filesystems = {**fs._register_filesystems(), "memory": lambda conn_id: MemoryFileSystem()}
    monkeypatch.setattr(fs, "_register_filesystems", lambda: filesystems)

    write_export(FakeReading(rows(3)), "memory://bucket/invoices")

    assert list(read_export("memory://bucket/invoices")) == records(rows(3))
