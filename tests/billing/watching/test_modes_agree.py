"""Every way to ask for an invoice gives the same answer about the same states of a real HTTP server."""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import ExitStack
from itertools import pairwise
from typing import Any

import pytest

from airflow_provider_unpod.billing.errors import UnpodInvoiceNotFound
from airflow_provider_unpod.billing.watching.condition import Condition
from airflow_provider_unpod.billing.watching.poller import InvoicePoller
from airflow_provider_unpod.hooks.unpod import UnpodHook
from airflow_provider_unpod.sandbox import Sandbox
from airflow_provider_unpod.triggers import polling
from airflow_provider_unpod.triggers.invoice import UnpodInvoiceEventTrigger, UnpodInvoiceTrigger

INVOICES = 230
#: Some on each of the three pages, and some that do not exist at first.
ASKED = [0, 1, 60, 110, 111, 170, INVOICES - 2, INVOICES - 1, INVOICES, INVOICES + 2]
MISSING = "missing"


class Recording:
    """States of a server, and what each way of asking says about each of them."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def start(self, stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
        """Return a new server in the first state."""
        sandbox = stack.enter_context(Sandbox(invoices=INVOICES))
        monkeypatch.setenv("AIRFLOW_CONN_UNPOD_DEFAULT", sandbox.connection_json())
        for number in sandbox.ledger.ids():
            sandbox.ledger.set_status(number, "pending")
        self.chance, self.sandbox = random.Random(self.seed), sandbox
        self.ids = sorted(sandbox.ledger.ids())
        self.first = self.ids[0]
        return sandbox

    def move(self) -> dict[int, str]:
        """Move the server to its next state, which is the same for each server. Return its statuses."""
        ledger, chance = self.sandbox.ledger, self.chance
        for _ in range(chance.randint(0, 5)):
            number = self.first + chance.choice([*ASKED, chance.randrange(INVOICES)])
            what = chance.choice(["paid", "failed", "cancelled", "paid", "create", "delete"])
            if what == "create":
                self.sandbox.create(status="pending")
            elif number in ledger and ledger.get(number).status == "pending":
                if what == "delete":
                    ledger.delete(number)
                else:
                    ledger.set_status(number, what)
        return {one.id: one.status for one in ledger.invoices()}


def state_of(status: str, on_missing: str) -> str:
    if status == MISSING:
        return "failed" if on_missing == "fail" else "waiting"
    return {"paid": "done", "pending": "waiting"}.get(status, "failed")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_hook_poke_reschedule_and_deferred_waits_agree_on_every_state(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording, states = Recording(seed), 10
    ends: dict[tuple[int, str], str] = {}
    with ExitStack() as stack:
        recording.start(stack, monkeypatch)
        hook = UnpodHook()
        asked = [recording.first + place for place in ASKED]
        waits = {
            (number, on_missing): Condition.from_arguments(number, on_missing=on_missing)
            for number in asked
            for on_missing in ("wait", "fail")
        }
        pokes = {which: InvoicePoller(one, UnpodHook().get_conn, 5) for which, one in waits.items()}
        memories: dict[Any, Any] = dict.fromkeys(waits)
        for _ in range(states):
            here = recording.move()
            for number in asked:
                try:
                    located = hook.get_invoice(number).status
                except UnpodInvoiceNotFound:
                    located = MISSING
                assert located == here.get(number, MISSING)
            for which, condition in waits.items():
                expected = state_of(here.get(which[0], MISSING), which[1])
                poked = pokes[which].poll()
                again = InvoicePoller(condition, UnpodHook().get_conn, 5)
                again.continue_from(0, memories[which])
                resumed = again.poll()
                memories[which] = json.loads(json.dumps(again.memory()))
                again.close()
                assert poked is not None
                assert resumed is not None
                assert poked == resumed
                assert poked.state == expected
                if expected != "waiting":
                    ends.setdefault(which, f"{expected} {pokes[which]._polls}")
        for poller in pokes.values():
            poller.close()

    for (number, on_missing), end in list(ends.items())[:: 1 + len(ends) // 8]:
        with ExitStack() as stack:
            recording.start(stack, monkeypatch)
            recording.move()
            trigger = UnpodInvoiceTrigger(invoice_id=number, on_missing=on_missing, poke_interval=0.05)
            states_passed: list[int] = [1]

            async def pause(seconds: float, passed: list[int] = states_passed) -> None:
                passed[0] += 1
                recording.move()

            async def first(trigger: UnpodInvoiceTrigger = trigger, passed: list[int] = states_passed) -> str:
                async for event in trigger.run():
                    return str(event.payload["state"])
                raise AssertionError

            monkeypatch.setattr(polling, "_pause", pause)
            state = asyncio.run(first())
            # The poll may be a pause ahead of the wait that it ended.
            assert f"{state} {states_passed[0]}" in (end, f"{end.split()[0]} {int(end.split()[1]) + 1}")


@pytest.mark.parametrize("seed", range(4))
def test_events_tell_each_change_of_an_open_invoice_once_and_in_the_order_of_the_states(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording, states = Recording(seed), 12
    with ExitStack() as stack:
        sandbox = recording.start(stack, monkeypatch)
        past = [{one.id: one.status for one in sandbox.ledger.invoices()}]
        told: list[tuple[int, Any, str]] = []
        over = asyncio.Event()

        async def pause(seconds: float) -> None:
            if len(past) > states:
                over.set()
                await asyncio.sleep(3_600)
            past.append(recording.move())

        async def collect() -> None:
            async for event in UnpodInvoiceEventTrigger(poke_interval=0.05).run():
                told.extend((one["invoice_id"], one["from"], one["to"]) for one in event.payload["transitions"])

        async def main() -> None:
            collecting = asyncio.ensure_future(collect())
            await asyncio.wait_for(over.wait(), 60)
            collecting.cancel()
            await asyncio.wait([collecting])

        monkeypatch.setattr(polling, "_pause", pause)
        asyncio.run(main())
    expected = [
        (number, before.get(number), status)
        for before, after in pairwise(past)
        for number, status in after.items()
        if before.get(number) != status
    ]
    assert sorted(told, key=repr) == sorted(expected, key=repr)
