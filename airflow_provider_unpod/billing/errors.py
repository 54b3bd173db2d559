"""The errors of this package, in one tree. ``UnpodError.permanent`` says whether a retry is pointless."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence


def shorten(text: str, most: int) -> str:
    """Cut ``text`` to at most ``most`` characters."""
    return text if len(text) <= most else text[: most - 3] + "..."


def short_repr(value: object, most: int = 80) -> str:
    """Return ``repr(value)``, truncated. Never pass a secret: a connection's repr contains its password."""
    try:
        return shorten(repr(value), most)
    except ValueError:  # Python does not print numbers of more than 4,300 digits
        return "a huge number"


class UnpodError(Exception):
    """Base class of all errors of this package.

    :param message: what is wrong and what to do, followed by the API's own message if it sent one.
    :param status: HTTP status of the response. ``None`` if there was no response.
    :param url: requested URL, without credentials.
    :param page: number of the requested page, from 1. ``None`` if the request was not for a page.
    """

    #: True if a retry cannot help until somebody changes something.
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
    """401 or 403: the token is missing, wrong or expired, or has no access to the organization."""

    permanent = True


class UnpodBadRequest(UnpodError):
    """400, or another 4xx: the API refuses the request."""

    permanent = True


class UnpodOrganizationNotFound(UnpodError):
    """404 on the first page: the API has no organization with this handle."""

    permanent = True


class UnpodInvoiceNotFound(UnpodError):
    """The invoice is not in the list. The whole list was read."""


class UnpodRateLimited(UnpodError):
    """429, after waiting as long as the retry policy allows."""


class UnpodUnavailable(UnpodError):
    """Network failure, timeout or 5xx, after all retries."""


class UnpodUnreachable(UnpodError):
    """The API cannot be reached with this connection or from this network.

    For example: an unknown host name, an untrusted certificate, an unreadable CA file, https to a server that speaks
    http, an unusable proxy. The error is not permanent, since DNS and proxies recover. But waiting alone rarely helps,
    so sensors and triggers do not treat it as transient.
    """


class UnpodListUnstable(UnpodError):
    """The list changed too much to prove that nothing is missing; no partial result is returned."""


class UnpodBadAnswer(UnpodError):
    """The response cannot be trusted.

    For example: HTTP 206, a 200 that contains an error, a missing list of rows, HTML, broken JSON, an invalid row.
    """


class UnpodBadRows(UnpodBadAnswer):
    """Rows of the list are not valid invoices. The message has one sentence for each, up to twenty."""

    MOST: ClassVar[int] = 20

    @classmethod
    def of(cls, rows: Sequence[str]) -> UnpodBadRows:
        """Build the error from one sentence for each row, without line breaks. There must be at least one."""
        if len(rows) == 1:
            return cls(rows[0])
        number = f"At least {cls.MOST}" if len(rows) >= cls.MOST else str(len(rows))
        return cls("\n".join([f"{number} billing rows are invalid:", *rows[: cls.MOST]]))

    @property
    def rows(self) -> tuple[str, ...]:
        """One sentence for each invalid row."""
        lines = self.message.split("\n")
        return tuple(lines[1:] or lines)
