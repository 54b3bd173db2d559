"""The events of an export's outlets, on Airflow's own objects."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowSkipException, Asset, AssetAlias

from airflow_provider_unpod.export import read_export
from airflow_provider_unpod.operators.billing import UnpodBillingOperator
from airflow_provider_unpod.operators.reconcile import UnpodReconcileOperator

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_provider_unpod.sandbox import Sandbox

try:
    from airflow.sdk.execution_time.context import OutletEventAccessors
except ImportError:  # Airflow 2.11
    from airflow.utils.context import OutletEventAccessors

BILLING = Asset("unpod://unpod.tv/billing")
EXTRA = (
    "manifest",
    "export_id",
    "manifest_sha256",
    "file_count",
    "count",
    "totals",
    "consistency",
    "report",
    "storage_conn_id",
)


def run(operator: UnpodBillingOperator | UnpodReconcileOperator) -> tuple[Any, Any]:
    events = OutletEventAccessors()
    return operator.execute({"outlet_events": events}), events


@pytest.mark.unpod_sandbox(invoices=120)
def test_events_have_the_address_and_totals_of_the_export_but_no_invoices(
    unpod_sandbox: Sandbox, tmp_path: Path
) -> None:
    summary, events = run(
        UnpodBillingOperator(task_id="export", output_path=str(tmp_path), outlets=[BILLING, AssetAlias("any")])
    )

    extra = {name: summary[name] for name in EXTRA}
    assert events[BILLING].extra == extra
    assert not getattr(events[BILLING], "partition_keys", None)


@pytest.mark.unpod_sandbox(invoices=0)
def test_text_that_a_database_cannot_store_is_in_no_result_and_no_event_and_unchanged_in_files(
    unpod_sandbox: Sandbox, tmp_path: Path
) -> None:
    unpod_sandbox.create("1.00", "U\0D", extra={"note": "a\0b"})
    path = str(tmp_path)

    records, _ = run(UnpodBillingOperator(task_id="export"))
    summary, events = run(UnpodBillingOperator(task_id="export", output_path=path, outlets=[BILLING]))
    reconciled, of_reconciliation = run(
        UnpodReconcileOperator(task_id="compare", export_path=path, against_path=path, outlets=[BILLING])
    )

    for stored in (records, summary, events[BILLING].extra, reconciled, of_reconciliation[BILLING].extra):
        assert "U\\ufffdD" in json.dumps(stored)
        assert "\\u0000" not in json.dumps(stored)
    (exported,) = read_export(path)
    assert (exported["currency"], exported["note"]) == ("U\0D", "a\0b")


@dataclass
class Dataset:
    """A dataset like OpenLineage's, which is not an asset but accepted by Airflow as an outlet."""

    namespace: str
    name: str


@pytest.mark.unpod_sandbox(invoices=10)
def test_an_outlet_that_is_not_an_asset_does_not_fail_the_task(unpod_sandbox: Sandbox, tmp_path: Path) -> None:
    outlets = [Dataset("s3://bucket", "invoices"), BILLING]
    summary, events = run(UnpodBillingOperator(task_id="export", output_path=str(tmp_path), outlets=outlets))

    assert events[BILLING].extra["export_id"] == summary["export_id"]


class Supervisor:
    """Answers a worker's questions about assets as Airflow's supervisor does."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def send(self, msg: Any) -> Any:
        from airflow.sdk.exceptions import ErrorType
        from airflow.sdk.execution_time.comms import ErrorResponse

        return ErrorResponse(error=ErrorType(self._kind), detail={"name": msg.name})


@pytest.mark.skipif(not hasattr(Asset, "ref"), reason="Airflow 2.11 has no references to assets")
@pytest.mark.unpod_sandbox(invoices=10)
def test_a_reference_to_an_asset_that_airflow_does_not_know_does_not_fail_the_task(
    unpod_sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from airflow.sdk.execution_time import task_runner

    operator = UnpodBillingOperator(
        task_id="export", output_path=str(tmp_path), outlets=[Asset.ref(name="unknown"), BILLING]
    )
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", Supervisor("ASSET_NOT_FOUND"), raising=False)
    summary, events = run(operator)
    assert events[BILLING].extra["export_id"] == summary["export_id"]
    assert "unknown" in caplog.text

    # A transient error is left to a retry. Otherwise the event would lack data that downstream DAGs need.
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", Supervisor("API_SERVER_ERROR"), raising=False)
    with pytest.raises(Exception, match="API_SERVER_ERROR"):
        run(operator)


@pytest.mark.unpod_sandbox(invoices=120)
def test_an_export_by_month_sends_an_event_for_every_month_where_airflow_can(
    unpod_sandbox: Sandbox, tmp_path: Path
) -> None:
    _, events = run(
        UnpodBillingOperator(task_id="export", output_path=str(tmp_path), partition_by="month", outlets=[BILLING])
    )

    months = {invoice.row("results")["invoice_date"][:7] for invoice in unpod_sandbox.ledger.invoices()}
    if hasattr(events[BILLING], "add_partitions"):
        assert events[BILLING].partition_keys == months


@pytest.mark.unpod_sandbox(invoices=20)
def test_without_a_change_the_task_is_skipped_or_succeeds_without_an_event(
    unpod_sandbox: Sandbox, tmp_path: Path
) -> None:
    def operator(on_no_change: str) -> UnpodBillingOperator:
        arguments: dict[str, Any] = {
            "output_path": str(tmp_path),
            "export_mode": "changes",
            "on_no_change": on_no_change,
        }
        return UnpodBillingOperator(task_id="export", outlets=[BILLING], **arguments)

    summary, _ = run(operator("skip"))
    assert summary["count"] == 20
    with pytest.raises(AirflowSkipException):
        run(operator("skip"))
    quiet = operator("succeed")
    summary, events = run(quiet)
    assert (summary["count"], summary["manifest"], quiet.outlets, len(events)) == (0, None, [], 0)
    invoice = next(i for i in unpod_sandbox.ledger.invoices() if i.status == "pending")
    unpod_sandbox.pay(invoice.id)
    summary, _ = run(operator("skip"))
    assert summary["totals"][invoice.currency]["paid"]["count"] == summary["count"] == 1
