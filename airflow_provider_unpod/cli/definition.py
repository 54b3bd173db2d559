"""Defines the commands and options for both command lines. It has no heavy imports: ``airflow --help`` imports it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

DESCRIPTION = "Read, export, check and compare the invoices of an Unpod organization."


@dataclass(frozen=True)
class Option:
    """An argument of a command, in the form of ``argparse``."""

    flags: tuple[str, ...]
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Command:
    """A command. The function of the same name is in :mod:`airflow_provider_unpod.cli.commands`."""

    name: str
    help: str
    options: tuple[Option, ...]


def _option(*flags: str, **settings: Any) -> Option:
    return Option(flags, settings)


_CONNECTION = (
    _option("--conn-id", default="unpod_default", help="connection of type Unpod (default: unpod_default)"),
    _option("--org-handle", help="organization handle in place of the connection's"),
)
_OUTPUT = _option("--output", choices=("table", "json", "csv"), default="table", help="form of the result")
_STORAGE = _option("--storage-conn-id", help="storage connection, if it is not in the path")
_SELECTION = (
    _option("--status", action="append", dest="statuses", help="only this status; may be given several times"),
    _option("--from", dest="invoice_date_from", help="only invoices of this date or later (ISO 8601)"),
    _option("--to", dest="invoice_date_to", help="only invoices before this date (ISO 8601)"),
)
_PATH = _option("path", help="folder of the export, or its manifest")

COMMANDS = (
    Command(
        "check",
        "test a connection, and find out how its API behaves",
        (*_CONNECTION, _option("--record", metavar="FILE", help="write an anonymized transcript, without any values")),
    ),
    Command("organizations", "list the organizations that the token may see", (*_CONNECTION, _OUTPUT)),
    Command("invoices", "list invoices, read completely", (*_CONNECTION, *_SELECTION, _OUTPUT)),
    Command("invoice", "show one invoice", (_option("id", help="invoice id or number"), *_CONNECTION)),
    Command(
        "export",
        "export invoices into files, with a manifest that certifies them",
        (
            _option("path", help="folder of the export"),
            *_CONNECTION,
            *_SELECTION,
            _STORAGE,
            _option(
                "--format",
                dest="file_format",
                choices=("jsonl", "csv", "parquet"),
                default="jsonl",
                help="format of the data files",
            ),
            _option("--compression", choices=("gzip", "zstd"), help="compression of the data files (default: none)"),
            _option(
                "--partition-by", action="append", choices=("currency", "status", "month"), help="one folder per value"
            ),
            _option("--changes", action="store_true", help="only what has changed since the last export of this path"),
            _option("--report", action="store_true", help="also write a report next to the manifest, as one HTML file"),
        ),
    ),
    Command(
        "verify",
        "check a certified export: every file, every sum",
        (
            _PATH,
            _STORAGE,
            _option("--export-id", help="accept this export and no other"),
            _option("--manifest-sha256", help="accept only a manifest with this SHA-256"),
        ),
    ),
    Command(
        "report",
        "write an export as one HTML file",
        (
            _PATH,
            _STORAGE,
            _option("--file", default="-", help="where to (default: standard output)"),
            _option("--since", metavar="PATH", help="add how the export differs from an earlier one"),
            _option("--reconciliation", metavar="FILE", help="add a section from a reconciliation.json of this export"),
        ),
    ),
    Command(
        "diff",
        "compare two exports, to the last digit",
        (
            _option("here", help="folder of an export"),
            _option("there", help="folder of another one"),
            _STORAGE,
            _OUTPUT,
        ),
    ),
)
