"""Renders HTML for reports and for the page in Airflow."""

from __future__ import annotations

from decimal import Decimal
from functools import cache
from typing import Any

from airflow_provider_unpod.billing.moments import parse_moment

#: Most characters of a name to show.
MOST_CHARACTERS = 100


def render(template: str, **content: Any) -> str:
    """Render ``templates/<template>.j2``. All values are escaped, because they are external data."""
    html: str = _environment().get_template(f"{template}.j2").render(**content)
    return html


@cache
def source(name: str) -> str:
    """Return the unchanged content of ``templates/<name>``."""
    environment = _environment()
    text: str = environment.loader.get_source(environment, name)[0]
    return text


@cache
def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("airflow_provider_unpod.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["short"] = _short
    environment.filters["minute"] = lambda moment: format(parse_moment(moment), "%Y-%m-%d %H:%M UTC")
    environment.filters["money"] = lambda amount: format(Decimal(amount), ",f")
    return environment


def _short(text: object) -> str:
    whole = str(text)
    return whole if len(whole) <= MOST_CHARACTERS else whole[:MOST_CHARACTERS] + "…"
