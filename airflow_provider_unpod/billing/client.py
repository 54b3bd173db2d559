"""The client of the Unpod billing API: requests one page, retries transient errors, and raises typed errors.

Endpoints: ``GET /api/v2/platform/organisation/billing/?page=&page_size=`` from the published page, and
``GET /api/v2/platform/organizations/`` from older pages. Both spellings are the API's.
"""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_provider_unpod import __version__
from airflow_provider_unpod.billing.errors import (
    UnpodBadAnswer,
    UnpodBadRows,
    UnpodConfigError,
    UnpodError,
    UnpodRateLimited,
    UnpodUnavailable,
)
from airflow_provider_unpod.billing.http import responses, settings
from airflow_provider_unpod.billing.http.base_url import base_url_of, is_loopback
from airflow_provider_unpod.billing.http.faults import TransportFault
from airflow_provider_unpod.billing.http.rate_limit import Budget, Pacing
from airflow_provider_unpod.billing.http.retry import DEFAULT_RETRY, Failure, RetryPolicy, Tries
from airflow_provider_unpod.billing.http.transport import OversizedResponse, Response, Transport
from airflow_provider_unpod.billing.invoice import Invoice

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from airflow_provider_unpod.billing.http.cancellation import Cancellation


T = TypeVar("T")

BILLING_PATH = "/api/v2/platform/organisation/billing/"
ORGANIZATIONS_PATH = "/api/v2/platform/organizations/"


@dataclass(frozen=True, slots=True)
class Page:
    """One page of the billing list."""

    #: Invoices in the order of the response.
    invoices: list[Invoice]
    #: ``count`` of the response. ``None`` if it is missing or null.
    count: int | None
    #: True if the API returned 404 for a page after the first ("Invalid page."). ``invoices`` is then empty.
    past_end: bool = False


class UnpodClient:
    """A synchronous, thread-safe client for the billing API of one organization. Also a context manager.

    :param base_url: address of the API, see :func:`base_url_of`.
    :param token: API token. It is sent to ``base_url`` only and appears in no message and no repr.
    :param org_handle: handle of the organization, sent as ``Org-Handle``.
    :param auth_scheme: ``Token`` (documented), ``jwt`` or ``Bearer`` (from older pages).
    :param product_id: value of the ``Product-Id`` header. ``None`` sends no such header.
    :param timeout: seconds for one whole request, from the first byte sent to the last byte read. A DNS lookup cannot
        be interrupted and may exceed it.
    :param page_size: default rows per page.
    :param max_concurrency: default number of requests in flight.
    :param max_rate_limit_wait: longest total wait of one request for the rate limit, in seconds.
    :param daily_requests: most requests that waits make in a day, except for what they need at every poll. The client
        itself does not count them.
    :param verify: whether to verify the server's certificate, or the path of a CA file. ``REQUESTS_CA_BUNDLE`` is
        honored.
    :param proxies: proxy URLs by scheme. They take precedence over the environment (``HTTPS_PROXY``).
    :param allow_insecure_http: whether the token may be sent over plain http to another machine.
    :param retry: how often and how long transient errors are retried.
    :raises UnpodConfigError: if an argument is invalid. The message names the connection field and what to enter.
    """

    def __init__(
        self,
        base_url: str,
        token: str,
        org_handle: str,
        *,
        auth_scheme: str = "Token",
        product_id: str | None = None,
        timeout: float = 30.0,
        page_size: int = 100,
        max_concurrency: int = 4,
        max_rate_limit_wait: float = settings.MAX_RATE_LIMIT_WAIT,
        daily_requests: int = settings.DAILY_REQUESTS,
        verify: bool | str = True,
        proxies: Mapping[str, str] | None = None,
        allow_insecure_http: bool = False,
        retry: RetryPolicy = DEFAULT_RETRY,
    ) -> None:
        self.base_url = base_url_of(base_url, None, None)
        self.org_handle = settings.org_handle(org_handle)
        self.page_size = settings.page_size(page_size)
        self.max_concurrency = settings.max_concurrency(max_concurrency)
        self.daily_requests = settings.daily_requests(daily_requests)
        longest = min(settings.max_rate_limit_wait(max_rate_limit_wait), retry.max_rate_limit_wait)
        self.retry = replace(retry, max_rate_limit_wait=longest)
        self._secret = settings.token(token)
        insecure = settings.allow_insecure_http(allow_insecure_http)
        _check_transport_security(self.base_url, insecure)
        headers = {
            "Authorization": f"{settings.auth_scheme(auth_scheme)} {self._secret}",
            "Org-Handle": self.org_handle,
            "Accept": "application/json",
            "Accept-Encoding": "gzip",
            "User-Agent": f"airflow-provider-unpod/{__version__}",
        }
        if product_id is not None and (product := settings.product_id(product_id)):
            headers["Product-Id"] = product
        self._transport = Transport(
            self.base_url,
            headers,
            timeout=settings.timeout(timeout),
            verify=settings.verify(verify),
            proxies=None if proxies is None else settings.proxies(proxies),
            allow_insecure_http=insecure,
        )
        self._pacing = Pacing()
        self._count_lock = threading.Lock()
        self._requests_made = 0

    @property
    def secrets(self) -> tuple[str, ...]:
        """Strings that must not appear in logs: the API token and the password of the proxy."""
        return (self._secret, *self._transport.proxy_passwords)

    @property
    def requests_made(self) -> int:
        """The number of requests sent so far, including retries."""
        return self._requests_made

    @property
    def budget(self) -> Budget:
        """The rate limit that the latest response reported."""
        return self._pacing.budget

    def get_page(self, page: int, page_size: int, cancellation: Cancellation | None = None) -> Page:
        """Request one page of the billing list, with retries.

        A 200 that begins like JSON but cannot be parsed is retried too: it may have been truncated in transit.

        :param page: number of the page, from 1.
        :param page_size: rows to request. The API may return fewer.
        :raises UnpodAuthError: 401 or 403.
        :raises UnpodBadRequest: 400 or another 4xx.
        :raises UnpodOrganizationNotFound: 404 on page 1.
        :raises UnpodBadAnswer: a response that cannot be trusted: HTTP 206, a redirect, a firewall's page.
        :raises UnpodBadRows: the page has invalid rows. The error names all of them.
        :raises UnpodRateLimited: the rate limit is exhausted for longer than ``max_rate_limit_wait``.
        :raises UnpodUnavailable: network failure, timeout or 5xx after all retries.
        :raises UnpodUnreachable: unknown host, untrusted certificate or unusable proxy.
        :raises Cancelled: ``cancellation`` was cancelled.
        """

        def read(response: Response) -> Page:
            if _is_past_end(response, page):
                return Page([], None, past_end=True)
            if response.status != 200:
                raise responses.refusal(response, page, self.org_handle)
            rows, count = responses.rows_of(response)
            return Page(_invoices_of(rows), count)

        return self._get(f"{BILLING_PATH}?page={page}&page_size={page_size}", read, page, cancellation)

    def probe(self, page: int, page_size: int) -> Response:
        """Request one page and return the raw response, to find out how an API behaves.

        :raises UnpodError: as :meth:`get_page`, except that a page past the end and every 200 are returned.
        """

        def read(response: Response) -> Response:
            if response.status not in (200, 404):
                raise responses.refusal(response, page, self.org_handle)
            return response

        return self._get(f"{BILLING_PATH}?page={page}&page_size={page_size}", read, page, None)

    def get_organizations(self, page: int, page_size: int) -> tuple[list[dict[str, Any]], int | None] | None:
        """Return one page of the organizations that the token may access, and ``count``. ``None`` is past the end.

        :raises UnpodError: as :meth:`get_page`, except that a 404 on page 1 is an :class:`UnpodBadRequest`.
        """

        def read(response: Response) -> tuple[list[dict[str, Any]], int | None] | None:
            if _is_past_end(response, page):
                return None
            if response.status != 200:
                raise responses.refusal(response, None, self.org_handle)
            return responses.rows_of(response)

        return self._get(f"{ORGANIZATIONS_PATH}?page={page}&page_size={page_size}", read, page, None)

    def close(self) -> None:
        """Close all open connections."""
        self._transport.close()

    def __enter__(self) -> UnpodClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"UnpodClient({self.base_url!r}, org_handle={self.org_handle!r})"

    def _get(self, path: str, read: Callable[[Response], T], page: int | None, cancellation: Cancellation | None) -> T:
        """Return ``read(response)``, with as many tries as the policy allows."""
        url = self.base_url + path
        tries = Tries(self.retry)
        now = self._pacing.clock.time
        while True:
            waited, too_long = self._pacing.enter(cancellation, tries.patience)
            tries.waited_for_limit(waited)
            if too_long:
                raise UnpodRateLimited(tries.too_long(too_long, now()), url=url, page=page)
            outcome = self._try(url, read, cancellation)
            if not isinstance(outcome, Failure):
                return outcome
            wait = tries.wait_after(outcome)
            if wait is None:
                break
            self._wait(wait, outcome, tries, cancellation)
        message = self._discreet(tries.final_message(outcome, now()))
        raise outcome.kind(message, status=outcome.status, url=url, page=page) from outcome.cause

    def _wait(self, seconds: float, failure: Failure, tries: Tries, cancellation: Cancellation | None) -> None:
        if failure.kind is UnpodRateLimited and failure.asked_wait is not None:
            self._pacing.refuse(seconds, tries.patience)  # waited when the next try asks to go out
            return
        if failure.asked_wait is not None:
            self._pacing.pause(seconds)
            seconds += random.uniform(0.0, min(1.0, seconds * 0.05))  # noqa: S311  # no secret
        why = f"try {tries.failed} failed: {self._discreet(failure.message).rstrip('.')}"
        self._pacing.sleep(seconds, why, cancellation)

    def _try(self, url: str, read: Callable[[Response], T], cancellation: Cancellation | None) -> T | Failure:
        """Send the request once. The caller has already passed :meth:`Pacing.enter`."""
        response: Response | None = None
        refused = False
        try:
            with self._count_lock:
                self._requests_made += 1
            response = self._transport.send(url, cancellation)
            refused = response.status == 429
            return read(response)
        except TransportFault as fault:
            return Failure(fault.kind, fault.message, fault.retryable, cause=fault.cause)
        except OversizedResponse as fault:
            return Failure(UnpodBadAnswer, str(fault))
        except responses.Unreadable as fault:
            return Failure(UnpodBadAnswer, str(fault), retryable=True, status=response.status if response else None)
        except UnpodError as error:
            assert response is not None
            asked = None
            if response.status in (429, 503):
                asked = self._pacing.asked_wait(response.headers, refused=refused)
            retryable = isinstance(error, (UnpodRateLimited, UnpodUnavailable))
            return Failure(type(error), error.message, retryable, asked, response.status)
        finally:
            self._pacing.leave(response.headers if response else None, refused=refused)

    def _discreet(self, text: str) -> str:
        """Remove the token from ``text``: an error page may repeat it."""
        return text.replace(self._secret, "***") if len(self._secret) >= 6 else text


def _is_past_end(response: Response, page: int) -> bool:
    if response.status != 404 or page == 1:
        return False
    if responses.is_object(response):
        return True
    # A proxy's page does not mean that the list has ended.
    raise responses.Unreadable("Try later: HTTP 404 from a proxy, not from Unpod's API.")


def _invoices_of(rows: list[dict[str, Any]]) -> list[Invoice]:
    try:
        return [Invoice(row) for row in rows]
    except UnpodBadAnswer:
        raise UnpodBadRows.of([text for row in rows if (text := _fault_of(row))]) from None


def _fault_of(row: dict[str, Any]) -> str | None:
    try:
        Invoice(row)
    except UnpodBadAnswer as error:
        return error.message
    return None


def _check_transport_security(base_url: str, allow_insecure_http: bool) -> None:
    scheme, _, rest = base_url.partition("://")
    host = rest[1:].partition("]")[0] if rest.startswith("[") else rest.partition(":")[0]
    if scheme == "http" and not allow_insecure_http and not is_loopback(host):
        raise UnpodConfigError(
            "Host (`host`) must be an https address: plain http would expose the API token on the network. To accept "
            "that, set `allow_insecure_http`."
        )
