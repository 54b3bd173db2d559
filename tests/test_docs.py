"""Links in the documentation work, and its tables are complete."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_unpod.get_provider_info import CONNECTION_FIELDS, get_provider_info
from tools import reference

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


def test_the_reference_page_agrees_with_signatures_docstrings_and_commands() -> None:
    """Every parameter has a meaning there, too: without one the page cannot be written."""
    assert reference.PAGE.read_text() == reference.page(), "run `make reference`"


@pytest.mark.parametrize("documented", reference.CLASSES, ids=lambda documented: documented.__name__)
def test_docstrings_say_templated_only_for_template_fields(documented: Any) -> None:
    templated = {
        name
        for name, text in re.findall(r":param (\w+):((?:.|\n(?!\s*:))*)", documented.__doc__)
        if "(templated)" in text
    }

    assert templated <= set(getattr(documented, "template_fields", ()))


def test_the_reference_has_every_operator_sensor_and_trigger_of_the_package() -> None:
    info = get_provider_info()
    listed = [each for kind in ("operators", "sensors", "triggers", "hooks") for each in info[kind]]
    names = [name for each in listed for name in each["python-modules"]]
    names += [transfer["python-module"] for transfer in info["transfers"]]
    found = {
        value
        for name in names
        for value in vars(importlib.import_module(name)).values()
        if isinstance(value, type) and value.__module__ == name and not value.__name__.startswith("_")
    }

    assert found == {each for each in reference.CLASSES if each.__module__ in names}
