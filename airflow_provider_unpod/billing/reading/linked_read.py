"""Reading a whole list by linked windows, while it moves."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from airflow_provider_unpod.billing.errors import UnpodListUnstable
from airflow_provider_unpod.billing.reading.order import BY_ID
from airflow_provider_unpod.billing.reading.window_links import Link, Links, WindowPage
from airflow_provider_unpod.billing.reading.windows import (
    SMALLEST_LIMIT,
    Window,
    across,
    after,
    chain,
    farthest,
    planned_requests,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_unpod.billing.invoice import Invoice
    from airflow_provider_unpod.billing.reading.evidence import Tally
    from airflow_provider_unpod.billing.reading.fetcher import Fetcher

#: A read gives up beyond this many times the requests that it would need if nothing moved.
PATIENCE = 4
#: Where the API gives no `count`, nothing but this bounds a list that grows as fast as it is read.
MOST_ROWS = 10_000_000
#: How often the end of the list is looked at again before rows and `count` count as irreconcilable.
_LOOKS_AT_THE_END = 12
#: Pages by which rows may shift, unseen by `count`, between two looks at them. More is taken for a change of order.
_SLACK_PAGES = 3
#: So many answers without a new invoice, besides those that read again all there was, and a list has none to give.
_IDLE_ANSWERS = 30
#: The same where answers are so short that the server's limit cannot be tried out.
_LOOKS_AT_SHORT_PAGES = 2
#: Rows by which the first window across a gap goes back: most gaps are a deletion or two wide.
_STEP_BACK = 9


class Unlinkable(Exception):
    """Windows cannot be linked on this server, or must not be believed; the text says why. Whole passes may do."""


class LinkedRead:
    """One read. :meth:`invoices` gives every invoice once, in list order as far as nothing moves.

    The answers are taken in the order of the plan. One that shares no row with those before is *held* while windows
    around the gap are read, until it links or is overtaken.
    """

    def __init__(self, fetcher: Fetcher, tally: Tally, page_size: int) -> None:
        self.links = Links(slack=_SLACK_PAGES * page_size)
        self._fetcher = fetcher
        self._tally = tally
        self._cap = page_size
        self._plan: Iterator[Window] = iter(())
        self._planned_to = 0
        self._fresh: list[Invoice] = []  # linked, to be given out
        self._expected: int | None = None  # rows in the list, by the newest `count`
        self._at_first: int | None = None  # the same by the first `count`
        self._held: WindowPage | None = None
        self._back = _STEP_BACK
        self._restarts = 0
        self._idle = 0  # answers since the last new invoice
        self._look: Window | None = None  # a window to be read before the plan goes on
        self._doubtful: WindowPage | None = None  # the short answer that `_look` is to confirm or refute
        self._looks = 0
        self._beyond: Window | None = None  # a window that must be empty if the end was read ...
        self._beyond_shows = ""  # ... and what kind of end it is then
        self._cut_at: float = inf  # the fewest rows of an answer that came short of what its own `count` promised
        self._most_rows = 0  # in any answer: the server's limit is not below that, unless it changes
        self._filtering = False  # the server drops rows after slicing: short answers are normal
        self._ended = False

    def invoices(self) -> Iterator[Invoice]:
        """:raises Unlinkable: if this way of reading does not suit the server.
        :raises UnpodListUnstable: if the list moved too much.
        """
        self._fetcher.limit = PATIENCE
        self._look = Window(0, self._cap)
        try:
            while not self._ended:
                self._step()
                yield from self._given_out()
            self._check_against_count()
            yield from self._given_out()
        except Unlinkable:
            # What was linked so far counts as given out, so it must be, whatever was found out about its answer.
            yield from self._given_out()
            raise

    def _given_out(self) -> list[Invoice]:
        fresh, self._fresh = self._fresh, []
        return fresh

    def _step(self) -> None:
        answer = self._held if self._held and not self._look else self._next()
        if answer.window is self._beyond and not answer.invoices:
            self._end(self._beyond_shows if self.links.invoices else "empty")
            return
        link = self._take_in(answer)
        if link is not None and answer is self._held:
            self._held = None
        elif link is None:
            self._tally.relinked += self._held is None
            self._held = self._held or answer
            if self._look is None:
                self._bridge()
        if self.links.order.ties and len(self.links) > 1:
            raise Unlinkable("invoices of equal date stand in no order that windows could rely on")

    # -- where the next answer comes from

    def _next(self) -> WindowPage:
        if self._look is not None:
            window, self._look = self._look, None
            return self._fetcher.now(window)
        self._ask_ahead()
        if not self._fetcher.waiting:
            self._plan = chain(self.links.reach, self._cap)
            if not self._ask():
                raise Unlinkable(f"windows of at most {self._cap} rows cannot overlap at row {self.links.reach}")
            self._ask_ahead()
        return self._fetcher.take()

    def _ask_ahead(self) -> None:
        while self._fetcher.room and self._fetcher.requests < self._fetcher.limit and self._more_expected():
            if not self._ask():
                return

    def _more_expected(self) -> bool:
        if self._expected is None:  # nobody knows where the end is: look ahead no farther than was read already
            return self._fetcher.waiting < len(self.links)
        return self._planned_to <= self._expected

    def _ask(self) -> bool:
        window = next(self._plan, None)
        if window is not None:
            self._planned_to = window.end
            self._fetcher.ask(window)
        return window is not None

    def _bridge(self) -> None:
        """Read one window around the gap before the answer held."""
        reach = self.links.reach
        if self._back >= reach:
            # From the first row a read can always start afresh; a size that differs from the first request's
            # shows a server that ignores `page_size`, the likeliest reason to come here.
            window = Window(0, max(1, self._cap - 1))
            self._restarts += 1
            if self._restarts > PATIENCE:
                raise UnpodListUnstable(
                    f"Gave up after {self._restarts} new starts: the list moves faster than it can be read. "
                    "Nothing partial is given out; try again at a quieter time."
                )
        else:
            window = farthest(reach - self._back, self._cap)
        link = self._take_in(self._fetcher.now(window))
        if link is None:
            self._back *= 4
        else:  # linked, but no farther than before: with small pages so wide a step back may end where reading had got
            self._back = _STEP_BACK if self.links.reach != reach else 1
        if self._held is not None and self._held.window.end <= self.links.reach:
            self._held = None  # overtaken: what it holds has been read

    # -- what an answer says

    def _take_in(self, answer: WindowPage) -> Link | None:
        if len(answer.invoices) > answer.window.size:
            raise Unlinkable("the server ignores page_size")
        first_time = answer is not self._held
        link = self.links.add(answer)
        self._fresh += link.fresh if link else ()
        self._idle = 0 if link and link.fresh else self._idle + 1
        if self._idle > _IDLE_ANSWERS:
            self._give_up_idling(answer)
        if self.links.contradiction:
            raise Unlinkable(self.links.contradiction)
        if first_time:
            self._tally.invoices = self.links.invoices
            self._tally.saw(answer)
            self._most_rows = max(self._most_rows, len(answer.invoices))
            if answer.short and answer.last < (answer.count or 0):
                self._cut_at = min(self._cut_at, len(answer.invoices))
            self._plan_for(answer)
            self._learn_limit(answer)
        if not answer.short:
            self._doubtful = None
        elif link is not None or (first_time and answer.invoices and answer.last < (answer.count or 0)):
            self._judge_short(answer, link)
        return link

    def _give_up_idling(self, answer: WindowPage) -> None:
        if self._idle > _IDLE_ANSWERS + planned_requests(self.links.invoices, self._cap):
            raise UnpodListUnstable(
                f"{self._idle} answers in a row held no new invoice, and the list did not end: `count` is "
                f"{answer.count}, {self.links.invoices} invoices were found. Nothing partial is given out."
            )

    def _plan_for(self, answer: WindowPage) -> None:
        """How long the list is as far as known, and so how many requests are too many.

        The latter goes by the first `count`: a list that grows as fast as it is read must not be followed for ever.
        Without one it goes by what was read, in pages as large as they have been: growth that makes answers ever
        shorter takes more requests than that.
        """
        if answer.count is not None:
            self._expected = answer.count
            self._at_first = answer.count if self._at_first is None else self._at_first
        if self._at_first is None:
            cap = max(self._cap, self._most_rows)
            known = 1 + self.links.invoices // cap
            rows = cap << known.bit_length()  # in steps: it need not be planned anew at every answer
        else:
            cap = self._cap
            rows = (self._at_first // cap + 1) * cap
        self._fetcher.limit = max(self._fetcher.limit, PATIENCE * planned_requests(min(rows, MOST_ROWS), cap))

    def _learn_limit(self, answer: WindowPage) -> None:
        """A short answer is followed by a window no larger than it: full, the server limits pages to that size;
        short again with more to come, it drops rows after slicing."""
        before = self._doubtful
        if before is None or answer.window.size > len(before.invoices):
            return
        if not answer.short and answer.last > before.last and len(before.invoices) >= SMALLEST_LIMIT:
            self._cap = len(before.invoices)
            self._forget_plan()
        elif answer.short and answer.last < (answer.count or 0) and not self._filtering:
            self._filtering = True
            self._cap = min(self._cap, self._most_rows)  # it may limit the page size as well; so much it gives
            self._forget_plan()

    def _judge_short(self, answer: WindowPage, link: Link | None) -> None:
        """Whether this is the end of the list, beyond doubt or only so that one must look again."""
        before, self._doubtful = self._doubtful, None
        how = self._end_shown(answer, link, before) if link else None
        if how:
            self._end(how)
        elif self._beyond is None and (not self._filtering or answer.window.end > (answer.count or 0)):
            self._look_again(answer)

    def _end_shown(self, answer: WindowPage, link: Link, before: WindowPage | None) -> str | None:
        self._beyond = None
        count, last = answer.count, answer.last
        if count is None:
            self._look_beyond(answer, link, before)
            return None
        smaller = before is not None and answer.window.size <= max(SMALLEST_LIMIT, len(before.invoices))
        if not answer.invoices:
            return "empty" if not count else None
        if last == count and not self._filtering:
            # So small a window no server cuts: whatever moved, it is where it was meant to be, and so is its end. Of
            # a larger one with as many rows as came where more were promised, the rest may have been cut off as well.
            whole = link.in_place and len(answer.invoices) < self._cut_at
            return "short" if whole or answer.window.size <= SMALLEST_LIMIT else None
        # Both of them by one `count`: it may have been taken later than the rows, when fewer were left.
        quiet = before is not None and before.count == count
        if before and quiet and smaller and last <= count < min(before.window.end, answer.window.end):
            self._expect_nothing(after(count, answer.window.end, self._cap), "count")
        return None

    def _look_beyond(self, answer: WindowPage, link: Link, before: WindowPage | None) -> None:
        """Without a `count`, two short answers must agree to the row, and what follows must be empty.

        A server that drops rows after slicing can otherwise look like the end of the list anywhere.
        """
        last = answer.last
        if answer.invoices and (before is None or answer.window.size > max(SMALLEST_LIMIT, len(before.invoices))):
            return
        if before is not None and (last != before.last or not link.in_place):
            raise UnpodListUnstable(
                "Pages come short in the middle of the list, or it moves at its end, and the API gives no `count`: "
                "so its end cannot be established. Nothing partial is given out. If a quiet list does this, ask for "
                "smaller pages (`page_size`): the server may not give as many rows as it is asked for."
            )
        self._expect_nothing(after(last, answer.window.end, self._cap), "short twice")

    def _expect_nothing(self, beyond: Window, shows: str) -> None:
        self._forget_plan()
        self._look = self._beyond = beyond
        self._beyond_shows = shows

    def _end(self, how: str) -> None:
        self._ended = True
        self._forget_plan()
        self._tally.end, self._tally.order = how, self.links.order.order

    def _look_again(self, answer: WindowPage) -> None:
        rows, count = len(answer.invoices), answer.count
        self._looks += 1
        if max(rows, 1) < SMALLEST_LIMIT and answer.last < (count or 0) and self._looks > _LOOKS_AT_SHORT_PAGES:
            raise Unlinkable("answers stay shorter than asked for")
        if self._looks > _LOOKS_AT_THE_END:
            raise UnpodListUnstable(
                f"The end of the list could not be established in {self._looks} looks: `count` says {count}, the rows "
                f"end at {answer.last}. Nothing partial is given out; try again at a quieter time."
            )
        self._doubtful = answer
        self._forget_plan()
        # First through a window that tells whether the server limits pages to what came; then, while the list moves,
        # through one that no server cuts.
        at_most = rows if self._looks == 1 else min(rows, SMALLEST_LIMIT)
        end, beyond = min(answer.last, self.links.reach), max(answer.last, count or 0)
        self._look = across(end, beyond, at_most, self._cap, answer.window)

    def _forget_plan(self) -> None:
        self._fetcher.drop()
        self._plan, self._planned_to = iter(()), 0

    def _check_against_count(self) -> None:
        """Fewer invoices than a `count` that never moved: something left the place where it was to be read.

        A deletion there and an insertion in front look like that, and are harmless; so does an invoice that changed its
        place, and is missing. The front of the list tells, if the list is in the order of its ids.
        """
        counts = self._tally.counts
        if len(counts) != 1 or len(self.links) == 1 or self._tally.end == "count":
            return
        (count,) = counts
        if self.links.invoices < count and self.links.order.order == BY_ID:
            front = self._fetcher.now(Window(0, self._cap))
            self._tally.saw(front)
            link = self.links.add(front)
            self._fresh += link.fresh if link else ()
        if self.links.invoices < count or self._tally.order != self.links.order.order:
            raise Unlinkable(f"`count` was {count} throughout, but only {self.links.invoices} invoices stood in place")
