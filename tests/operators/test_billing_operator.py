"""The operator against a real server, in both of its modes."""

from __future__ import annotations

import json
import logging
from decimal import Decimal
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowFailException

from airflow_provider_unpod.billing.client import UnpodClient
from airflow_provider_unpod.billing.errors import UnpodBadRows, UnpodConfigError
from airflow_provider_unpod.export import read_export, write_export
from airflow_provider_unpod.operators.billing import UnpodBillingOperator
from tests.billing.faulty_server import list_of, row
from tests.export.support import FakeReading, rows

try:
    from airflow.sdk.lineage import HookLineageCollector
except ImportError:  # Airflow 2.11
    from airflow.lineage.hook import HookLineageCollector  # type: ignore[no-redef]  # the same class

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_provider_unpod.sandbox import Sandbox


def run(**arguments: Any) -> Any:
    return UnpodBillingOperator(task_id="export", **arguments).execute({})


@pytest.fixture
def task_log(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """The task's log, which Airflow's logger does not send to pytest."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(UnpodBillingOperator, "log", logging.getLogger("task"))
    return caplog


@pytest.mark.unpod_sandbox(invoices=250)
def test_without_an_output_path_it_returns_every_invoice_as_a_json_record(unpod_sandbox: Sandbox) -> None:
    records = run()

    assert len(records) == 250
    assert {record["id"] for record in records} == set(unpod_sandbox.ledger.ids())
    assert json.loads(json.dumps(records)) == records
    assert all(isinstance(record["amount"], str) for record in records)


@pytest.mark.unpod_sandbox(invoices=5000)
def test_too_many_invoices_for_xcom_fail_early_with_the_remedy(unpod_sandbox: Sandbox) -> None:
    with pytest.raises(AirflowFailException, match="output_path"):
        run(max_xcom_bytes=4096, max_concurrency=1)

    assert unpod_sandbox.stats["requests"] < 10


@pytest.mark.unpod_sandbox(invoices=250)
def test_with_an_output_path_it_returns_the_address_and_the_totals_of_the_export(
    unpod_sandbox: Sandbox, tmp_path: Path
) -> None:
    summary = run(output_path=str(tmp_path))

    export = read_export(summary["manifest"])
    records = list(export)
    assert summary["count"] == len(records) == 250
    assert summary["consistency"] == "linked"
    assert summary["export_id"] == export.export_id
    assert summary["totals"] == export.totals
    for currency, statuses in summary["totals"].items():
        for status, total in statuses.items():
            amounts = [Decimal(r["amount"]) for r in records if (r["currency"], r["status"]) == (currency, status)]
            assert (total["count"], Decimal(total["amount"])) == (len(amounts), sum(amounts))
    assert export.manifest["organization"] == unpod_sandbox.org_handle
    assert unpod_sandbox.token not in "".join(path.read_text() for path in tmp_path.rglob("*"))


@pytest.mark.unpod_sandbox(invoices=250)
def test_with_report_the_export_has_an_html_report(unpod_sandbox: Sandbox, tmp_path: Path) -> None:
    summary = run(output_path=str(tmp_path), report=True)

    (report,) = tmp_path.glob("*.html")
    assert summary["report"] == f"file://{report}"
    text = report.read_text()
    assert f"Invoices of {unpod_sandbox.org_handle}" in text
    assert "250 invoices, read from" in text
    assert unpod_sandbox.token not in text
    assert run(output_path=str(tmp_path))["report"] is None


@pytest.mark.unpod_sandbox(invoices=250)
def test_xcom_and_files_have_the_same_invoices(unpod_sandbox: Sandbox, tmp_path: Path) -> None:
    summary = run(output_path=str(tmp_path), statuses=["paid", "failed"])

    assert list(read_export(summary["manifest"])) == run(statuses=["paid", "failed"])


@pytest.mark.unpod_sandbox(invoices=250)
def test_the_log_has_the_numbers_of_selected_and_of_all_invoices_which_reveals_a_misspelled_status(
    unpod_sandbox: Sandbox, tmp_path: Path, task_log: pytest.LogCaptureFixture
) -> None:
    run(statuses="payed")
    run(statuses="payed", output_path=str(tmp_path))

    assert "Read 0 of 250 invoices, " in task_log.text
    assert "Exported 0 of 250 invoices, " in task_log.text


@pytest.mark.unpod_sandbox(invoices=250)
def test_the_log_reports_amounts_cost_and_completeness_of_an_export(
    unpod_sandbox: Sandbox, tmp_path: Path, task_log: pytest.LogCaptureFixture
) -> None:
    sums: dict[str, Decimal] = {}
    for record in run():
        sums[record["currency"]] = sums.get(record["currency"], Decimal(0)) + Decimal(record["amount"])
    unpod_sandbox.reset_stats()
    summary = run(output_path=str(tmp_path))
    amounts = ", ".join(f"{currency} {sums[currency]}" for currency in sorted(sums))
    requests = unpod_sandbox.stats["requests"]

    proved = f"250 of 250 invoices ({amounts}), proved complete by linked windows, with {requests} requests in "
    assert f"Read {proved}" in task_log.text
    assert f"Exported {proved}" in task_log.text
    assert task_log.messages[-1].endswith(f" s: {summary['manifest']}")
    run(consistency="single-pass")
    assert "read in a single pass, which proves less than `linked`" in task_log.messages[-1]


@pytest.mark.parametrize("files", [True, False])
def test_one_failed_run_names_all_rows_that_cannot_be_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: bool
) -> None:
    broken: dict[int, dict[str, Any]] = {3: {"amount": "twelve"}, 40: {"currency": ""}, 350: {"status": None}}
    with list_of([row(number, **broken.get(number, {})) for number in range(1, 401)]) as server:
        connection = {"conn_type": "unpod", "host": server.url, "login": "acme", "password": "token"}
        monkeypatch.setenv("AIRFLOW_CONN_UNPOD_DEFAULT", json.dumps(connection))

        with pytest.raises(UnpodBadRows, match=r"^3 billing rows .*\nInvoice 3: .*\nInvoice 40: .*\nInvoice 350: "):
            run(**({"output_path": str(tmp_path)} if files else {}))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.unpod_sandbox(invoices=10)
def test_lineage_that_cannot_be_reported_does_not_fail_a_task_whose_export_is_certified(
    unpod_sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task_log: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("airflow.providers.common.compat.lineage.hook.get_hook_lineage_collector", HookLineageCollector)
    # Airflow takes no asset with a name of more than 1,500 characters.
    summary = run(output_path=f"{tmp_path}{('/' + 'x' * 200) * 8}")

    assert read_export(summary["manifest"]).count == 10
    assert "The lineage of this task is not reported." in task_log.text


@pytest.mark.unpod_sandbox(invoices=10)
@pytest.mark.parametrize("files", [True, False])
def test_the_operator_closes_its_connections_even_if_it_fails(
    unpod_sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: bool
) -> None:
    closed: list[UnpodClient] = []
    monkeypatch.setattr(UnpodClient, "close", lambda client: closed.append(client))
    arguments = {"output_path": str(tmp_path)} if files else {}
    run(**arguments)
    assert len(closed) == 1
    with pytest.raises(AirflowFailException):
        run(**arguments, org_handle="nobody")
    assert len(closed) == 2


@pytest.mark.unpod_sandbox(invoices=10)
def test_a_task_that_succeeds_without_a_change_says_so_in_its_log(
    unpod_sandbox: Sandbox, tmp_path: Path, task_log: pytest.LogCaptureFixture
) -> None:
    for said in (0, 1):
        run(output_path=str(tmp_path), export_mode="changes", on_no_change="succeed")
        assert task_log.text.count("No invoice has changed since the last export") == said


@pytest.mark.unpod_sandbox(invoices=50)
def test_changes_of_one_status_say_that_an_invoice_has_left_it(unpod_sandbox: Sandbox, tmp_path: Path) -> None:
    def changes() -> list[tuple[int, str | None, str]]:
        arguments: dict[str, Any] = {"export_mode": "changes", "ignore_fields": "note", "on_no_change": "succeed"}
        manifest = run(output_path=str(tmp_path), statuses="pending", **arguments)["manifest"]
        return [(r["id"], r["old_status"], r["new_status"]) for r in read_export(manifest)] if manifest else []

    pending = [invoice.id for invoice in unpod_sandbox.ledger.invoices() if invoice.status == "pending"]
    assert changes() == [(invoice_id, None, "pending") for invoice_id in pending]
    unpod_sandbox.pay(pending[0])
    assert changes() == [(pending[0], "pending", "paid")]
    assert changes() == []


@pytest.mark.unpod_sandbox(invoices=100)
@pytest.mark.parametrize("statuses", ["paid, pending", "['paid', 'pending']", ("paid", "pending")])
def test_statuses_are_accepted_in_every_form_that_a_template_renders(unpod_sandbox: Sandbox, statuses: Any) -> None:
    wanted = [invoice.status for invoice in unpod_sandbox.ledger.invoices() if invoice.status in ("paid", "pending")]

    assert sorted(record["status"] for record in run(statuses=statuses)) == sorted(wanted)


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ({"file_format": "xlsx", "output_path": "/x"}, "`file_format` must be .* got 'xlsx'"),
        ({"compression": "lz4", "output_path": "/x"}, "`compression` must be .* got 'lz4'"),
        ({"partition_by": "customer", "output_path": "/x"}, "`partition_by` must be .* got 'customer'"),
        ({"partition_by": ["month", "month"], "output_path": "/x"}, "each key once"),
        ({"business_timezone": "Mars/Olympus", "output_path": "/x"}, "business_timezone"),
        *[({"max_xcom_bytes": one}, "max_xcom_bytes") for one in (0, -1, "10", None, True, 1e6)],
        *[({"page_size": one}, "`page_size`.*100000") for one in (0, 100_001, "10", True, 1.5)],
        *[({"max_concurrency": one}, "`max_concurrency`.*64") for one in (0, 65, "4", [4])],
        *[({"statuses": one}, "`statuses`") for one in ("", [], "None", ["paid", None], "['paid'", 3, {"paid": 1})],
        ({"invoice_date_from": "yesterday"}, "`invoice_date_from`"),
        ({"invoice_date_from": "2026-02-01", "invoice_date_to": "2026-02-01"}, "before"),
        *[({"org_handle": one}, "`org_handle`") for one in ("", "  ", 7.5, "None")],
        *[({"unpod_conn_id": one}, "`unpod_conn_id`") for one in ("", None)],
        *[({"output_path": one}, "`output_path` must") for one in ("data/exports", "~/x", "None", "s3:///x", "/a::b")],
        ({"output_path": "/data/x", "storage_conn_id": ""}, "`storage_conn_id`"),
        ({"consistency": "repeated"}, "consistency"),
        ({"report": "false", "output_path": "/x"}, "`report` must be True or False, got 'false'"),
        ({"report": True}, "Set `output_path`, or remove report"),
        ({"partition_by": "month"}, "output_path"),
        ({"compression": "gzip"}, "output_path"),
        ({"file_format": "csv"}, "output_path"),
        ({"ignore_fields": "note", "output_path": "/x"}, "export_mode='changes'"),
        ({"export_mode": "changes", "ignore_fields": ["amount"], "output_path": "/x"}, "must not contain 'amount'"),
        ({"storage_conn_id": "my_s3"}, "output_path"),
    ],
)
def test_invalid_arguments_are_refused_when_the_dag_is_parsed(arguments: dict[str, Any], hint: str) -> None:
    with pytest.raises(UnpodConfigError, match=hint):
        UnpodBillingOperator(task_id="export", **arguments)


@pytest.mark.unpod_sandbox(invoices=10)
@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ({"output_path": "None"}, "`output_path` must"),
        ({"output_path": " "}, "`output_path` must"),
        ({"output_path": "exports/2026-02"}, "`output_path` must"),
        ({"output_path": "/tmp/invoices/None"}, "`None`.* Did a template render to nothing"),
        ({"output_path": "/tmp/invoices//x"}, "Did a template render to nothing"),
        ({"output_path": "/tmp/invoices/../x"}, "path_segment"),
        ({"output_path": "/tmp/invoices", "storage_conn_id": "missing"}, "'missing'"),
        ({"output_path": "file://missing@/tmp/invoices"}, "'missing'"),
        ({"org_handle": ""}, "org_handle"),
        ({"org_handle": "None"}, "org_handle"),
        ({"statuses": "['paid'"}, "statuses"),
        ({"statuses": "None"}, "statuses"),
        # What Jinja makes of other values: each of these would be a status that no invoice has.
        ({"statuses": "<generator object sync_do_map at 0x7f0000000000>"}, "statuses"),
        ({"statuses": "dict_keys(['paid'])"}, "statuses"),
        ({"statuses": "set()"}, "statuses"),
        ({"statuses": "LazySelectSequence([2 items])"}, "statuses"),
        ({"statuses": '"paid"'}, "statuses"),
        ({"statuses": ["['paid', 'pending']"]}, "statuses"),
        ({"invoice_date_from": ""}, "invoice_date_from"),
        ({"invoice_date_from": "2026-02-01", "invoice_date_to": "2026-01-01"}, "before"),
        # None, of a native template or of another task, is not the default either.
        *[
            ({name: None}, f"`{name}` rendered to None")
            for name in UnpodBillingOperator.template_fields
            if name != "storage_conn_id"
        ],
        ({"output_path": "/tmp/invoices", "storage_conn_id": None}, "`storage_conn_id` rendered to None"),
    ],
)
def test_a_template_that_rendered_to_an_invalid_value_fails_before_the_first_request(
    unpod_sandbox: Sandbox, arguments: dict[str, Any], hint: str
) -> None:
    templates: dict[str, Any] = dict.fromkeys(arguments, "{{ it }}")
    operator = UnpodBillingOperator(task_id="export", **templates)
    for name, rendered in arguments.items():
        setattr(operator, name, rendered)
    with pytest.raises(AirflowFailException, match=hint):
        operator.execute({})

    assert unpod_sandbox.stats["requests"] == 0


def test_default_args_for_the_sensors_of_a_dag_do_not_reach_the_operator() -> None:
    for_sensors = {"mode": "reschedule", "poke_interval": 60, "timeout": 3600, "soft_fail": True, "deferrable": False}
    with DAG("d", schedule=None, default_args=for_sensors):
        operator = UnpodBillingOperator(task_id="export", output_path="/data/invoices")

    assert operator.export_mode == "full"


@pytest.mark.unpod_sandbox(invoices=10)
def test_a_path_that_holds_another_organizations_export_fails_the_task_without_retries(
    unpod_sandbox: Sandbox, tmp_path: Path
) -> None:
    write_export(FakeReading(rows(3)), str(tmp_path), about={"organization": "other"})

    with pytest.raises(AirflowFailException, match=r"'other', not of 'unpod\.tv'"):
        run(output_path=str(tmp_path))
    assert unpod_sandbox.stats["requests"] == 0


@pytest.mark.unpod_sandbox(invoices=100)
def test_mapped_tasks_with_one_path_do_not_replace_each_others_export(unpod_sandbox: Sandbox, tmp_path: Path) -> None:
    def mapped(map_index: int, status: str) -> Any:
        ti: Any = SimpleNamespace(dag_id="close", task_id="export", run_id="r", map_index=map_index, try_number=1)
        return UnpodBillingOperator(task_id="export", output_path=str(tmp_path), statuses=status).execute({"ti": ti})

    summary = mapped(0, "paid")
    with pytest.raises(AirflowFailException, match=r"^Put .*map_index.* into `output_path`"):
        mapped(1, "failed")
    assert read_export(str(tmp_path)).export_id == summary["export_id"]
    assert mapped(0, "paid")["export_id"] != summary["export_id"]


@pytest.mark.unpod_sandbox(invoices=10)
@pytest.mark.parametrize(
    ("template", "value", "refused"),
    [
        ("{}/{{{{ params.it }}}}", "", True),
        ("{}/a/{{{{ params.it }}}}/{{{{ params.it }}}}", "", True),
        ("{}/{{{{ params.it }}}}/", "", True),
        ("{}/{{{{ params.it }}}}", "folder/", False),
        ("{}/{{{{ params.it }}}}/", "folder", False),
        ("{}{{{{ params.it }}}}", "/", False),
    ],
)
def test_a_last_folder_that_renders_to_an_empty_name_is_refused(
    unpod_sandbox: Sandbox, tmp_path: Path, template: str, value: str, refused: bool
) -> None:
    with DAG("d", schedule=None) as dag:
        operator = UnpodBillingOperator(task_id="export", output_path=template.format(tmp_path))
    operator.render_template_fields({"params": {"it": value}}, dag.get_template_env())

    if refused:
        with pytest.raises(AirflowFailException, match=r"empty folder name|folder without a name"):
            operator.execute({})
        assert unpod_sandbox.stats["requests"] == 0
    else:
        summary = operator.execute({})
        assert isinstance(summary, dict)
        assert summary["count"] == 10


@pytest.mark.unpod_sandbox(invoices=10)
@pytest.mark.parametrize("name", ["org_handle", "statuses", "invoice_date_from", "output_path"])
def test_a_native_template_that_renders_to_none_does_not_select_the_default(
    unpod_sandbox: Sandbox, tmp_path: Path, name: str
) -> None:
    arguments: dict[str, Any] = {"output_path": str(tmp_path), name: "{{ params.nothing }}"}
    with DAG("d", schedule=None, render_template_as_native_obj=True) as dag:
        operator = UnpodBillingOperator(task_id="export", **arguments)
    operator.render_template_fields({"params": {"nothing": None}}, dag.get_template_env())

    with pytest.raises(AirflowFailException, match=f"`{name}` rendered to None"):
        operator.execute({})
    assert unpod_sandbox.stats["requests"] == 0


@pytest.mark.unpod_sandbox(invoices=10, orgs=("12345",))
def test_a_native_template_that_makes_a_number_of_the_handle_exports_that_organization(
    unpod_sandbox: Sandbox, tmp_path: Path
) -> None:
    with DAG("d", schedule=None, render_template_as_native_obj=True) as dag:
        operator = UnpodBillingOperator(
            task_id="export", output_path=f"{tmp_path}/{{{{ params.it }}}}", org_handle="{{ params.it }}"
        )
    operator.render_template_fields({"params": {"it": "12345"}}, dag.get_template_env())
    assert operator.org_handle == 12345  # type: ignore[comparison-overlap]  # this is what Jinja makes of it

    operator.execute({})
    assert read_export(tmp_path / "12345").manifest["organization"] == "12345"


@pytest.mark.unpod_sandbox(invoices=10)
def test_partition_keys_may_be_any_iterable(unpod_sandbox: Sandbox, tmp_path: Path) -> None:
    for keys in (["currency", "status"], map(str.lower, ["CURRENCY", "STATUS"])):
        assert "/currency=" in run(output_path=str(tmp_path), partition_by=keys)["files"][0]
