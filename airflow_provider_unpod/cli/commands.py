"""The commands. Each function takes the parsed arguments and returns the exit status."""

from __future__ import annotations

import json
import sys
from datetime import timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_unpod.cli.output import note, progress, write_facts, write_rows

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from airflow_provider_unpod.billing.reading.reading import Reading
    from airflow_provider_unpod.export.reader import Export
    from airflow_provider_unpod.export.reconciliation import Reconciliation, Summary
    from airflow_provider_unpod.hooks.unpod import UnpodHook

_COLUMNS = ("id", "invoice_number", "amount", "currency", "status", "invoice_date", "due_date")


def check(given: argparse.Namespace) -> int:
    """Test the connection, then examine how the API behaves."""
    from airflow_provider_unpod.cli.doctor import examine

    return examine(_hook(given), given.record)


def organizations(given: argparse.Namespace) -> int:
    """List the organizations that the token may access."""
    found = _hook(given).get_organizations()
    write_rows(found, ("domain_handle", "name", "id"), given.output)
    return 0


def invoices(given: argparse.Namespace) -> int:
    """List invoices. Nothing is printed until the list has been read completely."""
    from airflow_provider_unpod.billing.reading.bad_rows import all_named

    hook = _hook(given)
    reads = hook.iter_invoices(**_selection(given))
    with all_named(hook.get_conn()), reads as reading, progress("invoices") as counted:
        records = [invoice.as_record() for invoice in counted(reading)]
    names = [name for name in _COLUMNS if any(name in record for record in records)]
    write_rows(records, names or _COLUMNS, given.output)
    note(f"{len(records)} of {reading.evidence.invoices} invoices. The list is complete: it was read {_how(reading)}.")
    return 0


def _how(reading: Reading) -> str:
    return {"linked": "in linked windows", "repeated": "in whole passes"}[reading.evidence.consistency]


def invoice(given: argparse.Namespace) -> int:
    """Show one invoice as JSON."""
    print(json.dumps(_hook(given).get_invoice(given.id).as_record(), indent=2, ensure_ascii=False))
    return 0


def export(given: argparse.Namespace) -> int:
    """Write an export, as ``UnpodBillingOperator`` does."""
    from airflow_provider_unpod.billing.reading.bad_rows import all_named
    from airflow_provider_unpod.billing.reading.selection import Selection
    from airflow_provider_unpod.export import write_export
    from airflow_provider_unpod.export.options import ExportOptions
    from airflow_provider_unpod.web.report import render_report

    hook = _hook(given)
    client = hook.get_conn()
    selection = Selection.from_arguments(**_selection(given))
    options = ExportOptions(
        file_format=given.file_format,
        compression=given.compression,
        partition_by=tuple(given.partition_by or ()),
        export_mode="changes" if given.changes else "full",
    )
    about = {"organization": client.org_handle, "source": client.base_url, "selection": selection.as_dict()}
    # Reads the whole list. The export itself selects.
    with all_named(client), hook.iter_invoices() as reading, progress("invoices") as counted:
        written = write_export(
            _Counted(reading, counted),
            given.path,
            conn_id=given.storage_conn_id,
            options=options,
            about=about,
            selection=selection,
            render_report=render_report if given.report else None,
        )
    if written is None:
        note("No invoice has changed since the last export, so no export was written.")
        return 0
    print(json.dumps(written.summary(), indent=2))
    return 0


class _Counted:
    """A ``Reading`` that counts its invoices for the progress display."""

    def __init__(self, reading: Any, counted: Any) -> None:
        self._reading = reading
        self._counted = counted

    def __iter__(self) -> Iterator[Any]:
        return iter(self._counted(self._reading))

    @property
    def evidence(self) -> Any:
        """The evidence that the list is complete. Available after the last invoice."""
        return self._reading.evidence


def verify(given: argparse.Namespace) -> int:
    """Check every byte and every sum of an export."""
    from airflow_provider_unpod.export import read_export

    found = read_export(
        given.path, given.storage_conn_id, export_id=given.export_id, manifest_sha256=given.manifest_sha256
    )
    write_facts(
        {
            "export_id": found.export_id,
            "organization": found.manifest["organization"],
            "read_at": found.manifest["read_at"],
            "consistency": found.manifest["evidence"]["consistency"],
            "invoices": found.count,
            "manifest_sha256": found.manifest_sha256,
            **{
                f"{currency} {status}": f"{cell['amount']} ({cell['count']})"
                for currency, cells in found.totals.items()
                for status, cell in cells.items()
            },
        }
    )
    note("The export is certified: all files, rows and sums agree with the manifest.")
    return 0


def report(given: argparse.Namespace) -> int:
    """Write an export as HTML."""
    from airflow_provider_unpod.export import read_export
    from airflow_provider_unpod.web.report import render_report

    found = read_export(given.path, given.storage_conn_id)
    earlier = read_export(given.since, given.storage_conn_id) if given.since else None
    content = render_report(
        found.manifest,
        found,
        fingerprint=found.manifest_sha256,
        since=None if earlier is None else earlier.manifest,
        since_summary=None if earlier is None else _summary(earlier, found),
        reconciliation=_reconciliation(given.reconciliation, found) if given.reconciliation else None,
    )
    if given.file == "-":
        sys.stdout.buffer.write(content)
    else:
        Path(given.file).write_bytes(content)
        note(f"{given.file}: {len(content):,} bytes.")
    return 0


def _reconciliation(file: str, export: Export) -> dict[str, Any]:
    """Read a ``reconciliation.json``, which must belong to this export."""
    from airflow_provider_unpod.billing.errors import UnpodConfigError

    try:
        content: dict[str, Any] = json.loads(Path(file).read_bytes())
        about = content["export_id"], content["there"], content["summary"]["bridges"], content["summary"]["counts"]
    except OSError as error:
        raise UnpodConfigError(f"`--reconciliation` {file} cannot be read: {error.strerror}.") from None
    except (ValueError, TypeError, KeyError):
        raise UnpodConfigError(
            f"`--reconciliation` {file} must be a reconciliation.json of UnpodReconcileOperator."
        ) from None
    if about[0] != export.export_id:
        raise UnpodConfigError(f"`--reconciliation` must be for export {export.export_id}, got {about[0]} in {file}.")
    return content


def _summary(here: Export, there: Export) -> Summary:
    reconciliation = _compared(here, there)
    for _ in reconciliation:
        pass
    return reconciliation.summary


def _compared(here: Export, there: Export) -> Reconciliation:
    from airflow_provider_unpod.export import reconcile
    from airflow_provider_unpod.export.entries import entries_of_export

    sides = [entries_of_export(export, by="id", zone=timezone.utc, selection=None) for export in (here, there)]
    return reconcile(*sides)


def diff(given: argparse.Namespace) -> int:
    """Compare two exports. The exit status is 1 if they differ."""
    from airflow_provider_unpod.export import read_export
    from airflow_provider_unpod.export.difference_files import as_dict

    reconciliation = _compared(*(read_export(path, given.storage_conn_id) for path in (given.here, given.there)))
    rows = [_difference_row(as_dict(one)) for one in reconciliation]
    columns = ("id", "outcomes", "amount here", "amount there", "currency", "status here", "status there")
    write_rows(rows, columns, given.output)
    note(json.dumps(reconciliation.summary.as_dict(), indent=2))
    return 0 if reconciliation.summary.agrees else 1


def _difference_row(difference: dict[str, Any]) -> dict[str, Any]:
    here, there = ((difference[side] or [{}])[0] for side in ("here", "there"))
    return {
        "id": difference["id"],
        "outcomes": ", ".join(difference["outcomes"]),
        "amount here": here.get("amount"),
        "amount there": there.get("amount"),
        "currency": here.get("currency") or there.get("currency"),
        "status here": here.get("status"),
        "status there": there.get("status"),
    }


def _hook(given: argparse.Namespace) -> UnpodHook:
    from airflow_provider_unpod.hooks.unpod import UnpodHook

    return UnpodHook(given.conn_id, given.org_handle)


def _selection(given: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(given, name) for name in ("statuses", "invoice_date_from", "invoice_date_to")}
