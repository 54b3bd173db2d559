"""The URL of the page "Unpod Billing", and the link to it on tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow import __version__ as airflow_version
from airflow.providers.common.compat.sdk import BaseOperatorLink

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator

#: Name of the page in URLs of Airflow's UI, and the prefix of the page's own requests.
ROUTE = "unpod"
PREFIX = "/unpod"
TITLE = "Unpod Billing"


def has_page() -> bool:
    """Return whether this Airflow supports pages of plugins (3.1 and later)."""
    major, minor = airflow_version.split(".")[:2]
    return (int(major), int(minor)) >= (3, 1)


def base_path() -> str:
    """Return the path of ``[api] base_url``, without a trailing slash."""
    from airflow.providers.common.compat.sdk import conf

    return str(urlsplit(conf.get("api", "base_url", fallback="")).path).rstrip("/")


class UnpodPageLink(BaseOperatorLink):
    """The link from a task to the page. It is relative to the server, so it also works behind a proxy."""

    name = TITLE

    def get_link(self, operator: BaseOperator, **_: Any) -> str:
        """Return the URL that Airflow's UI opens."""
        return f"{base_path()}/plugin/{ROUTE}"


#: Links of operators. Empty if this Airflow does not have the page.
PAGE_LINKS = (UnpodPageLink(),) if has_page() else ()
