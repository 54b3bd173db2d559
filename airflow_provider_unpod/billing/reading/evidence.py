"""What a read saw, and what it proves: the part of the manifest that says how completely the list was read."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_unpod.billing.arguments import choice_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_unpod.billing.reading.window_links import WindowPage

LINKED, REPEATED, SINGLE_PASS = "linked", "repeated", "single-pass"


def check_consistency(consistency: str) -> None:
    """:raises UnpodConfigError: if no reading can be asked for at this level."""
    choice_of(consistency, "consistency", (LINKED, SINGLE_PASS))


@dataclass(frozen=True, slots=True)
class Evidence:
    """How a finished read established that its list is complete."""

    #: The level reached: ``"linked"``, ``"repeated"`` or ``"single-pass"``.
    consistency: str
    #: Why a linked read fell back to whole passes, else ``None``.
    fallback: str | None
    #: Answers used, and requests made for them (without a request's own retries).
    windows: int
    requests: int
    #: Gaps around which windows had to be read again.
    relinked: int
    #: Whole passes over the list: 1, except for ``"repeated"``.
    passes: int
    #: ``count`` in the first and in the last answer, and how many different ones came; ``None`` where the API has none.
    count_first: int | None
    count_last: int | None
    counts_seen: int
    #: Different invoices given out, before any filter; rows that came again and were dropped (overlaps included).
    invoices: int
    duplicates_dropped: int
    #: ``"by id"``, ``"by date"`` or ``"assumed"``: what the rows say about the list's order.
    order: str
    #: How the end was established: ``"short"`` (short answer that agrees with ``count``), ``"short twice"`` (no
    #: ``count``), ``"count"`` (rows end before it; the server drops some after slicing), ``"empty"``, ``"past"``
    #: (a page after the last).
    end: str

    def as_dict(self) -> dict[str, Any]:
        """The same, ready for JSON."""
        return asdict(self)


class Tally:
    """Evidence in the making."""

    def __init__(self, on_answer: Callable[[Tally], None] = lambda tally: None) -> None:
        self._on_answer = on_answer
        self.windows = 0
        self.rows = 0
        self.invoices = 0
        self.relinked = 0
        self.passes = 1
        self.counts: set[int] = set()
        self.count_first: int | None = None
        self.count_last: int | None = None
        self.fallback: str | None = None
        self.order = "assumed"
        self.end = ""

    def saw(self, answer: WindowPage) -> None:
        if not self.windows:
            self.count_first = answer.count
        self.windows += 1
        self.rows += len(answer.invoices)
        self.count_last = answer.count
        if answer.count is not None:
            self.counts.add(answer.count)
        self._on_answer(self)

    def close(self, consistency: str, requests: int) -> Evidence:
        return Evidence(
            consistency=consistency,
            fallback=self.fallback,
            windows=self.windows,
            requests=requests,
            relinked=self.relinked,
            passes=self.passes,
            count_first=self.count_first,
            count_last=self.count_last,
            counts_seen=len(self.counts),
            invoices=self.invoices,
            duplicates_dropped=self.rows - self.invoices,
            order=self.order,
            end=self.end,
        )
