"""Reads a whole list in linked windows while it changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_provider_unpod.billing.reading.evidence import PAST, SHORT
from airflow_provider_unpod.billing.reading.order import BY_ID
from airflow_provider_unpod.billing.reading.window_links import Link, Links, Unlinkable
from airflow_provider_unpod.billing.reading.windows import (
    SMALLEST_LIMIT,
    Window,
    WindowPage,
    chain,
    ends_list,
    farthest,
    planned_requests,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_unpod.billing.invoice import Invoice
    from airflow_provider_unpod.billing.reading.evidence import Evidence
    from airflow_provider_unpod.billing.reading.fetcher import Fetcher

#: A read may make this many times the requests that an unchanging list of the same length needs ...
PATIENCE = 4
#: ... plus this many, because a list that changes at its end needs more there.
PATIENCE_AT_THE_END = 50
#: Longest list to plan for, even if its `count` is larger.
_MOST_ROWS = 10_000_000
#: Most responses whose end is doubtful.
_MOST_DOUBTS = 12
#: Pages by which rows may shift between two responses without a change of `count`. A larger shift means a new order.
_SLACK_PAGES = 3
#: Give up after this many responses in a row without a new invoice (a full re-read not counted).
_MOST_IDLE = 30
#: Rows by which the first window across a gap goes back. Most gaps are caused by one or two deletions.
_STEP_BACK = 9


@dataclass(slots=True)
class _End:
    """Judges from short responses whether the end of the list is reached."""

    #: The response that shows the end. ``None`` until it is reached.
    last: WindowPage | None = None
    #: Whether the page after it was requested, and was empty or a 404.
    past: bool = False
    #: Number of short responses that did not prove the end.
    doubts: int = 0

    @property
    def reached(self) -> bool:
        return self.last is not None

    def judge(self, page: WindowPage, link: Link) -> None:
        """Judge whether the list ends with this short response.

        The server may have cut the page at exactly this row. It then returned other rows than requested, so the shared
        rows are not in place. In a changing list they never are, so a window is needed that no server cuts.
        """
        if link.in_place or page.window.size <= SMALLEST_LIMIT:
            self.last = page
        else:
            self.doubt()

    def doubt(self) -> None:
        """Record a response that did not prove the end."""
        self.last = None
        self.doubts += 1


class LinkedRead:
    """One read of the list. :meth:`pages` yields every invoice once, in list order while the list does not change.

    The server must send ``count`` in every response, apply its page limit from the first response on, and return every
    window in full except the last. A response that is short *inside* the list, or that disagrees with its own
    ``count``, is discarded. So a linked response is a contiguous part of the list, without omitted rows.
    """

    def __init__(self, fetcher: Fetcher, evidence: Evidence, page_size: int) -> None:
        self.links = Links(slack=_SLACK_PAGES * page_size)
        self._fetcher = fetcher
        self._evidence = evidence
        self._plan = _Plan(fetcher)
        self._cap = page_size  # most rows per page
        self._expected = 0  # latest `count`
        self._idle = 0  # number of responses since the last new invoice
        self._discarded = False  # whether a response disagreed with its own `count`
        self._end = _End()

    def pages(self) -> Iterator[list[Invoice]]:
        """Yield the new invoices of each response.

        :raises Unlinkable: if windows cannot be linked on this server.
        :raises UnpodListUnstable: if the list changed too much.
        """
        self._fetcher.limit = 1
        yield self._begin_with(self._fetcher.now(Window(0, self._cap)))
        while not self._end.reached:
            self._give_up_if_hopeless()
            page = self._receive(self._plan.next(self.links.reach, self._widest, self._expected))
            fresh = self._take_in(page)
            if fresh is None:
                yield from self._bridge(page)
            else:
                yield fresh
            if self._end.last is not None and not self._quiet:
                yield from self._confirm_end(self._end.last)
        yield from self._compare_with_count()
        self._evidence.end, self._evidence.order = PAST if self._end.past else SHORT, self.links.order.order

    def _begin_with(self, first: WindowPage) -> list[Invoice]:
        """Determine the length of the list and the server's page limit from the first response."""
        rows = len(self._receive(first).invoices)
        limited = first.short and 0 < rows < self._expected
        if limited and rows < SMALLEST_LIMIT:
            raise _cut(first)
        if limited:
            self._cap = rows
        longest = min(self._expected, _MOST_ROWS) + self._cap
        self._fetcher.limit = PATIENCE * planned_requests(longest, self._cap) + PATIENCE_AT_THE_END
        if limited:
            return []  # read again in windows of that size, which the server must return in full
        fresh = self._take_in(first)
        self._end.last = first if first.is_whole_list else None
        return fresh or []

    @property
    def _quiet(self) -> bool:
        """Whether the list has not changed so far."""
        return not (self.links.moved or self._discarded or self._evidence.counts_seen > 1)

    @property
    def _widest(self) -> int:
        """The size of the largest window to request. Near a doubtful end, it is so small that no server cuts it."""
        near_the_end = self._expected < self.links.reach + self._cap
        return min(self._cap, SMALLEST_LIMIT) if self._end.doubts and near_the_end else self._cap

    def _bridge(self, beyond: WindowPage) -> Iterator[list[Invoice]]:
        """Read windows around the gap before ``beyond``, until ``beyond`` links or its rows have been read."""
        self._evidence.relinked += 1
        back = _STEP_BACK
        while not self._end.reached and beyond.window.end > (reach := self.links.reach):
            self._give_up_if_hopeless()
            # A read can always restart at the first row. A size that differs from the first request's detects a server
            # that ignores `page_size`, the most likely cause of a gap.
            window = farthest(reach - back, self._widest) if back < reach else Window(0, max(1, self._cap - 1))
            fresh = self._take_in(self._fetch(window))
            if fresh is None:
                back *= 4
                continue
            yield fresh
            # With small pages, such a wide step may not get any farther. Then continue from the last row.
            back = _STEP_BACK if self.links.reach != reach else 1
            if not self._end.reached and (fresh := self._take_in(beyond)) is not None:
                yield fresh
                return

    # --- responses

    def _fetch(self, window: Window) -> WindowPage:
        return self._receive(self._fetcher.now(window))

    def _receive(self, page: WindowPage) -> WindowPage:
        self._evidence.saw(page)
        if len(page.invoices) > page.window.size:
            raise Unlinkable("the server ignores page_size")
        if page.count is not None:
            self._expected = page.count
        elif not page.past_end:
            raise Unlinkable("a response had no `count`")
        return page

    def _take_in(self, page: WindowPage) -> list[Invoice] | None:
        """Return the new invoices of ``page``. ``None`` if it shares no row with the responses before.

        They count as read from now on, so yield them before anything that may raise an error.
        """
        if page.short and not page.shows_end and (page.invoices or not page.window.start):
            self._drop(page)
            return []
        link = self.links.add(page)
        self._idle = 0 if link and link.fresh else self._idle + 1
        if link and page.short:
            self._plan.forget()
            self._end.judge(page, link)
        return link.fresh if link else None

    def _confirm_end(self, last: WindowPage) -> Iterator[list[Invoice]]:
        """Check that no row follows ``last`` in a list that has changed. Yield new invoices.

        Rows that a server omits may add up to its ``count`` in the middle of such a list. ``last`` is read again, since
        a row after it may have moved into it before the next page was requested. If it has changed, once more.
        """
        for _ in range(2):
            after = self._fetch(Window(last.window.end, last.window.size))
            if after.invoices or not ends_list(after, self._fetch):
                break
            again = self._fetch(last.window)
            link = self.links.add(again) if again.shows_end else None
            if link is None:
                break
            yield link.fresh
            if again.page == last.page:
                self._end.past = True
                return
        else:
            self._end.past = True
            return
        self._end.doubt()

    def _drop(self, page: WindowPage) -> None:
        """Discard a response whose rows disagree with its ``count``. From now on, the list counts as changing."""
        if page.window.size > SMALLEST_LIMIT and page.window.end <= self._expected:
            raise _cut(page)
        self._discarded = True
        self._end.doubt()
        self._plan.forget()

    def _give_up_if_hopeless(self) -> None:
        if self.links.order.ties and len(self.links) > 1:
            raise Unlinkable("invoices with the same date are in no fixed order")
        if self._end.doubts > _MOST_DOUBTS:
            raise Unlinkable(
                f"the end of the list was still unclear after {self._end.doubts} attempts: `count` is "
                f"{self._expected}, but the rows end at {self.links.reach}"
            )
        idle = self._idle - _MOST_IDLE
        if idle > 0 and idle > planned_requests(self.links.invoices, self._cap):
            raise Unlinkable(
                f"{self._idle} responses in a row had no new invoice: `count` is {self._expected}, but only "
                f"{self.links.invoices} invoices were found"
            )

    def _compare_with_count(self) -> Iterator[list[Invoice]]:
        """Fewer invoices than a ``count`` that never moved: something left the place where it was to be read.

        A deletion there and an insertion in front look like that, and are harmless; so does an invoice that changed its
        place, and is missing. The front of the list shows which, if the list is in the order of its ids.
        """
        if self._evidence.counts_seen != 1 or len(self.links) == 1:
            return
        count = self._expected
        order = self.links.order.order
        if self.links.invoices < count and order == BY_ID:
            front = self.links.add(self._fetch(Window(0, self._cap)))
            yield front.fresh if front else []
        if self.links.invoices < count or order != self.links.order.order:
            raise Unlinkable(
                f"`count` was {count} in every response, but only {self.links.invoices} invoices were found"
            )


def _cut(page: WindowPage) -> Unlinkable:
    return Unlinkable(
        f"page {page.window.page} with a page size of {page.window.size} has {len(page.invoices)} invoices, but "
        f"`count` is {page.count}"
    )


class _Plan:
    """Requests the windows from the current position to the expected end ahead."""

    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher
        self._windows: Iterator[Window] = iter(())
        self._widest = 0
        self._end = 0  # end of the last window that was requested

    def next(self, reach: int, widest: int, expected: int) -> WindowPage:
        """Return the next response. A finished plan is replaced by a new one that starts at ``reach``.

        :param widest: size of the largest window in rows.
        :param expected: expected number of rows. Windows after the first one that ends there are not requested.
        """
        if widest != self._widest:
            self.forget()
        self._ask_ahead(expected)
        if not self._fetcher.waiting:
            self._windows, self._widest = chain(reach, widest), widest
            if not self._ask():
                raise Unlinkable(f"windows of at most {widest} rows cannot overlap at row {reach}")
            self._ask_ahead(expected)
        return self._fetcher.take()

    def forget(self) -> None:
        """Discard the windows that were requested ahead."""
        self._fetcher.drop()
        self._windows, self._end = iter(()), 0

    def _ask_ahead(self, expected: int) -> None:
        while self._fetcher.room and self._fetcher.requests < self._fetcher.limit and self._end <= expected:
            if not self._ask():
                return

    def _ask(self) -> bool:
        window = next(self._windows, None)
        if window is not None:
            self._end = window.end
            self._fetcher.ask(window)
        return window is not None
