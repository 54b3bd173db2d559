"""Validates the addresses of folders. Keep the imports light: this runs when DAGs are parsed."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import NamedTuple
from unicodedata import normalize
from urllib.parse import quote, unquote, urlsplit

from airflow_provider_unpod.billing.errors import UnpodConfigError, short_repr

#: The extra of this package that each scheme requires.
EXTRA_OF = {
    **dict.fromkeys(("s3", "s3a", "s3n"), "s3"),
    **dict.fromkeys(("gs", "gcs"), "gcs"),
    **dict.fromkeys(("abfs", "abfss", "adl"), "azure"),
}
_LOCAL = ("file", "local")

#: Matches a user and a password in front of an ``@``. A storage connection has no colon.
_CREDENTIALS = re.compile(r":[^@]*@").search
#: Azure's form of an address, after the scheme. A storage connection may come first.
_AZURE = re.compile(
    r"(?:(?P<conn_id>[^@/]+)@)?(?P<container>[^@/]+)@(?P<account>[^@/.]+)\.(?:dfs|blob)\.[^@/]+(?P<path>/.*)?"
).fullmatch
#: Matches an unrendered template, JSON, and the ``str()`` of a list, a missing value (``<NA>``) or another object. A
#: connection is such an object, so they may contain a password.
_OBJECT = re.compile(r"""[{}<>"]|[=(\[]'""").search
#: Folder names that Python, Jinja and JSON write for a missing value, also after ``key=``.
_NOTHING = frozenset({"", "null", "NULL", "nan", "undefined", "[]", "()", "set()"})
#: The same in any part of a name, because no other word is written like that.
_MISSING = re.compile(r"(?<![^\W_])(None|NaN|NaT)(?![^\W_])")


class StoreAddress(NamedTuple):
    """An address as Airflow accepts it, and the Azure account that it names, if any."""

    address: str
    account: str | None


def normalized(address: object, subject: str = "The path of an export") -> str:
    """Normalize the address of a folder: with a scheme, without a slash at its end.

    :param subject: name of the address in messages.
    :raises UnpodConfigError: if it is neither in a store nor an absolute path, if it contains credentials (which the
        message omits), a query string, a fragment or an unrendered template, or if one of its folders is ``..`` in any
        spelling or a missing value such as ``None``.
    """
    text = str(address).strip().removesuffix("/")
    if text.startswith("/"):
        text = f"file://{text}"
    scheme, separator, rest = text.partition("://")
    scheme = scheme.lower()
    place, _, path = rest.partition("/")
    _refuse_secrets(text, rest if separator else text, unquote(place), subject)
    if reason := _reason_against(text, scheme, place, rest):
        raise UnpodConfigError(
            f"{subject} must be in a store, like s3://bucket/invoices, or an absolute local path, like /data/invoices "
            f"or file:///data/invoices; got {str(address)!r}{reason}."
        )
    if scheme in _LOCAL:
        path = path.lstrip("/")  # fsspec would read //data and file:////data as ./data
    for folder in (path if scheme in _LOCAL else rest).split("/"):
        _refuse_as_folder(folder, address, subject)
    if scheme in _LOCAL:
        return f"{scheme}://{place}{PurePosixPath('/' + path)}"
    return f"{scheme}://{rest}"


def path_of(value: object, name: str) -> str:
    """Check the path of a folder or file as an argument of a task, see :func:`normalized`."""
    return normalized(value, f"`{name}`")


def path_segment(name: object) -> str:
    """Encode a name from elsewhere, such as an organization handle, as *one* folder of an ``output_path``.

    Characters that could change the path are percent-encoded: slashes, ``..``, ``?``. Different names stay different.

    :param name: the name. A value that is not a string is converted to one.
    :raises UnpodConfigError: if the name is empty or ``None``.
    """
    if name is None or not str(name).strip():
        raise UnpodConfigError(f"A folder name must not be empty, got {name!r}. Did an upstream task return nothing?")
    text = quote(str(name), safe="", errors="surrogatepass")
    if text in (".", ".."):
        return f"{_encoded(text)}-"  # a program that decodes the path must not get `..`
    if text in _NOTHING:
        return _encoded(text)
    return _MISSING.sub(lambda found: _encoded(found[0]), text)


def _encoded(text: str) -> str:
    return "".join(f"%{ord(character):02X}" for character in text)


def store_address(address: str) -> StoreAddress:
    """Convert a normalized address for Airflow: ``abfs://container@account.dfs…/path`` to ``abfs://container/path``."""
    scheme, _, rest = address.partition("://")
    parts = _AZURE(rest) if EXTRA_OF.get(scheme) == "azure" else None
    if parts is None:
        return StoreAddress(address, None)
    conn_id = f"{parts['conn_id']}@" if parts["conn_id"] else ""
    return StoreAddress(f"{scheme}://{conn_id}{parts['container']}{parts['path'] or ''}", parts["account"])


def without_connection(address: str) -> str:
    """Remove the storage connection from an address."""
    scheme, _, rest = address.partition("://")
    parts = _AZURE(rest) if EXTRA_OF.get(scheme) == "azure" else None
    if parts is not None:
        return address if parts["conn_id"] is None else f"{scheme}://{rest[len(parts['conn_id']) + 1 :]}"
    split = urlsplit(address)
    return split._replace(netloc=split.netloc.rpartition("@")[2]).geturl()


def _reason_against(text: str, scheme: str, place: str, rest: str) -> str:
    """Return the reason why an address is invalid, as the end of a sentence. Empty if it is valid."""
    if text.startswith("~"):
        return ": ~ would be the home folder of the worker's user"
    if "::" in text or not text.isprintable():
        # fsspec reads a::b as a, and drops line breaks. Two paths would then be the same folder.
        return ": `::`, line breaks and control characters are ambiguous in some stores"
    if not (scheme and rest):
        return ", which is neither"
    if scheme in _LOCAL and place and not place.endswith("@"):
        return (
            f": it would be the relative path ./{place}. Write file:///{place}, or file://my_conn@/{place} to name a "
            "connection"
        )
    if scheme in EXTRA_OF and not place.rpartition("@")[2]:
        return ": the bucket is missing"
    return ""


def _refuse_secrets(text: str, rest: str, place: str, subject: str) -> None:
    """Refuse what may contain a secret, without showing it."""
    if "?" in text or "#" in text or _CREDENTIALS(rest) or _CREDENTIALS(place):
        raise UnpodConfigError(
            f"{subject} must not contain credentials, a query string or `#`. Put credentials into an Airflow "
            "connection and its id into `storage_conn_id`. (The path is not shown here.)"
        )
    if found := _OBJECT(text):
        raise UnpodConfigError(
            f"{subject} must not contain `{found[0]}`, as in an unrendered template or the `str()` of an object. "
            "Render the template to a string. (The path is not shown here, because it may contain a password.)"
        )


def _is_dots(folder: str) -> bool:
    """Return whether a program may read a part of the folder as ``.`` or ``..``: decoded, on Windows, in Java."""
    parts = normalize("NFKC", folder).split("\\")
    return any(unquote(part.partition(";")[0].strip()) in (".", "..") for part in parts)


def _refuse_as_folder(folder: str, address: object, subject: str) -> None:
    got = f"got {short_repr(str(address), 200)}"
    if _is_dots(folder):
        raise UnpodConfigError(
            f"{subject} must not contain `{folder}`, {got}. Encode names from elsewhere with "
            "`airflow_provider_unpod.export.path_segment`."
        )
    if folder.rpartition("=")[2].strip() in _NOTHING:
        what = "an empty folder name" if not folder else f"the folder {folder!r}"
    elif missing := _MISSING.search(folder):
        what = f"`{missing[0]}`"
    else:
        return
    raise UnpodConfigError(
        f"{subject} must not contain {what}, {got}. Did a template render to nothing? A run without a "
        "logical date has `run_id` and `dag_run.run_after`."
    )
