"""Finds the changes of statuses since the last report. Each change is reported once and has its own key.

A condition ("is paid") stays true and would be reported forever. A transition ("pending → paid") happens once. Its key
consists of the invoice, both statuses, and the number of times the status has changed. The key identifies repetitions,
for example after a crash, and a second "failed → paid" gets a new key.
"""

from __future__ import annotations

import base64
import itertools
import json
import logging
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_unpod.billing.errors import UnpodBadAnswer
from airflow_provider_unpod.billing.invoice import SETTLED_STATUSES, Invoice, InvoiceId, plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

log = logging.getLogger(__name__)

#: Most settled invoices to store. Only the newest are stored, so that the stored history stays small (about 20 KB).
MAX_SETTLED = 20_000

#: Previous status of a new invoice, in a transition's key.
NEW = "new"


@dataclass(frozen=True, slots=True)
class Transition:
    """A change of an invoice's status.

    :ivar before: the previous status, as in ``Invoice.status_key``. ``None`` for a new invoice.
    :ivar change: the number of times the status has changed, including this change.
    """

    invoice: Invoice
    before: str | None
    change: int
    seen_at: datetime

    @property
    def key(self) -> str:
        """The key of the transition. It is the same in every trigger and every repetition."""
        return f"{self.invoice.key}:{self.before or NEW}:{self.invoice.status_key}:{self.change}"

    def as_dict(self) -> dict[str, Any]:
        """Return the transition as a dictionary for JSON."""
        return {
            "key": self.key,
            "invoice_id": self.invoice.invoice_id,
            "from": self.before,
            "to": self.invoice.status_key,
            "invoice": _record_of(self.invoice),
            "seen_at": self.seen_at.isoformat(),
        }


def _record_of(invoice: Invoice) -> dict[str, Any]:
    """Return the record, or the raw row if it cannot be converted. Losing the transition would be worse."""
    try:
        return invoice.as_record()
    except UnpodBadAnswer as error:
        log.warning("The changed invoice is reported as the API sent it, because it is invalid: %s", error.message)
        row: dict[str, Any] = plain(dict(invoice.raw))
        return row


class History:
    """The last reported status of each invoice.

    :param statuses: statuses that have been reported already, as in ``Invoice.status_key``.
    """

    def __init__(self, statuses: Mapping[InvoiceId, str] | None = None) -> None:
        self._statuses = dict(statuses or {})
        # Change counters, stored only when they differ from the default (0 for open invoices, 1 for settled ones).
        self._changes: dict[InvoiceId, int] = {}
        # The greatest key that was not stored, for integer keys and for string keys.
        self._forgotten: dict[str, InvoiceId] = {}

    def __len__(self) -> int:
        return len(self._statuses)

    def observe(self, invoice: Invoice, seen_at: datetime) -> Transition | None:
        """Return the transition if the status differs from the reported one, and mark it as reported."""
        key, status = invoice.key, invoice.status_key
        before = self._statuses.get(key)
        if before == status:
            return None
        change = 0 if before is None else self._changes.get(key, _usual(before)) + 1
        self._statuses[key] = status
        if max(change, _usual(status) if before is None else 0) == _usual(status):
            self._changes.pop(key, None)
        else:
            self._changes[key] = change
        return Transition(invoice, before, change, seen_at)

    def news_in(self, statuses: Mapping[InvoiceId, str]) -> set[InvoiceId]:
        """Return the invoices of a complete list whose status differs from the reported one.

        Old settled invoices are not stored. If such an invoice may have been reported before, its status is accepted
        as reported.
        """
        news = set()
        for key, status in statuses.items():
            reported = self._statuses.get(key)
            if reported is None and status in SETTLED_STATUSES and self._was_forgotten(key):
                self._statuses[key] = status
            elif reported != status:
                news.add(key)
        return news

    def keep_only(self, keys: Iterable[InvoiceId]) -> None:
        """Forget all invoices except ``keys``, those of a complete list."""
        kept = set(keys)
        self._statuses = {key: status for key, status in self._statuses.items() if key in kept}
        self._changes = {key: change for key, change in self._changes.items() if key in kept}

    def copy(self) -> History:
        """Return an independent copy, which another thread can dump."""
        other = History(self._statuses)
        other._changes = dict(self._changes)
        other._forgotten = dict(self._forgotten)
        return other

    def dump(self, max_settled: int = MAX_SETTLED) -> dict[str, Any]:
        """Return the history as small JSON data: all open invoices and the newest settled ones.

        The data is compressed and encoded, so any database can store it, whatever the ids and statuses contain.
        """
        settled: dict[str, list[InvoiceId]] = {"int": [], "str": []}
        for key, status in self._statuses.items():
            if status in SETTLED_STATUSES and key not in self._changes:
                settled[type(key).__name__].append(key)
        forgotten = dict(self._forgotten)
        for kind, keys in settled.items():
            keys.sort()
            if len(keys) > max_settled:
                forgotten[kind] = max(keys[-max_settled - 1], forgotten.get(kind, keys[-max_settled - 1]))
                del keys[:-max_settled]
        by_status: dict[str, dict[str, list[InvoiceId]]] = {}
        for kind, keys in settled.items():
            for key in keys:
                by_status.setdefault(kind, {}).setdefault(self._statuses[key], []).append(key)
        for ids in by_status.get("int", {}).values():
            ids[1:] = [int(b) - int(a) for a, b in itertools.pairwise(ids)]  # small numbers pack well
        content = {
            "open": [
                [key, status, self._changes.get(key, _usual(status))]
                for key, status in self._statuses.items()
                if status not in SETTLED_STATUSES or key in self._changes
            ],
            "settled": by_status,
            "forgotten": forgotten,
        }
        packed = zlib.compress(json.dumps(content, separators=(",", ":")).encode(), 9)
        return {"version": 1, "packed": base64.b64encode(packed).decode()}

    @classmethod
    def load(cls, dumped: Mapping[str, Any]) -> History:
        """Restore the history that :meth:`dump` returned.

        :raises ValueError: if ``dumped`` is not the result of :meth:`dump`.
        """
        try:
            if dumped["version"] != 1:
                raise ValueError(f"version {dumped['version']!r}")
            content = json.loads(zlib.decompress(base64.b64decode(dumped["packed"])))
            history = cls()
            for kind, by_status in content["settled"].items():
                for status, keys in by_status.items():
                    last = 0
                    for key in keys:
                        last = key if kind == "str" else last + key
                        history._statuses[last] = status
            for key, status, change in content["open"]:
                history._statuses[key] = status
                if change != _usual(status):
                    history._changes[key] = change
            history._forgotten = dict(content["forgotten"])
        except (KeyError, TypeError, ValueError, zlib.error) as error:
            raise ValueError(f"not a stored history of invoices: {error}") from error
        return history

    def _was_forgotten(self, key: InvoiceId) -> bool:
        last = self._forgotten.get(type(key).__name__)
        return last is not None and key <= last  # type: ignore[operator]  # both are int, or both are str


def _usual(status: str) -> int:
    """Return how many changes usually lead to this status."""
    return 1 if status in SETTLED_STATUSES else 0
