"""The operator that compares a certified export with another export, a database or a ledger's file."""

from __future__ import annotations

import os
from contextlib import ExitStack, closing
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperator

from airflow_provider_unpod.billing.arguments import (
    GAVE_NOTHING,
    choice_of,
    decimals_of,
    optional,
    text_of,
    whole_number_of,
    zone_of,
)
from airflow_provider_unpod.billing.errors import UnpodConfigError, short_repr
from airflow_provider_unpod.export.address import path_of
from airflow_provider_unpod.operators.arguments import EXPORT
from airflow_provider_unpod.task_boundary import (
    check_arguments,
    check_rendered,
    fail_fast,
    materialized,
    selection_of,
    storable,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import date, tzinfo
    from decimal import Decimal
    from typing import IO

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_unpod.billing.arguments import Check
    from airflow_provider_unpod.export.difference_files import Differences
    from airflow_provider_unpod.export.reader import Export
    from airflow_provider_unpod.export.reconciliation import Entry

#: Number of differences in the log and in the XCom. The files have all of them.
_SHOWN = 20
#: Largest ledger, in bytes. It is copied to the worker's disk.
_LARGEST_LEDGER = 4 * 1024**3
_SOURCES = ("against_path", "sql", "ledger_path")


def _query_of(value: Any, name: str) -> str:
    if isinstance(value, str) and value.strip():
        return value
    raise UnpodConfigError(f"`{name}` must be an SQL query, got {short_repr(value)}. {GAVE_NOTHING}")


_ARGUMENTS: Mapping[str, Check] = {
    **EXPORT,
    "against_path": optional(path_of),
    "sql": optional(_query_of),
    "sql_conn_id": optional(text_of),
    "ledger_path": optional(path_of),
    "output_path": optional(path_of),
    "match_by": partial(choice_of, choices=("id", "invoice_number")),
    "business_timezone": zone_of,
    "date_window": partial(whole_number_of, least=0),
    "tolerance": decimals_of,
    "on_difference": partial(choice_of, choices=("fail", "warn")),
}


class UnpodReconcileOperator(BaseOperator):
    """Compares a certified export with another export, a database or a ledger file, to the last digit.

    Invoices are matched by id or number. Amount, currency, status and date are compared, as far as the other side has
    them. If the export has only changes, only its own invoices are compared.

    :param export_path: folder of the export, or its manifest (templated).
    :param storage_conn_id: id of the storage connection of ``export_path``, ``against_path``, ``ledger_path`` and
        ``output_path``, if they do not name one (templated).
    :param export_id: compare only the export with this id, from its summary or asset event (templated).
    :param manifest_sha256: compare only if the manifest has this SHA-256, from the same source (templated).
    :param against_path: compare with the export in this folder (templated).
    :param sql: compare with the rows of this query. Its columns must be named ``id``, ``amount``, ``currency`` and
        optionally ``date`` and ``status``. Amounts must be NUMERIC, whole numbers or text (templated).
    :param sql_conn_id: id of the database connection for ``sql`` (templated).
    :param ledger_path: compare with this CSV file (templated).
    :param csv: format of the CSV file, see :class:`~airflow_provider_unpod.export.entries.LedgerFormat`, for example
        ``{"delimiter": ";", "decimal": ",", "columns": {"id": "Invoice", "amount": "Amount"}, "currency": "EUR"}``.
    :param match_by: ``"id"`` or ``"invoice_number"``.
    :param statuses: compare only invoices of the export with one of these statuses (templated).
    :param invoice_date_from: compare only invoices of the export with this date or a later one (templated).
    :param invoice_date_to: compare only invoices of the export before this date (templated).
    :param business_timezone: IANA name of the time zone for calendar days and for dates without an offset.
    :param date_window: number of days by which dates may differ.
    :param tolerance: amount by which amounts may differ, by currency code, for example ``{"USD": "0.01"}``. Other
        currencies must agree exactly.
    :param on_difference: ``"fail"`` the task without retries after writing the files, or ``"warn"`` in its log.
    :param output_path: folder for ``reconciliation.json`` and ``reconciliation.csv``, with all differences. Default: no
        files. Mapped tasks need a folder each (templated).
    :raises UnpodConfigError: when the DAG is parsed, if an argument is invalid.
    :raises ExportError: when the task runs, if the export is not certified or was modified, or if the ledger cannot be
        read.

    The task returns ``agrees``, ``counts`` (number of ids by outcome), ``bridges`` (the steps from the export's total
    to the other side's, by currency; ``None`` beyond 100 currencies or 64 KiB), ``first_differences`` (up to twenty,
    at most 64 KiB) and ``files`` (addresses). The asset events of its outlets have the same in ``extra``, without the
    differences.
    """

    template_fields: Sequence[str] = (
        "export_path",
        "storage_conn_id",
        "export_id",
        "manifest_sha256",
        "against_path",
        "sql",
        "sql_conn_id",
        "ledger_path",
        "statuses",
        "invoice_date_from",
        "invoice_date_to",
        "output_path",
    )
    template_fields_renderers = {"sql": "sql"}  # noqa: RUF012  # Airflow's own name and form
    ui_color = "#e8f3ec"

    def __init__(
        self,
        *,
        export_path: str,
        storage_conn_id: str | None = None,
        export_id: str | None = None,
        manifest_sha256: str | None = None,
        against_path: str | None = None,
        sql: str | None = None,
        sql_conn_id: str | None = None,
        ledger_path: str | None = None,
        csv: Mapping[str, Any] | None = None,
        match_by: str = "id",
        statuses: str | Iterable[str] | None = None,
        invoice_date_from: str | date | None = None,
        invoice_date_to: str | date | None = None,
        business_timezone: str = "UTC",
        date_window: int = 0,
        tolerance: Mapping[str, str | int | Decimal] | None = None,
        on_difference: str = "fail",
        output_path: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.export_path = export_path
        self.storage_conn_id = storage_conn_id
        self.export_id = export_id
        self.manifest_sha256 = manifest_sha256
        self.against_path = against_path
        self.sql = sql
        self.sql_conn_id = sql_conn_id
        self.ledger_path = ledger_path
        self.csv = csv
        self.match_by = match_by
        self.statuses = materialized(statuses)
        self.invoice_date_from = invoice_date_from
        self.invoice_date_to = invoice_date_to
        self.business_timezone = business_timezone
        self.date_window = date_window
        self.tolerance = tolerance
        self.on_difference = on_difference
        self.output_path = output_path
        self._given = check_arguments(self, _ARGUMENTS)
        self._check_combinations()

    def _check_combinations(self) -> None:
        """Check combinations of arguments when the DAG is parsed."""
        from airflow_provider_unpod.export.entries import LedgerFormat

        given = [name for name in _SOURCES if getattr(self, name) is not None]
        if len(given) != 1:
            raise UnpodConfigError(
                f"Pass exactly one of {', '.join(f'`{name}`' for name in _SOURCES)}, got {given or 'none'}."
            )
        if (self.sql is None) != (self.sql_conn_id is None):
            raise UnpodConfigError("`sql` and `sql_conn_id` must be given together.")
        if self.csv is not None and self.ledger_path is None:
            raise UnpodConfigError("`csv` has no effect without `ledger_path`. Omit it, or pass the ledger's path.")
        LedgerFormat.from_dict(self.csv, "csv")
        selection_of(self, rendered=False)

    def execute(self, context: Context) -> dict[str, Any]:
        """Compare, write the files and report the result, as described in the class."""
        from airflow_provider_unpod.export.difference_files import Differences
        from airflow_provider_unpod.export.errors import LedgerDiffers
        from airflow_provider_unpod.export.reconciliation import reconcile
        from airflow_provider_unpod.operators.outcome import send_summary

        with fail_fast(), ExitStack() as stack:
            check_rendered(self, self._given, _ARGUMENTS)
            selection_of(self, rendered=True)
            export = self._open(self.export_path, self.export_id, self.manifest_sha256)
            reconciliation = reconcile(
                self._entries_of_export(export),
                self._other_side(stack),
                date_window=self.date_window,
                tolerance=decimals_of(self.tolerance, "tolerance"),
                here_is_part=export.manifest["mode"] == "changes",
            )
            differences = stack.enter_context(closing(Differences(reconciliation, _SHOWN)))
            files = self._write(differences, export, context)
            result = {**_listed(differences.summary), "export_id": export.export_id, "files": files}
            self._report(differences)
            if not result["agrees"] and self.on_difference == "fail":
                raise LedgerDiffers(
                    f"Export {export.export_id} and {self._name_of_other()} differ: {_counts_in_words(result)}. "
                    f"{'See ' + result['files'][0] if result['files'] else 'See the log, or set output_path'}."
                )
        send_summary(self.outlets, context, result)
        returned: dict[str, Any] = storable({**result, "first_differences": _first(differences)})
        return returned

    # --- the two sides

    def _open(self, path: str, export_id: str | None = None, manifest_sha256: str | None = None) -> Export:
        from airflow_provider_unpod.export import read_export

        return read_export(path, self.storage_conn_id, export_id=export_id, manifest_sha256=manifest_sha256)

    def _entries_of_export(self, export: Export) -> Iterator[Entry]:
        from airflow_provider_unpod.export.entries import entries_of_export

        selection = selection_of(self, rendered=True)
        return entries_of_export(export, by=self.match_by, zone=self._zone, selection=selection)

    def _other_side(self, stack: ExitStack) -> Iterator[Entry]:
        from airflow_provider_unpod.export.entries import LedgerFormat, entries_of_csv, entries_of_rows

        if self.against_path is not None:
            return self._entries_of_export(self._open(self.against_path))
        if self.ledger_path is not None:
            file = stack.enter_context(self._ledger_file(self.ledger_path))
            return entries_of_csv(file, LedgerFormat.from_dict(self.csv, "csv"), self._zone)
        head, rows = self._query(stack)
        return entries_of_rows(rows, head, LedgerFormat(), self._zone)

    def _ledger_file(self, path: str) -> IO[bytes]:
        from airflow_provider_unpod.export.errors import LedgerError
        from airflow_provider_unpod.export.storage import Folder

        parent, _, name = path.rpartition("/")
        with Folder(parent, self.storage_conn_id) as folder:
            file = folder.fetch(name, _LARGEST_LEDGER + 1)
        if file is None:
            raise LedgerError(f"{path} does not exist. Correct `ledger_path`.")
        if file.seek(0, os.SEEK_END) > _LARGEST_LEDGER:
            file.close()
            raise LedgerError(f"{path} is larger than {_LARGEST_LEDGER:,} bytes. Split it, or load it into a database.")
        file.seek(0)
        return file

    def _query(self, stack: ExitStack) -> tuple[list[str], Iterator[Sequence[Any]]]:
        from airflow_provider_unpod.hooks.database import sql_hook_of

        assert self.sql_conn_id is not None
        _, hook = sql_hook_of(self.sql_conn_id)
        cursor = stack.enter_context(closing(stack.enter_context(closing(hook.get_conn())).cursor()))
        cursor.execute(self.sql)
        names = [column[0] for column in cursor.description]
        return names, iter(cursor.fetchone, None)

    @property
    def _zone(self) -> tzinfo:
        return zone_of(self.business_timezone, "business_timezone")

    # --- the result

    def _write(self, differences: Differences, export: Export, context: Context) -> list[str]:
        from airflow_provider_unpod.export.storage import Folder
        from airflow_provider_unpod.operators.outcome import run_of

        if self.output_path is None:
            return []
        about = {
            "export_id": export.export_id,
            "manifest_sha256": export.manifest_sha256,
            "organization": export.manifest["organization"],
            "here": self.export_path,
            "there": self._name_of_other(),
            "run": run_of(context),
        }
        with Folder(self.output_path, self.storage_conn_id) as folder:
            return [folder.address_of(name) for name in differences.write(folder, about)]

    def _name_of_other(self) -> str:
        return self.against_path or self.ledger_path or f"the query on {self.sql_conn_id}"

    def _report(self, differences: Differences) -> None:
        words = _counts_in_words(differences.summary)
        if differences.summary["agrees"]:
            self.log.info("The export and %s agree: %s.", self._name_of_other(), words)
            return
        self.log.warning("The export and %s differ: %s.", self._name_of_other(), words)
        for one in differences.first:
            self.log.warning("Invoice %s: %s; here %s, there %s", one["id"], ", ".join(one["outcomes"]), *_sides(one))


def _listed(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return a summary that Airflow's database can store, however many currencies the other side has."""
    from airflow_provider_unpod.export.writer import may_be_listed

    bridges = summary["bridges"]
    return {**summary, "bridges": bridges if may_be_listed(bridges, len(bridges)) else None}


def _first(differences: Differences) -> list[dict[str, Any]]:
    """Return as many of the first differences as an XCom should hold. Duplicates of one id may have any number."""
    from airflow_provider_unpod.export.writer import may_be_listed

    first = list(differences.first)
    while not may_be_listed(first, len(first)):
        first.pop()
    return first


def _counts_in_words(summary: Mapping[str, Any]) -> str:
    return ", ".join(f"{count} {outcome.replace('_', ' ')}" for outcome, count in summary["counts"].items() if count)


def _sides(difference: Mapping[str, Any]) -> Iterator[str]:
    for side in ("here", "there"):
        described = (filter(None, map(one.get, ("amount", "currency", "status", "day"))) for one in difference[side])
        rows = [" ".join(cells) for cells in described]
        yield " and ".join(rows) or "nothing"
