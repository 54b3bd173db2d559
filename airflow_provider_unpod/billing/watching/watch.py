"""Follows the list of invoices in few requests: finds one, or polls many again and again.

In a list in strict order of its ids, a poll reads the windows where the wanted invoices are, the window where new
invoices appear, and more windows in turn, so that the whole list is read again bit by bit. A response that spans an id
and does not contain it is enough for "not yet". Only a complete read proves that an invoice does not exist, because it
may be inserted out of order.

A list in no such order is read completely, as often as the allowance of the day permits.
"""

from __future__ import annotations

import logging
import sys
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from airflow_provider_unpod.billing.errors import UnpodError, UnpodListUnstable
from airflow_provider_unpod.billing.invoice import Invoice, InvoiceId, match_key
from airflow_provider_unpod.billing.reading.order import BY_ID
from airflow_provider_unpod.billing.reading.reading import read_list
from airflow_provider_unpod.billing.watching.allowance import Allowance
from airflow_provider_unpod.billing.watching.answers import IdOrder
from airflow_provider_unpod.billing.watching.follower import REMEMBERED, Follower, NotInOrder, get_page_1
from airflow_provider_unpod.billing.watching.known_list import KnownList
from airflow_provider_unpod.billing.watching.look import CountedSource, Look
from airflow_provider_unpod.billing.watching.subscriptions import TRANSIENT, Postponed, Snapshot, Wanted

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from airflow_provider_unpod.billing.reading.evidence import Evidence
    from airflow_provider_unpod.billing.reading.fetcher import PageSource

log = logging.getLogger(__name__)

#: Most windows that one poll reads in turn.
_MOST_IN_TURN = 10
#: Number of polls in a row that found the list unstable, until it is read completely.
_UNSTABLE_POLLS = 3
#: Number of complete reads in a row that may fail. Only the allowance permits more.
_FAILED_READS = 3


class ListWatch:
    """Follows the invoices of one organization. Use it from one thread at a time.

    :param source: client that requests the pages.
    :param allowance: requests beyond what each poll needs. Default: ``DAILY_REQUESTS`` a day.
    :param memory: :meth:`memory` of an earlier watch of the same list.
    """

    def __init__(
        self, source: PageSource, allowance: Allowance | None = None, memory: Mapping[str, Any] | None = None
    ) -> None:
        self._source = CountedSource(source)
        self._allowance = allowance or Allowance()
        self._polls = 0
        self._follower: Follower | None = None  # None: the order is not known yet, or the list has none
        self._in_order = True
        self._was_in_order = False  # so it may be again
        self._statuses: dict[InvoiceId, str] = {}  # after a complete read, of all invoices
        self._removed: dict[InvoiceId, str] = {}  # last statuses; they may turn up elsewhere
        self._complete = False
        self._succeeded = False
        self._unstable = 0  # polls in a row
        self._absent: dict[InvoiceId, int] = {}  # from key to the poll that proved its absence
        self._read_at = 0  # number of the latest poll that read everything, or all that it wanted
        self._failed = (0, 0)  # complete reads in a row that failed, and the requests of the latest
        self._untold: set[InvoiceId] = set()  # changed, and in no snapshot yet
        # From each wanted invoice number that was searched to the id. None: it was not found.
        self._numbers: dict[InvoiceId, InvoiceId | None] = {}
        self._found: Collection[InvoiceId] = ()  # keys of the invoices in the latest snapshot
        self._cost = 1  # requests of the latest complete read
        self._explained = False
        if memory:
            self._follow_by(Follower.recalled(self._source, memory))
            self._numbers, self._succeeded = dict(memory["numbers"]), True

    def statuses(self) -> dict[InvoiceId, str]:
        """Return a copy of the last known status of all known invoices."""
        return dict(self._statuses)

    def cancel(self) -> None:
        """Cancel the poll that runs in another thread. It raises ``Cancelled`` there."""
        self._source.cancellation.cancel()

    def locate(self, invoice_id: InvoiceId) -> Invoice | None:
        """Return the current invoice, or ``None`` if a complete read has proved that it is not in the list.

        :param invoice_id: ``id`` or ``invoice_number`` of the invoice. ``101`` and ``"101"`` are the same.
        :raises UnpodError: if the list cannot be read.
        """
        key = match_key(invoice_id)
        seen = self.poll(Wanted({key}, {key: self._polls}), last=True)
        assert isinstance(seen, Snapshot)  # because the last poll is never postponed
        return seen.rows.get(key)

    def memory(self) -> dict[str, Any] | None:
        """Return JSON data about where the wanted invoices are. ``None`` if the list is in no order."""
        if self._follower is None:
            return None
        numbers = [[name, key] for name, key in self._numbers.items()][:REMEMBERED]
        return {**self._follower.memory(self._found), "numbers": numbers}

    def poll(self, wanted: Wanted, *, number: int | None = None, last: bool = False) -> Snapshot | Postponed:
        """Poll the list once.

        :param number: number of this poll. Default: the previous number plus 1.
        :param last: whether no poll follows, so that this one must not be postponed.
        :raises UnpodError: if the list cannot be read. The next successful poll reports the changes seen until then.
        """
        self._polls = self._polls + 1 if number is None else number
        look = Look(wanted, self._untold, self._numbers, self._source.requests)
        first, read = not self._succeeded, None
        try:
            read = self._read(look, last=last)
        except UnpodListUnstable:
            self._unstable += 1
            if self._follower is not None:
                self._follower.distrust_rows()
            raise
        finally:
            self._untold |= look.changed
            needed = self._source.requests - look.began - look.in_turn
            self._allowance.spend_on_poll(needed, first=first and read is not None)
        if not read:
            return Postponed(self._polls, datetime.now(timezone.utc))
        self._succeeded, self._unstable = True, 0
        self._absent = {key: poll for key, poll in self._absent.items() if key in look.certain and key in look.missing}
        self._numbers = {name: self._numbers.get(name) if name in look.rows else None for name in look.names}
        self._found = {invoice.key for invoice in look.rows.values()}
        changed, self._untold = tuple(self._untold & look.rows.keys()), set()
        first = first or look.baseline
        return Snapshot(self._polls, datetime.now(timezone.utc), look.rows, changed, self.statuses, first)

    def _read(self, look: Look, *, last: bool) -> bool:
        """Read what this poll needs. Return whether it was read, and not postponed."""
        look.baseline = look.everything and not self._complete
        due = self._in_order and _is_due(self._unstable)
        needed = last or due or look.baseline or not self._succeeded
        if self._in_order and not look.baseline and not due:
            try:
                enough = self._follow(look)
            except NotInOrder:
                self._give_up_order()
                if not look.everything and not look.missing:
                    return True  # the next poll reads everything
            else:
                blind = (last and look.missing) or look.unsearchable
                if enough and not blind and not self._unproved(look):
                    self._read_in_turn(look)
                    return True
                needed = True
        needed = needed or self._unproved(look) or self._full_cost == 1
        failures, cost = self._failed
        if last or (needed and failures < _FAILED_READS):
            self._read_all(look)
            return True
        if not self._allowance.grants(cost if needed else max(self._full_cost, cost)):
            self._explain_postponing()
            return False
        with self._from_allowance(look):
            self._read_all(look)
        return True

    def _explain_postponing(self) -> None:
        if not self._explained:
            self._explained = True
            log.info(
                "The list is in no order of its ids, has no `count`, or changes faster than it can be read, so it must "
                "be read completely: about %s requests, as often as the %s `daily_requests` of the connection allow.",
                f"{max(self._full_cost, self._failed[1]):,}",
                f"{self._allowance.daily:,}",
            )

    @property
    def _full_cost(self) -> int:
        """Requests of a complete read, as far as known."""
        return max(self._cost, self._follower.full_cost if self._follower else 1)

    @contextmanager
    def _from_allowance(self, look: Look) -> Iterator[None]:
        """Count the requests in this block as not needed by the poll."""
        before = self._source.requests
        try:
            yield
        finally:
            look.in_turn += self._source.requests - before
            self._allowance.spend(self._source.requests - before)

    def _unproved(self, look: Look) -> bool:
        """Return whether an invoice is missing whose absence must be proved and is not."""
        if not self._in_order:  # then nothing was read in this poll, and one complete read is proof of either
            return any(self._read_at <= since for since in look.certain.values())
        return any(self._absent.get(key, 0) <= since for key, since in look.certain.items() if key in look.missing)

    # --- complete reads

    def _read_all(self, look: Look) -> None:
        """Read the whole list. If the list is in no order and a few invoices are wanted, stop when they are found."""
        statuses: dict[InvoiceId, str] = {}
        changed: list[Invoice] = []
        ends: list[InvoiceId] = []
        compare, whole = look.everything and self._complete, look.everything or self._in_order or self._was_in_order
        before = self._source.requests
        try:
            with read_list(self._source) as reading:
                for invoice in reading:
                    key = invoice.key
                    status = statuses[key] = sys.intern(invoice.status_key)
                    ends[1:] = [key]
                    look.see(invoice)
                    if compare and self._statuses.get(key, self._removed.get(key)) != status:
                        changed.append(invoice)
                    if not whole and not look.missing:
                        self._cost, self._read_at, self._failed = self._source.requests - before, self._polls, (0, 0)
                        return
                evidence = reading.evidence
        except UnpodError:
            self._failed = self._failed[0] + 1, self._source.requests - before
            raise
        self._read_at, self._failed = self._polls, (0, 0)
        look.report(changed)
        self._absent.update(dict.fromkeys(look.missing & look.certain.keys(), self._polls))
        self._continue_from(statuses, ends, evidence)

    def _continue_from(self, statuses: dict[InvoiceId, str], ends: list[InvoiceId], evidence: Evidence) -> None:
        order = IdOrder.of(ends) if evidence.order == BY_ID and evidence.count_last is not None else None
        self._complete, self._cost, self._unstable, self._in_order = True, evidence.requests, 0, order is not None
        self._follower, self._statuses, self._removed = None, statuses, {}
        if order is not None:
            self._follow_by(Follower(self._source, KnownList(order, statuses)))

    # --- a list in order

    def _follow(self, look: Look) -> bool:
        """Read what is needed, see :meth:`Follower.follow`."""
        if self._follower is None:
            page = get_page_1(self._source)
            order = IdOrder.of([invoice.key for invoice in page.invoices])
            if order is None or page.count is None:
                raise NotInOrder
            follower = self._follow_by(Follower(self._source, KnownList(order)))
            follower.learn_limit(page, look)
        else:
            follower = self._follower
        return follower.follow(look)

    def _follow_by(self, follower: Follower) -> Follower:
        self._follower, self._was_in_order = follower, True
        self._statuses, self._removed = follower.known.statuses, follower.known.removed
        return follower

    def _give_up_order(self) -> None:
        self._follower, self._in_order = None, False

    def _read_in_turn(self, look: Look) -> None:
        """Continue to read the whole list, for changes of settled invoices and for missing ones out of order."""
        follower = self._follower
        if follower is None or not (look.everything or look.missing):
            return
        try:
            for _ in range(_MOST_IN_TURN):
                # What the poll needed is counted at its end.
                ahead = self._source.requests - look.began - look.in_turn + 1
                if not (follower.knows_next(look) and self._succeeded and self._allowance.grants(ahead)):
                    return
                with self._from_allowance(look):
                    follower.read_next(look)
        except NotInOrder:
            self._give_up_order()  # the next poll reads everything
        except TRANSIENT as error:
            if isinstance(error, UnpodListUnstable):
                follower.distrust_rows()
            log.info("The invoices that nobody waits for will be read again later: %s", error)


def _is_due(unstable: int) -> bool:
    """Return whether so many polls in a row that found the list unstable call for a complete read, ever more seldom."""
    times, rest = divmod(unstable, _UNSTABLE_POLLS)
    return times > 0 and rest == 0 and times & (times - 1) == 0
