"""Links in the documentation work, and its tables of options are complete."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_unpod.get_provider_info import CONNECTION_FIELDS
from airflow_provider_unpod.operators.billing import UnpodBillingOperator
from airflow_provider_unpod.sensors.invoice import UnpodInvoiceSensor
from airflow_provider_unpod.triggers.invoice import UnpodInvoiceEventTrigger

REPOSITORY = Path(__file__).resolve().parent.parent
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_points_to_a_file(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    relative = [link for link in links if "://" not in link]

    assert [link for link in relative if not (page.parent / link).exists()] == []


def test_every_page_is_in_the_index() -> None:
    index = (REPOSITORY / "docs" / "index.md").read_text()

    assert [page.name for page in PAGES[1:] if page.name != "index.md" and f"]({page.name})" not in index] == []


def test_every_example_is_in_the_table_of_examples() -> None:
    guide = (REPOSITORY / "docs" / "examples.md").read_text()
    examples = sorted(file.name for file in (REPOSITORY / "example_dags").glob("*.py"))

    assert [name for name in examples if f"example_dags/{name})" not in guide] == []


@pytest.mark.parametrize("page", ["README.md", "docs/connection.md"])
def test_every_field_of_the_connection_is_documented(page: str) -> None:
    text = (REPOSITORY / page).read_text()

    assert [field for field in CONNECTION_FIELDS if f"`{field}`" not in text] == []


def test_the_parameters_of_sensor_and_event_trigger_are_documented_and_which_of_them_are_templates() -> None:
    page = (REPOSITORY / "docs" / "waiting.md").read_text()
    tables: dict[str, Any] = {"## The sensor": UnpodInvoiceSensor, "## The event trigger": UnpodInvoiceEventTrigger}
    for title, documented in tables.items():
        table = page.partition(title)[2].partition("\n## ")[0].partition("\n### ")[0]
        cells = re.findall(r"^\| (`.+?) \|", table, re.MULTILINE)
        names = {name: cell.endswith(" *") for cell in cells for name in re.findall(r"`(\w+)`", cell)}
        fields = getattr(documented, "template_fields", ())
        parameters = inspect.signature(documented.__init__).parameters.values()
        assert names == {
            parameter.name: parameter.name in fields
            for parameter in parameters
            if parameter.kind is parameter.KEYWORD_ONLY
        }


def test_every_operator_parameter_is_documented_with_its_default_and_whether_it_is_a_template() -> None:
    page = (REPOSITORY / "docs" / "exports.md").read_text()
    table = page.partition("## The operator's parameters")[2].partition("\n## ")[0]
    documented = {
        name: (mark == " *", ast.literal_eval(default))
        for name, mark, default in re.findall(r"^\| `(\w+)`( \*)? \| .+ \| `(.+)` \|$", table, re.MULTILINE)
    }

    parameters = inspect.signature(UnpodBillingOperator.__init__).parameters.values()
    assert documented == {
        parameter.name: (parameter.name in UnpodBillingOperator.template_fields, parameter.default)
        for parameter in parameters
        if parameter.kind is parameter.KEYWORD_ONLY
    }
