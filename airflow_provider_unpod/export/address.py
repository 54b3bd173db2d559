"""Addresses of folders as users write them, and which of them can be none; asked while DAGs are parsed, so light."""

from __future__ import annotations

from pathlib import PurePosixPath

from airflow_provider_unpod.billing.errors import UnpodConfigError

#: Clouds by scheme, and the extra of this package that each needs.
EXTRA_OF = {
    **dict.fromkeys(("s3", "s3a", "s3n"), "s3"),
    **dict.fromkeys(("gs", "gcs"), "gcs"),
    **dict.fromkeys(("abfs", "abfss", "adl"), "azure"),
}
_LOCAL = ("file", "local")


def normalised(address: object) -> str:
    """The address of a folder, with its scheme and without a slash at its end.

    :raises UnpodConfigError: if it is neither on a store nor an absolute path. A relative one would be below whatever
        folder the worker runs in, and is most often a mistyped address.
    """
    text = str(address).strip().rstrip("/")
    if text.startswith("/"):
        text = f"file://{text}"
    scheme, _, rest = text.partition("://")
    scheme = scheme.lower()
    place, _, path = rest.partition("/")
    if reason := _reason_against(text, scheme, place, rest):
        raise UnpodConfigError(
            "The path of an export must be on a store, like s3://bucket/invoices, or an absolute local one, like "
            f"/data/invoices or file:///data/invoices; got {str(address)!r}{reason}."
        )
    if scheme in _LOCAL:
        # Of //data, and of file:////data, fsspec makes ./data.
        return f"{scheme}://{place}{PurePosixPath('/' + path.lstrip('/'))}"
    return f"{scheme}://{rest}"


def _reason_against(text: str, scheme: str, place: str, rest: str) -> str:
    """What is wrong with an address, as the end of a sentence; empty if nothing is."""
    if text.startswith("~"):
        return ": ~ would be the home of whoever runs the worker"
    if "::" in text or not text.isprintable():
        # Of a::b, fsspec makes a; line breaks it drops. Two paths would be one folder.
        return ": no store can be trusted with `::`, line breaks or control characters"
    if not (scheme and rest):
        return ", which is neither"
    if scheme in _LOCAL and place and not place.endswith("@"):
        return f": {place!r} is no connection (which ends with @), and of file://tmp/x, ./tmp/x would be made"
    if scheme in EXTRA_OF and not place.rpartition("@")[2]:
        return ": it names no bucket"
    return ""
