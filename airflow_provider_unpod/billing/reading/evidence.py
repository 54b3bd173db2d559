"""What a reading saw and what it proves: the part of the manifest that says how completely the list was read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_provider_unpod.billing.arguments import choice_of
from airflow_provider_unpod.billing.reading.order import ASSUMED

if TYPE_CHECKING:
    from airflow_provider_unpod.billing.reading.windows import WindowPage

LINKED, REPEATED, SINGLE_PASS = "linked", "repeated", "single-pass"
#: How the end of the list was established.
SHORT, PAST = "short", "past"


def check_consistency(consistency: str) -> None:
    """:raises UnpodConfigError: if no reading can be asked for at this level."""
    choice_of(consistency, "consistency", (LINKED, SINGLE_PASS))


@dataclass(slots=True)
class Evidence:
    """How a reading established that its list is complete; counts while it reads."""

    #: The level reached: ``"linked"``, ``"repeated"`` or ``"single-pass"``.
    consistency: str
    #: Why a linked reading fell back to whole passes, else ``None``.
    fallback: str | None = None
    #: Responses used, and requests made for them (without a request's own retries).
    windows: int = 0
    requests: int = 0
    #: Gaps around which windows were read again.
    relinked: int = 0
    #: Whole passes over the list: 1, except for ``"repeated"``.
    passes: int = 1
    #: ``count`` in the first and in the last response, and how many different values it took; ``None`` where the API
    #: gives none. A 404 behind the last page has no ``count`` and does not matter here.
    count_first: int | None = None
    count_last: int | None = None
    counts_seen: int = 0
    #: Different invoices read, before any selection.
    invoices: int = 0
    #: Rows that came again and were dropped; overlapping windows always have some.
    duplicates_dropped: int = 0
    #: ``"by id"``, ``"by date"`` or ``"assumed"``: what the rows say about the list's order.
    order: str = ASSUMED
    #: ``"short"``: a response shorter than asked for whose last row is the last by its own ``count``. ``"past"``: an
    #: empty page or a 404 behind the last row.
    end: str = ""

    _counts: set[int] = field(default_factory=set)

    def saw(self, page: WindowPage) -> None:
        """Count a response."""
        if not self.windows:
            self.count_first = page.count
        self.windows += 1
        self.duplicates_dropped += len(page.invoices)  # until `added` says which of them are new
        if not page.past_end:
            self.count_last = page.count
        if page.count is not None:
            self._counts.add(page.count)
            self.counts_seen = len(self._counts)

    def added(self, invoices: int) -> None:
        """Count invoices that had not been read before."""
        self.invoices += invoices
        self.duplicates_dropped -= invoices

    def as_dict(self) -> dict[str, Any]:
        """The same, ready for JSON."""
        return {name: getattr(self, name) for name in self.__slots__ if not name.startswith("_")}
