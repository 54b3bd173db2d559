"""Chromium, driving a real Airflow with the example DAGs and the sandbox. Every test leaves its screenshots."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from airflow_provider_unpod.sandbox import Sandbox
from tools.airflow import SANDBOX_PORT
from tools.airflow_users import with_users
from tools.local_airflow import LocalAirflow, example_airflow

REPOSITORY = Path(__file__).resolve().parents[2]
SCREENSHOTS = REPOSITORY / "build" / "screenshots"
PICTURES = REPOSITORY / "docs" / "images"
#: The example that exports all invoices of each organization, with a report.
ALL_INVOICES = "unpod_all_organizations"
#: Milliseconds that a page may take; a machine of CI has other work, too.
PATIENCE = 60_000


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--pictures", action="store_true", help="write the pictures of the documentation anew")


@pytest.fixture(scope="session")
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    # Pictures show the port that the documentation names.
    with Sandbox(port=SANDBOX_PORT if request.config.getoption("--pictures") else 0) as sandbox:
        yield sandbox


@pytest.fixture(scope="session")
def output(request: pytest.FixtureRequest) -> Iterator[Path]:
    """The folder of the exports. Its path is short, because pictures show it."""
    if request.config.getoption("--pictures"):
        folder = Path(tempfile.gettempdir()) / "unpod"
        folder.mkdir()
    else:
        folder = Path(tempfile.mkdtemp(prefix="unpod-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def airflow(tmp_path_factory: pytest.TempPathFactory, sandbox: Sandbox, output: Path) -> Iterator[LocalAirflow]:
    """Airflow as `make airflow` starts it, with a login for each role, after two examples have run.

    The scheduled example has exported a month, and `unpod_all_organizations` all invoices of three organizations.
    """
    home = tmp_path_factory.mktemp("airflow")
    settings = {"AIRFLOW__CORE__TEST_CONNECTION": "Enabled", **with_users(home)}
    with example_airflow(home, sandbox, output, **settings) as airflow:

        def exported() -> Any:
            return [run for run in airflow.runs("unpod_monthly_export") if run["state"] == "success"]

        airflow.wait_for(lambda: "unpod_monthly_export" in airflow.dags(), "the examples to be parsed")
        airflow.wait_for(exported, "the monthly export", timeout=180)
        airflow.finished(ALL_INVOICES, airflow.trigger(ALL_INVOICES), timeout=180)
        yield airflow


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert executable, "install chromium: .ci/install-servers chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def as_user(chromium: Browser, airflow: LocalAirflow) -> Iterator[Callable[..., Page]]:
    """Opens a window in which a user is signed in; ``theme`` is what the user has chosen in Airflow."""
    contexts = []

    def signed_in(role: str, theme: str = "light") -> Page:
        context = chromium.new_context(viewport={"width": 1280, "height": 800}, base_url=airflow.url)
        context.add_cookies([{"name": "_token", "value": airflow.token(role), "url": airflow.url}])
        context.add_init_script(f"localStorage.setItem('theme', '{theme}')")
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        return context.new_page()

    yield signed_in
    for context in contexts:
        context.close()


@pytest.fixture
def shot(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Takes a screenshot; with ``picture``, and the option, also as a picture of the documentation."""

    def take(page: Page, name: str, *, picture: bool = False, height: int = 800) -> None:
        width = page.viewport_size["width"] if page.viewport_size else 1280
        page.set_viewport_size({"width": width, "height": height})
        page.wait_for_load_state("networkidle")
        file = SCREENSHOTS / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=file, animations="disabled")
        if picture and request.config.getoption("--pictures"):
            PICTURES.mkdir(exist_ok=True)
            shutil.copyfile(file, PICTURES / file.name)

    return take
