"""The results of ``check`` are correct for servers with other dialects, limits and orders."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_unpod.billing.client import UnpodClient
from airflow_provider_unpod.billing.errors import UnpodListUnstable
from airflow_provider_unpod.billing.reading.reading import read_list
from airflow_provider_unpod.billing.watching.allowance import Allowance
from airflow_provider_unpod.billing.watching.subscriptions import Snapshot, Wanted
from airflow_provider_unpod.billing.watching.watch import ListWatch
from airflow_provider_unpod.cli.main import main
from airflow_provider_unpod.sandbox import Sandbox
from tests.billing.faulty_server import FaultyServer, Request, Step, answer, row
from tests.cli.replay import replayed

pytestmark = pytest.mark.usefixtures("_logging_as_it_was")
PASSES = "two whole passes at least, because"
EACH_PAGE = "1,440 requests at one poll a minute, for each page with wanted invoices"
POLLS = 60  # one a minute
WHOLE = "polls read the whole list"
#: Settings of a sandbox, and what is then true of it.
SERVERS: list[tuple[dict[str, Any], dict[str, str]]] = [
    (
        {},
        {
            "dialect": "rows under `results`, identified by `id`",
            "order": "by id",
            "page size": "at most 100 rows",
            "page past the end": "HTTP 404",
            "a day of waiting": "also uses the rest of `daily_requests` (3,333)$",
        },
    ),
    (
        {"dialect": "data", "order": "oldest", "max_page_size": 50},
        {
            "dialect": "rows under `data`, identified by `invoice_number`",
            "page size": "at most 50 rows",
            "settings": '{"page_size": 50}',
        },
    ),
    (
        {"order": "shuffled", "count": "missing", "end": "empty"},
        {
            "count": "missing",
            "order": "neither by id nor by date",
            "page size": "at least 100 rows",
            "page past the end": "is empty",
            "an export": f"{PASSES} responses have no `count`",
            "a day of waiting": f"no `count`, {WHOLE}, as often as `daily_requests` (3,333) allows$",
        },
    ),
    (
        {"order": "shuffled"},
        {"a day of waiting": f"no order of ids, {WHOLE}, about every 2 minutes at `daily_requests` (3,333)$"},
    ),
    (
        {"order": "shuffled", "invoices": 120},
        {"a day of waiting": f"{WHOLE}: about 2,880 requests at one poll a minute$"},
    ),
    (
        {"fixed_page_size": 20},
        {
            "page size": "`page_size` is ignored: pages have 20 rows",
            "an export": PASSES,
            "a day of waiting": "1,440 requests or more (`page_size` is ignored) at one poll a minute",
        },
    ),
    ({"fixed_page_size": 7}, {"page size": "`page_size` is ignored: pages have 7 rows", "an export": PASSES}),
    ({"fixed_page_size": 300}, {"page size": "`page_size` is ignored: pages have 250 rows", "an export": PASSES}),
    ({"max_page_size": 5}, {"page size": "at most 5 rows", "an export": f"{PASSES} windows of 5 rows cannot overlap"}),
    (
        {"max_page_size": 18},
        {
            "settings": '{"page_size": 18}',
            "a day of waiting": f"pages have only 18 rows, {WHOLE}, about every 9 minutes",
        },
    ),
    ({"max_page_size": 19}, {"settings": '{"page_size": 19}', "a day of waiting": EACH_PAGE}),
    ({"max_page_size": 1000, "invoices": 1500}, {"page size": "at least 1000 rows", "settings": '{"page_size": 1000}'}),
    ({"invoices": 0}, {"dialect": "no invoice to see ids in", "order": "not visible", "an export": "about 1 request$"}),
    (
        {"invoices": 99, "order": "shuffled"},
        {
            "page size": "no limit visible: all invoices are on one page",
            "a day of waiting": "1,440 requests at one poll a minute$",
        },
    ),
    ({"invoices": 100}, {"page size": "no limit visible: all invoices are on one page"}),
    (
        {"rate_limit": 100, "invoices": 20_000},
        {
            "rate limit": "100 requests a minute (Free plan: 10,000 a day)",
            "a day of waiting": "more than 3 such pages need a longer `poke_interval` on this plan$",
        },
    ),
    (
        {"rate_limit": 30},
        {"rate limit": "30 requests a minute, if it is by the minute", "a day of waiting": "(3,333)$"},
    ),
]


def said_in(out: str) -> dict[str, str]:
    facts, _, settings = out.partition("\nRecommended settings of the connection's extra:\n")
    said = dict(re.findall(r"^(.+?)  +(.+)$", facts, re.MULTILINE))
    return said | {"settings": json.dumps(json.loads(settings)) if settings else ""}


@pytest.mark.parametrize(
    ("server", "true"),
    # At 30 requests a minute, `check` paces itself for seconds.
    [pytest.param(*case, marks=[pytest.mark.slow] if case[0].get("rate_limit") == 30 else []) for case in SERVERS],
    ids=lambda value: str(value) if "order" in value else None,
)
def test_the_results_of_check_are_correct(
    server: dict[str, Any],
    true: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Sandbox(today=date(2026, 7, 1), **server) as sandbox:
        monkeypatch.setenv("AIRFLOW_CONN_UNPOD_DEFAULT", sandbox.connection_json())
        assert main(["check"]) == 0
    out, err = capsys.readouterr()
    said = said_in(out)

    for name, words in true.items():
        assert words.removesuffix("$") in said[name], said
        assert not words.endswith("$") or said[name].endswith(words[:-1]), said
    assert bool(said["settings"]) == ("settings" in true or server == {"max_page_size": 5})
    assert "has not been run against the live API" in err


@pytest.mark.parametrize("server", [server for server, _ in SERVERS if "count" not in server], ids=str)
def test_an_export_needs_about_the_requests_that_check_estimates(
    server: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without_limit = {name: value for name, value in server.items() if name != "rate_limit"}
    with Sandbox(today=date(2026, 7, 1), **without_limit) as sandbox:
        monkeypatch.setenv("AIRFLOW_CONN_UNPOD_DEFAULT", sandbox.connection_json())
        assert main(["check"]) == 0
        sandbox.reset_stats()
        # One at a time, because the number of windows in flight when a read starts anew depends on the machine's load.
        with UnpodClient(sandbox.url, sandbox.token, sandbox.org_handle, max_concurrency=1) as client:
            assert sum(1 for _ in read_list(client)) == server.get("invoices", 250)
        made = sandbox.stats["requests"]
    (foretold,) = re.findall(r"^an export +about ([\d,]+) request", capsys.readouterr().out, re.MULTILINE)

    assert int(foretold.replace(",", "")) == pytest.approx(made, rel=0.25, abs=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "server", [server for server, _ in SERVERS if not server.keys() & {"fixed_page_size", "rate_limit"}], ids=str
)
def test_waits_need_the_requests_that_check_estimates(
    server: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Sandbox(today=date(2026, 7, 1), **server) as sandbox:
        monkeypatch.setenv("AIRFLOW_CONN_UNPOD_DEFAULT", sandbox.connection_json())
        assert main(["check"]) == 0
        (foretold,) = re.findall(r"^a day of waiting +(.*)", capsys.readouterr().out, re.MULTILINE)
        with UnpodClient(sandbox.url, sandbox.token, sandbox.org_handle) as client:
            keys = [invoice.key for invoice in client.get_page(1, 10).invoices][-1:]
            existing, missing = (_polls(client, Wanted(set(of_one))) for of_one in (keys, [10**9]))

    hours = POLLS / 60
    if WHOLE not in foretold:
        assert existing.requests == [1] * POLLS
        assert sum(missing.requests) <= (3_333 if "rest of" in foretold else 1_440) / 24 * hours
    elif every := re.search(r"about every (\d+) minutes", foretold):
        assert missing.longest_pause <= int(every[1]) + 1
        assert sum(missing.requests) <= 3_333 / 24 * hours
    elif total := re.search(r"about ([\d,]+) requests at one poll", foretold):
        assert sum(missing.requests) / hours * 24 == int(total[1].replace(",", ""))
    else:
        assert sum(missing.requests) <= 3_333 / 24 * hours


@dataclass
class _Polled:
    """The requests of each poll, and the most minutes from one that read the list to the next."""

    requests: list[int]
    longest_pause: int


def _polls(client: UnpodClient, wanted: Wanted) -> _Polled:
    """Poll a list once a minute, of simulated time. The first poll is not counted."""
    minutes = 0
    watch = ListWatch(client, Allowance(client.daily_requests, clock=lambda: minutes * 60.0))
    polled, latest = _Polled([], 0), 0
    for minutes in range(POLLS + 1):
        before = client.requests_made
        if isinstance(watch.poll(wanted), Snapshot):
            polled.longest_pause, latest = max(polled.longest_pause, minutes - latest), minutes
        polled.requests.append(client.requests_made - before)
    del polled.requests[0]
    return polled


@pytest.mark.slow
@pytest.mark.unpod_sandbox(rate_limit=100)
def test_more_daily_requests_than_half_of_the_plan_are_noticed(
    unpod_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    connection = json.loads(unpod_sandbox.connection_json())
    for daily, noticed in ((5_000, False), (5_001, True)):
        connection["extra"] = {"daily_requests": daily}
        monkeypatch.setenv("AIRFLOW_CONN_UNPOD_DEFAULT", json.dumps(connection))
        assert main(["check"]) == 0
        said = said_in(capsys.readouterr().out)

        assert said["a day of waiting"].endswith("; `daily_requests` is more than half of the plan") == noticed
        assert said["settings"] == ('{"daily_requests": 3333}' if noticed else "")


@pytest.mark.unpod_sandbox(rate_limit=3, rate_window=86_400)
def test_the_results_before_the_api_failed_are_reported(
    unpod_sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "--record", str(tmp_path / "record.json")]) == 3

    out, err = capsys.readouterr()
    assert "by id" in out
    assert "Retry after" in err
    assert len(json.loads((tmp_path / "record.json").read_text())["responses"]) == 2


def test_a_response_that_cannot_be_interpreted_is_in_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strange = {"status_code": 200, "payload": {"invoices": [{"no": 7, "total": "49.00"}]}}
    with replayed({"responses": [{"body": strange}]}, connection=monkeypatch):
        assert main(["check", "--record", str(tmp_path / "record.json")]) == 3

    (response,) = json.loads((tmp_path / "record.json").read_text())["responses"]
    assert response["body"]["payload"] == {"invoices": [{"no": "integer", "total": "text: decimal with 2 digits"}]}


@pytest.mark.parametrize("server", [server for server, _ in SERVERS if "rate_limit" not in server], ids=str)
def test_a_record_can_be_replayed_and_leads_to_the_same_findings(
    server: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = str(tmp_path / "first.json"), str(tmp_path / "second.json")
    with Sandbox(today=date(2026, 7, 1), **server) as sandbox:
        monkeypatch.setenv("AIRFLOW_CONN_UNPOD_DEFAULT", sandbox.connection_json())
        assert main(["check", "--record", first]) == 0
    record = json.loads(Path(first).read_text())

    with replayed(record, connection=monkeypatch):
        assert main(["check", "--record", second]) == 0

    again = json.loads(Path(second).read_text())
    assert again["findings"] == record["findings"]
    # The number of the last page depends on `count`, which no record contains.
    assert first_pages(again) == first_pages(record)


def first_pages(record: dict[str, Any]) -> list[Any]:
    return [response for response in record["responses"] if response["request"]["page"] == 1]


@dataclass
class _Odd:
    """A list of invoices, newest first, on a server that is unlike Unpod's pages."""

    invoices: int = 250
    #: Rows of a page that is not on the list: the number of the page to send instead, or an HTTP status.
    past: Callable[[int], int] = lambda last: 404
    #: The page that is sent for a requested one.
    turned: Callable[[int], int] = lambda page: page
    #: `count` for the number of invoices.
    count: Callable[[int], int | None] = lambda number: number
    #: Response to a `page_size` above 100: another size, or an HTTP status.
    large: int = 100
    headers: Mapping[str, str] = field(default_factory=dict)
    requests: int = 0

    def __call__(self, request: Request) -> list[Step]:
        if "/organizations/" in request.path:
            return answer({"count": 1, "results": [{"domain_handle": "acme"}]})
        self.requests += 1
        size, page = int(request.query["page_size"]), self.turned(int(request.query["page"]))
        size = size if size <= 100 else self.large
        last = -(-self.invoices // size) or 1
        page = page if page <= last else self.past(last)
        for status in (size, page):
            if status in (400, 404):
                return answer({"status_code": status, "message": "No."}, status)
        numbers = range(self.invoices, 0, -1)[(page - 1) * size : page * size]
        envelope = {"results": [row(number) for number in numbers], "count": self.count(self.invoices)}
        return answer({name: value for name, value in envelope.items() if value is not None}, headers=self.headers)


LATE = "a list that changes while it is read may not be certified$"
#: An odd server, and what is then true of it. Its invoices are only exported if "an export" does not fail.
ODD_SERVERS: dict[str, tuple[_Odd, dict[str, str]]] = {
    "count is late": (
        _Odd(count=lambda number: number - 2),
        {
            "count": "248, which is wrong: page 3 of 100 rows has 50 instead of 48$",
            "an export": "fails, because `count`",
        },
    ),
    "count is that of the page": (_Odd(count=lambda _: 100), {"an export": "fails, because `count` is wrong$"}),
    "count is too high": (_Odd(count=lambda number: number + 30), {"an export": "fails, because `count` is wrong$"}),
    "count is zero": (_Odd(count=lambda _: 0), {"count": "page 1 of 100 rows has 100 instead of 0$"}),
    "the last page is repeated": (
        _Odd(past=lambda last: last),
        {"page past the end": f"has 50 rows: {LATE}", "an export": "about 3 requests$"},
    ),
    "the last page is repeated, and no count": (
        _Odd(past=lambda last: last, count=lambda _: None),
        {"an export": "fails, because the page past the end has rows, and responses have no `count`$"},
    ),
    "a page past the end is refused": (
        _Odd(past=lambda _: 400),
        {"page past the end": f"is refused with HTTP 400: {LATE}", "an export": "about 3 requests$"},
    ),
    "every page is the first": (_Odd(turned=lambda _: 1), {"an export": "fails, because every page is the first one$"}),
    "a large page_size is refused": (_Odd(large=400), {"page size": "at least 100 rows, but", "settings": ""}),
    "a large page_size is replaced by a small one": (
        _Odd(large=20),
        {"page size": "at least 100 rows, but fewer or none if 1000 are requested$", "settings": ""},
    ),
    "one page of fewer rows": (
        _Odd(invoices=15),
        {"an export": "about 1 request$", "a day of waiting": "1,440 requests at one poll a minute$"},
    ),
    "a hundred thousand invoices": (_Odd(invoices=100_000), {"an export": "about 1,143 requests$"}),
    "another limit than by the minute": (
        _Odd(headers={"X-RateLimit-Limit": "10000", "X-RateLimit-Reset": "86400"}),
        {"rate limit": "10,000 requests, not by the minute: the limit resets in 1,440 minutes$"},
    ),
    "other headers": (
        _Odd(headers={"RateLimit-Limit": "100"}),
        {"rate limit": "no number in the header `X-RateLimit-Limit`$"},
    ),
}


@pytest.mark.parametrize("name", ODD_SERVERS)
def test_the_results_of_check_are_true_of_odd_servers_and_an_export_is_certified_or_fails_as_they_say(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    odd, true = ODD_SERVERS[name]
    with FaultyServer(otherwise=odd) as server:
        connection = {"conn_type": "unpod", "host": server.url, "login": "acme", "password": "token"}
        monkeypatch.setenv("AIRFLOW_CONN_UNPOD_DEFAULT", json.dumps(connection))
        assert main(["check"]) == 0
        said = said_in(capsys.readouterr().out)
        before = odd.requests
        with UnpodClient(server.url, "token", "acme") as client:
            if "fails" in said["an export"]:
                with pytest.raises(UnpodListUnstable):
                    list(read_list(client))
            else:
                assert sum(1 for _ in read_list(client)) == odd.invoices
                foretold = int(said["an export"].split()[1].replace(",", ""))
                assert foretold == pytest.approx(odd.requests - before, rel=0.1)

    for fact, words in true.items():
        assert words.removesuffix("$") in said[fact], said
        assert not words.endswith("$") or said[fact].endswith(words[:-1]), said
