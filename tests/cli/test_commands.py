"""The command line with a real server: standard output, standard error and exit statuses."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_unpod.cli.definition import COMMANDS
from airflow_provider_unpod.cli.main import main
from airflow_provider_unpod.export import read_export
from airflow_provider_unpod.operators.reconcile import UnpodReconcileOperator
from tests.billing.faulty_server import FaultyServer, Hang, Request, Step, list_of
from tests.export.support import row
from tests.loading.support import full

if TYPE_CHECKING:
    from airflow_provider_unpod.sandbox import Sandbox


pytestmark = pytest.mark.usefixtures("_logging_as_it_was")


@pytest.mark.unpod_sandbox(invoices=120)
def test_invoices_are_listed_as_valid_json(unpod_sandbox: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["invoices", "--status", "paid", "--output", "json"]) == 0

    out, err = capsys.readouterr()
    wanted = [one.id for one in unpod_sandbox.ledger.invoices() if one.status == "paid"]
    assert sorted(one["id"] for one in json.loads(out)) == sorted(wanted)
    assert f"{len(wanted)} of 120 invoices. The list is complete" in err


@pytest.mark.unpod_sandbox(invoices=5)
@pytest.mark.parametrize("form", ["table", "csv"])
def test_invoices_are_listed_as_a_table_and_as_csv(
    unpod_sandbox: Sandbox, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    assert main(["invoices", "--output", form]) == 0

    out = capsys.readouterr().out
    if form == "csv":
        assert [int(line["id"]) for line in csv.DictReader(io.StringIO(out))] == list(unpod_sandbox.ledger.ids())
    for invoice in unpod_sandbox.ledger.invoices():
        assert str(invoice.amount) in out


def test_organizations_are_listed(unpod_sandbox: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["organizations"]) == 0

    assert unpod_sandbox.org_handle in capsys.readouterr().out


def test_one_invoice_is_shown(unpod_sandbox: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["invoice", "101"]) == 0

    assert json.loads(capsys.readouterr().out)["id"] == 101


@pytest.mark.unpod_sandbox(invoices=30)
def test_an_export_is_written_verified_and_reported(
    unpod_sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "export")
    assert main(["export", path, "--compression", "gzip"]) == 0
    assert json.loads(capsys.readouterr().out)["count"] == 30

    assert main(["verify", path]) == 0
    assert read_export(path).manifest_sha256 in capsys.readouterr().out

    assert main(["report", path, "--file", str(tmp_path / "report.html")]) == 0
    assert "30 invoices" in (tmp_path / "report.html").read_text()


@pytest.mark.unpod_sandbox(invoices=30)
def test_an_export_has_its_report_among_its_files_like_one_of_the_operator(
    unpod_sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(tmp_path), "--report"]) == 0

    report = Path(json.loads(capsys.readouterr().out)["report"].removeprefix("file://"))
    assert report.parent == tmp_path
    assert "30 invoices" in report.read_text()
    assert main(["verify", str(tmp_path)]) == 0
    report.write_text("forged")
    assert main(["verify", str(tmp_path)]) == 1


def test_a_report_shows_what_changed_since_an_earlier_export_and_how_a_ledger_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full([row(1, amount="10.00")], tmp_path / "monday")
    full([row(1, amount="12.50"), row(4)], tmp_path / "tuesday")
    (tmp_path / "ledger.csv").write_text("id,amount,currency\n1,12.51,INR\n4,4.04,INR\n")
    UnpodReconcileOperator(
        task_id="compare",
        export_path=str(tmp_path / "tuesday"),
        ledger_path=str(tmp_path / "ledger.csv"),
        on_difference="warn",
        output_path=str(tmp_path / "differences"),
    ).execute({})
    compared = str(tmp_path / "differences" / "reconciliation.json")
    options = ["--since", str(tmp_path / "monday"), "--reconciliation", compared]

    assert main(["report", str(tmp_path / "tuesday"), *options]) == 0

    html = capsys.readouterr().out
    assert "Changes since the export before" in html
    assert "2.50" in html
    assert "Reconciliation with" in html
    assert main(["report", str(tmp_path / "monday"), "--reconciliation", compared]) == 2


def test_a_damaged_export_does_not_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    full([row(1)], tmp_path)
    data = next(tmp_path.glob("invoices-*"))
    data.write_bytes(data.read_bytes().replace(b"1.01", b"9.01"))

    assert main(["verify", str(tmp_path)]) == 1

    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")


def test_two_exports_that_differ_end_with_status_1_and_name_the_invoices(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full([row(1), row(2)], tmp_path / "monday")
    full([row(1, status="paid"), row(3)], tmp_path / "tuesday")
    paths = [str(tmp_path / day) for day in ("monday", "tuesday")]

    assert main(["diff", paths[0], paths[0]]) == 0
    capsys.readouterr()
    assert main(["diff", *paths, "--output", "json"]) == 1

    found = {one["id"]: one["outcomes"] for one in json.loads(capsys.readouterr().out)}
    assert found == {"1": "status", "2": "only_here", "3": "only_there"}


def test_a_permanent_error_is_one_line_and_exit_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["organizations", "--conn-id", "not_there"]) == 2

    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("command", ["invoices", "export"])
def test_one_failed_run_names_all_rows_that_cannot_be_read(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken: dict[int, dict[str, Any]] = {3: {"amount": "twelve"}, 40: {"currency": ""}, 350: {"status": None}}
    with list_of([{**row(number), **broken.get(number, {})} for number in range(1, 401)]) as server:
        connection = {"conn_type": "unpod", "host": server.url, "login": "acme", "password": "token"}
        monkeypatch.setenv("AIRFLOW_CONN_UNPOD_DEFAULT", json.dumps(connection))

        assert main([command, *([str(tmp_path)] if command == "export" else [])]) == 3

    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in lines[-3:]] == ["Invoice 3", "Invoice 40", "Invoice 350"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.unpod_sandbox(invoices=3)
@pytest.mark.parametrize("invalid", ["/data/%2e%2e/x", "/data/{{ ds }}", "/data/x?sig=geheim", "/data/acme-NaT"])
@pytest.mark.parametrize(
    "command", [["export"], ["verify"], ["report"], ["report", "{valid}", "--since"], ["diff", "{valid}"], ["diff"]]
)
def test_every_command_refuses_an_invalid_path_before_any_request(
    unpod_sandbox: Sandbox, command: list[str], invalid: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    valid = str(tmp_path / "export")
    full([row(1)], tmp_path / "export")
    arguments = [*(one.format(valid=valid) for one in command), invalid, *([valid] if command == ["diff"] else [])]

    assert main(arguments) == 2

    out, err = capsys.readouterr()
    assert out == ""
    assert "The path of an export must not contain" in err
    assert "geheim" not in err
    assert unpod_sandbox.stats["requests"] == 0


@pytest.mark.unpod_sandbox(faults=["503"])
def test_a_transient_error_is_exit_status_3(
    unpod_sandbox: Sandbox, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow_provider_unpod.billing.http.retry import RetryPolicy

    monkeypatch.setattr(RetryPolicy, "backoff", lambda self, attempt: 0.0)

    assert main(["organizations"]) == 3


@pytest.mark.unpod_sandbox(invoices=250)
def test_check_says_what_is_true_of_the_api_and_records_no_values(
    unpod_sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "--record", str(tmp_path / "record.json")]) == 0

    out = capsys.readouterr().out
    for said in ("rows under `results`, identified by `id`", "250", "by id", "at most 100 rows", "HTTP 404"):
        assert said in out
    record = (tmp_path / "record.json").read_text()
    assert unpod_sandbox.token not in record
    assert not any(f'"{one.amount}"' in record for one in unpod_sandbox.ledger.invoices())
    assert json.loads(record)["responses"][0]["body"]["results"][0]["amount"] == "text: decimal with 2 digits"


@pytest.mark.unpod_sandbox(dialect="data", invoices=40)
def test_check_names_the_other_dialect(unpod_sandbox: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check"]) == 0

    assert "rows under `data`" in capsys.readouterr().out


def test_a_connection_that_does_not_work_fails_the_check(
    unpod_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    connection = json.loads(unpod_sandbox.connection_json()) | {"password": "wrong-token"}
    monkeypatch.setenv("AIRFLOW_CONN_UNPOD_DEFAULT", json.dumps(connection))

    assert main(["check"]) == 1

    assert "wrong-token" not in capsys.readouterr().err


def test_every_command_has_help_for_every_option() -> None:
    for command in COMMANDS:
        for option in command.options:
            assert option.settings.get("help") or option.settings.get("choices"), (command.name, option.flags)


def command(*arguments: str, **settings: Any) -> subprocess.Popen[str]:
    """Run a command in a separate process."""
    return subprocess.Popen(
        [sys.executable, "-m", "airflow_provider_unpod", *arguments], stderr=subprocess.PIPE, text=True, **settings
    )


@pytest.mark.slow
def test_a_reader_that_ends_early_is_no_error(unpod_sandbox: Sandbox) -> None:
    """Closes the pipe before the command writes to it, like `head` but without a race."""
    read, write = os.pipe()
    os.close(read)
    with command("organizations", stdout=write) as process:
        os.close(write)
        assert process.communicate()[1] == ""
    assert process.returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("organizations",), ("organizations", "--output", "csv")])
def test_a_full_disk_is_one_line(unpod_sandbox: Sandbox, arguments: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full_disk, command(*arguments, stdout=full_disk) as process:
        _, err = process.communicate()
    assert err == "error: Cannot write to standard output: No space left on device.\n"
    assert process.returncode == 2


def test_a_file_that_cannot_be_written_is_one_line(
    unpod_sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full([row(1)], tmp_path / "export")
    for arguments in (["report", str(tmp_path / "export"), "--file"], ["check", "--record"]):
        assert main([*arguments, "/nowhere/file"]) == 2
        assert capsys.readouterr().err == "error: Cannot write /nowhere/file: No such file or directory.\n"


@pytest.mark.slow
def test_ctrl_c_ends_a_command_with_one_line_and_status_130(monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal arrives while the command waits for a response."""
    waiting = threading.Event()

    def never(request: Request) -> list[Step]:
        waiting.set()
        return [Hang]

    with FaultyServer(otherwise=never) as server:
        connection = {"conn_type": "unpod", "host": server.url, "login": "acme", "password": "token"}
        monkeypatch.setenv("AIRFLOW_CONN_UNPOD_DEFAULT", json.dumps(connection))
        with command("invoices") as process:
            assert waiting.wait(60)
            process.send_signal(signal.SIGINT)
            assert process.communicate()[1] == "error: interrupted\n"
    assert process.returncode == 130


def test_an_invoice_that_does_not_exist_and_a_folder_without_an_export_end_with_status_1(
    unpod_sandbox: Sandbox, tmp_path: Path
) -> None:
    assert main(["invoice", "999999"]) == 1
    for arguments in (["verify"], ["report"], ["diff", str(tmp_path)]):
        assert main([*arguments, str(tmp_path)]) == 1


@pytest.mark.slow
def test_airflows_help_imports_nothing_but_the_definition_of_the_commands() -> None:
    code = """
import sys, json
from airflow.cli.cli_config import ActionCommand
known = set(sys.modules)
from airflow_provider_unpod.cli.airflow import get_cli_commands
get_cli_commands()
print(json.dumps(sorted(set(sys.modules) - known)))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)

    assert set(json.loads(done.stdout.splitlines()[-1])) <= {
        "airflow_provider_unpod",  # an entry point may have imported it before
        "airflow_provider_unpod.cli",
        "airflow_provider_unpod.cli.airflow",
        "airflow_provider_unpod.cli.definition",
    }
