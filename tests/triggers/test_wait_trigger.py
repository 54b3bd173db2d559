"""Many waits share one poll. It never blocks the triggerer, and transient faults do not end waits."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from asgiref.sync import async_to_sync

from airflow_provider_unpod.billing.errors import UnpodConfigError
from airflow_provider_unpod.billing.watching.subscriptions import Postponed, Snapshot
from airflow_provider_unpod.billing.watching.watch import ListWatch
from airflow_provider_unpod.sandbox import Sandbox
from airflow_provider_unpod.triggers import polling
from airflow_provider_unpod.triggers.invoice import UnpodInvoiceEventTrigger, UnpodInvoiceTrigger
from airflow_provider_unpod.triggers.waits import Waits
from tests.billing.reading.moving_list import MovingList, row
from tests.sensors.modes import SHARED_STREAMS, impatient_client, shared_events

needs_shared_streams = [pytest.param(True, id="shared")] if SHARED_STREAMS else []


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> Any:
    with impatient_client(monkeypatch):
        yield


async def first(events: AsyncIterator[Any]) -> Any:
    async for event in events:
        return event.payload
    raise AssertionError("the trigger ended without an event")


async def until(condition: Any, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def trigger(invoice_id: Any, **arguments: Any) -> UnpodInvoiceTrigger:
    return UnpodInvoiceTrigger(**{"invoice_id": invoice_id, "poke_interval": 0.05, **arguments})


@pytest.mark.parametrize(
    "one", [trigger([1, "INV-2"], on_missing="fail", deadline="2026-01-01T00:00:00+00:00"), UnpodInvoiceEventTrigger()]
)
def test_a_trigger_survives_serialization_and_contains_no_secret(one: Any, unpod_sandbox: Sandbox) -> None:
    path, kwargs = one.serialize()

    assert path.rsplit(".", 1) == [type(one).__module__, type(one).__name__]
    assert type(one)(**kwargs).serialize() == (path, kwargs)
    assert unpod_sandbox.token not in repr(kwargs)


def test_waits_and_watchers_that_airflow_has_stored_stay_readable() -> None:
    """Rows of the table ``trigger``, as 0.1.0 has written them: an upgrade must not strand a deferred task."""
    path = "airflow_provider_unpod.triggers.invoice"
    wait: dict[str, Any] = {
        "invoice_id": [1, "INV-2"],
        "target_status": "paid",
        "failure_statuses": ["cancelled", "failed", "refunded"],
        "wait_for": "all",
        "on_missing": "wait",
        "unpod_conn_id": "unpod_default",
        "org_handle": None,
        "poke_interval": 60.0,
        "deadline": "2026-01-01T00:00:00+00:00",
        "max_failures": 5,
        "failures": 0,
    }
    watch: dict[str, Any] = {
        "unpod_conn_id": "unpod_default",
        "org_handle": None,
        "to_statuses": None,
        "invoice_ids": None,
        "poke_interval": 60.0,
        "on_first_start": "nothing",
    }
    assert UnpodInvoiceTrigger(**wait).serialize() == (f"{path}.UnpodInvoiceTrigger", wait)
    assert UnpodInvoiceEventTrigger(**watch).serialize() == (f"{path}.UnpodInvoiceEventTrigger", watch)


@pytest.mark.parametrize("kind", [trigger, lambda _, **arguments: UnpodInvoiceEventTrigger(**arguments)])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("poke_interval", one) for one in ("3", -5, float("nan"), float("inf"), True, None, timedelta(seconds=-1))],
        *[("org_handle", one) for one in ("", "   ", 7.5, "None")],
        *[("unpod_conn_id", one) for one in ("", " ", None, 7.5)],
    ],
)
def test_an_invalid_argument_is_refused_when_the_trigger_is_made(kind: Any, name: str, value: Any) -> None:
    with pytest.raises(UnpodConfigError, match=f"`{name}`"):
        kind(101, **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("max_failures", one) for one in (0, -1, True, 2.0, "5", None)],
        *[("failures", one) for one in (-1, None)],
        *[("deadline", one) for one in ("soon", "", 7, "12:30", "2026-01")],
        *[("wait_for", one) for one in ("some", None)],
        ("on_missing", "ignore"),
        ("target_status", ""),
        ("failure_statuses", None),
    ],
)
def test_the_wait_trigger_refuses_what_the_sensor_refuses(name: str, value: Any) -> None:
    with pytest.raises(UnpodConfigError, match=f"`{name}`"):
        trigger(101, **{name: value})


def test_an_interval_as_timedelta_shares_the_poll_of_the_same_interval_in_seconds() -> None:
    assert (
        trigger(1, poke_interval=timedelta(minutes=1)).shared_stream_key()
        == trigger(2, poke_interval=60).shared_stream_key()
    )
    _, kwargs = UnpodInvoiceEventTrigger(poke_interval=timedelta(minutes=1)).serialize()
    assert kwargs["poke_interval"] == 60.0


if SHARED_STREAMS:

    @pytest.mark.slow
    @pytest.mark.unpod_sandbox(invoices=500)
    def test_a_hundred_waits_cost_the_requests_of_one(unpod_sandbox: Sandbox) -> None:
        from airflow.triggers.shared_stream import SharedStreamManager

        invoices = [unpod_sandbox.create().id for _ in range(100)]

        async def waits(number: int) -> float:
            manager = SharedStreamManager()
            tasks = [
                asyncio.ensure_future(first(shared_events(trigger(invoice), manager, trigger_id)))
                for trigger_id, invoice in enumerate(invoices[:number])
            ]
            await until(lambda: unpod_sandbox.stats["requests"] >= 40)
            unpod_sandbox.reset_stats()
            began = time.monotonic()
            await until(lambda: time.monotonic() - began > 0.5)
            rate = unpod_sandbox.stats["requests"] / (time.monotonic() - began)
            for invoice in invoices[:number]:
                unpod_sandbox.pay(invoice)
            done = await asyncio.gather(*tasks)
            assert [event["result"]["id"] for event in done] == invoices[:number]
            assert not manager._groups
            return rate

        one = asyncio.run(waits(1))
        for invoice in invoices:
            unpod_sandbox.ledger.set_status(invoice, "pending")
        unpod_sandbox.reset_stats()
        assert asyncio.run(waits(100)) < 3 * one + 20


@pytest.mark.parametrize("shared", [False, *needs_shared_streams])
def test_the_last_wait_to_leave_cuts_the_request_in_flight_and_ends_its_thread(
    unpod_sandbox: Sandbox, shared: bool
) -> None:
    unpod_sandbox.faults("delay:seconds=20")
    threads = set(threading.enumerate())

    async def main() -> float:
        one = trigger(1)
        task = asyncio.ensure_future(first(shared_events(one) if shared else one.run()))
        await until(lambda: unpod_sandbox.stats["in_flight"] == 1)
        began = time.monotonic()
        task.cancel()
        await asyncio.wait([task])
        await until(lambda: not [one for one in threading.enumerate() if one.name.startswith("unpod-page")])
        return time.monotonic() - began

    assert asyncio.run(main()) < 2
    assert {one.name for one in set(threading.enumerate()) - threads if "unpod" in one.name} == set()


def test_a_slow_response_does_not_block_the_event_loop(unpod_sandbox: Sandbox) -> None:
    unpod_sandbox.faults("drip:seconds=10")

    async def main() -> float:
        task = asyncio.ensure_future(first(trigger(unpod_sandbox.create().id).run()))
        await until(lambda: unpod_sandbox.stats["in_flight"] == 1)
        stalls = []
        for _ in range(4):  # other programs stall this one, too, but not each time
            longest = 0.0
            began = last = time.monotonic()
            while last - began < 0.3:
                await asyncio.sleep(0.001)
                now = time.monotonic()
                longest, last = max(longest, now - last), now
            stalls.append(longest)
        task.cancel()
        await asyncio.wait([task])
        return min(stalls)

    assert asyncio.run(main()) < 0.05


def test_an_outage_logs_one_warning_and_its_end_one_line(
    unpod_sandbox: Sandbox, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    invoice = unpod_sandbox.create().id
    steps = {2: lambda: unpod_sandbox.faults("503"), 8: unpod_sandbox.faults, 9: lambda: unpod_sandbox.pay(invoice)}

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        steps.get(len(pauses), lambda: None)()

    monkeypatch.setattr(polling, "_pause", pause)
    with caplog.at_level(logging.INFO, "airflow_provider_unpod.triggers"):
        event = asyncio.run(first(trigger(invoice, poke_interval=10).run()))

    assert event["state"] == "done"
    lines = [(record.levelname, record.getMessage()) for record in caplog.records if "polling" in record.name]
    assert [level for level, _ in lines] == ["WARNING", "INFO"]
    assert unpod_sandbox.token not in repr(lines)
    # Six failed polls: the second comes after one interval, the others ever later, up to ten intervals.
    assert pauses[2] <= 10 < pauses[3] < pauses[4] < pauses[5]
    assert max(pauses) <= 110
    assert pauses[8] <= 10


def test_invalid_credentials_end_a_wait_only_after_max_failures_polls_in_a_row(
    unpod_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    polls = 0

    async def pause(seconds: float) -> None:
        nonlocal polls
        polls += 1
        if polls == 2:
            unpod_sandbox.faults("401")
        elif polls == 4:
            unpod_sandbox.faults()
        elif polls == 6:
            unpod_sandbox.faults("401")

    monkeypatch.setattr(polling, "_pause", pause)
    invoice = unpod_sandbox.create().id
    event = asyncio.run(first(trigger(invoice, max_failures=3).run()))

    assert (event["state"], event["error"], event["status"]) == ("error", "UnpodAuthError", 401)
    assert f"nvoice {invoice}: 299.00 USD, 'pending'" in event["message"]
    assert 8 <= polls <= 10  # the poll may be a pause ahead of the wait that it ended


def test_a_replaced_token_is_used_by_the_next_poll(unpod_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    right = unpod_sandbox.connection_json()
    monkeypatch.setenv("AIRFLOW_CONN_UNPOD_DEFAULT", right.replace(unpod_sandbox.token, "expired-token"))
    invoice = unpod_sandbox.create(status="paid").id

    async def pause(seconds: float) -> None:
        monkeypatch.setenv("AIRFLOW_CONN_UNPOD_DEFAULT", right)

    monkeypatch.setattr(polling, "_pause", pause)
    assert asyncio.run(first(trigger(invoice).run()))["state"] == "done"


def test_the_secrets_are_masked_by_a_request_on_the_event_loop_which_a_cancellation_does_not_cut(
    unpod_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow before 3.3 ends the triggerer if the response to such a request is not read by its event loop."""
    masked: list[asyncio.AbstractEventLoop] = []
    began: list[str] = []
    responded = asyncio.Event()

    async def request() -> None:
        await responded.wait()
        masked.append(asyncio.get_running_loop())

    def mask_secret(secret: str) -> None:
        began.append(secret)
        async_to_sync(request)()

    monkeypatch.setattr("airflow_provider_unpod.hooks.unpod._mask_secret", mask_secret)
    invoice = unpod_sandbox.create(status="paid").id

    async def main() -> asyncio.AbstractEventLoop:
        task = asyncio.ensure_future(first(trigger(invoice).run()))
        await until(lambda: began)
        task.cancel()
        asyncio.get_running_loop().call_soon(responded.set)
        await asyncio.wait([task])
        await until(lambda: len(masked) == len(began))
        assert (await first(trigger(invoice).run()))["state"] == "done"
        return asyncio.get_running_loop()

    loop = asyncio.run(main())
    assert unpod_sandbox.token in began
    assert set(masked) == {loop}


def test_a_connection_that_does_not_exist_ends_the_wait_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    async def pause(seconds: float) -> None:
        pass

    monkeypatch.setattr(polling, "_pause", pause)
    event = asyncio.run(first(trigger(1, unpod_conn_id="not_there").run()))

    assert (event["state"], event["error"]) == ("error", "UnpodConfigError")
    assert "not_there" in event["message"]


def test_one_last_poll_comes_after_the_deadline(unpod_sandbox: Sandbox) -> None:
    over = "2026-01-01T00:00:00+00:00"
    paid, pending = unpod_sandbox.create(status="paid").id, unpod_sandbox.create().id

    assert asyncio.run(first(trigger(paid, deadline=over).run()))["state"] == "done"
    event = asyncio.run(first(trigger(pending, deadline=over).run()))
    assert event["state"] == "timeout"
    assert f"nvoice {pending}: 299.00 USD, 'pending'" in event["message"]


def test_a_deferred_task_resumes_no_sooner_than_the_scheduler_has_recorded_its_deferral(
    unpod_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(
        "airflow_provider_unpod.triggers.invoice.asyncio", SimpleNamespace(**{**vars(asyncio), "sleep": sleep})
    )
    alone, deferred = (trigger(unpod_sandbox.create(status="paid").id) for _ in range(2))
    monkeypatch.setattr(
        type(deferred), "task_instance", property(lambda self: self is deferred or None, lambda *_: None), raising=False
    )

    assert asyncio.run(first(alone.run()))["state"] == asyncio.run(first(deferred.run()))["state"] == "done"
    assert slept[0] == 0
    assert 8 < slept[1] <= 10


def test_a_row_that_cannot_become_a_record_fails_its_own_wait_and_no_other() -> None:
    statuses = {3: "paid", 7: "paid"}
    listed = MovingList(
        50, make_row=lambda n: row(n, statuses.get(n, "pending")) | ({"tax_amount": "soon"} if n == 7 else {})
    )

    async def main() -> list[Any]:
        waits, tracker = Waits(), ListWatch(listed)

        async def polls() -> AsyncGenerator[Snapshot | Postponed, None]:
            while True:
                yield tracker.poll(waits.begin(), number=waits.polls)
                await asyncio.sleep(0)

        ends = [asyncio.ensure_future(first(trigger(number)._wait(waits))) for number in (7, 3)]
        await asyncio.sleep(0)
        polling = asyncio.ensure_future(waits.deliver(polls()))
        try:
            return await asyncio.wait_for(asyncio.gather(*ends), 10)
        finally:
            polling.cancel()

    bad, good = asyncio.run(main())
    assert (bad["state"], bad["error"]) == ("error", "UnpodBadAnswer")
    assert "tax_amount" in bad["message"]
    assert (good["state"], good["result"]["id"]) == ("done", 3)


def test_a_broken_wait_does_not_end_the_others() -> None:
    def breaks(seen: Any) -> Any:
        raise ZeroDivisionError

    async def main() -> list[Any]:
        waits = Waits()
        joined = [asyncio.ensure_future(waits.join(judge)) for judge in (breaks, lambda seen: {"state": "done"})]
        await asyncio.sleep(0)

        async def polls() -> AsyncGenerator[Any, None]:
            yield "a snapshot"

        await waits.deliver(polls())
        return await asyncio.gather(*joined, return_exceptions=True)

    broken, good = asyncio.run(main())
    assert isinstance(broken, ZeroDivisionError)
    assert good == {"state": "done"}
