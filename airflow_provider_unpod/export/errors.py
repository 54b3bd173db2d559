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
