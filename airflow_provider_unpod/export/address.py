"""Addresses of folders as users write them, and what makes one invalid; checked while DAGs are parsed, so light."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from airflow_provider_unpod.billing.errors import UnpodConfigError, short_repr

#: Clouds by scheme, and the extra of this package that each needs.
EXTRA_OF = {
    **dict.fromkeys(("s3", "s3a", "s3n"), "s3"),
    **dict.fromkeys(("gs", "gcs"), "gcs"),
    **dict.fromkeys(("abfs", "abfss", "adl"), "azure"),
}
_LOCAL = ("file", "local")

#: A user and a password before an ``@``. A storage connection has no colon.
_CREDENTIALS = re.compile(r":[^@]*@").search
#: Azure's own form of an address, after the scheme; the storage connection may come first, as elsewhere.
_AZURE = re.compile(
    r"(?:(?P<conn_id>[^@/]+)@)?(?P<container>[^@/]+)@(?P<account>[^@/.]+)\.(?:dfs|blob)\.[^@/]+(?P<path>/.*)?"
).fullmatch
#: How Python, Jinja, pandas and JSON write a missing value, as a whole folder or behind ``key=``.
_NOTHING = frozenset({"", "null", "nan", "NaT", "undefined", "[]", "{}", "()", "set()"})
_NONE = re.compile(r"(?<![^\W_])None(?![^\W_])").search


class StoreAddress(NamedTuple):
    """An address as Airflow takes it, and the Azure account it must be in, where the address names one."""

    address: str
    account: str | None


def normalized(address: object) -> str:
    """The address of a folder, with its scheme and without a slash at its end.

    :raises UnpodConfigError: if it is neither on a store nor an absolute path; if it contains credentials (which are
        not shown); or if a folder in it is ``..`` or the text of nothing, as of a template without a value.
    """
    text = str(address).strip().removesuffix("/")
    if text.startswith("/"):
        text = f"file://{text}"
    scheme, separator, rest = text.partition("://")
    scheme = scheme.lower()
    place, _, path = rest.partition("/")
    if "?" in text or _CREDENTIALS(rest if separator else text):
        raise UnpodConfigError(
            "The path of an export must not contain credentials or a query string; it is not shown here. Put "
            "credentials into an Airflow connection, and its id into `storage_conn_id`."
        )
    if reason := _reason_against(text, scheme, place, rest):
        raise UnpodConfigError(
            "The path of an export must be on a store, like s3://bucket/invoices, or an absolute local one, like "
            f"/data/invoices or file:///data/invoices; got {str(address)!r}{reason}."
        )
    if scheme in _LOCAL:
        path = path.lstrip("/")  # of //data, and of file:////data, fsspec makes ./data
    for folder in (path if scheme in _LOCAL else rest).split("/"):
        _refuse_as_folder(folder, address)
    if scheme in _LOCAL:
        return f"{scheme}://{place}{PurePosixPath('/' + path)}"
    return f"{scheme}://{rest}"


def path_segment(name: object) -> str:
    """A name that is not one's own, such as an organization handle, as *one* folder of an ``output_path``.

    Percent-encodes everything that could make another path of it: slashes, ``..``, ``?``. Different names stay
    different.

    :param name: the name; anything but a string is taken by its text.
    :raises UnpodConfigError: if the name is empty or ``None``.
    """
    if name is None or not str(name).strip():
        raise UnpodConfigError(f"A folder's name must not be empty, got {name!r}. Did an upstream task return nothing?")
    text = quote(str(name), safe="", errors="surrogatepass").replace("None", "%4Eone")
    if text in (".", "..") or text in _NOTHING:
        return "".join(f"%{ord(character):02X}" for character in text)
    return text


def store_address(address: str) -> StoreAddress:
    """A normalized address as Airflow takes it: ``abfs://container@account.dfs…/path`` is ``abfs://container/path``."""
    scheme, _, rest = address.partition("://")
    parts = _AZURE(rest) if EXTRA_OF.get(scheme) == "azure" else None
    if parts is None:
        return StoreAddress(address, None)
    conn_id = f"{parts['conn_id']}@" if parts["conn_id"] else ""
    return StoreAddress(f"{scheme}://{conn_id}{parts['container']}{parts['path'] or ''}", parts["account"])


def without_connection(address: str) -> str:
    """An address as others know it, without the storage connection in it."""
    scheme, _, rest = address.partition("://")
    parts = _AZURE(rest) if EXTRA_OF.get(scheme) == "azure" else None
    if parts is not None:
        return address if parts["conn_id"] is None else f"{scheme}://{rest[len(parts['conn_id']) + 1 :]}"
    split = urlsplit(address)
    return split._replace(netloc=split.netloc.rpartition("@")[2]).geturl()


def _reason_against(text: str, scheme: str, place: str, rest: str) -> str:
    """The fault of an address, as the end of a sentence; empty if it has none."""
    if text.startswith("~"):
        return ": ~ would be the home folder of the worker's user"
    if "::" in text or not text.isprintable():
        # Of a::b, fsspec makes a; line breaks it drops. Two paths would be one folder.
        return ": `::`, line breaks and control characters make another path on some stores"
    if not (scheme and rest):
        return ", which is neither"
    if scheme in _LOCAL and place and not place.endswith("@"):
        return (
            f": it would be the relative path ./{place}. Write file:///{place}, or file://my_conn@/{place} to name a "
            "connection"
        )
    if scheme in EXTRA_OF and not place.rpartition("@")[2]:
        return ": it names no bucket"
    return ""


def _refuse_as_folder(folder: str, address: object) -> None:
    got = f"got {short_repr(str(address), 200)}"
    if folder in (".", ".."):
        raise UnpodConfigError(
            f"The path of an export must not contain `{folder}`, {got}. Quote names that are not your own with "
            "`airflow_provider_unpod.export.path_segment`."
        )
    if folder.rpartition("=")[2].strip() in _NOTHING:
        what = "a folder without a name" if not folder else f"the folder {folder!r}"
    elif _NONE(folder):
        what = "`None`"
    else:
        return
    raise UnpodConfigError(
        f"The path of an export must not contain {what}, {got}. Did a template render to nothing? A run without a "
        "logical date has `run_id` and `dag_run.run_after`."
    )
