"""Waiting on a real scheduler and triggerer."""

from __future__ import annotations

from tests.integration.conftest import LiveAirflow


def states(airflow: LiveAirflow, dag_id: str, run_id: str) -> dict[tuple[str, int], str]:
    return {(task["task_id"], task["map_index"]): task["state"] for task in airflow.tasks(dag_id, run_id)}


def test_every_mode_returns_the_record_of_an_invoice_paid_during_the_wait(live_airflow: LiveAirflow) -> None:
    invoice = live_airflow.sandbox.create("17.50", "EUR").id
    run_id = live_airflow.trigger("wait_in_every_mode", conf={"invoice": invoice})
    waiting = {"poke": "running", "reschedule": "up_for_reschedule", "deferrable": "deferred"}
    live_airflow.wait_for(
        lambda: all(
            state in (waiting[task], "running") and state != "queued"
            for (task, _), state in states(live_airflow, "wait_in_every_mode", run_id).items()
        ),
        "all three to wait",
    )

    live_airflow.sandbox.pay(invoice)
    live_airflow.finished("wait_in_every_mode", run_id)

    for task in waiting:
        record = live_airflow.result("wait_in_every_mode", run_id, task)
        assert (record["id"], record["amount"], record["status"]) == (invoice, "17.50", "paid")


def test_many_deferred_waits_share_one_poll(live_airflow: LiveAirflow) -> None:
    sandbox = live_airflow.sandbox
    invoices = [sandbox.create().id for _ in range(10)]
    run_id = live_airflow.trigger("wait_for_many", conf={"invoices": invoices})
    live_airflow.wait_for(
        lambda: (
            sum(state == "deferred" for (task, _), state in states(live_airflow, "wait_for_many", run_id).items())
            == len(invoices)
        ),
        "all to be deferred",
        180,
    )

    log = live_airflow.log_file("triggerer").read_text(errors="replace")
    assert sandbox.token not in log
    for invoice in invoices:
        sandbox.pay(invoice)
    live_airflow.finished("wait_for_many", run_id, 180)

    found = {live_airflow.result("wait_for_many", run_id, "wait", index)["id"] for index in range(len(invoices))}
    assert found == set(invoices)


def test_a_wait_that_times_out_fails_or_skips_and_is_not_retried(live_airflow: LiveAirflow) -> None:
    run_id = live_airflow.trigger("wait_in_vain", conf={"invoice": live_airflow.sandbox.create().id})
    live_airflow.wait_for(
        lambda: set(states(live_airflow, "wait_in_vain", run_id).values()) <= {"failed", "skipped"}, "time to be up"
    )

    assert states(live_airflow, "wait_in_vain", run_id) == {("fails", -1): "failed", ("skips", -1): "skipped"}
    assert {task["try_number"] for task in live_airflow.tasks("wait_in_vain", run_id)} == {1}
