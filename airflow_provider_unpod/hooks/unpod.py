"""UnpodHook: creates a client of the billing API from a connection of type Unpod.

The client is imported on first use, so DAG files that import the hook do not import ``requests``.
"""

from __future__ import annotations

import json
import logging
import os
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook

from airflow_provider_unpod.billing.arguments import invoice_ids_of, org_handle_of, text_of
from airflow_provider_unpod.billing.errors import (
    UnpodConfigError,
    UnpodError,
    UnpodInvoiceNotFound,
    UnpodUnreachable,
    short_repr,
)
from airflow_provider_unpod.get_provider_info import CONNECTION_FIELDS, CONNECTION_TYPE, FIELD_BEHAVIOUR, HOOK_NAME

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import date

    from airflow.providers.common.compat.sdk import Connection

    from airflow_provider_unpod.billing.client import UnpodClient
    from airflow_provider_unpod.billing.http.retry import RetryPolicy
    from airflow_provider_unpod.billing.invoice import Invoice
    from airflow_provider_unpod.billing.reading.reading import Reading
    from airflow_provider_unpod.billing.watching.watch import ListWatch

log = logging.getLogger(__name__)

#: What Airflow accepts in a connection that is written as JSON.
_CONNECTION_FIELDS = {"conn_type", "description", "extra", "host", "login", "password", "port", "schema"}


class UnpodHook(BaseHook):
    """Reads billing data of an Unpod organization.

    :param unpod_conn_id: id of a connection of type ``unpod``.
    :param org_handle: organization handle (``Org-Handle`` header). Default: the ``login`` of the connection.
    :param retry: how often and how long transient errors are retried. Default: ``RetryPolicy()``.
    """

    conn_name_attr = "unpod_conn_id"
    default_conn_name = "unpod_default"
    conn_type = CONNECTION_TYPE
    hook_name = HOOK_NAME

    def __init__(
        self,
        unpod_conn_id: str = default_conn_name,
        org_handle: str | None = None,
        retry: RetryPolicy | None = None,
    ) -> None:
        super().__init__()
        self.unpod_conn_id = unpod_conn_id
        self.org_handle = org_handle
        self.retry = retry

    def get_conn(self) -> UnpodClient:
        """Return the client of this hook. Every call returns the same client.

        :raises UnpodConfigError: if a field of the connection is invalid. The message says what to enter.
        :raises AirflowNotFoundException: if the connection does not exist.
        """
        return self._client

    @cached_property
    def _client(self) -> UnpodClient:
        return client_from(self._connection(), self.org_handle, self.retry)

    def _connection(self) -> Connection:
        # The connection is not kept in an attribute, because its repr contains the password.
        conn_id = text_of(self.unpod_conn_id, "unpod_conn_id")
        try:
            return self.get_connection(conn_id)
        except AirflowNotFoundException as error:
            # The task retries this type, as it should: an unreachable secrets backend raises the same error.
            raise AirflowNotFoundException(why_not_found(conn_id)) from error

    def get_organizations(self) -> list[dict[str, Any]]:
        """List the organizations that the token may access, as the API sends them. ``domain_handle`` is the handle.

        :raises UnpodError: see :mod:`airflow_provider_unpod.billing.errors`.
        """
        from airflow_provider_unpod.billing.reading.organizations import read_organizations

        return read_organizations(self.get_conn())

    def test_connection(self) -> tuple[bool, str]:
        """Check host, token and organization handle with one request, without reading billing data."""
        from airflow_provider_unpod.billing.http.retry import RetryPolicy
        from airflow_provider_unpod.billing.reading.organizations import read_organizations

        try:
            connection = self._connection()
            # One attempt, because a person waits for the result. Messages do not name the connection's id, because
            # Airflow's form tests under a random one.
            with _client_of(connection, self.org_handle, RetryPolicy(attempts=1)) as client:
                found = read_organizations(client)
        except (UnpodError, AirflowNotFoundException) as error:
            return False, str(error)
        handles = sorted(each["domain_handle"] for each in found if isinstance(each.get("domain_handle"), str))
        if client.org_handle in handles:
            note = _about_unknown_fields(extra_of(connection))
            return True, f"Connected to {client.base_url} as organization {client.org_handle!r}. {note}".rstrip()
        if found and not any("domain_handle" in each for each in found):
            return False, "Check Host (`host`): what it lists are not organizations, they have no `domain_handle`."
        if not handles:
            return False, "Check API token (`password`): it is valid, but it cannot access any organization."
        return False, (
            f"Organization handle (`login`) must be one of: {', '.join(handles)}. The API token (`password`) is valid, "
            f"but it cannot access the organization {client.org_handle!r}."
        )

    def iter_invoices(
        self,
        statuses: str | Iterable[str] | None = None,
        invoice_date_from: str | date | None = None,
        invoice_date_to: str | date | None = None,
        page_size: int | None = None,
        max_concurrency: int | None = None,
        consistency: str = "linked",
    ) -> Reading:
        """Iterate over the invoices of the organization. The list is read completely, even while it changes.

        The API has no filters, so the whole list is read even if few invoices are selected.

        :param statuses: one status or several, ignoring case. Default: all.
        :param invoice_date_from: earliest invoice date, inclusive: an ISO 8601 string, ``date`` or ``datetime``, in UTC
            if it has no offset. Default: no limit.
        :param invoice_date_to: latest invoice date, exclusive, in the same forms. Default: no limit.
        :param page_size: rows per request, 1 to 100,000. Default: that of the connection.
        :param max_concurrency: requests in flight, 1 to 64. Default: that of the connection.
        :param consistency: ``linked`` (proved complete) or ``single-pass`` (fewest requests; see
            :mod:`airflow_provider_unpod.billing.reading.reading`).
        :raises UnpodConfigError: if an argument is invalid. Raised by the call itself.
        :raises UnpodError: while iterating, if the list cannot be read or its completeness cannot be proved.
        """
        from airflow_provider_unpod.billing.reading.reading import read_list
        from airflow_provider_unpod.billing.reading.selection import Selection

        selection = Selection.from_arguments(
            statuses=statuses, invoice_date_from=invoice_date_from, invoice_date_to=invoice_date_to
        )
        return read_list(
            self.get_conn(),
            selection,
            consistency=consistency,
            page_size=page_size,
            max_concurrency=max_concurrency,
        )

    def get_invoice(self, invoice_id: int | str) -> Invoice:
        """Find one invoice by its id or number. ``101`` and ``"101"`` are the same invoice.

        The API has no endpoint for this, so the hook searches the list. It remembers the place of each invoice, and the
        next search for it usually costs one request.

        :param invoice_id: an invoice id or number.
        :raises UnpodConfigError: if ``invoice_id`` is invalid.
        :raises UnpodInvoiceNotFound: if the list does not contain the invoice. The whole list was read.
        :raises UnpodError: if the list cannot be read.
        """
        invoice_ids_of([invoice_id], "invoice_id")
        client = self.get_conn()
        invoice = self._watch.locate(invoice_id)
        if invoice is None:
            raise UnpodInvoiceNotFound(
                f"Organization {client.org_handle!r} has no invoice {short_repr(invoice_id)}.", url=client.base_url
            )
        return invoice

    @cached_property
    def _watch(self) -> ListWatch:
        from airflow_provider_unpod.billing.watching.watch import ListWatch

        return ListWatch(self.get_conn())

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Describe the standard fields of the connection form for Airflow 2.11 and 3.1. Later ones read metadata."""
        return {key.replace("-", "_"): value for key, value in FIELD_BEHAVIOUR.items()}

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """Describe the extra fields of the connection form for Airflow 2.11 and 3.1. Later ones read metadata."""
        # A plain Airflow 3 has neither library: 3.1 replaces them, and later versions do not call this method.
        from flask_appbuilder.fieldwidgets import BS3TextFieldWidget
        from wtforms import BooleanField, IntegerField, StringField
        from wtforms.validators import any_of, number_range, optional

        def widget(field: dict[str, Any]) -> Any:
            schema = field["schema"]
            kind = schema["type"][0]
            texts = {"label": field["label"], "description": field["description"]}
            if kind == "boolean":
                return BooleanField(**texts, default=schema["default"])
            checks = [optional()]
            if "enum" in schema:
                checks.append(any_of(schema["enum"]))
            if kind == "integer":
                checks.append(number_range(schema.get("minimum"), schema.get("maximum")))
                return IntegerField(**texts, validators=checks, widget=BS3TextFieldWidget())
            # Airflow 2 has no widget for decimal numbers and objects, so they are entered as text.
            return StringField(**texts, validators=checks, widget=BS3TextFieldWidget())

        return {name: widget(field) for name, field in CONNECTION_FIELDS.items()}


def client_from(connection: Connection, org_handle: str | None = None, retry: RetryPolicy | None = None) -> UnpodClient:
    """Create a client from a connection, and register its secrets with Airflow's log masking.

    All code that needs a client uses this function. It may block, so do not call it on an event loop.

    :param org_handle: organization handle. ``None`` uses the ``login`` of the connection.
    :param retry: how often and how long transient errors are retried. ``None`` uses the client's default.
    :raises UnpodConfigError: if an argument or a field of the connection is invalid. The message says what to enter.
    :raises UnpodUnreachable: if the CA file of the connection does not exist on this machine.
    """
    org_handle_of(org_handle)  # checked here, because an error in an argument must not name the connection
    try:
        client = _client_of(connection, org_handle, retry)
        note = _about_unknown_fields(extra_of(connection))
    except (UnpodConfigError, UnpodUnreachable) as error:
        raise type(error)(f"{error.message} Connection: {connection.conn_id!r}.") from None
    if note:
        log.warning("Connection %r: %s", connection.conn_id, note)
    return client


def _client_of(connection: Connection, org_handle: str | None, retry: RetryPolicy | None) -> UnpodClient:
    from airflow_provider_unpod.billing.client import UnpodClient
    from airflow_provider_unpod.billing.http.base_url import base_url_of
    from airflow_provider_unpod.billing.http.retry import DEFAULT_RETRY
    from airflow_provider_unpod.billing.http.settings import options_in

    handle = org_handle_of(org_handle)
    client = UnpodClient(
        base_url_of(connection.host, connection.port, connection.schema),
        connection.password or "",
        (connection.login or "") if handle is None else handle,
        **options_in(extra_of(connection)),
        retry=retry or DEFAULT_RETRY,
    )
    for secret in client.secrets:
        _mask_secret(secret)
    return client


def _mask_secret(secret: str) -> None:
    try:
        from airflow.sdk.log import mask_secret
    except ImportError:  # Airflow 2.11. For Python 3.10, common-compat does not have this name.
        from airflow.utils.log.secrets_masker import mask_secret  # type: ignore[no-redef]  # one or the other

    mask_secret(secret)


def why_not_found(conn_id: str) -> str:
    """Explain why Airflow does not find a connection, and what to do."""
    variable = f"AIRFLOW_CONN_{conn_id.upper()}"
    if variable in os.environ:
        # Airflow also reports "not found" for a variable that it cannot parse.
        return f"{_remedy(variable, os.environ[variable])} Airflow cannot read connection {conn_id!r}."
    return f"Connection {conn_id!r} does not exist. Create it (type {HOOK_NAME}), or correct `unpod_conn_id`."


def _remedy(variable: str, value: str) -> str:
    """Explain how to correct a variable that Airflow cannot read. Its value is secret and never shown."""
    if not value.strip():
        return f"Set {variable} to a URI or a JSON object: it is empty."
    if not value.lstrip().startswith("{"):
        return f"Percent-encode {variable}: in a URI, / is %2F, # is %23 and ? is %3F in handle and token."
    try:
        fields = json.loads(value)
    except (ValueError, RecursionError):
        return f"Correct the JSON in {variable}: names and strings must be in double quotes."
    if unknown := sorted(set(fields) - _CONNECTION_FIELDS):
        return f"Remove {', '.join(map(short_repr, unknown))} from {variable}: Airflow connections have no such field."
    return (
        f"Put all values in {variable} in quotes: `login`, `password` and `host` must be strings, even if they are "
        "digits only, and `port` must be a number."
    )


def extra_of(connection: Connection) -> dict[str, Any]:
    """Parse the ``extra`` of a connection. Return an empty dictionary if there is none.

    Airflow's own ``extra_dejson`` silently returns an empty dictionary for invalid JSON. It may also call the
    supervisor, which must not happen on an event loop.

    :raises UnpodConfigError: if ``extra`` is not a JSON object.
    """
    if not connection.extra:
        return {}
    try:
        extra = json.loads(connection.extra)
    except (ValueError, RecursionError):
        extra = None
    if not isinstance(extra, dict):
        raise UnpodConfigError('`extra` must be a JSON object, for example {"timeout": 30}.')
    return extra


def _about_unknown_fields(extra: dict[str, Any]) -> str:
    """Return a note that names the unknown keys of ``extra``, or an empty string. Values are omitted as secret."""
    from airflow_provider_unpod.billing.http.settings import OPTIONS, unknown_fields

    unknown = ", ".join(map(repr, unknown_fields(extra)))
    return f"`extra` has keys without effect: {unknown}. Known keys: {', '.join(OPTIONS)}." if unknown else ""
