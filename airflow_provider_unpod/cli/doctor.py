"""``check``: does the connection work, how does its API behave, and what will it cost? About six requests.

The package was built from Unpod's published pages. What they leave open (page-size limit, order, the page past the end)
is found out here, on the API that a deployment really has.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_unpod.cli.output import note, write_facts

if TYPE_CHECKING:
    from airflow_provider_unpod.billing.client import UnpodClient
    from airflow_provider_unpod.billing.http.transport import Response
    from airflow_provider_unpod.billing.invoice import Invoice
    from airflow_provider_unpod.hooks.unpod import UnpodHook

_SIZE, _LARGE_SIZE, _ODD_SIZE = 100, 1000, 7
#: Requests a minute, by plan (Unpod's pages); the day's limit is a hundred times that.
_PLANS = {100: "Free", 1_000: "Developer", 10_000: "Business"}
#: A poll for an invoice whose place is known, and the page where new ones land.
_REQUESTS_PER_POLL = 2
_SECONDS_PER_DAY = 86_400


@dataclass
class Findings:
    """What was found out, in words; ``settings`` are those that a connection's extra should have."""

    facts: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    transcript: list[dict[str, Any]] = field(default_factory=list)


def examine(hook: UnpodHook, record: str | None) -> int:
    """Test, examine, and report; 1 if the connection does not work.

    :param record: file for the anonymized transcript.
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
    write_facts(findings.facts)
    if findings.settings:
        print("\nRecommended settings of the connection's extra:")
        print(json.dumps(findings.settings, indent=2))
    if record is not None:
        Path(record).write_text(json.dumps(findings.transcript, indent=2) + "\n")
        note(f"{record}: names, types and headers of {len(findings.transcript)} responses, and no values.")
    return 0


class _Examination:
    def __init__(self, client: UnpodClient, findings: Findings) -> None:
        self._client = client
        self._findings = findings

    def run(self) -> None:
        facts = self._findings.facts
        first = self._ask(1, _SIZE)
        facts["dialect"] = first.dialect
        facts["count"] = "missing: the list is read by whole passes" if first.count is None else f"{first.count:,}"
        facts["order"] = self._order(first.invoices)
        limit = self._page_size(first)
        facts["page past the end"] = self._past_the_end(first, limit)
        facts["rate limit"] = self._rate_limit(first)
        if first.count is not None:
            self._costs(first.count, limit)

    def _ask(self, page: int, size: int) -> _Answered:
        response = self._client.probe(page, size)
        answered = _Answered(response, page, size)
        self._findings.transcript.append(answered.anonymous())
        return answered

    def _order(self, invoices: list[Invoice]) -> str:
        from airflow_provider_unpod.billing.reading.order import OrderWitness

        if len(invoices) < 2:
            return "not visible in so few invoices"
        witness = OrderWitness()
        witness.observe(invoices)
        if witness.ties:
            return "by date, and equal dates in no order of ids: the list is read by whole passes"
        return {"assumed": "neither by id nor by date"}.get(witness.order, witness.order)

    def _page_size(self, first: _Answered) -> int:
        """How many rows a page has at most, as far as the list shows it."""
        facts = self._findings.facts
        rows = len(first.invoices)
        if first.count is not None and rows == first.count:
            facts["page size"] = f"not visible: all {rows} invoices are on one page"
            return _SIZE
        odd = len(self._ask(1, _ODD_SIZE).invoices)
        if odd != _ODD_SIZE:
            facts["page size"] = f"`page_size` is ignored: {odd} rows came where {_ODD_SIZE} were asked for"
            return rows
        large = len(self._ask(1, _LARGE_SIZE).invoices)
        limit = max(rows, large)
        more = first.count is not None and large < min(first.count, _LARGE_SIZE)
        facts["page size"] = f"at most {limit} rows" if more else f"at least {limit} rows"
        if limit != self._client.page_size and more:
            self._findings.settings["page_size"] = limit
        return limit

    def _past_the_end(self, first: _Answered, limit: int) -> str:
        page = (first.count or 0) // min(_SIZE, limit) + 2 if first.count is not None else 100_000
        past = self._ask(page, min(_SIZE, limit))
        if past.status == 404:
            return "HTTP 404"
        return f"has {len(past.invoices)} rows: lists of this API cannot be certified" if past.invoices else "is empty"

    def _rate_limit(self, first: _Answered) -> str:
        limit = first.response.headers.get("X-RateLimit-Limit") or ""
        if not limit.isdecimal():
            return "the API does not say"
        plan = _PLANS.get(int(limit))
        return f"{int(limit):,} requests a minute" + (f" ({plan} plan: {int(limit) * 100:,} a day)" if plan else "")

    def _costs(self, count: int, limit: int) -> None:
        from airflow_provider_unpod.billing.reading.windows import planned_requests

        facts = self._findings.facts
        facts["an export"] = f"about {planned_requests(count, min(limit, self._client.page_size))} requests"
        polls = _SECONDS_PER_DAY // 60
        facts["a day of waiting"] = f"about {polls * _REQUESTS_PER_POLL:,} requests at one poll a minute"


class _Answered:
    """One response, and what it shows."""

    def __init__(self, response: Response, page: int, size: int) -> None:
        from airflow_provider_unpod.billing.http import responses
        from airflow_provider_unpod.billing.invoice import Invoice

        self.response, self.status, self._asked = response, response.status, {"page": page, "page_size": size}
        self._envelope = responses.parse(response.body) if responses.is_object(response) else None
        self.invoices: list[Invoice] = []
        self.count: int | None = None
        if response.status == 200:
            rows, self.count = responses.rows_of(response)
            self.invoices = [Invoice(row) for row in rows]

    @property
    def dialect(self) -> str:
        rows = "results" if isinstance((self._envelope or {}).get("results"), list) else "data"
        names = {name for invoice in self.invoices for name in ("id", "invoice_number") if name in invoice.raw}
        return (
            f"rows under `{rows}`, identified by {' and '.join(f'`{name}`' for name in sorted(names)) or 'nothing yet'}"
        )

    def anonymous(self) -> dict[str, Any]:
        """The response without a value that says anything of the organization."""
        return {
            "request": self._asked,
            "status": self.status,
            "headers": sorted(map(str.lower, self.response.headers)),
            "rows": len(self.invoices),
            "body": _shape(self._envelope),
        }


def _shape(value: Any) -> Any:
    """Names and types; of a list the shapes that its items have."""
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
    if re.fullmatch(r"\d{4}-\d\d-\d\d[T ].*", text):
        return "text: date and time"
    return "text: date" if re.fullmatch(r"\d{4}-\d\d-\d\d", text) else "text"
