"""The settings of a sandbox, with the same names on the command line and in Python."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

if TYPE_CHECKING:
    from airflow_provider_unpod.sandbox.faults import Drift, Fault
    from airflow_provider_unpod.sandbox.ledger import Dialect, Order

TOKEN: Final = "sandbox-token"  # noqa: S105 - the well-known token of a server that protects nothing
#: An expired token. The response to it is 403 "Token has expired.".
EXPIRED_TOKEN: Final = "expired-token"  # noqa: S105 - as above
ORGANIZATIONS: Final = ("unpod.tv", "acme", "globex")
#: Rows per page if a request has no ``page_size``, as documented.
DEFAULT_PAGE_SIZE: Final = 20

End: TypeAlias = Literal["404", "empty"]
Count: TypeAlias = Literal["right", "missing", "null"]
UnknownOrg: TypeAlias = Literal["404", "403", "206"]


@dataclass(frozen=True)
class Settings:
    """The settings of a sandbox. They are checked on creation.

    :param invoices: invoices of the first organization. Each further one has half as many as the one before.
    :param orgs: organization handles.
    :param seed: seed of invoices, faults and drift. The same seed and requests give the same run.
    :param today: create invoices for the 180 days before this date. Default: the current date in UTC.
    :param order: order of the list: ``newest`` or ``oldest`` first, or ``shuffled``.
    :param dialect: rows with ``id`` under ``results``, or with ``invoice_number`` under ``data``.
    :param token: the valid API token.
    :param max_page_size: limit for ``page_size``. A larger value is reduced to it without an error.
    :param fixed_page_size: rows per page, regardless of ``page_size``.
    :param end: response to a page past the end: ``404`` "Invalid page." or 200 with an ``empty`` list.
    :param count: ``right``, ``missing`` or ``null`` in the responses of the billing endpoint.
    :param unknown_org: response to an unknown organization handle.
    :param rate_limit: requests per window of ``rate_window`` seconds. ``None`` means no limit and no headers.
    :param latency: milliseconds before each response of the API.
    :param faults: initial faults, e.g. ``500:every=7``.
    :param drift: changes of the list during a read, e.g. ``delete-random:7``.
    :raises ValueError: if a setting is out of range.
    """

    invoices: int = 250
    orgs: tuple[str, ...] = ORGANIZATIONS
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
            raise ValueError(f"orgs must be one or more different handles, got {self.orgs!r}.")
        for name in ("max_page_size", "fixed_page_size", "rate_limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        if self.today is not None and not isinstance(self.today, date):
            raise ValueError(f"today must be a datetime.date, got {self.today!r}.")
        if self.rate_window <= 0 or self.latency < 0 or self.invoices < 0:
            raise ValueError("rate_window must be above 0; latency and invoices must be at least 0.")
