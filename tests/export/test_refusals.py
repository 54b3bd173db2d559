"""What ``read_export`` refuses: everything that is not byte by byte what was certified."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_unpod.export import ExportError, read_export, write_export
from airflow_provider_unpod.export.manifest import MANIFEST_NAME, Manifest
from airflow_provider_unpod.export.options import ExportOptions
from tests.export.support import FakeReading, names_in, row, rows


@pytest.fixture(scope="module", params=["jsonl", "csv", "parquet"])
def pristine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pristine")
    options = ExportOptions(request.param, "gzip", ("currency",), export_mode="changes")
    write_export(FakeReading(rows(30)), str(folder), options=options)
    return folder


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_byte_of_any_file_or_of_the_manifest(pristine: Path, tmp_path: Path, data: st.DataObject) -> None:
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


def test_a_byte_more_or_less_or_a_missing_file(pristine: Path, tmp_path: Path) -> None:
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
    """Change the manifest as somebody would who knows how it is sealed."""
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
    ],
)
def test_a_manifest_that_contradicts_itself_or_its_files(tmp_path: Path, change: Any) -> None:
    write_export(FakeReading(rows(30)), str(tmp_path))
    resealed(tmp_path, change)

    with pytest.raises(ExportError):
        read_export(str(tmp_path))


@pytest.mark.parametrize("damage", [b'"', b"\n", b"1,2\r\n", b'"' + b"x" * 200_000])
def test_a_file_that_is_not_csv_is_refused_whoever_certified_it(tmp_path: Path, damage: bytes) -> None:
    written = write_export(FakeReading(rows(30)), str(tmp_path), options=ExportOptions("csv"))
    file = written.manifest.files[0]
    content = (tmp_path / file.path).read_bytes() + damage
    (tmp_path / file.path).write_bytes(content)
    sealed = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    resealed(tmp_path, lambda manifest: manifest["files"][0].update(sealed))

    with pytest.raises(ExportError, match=f"{file.path} cannot be decoded"):
        read_export(str(tmp_path))


def forge_amounts(folder: Path) -> None:
    """Change amounts, then hash and seal again, as anybody can who may write the folder."""
    content = json.loads((folder / MANIFEST_NAME).read_bytes())
    path = folder / content["files"][0]["path"]
    forged = path.read_bytes().replace(b'"1.01"', b'"9.01"')
    path.write_bytes(forged)
    content["files"][0]["sha256"] = hashlib.sha256(forged).hexdigest()
    content["totals"]["INR"]["pending"]["amount"] = "9.01"
    (folder / MANIFEST_NAME).write_bytes(Manifest(content, (), (), None).to_bytes())


def test_a_forged_and_resealed_export_is_refused_by_its_manifest_sha256(tmp_path: Path) -> None:
    summary = write_export(FakeReading([row(1)]), str(tmp_path)).summary()
    asked_for = {"export_id": summary["export_id"], "manifest_sha256": summary["manifest_sha256"]}
    assert list(read_export(str(tmp_path), **asked_for)) == [row(1)]

    forge_amounts(tmp_path)
    assert list(read_export(str(tmp_path), export_id=summary["export_id"])) == [row(1, amount="9.01")]
    for sums in (asked_for, {"manifest_sha256": summary["manifest_sha256"]}):
        with pytest.raises(ExportError, match=rf"expected {summary['manifest_sha256']}.*forged"):
            read_export(str(tmp_path), **sums)


def test_manifest_sha256_is_that_of_the_manifest_file(tmp_path: Path) -> None:
    summary = write_export(FakeReading(rows(3)), str(tmp_path)).summary()

    of_file = hashlib.sha256((tmp_path / MANIFEST_NAME).read_bytes()).hexdigest()
    assert summary["manifest_sha256"] == of_file == read_export(str(tmp_path)).manifest_sha256


def test_totals_that_move_money_between_statuses(tmp_path: Path) -> None:
    write_export(FakeReading([row(1, status="paid"), row(1, status="failed")]), str(tmp_path))

    def swap(manifest: dict[str, Any]) -> None:
        cells = next(iter(manifest["totals"].values()))
        cells["paid"]["amount"] = "2.01"

    resealed(tmp_path, swap)
    with pytest.raises(ExportError, match="totals"):
        read_export(str(tmp_path))


def test_no_record_of_a_file_is_given_out_that_changed_after_the_check(tmp_path: Path) -> None:
    summary = write_export(FakeReading(rows(30)), str(tmp_path)).summary()
    export = read_export(str(tmp_path))
    path = Path(summary["files"][0].removeprefix("file://"))
    path.write_bytes(path.read_bytes().replace(b'"1.01"', b'"9.01"'))

    with pytest.raises(ExportError, match="not the file that was written"):
        next(iter(export))


def test_a_reader_of_an_export_that_is_replaced_meanwhile_is_told_so(tmp_path: Path) -> None:
    write_export(FakeReading(rows(30)), str(tmp_path))
    export = read_export(str(tmp_path))
    write_export(FakeReading(rows(31)), str(tmp_path))

    with pytest.raises(ExportError, match="superseded"):
        list(export)
