"""The one error of exports."""

from __future__ import annotations


class ExportError(Exception):
    """An export could not be written, or what lies at its path must not be believed.

    The text names the path and, where a store is involved, the storage connection; it holds no secrets.
    """
