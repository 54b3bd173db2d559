"""The list of organizations is complete, or an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_unpod.billing.client import UnpodClient
from airflow_provider_unpod.billing.errors import UnpodAuthError, UnpodBadAnswer, UnpodBadRequest, UnpodListUnstable
from airflow_provider_unpod.billing.reading.organizations import read_organizations
from tests.billing.faulty_server import TOKEN, FaultyServer, Request, Step, answer

Connect = Callable[..., UnpodClient]
ORGANIZATIONS = [{"id": number, "domain_handle": f"org-{number}"} for number in range(45)]


def pages(*rows: list[dict[str, Any]], count: int | None) -> list[list[Step]]:
    return [answer({"count": count, "data": each}) for each in rows]


def test_organizations_come_in_one_response_with_the_same_headers_and_errors(
    server: FaultyServer, connect: Connect
) -> None:
    organization = {"id": 1, "name": "Unpod TV", "domain_handle": "unpod.tv", "created_at": "2024-01-15T10:30:00Z"}
    server.scripts = [answer({"count": 1, "status_code": 200, "message": "ok", "data": [organization]})]
    client = connect(server)
    assert read_organizations(client) == [organization]
    assert server.requests[0].path == "/api/v2/platform/organizations/"
    assert server.requests[0].headers["authorization"] == f"Token {TOKEN}"
    for status, error in ((401, UnpodAuthError), (404, UnpodBadRequest), (206, UnpodBadAnswer)):
        server.scripts = [answer({"message": "no"}, status)]
        with pytest.raises(error, match="no"):
            read_organizations(client)


@pytest.mark.parametrize("end", [answer({"detail": "Invalid page."}, 404), answer({"count": 45, "data": []})])
def test_organizations_on_several_pages_are_all_read(server: FaultyServer, connect: Connect, end: list[Step]) -> None:
    server.scripts = [*pages(ORGANIZATIONS[:20], ORGANIZATIONS[20:40], ORGANIZATIONS[40:], count=45), end]
    assert read_organizations(connect(server)) == ORGANIZATIONS
    assert [request.query["page"] for request in server.requests] == ["1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("first", "count", "then"),
    [
        pytest.param(1, 30, answer({"count": 30, "data": ORGANIZATIONS[:1]}), id="the same page again"),
        pytest.param(1, 30, answer({"count": 30, "data": []}), id="an empty page"),
        pytest.param(20, 20, answer({"count": 19, "data": ORGANIZATIONS[20:22]}), id="fewer than came"),
        pytest.param(20, 21, answer({"count": 21, "data": ORGANIZATIONS[19:21]}), id="one came meanwhile"),
        pytest.param(20, None, answer({"count": None, "data": []}), id="no count"),
    ],
)
def test_an_incomplete_list_of_organizations_is_refused(
    server: FaultyServer, connect: Connect, first: int, count: int | None, then: list[Step]
) -> None:
    counted = 30 if first == count else count  # else one response would be the whole list
    server.scripts = [*pages(ORGANIZATIONS[:first], count=counted)]
    server.otherwise = then
    with pytest.raises(UnpodListUnstable, match="list of organizations may be incomplete, because"):
        read_organizations(connect(server))


def test_without_a_count_organizations_are_read_to_a_page_that_does_not_exist(
    server: FaultyServer, connect: Connect
) -> None:
    def paginated(request: Request) -> list[Step]:
        number, size = int(request.query["page"]), int(request.query["page_size"])
        rows = ORGANIZATIONS[(number - 1) * size : number * size]
        return answer({"data": rows}) if rows else answer({"detail": "Invalid page."}, 404)

    server.otherwise = paginated
    assert read_organizations(connect(server)) == ORGANIZATIONS


def test_a_proxys_404_is_not_the_end_of_the_organizations(server: FaultyServer, connect: Connect) -> None:
    server.scripts = [*pages(ORGANIZATIONS[:20], count=40)]
    server.otherwise = answer("<html>Not Found</html>", 404)
    with pytest.raises(UnpodBadAnswer, match="404 from a proxy"):
        read_organizations(connect(server))
