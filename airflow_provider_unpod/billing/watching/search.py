"""Searches a list in strict order of its ids for a place: guesses from the numbers in the ids, then bisects."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_provider_unpod.billing.watching.answers import Answer, Place
    from airflow_provider_unpod.billing.watching.known_list import Neighbors

#: Number of guesses from the numbers in the ids. After that the search bisects, which gaps cannot mislead.
_GUESSES = 4
#: Larger numbers cannot be multiplied by a density.
_LARGEST = 2**63


class Search:
    """The rows between which an invoice at ``place`` must be, given the responses so far.

    :param neighbors: the nearest known invoices.
    :param rows_per_number: assumed density of the ids where no other is known.
    :param step: rows to look farther if the list has moved.
    """

    def __init__(self, place: Place, neighbors: Neighbors, rows_per_number: float, step: int) -> None:
        self._place = place
        self._low, self._low_place, self._high, self._high_place = neighbors
        self._rows_per_number = rows_per_number
        self._step = step
        self._tries = 0

    def row(self) -> int:
        """Return the row to look at next."""
        self._tries += 1
        if self._low >= self._high:  # between two windows, so the next one must contain the last row of the first
            return self._low
        guess = self._guess() if self._tries <= _GUESSES else None
        return (self._low + self._high) // 2 if guess is None else min(max(guess, self._low), self._high - 1)

    def narrow(self, answer: Answer) -> None:
        """Take into account a response that does not span the place."""
        if answer.is_after(self._place):
            self._high, self._high_place = answer.page.window.start, answer.first
            if self._low > self._high:  # the list has moved
                self._low, self._low_place = max(0, self._high - self._step), None
                self._step *= 4
        else:
            if self._low_place is not None and answer.last is not None:  # a longer part shows a better average
                apart = abs(answer.last[0][1] - self._low_place[0][1])
                self._rows_per_number = (answer.page.end - self._low) / max(1, apart)
            self._low, self._low_place = answer.page.end, answer.last
            if self._high_place is None:
                self._high = max(self._high, answer.page.count or 0)
            if self._low > self._high:
                self._high, self._high_place = self._low + self._step, None
                self._step *= 4

    def _guess(self) -> int | None:
        """Guess the row from the numbers in the ids. ``None`` if they do not help."""
        wanted, low, high = self._place[0], self._low_place, self._high_place
        known = [place[0] for place in (low, high) if place is not None]
        if not known or any(one[0] != wanted[0] or not 0 <= one[1] < _LARGEST for one in known):
            return None
        if abs(wanted[1]) > _LARGEST:
            return None
        density = self._rows_per_number
        if low is not None and high is not None:
            density = (self._high - self._low) / max(1, abs(high[0][1] - low[0][1]))
        away = int(abs(wanted[1] - known[0][1]) * density)
        return self._low + away if low is not None else self._high - away
