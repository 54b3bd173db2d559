"""What somebody does first, through the screen alone: a connection, an export, its report."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import FrameLocator, Locator, Page, expect

from airflow_provider_unpod.get_provider_info import CONNECTION_FIELDS, FIELD_BEHAVIOUR
from airflow_provider_unpod.sandbox import Sandbox
from tests.browser.conftest import ALL_INVOICES
from tools.local_airflow import LocalAirflow
from tools.servers import wait_until

#: The scheduled example, which has exported a month.
EXAMPLE = "unpod_monthly_export"
Shot = Callable[..., None]
AsUser = Callable[..., Page]


def frame_of(page: Page) -> FrameLocator:
    """The page "Unpod Billing", which Airflow shows in a frame."""
    page.goto("/plugin/unpod")
    frame = page.frame_locator("iframe")
    expect(frame.get_by_role("heading", name="Unpod Billing")).to_be_visible(timeout=60_000)
    return frame


def opened_report(frame: FrameLocator) -> FrameLocator:
    """The report of all invoices of the sandbox's first organization, in its frame on the page."""
    row = frame.get_by_role("row").filter(has_text="/organizations/unpod.tv")
    row.get_by_role("link", name=f"Report of {ALL_INVOICES}").click()
    report = frame.frame_locator("iframe")
    expect(report.get_by_role("heading", name="Totals")).to_be_visible(timeout=60_000)
    return report


def started_form(page: Page, conn_id: str) -> Locator:
    """The form of a new connection of type Unpod."""
    page.get_by_role("button", name="Add Connection").click()
    form = page.get_by_role("dialog")
    form.get_by_label("Connection ID").fill(conn_id)
    form.get_by_role("combobox").fill("unpod")
    page.get_by_role("option", name="unpod").first.click()
    return form


def last_run(airflow: LocalAirflow, dag_id: str) -> str:
    return quote(airflow.runs(dag_id)[-1]["dag_run_id"], safe="")


def task_address(airflow: LocalAirflow) -> str:
    """The task of the monthly export in Airflow's UI."""
    return f"/dags/{EXAMPLE}/runs/{last_run(airflow, EXAMPLE)}/tasks/export"


@pytest.mark.short
def test_a_connection_is_made_with_the_form_saved_edited_and_tested(
    as_user: AsUser, airflow: LocalAirflow, sandbox: Sandbox, shot: Shot
) -> None:
    page = as_user("admin")
    page.goto("/connections")
    form = started_form(page, "unpod_sandbox")
    # As the README says, in the order of the form.
    form.get_by_label("Host").fill("http://127.0.0.1")
    form.get_by_label("Organization handle").fill(sandbox.org_handle)
    form.get_by_label("API token").fill(sandbox.token)
    form.get_by_label("Port (443 for https)").fill(str(sandbox.port))
    shot(page, "connection-form", picture=True, height=980)
    form.get_by_role("button", name="Save").click()
    expect(form).to_be_hidden()

    row = page.get_by_role("row").filter(has_text="unpod_sandbox")
    row.get_by_label("Edit Connection").click()
    form.get_by_label("Description").fill("the sandbox")
    shot(page, "connection-edited")
    form.get_by_role("button", name="Save").click()
    expect(form).to_be_hidden()
    expect(row).to_contain_text("the sandbox")

    page.reload()  # the messages about the form disappear
    # The token is still there, or Unpod would refuse it.
    with page.expect_response("**/api/v2/connections/test") as tested:
        row.get_by_label("Test Connection").click()
    assert tested.value.json()["status"], tested.value.text()
    expect(page.get_by_text("Test Connection Successful")).to_be_visible()
    page.mouse.move(640, 600)
    expect(page.get_by_role("tooltip")).to_have_count(0)
    shot(page, "connection-tested", picture=True, height=500)


def test_all_other_fields_are_folded_and_explain_themselves(as_user: AsUser, airflow: LocalAirflow, shot: Shot) -> None:
    page = as_user("admin")
    page.goto("/connections")
    form = started_form(page, "unpod_extra")
    for label, placeholder in (("Host", "host"), ("Organization handle", "login"), ("Port (443 for https)", "port")):
        expect(form.get_by_label(label)).to_have_attribute("placeholder", FIELD_BEHAVIOUR["placeholders"][placeholder])
    expect(form.get_by_text("Timeout (seconds)")).to_be_hidden()

    form.get_by_role("button", name="Extra Fields", exact=True).click()
    for field in CONNECTION_FIELDS.values():
        expect(form.get_by_text(field["label"], exact=True)).to_be_visible()
        expect(form.get_by_text(field["description"])).to_be_visible()
    timeout = form.get_by_role("spinbutton").first

    def keeps_five() -> bool:
        if timeout.input_value() == "5":
            return True
        timeout.fill("5")
        return False

    wait_until(keeps_five, "a field that keeps what is entered, which in its first moments it does not")
    shot(page, "connection-extra", height=1300)
    form.get_by_role("button", name="Save").click()
    expect(form).to_be_hidden()

    assert json.loads(airflow.api("GET", "/connections/unpod_extra")["extra"])["timeout"] == 5
    airflow.api("DELETE", "/connections/unpod_extra")


@pytest.mark.short
def test_exports_are_on_the_page_and_one_click_shows_their_report(as_user: AsUser, shot: Shot) -> None:
    page = as_user("admin")
    frame = frame_of(page)
    expect(frame.get_by_role("link", name=re.compile("^Report of"))).to_have_count(4)
    shot(page, "page-light", picture=True, height=900)
    report = opened_report(frame)
    shot(page, "report-light", picture=True, height=1100)
    expect(report.get_by_role("heading", name="Overdue")).to_be_visible()
    frame.get_by_role("link", name="All exports").click()
    expect(frame.get_by_role("heading", name="Exports")).to_be_visible()


def test_a_test_on_the_page_says_that_the_connection_works(as_user: AsUser, shot: Shot) -> None:
    page = as_user("admin")
    frame = frame_of(page)
    frame.get_by_role("button", name="Test connection unpod_default").click()

    expect(frame.get_by_role("status")).to_contain_text("Works")
    shot(page, "page-tested")
    page.reload()
    expect(frame.get_by_role("heading", name="Exports")).to_be_visible()


def test_page_and_report_are_dark_where_airflow_is(as_user: AsUser, shot: Shot) -> None:
    page = as_user("admin", "dark")
    frame = frame_of(page)
    expect(frame.locator("html")).to_have_attribute("data-theme", "dark")
    shot(page, "page-dark", picture=True, height=900)
    report = opened_report(frame)
    shot(page, "report-dark", picture=True, height=1100)
    assert report.locator("body").evaluate("body => getComputedStyle(body).colorScheme") == "dark"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_viewer_sees_exports_and_reports_but_no_connections(as_user: AsUser, shot: Shot, theme: str) -> None:
    page = as_user("viewer", theme)
    frame = frame_of(page)

    expect(frame.locator("html")).to_have_attribute("data-theme", theme)
    expect(frame.get_by_role("link", name=re.compile("^Report of"))).to_have_count(4)
    expect(frame.get_by_role("button")).to_have_count(0)
    expect(frame.get_by_text("unpod_default")).to_have_count(0)
    shot(page, f"page-viewer-{theme}")
    opened_report(frame)


def test_the_page_complains_about_nothing(as_user: AsUser) -> None:
    page = as_user("admin")
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    frame = frame_of(page)
    opened_report(frame)

    assert complaints == []


def test_the_page_is_in_the_navigation(as_user: AsUser, shot: Shot) -> None:
    page = as_user("admin")
    page.goto("/")
    page.get_by_role("button", name="Browse").click()
    shot(page, "navigation")
    page.get_by_role("menuitem", name="Unpod Billing").click()

    expect(page.frame_locator("iframe").get_by_role("heading", name="Unpod Billing")).to_be_visible()


def test_an_example_is_triggered_with_its_parameters(as_user: AsUser, airflow: LocalAirflow, shot: Shot) -> None:
    page = as_user("admin")
    page.goto("/dags/unpod_wait_for_payment")
    page.get_by_role("button", name="Trigger").first.click()
    form = page.get_by_role("dialog")
    field = form.get_by_role("region").get_by_role("textbox")
    expect(form.get_by_text("Invoice ID")).to_be_visible()
    expect(form).to_contain_text("The invoice to wait for")
    field.fill("100")
    shot(page, "trigger-form")
    form.get_by_test_id("trigger-dag-submit").click()

    (run,) = airflow.wait_for(lambda: airflow.runs("unpod_wait_for_payment"), "the run")
    assert str(run["conf"]["invoice_id"]) == "100"


def test_the_log_says_how_much_was_exported_and_that_it_is_proved(
    as_user: AsUser, airflow: LocalAirflow, shot: Shot
) -> None:
    page = as_user("viewer")
    page.goto(task_address(airflow))

    expect(page.get_by_text(re.compile(r"Exported \d+ of \d+ invoices")).first).to_be_visible()
    shot(page, "log")


def test_the_task_has_its_summary_as_xcom(as_user: AsUser, airflow: LocalAirflow, shot: Shot) -> None:
    page = as_user("viewer")
    page.goto(task_address(airflow))
    page.get_by_role("link", name="Storage").click()
    page.get_by_role("link", name="XCom", exact=True).click()

    expect(page.get_by_text("return_value").first).to_be_visible()
    shot(page, "xcom")


def test_the_details_of_a_task_link_to_the_page(as_user: AsUser, airflow: LocalAirflow, shot: Shot) -> None:
    page = as_user("viewer")
    page.goto(f"{task_address(airflow)}/details")
    link = page.get_by_role("link", name="Unpod Billing")
    expect(link).to_have_attribute("href", re.compile("/plugin/unpod$"))
    shot(page, "extra-link")


def test_the_asset_event_has_path_and_fingerprint_and_started_the_next_dag(
    as_user: AsUser, airflow: LocalAirflow, shot: Shot
) -> None:
    summary = airflow.result(EXAMPLE, airflow.runs(EXAMPLE)[-1]["dag_run_id"], "export")
    page = as_user("viewer")
    page.goto("/assets")
    page.get_by_role("link", name="unpod_monthly_invoices").click()

    expect(page.get_by_text("Triggered Dag Run").first).to_be_visible()
    expect(page.get_by_role("link", name=EXAMPLE).first).to_be_visible()
    page.locator(".codicon-folding-collapsed").first.click()
    content = page.locator(".view-lines").first
    expect(content).to_contain_text("manifest_sha256")
    lines = "".join((content.text_content() or "").split())  # the narrow column breaks long values
    for value in (summary["manifest"], summary["export_id"], summary["manifest_sha256"]):
        assert value in lines
    shot(page, "asset-event")


def test_every_example_explains_itself_in_the_ui(as_user: AsUser, airflow: LocalAirflow, shot: Shot) -> None:
    page = as_user("viewer")
    for dag_id in sorted(airflow.dags()):
        page.goto(f"/dags/{dag_id}")
        page.get_by_role("button", name="Dag Docs").first.click()
        document = page.get_by_role("dialog")
        expect(document.get_by_role("heading", level=3)).to_be_visible()
        shot(page, f"docs-{dag_id}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_report_opens_from_its_file_without_network(
    chromium: Any, airflow: LocalAirflow, shot: Shot, scheme: Any
) -> None:
    exports = Path(airflow.environment["UNPOD_EXPORTS"].removeprefix("file://"))
    (file,) = (exports / "organizations" / "unpod.tv").glob("_report-*.html")
    context = chromium.new_context(color_scheme=scheme, offline=True, viewport={"width": 900, "height": 1400})
    page = context.new_page()
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(file.as_uri())

    expect(page.get_by_role("heading", name="Totals")).to_be_visible()
    assert requests == [file.as_uri()]
    shot(page, f"report-file-{scheme}")
    context.close()
