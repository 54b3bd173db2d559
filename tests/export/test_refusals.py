"""``read_export`` refuses everything that is not certified byte by byte."""

from __future__ import annotations

import contextlib
import gc
import gzip
import hashlib
import io
import json
import shutil
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_unpod.export import ExportError, formats, read_export, write_export
from airflow_provider_unpod.export.formats import compressed
from airflow_provider_unpod.export.manifest import MANIFEST_NAME, Manifest
from airflow_provider_unpod.export.options import ExportOptions
from tests.export.support import FakeReading, names_in, new_export, row, rows
from tests.properties import examples

RUN = {"run": {"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": -1, "try_number": 1}}
#: So deep that a JSON parser reads it, and a Python function that calls itself may not.
NESTED = b"[" * 600 + b"]" * 600
NESTED_INVOICE = b'{"id": 1, "amount": "1.00", "currency": "USD", "status": "paid", "x": %s}\n' % NESTED


@pytest.fixture(scope="module", params=["jsonl", "csv", "parquet"])
def pristine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pristine")
    options = ExportOptions(request.param, "gzip", ("currency",), export_mode="changes")
    write_export(FakeReading(rows(30)), str(folder), options=options)
    return folder


@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_modified_byte_in_any_file_or_in_the_manifest_is_refused(
    pristine: Path, tmp_path: Path, data: st.DataObject
) -> None:
    folder = tmp_path / "copy"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(pristine, folder)
    path = folder / data.draw(st.sampled_from(names_in(folder)))
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)

    with pytest.raises(ExportError):
        read_export(str(folder))


def test_a_byte_more_or_less_or_a_missing_file_is_refused(pristine: Path, tmp_path: Path) -> None:
    for name in names_in(pristine):
        for damage in (lambda content: content + b"\n", lambda content: content[:-1], None):
            folder = tmp_path / "copy"
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(pristine, folder)
            if damage:
                (folder / name).write_bytes(damage((folder / name).read_bytes()))
            else:
                (folder / name).unlink()

            with pytest.raises(ExportError):
                read_export(str(folder))


def resealed(folder: Path, change: Any) -> None:
    """Modify and reseal the manifest, as an attacker could."""
    content = json.loads((folder / MANIFEST_NAME).read_bytes())
    change(content)
    (folder / MANIFEST_NAME).write_bytes(Manifest(content, (), (), None).to_bytes())


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["totals"]["USD"]["paid"].update(amount="1.00"),
        lambda m: m["totals"]["USD"]["paid"].update(count=7),
        lambda m: m.update(count=m["count"] + 1),
        lambda m: m["files"][0].update(rows=m["files"][0]["rows"] + 1),
        lambda m: m["files"].append(m["files"][0]),
        lambda m: m["files"][0].update(path="../" + m["files"][0]["path"]),
        lambda m: m["files"][0].update(path="/etc/passwd"),
        lambda m: m.update(version=2),
        lambda m: m.update(format="other"),
        lambda m: m.update(file_format="xml"),
        lambda m: m.pop("totals"),
        lambda m: m.pop("count"),
        lambda m: m.update(files=None),
        lambda m: m.update(run=True),
        lambda m: m.update(run="nightly"),
    ],
)
def test_a_manifest_that_contradicts_itself_or_its_files_is_refused(tmp_path: Path, change: Any) -> None:
    write_export(FakeReading(rows(30)), str(tmp_path))
    resealed(tmp_path, change)

    with pytest.raises(ExportError):
        read_export(str(tmp_path))
    with pytest.raises(ExportError):
        write_export(FakeReading(rows(1)), str(tmp_path), options=ExportOptions(export_mode="changes"), about=RUN)


@pytest.mark.parametrize("damage", [b'"', b"\n", b"1,2\r\n", b'"' + b"x" * 200_000])
def test_a_file_that_is_not_csv_is_refused_even_if_it_is_certified(tmp_path: Path, damage: bytes) -> None:
    written = new_export(FakeReading(rows(30)), str(tmp_path), options=ExportOptions("csv"))
    file = written.manifest.files[0]
    content = (tmp_path / file.path).read_bytes() + damage
    (tmp_path / file.path).write_bytes(content)
    sealed = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    resealed(tmp_path, lambda manifest: manifest["files"][0].update(sealed))

    with pytest.raises(ExportError, match=f"{file.path} cannot be decoded"):
        read_export(str(tmp_path))


def forge_amounts(folder: Path) -> None:
    """Modify amounts, then hash and seal again, as anybody with write access could."""
    content = json.loads((folder / MANIFEST_NAME).read_bytes())
    path = folder / content["files"][0]["path"]
    forged = path.read_bytes().replace(b'"1.01"', b'"9.01"')
    path.write_bytes(forged)
    content["files"][0]["sha256"] = hashlib.sha256(forged).hexdigest()
    content["totals"]["INR"]["pending"]["amount"] = "9.01"
    (folder / MANIFEST_NAME).write_bytes(Manifest(content, (), (), None).to_bytes())


def test_a_forged_and_resealed_export_is_refused_by_its_manifest_sha256(tmp_path: Path) -> None:
    summary = new_export(FakeReading([row(1)]), str(tmp_path)).summary()
    asked_for = {"export_id": summary["export_id"], "manifest_sha256": summary["manifest_sha256"]}
    assert list(read_export(str(tmp_path), **asked_for)) == [row(1)]

    forge_amounts(tmp_path)
    assert list(read_export(str(tmp_path), export_id=summary["export_id"])) == [row(1, amount="9.01")]
    for sums in (asked_for, {"manifest_sha256": summary["manifest_sha256"]}):
        with pytest.raises(ExportError, match=rf"must have the SHA-256 {summary['manifest_sha256']}.*forged"):
            read_export(str(tmp_path), **sums)


def test_manifest_sha256_is_that_of_the_manifest_file(tmp_path: Path) -> None:
    summary = new_export(FakeReading(rows(3)), str(tmp_path)).summary()

    of_file = hashlib.sha256((tmp_path / MANIFEST_NAME).read_bytes()).hexdigest()
    assert summary["manifest_sha256"] == of_file == read_export(str(tmp_path)).manifest_sha256


def test_a_manifest_with_an_infinite_count_is_refused(tmp_path: Path) -> None:
    write_export(FakeReading(rows(1)), str(tmp_path))
    manifest = tmp_path / MANIFEST_NAME
    manifest.write_bytes(manifest.read_bytes().replace(b'"count": 1,', b'"count": 1e999,'))

    with pytest.raises(ExportError, match="a field is missing or invalid"):
        read_export(str(tmp_path))


def test_totals_that_move_money_between_statuses_are_refused(tmp_path: Path) -> None:
    write_export(FakeReading([row(1, status="paid"), row(1, status="failed")]), str(tmp_path))

    def swap(manifest: dict[str, Any]) -> None:
        cells = next(iter(manifest["totals"].values()))
        cells["paid"]["amount"] = "2.01"

    resealed(tmp_path, swap)
    with pytest.raises(ExportError, match="totals"):
        read_export(str(tmp_path))


def test_records_of_a_file_that_was_modified_after_the_check_are_not_yielded(tmp_path: Path) -> None:
    summary = new_export(FakeReading(rows(30)), str(tmp_path)).summary()
    export = read_export(str(tmp_path))
    path = Path(summary["files"][0].removeprefix("file://"))
    path.write_bytes(path.read_bytes().replace(b'"1.01"', b'"9.01"'))

    with pytest.raises(ExportError, match="was modified"):
        next(iter(export))


def test_an_export_that_is_replaced_while_it_is_read_says_so(tmp_path: Path) -> None:
    write_export(FakeReading(rows(30)), str(tmp_path))
    export = read_export(str(tmp_path))
    write_export(FakeReading(rows(31)), str(tmp_path))

    with pytest.raises(ExportError, match="has been replaced"):
        list(export)


KINDS = [("jsonl", None), ("jsonl", "gzip"), ("jsonl", "zstd"), ("csv", "gzip"), ("parquet", None), ("parquet", "zstd")]


@pytest.fixture(scope="module", params=KINDS, ids=str)
def forgeable(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("forgeable")
    file_format, compression = request.param
    options = ExportOptions(file_format, compression, export_mode="changes")
    write_export(FakeReading(rows(30)), str(folder), options=options)
    return folder


def forged(original: Path, folder: Path, name: str, content: bytes) -> Path:
    """Copy an export and replace the content of one file, then hash and seal it again."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(original, folder)
    (folder / name).write_bytes(content)

    def list_anew(manifest: dict[str, Any]) -> None:
        for file in (*manifest["files"], manifest["changes"]["state"]):
            if file["path"] == name:
                file.update(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())

    resealed(folder, list_anew)
    return folder


def assert_read_or_refused(folder: Path) -> None:
    """The list of 30 invoices can be read or not, and be compared with or not; nothing but an ExportError is raised."""
    with contextlib.suppress(ExportError):
        assert len(list(read_export(str(folder)))) == 30
    with contextlib.suppress(ExportError):
        write_export(FakeReading(rows(31)), str(folder), options=ExportOptions(export_mode="changes"))


@settings(max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_forged_file_is_refused_by_an_export_error_and_nothing_else(
    forgeable: Path, tmp_path: Path, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from([name for name in names_in(forgeable) if name != MANIFEST_NAME]))
    content = bytearray((forgeable / name).read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    end = data.draw(st.integers(0, len(content)) | st.just(len(content)))

    assert_read_or_refused(forged(forgeable, tmp_path / "copy", name, bytes(content[:end])))


@pytest.mark.parametrize("forgeable", KINDS[:4], indirect=True, ids=str)
@pytest.mark.parametrize(
    "text", [b"[" * 100_000, NESTED_INVOICE, b"null\n", b"{}\n", b"[]\n", b'"x"\n', b"1e999\n", b"\xff"]
)
def test_content_that_is_not_invoices_is_refused_even_if_it_is_certified(
    forgeable: Path, tmp_path: Path, text: bytes
) -> None:
    for name in names_in(forgeable):
        if name != MANIFEST_NAME:
            suffix = {".gz": "gzip", ".zst": "zstd"}.get(Path(name).suffix, "gzip" if "_state" in name else None)
            folder = forged(forgeable, tmp_path / "copy", name, b"".join(compressed(iter([text]), suffix)))

            if not name.startswith("_state"):
                with pytest.raises(ExportError):
                    read_export(str(folder))
            with pytest.raises(ExportError):
                write_export(FakeReading(rows(1)), str(folder), options=ExportOptions(export_mode="changes"))


@pytest.mark.slow
@pytest.mark.parametrize("file_format", ["jsonl", "csv"])
def test_a_file_that_decompresses_to_gigabytes_is_refused_before_it_fills_the_memory(
    tmp_path: Path, file_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "_MAX_RECORD", 2**20)
    write_export(
        FakeReading(rows(1)), str(tmp_path / "one"), options=ExportOptions(file_format, "gzip", export_mode="changes")
    )
    (name,) = (name for name in names_in(tmp_path / "one") if name.startswith("invoices"))
    begin = gzip.decompress((tmp_path / "one" / name).read_bytes())
    bomb = gzip.compress(begin + b'"') + gzip.compress(b" " * 2**26) * 160  # 10 GiB in 10 MB
    folder = forged(tmp_path / "one", tmp_path / "copy", name, bomb)

    tracemalloc.start()
    try:
        with pytest.raises(ExportError):
            read_export(str(folder))
        assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    finally:
        tracemalloc.stop()


#: How a forged parquet file holds its text: as the entry of a dictionary, or in one large page.
PACKED: list[dict[str, Any]] = [
    {"use_dictionary": True},
    {"use_dictionary": ["status"], "data_page_size": 2**30, "write_batch_size": 2**20, "row_group_size": 2**20},
]


@pytest.mark.slow
@pytest.mark.parametrize("packed_as", PACKED, ids=["dictionary", "page"])
def test_a_parquet_file_that_expands_to_a_thousand_times_its_size_is_refused_before_it_fills_the_memory(
    tmp_path: Path, packed_as: dict[str, Any]
) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    options = ExportOptions("parquet", "zstd", export_mode="changes")
    name = new_export(FakeReading(rows(1100)), str(tmp_path / "one"), options=options).manifest.files[0].path
    table = parquet.read_table(tmp_path / "one" / name)
    place = table.schema.get_field_index("extra")
    text = pa.array(["x" * 2**18] * table.num_rows)  # 275 MiB
    packed = pa.BufferOutputStream()
    forged_table = table.set_column(place, table.schema.field(place), text)
    parquet.write_table(forged_table, packed, compression="zstd", **packed_as)
    content = packed.getvalue().to_pybytes()
    folder = forged(tmp_path / "one", tmp_path / "copy", name, content)
    assert len(content) < 2**17
    del table, text, packed, forged_table

    default = pa.default_memory_pool()
    measured = pa.proxy_memory_pool(default)
    pa.set_memory_pool(measured)
    try:
        with pytest.raises(ExportError):
            read_export(str(folder))
        assert measured.max_memory() < 64 * 2**20
    finally:
        pa.set_memory_pool(default)


@pytest.mark.slow
def test_a_parquet_export_of_large_records_needs_little_memory_and_is_read_back(tmp_path: Path) -> None:
    from pyarrow import parquet

    found = [row(number, notes={"text": f"{number}" * 2**17}) for number in range(300, 500)]  # 75 MiB
    written = new_export(FakeReading(found), str(tmp_path), options=ExportOptions("parquet"))

    metadata = parquet.read_metadata(tmp_path / written.manifest.files[0].path)
    assert metadata.num_row_groups > 4
    assert list(read_export(str(tmp_path))) == found


def test_more_rows_than_listed_are_not_read(tmp_path: Path) -> None:
    written = new_export(
        FakeReading([row(1)]), str(tmp_path / "one"), options=ExportOptions("jsonl", "gzip", export_mode="changes")
    )
    name = written.manifest.files[0].path
    line = gzip.decompress((tmp_path / "one" / name).read_bytes())
    folder = forged(tmp_path / "one", tmp_path / "copy", name, gzip.compress(line * 10**5) * 1000)

    with pytest.raises(ExportError, match="must have 1 rows"):
        read_export(str(folder))


class Endless(io.RawIOBase):
    """A file in a store without an end."""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        assert size >= 0
        self.given = getattr(self, "given", 0) + size
        return b"x" * size


def test_copying_stops_a_byte_after_the_listed_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = new_export(FakeReading(rows(30)), str(tmp_path))
    endless = Endless()
    export = read_export(str(tmp_path))
    opened = export._folder._fs.open
    monkeypatch.setattr(
        export._folder._fs,
        "open",
        lambda path, *how, **more: endless if "invoices-" in path else opened(path, *how, **more),
    )

    with pytest.raises(ExportError, match="was modified"):
        list(export)
    assert endless.given == written.manifest.files[0].bytes + 1


@pytest.mark.parametrize(
    "column",
    [{"scale": 10**9}, {"scale": "2"}, {"scale": -1}, {"type": "blob"}, {"type": None}],
    ids=repr,
)
def test_a_manifest_with_a_column_that_no_export_has_is_refused(tmp_path: Path, column: dict[str, Any]) -> None:
    write_export(FakeReading(rows(30)), str(tmp_path), options=ExportOptions("parquet"))
    resealed(tmp_path, lambda manifest: manifest["columns"][2].update(column))

    with pytest.raises(ExportError, match="is invalid"):
        read_export(str(tmp_path))


@pytest.mark.parametrize(
    ("file_format", "compression", "library"), [("parquet", None, "pyarrow"), ("jsonl", "zstd", "zstandard")]
)
def test_a_library_that_is_not_installed_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file_format: str, compression: str | None, library: str
) -> None:
    write_export(FakeReading(rows(3)), str(tmp_path), options=ExportOptions(file_format, compression))
    for name in (library, f"{library}.parquet"):
        monkeypatch.setitem(sys.modules, name, None)

    with pytest.raises(ExportError, match=r"pip install 'airflow-provider-unpod\[(parquet|zstd)\]'"):
        read_export(str(tmp_path))


def test_a_manifest_of_any_size_is_refused_by_an_export_error_before_it_fills_the_memory(tmp_path: Path) -> None:
    with (tmp_path / MANIFEST_NAME).open("wb") as file:
        file.truncate(2 * 2**30)  # takes no space on the disk
    tracemalloc.start()
    try:
        with pytest.raises(ExportError, match=r"_manifest\.json must have at most 33,554,432 bytes"):
            read_export(str(tmp_path))
        assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    finally:
        tracemalloc.stop()


def test_a_manifest_that_could_not_be_read_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow_provider_unpod.export.publication.LARGEST_SMALL_FILE", 1_000)
    with pytest.raises(ExportError, match="Use fewer partitions"):
        write_export(FakeReading(rows(30)), str(tmp_path))
    assert names_in(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("compression", [None, "gzip", "zstd"])
def test_a_csv_export_that_is_read_in_part_leaves_no_file_open(tmp_path: Path, compression: str | None) -> None:
    write_export(FakeReading(rows(30)), str(tmp_path), options=ExportOptions("csv", compression))
    export = read_export(str(tmp_path))
    before = open_files()
    for _ in export:
        break
    gc.collect()
    assert open_files() == before


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 0
