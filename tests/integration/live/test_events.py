"""Changes of invoices start DAGs on a real triggerer, even if it is killed meanwhile."""

from __future__ import annotations

from collections.abc import Callable

from airflow_provider_unpod.sandbox.ledger import LedgerInvoice
from tests.integration.conftest import LiveAirflow
from tools.local_airflow import COMPONENTS
from tools.servers import end_group


def reported(airflow: LiveAirflow, dag_id: str = "unpod_on_paid") -> list[dict[str, object]]:
    """Return the changes in all events that have started the DAG, in the order of its runs."""
    return [
        transition
        for run in airflow.runs(dag_id)
        if run["start_date"]  # Airflow's API answers 500 for the events of a run that is still queued
        for event in airflow.asset_events(dag_id, run["dag_run_id"])
        for transition in event["extra"]["payload"]["transitions"]
    ]


def about(invoices: list[int], airflow: LiveAirflow) -> dict[object, list[str]]:
    found: dict[object, list[str]] = {}
    for one in reported(airflow):
        if one["invoice_id"] in invoices:
            found.setdefault(one["invoice_id"], []).append(str(one["key"]))
    return found


def restart_the_triggerer(airflow: LiveAirflow, meanwhile: Callable[[], object]) -> None:
    """Kill the triggerer without a chance to clean up, as a power failure does."""
    triggerer = airflow._components["triggerer"]
    end_group(triggerer)
    meanwhile()
    airflow._components["triggerer"] = airflow._start("triggerer", COMPONENTS["triggerer"])


def test_a_payment_a_failure_and_a_refund_each_start_their_dag(live_airflow: LiveAirflow) -> None:
    sandbox = live_airflow.sandbox
    probe = sandbox.create().id  # the watchers run once they report this one
    sandbox_steps: list[LedgerInvoice] = []

    def watched() -> bool:
        if not sandbox_steps:
            live_airflow.wait_for(lambda: "unpod_on_paid" in live_airflow.dags(), "the example DAGs")
        sandbox_steps.append(sandbox.ledger.set_status(probe, ["paid", "pending"][len(sandbox_steps) % 2]))
        return any(one["invoice_id"] == probe for one in reported(live_airflow))

    live_airflow.wait_for(watched, "the watchers to run", 120, interval=6)
    paid, failed, refunded = sandbox.create("12.00"), sandbox.create("13.00"), sandbox.create("14.00", status="paid")
    live_airflow.wait_for(lambda: refunded.id in about([refunded.id], live_airflow), "the new ones to be seen")

    sandbox.pay(paid.id)
    sandbox.fail(failed.id)
    sandbox.refund(refunded.id)

    for dag_id, task_id, invoice, text in (
        ("unpod_on_paid", "book", paid, f"Booked {paid.id}: 12.00 USD under {paid.id}:pending:paid:1"),
        ("unpod_on_failed", "alert", failed, f"Charge failed: {failed.id}: 13.00 USD"),
        ("unpod_on_refunded", "reverse", refunded, f"Reversed {refunded.id}: 14.00 USD, which was paid"),
    ):
        live_airflow.wait_for(
            lambda dag_id=dag_id, one=invoice: any(c["invoice_id"] == one.id for c in reported(live_airflow, dag_id)),
            f"{dag_id} to be started",
            150,
        )
        run = live_airflow.runs(dag_id)[-1]["dag_run_id"]
        live_airflow.finished(dag_id, run)
        assert text in live_airflow.result(dag_id, run, task_id)


def test_a_payment_while_no_triggerer_runs_is_reported_once_one_runs(live_airflow: LiveAirflow) -> None:
    sandbox = live_airflow.sandbox
    before, after = sandbox.create(), sandbox.create()
    created = sandbox.create(status="paid")  # reported as new, so the two others have been seen, too
    live_airflow.wait_for(lambda: about([created.id], live_airflow), "the new invoices to be seen", 120)

    restart_the_triggerer(live_airflow, meanwhile=lambda: sandbox.pay(before.id))
    live_airflow.wait_for(lambda: about([before.id], live_airflow), "the payment of the meantime", 120)
    sandbox.pay(after.id)
    live_airflow.wait_for(lambda: about([after.id], live_airflow), "a later payment")

    found = about([before.id, after.id, created.id], live_airflow)
    assert {invoice: set(keys) for invoice, keys in found.items()} == {
        before.id: {f"{before.id}:pending:paid:1"},
        after.id: {f"{after.id}:pending:paid:1"},
        created.id: {f"{created.id}:new:paid:0"},
    }
