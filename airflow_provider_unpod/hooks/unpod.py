"""UnpodHook: a Connection of type Unpod becomes a client of the billing API."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook

from airflow_provider_unpod.billing.arguments import invoice_ids_of, org_handle_of, text_of
from airflow_provider_unpod.billing.client import UnpodClient
from airflow_provider_unpod.billing.errors import UnpodConfigError, UnpodError, UnpodInvoiceNotFound
from airflow_provider_unpod.billing.http.base_url import base_url_of
from airflow_provider_unpod.billing.http.retry import DEFAULT_RETRY, RetryPolicy
from airflow_provider_unpod.billing.http.settings import EXTRA_FIELDS, settings_from_extra, unknown_fields
from airflow_provider_unpod.billing.invoice import Invoice
from airflow_provider_unpod.get_provider_info import CONNECTION_FIELDS, CONNECTION_TYPE, FIELD_BEHAVIOUR, HOOK_NAME

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import date
    from types import TracebackType

    from airflow.providers.common.compat.sdk import Connection

    from airflow_provider_unpod.billing.reading.evidence import Evidence
    from airflow_provider_unpod.billing.reading.reading import Reading
    from airflow_provider_unpod.billing.reading.selection import Selection
    from airflow_provider_unpod.billing.watching.finder import InvoiceFinder

log = logging.getLogger(__name__)


class InvoiceReading(Iterator[Invoice]):
    """The wanted invoices of one complete reading, each once, in the order of the list.

    Leaving it early (``break``, an error) should close it: use ``with``, or call :meth:`close`. Iterating may raise
    any :class:`~airflow_provider_unpod.billing.errors.UnpodError`; invoices given out before that are not to be
    believed as a whole.
    """

    def __init__(self, reading: Reading, selection: Selection) -> None:
        self._reading = reading
        self._selection = selection

    def __next__(self) -> Invoice:
        for invoice in self._reading:
            if self._selection.matches(invoice):
                return invoice
        raise StopIteration

    @property
    def evidence(self) -> Evidence:
        """How the list was read, and what shows that it is complete.

        :raises RuntimeError: before the last invoice has been taken.
        """
        return self._reading.evidence

    def close(self) -> None:
        """Give up what is left: requests in flight are cut. After the end it does nothing."""
        self._reading.close()

    def __enter__(self) -> InvoiceReading:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class UnpodHook(BaseHook):
    """Reads billing data of an Unpod organisation.

    :param unpod_conn_id: id of a connection of type ``unpod``.
    :param org_handle: organisation handle (``Org-Handle`` header) in place of the connection's ``login``; ``None``, and
        nothing else, means that one.
    """

    conn_name_attr = "unpod_conn_id"
    default_conn_name = "unpod_default"
    conn_type = CONNECTION_TYPE
    hook_name = HOOK_NAME

    def __init__(self, unpod_conn_id: str = default_conn_name, org_handle: str | None = None) -> None:
        super().__init__()
        self.unpod_conn_id = unpod_conn_id
        self.org_handle = org_handle

    def get_conn(self) -> UnpodClient:
        """The client of this hook, always the same one: its sessions and its knowledge of rate limits are shared.

        :raises UnpodConfigError: naming the connection, the field that is wrong and what to enter.
        :raises AirflowNotFoundException: when there is no such connection.
        """
        return self._client

    @cached_property
    def _client(self) -> UnpodClient:
        return self.connect(DEFAULT_RETRY)

    def connect(self, retry: RetryPolicy) -> UnpodClient:
        """A client of its own, which the caller closes; it raises what :meth:`get_conn` does.

        :param retry: how often and how long passing faults are retried.
        """
        return self._client_of(self._connection(), retry)

    def _client_of(self, connection: Connection, retry: RetryPolicy) -> UnpodClient:
        client = self.client_from(connection, self.org_handle, retry)
        mask_secrets_of(connection)
        return client

    def _connection(self) -> Connection:
        # Not kept: a connection shows its password in its repr, so that the hook would, too.
        conn_id = text_of(self.unpod_conn_id, "unpod_conn_id")
        try:
            return self.get_connection(conn_id)
        except AirflowNotFoundException as error:
            # The same type, which is retried: a secrets backend that cannot be reached looks just the same.
            raise AirflowNotFoundException(
                f"There is no connection {conn_id!r}: create it (type {HOOK_NAME}), or correct `unpod_conn_id`."
            ) from error

    @staticmethod
    def client_from(
        connection: Connection, org_handle: str | None = None, retry: RetryPolicy = DEFAULT_RETRY
    ) -> UnpodClient:
        """A client from a connection that is already at hand, for triggers, which get theirs asynchronously.

        Neither asks Airflow nor the network for anything, so that it may run on an event loop.

        :param org_handle: organisation handle; ``None``, and nothing else, means the connection's ``login``.
        :param retry: how often and how long passing faults are retried.
        :raises UnpodConfigError: naming the argument, or the connection and the field, and what to enter.
        """
        handle = org_handle_of(org_handle)
        try:
            extra = extra_of(connection)
            if said := _about_unknown_fields(extra):
                log.warning("Connection %r: its %s", connection.conn_id, said)
            return UnpodClient(
                base_url_of(connection.host, connection.port, connection.schema),
                connection.password or "",
                (connection.login or "") if handle is None else handle,
                **settings_from_extra(extra),
                retry=retry,
            )
        except UnpodConfigError as error:
            raise UnpodConfigError(f"Connection {connection.conn_id!r}: {error.message}") from error

    def get_organizations(self) -> list[dict[str, Any]]:
        """The organisations that the token may see, as the API gives them; ``domain_handle`` is the handle.

        :raises UnpodError: see :mod:`airflow_provider_unpod.billing.errors`.
        """
        return self.get_conn().get_organizations()

    def test_connection(self) -> tuple[bool, str]:
        """Whether host, token and organisation handle are right, and in words what is not; reads no billing data."""
        try:
            # One try: somebody sits there and waits, and wants to know how it is now.
            connection = self._connection()
            with self._client_of(connection, RetryPolicy(attempts=1)) as client:
                handles = [str(each.get("domain_handle")) for each in client.get_organizations()]
        except (UnpodError, AirflowNotFoundException) as error:
            return False, str(error)
        if client.org_handle in handles:
            said = _about_unknown_fields(extra_of(connection))
            return True, f"Connected to {client.base_url} as organisation {client.org_handle!r}. {said}".rstrip()
        known = ", ".join(sorted(handles)) or "none"
        return False, (
            f"{client.base_url} accepts the API token, but it gives no access to an organisation "
            f"{client.org_handle!r}. Enter one of its organisation handles in `login`: {known}."
        )

    def iter_invoices(
        self,
        statuses: str | Iterable[str] | None = None,
        invoice_date_from: str | date | None = None,
        invoice_date_to: str | date | None = None,
        page_size: int | None = None,
        max_concurrency: int | None = None,
        consistency: str = "linked",
    ) -> InvoiceReading:
        """The organisation's invoices, read completely while the list may change.

        The API has no filters, so the whole list is read whatever is asked for.

        :param statuses: only these; one status or several. ``None``: all.
        :param invoice_date_from: only invoices of this moment or later: ISO 8601 text, a date or a datetime,
            UTC where it names no zone.
        :param invoice_date_to: only invoices before this moment.
        :param page_size: rows per request, in place of the connection's.
        :param max_concurrency: requests in flight at once, in place of the connection's.
        :param consistency: ``linked`` (proved complete) or ``single-pass`` (fewest requests; see
            :mod:`airflow_provider_unpod.billing.reading.reading`).
        :raises UnpodConfigError: at once, when an argument makes no sense.
        :raises UnpodError: while iterating, when the list cannot be read, or not be proved complete.
        """
        from airflow_provider_unpod.billing.reading.reading import read_list
        from airflow_provider_unpod.billing.reading.selection import Selection

        selection = Selection.from_arguments(
            statuses=statuses, invoice_date_from=invoice_date_from, invoice_date_to=invoice_date_to
        )
        reading = read_list(
            self.get_conn(), consistency=consistency, page_size=page_size, max_concurrency=max_concurrency
        )
        return InvoiceReading(reading, selection)

    def get_invoice(self, invoice_id: int | str) -> Invoice:
        """One invoice by its id; ``101`` and ``"101"`` are the same invoice.

        The API has no such endpoint: the list is searched. The hook remembers where invoices were, so that looking
        again is cheap.

        :raises UnpodConfigError: when it is no id.
        :raises UnpodInvoiceNotFound: when a complete pass over the list did not contain it.
        :raises UnpodError: when the list cannot be read.
        """
        invoice_ids_of([invoice_id], "invoice_id")
        client = self.get_conn()
        invoice = self._finder.find(invoice_id)
        if invoice is None:
            raise UnpodInvoiceNotFound(
                f"Organisation {client.org_handle!r} has no invoice {invoice_id!r}.", url=client.base_url
            )
        return invoice

    @cached_property
    def _finder(self) -> InvoiceFinder:
        from airflow_provider_unpod.billing.watching.finder import InvoiceFinder

        return InvoiceFinder(self.get_conn())

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """The standard fields of the connection form, for Airflow 2.11; later versions read the provider's metadata."""
        return {key.replace("-", "_"): value for key, value in FIELD_BEHAVIOUR.items()}

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """The extra fields of the connection form, for Airflow 2.11; later versions read the provider's metadata."""
        # A plain Airflow 3 has neither of these, and no form that would ask for them.
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
            # Airflow 2 knows no widget for numbers with a fraction or for objects: they are entered as text.
            return StringField(**texts, validators=checks, widget=BS3TextFieldWidget())

        return {name: widget(field) for name, field in CONNECTION_FIELDS.items()}


def extra_of(connection: Connection) -> dict[str, Any]:
    """The connection's ``extra`` as a dict; empty where there is none.

    Airflow's own ``extra_dejson`` quietly gives an empty dict for broken JSON, and may call its supervisor, which must
    not be done on an event loop.

    :raises UnpodConfigError: when it is no JSON object.
    """
    if not connection.extra:
        return {}
    try:
        extra = json.loads(connection.extra)
    except ValueError:
        extra = None
    if not isinstance(extra, dict):
        raise UnpodConfigError('The connection\'s `extra` is no JSON object: enter for example {"timeout": 30}.')
    return extra


def _about_unknown_fields(extra: dict[str, Any]) -> str:
    """A misspelt field has no effect, which nothing else would show. Names only: values may be secret."""
    unknown = ", ".join(map(repr, unknown_fields(extra)))
    return f"`extra` has keys that do nothing: {unknown}; those known are {', '.join(EXTRA_FIELDS)}." if unknown else ""


def mask_secrets_of(connection: Connection) -> None:
    """Have Airflow mask the API token, and the passwords of proxies, in all logs of this task."""
    try:
        from airflow.sdk.log import mask_secret
    except ImportError:  # Airflow 2.11; the newest common-compat for Python 3.10 does not bridge this name
        from airflow.utils.log.secrets_masker import mask_secret  # type: ignore[no-redef]  # one or the other

    proxies = settings_from_extra(extra_of(connection)).get("proxies", {})
    passwords = (urlsplit(url if "://" in url else f"//{url}").password for url in proxies.values())
    for secret in (connection.password, *passwords):
        if secret:
            mask_secret(secret)
            mask_secret(unquote(secret))  # as it stands in a URL, and as it is meant
