"""Metadata of this provider for Airflow.

It also defines the connection's form. Airflow 3.2 and later read the form from here. Airflow 2.11 and 3.1 call the hook
class, which returns the same fields (see :mod:`airflow_provider_unpod.hooks.unpod`).
"""

from __future__ import annotations

from typing import Any

CONNECTION_TYPE = "unpod"
HOOK_NAME = "Unpod"

#: Fields in the connection's ``extra``. The description names the default of an empty field. Airflow 3 shows labels,
#: descriptions and examples in the form, but no placeholders for these fields.
CONNECTION_FIELDS: dict[str, dict[str, Any]] = {
    "timeout": {
        "label": "Timeout (seconds)",
        "description": "Limit for one whole request, from connecting to the last byte. Default: 30.",
        "schema": {"type": ["number", "null"], "minimum": 0.1},
    },
    "page_size": {
        "label": "Page size",
        "description": "Invoices per request. Default: 100, the most that Unpod sends.",
        "schema": {"type": ["integer", "null"], "minimum": 1},
    },
    "max_concurrency": {
        "label": "Max. concurrency",
        "description": "Requests in flight at once while a list is read. Default: 4.",
        "schema": {"type": ["integer", "null"], "minimum": 1, "maximum": 64},
    },
    "max_rate_limit_wait": {
        "label": "Max. rate limit wait (seconds)",
        "description": "Longest total wait of one request for the rate limit. Default: 900. A poll waits at most 300.",
        "schema": {"type": ["number", "null"], "minimum": 0.1, "maximum": 86400},
    },
    "daily_requests": {
        "label": "Daily requests",
        "description": "Most requests a day for waits, except for what they need at every poll. Default: 3333, a third "
        "of the free plan.",
        "schema": {"type": ["integer", "null"], "minimum": 1},
    },
    "verify": {
        "label": "Verify TLS",
        "description": "true, false, or the path of a CA file on the workers. Default: true.",
        "schema": {"type": ["string", "null"], "examples": ["true", "false"]},
    },
    "proxies": {
        "label": "Proxies",
        "description": 'A JSON object such as {"https": "http://proxy.example:3128"}. '
        "Default: the proxies of the worker's environment.",
        # With "string", Airflow 3 shows a text field with label and description. Without, it shows a bare JSON editor.
        "schema": {"type": ["string", "object", "null"]},
    },
    "auth_scheme": {
        "label": "Authorization scheme",
        "description": "The word before the API token in the Authorization header. Default: Token.",
        "schema": {"type": ["string", "null"], "enum": ["Token", "jwt", "Bearer"]},
    },
    "product_id": {
        "label": "Product ID",
        "description": "Sent as the Product-Id header. Default: not sent.",
        "schema": {"type": ["string", "null"], "examples": ["unpod.dev", "unpod.ai"]},
    },
    "allow_insecure_http": {
        "label": "Allow insecure HTTP",
        "description": "Send the API token over plain http to another machine. Default: no.",
        "schema": {"type": ["boolean", "null"], "default": False},
    },
}

FIELD_BEHAVIOUR: dict[str, Any] = {
    # The host contains the scheme, and every key of the extra has its own field. The host may also contain the port,
    # but the port field stays: Airflow 3.3's Test button fails for a saved connection without a port.
    "hidden-fields": ["schema", "extra"],
    "relabeling": {"login": "Organization handle", "password": "API token", "port": "Port (443 for https)"},
    "placeholders": {
        "host": "https://unpod.dev",
        "login": "unpod.tv",
        "port": "443 (Test Connection needs a port)",
    },
}


def get_provider_info() -> dict[str, Any]:
    """Return the provider metadata, as defined by ``airflow/provider_info.schema.json``."""
    integration = "Unpod"
    module = "airflow_provider_unpod"
    # Airflow 2.11 reads `dataset-uris`, 3.x reads `asset-uris`.
    uris = [{"schemes": ["unpod"], "handler": f"{module}.assets.sanitize_uri"}]

    def listing(*modules: str) -> list[dict[str, Any]]:
        return [{"integration-name": integration, "python-modules": [f"{module}.{name}" for name in modules]}]

    return {
        "package-name": "airflow-provider-unpod",
        "name": "Unpod",
        "description": "Read, export and wait for the invoices of an `Unpod <https://unpod.dev/>`__ organization.",
        "integrations": [
            {"integration-name": integration, "external-doc-url": "https://docs.unpod.dev/", "tags": ["service"]}
        ],
        "hooks": listing("hooks.unpod"),
        "operators": listing("operators.billing", "operators.reconcile"),
        "sensors": listing("sensors.invoice"),
        "triggers": listing("triggers.invoice"),
        "connection-types": [
            {
                "connection-type": CONNECTION_TYPE,
                "hook-class-name": f"{module}.hooks.unpod.UnpodHook",
                "hook-name": HOOK_NAME,
                "ui-field-behaviour": FIELD_BEHAVIOUR,
                "conn-fields": CONNECTION_FIELDS,
            }
        ],
        "transfers": [
            {
                "source-integration-name": integration,
                "target-integration-name": "Common SQL",
                "python-module": f"{module}.transfers.unpod_to_sql",
            }
        ],
        # Airflow 2 requires that links are listed, but its operators have none.
        "extra-links": [f"{module}.links.UnpodPageLink"],
        "cli": [f"{module}.cli.airflow.get_cli_commands"],
        "asset-uris": uris,
        "dataset-uris": uris,
    }
