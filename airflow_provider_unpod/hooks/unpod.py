"""UnpodHook: a Connection of type Unpod becomes a client of the billing API.

The client is imported when it is made: DAG files that import the hook do not pay for ``requests``.
"""

from __future__ import annotations

import json
import logging
import os
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook

from airflow_provider_unpod.billing.arguments import invoice_ids_of, org_handle_of, text_of
from airflow_provider_unpod.billing.errors import UnpodConfigError, UnpodError, UnpodInvoiceNotFound, short_repr
from airflow_provider_unpod.get_provider_info import CONNECTION_FIELDS, CONNECTION_TYPE, FIELD_BEHAVIOUR, HOOK_NAME

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import date

    from airflow.providers.common.compat.sdk import Connection

    from airflow_provider_unpod.billing.client import UnpodClient
    from airflow_provider_unpod.billing.http.retry import RetryPolicy
    from airflow_provider_unpod.billing.invoice import Invoice
    from airflow_provider_unpod.billing.reading.reading import Reading
    from airflow_provider_unpod.billing.watching.finder import InvoiceFinder

log = logging.getLogger(__name__)


class UnpodHook(BaseHook):
    """Reads billing data of an Unpod organization.

    :param unpod_conn_id: id of a connection of type ``unpod``.
    :param org_handle: organization handle (``Org-Handle`` header) in place of the connection's ``login``; ``None``
        means the connection's, and nothing else does.
    :param retry: how often and how long transient failures are retried; ``None``: ``RetryPolicy()``.
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
        """Give the client of this hook, always the same one: its sessions and its budget of requests are shared.

        :raises UnpodConfigError: naming the connection, the field that is wrong and what to enter.
        :raises AirflowNotFoundException: if there is no such connection.
        """
        return self._client

    @cached_property
    def _client(self) -> UnpodClient:
        return client_from(self._connection(), self.org_handle, self.retry)

    def _connection(self) -> Connection:
        # Not kept: the repr of a connection contains its password, and so would the hook's attributes.
        conn_id = text_of(self.unpod_conn_id, "unpod_conn_id")
        try:
            return self.get_connection(conn_id)
        except AirflowNotFoundException as error:
            # The same type, which is retried: a secrets backend that cannot be reached looks just the same.
            raise AirflowNotFoundException(why_not_found(conn_id)) from error

    def get_organizations(self) -> list[dict[str, Any]]:
        """List the organizations that the token may read, as the API sends them; ``domain_handle`` is the handle.

        :raises UnpodError: see :mod:`airflow_provider_unpod.billing.errors`.
        """
        return self.get_conn().get_organizations()

    def test_connection(self) -> tuple[bool, str]:
        """Check host, token and organization handle with one request, and say what to change; reads no billing data."""
        from airflow_provider_unpod.billing.http.retry import RetryPolicy

        try:
            connection = self._connection()
            # Somebody waits for the result, and wants to know how it is now. Without the connection's id: Airflow's
            # form tests under a random one.
            with _client_of(connection, self.org_handle, RetryPolicy(attempts=1)) as client:
                found = [each.get("domain_handle") for each in client.get_organizations()]
                handles = sorted(handle for handle in found if isinstance(handle, str))
        except (UnpodError, AirflowNotFoundException) as error:
            return False, str(error)
        if client.org_handle in handles:
            note = _about_unknown_fields(extra_of(connection))
            return True, f"Connected to {client.base_url} as organization {client.org_handle!r}. {note}".rstrip()
        if not handles:
            return False, "Check API token (`password`): it is accepted, but gives access to no organization."
        return False, (
            f"Organization handle (`login`) must be one of: {', '.join(handles)}. The API token (`password`) is "
            f"accepted, but gives no access to an organization {client.org_handle!r}."
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
        """Iterate over the organization's invoices, read completely while the list may change.

        The API has no filters, so the whole list is read whatever is selected.

        :param statuses: one status or several, in any case; ``None``: all.
        :param invoice_date_from: the earliest invoice date, inclusive: ISO 8601 text, a date or a datetime, in UTC
            where it has no offset; ``None``: no limit.
        :param invoice_date_to: the end of the span, exclusive; the same.
        :param page_size: rows per request, 1 to 100,000, in place of the connection's.
        :param max_concurrency: requests in flight at once, 1 to 64, in place of the connection's.
        :param consistency: ``linked`` (proved complete) or ``single-pass`` (fewest requests; see
            :mod:`airflow_provider_unpod.billing.reading.reading`).
        :raises UnpodConfigError: at once, if an argument is invalid.
        :raises UnpodError: while iterating, if the list cannot be read or its completeness not be proved.
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
        """Find one invoice by its id or number; ``101`` and ``"101"`` are the same invoice.

        The API has no such endpoint: the list is searched. The hook remembers where invoices were, so the next search
        for one costs a request.

        :param invoice_id: an invoice id or number.
        :raises UnpodConfigError: if it is not an id.
        :raises UnpodInvoiceNotFound: if a complete reading of the list did not contain it.
        :raises UnpodError: if the list cannot be read.
        """
        invoice_ids_of([invoice_id], "invoice_id")
        client = self.get_conn()
        invoice = self._finder.find(invoice_id)
        if invoice is None:
            raise UnpodInvoiceNotFound(
                f"Organization {client.org_handle!r} has no invoice {short_repr(invoice_id)}.", url=client.base_url
            )
        return invoice

    @cached_property
    def _finder(self) -> InvoiceFinder:
        from airflow_provider_unpod.billing.watching.finder import InvoiceFinder

        return InvoiceFinder(self.get_conn())

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Describe the connection form's standard fields for Airflow 2.11 and 3.1; later ones read metadata."""
        return {key.replace("-", "_"): value for key, value in FIELD_BEHAVIOUR.items()}

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """Describe the connection form's extra fields for Airflow 2.11 and 3.1; later ones read metadata."""
        # A plain Airflow 3 has neither of these: 3.1 puts its own in their place, later versions do not ask.
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
            # Airflow 2 has no widget for decimal numbers and objects: they are entered as text.
            return StringField(**texts, validators=checks, widget=BS3TextFieldWidget())

        return {name: widget(field) for name, field in CONNECTION_FIELDS.items()}


def client_from(connection: Connection, org_handle: str | None = None, retry: RetryPolicy | None = None) -> UnpodClient:
    """Make a client from a connection, and have Airflow mask its secrets in all logs of this process.

    The one way from a connection to a client. It may block for a while: not to be called on an event loop.

    :param org_handle: organization handle; ``None`` means the connection's ``login``, and nothing else does.
    :param retry: how often and how long transient failures are retried; ``None``: the client's default.
    :raises UnpodConfigError: naming the argument, or the connection and the field, and what to enter.
    """
    org_handle_of(org_handle)  # an argument, so its error does not name the connection
    try:
        client = _client_of(connection, org_handle, retry)
        note = _about_unknown_fields(extra_of(connection))
    except UnpodConfigError as error:
        raise UnpodConfigError(f"{error.message} Connection: {connection.conn_id!r}.") from None
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
    except ImportError:  # Airflow 2.11; the newest common-compat for Python 3.10 does not bridge this name
        from airflow.utils.log.secrets_masker import mask_secret  # type: ignore[no-redef]  # one or the other

    mask_secret(secret)


def why_not_found(conn_id: str) -> str:
    """Say what to do about a connection that Airflow does not find, or finds and cannot read."""
    variable = f"AIRFLOW_CONN_{conn_id.upper()}"
    if variable in os.environ:
        # Airflow reports one that it cannot parse, and drops the reason.
        return (
            f"Put all values in {variable} in quotes: Airflow cannot read connection {conn_id!r}. It must be a URI, or "
            "a JSON object whose `login`, `password` and `host` are strings, even if they are digits only."
        )
    return f"There is no connection {conn_id!r}. Create it (type {HOOK_NAME}), or correct `unpod_conn_id`."


def extra_of(connection: Connection) -> dict[str, Any]:
    """Parse a connection's ``extra``; empty where there is none.

    Airflow's own ``extra_dejson`` quietly gives an empty dict for broken JSON, and may call its supervisor, which must
    not be done on an event loop.

    :raises UnpodConfigError: if it is not a JSON object.
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
    """Name the keys that have no effect, which nothing else would show. Names only: values may be secret."""
    from airflow_provider_unpod.billing.http.settings import OPTIONS, unknown_fields

    unknown = ", ".join(map(repr, unknown_fields(extra)))
    return f"`extra` has keys without effect: {unknown}. Known keys: {', '.join(OPTIONS)}." if unknown else ""
