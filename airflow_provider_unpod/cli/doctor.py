"""The command ``check``: tests a connection and examines the behavior and costs of its API, in about seven requests.

This package follows Unpod's published pages. They do not specify the page-size limit, the order of the list and the
response past the end. This command determines them for the API that a deployment uses.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_unpod.billing.errors import UnpodBadRequest
from airflow_provider_unpod.billing.http.rate_limit import LONGEST_WINDOW
from airflow_provider_unpod.cli.output import note, write_facts

if TYPE_CHECKING:
    from airflow_provider_unpod.billing.client import UnpodClient
    from airflow_provider_unpod.billing.http.transport import Response
    from airflow_provider_unpod.billing.invoice import Invoice
    from airflow_provider_unpod.hooks.unpod import UnpodHook

_SIZE, _LARGE_SIZE = 100, 1000
#: Requests per minute of each plan, from Unpod's pages. The daily limit is a hundred times as high.
_PLANS = {100: "Free", 1_000: "Developer", 10_000: "Business"}
#: Polls of a day, at one a minute.
_POLLS = 1_440
#: With fewer rows per page, polls read the whole list.
_SMALLEST_PAGE = 19
#: Results that contain no data of the organization.
_RECORDED = ("dialect", "order", "page size", "page past the end", "rate limit")
_NOT_LIVE = (
    "This package was built from Unpod's published pages and has not been run against the live API. If Unpod behaves "
    "differently, please report it with the file that `--record` writes."
)


@dataclass
class Findings:
    """The results of the examination. ``settings`` has recommendations for the connection's extra."""

    facts: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    transcript: list[dict[str, Any]] = field(default_factory=list)


def examine(hook: UnpodHook, record: str | None) -> int:
    """Test the connection, examine the API and print the results. Return 1 if the connection does not work.

    :param record: file for the anonymized transcript.
    :raises UnpodError: if the API fails during the examination. The results so far are printed before.
    """
    works, text = hook.test_connection()
    if not works:
        note(f"error: {text}")
        return 1
    findings = Findings({"connection": text})
    client = hook.get_conn()
    try:
        _Examination(client, findings).run()
    finally:
        client.close()
        _report(findings, record)
    note(_NOT_LIVE)
    return 0


def _report(findings: Findings, record: str | None) -> None:
    write_facts(findings.facts)
    if findings.settings:
        print("\nRecommended settings of the connection's extra:")
        print(json.dumps(findings.settings, indent=2))
    if record is not None:
        facts = {name: findings.facts[name] for name in _RECORDED if name in findings.facts}
        content = {"findings": facts, "responses": findings.transcript}
        Path(record).write_text(json.dumps(content, indent=2) + "\n")
        note(f"{record}: names, types and headers of {len(findings.transcript)} responses, and no values.")


class _Examination:
    def __init__(self, client: UnpodClient, findings: Findings) -> None:
        self._client = client
        self._findings = findings
        #: Why windows cannot be linked on this API, so that the list is read by whole passes.
        self._not_linked = ""
        #: Why polls cannot read single pages, so that they read the whole list.
        self._not_followed = ""
        #: Why no list of this API is certified.
        self._refused = ""
        self._ignores_page_size = False
        self._requests_per_day: int | None = None

    def run(self) -> None:
        facts = self._findings.facts
        first = self._ask(1, _SIZE)
        facts["dialect"] = first.dialect
        facts["count"] = "missing" if first.count is None else f"{first.count:,}"
        if first.count is None:
            self._not_linked = self._not_followed = "responses have no `count`"
        facts["order"] = self._order(first.invoices)
        rows = self._page_size(first)
        size = len(first.invoices) if self._ignores_page_size else min(_SIZE, max(rows, 1))
        self._check_count(first, size)
        facts["page past the end"] = self._past_the_end(first, size)
        facts["rate limit"] = self._rate_limit(first)
        if self._refused:
            facts["an export"] = f"fails, because {self._refused}"
            return
        facts["an export"] = self._export(first.count, rows)
        facts["a day of waiting"] = self._waiting(first.count, rows)

    def _ask(self, page: int, size: int) -> _Answered:
        response = self._client.probe(page, size)
        answered = _Answered(response, page, size)
        # Recorded before it is interpreted, because an invalid response is the most interesting one.
        self._findings.transcript.append(answered.anonymous())
        answered.interpret()
        return answered

    def _order(self, invoices: list[Invoice]) -> str:
        from airflow_provider_unpod.billing.reading.order import BY_ID, OrderWitness

        if len(invoices) < 2:
            return "not visible in so few invoices"
        witness = OrderWitness()
        witness.observe(invoices)
        if witness.order != BY_ID:
            self._not_followed = self._not_followed or "the list is in no order of ids"
        if witness.ties:
            self._not_linked = "equal dates are in no order of ids"
            return "by date, and equal dates in no order of ids"
        return {"assumed": "neither by id nor by date"}.get(witness.order, witness.order)

    def _page_size(self, first: _Answered) -> int:
        """Determine whether `page_size` is honored, and how many rows a page may have.

        :returns: rows per full page at the connection's page size.
        """
        facts = self._findings.facts
        rows = len(first.invoices)
        if rows == first.count and rows <= _SIZE:
            facts["page size"] = f"no limit visible: {'no' if not rows else 'all'} invoices are on one page"
            return self._client.page_size
        if rows > _SIZE or (rows > 1 and len(self._ask(1, rows - 1).invoices) != rows - 1):
            facts["page size"] = f"`page_size` is ignored: pages have {rows} rows"
            self._not_linked, self._ignores_page_size = "`page_size` is ignored", True
            return rows
        large = self._rows_of_a_large_page()
        if large < rows:
            facts["page size"] = f"at least {rows} rows, but fewer or none if {_LARGE_SIZE} are requested"
            if self._client.page_size > rows:
                self._findings.settings["page_size"] = rows
            return min(rows, self._client.page_size)
        limited = first.count is not None and large < min(first.count, _LARGE_SIZE)
        facts["page size"] = f"at most {large} rows" if limited else f"at least {large} rows"
        best = large if limited else _LARGE_SIZE
        if best != self._client.page_size and (limited or large > self._client.page_size):
            self._findings.settings["page_size"] = best
        return min(large, self._client.page_size)

    def _rows_of_a_large_page(self) -> int:
        try:
            return len(self._ask(1, _LARGE_SIZE).invoices)
        except UnpodBadRequest:
            return 0

    def _check_count(self, first: _Answered, size: int) -> None:
        """Compare `count` with the rows of the page that should be the last one. A list with a wrong one is refused."""
        if first.count is None:
            return
        number = first.count // size + 1
        last = first if number == 1 else self._ask(number, size)
        count = first.count if last.count is None else last.count  # a 404 has none
        right = max(0, min(size, count - (number - 1) * size))
        if len(last.invoices) != right:
            self._refused = "`count` is wrong"
            self._findings.facts["count"] = (
                f"{count:,}, which is wrong: page {number} of {size} rows has {len(last.invoices)} instead of {right}"
            )

    def _past_the_end(self, first: _Answered, size: int) -> str:
        page = 100_000 if first.count is None else first.count // size + 2
        try:
            past = self._ask(page, size)
        except UnpodBadRequest as error:
            return f"is refused with HTTP {error.status}: a list that changes while it is read may not be certified"
        if past.status == 404:
            return "HTTP 404"
        if not past.invoices:
            return "is empty"
        if self._not_linked:
            self._refused = self._refused or f"the page past the end has rows, and {self._not_linked}"
        elif (first.count or 0) > size and first.begins_with(self._ask(2, size)):
            self._refused = "every page is the first one"
        return f"has {len(past.invoices)} rows: a list that changes while it is read may not be certified"

    def _rate_limit(self, first: _Answered) -> str:
        headers = first.response.headers
        limit, reset = (headers.get(f"X-RateLimit-{name}") or "" for name in ("Limit", "Reset"))
        if not limit.isdecimal():
            return "no number in the header `X-RateLimit-Limit`"
        if reset.isdecimal() and (seconds := _seconds_until(int(reset))) > LONGEST_WINDOW:
            return f"{int(limit):,} requests, not by the minute: the limit resets in {seconds / 60:,.0f} minutes"
        plan = _PLANS.get(int(limit))
        if plan is None:
            return f"{int(limit):,} requests a minute, if it is by the minute as Unpod's pages say; no plan has that"
        self._requests_per_day = int(limit) * 100
        return f"{int(limit):,} requests a minute ({plan} plan: {self._requests_per_day:,} a day)"

    def _export(self, count: int | None, rows: int) -> str:
        from airflow_provider_unpod.billing.reading.windows import chain_length

        if count and not self._not_linked and chain_length(min(count, _LARGE_SIZE), rows) is None:
            self._not_linked = f"windows of {rows} rows cannot overlap"
        passes = f"two whole passes at least, because {self._not_linked}"
        if count is None:
            return passes
        said = f"about {_requests(self._complete_read(count, rows))}"
        return f"{said}: {passes}" if self._not_linked else said

    def _complete_read(self, count: int, rows: int) -> int:
        """Estimate the requests of a complete read."""
        from airflow_provider_unpod.billing.reading.windows import planned_requests

        return 2 * (count // max(rows, 1) + 2) if self._not_linked else planned_requests(count, rows)

    def _waiting(self, count: int | None, rows: int) -> str:
        """Estimate the requests of a day at one poll a minute."""
        if count is not None and count < rows:
            return f"{_POLLS:,} requests at one poll a minute"
        if rows < _SMALLEST_PAGE and not self._not_followed:
            self._not_followed = f"pages have only {rows} rows"
        return (self._whole_polls(count, rows) if self._not_followed else self._polls(count or 0, rows)) + self._plan()

    def _polls(self, count: int, rows: int) -> str:
        """Describe polls that read single pages."""
        least = " or more (`page_size` is ignored)" if self._ignores_page_size else ""
        said = (
            f"{_POLLS:,} requests{least} at one poll a minute, for each page with wanted invoices; a missing invoice, "
            f"or an event trigger, also uses the rest of `daily_requests` ({self._client.daily_requests:,})"
        )
        affordable = (self._requests_per_day or 0) // 2 // _POLLS  # half of the plan is left to others
        if not affordable or count // rows < affordable:
            return said
        return f"{said}; more than {affordable} such pages need a longer `poke_interval` on this plan"

    def _whole_polls(self, count: int | None, rows: int) -> str:
        """Describe polls that read the whole list."""
        daily = self._client.daily_requests
        said = f"because {self._not_followed}, polls read the whole list"
        if count is None:
            return f"{said}, as often as `daily_requests` ({daily:,}) allows"
        cost = _POLLS * self._complete_read(count, rows)
        if cost <= daily:
            return f"{said}: about {cost:,} requests at one poll a minute"
        minutes = -(-cost // daily)
        often = f"{minutes} minutes" if minutes <= 120 else f"{-(-minutes // 60):,} hours"
        return f"{said}, about every {often} at `daily_requests` ({daily:,})"

    def _plan(self) -> str:
        """Compare ``daily_requests`` with the plan, of which waits may use half."""
        if self._requests_per_day is None or self._client.daily_requests <= self._requests_per_day // 2:
            return ""
        self._findings.settings["daily_requests"] = self._requests_per_day // 3
        return "; `daily_requests` is more than half of the plan"


def _seconds_until(reset: int) -> float:
    """Return the seconds until a reset. Unpod's pages say Unix seconds; some servers send the seconds left."""
    return reset if reset < 1_000_000_000 else reset - time.time()


def _requests(number: int) -> str:
    return "1 request" if number == 1 else f"{number:,} requests"


class _Answered:
    """A response and its interpretation."""

    def __init__(self, response: Response, page: int, size: int) -> None:
        from airflow_provider_unpod.billing.http import responses

        self.response, self.status, self._asked = response, response.status, {"page": page, "page_size": size}
        self._envelope = responses.parse(response.body) if responses.is_object(response) else None
        self.invoices: list[Invoice] = []
        self.count: int | None = None

    def interpret(self) -> None:
        """Read rows and ``count``.

        :raises UnpodBadAnswer: if an HTTP 200 is not a response with rows.
        """
        from airflow_provider_unpod.billing.http import responses
        from airflow_provider_unpod.billing.invoice import Invoice

        if self.status == 200:
            rows, self.count = responses.rows_of(self.response)
            self.invoices = [Invoice(row) for row in rows]

    def begins_with(self, other: _Answered) -> bool:
        """Return whether the first invoices are those of another response."""
        keys = [invoice.key for invoice in other.invoices]
        return [invoice.key for invoice in self.invoices[: len(keys)]] == keys

    @property
    def dialect(self) -> str:
        rows = "results" if isinstance((self._envelope or {}).get("results"), list) else "data"
        names = {name for invoice in self.invoices for name in ("id", "invoice_number") if name in invoice.raw}
        ids = " and ".join(f"`{name}`" for name in sorted(names))
        return f"rows under `{rows}`, " + (f"identified by {ids}" if ids else "and no invoice to see ids in")

    def anonymous(self) -> dict[str, Any]:
        """Return the response without any values of the organization."""
        envelope = self._envelope or {}
        rows = next((value for value in map(envelope.get, ("results", "data")) if isinstance(value, list)), [])
        return {
            "request": self._asked,
            "status": self.status,
            "headers": sorted(map(str.lower, self.response.headers)),
            "rows": len(rows),
            "count": {None: "missing", len(rows): "equals rows"}.get(envelope.get("count"), "differs from rows"),
            "body": _shape(self._envelope),
        }


def _shape(value: Any) -> Any:
    """Return names and types instead of values. For a list, return the distinct shapes of its items."""
    if isinstance(value, Mapping):
        return {str(name): _shape(item) for name, item in value.items()}
    if isinstance(value, list):
        shapes = [_shape(item) for item in value]
        return [shape for number, shape in enumerate(shapes) if shape not in shapes[:number]]
    if isinstance(value, str):
        return _form_of_text(value)
    return {bool: "boolean", int: "integer", type(None): "null"}.get(type(value), "decimal")


def _form_of_text(text: str) -> str:
    if re.fullmatch(r"-?\d+\.(\d+)", text):
        return f"text: decimal with {len(text.rpartition('.')[2])} digits"
    if re.fullmatch(r"-?\d+", text):
        return "text: whole number"
    if re.fullmatch(r"\d{4}-\d\d-\d\d[T ].*", text):
        return "text: date and time"
    return "text: date" if re.fullmatch(r"\d{4}-\d\d-\d\d", text) else "text"
