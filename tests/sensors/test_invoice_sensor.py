"""The same story gives the same answer in every mode, against a real HTTP server."""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import Iterator
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
    TaskDeferred,
)

from airflow_provider_unpod.billing.client import UnpodClient
from airflow_provider_unpod.billing.errors import UnpodAuthError, UnpodBadAnswer, UnpodConfigError, UnpodUnreachable
from airflow_provider_unpod.sandbox import Sandbox
from airflow_provider_unpod.sensors.invoice import UnpodInvoiceSensor
from tests.billing.faulty_server import TOKEN, FaultyServer, page, row
from tests.sensors.modes import MODES, TaskInstance, TooManyLooks, Waiter, impatient_client


@pytest.fixture(params=MODES)
def wait(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Waiter]:
    with impatient_client(monkeypatch):
        yield Waiter(request.param, monkeypatch)


@pytest.fixture
def invoice(unpod_sandbox: Sandbox) -> int:
    """A pending invoice."""
    return unpod_sandbox.create("299.00").id


def nothing() -> None:
    """A step in which nothing happens."""


def test_an_invoice_that_is_paid_already_is_given_out_after_one_look(
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


def test_failed_ends_the_wait_unless_it_is_no_failure_status(
    wait: Waiter, unpod_sandbox: Sandbox, invoice: int
) -> None:
    as_it_stands = rf"invoice {invoice}: 299.00 USD, 'failed' \(a failure status\), dated .*; seen .* look"
    with pytest.raises(AirflowFailException, match=f"^Waiting for 'paid' has failed: {as_it_stands}"):
        wait(nothing, lambda: unpod_sandbox.fail(invoice), invoice_id=invoice)

    story = (nothing, lambda: unpod_sandbox.pay(invoice))
    assert wait(*story, invoice_id=invoice, failure_statuses=["cancelled"])["status"] == "paid"


@pytest.mark.parametrize(("target", "other"), [("failed", "refunded"), ("cancelled", "failed"), ("Refunded", "failed")])
def test_a_failure_can_be_waited_for_without_saying_that_it_is_none(
    wait: Waiter, unpod_sandbox: Sandbox, invoice: int, target: str, other: str
) -> None:
    target_reached, failed = invoice, unpod_sandbox.create().id

    def end() -> None:
        unpod_sandbox.ledger.set_status(target_reached, target.lower())
        unpod_sandbox.ledger.set_status(failed, other)

    assert wait(nothing, end, invoice_id=target_reached, target_status=target)["status"] == target.lower()
    with pytest.raises(AirflowFailException, match=f"'{other}'"):
        wait(nothing, invoice_id=failed, target_status=target)


def test_a_failure_that_a_template_renders_to_can_be_waited_for(unpod_sandbox: Sandbox) -> None:
    invoice = unpod_sandbox.create(status="refunded").id
    sensor = UnpodInvoiceSensor(task_id="wait", invoice_id=invoice, target_status="{{ params.status }}")
    sensor.render_template_fields({"params": {"status": "refunded"}})  # type: ignore[arg-type]  # all that is needed

    assert sensor.execute({})["status"] == "refunded"


@pytest.mark.parametrize("status", ["cancelled", "refunded"])
def test_cancelled_and_refunded_are_failures_and_not_done(
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


def test_a_paid_invoice_that_is_not_what_is_waited_for_says_what_is(
    wait: Waiter, unpod_sandbox: Sandbox, invoice: int
) -> None:
    unpod_sandbox.pay(invoice)

    with pytest.raises(AirflowSensorTimeout, match=rf"Waiting for 'payed': invoice {invoice}: 299.00 USD, 'paid'"):
        wait(invoice_id=invoice, target_status="payed", timeout=0)


@pytest.mark.parametrize(("target", "warnings"), [("payed", 1), ("paid", 0)])
def test_a_target_that_may_be_misspelt_is_one_warning_with_the_known_ones(
    unpod_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, target: str, warnings: int
) -> None:
    said: list[str] = []
    invoice = unpod_sandbox.create(status=target).id
    sensor = UnpodInvoiceSensor(task_id="wait", invoice_id=invoice, target_status=target)
    monkeypatch.setattr(sensor.log, "warning", lambda text, *values: said.append(text % values))
    sensor.execute({})

    about_it = [line for line in said if "status" in line]
    assert len(about_it) == warnings
    assert all("'payed'" in line and "cancelled, failed, paid, pending, refunded" in line for line in about_it)


def test_an_unknown_status_is_waited_through_and_can_be_waited_for(
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


def test_an_invoice_that_does_not_exist_fails_the_wait_if_so_asked(wait: Waiter, unpod_sandbox: Sandbox) -> None:
    with pytest.raises(AirflowFailException, match="nvoice 99999 is not in the list"):
        wait(invoice_id=99999, on_missing="fail")
    assert wait.pauses == 0


def test_an_invoice_deleted_while_waiting_fails_the_wait_only_if_so_asked(
    wait: Waiter, unpod_sandbox: Sandbox, invoice: int
) -> None:
    def delete() -> None:
        unpod_sandbox.delete(invoice)

    with pytest.raises(AirflowFailException, match="is not in the list"):
        wait(nothing, nothing, delete, invoice_id=invoice, on_missing="fail")

    invoice = unpod_sandbox.create().id
    with pytest.raises(TooManyLooks):
        wait(nothing, delete, nothing, nothing, invoice_id=invoice)


def test_all_of_several_are_given_out_in_the_order_asked_for(wait: Waiter, unpod_sandbox: Sandbox) -> None:
    a, b, c = (unpod_sandbox.create().id for _ in range(3))
    unpod_sandbox.pay(b)

    records = wait(
        lambda: unpod_sandbox.pay(c), lambda: unpod_sandbox.pay(a), invoice_id=[b, str(a), c, str(b)]
    )  # fmt: skip

    assert [record["id"] for record in records] == [b, a, c]


def test_one_failure_ends_a_wait_for_all_and_says_which(wait: Waiter, unpod_sandbox: Sandbox) -> None:
    a, b = (unpod_sandbox.create().id for _ in range(2))

    with pytest.raises(
        AirflowFailException, match=rf"failed: invoice {b}: .*; invoice {a}: .*\(0 of 2 reached 'paid'\)"
    ):
        wait(nothing, lambda: unpod_sandbox.fail(b), invoice_id=[a, b])


def test_any_of_several_gives_out_those_that_have_reached_the_target(wait: Waiter, unpod_sandbox: Sandbox) -> None:
    a, b, c = (unpod_sandbox.create().id for _ in range(3))

    def change() -> None:
        unpod_sandbox.fail(a)
        unpod_sandbox.pay(c)

    records = wait(nothing, change, invoice_id=[a, b, c], wait_for="any")

    assert [record["id"] for record in records] == [c]


def test_any_of_several_fails_only_when_all_have_failed(wait: Waiter, unpod_sandbox: Sandbox) -> None:
    a, b = (unpod_sandbox.create().id for _ in range(2))

    with pytest.raises(AirflowFailException, match="'failed'"):
        wait(lambda: unpod_sandbox.fail(a), nothing, lambda: unpod_sandbox.fail(b), invoice_id=[a, b], wait_for="any")
    assert wait.pauses >= 3


@pytest.mark.parametrize("written", ["{}, {}", "[{}, {}]", "['{}', {}]", "({}, {})"])
def test_the_text_of_a_list_of_ids_is_that_list_and_gives_out_a_list(
    wait: Waiter, unpod_sandbox: Sandbox, written: str
) -> None:
    a, b = (unpod_sandbox.create(status="paid").id for _ in range(2))

    assert [record["id"] for record in wait(invoice_id=written.format(b, a))] == [b, a]


def test_statuses_mean_the_same_in_any_case_on_either_side(wait: Waiter, unpod_sandbox: Sandbox, invoice: int) -> None:
    def become(status: str) -> Any:
        return lambda: unpod_sandbox.ledger.set_status(invoice, status)

    assert wait(nothing, become("PAID"), invoice_id=invoice, target_status=" Paid ")["status"] == "PAID"
    with pytest.raises(AirflowFailException, match="'Failed'"):
        wait(become("Failed"), nothing, invoice_id=invoice, target_status="odd", failure_statuses="['failed', 'VOID']")


def test_a_list_of_one_gives_out_a_list(wait: Waiter, unpod_sandbox: Sandbox, invoice: int) -> None:
    unpod_sandbox.pay(invoice)

    assert [record["id"] for record in wait(invoice_id=[invoice])] == [invoice]


def test_time_up_is_a_sensor_timeout_that_says_what_was_seen(
    wait: Waiter, unpod_sandbox: Sandbox, invoice: int
) -> None:
    with pytest.raises(
        AirflowSensorTimeout,
        match=rf"Waiting for 'paid': invoice {invoice}: 299.00 USD, 'pending', .*; seen \d{{4}}-.* look",
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
    assert isinstance(failure.value.__cause__, UnpodAuthError)


def test_time_is_not_up_before_a_last_look(wait: Waiter, unpod_sandbox: Sandbox, invoice: int) -> None:
    unpod_sandbox.pay(invoice)

    assert wait(invoice_id=invoice, timeout=0)["status"] == "paid"


@pytest.mark.parametrize("fault", ["429", "500", "503", "reset", "reset-body", "truncated"])
def test_faults_that_pass_do_not_end_the_wait(wait: Waiter, unpod_sandbox: Sandbox, invoice: int, fault: str) -> None:
    def mend() -> None:
        unpod_sandbox.faults()
        unpod_sandbox.pay(invoice)

    record = wait(nothing, lambda: unpod_sandbox.faults(fault), *[nothing] * 4, mend, invoice_id=invoice)

    assert record["status"] == "paid"


def test_an_api_that_is_down_from_the_start_is_waited_for_until_time_is_up(
    wait: Waiter, unpod_sandbox: Sandbox, invoice: int
) -> None:
    unpod_sandbox.faults("503")

    with pytest.raises(AirflowSensorTimeout, match=rf"Waiting for 'paid': .*never seen: {invoice}.*look failed: .*503"):
        wait(invoice_id=invoice, timeout=0)


@pytest.mark.parametrize("deferrable", [False, True])
def test_a_look_that_fails_in_the_worker_is_given_up_soon_for_it_is_made_again(
    unpod_sandbox: Sandbox, invoice: int, deferrable: bool
) -> None:
    unpod_sandbox.__exit__(None, None, None)  # its port refuses connections now
    sensor = UnpodInvoiceSensor(task_id="wait", invoice_id=invoice, deferrable=deferrable, timeout=0)

    with pytest.raises(AirflowSensorTimeout, match="given up after 3 tries"):
        sensor.execute({"ti": TaskInstance()})


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("401", "UnpodAuthError"),
        ("403", "UnpodAuthError"),
        ("400", "UnpodBadRequest"),
        ("404", "UnpodOrganizationNotFound"),
    ],
)
@pytest.mark.parametrize("when", ["from the start", "later"])
def test_what_no_retry_mends_fails_the_task_without_retries(
    wait: Waiter, unpod_sandbox: Sandbox, invoice: int, fault: str, error: str, when: str
) -> None:
    def break_() -> None:
        unpod_sandbox.faults(fault)

    if when == "from the start":
        break_()
    with pytest.raises(AirflowFailException) as failure:
        wait(break_, *[nothing] * 5, invoice_id=invoice)

    assert type(failure.value.__cause__).__name__ == error


@pytest.mark.parametrize("fault", ["206", "200-error"])
def test_an_answer_that_hides_an_error_is_never_a_success(
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


#: What templates and upstream tasks that have nothing give, and what is no id in any case.
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
        ({"invoice_id": 1, "max_failures": 0}, "max_failures"),
        ({"invoice_id": 1, "org_handle": ""}, "org_handle"),
        ({"invoice_id": 1, "unpod_conn_id": ""}, "unpod_conn_id"),
        ({"invoice_id": "<generator object map at 0x7f0000000000>"}, "invoice_id"),
        ({"invoice_id": ["['101', '102']"]}, "invoice_id"),
        ({"invoice_id": 1, "target_status": '"paid"'}, "target_status"),
    ],
)
def test_nonsense_is_refused_when_the_dag_is_parsed(arguments: dict[str, Any], hint: str) -> None:
    with pytest.raises(UnpodConfigError, match=hint):
        UnpodInvoiceSensor(task_id="wait", **arguments)


@pytest.mark.parametrize("name", ["invoice_id", "target_status", "failure_statuses"])
@pytest.mark.parametrize(
    "value", ["{{ params.it }}", "{% if x %}1{% endif %}", ["{{ it }}", "x"], "output", ["output"]]
)
def test_what_is_known_only_when_the_task_runs_is_not_judged_when_the_dag_is_parsed(name: str, value: Any) -> None:
    with DAG("d", schedule=None):
        output = UnpodInvoiceSensor(task_id="earlier", invoice_id=1).output
        value = {"output": output, "['output']": [output]}.get(str(value), value)
        UnpodInvoiceSensor(task_id="wait", **{"invoice_id": 1, name: value})
        with pytest.raises(UnpodConfigError):
            UnpodInvoiceSensor(task_id="wrong", **{"invoice_id": None, "failure_statuses": None, name: value})


def test_nonsense_that_a_template_renders_to_fails_the_task_without_retries() -> None:
    sensor = UnpodInvoiceSensor(
        task_id="wait", invoice_id=1, target_status="{{ status }}", failure_statuses=["refunded"]
    )
    sensor.target_status = "refunded"

    with pytest.raises(AirflowFailException, match="failure_statuses"):
        sensor.execute({})


def test_a_connection_that_does_not_exist_is_said_and_left_to_the_task_s_retries(wait: Waiter) -> None:
    with pytest.raises(AirflowNotFoundException, match="no connection 'typo'"):
        wait(invoice_id=1, unpod_conn_id="typo", soft_fail=True)


def test_an_organisation_that_a_template_renders_to_nothing_is_not_the_connection_s(
    unpod_sandbox: Sandbox, invoice: int
) -> None:
    unpod_sandbox.pay(invoice)
    sensor = UnpodInvoiceSensor(task_id="wait", invoice_id=invoice, org_handle="{{ org }}", deferrable=True)
    sensor.org_handle = ""

    with pytest.raises(AirflowFailException, match="`org_handle`"):
        sensor.execute({"ti": TaskInstance()})
    assert unpod_sandbox.stats["requests"] == 0


def test_an_organisation_that_another_task_gives_as_none_is_not_the_connection_s(unpod_sandbox: Sandbox) -> None:
    sensor = UnpodInvoiceSensor(task_id="wait", invoice_id=1, org_handle="{{ org }}")
    sensor.org_handle = None

    with pytest.raises(AirflowFailException, match="`org_handle` is None"):
        sensor.execute({})
    assert unpod_sandbox.stats["requests"] == 0


@pytest.mark.parametrize("mode", ["poke", "deferrable"])
def test_what_can_be_gone_through_only_once_means_the_same_at_every_look(
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


def test_a_server_that_does_not_speak_tls_is_never_asked_without_it(
    wait: Waiter, unpod_sandbox: Sandbox, invoice: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = {**json.loads(unpod_sandbox.connection_json()), "host": unpod_sandbox.url.replace("http:", "https:")}
    monkeypatch.setenv("AIRFLOW_CONN_UNPOD_DEFAULT", json.dumps(connection))

    with pytest.raises(UnpodUnreachable, match="speaks plain http"):
        wait(invoice_id=invoice, timeout=0)
    assert unpod_sandbox.stats["requests"] == 0


@pytest.fixture
def tls_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FaultyServer]:
    """One pending invoice at an https address that only the CA in ``ca.pem`` vouches for."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with FaultyServer(tls=context, otherwise=page([7], results=[row(7, status="pending")])) as server:
        connection = {"conn_type": "unpod", "host": server.url, "login": "acme.tv", "password": TOKEN}
        monkeypatch.setenv("AIRFLOW_CONN_UNPOD_DEFAULT", json.dumps(connection))
        yield server


def test_over_tls_a_ca_of_ones_own_is_trusted_in_every_mode(
    wait: Waiter, tls_server: FaultyServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    connection = json.loads(os.environ["AIRFLOW_CONN_UNPOD_DEFAULT"]) | {"extra": {"verify": str(tmp_path / "ca.pem")}}
    monkeypatch.setenv("AIRFLOW_CONN_UNPOD_DEFAULT", json.dumps(connection))

    def pay() -> None:
        tls_server.otherwise = page([7])

    assert wait(nothing, pay, invoice_id=7)["status"] == "paid"


def test_a_server_whose_certificate_nobody_trusts_never_sees_the_token_in_any_mode(
    wait: Waiter, tls_server: FaultyServer
) -> None:
    with pytest.raises(UnpodUnreachable, match="is not trusted"):
        wait(invoice_id=7, timeout=0)
    assert tls_server.connections == 1
    assert tls_server.requests == []


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
            sensor.execute({"ti": ti, "task_state_store": store})
        assert deferred.value.timeout is not None
        assert deferred.value.timeout > timedelta(seconds=3600)  # Airflow's own comes after the trigger's
        return datetime.fromisoformat(deferred.value.trigger.serialize()[1]["deadline"])

    first = deadline(1, 2)
    assert timedelta(seconds=3590) < first - datetime.now(timezone.utc) <= timedelta(seconds=3600)
    assert deadline(2, 2) == deadline(3, 2) == first
    cleared = deadline(4, 5)
    assert cleared > first
    assert deadline(5, 5) == cleared


def test_where_no_triggerer_ran_the_worker_takes_the_last_look(unpod_sandbox: Sandbox, invoice: int) -> None:
    given_up = {"error": "Trigger timeout"}

    def sensor(**options: Any) -> UnpodInvoiceSensor:
        return UnpodInvoiceSensor(task_id="wait", invoice_id=invoice, deferrable=True, timeout=60, **options)

    with pytest.raises(AirflowSensorTimeout, match=f"nvoice {invoice}: 299.00 USD, 'pending'.*triggerer"):
        sensor().resume_execution("__fail__", given_up, {})
    with pytest.raises(AirflowSkipException):
        sensor(soft_fail=True).resume_execution("__fail__", given_up, {})
    unpod_sandbox.pay(invoice)
    assert sensor().resume_execution("__fail__", given_up, {})["status"] == "paid"


def test_a_trigger_that_broke_is_an_error_and_never_a_skip(invoice: int) -> None:
    sensor = UnpodInvoiceSensor(task_id="wait", invoice_id=invoice, deferrable=True, soft_fail=True)

    with pytest.raises(Exception, match="Trigger failure"):
        sensor.resume_execution("__fail__", {"error": "Trigger failure"}, {})
    for event in (None, {}, {"state": "fine"}):
        with pytest.raises(AirflowException, match="no sense"):
            sensor.resume_execution("execute_complete", {"event": event}, {})
