"""Reading a whole list by linked windows, while it moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_provider_unpod.billing.reading.evidence import SHORT
from airflow_provider_unpod.billing.reading.order import BY_ID
from airflow_provider_unpod.billing.reading.window_links import Link, Links, Unlinkable
from airflow_provider_unpod.billing.reading.windows import (
    SMALLEST_LIMIT,
    Window,
    WindowPage,
    chain,
    farthest,
    planned_requests,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_unpod.billing.invoice import Invoice
    from airflow_provider_unpod.billing.reading.evidence import Evidence
    from airflow_provider_unpod.billing.reading.fetcher import Fetcher

#: A read gives up beyond this many times the requests that it would need if nothing moved ...
PATIENCE = 4
#: ... and this many more, which the end of a list may take that moves there.
PATIENCE_AT_THE_END = 50
#: No list is planned to be longer than this, whatever its `count` says.
_MOST_ROWS = 10_000_000
#: So many responses may end where the list does not, by their own `count` or as far as neighbors show.
_MOST_DOUBTS = 12
#: Pages by which rows may shift, unseen by `count`, between two responses. More is taken for a change of order.
_SLACK_PAGES = 3
#: Give up after so many responses in a row without a new invoice (besides a whole re-read of what was found).
_MOST_IDLE = 30
#: Rows by which the first window across a gap goes back: most gaps are a deletion or two wide.
_STEP_BACK = 9


@dataclass(slots=True)
class _End:
    """What short responses have shown of the end of the list."""

    reached: bool = False
    #: Those that did not show it.
    doubts: int = 0
    #: Whether one of them ended elsewhere than its own ``count`` says.
    contradicted: bool = False
    #: Those in a row that ended where their own ``count`` says.
    agreeing: int = 0

    def contradict(self) -> None:
        """A response disagreed with its own ``count``: from now on two must agree in a row."""
        self.contradicted, self.agreeing = True, 0
        self.doubts += 1

    def judge(self, page: WindowPage, link: Link) -> None:
        """The list ends here, unless the server has cut the page just where the last row would be.

        Then other rows came than were asked for, and they are not where they were before. In a list that moves they
        never are: there it takes a window that no server cuts.
        """
        self.agreeing += 1
        small = page.window.size <= SMALLEST_LIMIT
        self.reached = link.in_place or (small and self.agreeing > self.contradicted)
        self.doubts += not self.reached


class LinkedRead:
    """One read. :meth:`pages` yields every invoice once, in list order as far as nothing moves.

    It needs a server that gives a ``count`` in every response, shows its page limit in the first one, and gives every
    window in full except the last. A response that is short *inside* the list, or ends elsewhere than its own ``count``
    says, is dropped; so whatever was linked is a whole piece of the list, without rows that a server left out or cut.
    """

    def __init__(self, fetcher: Fetcher, evidence: Evidence, page_size: int) -> None:
        self.links = Links(slack=_SLACK_PAGES * page_size)
        self._fetcher = fetcher
        self._evidence = evidence
        self._plan = _Plan(fetcher)
        self._cap = page_size  # rows that a page may have
        self._expected = 0  # rows in the list, by the newest `count`
        self._idle = 0  # responses since the last new invoice
        self._end = _End()

    def pages(self) -> Iterator[list[Invoice]]:
        """The invoices that each response adds.

        :raises Unlinkable: if this way of reading does not suit the server.
        :raises UnpodListUnstable: if the list moved too much.
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
        yield from self._compare_with_count()
        self._evidence.end, self._evidence.order = SHORT, self.links.order.order

    def _begin_with(self, first: WindowPage) -> list[Invoice]:
        """Learn from the first response how long the list is, and how many rows a page may have."""
        rows = len(self._receive(first).invoices)
        limited = first.short and 0 < rows < self._expected
        if limited:
            self._cap = rows
        longest = min(self._expected, _MOST_ROWS) + self._cap
        self._fetcher.limit = PATIENCE * planned_requests(longest, self._cap) + PATIENCE_AT_THE_END
        if limited:
            return []  # read again in windows of that size, which must come in full
        fresh = self._take_in(first)
        self._end.reached = first.is_whole_list
        return fresh or []

    @property
    def _widest(self) -> int:
        """Rows of the largest window to ask for. An end in doubt is read by windows so small that none is cut."""
        near_the_end = self._expected < self.links.reach + self._cap
        return min(self._cap, SMALLEST_LIMIT) if self._end.doubts and near_the_end else self._cap

    def _bridge(self, beyond: WindowPage) -> Iterator[list[Invoice]]:
        """Read windows around the gap before ``beyond`` until that links, or what it holds has been read."""
        self._evidence.relinked += 1
        back = _STEP_BACK
        while not self._end.reached and beyond.window.end > (reach := self.links.reach):
            self._give_up_if_hopeless()
            # From the first row a read can always start afresh; a size that differs from the first request's shows
            # a server that ignores `page_size`, the likeliest reason to come here.
            window = farthest(reach - back, self._widest) if back < reach else Window(0, max(1, self._cap - 1))
            fresh = self._take_in(self._receive(self._fetcher.now(window)))
            if fresh is None:
                back *= 4
                continue
            yield fresh
            # With small pages a step so wide may end where reading had got: then go on from its very last row.
            back = _STEP_BACK if self.links.reach != reach else 1
            if not self._end.reached and (fresh := self._take_in(beyond)) is not None:
                yield fresh
                return

    # -- what a response says

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
        """The invoices that ``page`` adds; ``None`` where it shares none with what was read before."""
        if page.short and not page.shows_end and (page.invoices or not page.window.start):
            self._drop(page)
            return []
        link = self.links.add(page)
        self._idle = 0 if link and link.fresh else self._idle + 1
        if link and page.short:
            self._end.judge(page, link)
            self._plan.forget()
        elif link:
            self._end.agreeing = 0
        return link.fresh if link else None

    def _drop(self, page: WindowPage) -> None:
        """Believe nothing of a response whose rows and ``count`` disagree, and the next ends only where two agree."""
        if page.window.size > SMALLEST_LIMIT and page.window.end <= self._expected:
            raise Unlinkable(
                f"page {page.window.page} of {page.window.size} came with {len(page.invoices)} invoices, "
                f"where `count` is {page.count}"
            )
        self._end.contradict()
        self._plan.forget()

    def _give_up_if_hopeless(self) -> None:
        if self.links.order.ties and len(self.links) > 1:
            raise Unlinkable("invoices of equal date are in no order that windows could rely on")
        if self._end.doubts > _MOST_DOUBTS:
            raise Unlinkable(
                f"the end of the list could not be established in {self._end.doubts} attempts: `count` is "
                f"{self._expected}, the rows end at {self.links.reach}"
            )
        idle = self._idle - _MOST_IDLE
        if idle > 0 and idle > planned_requests(self.links.invoices, self._cap):
            raise Unlinkable(
                f"{self._idle} responses in a row had no new invoice, and the list did not end: `count` is "
                f"{self._expected}, {self.links.invoices} invoices were found"
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
            front = self.links.add(self._receive(self._fetcher.now(Window(0, self._cap))))
            yield front.fresh if front else []
        if self.links.invoices < count or order != self.links.order.order:
            raise Unlinkable(
                f"`count` was {count} throughout, but only {self.links.invoices} invoices were in their place"
            )


class _Plan:
    """The windows from where reading has got to the end that is expected, asked for ahead."""

    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher
        self._windows: Iterator[Window] = iter(())
        self._widest = 0
        self._end = 0  # of the last window asked for

    def next(self, reach: int, widest: int, expected: int) -> WindowPage:
        """The next response; a plan that is at its end is made anew from ``reach`` on.

        :param widest: rows of the largest window.
        :param expected: rows in the list; no window is asked for that begins behind the first one to end there.
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
        """Drop what was asked for ahead."""
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
