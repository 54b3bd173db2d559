"""The errors of exports, loads and reconciliations."""

from __future__ import annotations

from airflow_provider_unpod.billing.errors import UnpodError


class ExportError(UnpodError):
    """An export could not be written, or the files at its path are invalid.

    The message names the path and, for a store, the storage connection. It contains no secrets.
    """


class ExportRefused(ExportError):
    """An export was refused, and a retry cannot help: its path belongs to another task, or it is too large."""

    permanent = True


class LedgerError(ExportError):
    """A ledger cannot be read. The message names the invalid rows and the reasons."""

    permanent = True


class LedgerDiffers(ExportError):
    """An export and the other side of a reconciliation differ. The message has counts and the file of differences."""

    permanent = True


class LoadError(ExportError):
    """An export could not be loaded into a table, which is unchanged. The message says what to do."""


class LoadRefused(LoadError):
    """A load was refused, and a retry cannot help: the table does not fit, or the export is older than the table."""

    permanent = True
