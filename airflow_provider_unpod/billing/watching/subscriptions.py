"""The invoices that a poll must read, and what it returns."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airflow_provider_unpod.billing.errors import UnpodListUnstable, UnpodRateLimited, UnpodUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from datetime import datetime

    from airflow_provider_unpod.billing.invoice import Invoice, InvoiceId

#: Transient errors. They never end a wait, however often they occur.
TRANSIENT = (UnpodUnavailable, UnpodRateLimited, UnpodListUnstable)


@dataclass(frozen=True, slots=True)
class Wanted:
    """The invoices that a poll must read.

    :ivar keys: the :func:`~airflow_provider_unpod.billing.invoice.match_key` of each wanted invoice.
    :ivar certain: keys whose absence must be proved. The value is the number of the poll after which the proof counts.
    :ivar everything: whether the poll must also read all open invoices and report every change.
    """

    keys: Collection[InvoiceId] = frozenset()
    certain: Mapping[InvoiceId, int] = field(default_factory=dict)
    everything: bool = False


class Subscriptions:
    """The invoices that the subscribers of a poll want. Also counts the polls. Not thread-safe."""

    def __init__(self) -> None:
        #: Number of the latest poll.
        self.polls = 0
        self._keys: Counter[InvoiceId] = Counter()
        self._certain: dict[InvoiceId, int] = {}
        self._everything = 0

    def add(self, keys: Collection[InvoiceId], *, certain: bool = False, everything: bool = False) -> None:
        """Subscribe to these invoices in all future polls."""
        self._keys.update(keys)
        self._everything += everything
        if certain:
            self._certain.update(dict.fromkeys(keys, self.polls))

    def remove(self, keys: Collection[InvoiceId], *, everything: bool = False) -> None:
        """Unsubscribe. Pass the same arguments as to :meth:`add`."""
        self._everything -= everything
        for key in keys:
            self._keys[key] -= 1
            if not self._keys[key]:
                del self._keys[key]
                self._certain.pop(key, None)

    def begin(self) -> Wanted:
        """Start a poll and return the invoices that it must read."""
        self.polls += 1
        return Wanted(frozenset(self._keys), dict(self._certain), self._everything > 0)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The result of one poll. All waits share it, so do not modify it.

    :ivar number: number of the poll.
    :ivar at: time when the poll ended, in UTC.
    :ivar rows: the wanted invoices by wanted key, and the changed ones. All were read in this poll. If a key of
        ``Wanted.certain`` is missing here, the invoice is proved not to exist.
    :ivar changed: keys of new invoices, and of those whose status has changed since they were last read. Empty in the
        first poll.
    :ivar statuses: function that returns the last known status of all known invoices.
    :ivar first: whether this is the first poll, so that earlier changes are unknown.
    """

    number: int
    at: datetime
    rows: Mapping[InvoiceId, Invoice]
    changed: Collection[InvoiceId]
    statuses: Callable[[], dict[InvoiceId, str]]
    first: bool = False


@dataclass(frozen=True, slots=True)
class Postponed:
    """A poll without a result, because the list is in no order and a complete read exceeds the allowance now."""

    number: int
    at: datetime
