"""Renders HTML for reports and for the page in Airflow."""

from __future__ import annotations

import base64
import hashlib
from decimal import Decimal
from functools import cache
from typing import Any

from airflow_provider_unpod.billing.moments import parse_moment

#: Most characters of a name to show.
MOST_CHARACTERS = 100
#: Hashes of ``report.css`` of all released versions, because the page also shows reports of other versions. If the
#: sheet changes, add its hash.
REPORT_STYLE_HASHES = ("sha256-+Jya8ww6CXa3Z0YuKaMSTfR00ZmZ0ci32SdEfqCRues=",)


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


def hash_of(text: str) -> str:
    """Return the hash by which a ``Content-Security-Policy`` allows an inline style sheet or script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


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
