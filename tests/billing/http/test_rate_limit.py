"""The client slows down before the rate limit is exhausted, and waits as long as the API asks."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from email.utils import format_datetime, formatdate

import pytest

from airflow_provider_unpod.billing.client import UnpodClient
from airflow_provider_unpod.billing.errors import UnpodRateLimited, UnpodUnavailable
from airflow_provider_unpod.billing.http.rate_limit import LONGEST_WINDOW, Budget, Pacing
from airflow_provider_unpod.billing.http.retry import POLL_RETRY, RetryPolicy
from tests.billing.conftest import FastClock
from tests.billing.faulty_server import FaultyServer, Request, Reset, Script, answer, page

Connect = Callable[..., UnpodClient]


class Limiter:
    """A server with fixed windows of ``seconds``, which refuses more than ``limit`` requests in each.

    It uses the clock of the test, and the first window begins now, so tests do not depend on the time of day.
    """

    def __init__(
        self, clock: FastClock, limit: int, seconds: float, skew: float = 0.0, *, rounded: bool = True
    ) -> None:
        self.clock, self.limit, self.seconds, self.skew, self.rounded = clock, limit, seconds, skew, rounded
        self.lock = threading.Lock()
        self.began = clock.time() + skew
        self.used: Counter[int] = Counter()
        self.refused = 0

    def __call__(self, request: Request) -> Script:
        with self.lock:
            now = self.clock.time() + self.skew
            window = int((now - self.began) / self.seconds)
            ends = self.began + (window + 1) * self.seconds
            self.used[window] += 1
            left = self.limit - self.used[window]
            headers = {
                "Date": formatdate(now, usegmt=True),
                "X-RateLimit-Limit": str(self.limit),
                "X-RateLimit-Remaining": str(max(0, left)),
                "X-RateLimit-Reset": str(int(ends) if self.rounded else ends),
            }
            if left < 0:
                self.refused += 1
                return answer("", 429, headers | {"Retry-After": str(int(ends - now) + 1)})
            return page(headers=headers)


@pytest.mark.slow
@pytest.mark.parametrize("skew", [0.0, 3600.0, -86400.0 * 400, 1.2])
@pytest.mark.parametrize("seconds", [6.0, 6.7, 60.0])
def test_a_list_of_200_pages_keeps_within_a_limit_of_50_without_being_refused(
    server: FaultyServer, connect: Connect, clock: FastClock, skew: float, seconds: float
) -> None:
    server.otherwise = limiter = Limiter(clock, 50, seconds, skew)
    client = connect(server)
    client.get_page(1, 100)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: client.get_page(number, 100), range(2, 201)))
    assert client.requests_made <= 202
    assert limiter.refused <= 2


def test_a_limit_shared_with_others_is_kept_by_waiting_when_refused(
    server: FaultyServer, connect: Connect, clock: FastClock
) -> None:
    limiter = Limiter(clock, 20, 60.0)

    def with_others(request: Request) -> Script:
        limiter(request)  # somebody else makes as many requests as we do
        return limiter(request)

    server.otherwise = with_others
    client = connect(server)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: client.get_page(number, 100), range(1, 61)))
    assert client.requests_made <= 75


def test_the_budget_can_be_seen(server: FaultyServer, connect: Connect) -> None:
    client = connect(server)
    assert client.budget == Budget(None, None, None)
    assert str(client.budget) == "none announced"
    now = time.time()
    headers = {"X-RateLimit-Limit": "100", "X-RateLimit-Remaining": "42", "X-RateLimit-Reset": str(int(now) + 30)}
    server.scripts = [page(headers=headers)]
    client.get_page(1, 100)
    assert (client.budget.limit, client.budget.remaining) == (100, 42)
    assert client.budget.resets_in is not None
    assert 25 < client.budget.resets_in < 32
    assert re.fullmatch(r"42 of 100 requests left for (29|3[01]) s", str(client.budget))


@pytest.mark.parametrize(
    "headers",
    [
        {"X-RateLimit-Remaining": "0"},
        {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "0"},
        {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "soon"},
        {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "99999999999999999999"},
        {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "nan"},
        {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "inf"},
        {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(int(time.time() + 86_400))},
        {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(int(time.time() * 1000))},
        {"X-RateLimit-Remaining": "-5", "X-RateLimit-Reset": str(int(time.time() + 30))},
        {"X-RateLimit-Remaining": "many", "X-RateLimit-Reset": str(int(time.time() + 30))},
        {"X-RateLimit-Limit": "0", "X-RateLimit-Remaining": "", "X-RateLimit-Reset": ""},
        {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "5", "Date": "yesterday"},
        {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "5", "Date": "Sun, 99 Nov 99999 99:99:99 GMT"},
    ],
)
def test_senseless_rate_limit_headers_delay_nothing(
    server: FaultyServer, connect: Connect, clock: FastClock, headers: dict[str, str]
) -> None:
    server.otherwise = page(headers=headers)
    client = connect(server)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: client.get_page(number, 100), range(1, 21)))
    assert clock.skipped == 0


def test_no_window_delays_a_client_for_longer_than_the_limit(
    server: FaultyServer, connect: Connect, clock: FastClock
) -> None:
    headers = {"X-RateLimit-Limit": "0", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(int(time.time()) + 90)}
    server.otherwise = page(headers=headers)
    client = connect(server)
    client.get_page(1, 100)
    client.get_page(2, 100)
    assert 80 < clock.skipped <= LONGEST_WINDOW
    client.get_page(3, 100)  # the same reset again lies in the past now
    assert clock.skipped <= LONGEST_WINDOW


@pytest.mark.parametrize(
    ("retry_after", "least", "most"),
    [
        ("60", 60, 90.5),
        ("0.5", 0.5, 1),
        ("in 42 s", 38, 65),
        ("", 0, 0.6),
        ("0", 0, 0.6),
        ("-5", 0, 0.6),
        ("soon", 0, 0.6),
        ("nan", 0, 0.6),
        ("inf", 0, 0.6),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0, 0.6),
        ("Sun, 99 Nov 9999999 08:49:37 GMT", 0, 0.6),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_a_valid_retry_after_is_obeyed(
    server: FaultyServer, connect: Connect, clock: FastClock, status: int, retry_after: str, least: float, most: float
) -> None:
    if retry_after == "in 42 s":
        retry_after = formatdate(time.time() + 42, usegmt=True)
    server.scripts = [answer("", status, {"Retry-After": retry_after} if retry_after else {}), page()]
    connect(server).get_page(1, 100)
    assert least <= clock.skipped + 0.1
    assert clock.skipped <= most


def test_a_retry_after_date_is_read_by_the_servers_clock(
    server: FaultyServer, connect: Connect, clock: FastClock
) -> None:
    theirs = time.time() + 7 * 86_400
    headers = {"Date": formatdate(theirs, usegmt=True), "Retry-After": formatdate(theirs + 20, usegmt=True)}
    server.scripts = [answer("", 429, headers), page()]
    connect(server).get_page(1, 100)
    assert 18 <= clock.skipped <= 31


@pytest.mark.parametrize(
    "retry_after", ["901", "99999999", "1e12", format_datetime(datetime(2190, 1, 1, tzinfo=timezone.utc), usegmt=True)]
)
def test_a_wait_that_is_too_long_is_refused_at_once_and_named(
    server: FaultyServer, connect: Connect, clock: FastClock, retry_after: str
) -> None:
    server.otherwise = answer(
        {"error": {"code": "rate_limit_exceeded", "message": "daily"}}, 429, {"Retry-After": retry_after}
    )
    client = connect(server)
    with pytest.raises(
        UnpodRateLimited, match=r"^Retry after .* at most 15 min \(waited so far: 0 s\)\. .*rate_limit_exceeded / daily"
    ) as caught:
        client.get_page(1, 100)
    assert caught.value.status == 429
    assert client.requests_made == 1
    assert clock.skipped == 0


def test_an_absurd_wait_does_not_disable_the_client_for_good(
    server: FaultyServer, connect: Connect, clock: FastClock
) -> None:
    server.scripts = [answer("", 429, {"Retry-After": "99999999"})]
    client = connect(server)
    with pytest.raises(UnpodRateLimited):
        client.get_page(1, 100)
    assert client.get_page(1, 100).count == 1
    assert clock.skipped <= 300


def test_all_waits_for_the_rate_limit_of_one_request_together_are_capped_and_counted(
    server: FaultyServer, connect: Connect, clock: FastClock
) -> None:
    server.otherwise = answer("", 429, {"Retry-After": "50"})
    client = connect(server, retry=RetryPolicy(attempts=2, max_rate_limit_wait=200))
    with pytest.raises(UnpodRateLimited, match=r"at most 3 min \(waited so far: (\d+ s|\d min)\)"):
        client.get_page(1, 100)
    assert 100 <= clock.skipped <= 200
    assert client.requests_made in (3, 4)


def test_waiting_for_the_rate_limit_is_progress_and_not_one_of_the_tries(
    server: FaultyServer, connect: Connect, clock: FastClock
) -> None:
    slow_down: Script = answer("", 429, {"Retry-After": "5"})
    server.scripts = [*[slow_down] * 12, answer("", 500), page()]
    assert connect(server, retry=RetryPolicy(attempts=2)).get_page(1, 100).count == 1
    assert clock.skipped >= 60


@pytest.mark.parametrize("named_by", ["Retry-After", "X-RateLimit-Reset"])
def test_an_exhausted_daily_quota_fails_immediately_with_the_time_of_its_reset(
    server: FaultyServer, connect: Connect, clock: FastClock, named_by: str
) -> None:
    midnight = int(time.time()) + 5 * 3600
    headers = {"X-RateLimit-Limit": "10000", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(midnight)}
    server.otherwise = answer("", 429, {"Retry-After": str(5 * 3600)} if named_by == "Retry-After" else headers)
    client = connect(server)
    with pytest.raises(UnpodRateLimited) as caught:
        client.get_page(1, 100)
    named = re.match(r"Retry after (\S+Z): the rate limit of this API token is used up for 5 h", caught.value.message)
    assert named
    assert abs(datetime.fromisoformat(named[1].replace("Z", "+00:00")).timestamp() - midnight) <= 3
    assert (client.requests_made, clock.skipped) == (1, 0)


def test_backoff_grows_is_capped_and_is_spread_evenly() -> None:
    policy = RetryPolicy(first_wait=0.5, max_wait=10)
    for attempt, cap in ((1, 0.5), (2, 1), (3, 2), (4, 4), (5, 8), (6, 10), (2000, 10)):
        drawn = [policy.backoff(attempt) for _ in range(400)]
        assert 0 <= min(drawn) < 0.1 * cap
        assert 0.9 * cap < max(drawn) <= cap


def test_one_refused_thread_holds_all_others_back(server: FaultyServer, connect: Connect, clock: FastClock) -> None:
    """After a 429 in one thread, no thread sends a request before the wait ends."""
    moments: list[float] = []

    def refuse_the_first(request: Request) -> Script:
        moments.append(clock.monotonic())
        return answer("", 429, {"Retry-After": "100"}) if len(moments) == 1 else page()

    server.otherwise = refuse_the_first
    client = connect(server)
    refused = threading.Thread(target=client.get_page, args=(1, 100))
    refused.start()
    deadline = time.monotonic() + 5
    while not client._pacing._share.hold(0.0, 0) and time.monotonic() < deadline:
        refused.join(0.001)
    client.get_page(2, 100)
    refused.join()
    assert all(moment - moments[0] >= 99.9 for moment in moments[1:])


def test_a_wait_that_another_thread_was_asked_for_is_not_one_for_the_rate_limit(
    server: FaultyServer, connect: Connect, clock: FastClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "airflow_provider_unpod")
    client = connect(server, retry=RetryPolicy(max_rate_limit_wait=10))
    client._pacing.pause(60)
    client.get_page(1, 100)
    assert clock.skipped >= 59.9
    assert "another request was asked to wait" in caplog.text


def test_the_connection_sets_how_long_a_request_waits_for_the_rate_limit(
    server: FaultyServer, connect: Connect, clock: FastClock
) -> None:
    refused = answer("", 429, {"Retry-After": "1200"})
    server.scripts = [refused, page()]
    assert connect(server, max_rate_limit_wait=3600).get_page(1, 100).count == 1
    server.scripts = [refused]
    with pytest.raises(UnpodRateLimited, match=r"at most 15 min"):
        connect(server).get_page(1, 100)
    server.scripts = [answer("", 429, {"Retry-After": "120"})]
    with pytest.raises(UnpodRateLimited, match=r"at most 60 s"):
        connect(server, max_rate_limit_wait=60, retry=POLL_RETRY).get_page(1, 100)


def test_long_waits_are_announced_once_with_how_long_and_why(
    server: FaultyServer, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "airflow_provider_unpod")
    server.scripts = [answer({"message": "being deployed"}, 503, {"Retry-After": "30"}), page()]
    connect(server).get_page(1, 100)
    (record,) = caplog.records
    assert re.search(r"Waiting 3[012] s", record.getMessage())
    assert "being deployed" in record.getMessage()


def test_a_long_wait_for_the_rate_limit_names_the_remedy_once(
    server: FaultyServer, connect: Connect, clock: FastClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "airflow_provider_unpod")
    headers = limits(10, 0, clock.time() + 40)
    later = limits(10, 0, clock.time() + 140)
    server.scripts = [
        answer("", 429, headers | {"Retry-After": "40"}),
        answer("", 429, later | {"Retry-After": "100"}),
        page(),
    ]
    connect(server).get_page(1, 100)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert "the rate limit of 10 requests of this API token is in use" in messages[0]
    assert [message.count("give the tasks that use this token a pool") for message in messages] == [1, 0]


def test_the_remedy_is_named_even_right_after_a_shorter_wait(
    server: FaultyServer, connect: Connect, clock: FastClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "airflow_provider_unpod")
    refused = answer("", 429, {"Retry-After": "40", **limits(10, 0, clock.time() + 40)})
    server.scripts = [answer("", 503, {"Retry-After": "4"}), refused, page()]
    connect(server).get_page(1, 100)
    first, second = (record.getMessage() for record in caplog.records)
    assert "pool" not in first
    assert "give the tasks that use this token a pool" in second


def test_short_waits_are_not_announced(
    server: FaultyServer, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "airflow_provider_unpod")
    server.scripts = [answer("", 500), answer("", 429, {"Retry-After": "2"}), page()]
    connect(server).get_page(1, 100)
    assert not caplog.records


def test_threads_that_wait_for_the_same_window_announce_it_once(
    server: FaultyServer, connect: Connect, clock: FastClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "airflow_provider_unpod")
    server.otherwise = Limiter(clock, 10, 60.0)
    client = connect(server)
    client.get_page(1, 100)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: client.get_page(number, 100), range(2, 21)))
    assert 1 <= len(caplog.records) <= 3
    assert "limit of 10 requests" in caplog.records[0].getMessage()


def test_of_waits_that_end_one_after_another_each_minute_one_is_announced(
    clock: FastClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "airflow_provider_unpod")
    pacing = Pacing(clock)
    for _ in range(20):
        pacing.sleep(11, "busy", None)
    assert len(caplog.records) == 4  # of 220 seconds
    pacing.sleep(300, "busy for long", None)
    assert "300 s" in caplog.records[4].getMessage()


def test_a_list_of_200_pages_with_nine_percent_faults_is_read(server: FaultyServer, connect: Connect) -> None:
    faults: list[Script] = [*[answer("", 500)] * 5, *[[Reset]] * 2, *[answer("", 429)] * 2]
    for number in range(200):
        server.scripts += [page([number]), *([faults[number // 11 % 9]] if number % 11 == 0 else [])]
    client = connect(server)
    for number in range(200):
        assert client.get_page(number + 1, 100).invoices[0].invoice_id == number
    assert client.requests_made <= 200 * 1.15


def test_a_try_without_a_response_is_no_longer_in_flight(server: FaultyServer, connect: Connect) -> None:
    headers = {"X-RateLimit-Limit": "9", "X-RateLimit-Remaining": "5", "X-RateLimit-Reset": str(int(time.time()) + 50)}
    server.scripts = [page(headers=headers)]
    client = connect(server, retry=RetryPolicy(attempts=1))
    client.get_page(1, 100)
    for _ in range(10):
        server.scripts = [[Reset]]
        with pytest.raises(UnpodUnavailable):
            client.get_page(1, 100)
    assert client._pacing._in_flight == 0


def limits(limit: int, remaining: int, reset: float) -> dict[str, str]:
    return {
        "X-RateLimit-Limit": str(limit),
        "X-RateLimit-Remaining": str(remaining),
        "X-RateLimit-Reset": str(int(reset)),
    }


def test_a_late_response_of_the_previous_window_does_not_change_the_current_one(clock: FastClock) -> None:
    pacing, now = Pacing(clock), clock.time()
    for _ in range(3):
        assert pacing.enter(None, 300) == (0, 0)
    pacing.leave(limits(50, 40, now + 60))
    pacing.leave(limits(50, 0, now + 1))  # overtaken on its way
    assert pacing.budget.remaining == 40
    pacing.leave(limits(50, 38, now + 60))
    assert pacing.budget.remaining == 38


def test_a_thread_that_waits_for_a_response_in_flight_continues_after_it(clock: FastClock) -> None:
    pacing = Pacing(clock)
    pacing.enter(None, 300)
    pacing.leave(limits(1, 0, clock.time() + 5))
    clock.skipped += 10  # the next window, of which nothing is known but that it may hold one request
    pacing.enter(None, 300)
    waiting = threading.Thread(target=pacing.enter, args=(None, 300), daemon=True)
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive()
    pacing.leave(None)
    waiting.join(2)
    assert not waiting.is_alive()


def test_a_refused_worker_never_waits_longer_than_its_caller_accepts(
    server: FaultyServer, connect: Connect, clock: FastClock
) -> None:
    for _ in range(10):
        headers = limits(100, 0, clock.time() + 40)
        server.scripts = [answer("", 429, headers | {"Retry-After": "40"}), page()]
        client = connect(server, retry=RetryPolicy(max_rate_limit_wait=45))
        assert client.get_page(1, 100).count == 1
