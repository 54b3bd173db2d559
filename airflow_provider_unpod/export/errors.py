"""The errors of exports."""

from __future__ import annotations

from airflow_provider_unpod.billing.errors import UnpodError


class ExportError(UnpodError):
    """An export could not be written, or the files at its path must not be believed.

    The text names the path and, where a store is involved, the storage connection; it contains no secrets.
    """


class ExportRefused(ExportError):
    """An export that no retry can write: its path is not its own, or it is too large for where it goes."""

    permanent = True


class LedgerError(ExportError):
    """A ledger that an export is compared with cannot be read; the text names its rows and what is wrong with them."""

    permanent = True


class LedgerDiffers(ExportError):
    """An export and what it was compared with differ; the text counts how, and names the file with all differences."""

    permanent = True


class LoadError(ExportError):
    """An export could not be loaded into a table; nothing of it was. The text says which table, and what to do."""


class LoadRefused(LoadError):
    """A load that no retry can mend: the table does not fit, or the export is older and `on_older` is ``"fail"``."""

    permanent = True
