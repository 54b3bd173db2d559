"""The number of examples of the property tests."""

from __future__ import annotations

from hypothesis import settings

#: A property with fewer examples would hardly be tested.
FEWEST = 5


def examples(number: int) -> int:
    """`number` of examples, and a tenth of them in the quick profile, with which `make test` runs."""
    return max(FEWEST, number * settings().max_examples // 100)
