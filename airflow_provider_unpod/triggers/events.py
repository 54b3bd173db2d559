"""The poll of event triggers, which writes down what was told only when Airflow has stored it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_provider_unpod.billing.watching.history import History
from airflow_provider_unpod.triggers.polling import poll
from airflow_provider_unpod.triggers.waits import waits_for

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable

    from airflow_provider_unpod.billing.watching.tracker import Snapshot, Subscriptions
    from airflow_provider_unpod.triggers.polling import PollFailure, PollKey

log = logging.getLogger(__name__)


@dataclass(slots=True)
class PolledEvent:
    """A look, and what those who saw it want done when all they told of it is stored."""

    seen: Snapshot | PollFailure
    commits: list[Callable[[], Awaitable[None]]] = field(default_factory=list)


def events_on(connection: PollKey) -> Hashable:
    """What event triggers that share a poll have in common."""
    return ("airflow_provider_unpod: events", *connection)


async def polled_events(subscriptions: Subscriptions, connection: PollKey) -> AsyncGenerator[PolledEvent, None]:
    """The poll of event triggers."""
    async for seen in poll(subscriptions, connection):
        yield PolledEvent(seen)


def producer(connection: PollKey) -> Any:
    """The same as a ``SharedStreamProducer``: Airflow tells it when the events of a look are in its database.

    Only then may they be forgotten; see :class:`Journal`.
    """
    from airflow.triggers.shared_stream import SharedStreamProducer

    class Producer(SharedStreamProducer):
        async def open_stream(self) -> AsyncGenerator[tuple[PolledEvent, PolledEvent], None]:
            async for event in polled_events(waits_for(events_on(connection)), connection):
                yield event, event

        async def advance(self, batch: Any) -> None:
            for event, outcome in batch:
                if outcome.failed:
                    continue  # whose events were not stored is not said: all tell theirs again after a restart
                for commit in event.commits:
                    await commit()

    return Producer()


class Journal:
    """What one trigger has told, kept with each asset that it serves (from Airflow 3.3 on).

    Written before an event is given to Airflow, with the event in it, and again when Airflow has stored it. After a
    crash in between the event is told again as it was: what it told may have been undone since, and whoever got it
    must hear of that, too.

    :param accessors: Airflow's ``asset_state_store`` of the trigger; ``None`` where there is none.
    :param identity: what the trigger tells of; watchers of one asset that tell different things share its store.
    """

    def __init__(self, accessors: Any, identity: object) -> None:
        digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
        self._key = f"airflow_provider_unpod.history.{digest}"
        # One trigger may serve several assets, and is not told which: Airflow's names of them are the only way.
        # Always in the same order, see `load`.
        by_name = getattr(accessors, "_by_name", {})
        self._accessors = [by_name[name] for name in sorted(by_name)]
        self._writing = asyncio.Lock()
        #: What was told and may not have been stored by Airflow.
        self._telling: list[dict[str, Any]] = []
        self.history = History()

    async def load(self) -> list[dict[str, Any]] | None:
        """What must be told again, after a restart; ``None`` if this is the first start."""
        # Written last to last: if a crash cut a write short this one is the older, and telling twice is allowed.
        for accessor in reversed(self._accessors):
            kept = await accessor.aget(self._key)
            if isinstance(kept, dict):
                try:
                    self.history = History.load(kept["history"])
                    self._telling = list(kept["telling"])
                except (KeyError, TypeError, ValueError) as error:
                    log.warning("Watching the invoices starts anew: %s", error)
                    return None
                return list(self._telling)
        return None

    async def tell(self, transitions: list[dict[str, Any]]) -> None:
        """Write down what is about to be told, and all that ``history`` has come to know."""
        if self._accessors:  # else nobody says what was stored, and this would only grow
            self._telling += transitions
        await self._write()

    async def confirm(self, transitions: list[dict[str, Any]]) -> None:
        """Airflow has stored these."""
        stored = {one["key"] for one in transitions}
        self._telling = [one for one in self._telling if one["key"] not in stored]
        await self._write()

    async def _write(self) -> None:
        """Does not raise: that would end the watching. The next transition is written together with this one."""
        if not self._accessors:
            return
        try:
            async with self._writing:
                telling, history = list(self._telling), self.history.copy()
                kept = {"history": await asyncio.to_thread(history.dump), "telling": telling}
                for accessor in self._accessors:
                    await accessor.aset(self._key, kept)
        except Exception as error:
            log.warning("What was told of the invoices could not be written down: %s", error)
