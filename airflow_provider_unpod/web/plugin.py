"""The plugin that adds the page "Unpod Billing" to Airflow 3.1 and later. On older versions it adds nothing.

Every process of Airflow loads it, so it imports nothing but the class of plugins: the application is made in the API
server, at its first request.
"""

from __future__ import annotations

from typing import Any

from airflow.plugins_manager import AirflowPlugin

from airflow_provider_unpod.links import PREFIX, ROUTE, TITLE, base_path, has_page


async def page_app(scope: Any, receive: Any, send: Any) -> None:
    """Create the ASGI application of the page."""
    from airflow_provider_unpod.web.app import application

    await application()(scope, receive, send)


class UnpodPlugin(AirflowPlugin):
    """The plugin class, registered by the entry point ``airflow.plugins``."""

    name = "unpod"
    if has_page():
        fastapi_apps = [{"name": TITLE, "app": page_app, "url_prefix": PREFIX}]
        external_views = [
            {
                "name": TITLE,
                "href": f"{base_path()}{PREFIX}/page",
                "url_route": ROUTE,
                "destination": "nav",
                "category": "browse",
            }
        ]
