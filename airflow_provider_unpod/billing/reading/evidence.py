"""The evidence that a list was read completely. It becomes part of the manifest."""

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


def consistency_of(value: Any, name: str) -> Any:
    """Check the level of consistency that a caller requests.

    :raises UnpodConfigError: for any other value.
    """
    return choice_of(value, name, (LINKED, SINGLE_PASS))


@dataclass(slots=True)
class Evidence:
    """How a read established that the list is complete. It is updated during the read."""

    #: Level reached: ``"linked"``, ``"repeated"`` or ``"single-pass"``.
    consistency: str
    #: Why a linked read fell back to repeated passes. ``None`` if it did not.
    fallback: str | None = None
    #: Number of responses used, and of requests made for them (without retries).
    windows: int = 0
    requests: int = 0
    #: Number of gaps that were closed by reading windows around them again.
    relinked: int = 0
    #: Number of passes over the whole list. Always 1, except for ``"repeated"``.
    passes: int = 1
    #: ``count`` in the first and in the last response, and the number of different values. ``None`` if the API sends no
    #: ``count``. A 404 after the last page has no ``count`` and is ignored.
    count_first: int | None = None
    count_last: int | None = None
    counts_seen: int = 0
    #: Number of different invoices read, before any selection.
    invoices: int = 0
    #: Number of repeated rows. Overlapping windows always have some.
    duplicates_dropped: int = 0
    #: Order of the rows: ``"by id"``, ``"by date"`` or ``"assumed"``.
    order: str = ASSUMED
    #: How the end of the list was detected. ``"short"``: a response was shorter than requested and ended where its own
    #: ``count`` says. ``"past"``: the page after the last row was empty or a 404, too.
    end: str = ""

    _counts: set[int] = field(default_factory=set)

    def saw(self, page: WindowPage) -> None:
        """Count a response."""
        if not self.windows:
            self.count_first = page.count
        self.windows += 1
        self.duplicates_dropped += len(page.invoices)  # `added` subtracts the new ones
        if not page.past_end:
            self.count_last = page.count
        if page.count is not None:
            self._counts.add(page.count)
            self.counts_seen = len(self._counts)

    def added(self, invoices: int) -> None:
        """Count new invoices."""
        self.invoices += invoices
        self.duplicates_dropped -= invoices

    def as_dict(self) -> dict[str, Any]:
        """Return the evidence as a dictionary for JSON."""
        return {name: getattr(self, name) for name in self.__slots__ if not name.startswith("_")}
