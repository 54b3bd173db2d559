"""What a sandbox can be told at its start: the same names on the command line and in Python."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

if TYPE_CHECKING:
    from airflow_provider_unpod.sandbox.faults import Drift, Fault
    from airflow_provider_unpod.sandbox.ledger import Dialect, Order

TOKEN: Final = "sandbox-token"  # noqa: S105 - the well-known token of a server that guards nothing
#: A token that was valid once: answers 403 "Token has expired.".
EXPIRED_TOKEN: Final = "expired-token"  # noqa: S105 - as above
ORGANISATIONS: Final = ("unpod.tv", "acme", "globex")
#: Rows of a page whose size was not asked for, as documented.
DEFAULT_PAGE_SIZE: Final = 20

End: TypeAlias = Literal["404", "empty"]
Count: TypeAlias = Literal["right", "missing", "null"]
UnknownOrg: TypeAlias = Literal["404", "403", "206"]


@dataclass(frozen=True)
class Settings:
    """
    :param invoices: of the first organisation; each further one has half as many as the one before.
    :param orgs: organisation handles.
    :param seed: of invoices, faults and drift: the same seed and requests give the same run.
    :param today: the invoices are those of the 180 days before this day (a date; the current one in UTC by default).
    :param order: of the list: ``newest``, ``oldest`` (first) or ``shuffled``.
    :param dialect: rows with ``id`` under ``results``, or with ``invoice_number`` under ``data``.
    :param token: the one valid API token.
    :param max_page_size: a larger ``page_size`` is quietly clamped to it.
    :param fixed_page_size: rows of every page, whatever ``page_size`` is asked for.
    :param end: a page past the end: ``404`` "Invalid page." or 200 with an ``empty`` list.
    :param count: ``right``, ``missing`` or ``null`` in the answers of the billing endpoint.
    :param unknown_org: what an unknown organisation handle gets.
    :param rate_limit: requests in a window of ``rate_window`` seconds; no limit and no headers where ``None``.
    :param latency: each answer of the API comes so many milliseconds later.
    :param faults: what goes wrong from the start, as in ``500:every=7``.
    :param drift: how the list moves by itself, as in ``delete-random:7``.
    """

    invoices: int = 250
    orgs: tuple[str, ...] = ORGANISATIONS
    seed: int = 0
    today: date | None = None
    order: Order = "newest"
    dialect: Dialect = "results"
    token: str = TOKEN
    max_page_size: int = 100
    fixed_page_size: int | None = None
    end: End = "404"
    count: Count = "right"
    unknown_org: UnknownOrg = "404"
    rate_limit: int | None = None
    rate_window: float = 60.0
    latency: float = 0.0
    faults: tuple[Fault | str, ...] = ()
    drift: tuple[Drift | str, ...] = ()

    def __post_init__(self) -> None:
        if not self.orgs or len(set(self.orgs)) != len(self.orgs):
            raise ValueError(f"orgs are one or more different handles, not {self.orgs!r}.")
        for name in ("max_page_size", "fixed_page_size", "rate_limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is 1 or more, not {value}.")
        if self.today is not None and not isinstance(self.today, date):
            raise ValueError(f"today must be a datetime.date, got {self.today!r}.")
        if self.rate_window <= 0 or self.latency < 0 or self.invoices < 0:
            raise ValueError("rate_window is more than 0; latency and invoices are 0 or more.")
