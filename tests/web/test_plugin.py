"""The plugin and the link to the page exist only if Airflow supports pages."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import entry_points
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_unpod import links
from airflow_provider_unpod.links import UnpodPageLink, has_page
from airflow_provider_unpod.operators.billing import UnpodBillingOperator
from airflow_provider_unpod.sensors.invoice import UnpodInvoiceSensor
from airflow_provider_unpod.web.plugin import UnpodPlugin

with_page = pytest.mark.skipif(not has_page(), reason="pages of plugins came with Airflow 3.1")


@pytest.mark.parametrize(
    ("version", "there"),
    [("2.11.2", False), ("3.0.6", False), ("3.1.0", True), ("3.3.2rc1", True), ("3.10.0", True), ("4.0.0.dev0", True)],
)
def test_the_page_needs_airflow_3_1(monkeypatch: pytest.MonkeyPatch, version: str, there: bool) -> None:
    monkeypatch.setattr(links, "airflow_version", version)

    assert has_page() is there


def test_airflow_finds_the_plugin_by_its_entry_point() -> None:
    (found,) = entry_points(group="airflow.plugins", name="unpod")

    assert found.load() is UnpodPlugin
    assert bool(getattr(UnpodPlugin, "fastapi_apps", [])) == has_page()  # Airflow 2.11 does not know the name


@pytest.mark.parametrize(
    "task",
    [lambda: UnpodBillingOperator(task_id="a"), lambda: UnpodInvoiceSensor(task_id="b", invoice_id=1)],
    ids=["operator", "sensor"],
)
def test_tasks_link_to_the_page_if_airflow_shows_it(task: Any) -> None:
    assert [link.name for link in task().operator_extra_links] == (["Unpod Billing"] if has_page() else [])


@pytest.mark.parametrize(
    ("base_url", "address"),
    [
        ("https://airflow.example", "/plugin/unpod"),
        ("https://example/a/b/", "/a/b/plugin/unpod"),
        ("", "/plugin/unpod"),
    ],
)
def test_the_link_is_relative_to_the_server(monkeypatch: pytest.MonkeyPatch, base_url: str, address: str) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", base_url)

    assert UnpodPageLink().get_link(SimpleNamespace(), ti_key=None) == address  # type: ignore[arg-type]


@pytest.mark.slow
def test_loading_the_plugin_imports_no_web_framework() -> None:
    code = """
import sys, json
from airflow.plugins_manager import AirflowPlugin
from airflow.providers.common.compat.sdk import BaseOperatorLink
known = set(sys.modules)
import airflow_provider_unpod.web.plugin
print(json.dumps(sorted(set(sys.modules) - known)))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)

    assert set(json.loads(done.stdout.splitlines()[-1])) <= {
        "airflow_provider_unpod",
        "airflow_provider_unpod.links",
        "airflow_provider_unpod.web",
        "airflow_provider_unpod.web.plugin",
        "airflow.configuration",
        "airflow.sdk.configuration",
    }
