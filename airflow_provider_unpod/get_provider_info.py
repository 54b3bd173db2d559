"""What Airflow is told about this provider.

The connection's form is written down here once: Airflow 3.2 and later read it from this metadata, Airflow 2.11
asks the hook class, which answers with the same fields (see :mod:`airflow_provider_unpod.hooks.unpod`).
"""

from __future__ import annotations

from typing import Any

CONNECTION_TYPE = "unpod"
HOOK_NAME = "Unpod"

#: Fields kept in the connection's ``extra``. A field that is left empty has the default its description names.
CONNECTION_FIELDS: dict[str, dict[str, Any]] = {
    "auth_scheme": {
        "label": "Authorization scheme",
        "description": "The word before the API token in the Authorization header: Token (default), jwt or Bearer.",
        "schema": {"type": ["string", "null"], "enum": ["Token", "jwt", "Bearer"]},
    },
    "product_id": {
        "label": "Product id",
        "description": "Sent as the Product-Id header, for example unpod.ai. Not sent when empty.",
        "schema": {"type": ["string", "null"]},
    },
    "timeout": {
        "label": "Timeout (seconds)",
        "description": "Deadline for one whole request, from connecting to the last byte. Default 30.",
        "schema": {"type": ["number", "null"], "minimum": 0.1},
    },
    "page_size": {
        "label": "Page size",
        "description": "Invoices asked for per request. Default 100, which is also the most that Unpod gives.",
        "schema": {"type": ["integer", "null"], "minimum": 1},
    },
    "max_concurrency": {
        "label": "Max. concurrency",
        "description": "Requests in flight at once while a list is read. Default 4.",
        "schema": {"type": ["integer", "null"], "minimum": 1, "maximum": 64},
    },
    "verify": {
        "label": "Verify TLS",
        "description": "true (default), false, or the path of a CA file on the workers.",
        "schema": {"type": ["string", "null"]},
    },
    "proxies": {
        "label": "Proxies",
        "description": 'JSON object, for example {"https": "http://proxy.example:3128"}. '
        "Default: the proxies of the worker's environment.",
        "schema": {"type": ["object", "null"]},
    },
    "allow_insecure_http": {
        "label": "Allow insecure HTTP",
        "description": "Send the API token over plain http to a host other than this machine. Default: never.",
        "schema": {"type": ["boolean", "null"], "default": False},
    },
}

FIELD_BEHAVIOUR: dict[str, Any] = {
    "hidden-fields": ["extra"],  # all that it can hold has a field of its own
    "relabeling": {"login": "Organisation handle", "password": "API token"},
    "placeholders": {
        "host": "https://unpod.dev",
        "login": "unpod.tv",
        "schema": "https",
        "auth_scheme": "Token",
        "timeout": "30",
        "page_size": "100",
        "max_concurrency": "4",
        "verify": "true",
    },
}


def get_provider_info() -> dict[str, Any]:
    """Provider metadata, as ``airflow/provider_info.schema.json`` describes it."""
    integration = "Unpod"
    module = "airflow_provider_unpod"
    # 2.11 looks under `dataset-uris`, 3.x under `asset-uris`.
    uris = [{"schemes": ["unpod"], "handler": f"{module}.assets.sanitize_uri"}]

    def listing(*modules: str) -> list[dict[str, Any]]:
        return [{"integration-name": integration, "python-modules": [f"{module}.{name}" for name in modules]}]

    return {
        "package-name": "airflow-provider-unpod",
        "name": "Unpod",
        "description": "Read, export and wait for the invoices of an `Unpod <https://unpod.dev/>`__ organisation.",
        "integrations": [
            {"integration-name": integration, "external-doc-url": "https://docs.unpod.dev/", "tags": ["service"]}
        ],
        "hooks": listing("hooks.unpod"),
        "operators": listing("operators.billing"),
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
        "asset-uris": uris,
        "dataset-uris": uris,
    }
