"""The operator that loads a certified export into a table of a database."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperator

from airflow_provider_unpod.billing.arguments import choice_of, optional, text_of
from airflow_provider_unpod.export.address import normalized
from airflow_provider_unpod.operators.arguments import EXPORT
from airflow_provider_unpod.task_boundary import check_arguments, check_rendered, fail_fast, is_final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow.providers.common.compat.sdk import Context
    from airflow.providers.openlineage.extractors import OperatorLineage

    from airflow_provider_unpod.billing.arguments import Check
    from airflow_provider_unpod.export.reader import Export
    from airflow_provider_unpod.loading.dialects import Dialect
    from airflow_provider_unpod.loading.load import Outcome


_ARGUMENTS: Mapping[str, Check] = {
    **EXPORT,
    "sql_conn_id": text_of,
    "table": text_of,
    "schema": optional(text_of),
    "create_table": partial(choice_of, choices=(True, False)),
    "on_older": partial(choice_of, choices=("skip", "fail")),
}


class UnpodToSqlOperator(BaseOperator):
    """Loads a certified export into a PostgreSQL or SQLite table, exactly once.

    Rows are upserted by organization and invoice id in one transaction. The same transaction records the export's id in
    the table ``<table>_exports``. Loading the same export again changes nothing. A full export without a selection also
    sets ``vanished_at`` on invoices that it no longer contains. An export of changes must be based on the export that
    the table is current with.

    :param export_path: folder of the export, or its manifest (templated).
    :param sql_conn_id: id of a PostgreSQL or SQLite connection (templated).
    :param table: name of the table (templated).
    :param schema: schema of the table. Default: the search path of the connection (templated).
    :param storage_conn_id: id of the storage connection, if it is not in ``export_path`` (templated).
    :param export_id: load only the export with this id, from its summary or asset event (templated).
    :param manifest_sha256: load only if the manifest has this SHA-256, from the same source (templated).
    :param create_table: whether to create the table and its ledger if they do not exist.
    :param on_older: ``"skip"`` an export that is older than the one the table is current with, or ``"fail"``.
    :raises UnpodConfigError: when the DAG is parsed, if an argument is invalid. When the task runs, if the database is
        neither PostgreSQL nor SQLite.
    :raises ExportError: when the task runs, if the export is not certified or was modified, if exports in between were
        not loaded, or if the sums in the table differ from the manifest. The table is then unchanged.

    The task returns ``table``, ``state`` (``"loaded"``, ``"already loaded"`` or ``"older"``), ``export_id``, ``rows``,
    ``vanished``, ``altered`` (number of rows with characters that the database cannot store) and ``current`` (id of the
    export that the table is current with). Events of the task's outlets carry the same.
    """

    template_fields: Sequence[str] = (
        "export_path",
        "sql_conn_id",
        "table",
        "schema",
        "storage_conn_id",
        "export_id",
        "manifest_sha256",
    )
    ui_color = "#e8f3ec"

    def __init__(
        self,
        *,
        export_path: str,
        sql_conn_id: str,
        table: str,
        schema: str | None = None,
        storage_conn_id: str | None = None,
        export_id: str | None = None,
        manifest_sha256: str | None = None,
        create_table: bool = False,
        on_older: str = "skip",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.export_path = export_path
        self.sql_conn_id = sql_conn_id
        self.table = table
        self.schema = schema
        self.storage_conn_id = storage_conn_id
        self.export_id = export_id
        self.manifest_sha256 = manifest_sha256
        self.create_table = create_table
        self.on_older = on_older
        self._given = check_arguments(self, _ARGUMENTS)
        self._lineage: tuple[str, str, int] | None = None
        if is_final(table) and is_final(schema):
            from airflow_provider_unpod.loading.dialects import Target

            Target(table, schema)

    def execute(self, context: Context) -> dict[str, Any]:
        """Load the export, as described in the class."""
        from airflow_provider_unpod.export.errors import LoadRefused
        from airflow_provider_unpod.hooks.database import sql_hook_of
        from airflow_provider_unpod.loading.dialects import DIALECTS, Target
        from airflow_provider_unpod.loading.load import ALREADY_LOADED, OLDER
        from airflow_provider_unpod.operators.outcome import send_summary

        with fail_fast():
            check_rendered(self, self._given, _ARGUMENTS)
            target = Target(self.table, self.schema)
            kind, hook = sql_hook_of(self.sql_conn_id, DIALECTS)
            table_uri = self._table_uri(kind, hook)
            export = self._open()
            outcome = self._load(export, hook, DIALECTS[kind], target)
            if outcome.state == OLDER and self.on_older == "fail":
                raise LoadRefused(
                    f"{self.table} is current with the later export {outcome.current}, so nothing was loaded."
                )
        if outcome.state == ALREADY_LOADED:
            self.log.info(
                "Export %s has already been loaded into %s. Nothing was changed.", export.export_id, self.table
            )
        elif outcome.state == OLDER:
            self.log.info(
                "Export %s is older than the export that %s is current with, %s. Nothing was changed.",
                export.export_id,
                self.table,
                outcome.current,
            )
        else:
            self._report(export, outcome, hook, table_uri)
        summary = {
            "table": self.table,
            "state": outcome.state,
            "export_id": export.export_id,
            "rows": outcome.rows,
            "vanished": outcome.vanished,
            "altered": outcome.altered,
            "current": outcome.current,
        }
        send_summary(self.outlets, context, summary)
        return summary

    def _open(self) -> Export:
        from airflow_provider_unpod.export.reader import stream_export

        # Does not check the sums of the records, because the transaction checks those of the loaded rows.
        return stream_export(
            self.export_path, self.storage_conn_id, export_id=self.export_id, manifest_sha256=self.manifest_sha256
        )

    def _load(self, export: Export, hook: Any, dialect: Dialect, target: Any) -> Outcome:
        from airflow_provider_unpod.loading.load import Load
        from airflow_provider_unpod.task_boundary import cleaned

        with closing(hook.get_conn()) as connection:
            return Load(export, dialect, target, cleaned).run(connection, create_table=self.create_table)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage[Any, Any] | None:
        """The OpenLineage provider, if installed, calls this after the task has succeeded."""
        from airflow_provider_unpod.operators.lineage import openlineage_facets_of_load

        return openlineage_facets_of_load(*self._lineage) if self._lineage else None

    def _report(self, export: Export, outcome: Outcome, hook: Any, table_uri: str) -> None:
        from airflow_provider_unpod.operators.lineage import report_load

        address = normalized(self.export_path)
        self._lineage = address, table_uri, outcome.rows
        report_load(hook, address, table_uri)
        self.log.info(
            "Loaded export %s into %s: %d rows, %d vanished invoices. The sums agree with the manifest.",
            export.export_id,
            self.table,
            outcome.rows,
            outcome.vanished,
        )
        if outcome.altered:
            self.log.warning("%d rows had characters that the database cannot store.", outcome.altered)

    def _table_uri(self, kind: str, hook: Any) -> str:
        """Return the address of the table as in Airflow's assets, without credentials."""
        connection = hook.get_connection(self.sql_conn_id)
        if kind == "sqlite":
            return f"file://{connection.host}/{self.table}"
        port = f":{connection.port}" if connection.port else ""
        return f"postgres://{connection.host}{port}/{connection.schema}/{self.schema or 'public'}/{self.table}"
