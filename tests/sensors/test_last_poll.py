"""Before a wait gives up on an invoice that was not found, it has read the whole list once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

import pytest
from airflow.providers.common.compat.sdk import AirflowSensorTimeout, AirflowSkipException

from tests.billing.faulty_server import TOKEN, FaultyServer, Request, Script, answer, row
from tests.sensors.modes import MODES, Waiter, impatient_client

#: Newest first. Nothing but a complete read shows an invoice with a higher id in the middle.
IN_ORDER = list(range(500, 0, -1))
MISPLACED = 77_777


class Listed(FaultyServer):
    """Serves a list of paid invoices in pages."""

    ids = IN_ORDER

    def __init__(self) -> None:
        super().__init__(otherwise=self.respond)

    def respond(self, request: Request) -> Script:
        page, size = int(request.query["page"]), int(request.query["page_size"])
        rows = [row(number) for number in self.ids[(page - 1) * size : page * size]]
        return answer({"count": len(self.ids), "status_code": 200, "message": "Fetched", "results": rows})

    def rows_read(self) -> set[int]:
        windows = [(int(one.query["page"]), int(one.query["page_size"])) for one in self.requests]
        return {number for page, size in windows for number in self.ids[(page - 1) * size : page * size]}


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listed]:
    server = Listed()
    with server, impatient_client(monkeypatch):
        connection = {"conn_type": "unpod", "host": server.url, "login": "acme", "password": TOKEN}
        monkeypatch.setenv("AIRFLOW_CONN_UNPOD_DEFAULT", json.dumps(connection))
        yield server


def expired(waiter: Waiter) -> None:
    """The task was first rescheduled an hour ago, so its next poll is the last one."""
    waiter.ti.first_reschedule = datetime.now(timezone.utc) - timedelta(hours=1)


def test_in_reschedule_mode_the_poll_after_the_timeout_reads_the_whole_list_once(
    listed: Listed, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait = Waiter("reschedule", monkeypatch)
    counts: list[int] = []

    def note() -> None:
        counts.append(len(listed.requests))
        listed.requests.clear()
        if len(counts) == 3:
            expired(wait)

    with pytest.raises(AirflowSensorTimeout, match=rf"{MISPLACED} was not found yet"):
        wait(note, note, note, invoice_id=MISPLACED, timeout=600)

    assert max(counts) <= 4
    assert listed.rows_read() == set(IN_ORDER)
    assert len(listed.requests) <= 4 + 8


def test_in_reschedule_mode_the_poll_after_the_timeout_finds_an_invoice_wherever_it_is(
    listed: Listed, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed.ids = [*IN_ORDER[:350], MISPLACED, *IN_ORDER[350:]]
    wait = Waiter("reschedule", monkeypatch)

    record = wait(lambda: None, lambda: expired(wait), invoice_id=MISPLACED, timeout=600)

    assert (record["id"], record["status"]) == (MISPLACED, "paid")


@pytest.mark.parametrize("mode", MODES)
def test_a_wait_with_one_poll_finds_an_invoice_wherever_it_is(
    listed: Listed, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    listed.ids = [*IN_ORDER[:350], MISPLACED, *IN_ORDER[350:]]

    assert Waiter(mode, monkeypatch)(invoice_id=MISPLACED, timeout=0)["id"] == MISPLACED


@pytest.mark.parametrize("mode", MODES)
def test_a_wait_that_may_be_skipped_reads_the_whole_list_before_it_is(
    listed: Listed, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    with pytest.raises(AirflowSkipException, match="was not found yet"):
        Waiter(mode, monkeypatch)(invoice_id=MISPLACED, timeout=0, soft_fail=True)

    assert listed.rows_read() == set(IN_ORDER)


@pytest.mark.parametrize("mode", MODES)
def test_a_wait_for_invoices_that_were_all_found_needs_no_complete_read_at_its_end(
    listed: Listed, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    with pytest.raises(AirflowSensorTimeout):
        Waiter(mode, monkeypatch)(invoice_id=250, target_status="refunded", failure_statuses=[], timeout=0)

    assert len(listed.requests) <= 3


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "reschedule"])
def test_a_wait_with_many_polls_finds_an_invoice_wherever_it_is_before_it_times_out(
    listed: Listed, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    def insert() -> None:
        listed.ids = [*IN_ORDER[:350], MISPLACED, *IN_ORDER[350:]]

    steps = [lambda: None, insert, *[lambda: None] * 100_000]
    assert Waiter(mode, monkeypatch)(*steps, invoice_id=MISPLACED, timeout=0.5)["id"] == MISPLACED
