"""The operator that exports an organization's invoices."""

from __future__ import annotations

import re
import time
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowSkipException, BaseOperator

from airflow_provider_unpod.billing.arguments import GAVE_NOTHING, choice_of, optional, text_of, whole_number_of
from airflow_provider_unpod.billing.errors import UnpodConfigError
from airflow_provider_unpod.billing.http.settings import argument_of_reading
from airflow_provider_unpod.billing.reading.evidence import consistency_of
from airflow_provider_unpod.export.address import path_of
from airflow_provider_unpod.export.options import ExportOptions, field_names, partition_keys
from airflow_provider_unpod.links import PAGE_LINKS
from airflow_provider_unpod.operators.outcome import log_line, run_of, send_asset_events
from airflow_provider_unpod.task_boundary import (
    CONNECTION,
    check_arguments,
    check_rendered,
    materialized,
    selection_of,
    storable,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from airflow.providers.common.compat.sdk import Context
    from airflow.providers.openlineage.extractors import OperatorLineage

    from airflow_provider_unpod.billing.arguments import Check
    from airflow_provider_unpod.billing.reading.reading import Reading
    from airflow_provider_unpod.billing.reading.selection import Selection
    from airflow_provider_unpod.export.writer import Written
    from airflow_provider_unpod.hooks.unpod import UnpodHook

#: Default limit for an XCom in bytes of JSON. Every database and XCom backend accepts this size.
MAX_XCOM_BYTES = 256 * 1024

_EXPRESSION = re.compile(r"\{\{.*?\}\}|\{%.*?%\}", re.DOTALL)
_ARGUMENTS: Mapping[str, Check] = {
    **CONNECTION,
    "output_path": optional(path_of),
    "storage_conn_id": optional(text_of),
    "page_size": optional(argument_of_reading),
    "max_concurrency": optional(argument_of_reading),
    "consistency": consistency_of,
    "max_xcom_bytes": whole_number_of,
    "on_no_change": partial(choice_of, choices=("skip", "succeed")),
    "report": partial(choice_of, choices=(True, False)),
}
_NO_CHANGE = "No invoice has changed since the last export, so no export was written."


class UnpodBillingOperator(BaseOperator):
    """Exports all invoices of an organization: as an XCom, or as files with a manifest.

    :param unpod_conn_id: id of a connection of type Unpod.
    :param org_handle: organization handle. Default: the ``login`` of the connection.
    :param output_path: folder of the export, in a store or as an absolute local path, for example
        ``s3://my_aws@bucket/invoices/{{ ds }}``. No other task may use it. ``None``: the task returns the records.
    :param storage_conn_id: id of the storage connection, if it is not in ``output_path``.
    :param file_format: ``"jsonl"``, ``"csv"`` or ``"parquet"`` (requires the extra ``parquet``).
    :param compression: ``None``, ``"gzip"`` or ``"zstd"`` (requires the extra ``zstd``). Parquet has its own.
    :param statuses: one status or several, ignoring case. A string may be comma-separated or a rendered list.
        Default: all.
    :param invoice_date_from: earliest invoice date, inclusive: an ISO 8601 string or a ``datetime``. Without an offset
        it is in ``business_timezone``.
    :param invoice_date_to: latest invoice date, exclusive, in the same forms.
    :param page_size: most rows per page. Default: that of the connection.
    :param max_concurrency: most requests in flight. Default: that of the connection.
    :param consistency: ``"linked"`` (proved complete) or ``"single-pass"``.
    :param max_xcom_bytes: limit for the records as JSON, in bytes. Without ``output_path``, the task fails if they are
        larger.
    :param partition_by: one or more of ``"currency"``, ``"status"`` and ``"month"`` (of ``invoice_date``), as Hive
        partitions.
    :param business_timezone: IANA name of the time zone for months and for dates without an offset.
    :param export_mode: ``"full"``, or ``"changes"`` for only the invoices that are new or different since the last
        export to the same path. Records of changes also have ``old_status`` and ``new_status``.
    :param ignore_fields: with ``export_mode="changes"``, fields of the API whose differences do not count as changes.
    :param on_no_change: with ``export_mode="changes"``, the end of a task without changes: ``"skip"`` or ``"succeed"``.
        In both cases the task writes no export and emits no asset event.
    :param report: whether to write a report next to the manifest: one HTML file, which is part of the export.
    :raises UnpodConfigError: when the DAG is parsed, if an argument is invalid. A template that renders to an invalid
        value or to ``None`` fails the task without retries.

    Without ``output_path``, the task returns the list of records. With ``output_path``, it returns a summary:
    ``manifest`` (address of the manifest), ``export_id``, ``manifest_sha256`` (of the manifest file), ``file_count``,
    ``files`` (addresses), ``count``, ``totals`` (``{currency: {status: {"count": n, "amount": "…"}}}``),
    ``consistency`` (the level reached), ``report`` (address of the report, or ``None``) and ``storage_conn_id`` (as
    given). Beyond 100 entries or 64 KiB, ``files`` and ``totals`` are ``None``. The asset events of the task's outlets
    have the same summary, without ``files``, in ``extra``. A retried or cleared task replaces its export.
    """

    template_fields: Sequence[str] = (
        "unpod_conn_id",
        "org_handle",
        "output_path",
        "storage_conn_id",
        "statuses",
        "invoice_date_from",
        "invoice_date_to",
    )
    ui_color = "#e8f3ec"
    operator_extra_links = PAGE_LINKS

    def __init__(
        self,
        *,
        unpod_conn_id: str = "unpod_default",
        org_handle: str | None = None,
        output_path: str | None = None,
        storage_conn_id: str | None = None,
        file_format: str = "jsonl",
        compression: str | None = None,
        statuses: str | Iterable[str] | None = None,
        invoice_date_from: str | datetime | None = None,
        invoice_date_to: str | datetime | None = None,
        page_size: int | None = None,
        max_concurrency: int | None = None,
        consistency: str = "linked",
        max_xcom_bytes: int = MAX_XCOM_BYTES,
        partition_by: str | Iterable[str] = (),
        business_timezone: str = "UTC",
        export_mode: str = "full",
        ignore_fields: str | Iterable[str] = (),
        on_no_change: str = "skip",
        report: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.unpod_conn_id = unpod_conn_id
        self.org_handle = org_handle
        self.output_path = output_path
        self.storage_conn_id = storage_conn_id
        self.file_format = file_format
        self.compression = compression
        self.statuses = materialized(statuses)
        self.invoice_date_from = invoice_date_from
        self.invoice_date_to = invoice_date_to
        self.page_size = page_size
        self.max_concurrency = max_concurrency
        self.consistency = consistency
        self.max_xcom_bytes = max_xcom_bytes
        self.partition_by = partition_keys(materialized(partition_by))
        self.business_timezone = business_timezone
        self.export_mode = export_mode
        self.ignore_fields = field_names(ignore_fields, "ignore_fields")
        self.on_no_change = on_no_change
        self.report = report
        self._given = check_arguments(self, _ARGUMENTS)
        self._depth = _depth_of(output_path)
        self._lineage: tuple[str, Written | None] | None = None
        self._check_combinations()

    def execute(self, context: Context) -> list[dict[str, Any]] | dict[str, Any]:
        """Export the invoices, as described in the class."""
        from airflow_provider_unpod.billing.reading.bad_rows import all_named
        from airflow_provider_unpod.hooks.unpod import UnpodHook
        from airflow_provider_unpod.task_boundary import fail_fast

        started = time.monotonic()
        with fail_fast():
            check_rendered(self, self._given, _ARGUMENTS)
            self._check_last_folder()
            hook = UnpodHook(self.unpod_conn_id, org_handle=self.org_handle)
            selection = selection_of(self, rendered=True)
            with hook.get_conn() as client, all_named(client):
                if self.output_path is None:
                    records = self._records(hook, selection, started)
                    self._report_lineage(hook, None)
                    return storable(records)
                written = self._export(hook, selection, self.output_path, context)
            self._report_lineage(hook, written)
        if written is None:
            return self._without_change()
        summary, manifest = written.summary(), written.manifest
        evidence = manifest.content["evidence"]
        line = log_line("Exported", manifest.count, manifest.totals, evidence, time.monotonic() - started)
        self.log.info("%s: %s", line, summary["manifest"])
        send_asset_events(self.outlets, context, written)
        return storable(summary)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage[Any, Any] | None:
        """The OpenLineage provider, if installed, calls this after the task has succeeded."""
        from airflow_provider_unpod.operators.lineage import openlineage_facets

        return openlineage_facets(*self._lineage) if self._lineage else None

    def _records(self, hook: UnpodHook, selection: Selection, started: float) -> list[dict[str, Any]]:
        from airflow_provider_unpod.billing.reading.bad_rows import valid
        from airflow_provider_unpod.export.errors import ExportRefused
        from airflow_provider_unpod.export.spool import encode_record
        from airflow_provider_unpod.export.totals import Totals

        totals = Totals()
        records: list[dict[str, Any]] = []
        size = 2
        with self._read(hook, selection) as invoices:
            for invoice in valid(invoices, attrgetter("tax_amount")):
                record = invoice.as_record()
                size += len(encode_record(record)) + 1
                if size > self.max_xcom_bytes:
                    raise ExportRefused(
                        f"Set `output_path` to export to files, or select fewer invoices: {len(records) + 1} or more "
                        f"invoices exceed the limit of an XCom, max_xcom_bytes={self.max_xcom_bytes}."
                    )
                records.append(record)
                totals.add(invoice.currency, invoice.status, invoice.amount)
            evidence, seconds = invoices.evidence.as_dict(), time.monotonic() - started
            self.log.info("%s.", log_line("Read", len(records), totals.as_dict(), evidence, seconds))
        return records

    def _export(self, hook: UnpodHook, selection: Selection, output_path: str, context: Context) -> Written | None:
        from airflow_provider_unpod.billing.reading.selection import Selection
        from airflow_provider_unpod.export.writer import write_export
        from airflow_provider_unpod.web.report import render_report

        client = hook.get_conn()
        # Reads the whole list. The export itself selects, because an invoice that leaves the selection is a change.
        with self._read(hook, Selection()) as invoices:
            return write_export(
                invoices,
                output_path,
                conn_id=self.storage_conn_id,
                options=self._options(),
                about={
                    "organization": client.org_handle,
                    "source": client.base_url,
                    "selection": selection.as_dict(),
                    "run": run_of(context),
                },
                selection=selection,
                render_report=render_report if self.report else None,
            )

    def _without_change(self) -> dict[str, Any]:
        if self.on_no_change == "skip":
            raise AirflowSkipException(_NO_CHANGE)
        self.log.info(_NO_CHANGE)
        # Airflow emits an event for every outlet of a successful task, but this task has not changed them.
        self.outlets = []
        nothing = dict.fromkeys(
            ("manifest", "export_id", "manifest_sha256", "consistency", "report", "storage_conn_id")
        )
        return {**nothing, "file_count": 0, "files": [], "count": 0, "totals": {}}

    def _report_lineage(self, hook: UnpodHook, written: Written | None) -> None:
        from airflow_provider_unpod.operators.lineage import report_export

        org_handle = hook.get_conn().org_handle
        self._lineage = org_handle, written
        report_export(hook, org_handle, written)

    def _read(self, hook: UnpodHook, selection: Selection) -> Reading:
        from airflow_provider_unpod.billing.reading.reading import read_list

        return read_list(
            hook.get_conn(),
            selection,
            consistency=self.consistency,
            page_size=self.page_size,
            max_concurrency=self.max_concurrency,
        )

    def _options(self) -> ExportOptions:
        return ExportOptions(
            file_format=self.file_format,
            compression=self.compression,
            partition_by=self.partition_by,
            business_timezone=self.business_timezone,
            export_mode=self.export_mode,
            ignore_fields=self.ignore_fields,
        )

    def _check_combinations(self) -> None:
        """Check combinations of arguments when the DAG is parsed."""
        self._options()
        selection_of(self, rendered=False)
        if self.on_no_change != "skip" and self.export_mode != "changes":
            raise UnpodConfigError("`on_no_change` has no effect without export_mode='changes'. Set both, or neither.")
        if self.output_path is None:
            of_files = {
                "storage_conn_id": self.storage_conn_id,
                "compression": self.compression,
                "partition_by": self.partition_by,
                "file_format": self.file_format != "jsonl",
                "export_mode": self.export_mode != "full",
                "report": self.report,
            }
            if useless := [name for name, value in of_files.items() if value]:
                raise UnpodConfigError(
                    f"Set `output_path`, or remove {', '.join(useless)}: without a path, no files are written."
                )

    def _check_last_folder(self) -> None:
        """Refuse ``s3://bucket/{{ handle }}`` if the handle is empty, because it would mean the parent folder."""
        path = self.output_path
        if path is not None and str(path).strip().endswith("/") and _depth_of(path) < self._depth:
            raise UnpodConfigError(
                f"`output_path` must not end with an empty folder name, got {path!r}. {GAVE_NOTHING}"
            )


def _depth_of(path: object) -> int:
    """Count the slashes in a path. A template counts as one name."""
    return _EXPRESSION.sub("x", str(path)).strip().rstrip("/").count("/")
