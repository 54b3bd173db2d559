"""What changed since somebody last looked, told once and under a name of its own.

A condition ("is paid") stays true and would be told for ever; a transition ("pending → paid") happens. Each one has a
key made of the invoice, both statuses and how many times the invoice has changed its status, so that the same
transition told twice (after a crash, for instance) is recognised, and a second failed → paid is a new one.
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

#: Of the settled invoices the newest this many are kept, so that what is stored stays small (some 20 KB).
MAX_SETTLED = 20_000

#: How a transition calls the status of an invoice that was not there before.
NEW = "new"


@dataclass(frozen=True, slots=True)
class Transition:
    """One invoice changed its status; ``before`` is ``None`` where it was not known before."""

    invoice: Invoice
    before: str | None
    change: int
    seen_at: datetime

    @property
    def key(self) -> str:
        """The same for the same transition, whoever tells it and however often."""
        return f"{self.invoice.key}:{self.before or NEW}:{self.invoice.status}:{self.change}"

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "key": self.key,
            "invoice_id": self.invoice.invoice_id,
            "from": self.before,
            "to": self.invoice.status,
            "invoice": _record_of(self.invoice),
            "seen_at": self.seen_at.isoformat(),
        }


def _record_of(invoice: Invoice) -> dict[str, Any]:
    """The record, or the row as it came if there is something in it that no record may hold: not told is worse."""
    try:
        return invoice.as_record()
    except UnpodBadAnswer as error:
        log.warning("The record of a changed invoice is given as the API sent it: %s", error.message)
        row: dict[str, Any] = plain(dict(invoice.raw))
        return row


class History:
    """The status of each invoice as it was told last.

    :param statuses: what counts as told already.
    """

    def __init__(self, statuses: Mapping[InvoiceId, str] | None = None) -> None:
        self._statuses = dict(statuses or {})
        # How often an invoice changed, where that is not what its status lets one expect: never for unsettled ones,
        # once for settled ones. So nothing is kept for the great majority.
        self._changes: dict[InvoiceId, int] = {}
        # The greatest ids that were dropped from what is stored; one for numbers, one for texts.
        self._forgotten: dict[str, InvoiceId] = {}

    def __len__(self) -> int:
        return len(self._statuses)

    def observe(self, invoice: Invoice, seen_at: datetime) -> Transition | None:
        """The transition, if this is news; it is no news the next time."""
        key, status = invoice.key, invoice.status
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
        """The invoices of a complete list that differ; forgotten ones are taken up as they are."""
        news = set()
        for key, status in statuses.items():
            told = self._statuses.get(key)
            if told is None and status in SETTLED_STATUSES and self._was_forgotten(key):
                self._statuses[key] = status
            elif told != status:
                news.add(key)
        return news

    def keep_only(self, keys: Iterable[InvoiceId]) -> None:
        """Drop the invoices that a complete list does not have any more."""
        kept = set(keys)
        self._statuses = {key: status for key, status in self._statuses.items() if key in kept}
        self._changes = {key: change for key, change in self._changes.items() if key in kept}

    def copy(self) -> History:
        other = History(self._statuses)
        other._changes = dict(self._changes)
        other._forgotten = dict(self._forgotten)
        return other

    def dump(self, max_settled: int = MAX_SETTLED) -> dict[str, Any]:
        """A small JSON-ready form: all unsettled invoices, and the newest settled ones."""
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
        told: dict[str, dict[str, list[InvoiceId]]] = {}
        for kind, keys in settled.items():
            for key in keys:
                told.setdefault(kind, {}).setdefault(self._statuses[key], []).append(key)
        for ids in told.get("int", {}).values():
            ids[1:] = [int(b) - int(a) for a, b in itertools.pairwise(ids)]  # small numbers pack well
        packed = zlib.compress(json.dumps(told, separators=(",", ":")).encode(), 9)
        return {
            "version": 1,
            "open": [
                [key, status, self._changes.get(key, _usual(status))]
                for key, status in self._statuses.items()
                if status not in SETTLED_STATUSES or key in self._changes
            ],
            "settled": base64.b64encode(packed).decode(),
            "forgotten": forgotten,
        }

    @classmethod
    def load(cls, dumped: Mapping[str, Any]) -> History:
        """:raises ValueError: if this is nothing that :meth:`dump` has made."""
        try:
            if dumped["version"] != 1:
                raise ValueError(f"version {dumped['version']!r}")
            history = cls()
            told = json.loads(zlib.decompress(base64.b64decode(dumped["settled"])))
            for kind, by_status in told.items():
                for status, keys in by_status.items():
                    last = 0
                    for key in keys:
                        last = key if kind == "str" else last + key
                        history._statuses[last] = status
            for key, status, change in dumped["open"]:
                history._statuses[key] = status
                if change != _usual(status):
                    history._changes[key] = change
            history._forgotten = dict(dumped["forgotten"])
        except (KeyError, TypeError, ValueError, zlib.error) as error:
            raise ValueError(f"This is no stored history of invoices: {error}") from error
        return history

    def _was_forgotten(self, key: InvoiceId) -> bool:
        last = self._forgotten.get(type(key).__name__)
        return last is not None and key <= last  # type: ignore[operator]  # both are int, or both are str


def _usual(status: str) -> int:
    """How often an invoice has usually changed to have this status."""
    return 1 if status in SETTLED_STATUSES else 0
