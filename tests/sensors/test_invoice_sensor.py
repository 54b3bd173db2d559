"""A wait ends the same way in every mode, against a real HTTP server."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import ssl
import traceback
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import trustme
from airflow.providers.common.compat.sdk import (
    DAG,
    AirflowException,
    AirflowFailException,
    AirflowNotFoundException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    BaseSensorOperator,
    TaskDeferred,
)

from airflow_provider_unpod.billing.client import UnpodClient
from airflow_provider_unpod.billing.errors import UnpodBadAnswer, UnpodConfigError, UnpodUnreachable
from airflow_provider_unpod.billing.watching.condition import Condition
from airflow_provider_unpod.sandbox import Sandbox
from airflow_provider_unpod.sensors.invoice import UnpodInvoiceSensor
from airflow_provider_unpod.triggers.invoice import UnpodInvoiceTrigger
from tests.billing.faulty_server import TOKEN, FaultyServer, answer, list_of, page, row
from tests.sensors.modes import BASE, MODES, TaskInstance, TooManyPolls, Waiter, context, impatient_client


@pytest.fixture(params=MODES)
def wait(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Waiter]:
    with impatient_client(monkeypatch):
        yield Waiter(request.param, monkeypatch)


@pytest.fixture
def invoice(unpod_sandbox: Sandbox) -> int:
    """A pending invoice."""
    return unpod_sandbox.create("299.00").id


def nothing() -> None:
    """A step without changes."""


def logged(sensor: UnpodInvoiceSensor, level: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines that a sensor logs from now on."""
    lines: list[str] = []
    monkeypatch.setattr(sensor.log, level, lambda text, *values: lines.append(text % values))
    return lines


def test_an_invoice_that_is_paid_already_is_returned_after_one_poll(
    wait: Waiter, unpod_sandbox: Sandbox, invoice: int
) -> None:
    unpod_sandbox.pay(invoice)

    record = wait(invoice_id=invoice)

    assert (record["id"], record["amount"], record["status"]) == (invoice, "299.00", "paid")
    assert wait.pauses == 0
    assert wait.deferred is None


@pytest.mark.parametrize("spelling", [int, str, " {} ".format])
def test_an_invoice_paid_later_ends_the_wait_however_its_id_is_written(
    wait: Waiter, unpod_sandbox: Sandbox, invoice: int, spelling: Any
) -> None:
    record = wait(nothing, nothing, lambda: unpod_sandbox.pay(invoice), invoice_id=spelling(invoice))

    assert (record["id"], record["status"]) == (invoice, "paid")


@pytest.mark.unpod_sandbox(dialect="data")
def test_an_invoice_is_found_by_its_number_where_the_api_has_no_ids(wait: Waiter, unpod_sandbox: Sandbox) -> None:
    invoice = unpod_sandbox.create()

    record = wait(nothing, lambda: unpod_sandbox.pay(invoice.id), invoice_id=invoice.number)

    assert (record["invoice_number"], record["status"]) == (invoice.number, "paid")


def test_an_invoice_is_found_by_its_number_where_rows_have_both(wait: Waiter, unpod_sandbox: Sandbox) -> None:
    invoice = unpod_sandbox.create(extra={"invoice_number": "R-2026/17"})

    record = wait(nothing, nothing, lambda: unpod_sandbox.pay(invoice.id), invoice_id="R-2026/17")

    assert (record["id"], record["status"]) == (invoice.id, "paid")


def test_a_failed_invoice_fails_the_wait_unless_failed_is_not_a_failure_status(
    wait: Waiter, unpod_sandbox: Sandbox, invoice: int
) -> None:
    described = rf"invoice {invoice}: 299.00 USD, 'failed' \(a failure status\), dated .*; seen .* polls?"
    with pytest.raises(AirflowFailException, match=f"^Waiting for 'paid' has failed: {described}"):
        wait(nothing, lambda: unpod_sandbox.fail(invoice), invoice_id=invoice)

    story = (nothing, lambda: unpod_sandbox.pay(invoice))
    assert wait(*story, invoice_id=invoice, failure_statuses=["cancelled"])["status"] == "paid"


@pytest.mark.parametrize(("target", "other"), [("failed", "refunded"), ("cancelled", "failed"), ("Refunded", "failed")])
def test_a_default_failure_status_can_be_the_target(
    wait: Waiter, unpod_sandbox: Sandbox, invoice: int, target: str, other: str
) -> None:
    target_reached, failed = invoice, unpod_sandbox.create().id

    def end() -> None:
        unpod_sandbox.ledger.set_status(target_reached, target.lower())
        unpod_sandbox.ledger.set_status(failed, other)

    assert wait(nothing, end, invoice_id=target_reached, target_status=target)["status"] == target.lower()
    with pytest.raises(AirflowFailException, match=f"'{other}'"):
        wait(nothing, invoice_id=failed, target_status=target)


def test_a_default_failure_status_can_be_the_target_of_a_template(unpod_sandbox: Sandbox) -> None:
    invoice = unpod_sandbox.create(status="refunded").id
    sensor = UnpodInvoiceSensor(task_id="wait", invoice_id=invoice, target_status="{{ params.status }}")
    sensor.render_template_fields({"params": {"status": "refunded"}})

    assert sensor.execute({})["status"] == "refunded"


@pytest.mark.parametrize("status", ["cancelled", "refunded"])
def test_cancelled_and_refunded_invoices_fail_the_wait(
    wait: Waiter, unpod_sandbox: Sandbox, invoice: int, status: str
) -> None:
    with pytest.raises(AirflowFailException, match=f"'{status}'"):
        wait(nothing, lambda: unpod_sandbox.ledger.set_status(invoice, status), invoice_id=invoice)


def test_a_refund_of_a_paid_invoice_can_be_waited_for(wait: Waiter, unpod_sandbox: Sandbox, invoice: int) -> None:
    unpod_sandbox.pay(invoice)

    record = wait(
        *[nothing] * 3,
        lambda: unpod_sandbox.refund(invoice),
        invoice_id=invoice,
        target_status="refunded",
        failure_statuses=["cancelled"],
    )

    assert record["status"] == "refunded"


def test_the_timeout_with_a_misspelled_target_names_target_and_status(
    wait: Waiter, unpod_sandbox: Sandbox, invoice: int
) -> None:
    unpod_sandbox.pay(invoice)

    with pytest.raises(AirflowSensorTimeout, match=rf"Waiting for 'payed': invoice {invoice}: 299.00 USD, 'paid'"):
        wait(invoice_id=invoice, target_status="payed", timeout=0)


@pytest.mark.parametrize(("target", "warnings"), [("payed", 1), ("paid", 0)])
def test_an_unknown_target_is_one_warning_that_lists_the_known_statuses(
    unpod_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, target: str, warnings: int
) -> None:
    invoice = unpod_sandbox.create(status=target).id
    sensor = UnpodInvoiceSensor(task_id="wait", invoice_id=invoice, target_status=target)
    said = logged(sensor, "warning", monkeypatch)
    sensor.execute({})

    about_it = [line for line in said if "status" in line]
    assert len(about_it) == warnings
    assert all("'payed'" in line and "cancelled, failed, paid, pending, refunded" in line for line in about_it)


def test_an_unknown_status_neither_ends_the_wait_nor_is_refused_as_target(
    wait: Waiter, unpod_sandbox: Sandbox, invoice: int
) -> None:
    def dispute() -> None:
        unpod_sandbox.ledger.set_status(invoice, "disputed")

    assert wait(dispute, nothing, lambda: unpod_sandbox.pay(invoice), invoice_id=invoice)["status"] == "paid"
    assert wait(nothing, dispute, invoice_id=invoice, target_status="disputed")["status"] == "disputed"


def test_an_invoice_that_does_not_exist_yet_is_waited_for(wait: Waiter, unpod_sandbox: Sandbox, invoice: int) -> None:
    record = wait(
        nothing, lambda: unpod_sandbox.create(status="pending"), lambda: unpod_sandbox.pay(invoice + 1),
        invoice_id=invoice + 1,
    )  # fmt: skip

    assert (record["id"], record["status"]) == (invoice + 1, "paid")


def test_on_missing_fail_fails_the_wait_for_an_invoice_that_does_not_exist(
    wait: Waiter, unpod_sandbox: Sandbox
) -> None:
    with pytest.raises(AirflowFailException, match="nvoice 99999 is not in the list"):
        wait(invoice_id=99999, on_missing="fail")
    assert wait.pauses == 0


def test_an_invoice_deleted_meanwhile_fails_the_wait_only_with_on_missing_fail(
    wait: Waiter, unpod_sandbox: Sandbox, invoice: int
) -> None:
    def delete() -> None:
        unpod_sandbox.delete(invoice)

    with pytest.raises(AirflowFailException, match="is not in the list"):
        wait(nothing, nothing, delete, invoice_id=invoice, on_missing="fail")

    invoice = unpod_sandbox.create().id
    with pytest.raises(TooManyPolls):
        wait(nothing, delete, nothing, nothing, invoice_id=invoice)


def test_a_wait_for_all_returns_the_records_in_the_order_of_the_ids(wait: Waiter, unpod_sandbox: Sandbox) -> None:
    a, b, c = (unpod_sandbox.create().id for _ in range(3))
    unpod_sandbox.pay(b)

    records = wait(
        lambda: unpod_sandbox.pay(c), lambda: unpod_sandbox.pay(a), invoice_id=[b, str(a), c, str(b)]
    )  # fmt: skip

    assert [record["id"] for record in records] == [b, a, c]


def test_one_failed_invoice_fails_a_wait_for_all_and_is_named(wait: Waiter, unpod_sandbox: Sandbox) -> None:
    a, b = (unpod_sandbox.create().id for _ in range(2))

    with pytest.raises(
        AirflowFailException, match=rf"failed: invoice {b}: .*; invoice {a}: .*\(0 of 2 reached 'paid'\)"
    ):
        wait(nothing, lambda: unpod_sandbox.fail(b), invoice_id=[a, b])


def test_a_wait_for_any_returns_the_records_that_reached_the_target(wait: Waiter, unpod_sandbox: Sandbox) -> None:
    a, b, c = (unpod_sandbox.create().id for _ in range(3))

    def change() -> None:
        unpod_sandbox.fail(a)
        unpod_sandbox.pay(c)

    records = wait(nothing, change, invoice_id=[a, b, c], wait_for="any")

    assert [record["id"] for record in records] == [c]


def test_a_wait_for_any_fails_only_when_all_have_failed(wait: Waiter, unpod_sandbox: Sandbox) -> None:
    a, b = (unpod_sandbox.create().id for _ in range(2))

    with pytest.raises(AirflowFailException, match="'failed'"):
        wait(lambda: unpod_sandbox.fail(a), nothing, lambda: unpod_sandbox.fail(b), invoice_id=[a, b], wait_for="any")
    assert wait.pauses >= 3


@pytest.mark.parametrize("written", ["{}, {}", "[{}, {}]", "['{}', {}]", "({}, {})"])
def test_a_string_that_contains_a_list_of_ids_is_parsed(wait: Waiter, unpod_sandbox: Sandbox, written: str) -> None:
    a, b = (unpod_sandbox.create(status="paid").id for _ in range(2))

    assert [record["id"] for record in wait(invoice_id=written.format(b, a))] == [b, a]


def test_a_date_at_the_end_of_the_calendar_does_not_prevent_the_report(
    wait: Waiter, tls_server: FaultyServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    connection = json.loads(os.environ["AIRFLOW_CONN_UNPOD_DEFAULT"]) | {"extra": {"verify": str(tmp_path / "ca.pem")}}
    monkeypatch.setenv("AIRFLOW_CONN_UNPOD_DEFAULT", json.dumps(connection))
    last = "9999-12-31T23:59:59Z"
    tls_server.otherwise = page([7], results=[row(7, status="pending", invoice_date=last)])

    def pay() -> None:
        tls_server.otherwise = page([7], results=[row(7, status=" PAID", invoice_date=last)])

    assert wait(nothing, pay, invoice_id=7)["invoice_date"] == last


def test_statuses_are_compared_stripped_and_ignoring_case(wait: Waiter, unpod_sandbox: Sandbox, invoice: int) -> None:
    def become(status: str) -> Any:
        return lambda: unpod_sandbox.ledger.set_status(invoice, status)

    assert wait(nothing, become("PAID "), invoice_id=invoice, target_status=" Paid ")["status"] == "PAID "
    with pytest.raises(AirflowFailException, match="'Failed'"):
        wait(become("Failed"), nothing, invoice_id=invoice, target_status="odd", failure_statuses="['failed', 'VOID']")


def test_a_list_of_one_id_returns_a_list(wait: Waiter, unpod_sandbox: Sandbox, invoice: int) -> None:
    unpod_sandbox.pay(invoice)

    assert [record["id"] for record in wait(invoice_id=[invoice])] == [invoice]


def test_a_time_out_names_invoice_amount_status_and_number_of_polls(
    wait: Waiter, unpod_sandbox: Sandbox, invoice: int
) -> None:
    with pytest.raises(
        AirflowSensorTimeout,
        match=rf"Waiting for 'paid': invoice {invoice}: 299.00 USD, 'pending', .*; seen \d{{4}}-.* polls?",
    ):
        wait(invoice_id=invoice, timeout=0)


def test_soft_fail_skips_when_time_is_up(wait: Waiter, unpod_sandbox: Sandbox, invoice: int) -> None:
    with pytest.raises(AirflowSkipException, match=f"nvoice {invoice}: 299.00 USD, 'pending'"):
        wait(invoice_id=invoice, timeout=0, soft_fail=True)


def test_soft_fail_does_not_skip_a_failure_or_a_wrong_token(
    wait: Waiter, unpod_sandbox: Sandbox, invoice: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AirflowFailException, match="'failed'"):
        wait(nothing, lambda: unpod_sandbox.fail(invoice), invoice_id=invoice, soft_fail=True)

    with pytest.raises(AirflowFailException) as failure:
        wait(*[lambda: unpod_sandbox.faults("401")] * 8, invoice_id=unpod_sandbox.create().id, soft_fail=True)
    assert "HTTP 401" in str(failure.value)


def test_an_invoice_paid_at_the_last_moment_is_seen_by_a_last_poll(
    wait: Waiter, unpod_sandbox: Sandbox, invoice: int
) -> None:
    unpod_sandbox.pay(invoice)

    assert wait(invoice_id=invoice, timeout=0)["status"] == "paid"


@pytest.mark.parametrize("fault", ["429", "500", "503", "reset", "reset-body", "truncated"])
def test_time_outs_resets_and_server_errors_do_not_end_the_wait(
    wait: Waiter, unpod_sandbox: Sandbox, invoice: int, fault: str
) -> None:
    def mend() -> None:
        unpod_sandbox.faults()
        unpod_sandbox.pay(invoice)

    record = wait(nothing, lambda: unpod_sandbox.faults(fault), *[nothing] * 4, mend, invoice_id=invoice)

    assert record["status"] == "paid"


def test_an_api_that_is_down_from_the_start_is_waited_for_until_time_is_up(
    wait: Waiter, unpod_sandbox: Sandbox, invoice: int
) -> None:
    unpod_sandbox.faults("503")

    with pytest.raises(AirflowSensorTimeout, match=rf"no poll has seen .*: {invoice}.*poll failed: .*503"):
        wait(invoice_id=invoice, timeout=0)


@pytest.mark.parametrize("deferrable", [False, True])
def test_a_poll_gives_up_after_three_tries_since_the_next_one_comes_soon(
    unpod_sandbox: Sandbox, invoice: int, deferrable: bool
) -> None:
    unpod_sandbox.__exit__(None, None, None)  # its port refuses connections now
    sensor = UnpodInvoiceSensor(task_id="wait", invoice_id=invoice, deferrable=deferrable, timeout=0)

    with pytest.raises(AirflowSensorTimeout, match="gave up after 3 tries"):
        sensor.execute(context(ti=TaskInstance()))


@pytest.mark.parametrize("fault", ["401", "403", "400", "404"])
@pytest.mark.parametrize("when", ["from the start", "later"])
def test_a_permanent_error_fails_the_task_without_retries(
    wait: Waiter, unpod_sandbox: Sandbox, invoice: int, fault: str, when: str
) -> None:
    def break_() -> None:
        unpod_sandbox.faults(fault)

    if when == "from the start":
        break_()
    with pytest.raises(AirflowFailException) as failure:
        wait(break_, *[nothing] * 5, invoice_id=invoice)

    assert f"HTTP {fault}" in str(failure.value)


@pytest.mark.parametrize("fault", ["206", "200-error"])
def test_a_response_that_hides_an_error_is_never_a_success(
    wait: Waiter, unpod_sandbox: Sandbox, invoice: int, fault: str
) -> None:
    with pytest.raises(UnpodBadAnswer):
        wait(lambda: unpod_sandbox.faults(fault), *[nothing] * 5, invoice_id=invoice)


def test_a_wrong_connection_fails_at_once_and_names_the_field(
    wait: Waiter, invoice: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_UNPOD_DEFAULT", '{"conn_type": "unpod", "login": "acme"}')

    with pytest.raises(AirflowFailException, match=r"(?i)token"):
        wait(invoice_id=invoice)


#: The results of empty templates and upstream tasks, and values that are never an id.
NO_IDS = [None, "", " ", "None", "null", True, 1.5, float("nan"), {"id": 101}, b"101"]


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ({"invoice_id": []}, "at least one invoice id"),
        *[({"invoice_id": one}, "`invoice_id`.*template") for one in NO_IDS],
        *[({"invoice_id": [101, one]}, "`invoice_id`.*template") for one in NO_IDS],
        ({"invoice_id": "[101, 102"}, "`invoice_id`.*list"),
        (
            {"invoice_id": 1, "target_status": "failed", "failure_statuses": ("failed", "cancelled")},
            r"failure_statuses=\['cancelled'\]",
        ),
        ({"invoice_id": 1, "target_status": ""}, "target_status"),
        ({"invoice_id": 1, "target_status": "None"}, "target_status"),
        ({"invoice_id": 1, "target_status": None}, "target_status"),
        ({"invoice_id": 1, "target_status": "pending, odd"}, "target_status.*one"),
        ({"invoice_id": 1, "failure_statuses": None}, "failure_statuses"),
        ({"invoice_id": 1, "failure_statuses": ["failed", 3]}, "failure_statuses"),
        ({"invoice_id": 1, "failure_statuses": ["PAID"]}, "failure_statuses"),
        ({"invoice_id": 1, "failure_statuses": "paid"}, "failure_statuses"),
        ({"invoice_id": 1, "wait_for": "some"}, "wait_for"),
        ({"invoice_id": 1, "on_missing": "ignore"}, "on_missing"),
        *[({"invoice_id": 1, "max_failures": one}, "max_failures") for one in (0, -1, True, 2.0, "5", None)],
        ({"invoice_id": 1, "deferrable": True, "exponential_backoff": True}, "`exponential_backoff`.*deferrable=False"),
        ({"invoice_id": [iter([101])]}, "`invoice_id`"),
        ({"invoice_id": 1, "org_handle": ""}, "org_handle"),
        ({"invoice_id": 1, "unpod_conn_id": ""}, "unpod_conn_id"),
        ({"invoice_id": "<generator object map at 0x7f0000000000>"}, "invoice_id"),
        ({"invoice_id": ["['101', '102']"]}, "invoice_id"),
        ({"invoice_id": 1, "target_status": '"paid"'}, "target_status"),
    ],
)
def test_an_invalid_argument_is_refused_when_the_dag_is_parsed(arguments: dict[str, Any], hint: str) -> None:
    with pytest.raises(UnpodConfigError, match=hint):
        UnpodInvoiceSensor(task_id="wait", **arguments)


@pytest.mark.parametrize("name", ["invoice_id", "target_status", "failure_statuses"])
@pytest.mark.parametrize(
    "value", ["{{ params.it }}", "{% if x %}1{% endif %}", ["{{ it }}", "x"], "output", ["output"]]
)
def test_templates_and_task_results_are_not_checked_when_the_dag_is_parsed(name: str, value: Any) -> None:
    with DAG("d", schedule=None):
        output = UnpodInvoiceSensor(task_id="earlier", invoice_id=1).output
        value = {"output": output, "['output']": [output]}.get(str(value), value)
        UnpodInvoiceSensor(task_id="wait", **{"invoice_id": 1, name: value})
        with pytest.raises(UnpodConfigError):
            UnpodInvoiceSensor(task_id="wrong", **{"invoice_id": None, "failure_statuses": None, name: value})


def test_a_template_that_renders_to_an_invalid_argument_fails_the_task_without_retries() -> None:
    sensor = UnpodInvoiceSensor(
        task_id="wait", invoice_id=1, target_status="{{ status }}", failure_statuses=["refunded"]
    )
    sensor.target_status = "refunded"

    with pytest.raises(AirflowFailException, match="failure_statuses"):
        sensor.execute({})


def test_a_connection_that_does_not_exist_is_named_and_retried_as_the_task_says(wait: Waiter) -> None:
    with pytest.raises(AirflowNotFoundException, match="Connection 'typo' does not exist"):
        wait(invoice_id=1, unpod_conn_id="typo", soft_fail=True)


def test_an_org_handle_that_renders_to_an_empty_string_is_refused(unpod_sandbox: Sandbox, invoice: int) -> None:
    unpod_sandbox.pay(invoice)
    sensor = UnpodInvoiceSensor(task_id="wait", invoice_id=invoice, org_handle="{{ org }}", deferrable=True)
    sensor.org_handle = ""

    with pytest.raises(AirflowFailException, match="`org_handle`"):
        sensor.execute(context(ti=TaskInstance()))
    assert unpod_sandbox.stats["requests"] == 0


def test_an_org_handle_that_another_task_returns_as_none_is_refused(unpod_sandbox: Sandbox) -> None:
    sensor = UnpodInvoiceSensor(task_id="wait", invoice_id=1, org_handle="{{ org }}")
    sensor.org_handle = None

    with pytest.raises(AirflowFailException, match="`org_handle` rendered to None"):
        sensor.execute({})
    assert unpod_sandbox.stats["requests"] == 0


@pytest.mark.parametrize("mode", ["poke", "deferrable"])
def test_ids_and_statuses_from_a_generator_mean_the_same_at_every_poll(
    unpod_sandbox: Sandbox, invoice: int, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with impatient_client(monkeypatch), pytest.raises(AirflowFailException, match="'failed'"):
        Waiter(mode, monkeypatch)(
            nothing,
            lambda: unpod_sandbox.fail(invoice),
            invoice_id=(one for one in [invoice]),
            failure_statuses=(one for one in ["failed"]),
        )


def test_a_wait_leaves_no_connection_open(
    wait: Waiter, unpod_sandbox: Sandbox, invoice: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_clients: list[UnpodClient] = []
    connect, close = UnpodClient.__init__, UnpodClient.close

    def opened(self: UnpodClient, *arguments: Any, **options: Any) -> None:
        connect(self, *arguments, **options)
        open_clients.append(self)

    def closed(self: UnpodClient) -> None:
        close(self)
        open_clients.remove(self)

    monkeypatch.setattr(UnpodClient, "__init__", opened)
    monkeypatch.setattr(UnpodClient, "close", closed)

    assert wait(nothing, lambda: unpod_sandbox.pay(invoice), invoice_id=invoice)["status"] == "paid"
    assert open_clients == []


def test_the_connection_s_proxy_is_used_in_every_mode(
    wait: Waiter, unpod_sandbox: Sandbox, invoice: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = {
        **json.loads(unpod_sandbox.connection_json()),
        "host": "http://unpod.invalid",  # nobody but a proxy can reach it
        "extra": {"proxies": {"http": unpod_sandbox.url}, "allow_insecure_http": True},
    }
    monkeypatch.setenv("AIRFLOW_CONN_UNPOD_DEFAULT", json.dumps(connection))

    assert wait(nothing, lambda: unpod_sandbox.pay(invoice), invoice_id=invoice)["status"] == "paid"


def test_a_server_without_tls_is_never_sent_a_request_in_plain_text(
    wait: Waiter, unpod_sandbox: Sandbox, invoice: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = {**json.loads(unpod_sandbox.connection_json()), "host": "https://127.0.0.1"}
    monkeypatch.setenv("AIRFLOW_CONN_UNPOD_DEFAULT", json.dumps(connection))

    with pytest.raises(UnpodUnreachable, match="speaks plain http"):
        wait(*[nothing] * 6, invoice_id=invoice)
    assert unpod_sandbox.stats["requests"] == 0


@pytest.fixture
def tls_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FaultyServer]:
    """One pending invoice at an https address whose certificate only the CA in ``ca.pem`` has signed."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with FaultyServer(tls=context, otherwise=page([7], results=[row(7, status="pending")])) as server:
        connection = {"conn_type": "unpod", "host": server.url, "login": "acme.tv", "password": TOKEN}
        monkeypatch.setenv("AIRFLOW_CONN_UNPOD_DEFAULT", json.dumps(connection))
        yield server


def test_a_private_ca_is_trusted_in_every_mode(
    wait: Waiter, tls_server: FaultyServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    connection = json.loads(os.environ["AIRFLOW_CONN_UNPOD_DEFAULT"]) | {"extra": {"verify": str(tmp_path / "ca.pem")}}
    monkeypatch.setenv("AIRFLOW_CONN_UNPOD_DEFAULT", json.dumps(connection))

    def pay() -> None:
        tls_server.otherwise = page([7])

    assert wait(nothing, pay, invoice_id=7)["status"] == "paid"


def test_a_server_with_an_untrusted_certificate_never_sees_the_token_and_is_never_a_skip(
    wait: Waiter, tls_server: FaultyServer
) -> None:
    with pytest.raises(UnpodUnreachable, match="is not trusted") as failure:
        wait(*[nothing] * 6, invoice_id=7, max_failures=3, soft_fail=True)
    assert ("One poll" if wait.mode == "reschedule" else "3 polls in a row") in str(failure.value)
    assert tls_server.connections >= 1
    assert tls_server.requests == []


@pytest.mark.parametrize(
    ("scheme_and_host", "extra", "reason"),
    [
        ("https://127.0.0.1", {}, "speaks plain http"),
        ("https://no-such-host.invalid", {}, "no-such-host.invalid"),
        ("https://127.0.0.1", {"verify": "/no/such/ca.pem"}, "/no/such/ca.pem"),
    ],
    ids=["plain http", "unknown host", "missing CA file"],
)
def test_a_connection_that_cannot_work_ends_the_wait_with_the_reason_and_never_as_a_skip(
    wait: Waiter,
    unpod_sandbox: Sandbox,
    invoice: int,
    monkeypatch: pytest.MonkeyPatch,
    scheme_and_host: str,
    extra: dict[str, Any],
    reason: str,
) -> None:
    connection = json.loads(unpod_sandbox.connection_json().replace("http://127.0.0.1", scheme_and_host))
    monkeypatch.setenv("AIRFLOW_CONN_UNPOD_DEFAULT", json.dumps({**connection, "extra": extra}))

    with pytest.raises(UnpodUnreachable) as failure:
        wait(*[nothing] * 6, invoice_id=invoice, max_failures=3, soft_fail=True)
    assert reason in str(failure.value)[:200]
    assert ("One poll" if wait.mode == "reschedule" else "3 polls in a row") in str(failure.value)


def test_an_unreachable_api_is_not_a_late_payment_when_time_is_up(
    wait: Waiter, unpod_sandbox: Sandbox, invoice: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = unpod_sandbox.connection_json().replace("http://127.0.0.1", "https://no-such-host.invalid")
    monkeypatch.setenv("AIRFLOW_CONN_UNPOD_DEFAULT", connection)

    with pytest.raises(UnpodUnreachable, match=r"no-such-host\.invalid"):
        wait(invoice_id=invoice, timeout=0, soft_fail=True)


def test_an_unreachable_api_is_not_skipped_when_execution_timeout_ends_a_soft_wait(
    unpod_sandbox: Sandbox, invoice: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = unpod_sandbox.connection_json().replace("http://127.0.0.1", "https://no-such-host.invalid")
    monkeypatch.setenv("AIRFLOW_CONN_UNPOD_DEFAULT", connection)

    def timed_out(self: UnpodInvoiceSensor, context: Any) -> None:
        """What Airflow's sensors do when execution_timeout ends a poll and soft_fail is set."""
        self.poke(context)
        raise AirflowSkipException("execution_timeout") from AirflowTaskTimeout()

    monkeypatch.setattr(BaseSensorOperator, "execute", timed_out)
    with pytest.raises(UnpodUnreachable, match=r"no-such-host\.invalid"):
        UnpodInvoiceSensor(task_id="wait", invoice_id=invoice, soft_fail=True).execute({})


def test_a_connection_that_is_corrected_in_time_does_not_end_the_wait(
    unpod_sandbox: Sandbox, invoice: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = unpod_sandbox.connection_json()
    wrong = json.dumps({**json.loads(right), "host": "no-such-host.invalid"})

    def connect(connection: str) -> Any:
        return lambda: monkeypatch.setenv("AIRFLOW_CONN_UNPOD_DEFAULT", connection)

    connect(wrong)()
    unpod_sandbox.pay(invoice)
    with impatient_client(monkeypatch):
        for mode in (mode for mode in MODES if mode != "reschedule"):
            connect(wrong)()
            story = (nothing, connect(right), nothing)
            assert Waiter(mode, monkeypatch)(*story, invoice_id=invoice, max_failures=3)["status"] == "paid"


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "reschedule"])
def test_the_poll_before_a_deferral_counts_for_max_failures_too(
    mode: str, unpod_sandbox: Sandbox, invoice: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = unpod_sandbox.connection_json()
    wrong = json.dumps({**json.loads(right), "host": "no-such-host.invalid"})

    def connect(connection: str) -> Any:
        return lambda: monkeypatch.setenv("AIRFLOW_CONN_UNPOD_DEFAULT", connection)

    with impatient_client(monkeypatch):
        connect(wrong)()
        with pytest.raises(UnpodUnreachable, match="3 polls in a row"):
            Waiter(mode, monkeypatch)(
                nothing, nothing, connect(right), *[nothing] * 3, invoice_id=invoice, max_failures=3
            )


class FlappingHost:
    """A server whose host name is sometimes unknown, as in a cluster whose DNS flaps. Each poll resolves it again.

    ``become`` returns a step for the next poll: ``"unknown"`` host, ``"pending"`` or ``"paid"`` invoice 7, or a
    ``"503"``.
    """

    def __init__(self, server: FaultyServer, monkeypatch: pytest.MonkeyPatch) -> None:
        self._server = server
        self._resolve = socket.getaddrinfo
        self._state = "unknown"
        monkeypatch.setattr(socket, "getaddrinfo", self._look_up)
        connection = {
            "conn_type": "unpod",
            "host": f"http://invoices.internal:{server.port}",
            "login": "acme.tv",
            "password": TOKEN,
            "extra": {"allow_insecure_http": True},
        }
        monkeypatch.setenv("AIRFLOW_CONN_UNPOD_DEFAULT", json.dumps(connection))

    def become(self, state: str) -> Callable[[], None]:
        def happens() -> None:
            self._state = state
            rows = [row(7, status=state)]
            self._server.otherwise = (
                answer("", 503) if state == "503" else page([7], {"Connection": "close"}, results=rows)
            )

        return happens

    def _look_up(self, host: str, *arguments: Any, **options: Any) -> Any:
        if host != "invoices.internal":
            return self._resolve(host, *arguments, **options)
        if self._state == "unknown":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return self._resolve("127.0.0.1", *arguments, **options)


@pytest.mark.parametrize("between", ["pending", "503"])
def test_a_poll_that_reaches_the_api_restarts_the_count_of_max_failures(
    wait: Waiter, between: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait.context = context(ti=wait.ti, task_state_store=KeptBesideTheTask())  # otherwise reschedule mode cannot count
    with FaultyServer() as server:
        host = FlappingHost(server, monkeypatch)
        polls = ["unknown", between, "unknown", "unknown", between, "unknown", "unknown", "paid"]
        host.become(polls[0])()
        story = [host.become(state) for state in polls[1:]]
        assert wait(*story, nothing, invoice_id=7, max_failures=3)["status"] == "paid"

        host.become("unknown")()
        story = [host.become(state) for state in (between, "unknown", "unknown", "unknown")]
        with pytest.raises(UnpodUnreachable, match="3 polls in a row"):
            wait(*story, nothing, nothing, invoice_id=7, max_failures=3)


def test_text_that_a_database_cannot_store_is_not_in_the_result_of_a_wait(wait: Waiter, unpod_sandbox: Sandbox) -> None:
    invoice = unpod_sandbox.create(status="paid", extra={"note": "a\0b"}).id
    assert wait(invoice_id=invoice)["note"] == "a\N{REPLACEMENT CHARACTER}b"

    invoice = unpod_sandbox.create(extra={"note": "a\0b"}).id
    assert wait(lambda: unpod_sandbox.pay(invoice), invoice_id=invoice)["note"] == "a\N{REPLACEMENT CHARACTER}b"


def test_text_that_a_database_cannot_store_is_not_in_the_state_store_of_the_task(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def listed(status: str) -> FaultyServer:
        numbers = [{"id": None, "invoice_number": f"A\0-{number:05}", "status": status} for number in range(150, 0, -1)]
        return list_of([row(1, **fields) for fields in numbers])

    store = KeptBesideTheTask()
    with listed("pending") as server, listed("paid") as paid:
        connection = {"conn_type": "unpod", "host": server.url, "login": "acme.tv", "password": TOKEN}
        monkeypatch.setenv("AIRFLOW_CONN_UNPOD_DEFAULT", json.dumps(connection))

        def pay() -> None:
            assert "A" in json.dumps(store)  # the state has numbers of invoices
            assert "\\u0000" not in json.dumps(store)
            server.otherwise = paid.otherwise

        wait = Waiter("reschedule", monkeypatch)
        wait.context = context(ti=wait.ti, task_state_store=store)
        assert wait(nothing, pay, invoice_id="A\0-00003")["status"] == "paid"


def test_reschedule_mode_counts_unreachable_polls_in_the_state_store_of_the_task(
    invoice: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "AIRFLOW_CONN_UNPOD_DEFAULT", '{"conn_type": "unpod", "host": "no.invalid", "login": "a", "password": "b"}'
    )
    with impatient_client(monkeypatch):
        wait = Waiter("reschedule", monkeypatch)
        wait.context = context(ti=wait.ti, task_state_store=KeptBesideTheTask())
        with pytest.raises(UnpodUnreachable, match="3 polls in a row"):
            wait(*[nothing] * 6, invoice_id=invoice, max_failures=3)
        assert wait.pauses == 2

        wait.context["ti"].try_number = 2
        with pytest.raises(UnpodUnreachable, match="3 polls in a row"):
            wait(*[nothing] * 6, invoice_id=invoice, max_failures=3)
        assert wait.pauses == 4


@pytest.mark.parametrize("mode", ["poke", "deferrable"])
def test_a_permanent_error_shows_its_text_once_and_at_most_three_frames_of_ours(
    unpod_sandbox: Sandbox, mode: str
) -> None:
    unpod_sandbox.faults("401")
    sensor = UnpodInvoiceSensor(task_id="wait", invoice_id=1, deferrable=mode == "deferrable")

    with pytest.raises(AirflowFailException) as failure:
        sensor.execute(context(ti=TaskInstance()))
    shown = "".join(traceback.format_exception(failure.value))
    assert shown.count(str(failure.value)) == 1
    assert shown.count(f"{os.sep}airflow_provider_unpod{os.sep}") <= 3


def test_a_deferral_logs_its_interval_and_whether_the_poll_is_shared(
    unpod_sandbox: Sandbox, invoice: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sensor = UnpodInvoiceSensor(task_id="wait", invoice_id=invoice, deferrable=True, poke_interval=90)
    lines = logged(sensor, "info", monkeypatch)

    with pytest.raises(TaskDeferred):
        sensor.execute(context(ti=TaskInstance()))
    assert re.search(r"polls every 90 s, .*" + ("for all waits" if "shared" in MODES else "for each wait"), lines[-1])


@pytest.mark.parametrize(
    ("mode", "interval", "reschedules", "warnings"),
    [("reschedule", 5, 0, 1), ("reschedule", 5, 3, 0), ("reschedule", 15, 0, 0), ("poke", 5, 0, 0)],
)
def test_a_reschedule_interval_below_15_s_is_one_warning_at_the_first_poll(
    unpod_sandbox: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    interval: float,
    reschedules: int,
    warnings: int,
) -> None:
    monkeypatch.setattr(BASE, "_orig_start_date", lambda **_: None, raising=False)
    sensor = UnpodInvoiceSensor(
        task_id="wait", invoice_id=unpod_sandbox.create(status="paid").id, mode=mode, poke_interval=interval
    )
    lines = logged(sensor, "warning", monkeypatch)

    sensor.execute(context(ti=TaskInstance(), task_reschedule_count=reschedules))
    assert len([line for line in lines if "`poke_interval`" in line]) == warnings


def test_the_condition_is_created_once_per_run_and_does_not_change_the_task(
    unpod_sandbox: Sandbox, invoice: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    from_arguments = Condition.from_arguments.__func__  # type: ignore[attr-defined]  # the function behind it

    def noted(cls: type[Condition], *args: Any, **kwargs: Any) -> Condition:
        made.append(args)
        condition: Condition = from_arguments(cls, *args, **kwargs)
        return condition

    monkeypatch.setattr(Condition, "from_arguments", classmethod(noted))
    ids = (invoice, str(invoice))
    wait = Waiter("poke", monkeypatch)
    wait(nothing, nothing, lambda: unpod_sandbox.pay(invoice), invoice_id=ids)

    assert len(made) == 2  # when the task was made, and when it ran
    assert wait.sensor.invoice_id is ids


class KeptBesideTheTask(dict[str, Any]):
    """Airflow 3.3's state store of a task."""

    def set(self, key: str, value: Any, *, retention: timedelta | None = None) -> None:
        assert json.loads(json.dumps(value)) == value
        assert retention is None or retention > timedelta(0)
        self[key] = value


def test_a_retry_keeps_the_deadline_and_a_cleared_task_gets_a_new_one(
    unpod_sandbox: Sandbox, invoice: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = KeptBesideTheTask()

    def deadline(try_number: int, max_tries: int) -> datetime:
        sensor = UnpodInvoiceSensor(task_id="wait", invoice_id=invoice, deferrable=True, timeout=3600, retries=2)
        ti = TaskInstance(try_number=try_number, max_tries=max_tries)
        with pytest.raises(TaskDeferred) as deferred:
            sensor.execute(context(ti=ti, task_state_store=store))
        assert deferred.value.timeout is not None
        assert deferred.value.timeout > timedelta(seconds=3600)  # Airflow's own comes after the trigger's
        return datetime.fromisoformat(deferred.value.trigger.serialize()[1]["deadline"])

    first = deadline(1, 2)
    assert timedelta(seconds=3590) < first - datetime.now(timezone.utc) <= timedelta(seconds=3600)
    assert deadline(2, 2) == deadline(3, 2) == first
    cleared = deadline(4, 5)
    assert cleared > first
    assert deadline(5, 5) == cleared


def test_without_a_triggerer_the_worker_polls_once_more_after_the_deadline(
    unpod_sandbox: Sandbox, invoice: int
) -> None:
    given_up = {"error": "Trigger timeout"}

    def sensor(**options: Any) -> UnpodInvoiceSensor:
        return UnpodInvoiceSensor(task_id="wait", invoice_id=invoice, deferrable=True, timeout=60, **options)

    with pytest.raises(AirflowSensorTimeout, match=f"nvoice {invoice}: 299.00 USD, 'pending'.*triggerer"):
        sensor().resume_execution("__fail__", given_up, {})
    with pytest.raises(AirflowSkipException):
        sensor(soft_fail=True).resume_execution("__fail__", given_up, {})
    unpod_sandbox.pay(invoice)
    assert sensor().resume_execution("__fail__", given_up, {})["status"] == "paid"


def test_a_deferral_that_execution_timeout_ended_says_so(unpod_sandbox: Sandbox, invoice: int) -> None:
    context: Any = {"ti": TaskInstance(start_date=datetime.now(timezone.utc) - timedelta(hours=1))}

    def resume(**options: Any) -> Any:
        sensor = UnpodInvoiceSensor(
            task_id="wait", invoice_id=invoice, deferrable=True, execution_timeout=timedelta(hours=1), **options
        )
        return sensor.resume_execution("__fail__", {"error": "Trigger timeout"}, context)

    ended = rf"`execution_timeout` \(3600 s\) ended the wait before its `timeout` \(7200 s\).*{invoice}"
    with pytest.raises(AirflowTaskTimeout, match=ended):
        resume(timeout=7200)
    with pytest.raises(AirflowSkipException, match=ended):
        resume(timeout=7200, soft_fail=True)
    with pytest.raises(AirflowSensorTimeout, match="`timeout` of 600 s has passed"):
        resume(timeout=600)


def test_a_permanent_failure_ends_a_deferred_wait_with_an_error_at_the_deadline(
    unpod_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpod_sandbox.faults("401")
    trigger = UnpodInvoiceTrigger(invoice_id=1, deadline="2026-01-01T00:00:00+00:00", max_failures=5)

    async def first_event() -> Any:
        return (await anext(aiter(trigger.run()))).payload

    with impatient_client(monkeypatch):
        event = asyncio.run(first_event())
    assert (event["state"], event["error"], event["status"]) == ("error", "UnpodAuthError", 401)


def test_a_broken_trigger_fails_the_task_and_never_skips_it(invoice: int) -> None:
    sensor = UnpodInvoiceSensor(task_id="wait", invoice_id=invoice, deferrable=True, soft_fail=True)

    with pytest.raises(Exception, match="Trigger failure"):
        sensor.resume_execution("__fail__", {"error": "Trigger failure"}, {})
    for event in (None, {}, {"state": "fine"}):
        with pytest.raises(AirflowException, match="event is invalid"):
            sensor.resume_execution("execute_complete", {"event": event}, {})
