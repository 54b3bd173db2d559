"""The errors of this package, as one tree. ``UnpodError.permanent`` says whether a retry is pointless."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence


def shorten(text: str, most: int) -> str:
    """Cut ``text`` to at most ``most`` characters."""
    return text if len(text) <= most else text[: most - 3] + "..."


def short_repr(value: object, most: int = 80) -> str:
    """Give ``repr(value)``, truncated. Never pass a secret: a connection's repr contains its password."""
    try:
        return shorten(repr(value), most)
    except ValueError:  # Python prints no number of more than 4,300 digits
        return "a huge number"


class UnpodError(Exception):
    """Base of all errors of this package.

    :param message: what is wrong and what to do about it, with the API's own words where it sent some.
    :param status: HTTP status of the response; ``None`` without one.
    :param url: the address requested, without credentials.
    :param page: the 1-based page requested; ``None`` where the request was not for a page.
    """

    #: True where the same request fails again until somebody changes something.
    permanent: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        url: str | None = None,
        page: int | None = None,
    ) -> None:
        super().__init__(message, status, url, page)
        self.message = message
        self.status = status
        self.url = url
        self.page = page

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments do not survive Exception's own pickling, and Airflow ships
        # exceptions between processes.
        return (_rebuild, (type(self), self.message, self.status, self.url, self.page))

    def __str__(self) -> str:
        where = [
            f"{name} {value}"
            for name, value in (("HTTP", self.status), ("page", self.page), ("at", self.url))
            if value is not None
        ]
        return f"{self.message} ({', '.join(where)})" if where else self.message


def _rebuild(cls: type[UnpodError], message: str, status: int | None, url: str | None, page: int | None) -> UnpodError:
    return cls(message, status=status, url=url, page=page)


class UnpodConfigError(UnpodError):
    """A field of the connection or an argument is invalid; the message names it and says what to enter."""

    permanent = True


class UnpodAuthError(UnpodError):
    """401 or 403: the token is missing, wrong or expired, or gives no access to the organization."""

    permanent = True


class UnpodBadRequest(UnpodError):
    """400, or another 4xx: the API refuses the request."""

    permanent = True


class UnpodOrganizationNotFound(UnpodError):
    """404 on the first page: the API has no organization with this handle."""

    permanent = True


class UnpodInvoiceNotFound(UnpodError):
    """A complete reading of the list did not contain the invoice."""


class UnpodRateLimited(UnpodError):
    """429, still after waiting as long as the client may."""


class UnpodUnavailable(UnpodError):
    """Network failure, time-out or 5xx, still after all retries."""


class UnpodUnreachable(UnpodError):
    """The address cannot be reached as the connection, or this machine's network, is configured.

    An unknown host name, an untrusted certificate, a CA file that cannot be read, https where the server speaks http
    or the reverse, a proxy that cannot be used. Not permanent, as DNS and proxies recover; but waiting alone rarely
    helps, so it does not count among the transient errors that a wait outlasts.
    """


class UnpodListUnstable(UnpodError):
    """The list changed too much to prove that nothing is missing; no partial result is returned."""


class UnpodBadAnswer(UnpodError):
    """A response that cannot be trusted.

    206, a 200 that contains an error, no list of rows, HTML, broken JSON, an invalid row.
    """


class UnpodBadRows(UnpodBadAnswer):
    """Rows of the list that are not valid invoices. The text names each of them, up to twenty.

    ``rows`` has a sentence for each.
    """

    MOST: ClassVar[int] = 20

    @classmethod
    def of(cls, rows: Sequence[str]) -> UnpodBadRows:
        """:param rows: one sentence for each row, without line breaks; at least one."""
        if len(rows) == 1:
            return cls(rows[0])
        number = f"At least {cls.MOST}" if len(rows) >= cls.MOST else str(len(rows))
        return cls("\n".join([f"{number} billing rows are invalid:", *rows[: cls.MOST]]))

    @property
    def rows(self) -> tuple[str, ...]:
        lines = self.message.split("\n")
        return tuple(lines[1:] or lines)
