"""Where the page "Unpod Billing" is in Airflow, and the link to it on tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow import __version__ as airflow_version
from airflow.providers.common.compat.sdk import BaseOperatorLink

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator

#: What the plugin calls the page in addresses of Airflow's UI, and the prefix of the page's own requests.
ROUTE = "unpod"
PREFIX = "/unpod"
TITLE = "Unpod Billing"


def has_page() -> bool:
    """Whether this Airflow shows pages of plugins: 3.1 is the first that does."""
    major, minor = airflow_version.split(".")[:2]
    return (int(major), int(minor)) >= (3, 1)


def base_path() -> str:
    """The path of ``[api] base_url``, without a slash at its end."""
    from airflow.providers.common.compat.sdk import conf

    return str(urlsplit(conf.get("api", "base_url", fallback="")).path).rstrip("/")


class UnpodPageLink(BaseOperatorLink):
    """The extra link of a task to the page; relative to the server, so it works behind a proxy, too."""

    name = TITLE

    def get_link(self, operator: BaseOperator, **_: Any) -> str:
        """The address that Airflow's UI opens."""
        return f"{base_path()}/plugin/{ROUTE}"


#: Without the page there is no link to it.
PAGE_LINKS = (UnpodPageLink(),) if has_page() else ()
