"""What one poll must read, and what it has read; and the source that counts its requests."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from airflow_provider_unpod.billing.http.cancellation import Cancellation
from airflow_provider_unpod.billing.invoice import Invoice, InvoiceId, is_integer, match_key
from airflow_provider_unpod.billing.reading.order import rank

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from airflow_provider_unpod.billing.client import Page
    from airflow_provider_unpod.billing.reading.fetcher import PageSource
    from airflow_provider_unpod.billing.watching.answers import Answer, Place
    from airflow_provider_unpod.billing.watching.subscriptions import Wanted


class Look:
    """What one poll must read, and what it has read.

    :param untold: changed invoices that no poll has reported yet.
    :param numbers: ids of wanted invoice numbers that were searched, ``None`` if not found. It is updated.
    :param began: number of requests of the watch before this poll.
    """

    def __init__(
        self, wanted: Wanted, untold: set[InvoiceId], numbers: dict[InvoiceId, InvoiceId | None], began: int
    ) -> None:
        self.everything = wanted.everything
        self.certain = wanted.certain
        self.keys = {*wanted.keys, *untold}
        #: Wanted keys that may be invoice numbers. An integer is never one, as in `Invoice.answers_to`.
        self.names = {key for key in self.keys if type(key) is str and not is_integer(key)}
        self.missing = set(self.keys)
        self.rows: dict[InvoiceId, Invoice] = {}
        #: Keys of invoices that are new or have another status.
        self.changed: set[InvoiceId] = set()
        self.numbers = numbers
        self.answers: list[Answer] = []
        #: Whether this poll reads everything for the first time.
        self.baseline = False
        #: Whether rows have a number beside their id, and whether numbers are in another order than ids.
        self.numbered = self.unsearchable = False
        self.began = began
        #: Number of requests of this poll that read the list in turn.
        self.in_turn = 0

    def add(self, answer: Answer) -> None:
        self.answers.append(answer)
        for invoice in answer.page.invoices:
            self.see(invoice)

    def report(self, changed: Iterable[Invoice]) -> None:
        """Keep invoices that are new or have another status."""
        rows = {invoice.key: invoice for invoice in changed}
        self.rows.update(rows)
        self.changed.update(rows)

    def see(self, invoice: Invoice) -> None:
        """Keep the invoice if it is wanted. Note the ids of wanted numbers."""
        key = invoice.key
        if key in self.keys:
            self.rows[key] = invoice
            self.missing.discard(key)
        if self.names and invoice.raw.get("id") is not None and invoice.raw.get("invoice_number") is not None:
            self.numbered = True
            name = match_key(invoice.raw["invoice_number"])
            known = self.rows.get(name)
            # The invoice with this id comes first. Of several with this number, it is the one with the greatest id.
            if name in self.names and (known is None or (known.key != name and rank(known.key) <= rank(key))):
                self.rows[name] = invoice
                self.missing.discard(name)
                self.numbers[name] = key

    def spanning(self, place: Place) -> Answer | None:
        """Return the latest response that spans ``place``."""
        return next((answer for answer in reversed(self.answers) if answer.spans(place)), None)

    def not_spanned(self, places: Sequence[Place]) -> list[Place]:
        """Return the sorted ``places`` that no response spans."""
        spanned = bytearray(len(places))
        for answer in self.answers:
            among = answer.among(places)
            spanned[among] = b"\x01" * (among.stop - among.start)
        return [place for place, done in zip(places, spanned, strict=True) if not done]


class CountedSource:
    """A source of pages that counts requests. All requests in flight can be cancelled at once."""

    def __init__(self, source: PageSource) -> None:
        self._source = source
        self.page_size = source.page_size
        self.max_concurrency = source.max_concurrency
        self.cancellation = Cancellation()
        self.requests = 0
        self._lock = threading.Lock()

    def get_page(self, page: int, page_size: int, cancellation: Cancellation | None = None) -> Page:
        with self._lock:
            self.requests += 1
        if cancellation is None:
            return self._source.get_page(page, page_size, self.cancellation)
        with self.cancellation.calling(cancellation.cancel):
            return self._source.get_page(page, page_size, cancellation)
