"""The page as users of every role, and attackers, meet it: on a real API server, behind a base URL with a path."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from airflow import __version__ as airflow_version

from airflow_provider_unpod.export.manifest import Manifest
from tests.integration.page.conftest import BASE, EVIL, PageServer, links_of
from tools.airflow_users import ROLES

SEED = Path("exports/page_first")


def token_in(html: str, conn_id: str) -> str:
    """The hidden field of a connection's Test button."""
    found = re.search(rf'connections/{conn_id}/test">\s*<input type="hidden" name="token" value="([^"]+)"', html)
    assert found, html
    return found[1]


def press_test(server: PageServer, role: str = "admin", conn_id: str = "unpod_saved", **headers: str) -> Any:
    token = token_in(server.page(role).text, conn_id)
    return server.page(role, f"/connections/{conn_id}/test", form={"token": token}, **headers)


def report_link(server: PageServer, dag_id: str = "page_first", task: str = "export") -> str:
    """Return the address of a task's report."""
    html = server.page("admin").text
    rows = [row for row in html.split("<tr>") if f"{dag_id}<br>" in row and f">{task}" in row]
    (link,) = links_of(rows[0])
    return link


def summary_of(folder: Path) -> dict[str, str]:
    """The fields of a summary that lead to an export."""
    manifest = (folder / "_manifest.json").read_bytes()
    return {
        "manifest": f"file://{folder}/_manifest.json",
        "export_id": json.loads(manifest)["export_id"],
        "manifest_sha256": hashlib.sha256(manifest).hexdigest(),
    }


def task_instance(server: PageServer, task: str = "export") -> str:
    """A task of `page_first` in Airflow's public API."""
    (run,) = server.rest("admin", "GET", "/dags/page_first/dagRuns")["dag_runs"]
    return f"/dags/page_first/dagRuns/{quote(run['dag_run_id'], safe='')}/taskInstances/{task}"


@pytest.fixture
def forge(server: PageServer) -> Iterator[Callable[..., None]]:
    """Changes the XCom of an export as a user may who can edit XComs; the old value comes back."""
    if airflow_version.startswith("3.1."):
        pytest.skip("Airflow 3.1 makes a text of an edited XCom, so it is not a summary any more")
    path = f"{task_instance(server)}/xcomEntries/return_value"
    before = server.rest("admin", "GET", f"{path}?deserialize=true")["value"]  # a dict on Airflow 3.1, too

    def change(**fields: Any) -> None:
        server.rest("user", "PATCH", path, {"value": {**before, **fields}, "map_index": -1})

    yield change
    server.rest("user", "PATCH", path, {"value": before, "map_index": -1})


# --- who may see what


USERS = (*ROLES, "partial")
ALL: tuple[str | None, ...] = (None, *USERS)
SIGNED_IN: dict[str | None, int] = dict.fromkeys(USERS, 200)
#: The status of each route for each user. "partial" may read one connection, and the XComs of one DAG.
STATUSES: dict[str, dict[str | None, int]] = {
    "the page": {None: 401, **SIGNED_IN},
    "test a connection": {None: 401, **SIGNED_IN, "viewer": 403, "user": 403},
    "test another connection": {None: 401, **SIGNED_IN, "viewer": 403, "user": 403, "partial": 403},
    "reload after a test": {None: 401, **SIGNED_IN},
    "a report": {None: 401, **SIGNED_IN},
    "a report's file": {None: 401, **SIGNED_IN},
    "a report of another DAG": {None: 401, **SIGNED_IN, "partial": 403},
    "its file": {None: 401, **SIGNED_IN, "partial": 403},
    **dict.fromkeys(("/", "/docs", "/redoc", "/openapi.json", "/page/"), dict.fromkeys(ALL, 404)),
}


def get_route(server: PageServer, user: str | None, route: str) -> Any:
    """Send the request of a route, with a valid form if it has one."""
    if route.startswith("test"):
        conn_id = "unpod_saved" if route == "test a connection" else "evil"
        # The form of somebody else, if this user has none.
        html = next(html for html in (server.page(user).text, server.page("admin").text) if f"/{conn_id}/test" in html)
        return server.page(user, f"/connections/{conn_id}/test", form={"token": token_in(html, conn_id)})
    paths = {
        "the page": "/page",
        "reload after a test": "/connections/unpod_saved/test",
        "a report": report_link(server),
        "a report's file": report_link(server) + "/file",
        "a report of another DAG": report_link(server, "page_second"),
        "its file": report_link(server, "page_second") + "/file",
    }
    return server.page(user, paths.get(route, route))


@pytest.mark.parametrize("user", ALL)
@pytest.mark.parametrize("route", STATUSES)
def test_each_route_asks_airflow_what_the_user_may_do(server: PageServer, route: str, user: str | None) -> None:
    found = get_route(server, user, route)

    assert found.status == STATUSES[route][user]
    assert found.status == 200 or "page_first" not in found.text
    assert found.status == 200 or "Connected" not in found.text
    assert found.status == 404 or "no-store" in found.headers["Cache-Control"]


@pytest.mark.parametrize("role", ROLES)
def test_each_role_sees_only_what_airflow_allows_it_to_read(server: PageServer, role: str) -> None:
    found = server.page(role)

    assert ("unpod_saved" in found.text) == (role in ("admin", "op"))
    assert ("<button" in found.text) == (role in ("admin", "op"))
    # Airflow lets every signed-in role of its simple auth manager read XComs.
    assert len(links_of(found.text)) == 6


def test_a_user_sees_the_exports_of_readable_dags_and_the_readable_connections_only(server: PageServer) -> None:
    html = server.page("partial").text

    links = links_of(html)
    assert len(links) == 3
    assert {link.split("/")[2] for link in links} == {"page_first"}
    assert "page_second" not in html
    assert "unpod_saved" in html
    assert "evil" not in html
    assert "127.0.0.1:1<" not in html


def test_an_edited_xcom_does_not_open_a_report_of_a_dag_that_the_user_may_not_read(
    server: PageServer, forge: Callable[..., None]
) -> None:
    """The user asks for the report of a readable DAG, whose XCom leads to another."""
    forge(**summary_of(server.home / "exports" / "page_second"))

    found = server.page("partial", report_link(server) + "/file")
    assert (found.status, "<h1>Invoices of" in found.text) == (404, False)


def test_without_airflows_test_of_connections_there_is_no_button_and_no_test(
    server: PageServer, server_without_tests: PageServer
) -> None:
    html = server_without_tests.page("admin").text
    assert "unpod_saved" in html
    assert "<button" not in html

    token = token_in(server.page("admin").text, "unpod_saved")
    found = server_without_tests.page("admin", "/connections/unpod_saved/test", form={"token": token})
    assert (found.status, "test_connection is not Enabled" in found.text) == (403, True)


def test_only_connections_of_type_unpod_are_listed_and_tested(server: PageServer) -> None:
    html = server.page("admin").text
    token = token_in(html, "unpod_saved")

    assert ">other<" not in html
    for conn_id in ("other", "no_such", "../unpod_saved"):
        assert server.page("admin", f"/connections/{conn_id}/test", form={"token": token}).status in (403, 404)


# --- testing a connection


def test_a_connection_that_works_says_so(server: PageServer) -> None:
    found = press_test(server)

    assert found.status == 200
    assert "<b>Works</b>" in found.text
    assert "as organization" in found.text


def test_a_connection_that_does_not_work_says_why_without_its_secrets(server: PageServer) -> None:
    found = press_test(server, conn_id="evil")

    assert "<b>Does not work</b>" in found.text
    assert "refuses connections" in found.text
    assert "pw-s3cReT" not in found.text
    assert "tok-s3cReT" not in found.text


def test_a_reload_after_a_test_shows_the_page(server: PageServer) -> None:
    found = server.page("admin", "/connections/unpod_saved/test")

    assert (found.status, "Exports</h2>" in found.text) == (200, True)


@pytest.mark.parametrize("origin", ["cross-site", "same-site", "none"])
def test_another_site_cannot_start_a_connection_test(server: PageServer, origin: str) -> None:
    assert press_test(server, **{"Sec-Fetch-Site": origin}).status == 403
    assert press_test(server, **{"Sec-Fetch-Site": "same-origin"}).status == 200


def test_a_form_without_the_token_of_this_user_and_connection_is_refused(server: PageServer) -> None:
    tokens = [
        "",
        "forged",
        token_in(server.page("op").text, "unpod_saved"),
        token_in(server.page("admin").text, "evil"),
    ]
    for token in tokens:
        assert server.page("admin", "/connections/unpod_saved/test", form={"token": token}).status == 403


# --- what a browser may do with it


def test_the_page_loads_and_runs_only_its_own_content(server: PageServer) -> None:
    found = server.page("admin")

    policy = found.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert "frame-ancestors 'self'" in policy
    assert found.headers["Cache-Control"] == "no-store"
    assert re.findall(r"""(?:src|href|action)="(?!/base/path/unpod/)[^"]*""", found.text) == []


def test_texts_of_others_are_escaped(server: PageServer) -> None:
    assert EVIL not in server.page("admin").text
    assert "&lt;script&gt;alert(1)" in server.page("admin").text


def test_a_report_may_do_nothing_at_all(server: PageServer) -> None:
    found = server.page("viewer", report_link(server) + "/file")

    policy = found.headers["Content-Security-Policy"].split("; ")
    assert {"default-src 'none'", "sandbox", "frame-ancestors 'self'"} <= set(policy)
    assert "unsafe" not in found.headers["Content-Security-Policy"]
    assert not any(directive.startswith("script-src") for directive in policy)


@pytest.mark.parametrize("path", ["/dags/page_first/reports/<b>x", "/dags/page_first/reports/<b>x/file"])
def test_an_invalid_address_is_answered_with_a_page_that_does_not_repeat_it(server: PageServer, path: str) -> None:
    found = server.page("admin", quote(path))

    assert (found.status, found.headers["Content-Type"]) == (422, "text/html; charset=utf-8")
    assert found.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert "The address or the form is invalid." in found.text
    assert "<b>x" not in found.text


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE"])
@pytest.mark.parametrize("path", ["/page", "/connections/unpod_saved/test"])
def test_other_methods_are_refused(server: PageServer, path: str, method: str) -> None:
    found = server.page("admin", path, method=method)

    assert found.status == 405
    assert found.headers["Allow"] in ("GET", "POST")
    assert found.headers["Content-Security-Policy"].startswith("default-src 'none'")


@pytest.mark.parametrize(
    "path", ["/page", "/page/", "/connections/unpod_saved/test", "//evil.example/page", "/page?next=//evil.example"]
)
def test_the_host_of_a_request_is_in_no_response(server: PageServer, path: str) -> None:
    """Otherwise a link or a redirect could lead to another server."""
    found = server.page("admin", path, Host="evil.example", **{"X-Forwarded-Host": "evil.example"})

    assert found.status in (200, 404)
    assert "evil.example" not in found.text


# --- what is opened


def test_the_report_is_shown_byte_for_byte(server: PageServer) -> None:
    (file,) = (server.home / SEED).glob("_report-*.html")

    assert server.page("viewer", report_link(server) + "/file").text == file.read_text()


def test_each_export_of_a_mapped_task_has_its_own_report(server: PageServer) -> None:
    html = server.page("admin").text

    assert len(set(links_of(html))) == 6
    assert html.count("mapped[0]") == html.count("mapped[1]") == 2


def test_tasks_of_other_classes_are_not_listed_whatever_they_return_and_are_called(server: PageServer) -> None:
    html = server.page("admin").text

    assert "imitation" not in html
    assert "namesake" not in html


def test_a_report_is_found_under_its_own_dag_only(server: PageServer) -> None:
    other = report_link(server).replace("page_first", "page_second")

    for path in (other, other + "/file", "/dags/page_first/reports/00000000-0000-0000-0000-000000000000/file"):
        assert server.page("admin", path).status == 404


@pytest.mark.parametrize("query", ["?path=/etc/passwd", "?manifest=file:///etc/passwd", "?dag_id=page_second"])
def test_a_query_changes_nothing(server: PageServer, query: str) -> None:
    link = report_link(server) + "/file"

    assert server.page("admin", link + query).text == server.page("admin", link).text
    assert "etc/passwd" not in server.page("admin", "/page" + query).text


@pytest.mark.parametrize(
    "path", ["..%2F..%2Fetc%2Fpasswd", "/etc/passwd", "..", "x/file", "%00", "x" * 5000, "1%20or%201=1"]
)
def test_an_address_that_is_not_an_id_opens_nothing(server: PageServer, path: str) -> None:
    found = server.page("admin", f"/dags/page_first/reports/{path}")

    assert found.status in (404, 422)
    assert "root:x:" not in found.text
    assert path not in found.text


def test_an_edited_xcom_cannot_lead_to_the_export_of_another_task(
    server: PageServer, forge: Callable[..., None]
) -> None:
    forge(**summary_of(server.home / "exports" / "page_second"))

    found = server.page("admin", report_link(server) + "/file")
    assert found.status == 404
    assert "was not written by this task instance" in found.text


@pytest.mark.parametrize(
    "manifest",
    ["file:///etc/passwd", "file:///etc", "/proc/self/environ", "s3://bucket/x", "http://127.0.0.1:1/x", "\x00", "x"],
)
def test_an_edited_xcom_opens_no_other_file(server: PageServer, forge: Callable[..., None], manifest: str) -> None:
    forge(manifest=manifest)

    found = server.page("admin", report_link(server) + "/file")
    assert found.status == 404
    assert "root:x:" not in found.text
    assert "PATH=" not in found.text


@pytest.mark.parametrize(
    "fields",
    [
        {"manifest": None},
        {"count": "many"},
        {"count": -1},
        {"totals": {"USD": {"paid": {"count": 1, "amount": "<b>"}}}},
        {"totals": [1]},
        {"totals": {f"C{number}": {"paid": {"count": 1, "amount": "1"}} for number in range(101)}},
        {"consistency": EVIL},
        {"manifest_sha256": ""},
    ],
)
def test_a_return_value_that_is_not_a_summary_is_not_listed(
    server: PageServer, forge: Callable[..., None], fields: dict[str, Any]
) -> None:
    forge(**fields)

    assert len(links_of(server.page("admin").text)) == 5


def test_html_in_a_summary_is_escaped(server: PageServer, forge: Callable[..., None]) -> None:
    forge(manifest=EVIL + "/_manifest.json", export_id=EVIL, totals={EVIL: {"paid": {"count": 1, "amount": "1"}}})

    assert EVIL not in server.page("admin").text
    assert EVIL not in server.page("admin", report_link(server)).text
    assert EVIL not in server.page("admin", report_link(server) + "/file").text


@pytest.fixture
def export_folder(server: PageServer) -> Iterator[Path]:
    """Yield the folder of an export, and restore it afterwards."""
    folder = server.home / SEED
    before = {file: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    yield folder
    for file, content in before.items():
        file.unlink(missing_ok=True)
        file.write_bytes(content)


def test_a_report_that_was_changed_is_not_shown(server: PageServer, export_folder: Path) -> None:
    (file,) = export_folder.glob("_report-*")
    file.write_bytes(file.read_bytes().replace(b"invoices", b"INVOICES", 1))

    found = server.page("admin", report_link(server) + "/file")
    assert (found.status, "was modified" in found.text) == (404, True)


def test_a_link_in_the_place_of_a_report_shows_no_other_file(server: PageServer, export_folder: Path) -> None:
    (file,) = export_folder.glob("_report-*")
    file.unlink()
    file.symlink_to("/etc/passwd")

    found = server.page("admin", report_link(server) + "/file")
    assert (found.status, "root:x:" in found.text) == (404, False)


@pytest.mark.parametrize("path", ["../../passwd", "/etc/passwd", "_report-x.html"])
def test_a_manifest_that_was_sealed_anew_with_another_file_as_its_report_is_refused(
    server: PageServer, export_folder: Path, forge: Callable[..., None], path: str
) -> None:
    manifest = export_folder / "_manifest.json"
    content = json.loads(manifest.read_bytes())
    content["report"]["path"] = path
    text = Manifest(content, (), (), None).to_bytes()
    manifest.write_bytes(text)
    forge(manifest_sha256=hashlib.sha256(text).hexdigest())

    found = server.page("admin", report_link(server) + "/file")
    assert (found.status, "is invalid" in found.text) == (404, True)


def test_a_pipe_in_the_place_of_a_manifest_does_not_hold_the_server(server: PageServer, export_folder: Path) -> None:
    (export_folder / "_manifest.json").unlink()
    os.mkfifo(export_folder / "_manifest.json")

    assert server.page("admin", report_link(server) + "/file").status == 404


def test_a_report_beyond_the_limit_is_not_read(
    server: PageServer, export_folder: Path, forge: Callable[..., None]
) -> None:
    manifest = export_folder / "_manifest.json"
    content = json.loads(manifest.read_bytes())
    content["report"]["bytes"] = 10**9
    text = Manifest(content, (), (), None).to_bytes()
    manifest.write_bytes(text)
    forge(manifest_sha256=hashlib.sha256(text).hexdigest())

    found = server.page("admin", report_link(server) + "/file")
    assert (found.status, "at most 16,777,216 are shown" in found.text) == (404, True)


def test_a_manifest_beyond_the_limit_is_not_read(server: PageServer, export_folder: Path) -> None:
    with (export_folder / "_manifest.json").open("r+b") as file:
        file.truncate(10**9)

    found = server.page("admin", report_link(server) + "/file")
    assert (found.status, "is too large" in found.text) == (404, True)


def test_an_export_that_this_machine_does_not_have_says_where_it_may_be(
    server: PageServer, export_folder: Path
) -> None:
    (export_folder / "_manifest.json").unlink()

    found = server.page("admin", report_link(server) + "/file")
    assert (found.status, "may be on the disk of the worker" in " ".join(found.text.split())) == (404, True)


@pytest.mark.parametrize("task", ["export", "wait"])
def test_the_link_of_the_operator_and_of_the_sensor_leads_to_the_page(server: PageServer, task: str) -> None:
    found = server.rest("viewer", "GET", f"{task_instance(server, task)}/links")

    assert found["extra_links"] == {"Unpod Billing": f"{BASE}/plugin/unpod"}


def test_airflow_shows_the_page_in_its_navigation(server: PageServer) -> None:
    plugins = server.rest("admin", "GET", "/plugins")["plugins"]
    (ours,) = [plugin for plugin in plugins if plugin["name"] == "unpod"]

    (view,) = ours["external_views"]
    assert (view["href"], view["url_route"], view["destination"]) == (f"{BASE}/unpod/page", "unpod", "nav")
