"""The token is not in errors, logs, events or stored arguments of operators, sensors and triggers."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, Connection

from airflow_provider_unpod.billing.errors import UnpodError
from airflow_provider_unpod.hooks.unpod import UnpodHook
from airflow_provider_unpod.operators.billing import UnpodBillingOperator
from airflow_provider_unpod.sandbox import Sandbox
from airflow_provider_unpod.sensors.invoice import UnpodInvoiceSensor
from airflow_provider_unpod.triggers.invoice import UnpodInvoiceTrigger
from tests.odd_server import KINDS, TOKEN


@pytest.fixture
def logged(odd_connection: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """Returns everything that was logged at DEBUG since the test began, unmasked."""
    monkeypatch.setenv("AIRFLOW_CONN_UNPOD_DEFAULT", odd_connection)
    caplog.set_level(logging.DEBUG)
    return lambda: caplog.text + "".join(f"{record.args!r}{record.__dict__!r}" for record in caplog.records)


def everything_about(error: BaseException) -> str:
    """Return the traceback of an error with its causes, and their attributes."""
    texts = ["".join(traceback.format_exception(error))]
    seen: BaseException | None = error
    while seen is not None:
        texts.append(f"{seen!r} {seen.args!r} {vars(seen)!r}")
        seen = seen.__cause__ or seen.__context__
    return " ".join(texts)


def run_operator(**arguments: Any) -> Any:
    return UnpodBillingOperator(task_id="export", **arguments).execute({})


TASKS: dict[str, Callable[[str, Path], Any]] = {
    "records": lambda kind, folder: run_operator(org_handle=kind),
    "files": lambda kind, folder: run_operator(org_handle=kind, output_path=str(folder)),
    "sensor": lambda kind, folder: UnpodInvoiceSensor(task_id="wait", org_handle=kind, invoice_id=1).poke({}),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", TASKS)
def test_a_token_repeated_by_the_server_is_not_in_the_error_or_the_log(
    what: str, kind: str, logged: Callable[[], str], tmp_path: Path
) -> None:
    with pytest.raises((UnpodError, AirflowFailException)) as raised:
        TASKS[what](kind, tmp_path)

    assert TOKEN not in everything_about(raised.value)
    assert TOKEN not in logged()
    assert not any(TOKEN.encode() in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())


@pytest.mark.parametrize("kind", KINDS)
def test_a_failed_connection_test_does_not_show_the_token(kind: str, logged: Callable[[], str]) -> None:
    ok, message = UnpodHook(org_handle=kind).test_connection()

    assert not ok
    assert TOKEN not in message + logged()


@pytest.mark.parametrize("kind", KINDS)
def test_the_event_of_a_failed_wait_does_not_contain_the_token(kind: str, logged: Callable[[], str]) -> None:
    trigger = UnpodInvoiceTrigger(
        invoice_id=1,
        org_handle=kind,
        poke_interval=0.01,
        max_failures=2,
        deadline=datetime.now(timezone.utc).isoformat(),
    )

    async def events() -> list[Any]:
        return [event.payload async for event in trigger.run()]

    (payload,) = asyncio.run(events())

    assert payload["state"] in ("error", "timeout")
    assert TOKEN not in f"{payload!r} {trigger!r} {trigger.serialize()!r} {logged()}"


def test_the_repr_of_hook_client_and_reading_does_not_contain_the_token(unpod_sandbox: Sandbox) -> None:
    hook = UnpodHook()
    client = hook.get_conn()
    reading = hook.iter_invoices()
    invoices = list(reading)
    hook.get_invoice(101)
    hook.test_connection()

    shown = f"{hook!r} {vars(hook)!r} {client!r} {reading!r} {vars(reading)!r} {reading.evidence!r} {invoices[0]!r}"
    assert unpod_sandbox.token not in shown


def test_operator_and_sensor_hold_nothing_whose_repr_contains_the_token(unpod_sandbox: Sandbox) -> None:
    operator = UnpodBillingOperator(task_id="export")
    sensor = UnpodInvoiceSensor(task_id="wait", invoice_id="101")
    operator.execute({})
    sensor.poke({})

    assert unpod_sandbox.token not in f"{operator!r} {vars(operator)!r} {sensor!r} {vars(sensor)!r}"


@pytest.mark.parametrize("name", ["unpod_conn_id", "org_handle", "storage_conn_id"])
def test_a_connection_passed_as_its_id_is_refused_without_showing_its_password(
    name: str, unpod_sandbox: Sandbox, tmp_path: Path
) -> None:
    argument: dict[str, Any] = {name: "{{ conn.c }}"}
    operator = UnpodBillingOperator(task_id="export", output_path=str(tmp_path), **argument)
    # As text like this, or as it is where templates are native.
    text = f"Connection(conn_id='c', conn_type='unpod', description=None, host=None, schema=None, password='{TOKEN}')"
    for rendered in (text, Connection(conn_id="c", conn_type="unpod", password=TOKEN)):
        setattr(operator, name, rendered)
        with pytest.raises(AirflowFailException, match=f"`{name}`") as raised:
            operator.execute({})
        assert TOKEN not in everything_about(raised.value)
