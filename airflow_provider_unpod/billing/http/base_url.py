"""Builds the base URL from the host, port and schema of a connection, or raises an error that names the field."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

from airflow_provider_unpod.billing.errors import UnpodConfigError

#: The published page of the billing endpoint names this host.
DEFAULT_HOST = "unpod.dev"

_DEFAULT_PORTS = {"https": 443, "http": 80}
_HOST_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9_.])?").fullmatch
_EXAMPLES = "https://unpod.dev, unpod.ai or http://localhost:3001"


def base_url_of(host: str | None, port: int | None, schema: str | None) -> str:
    """Build ``scheme://host[:port]`` from the fields of a connection. The default is ``https://unpod.dev``.

    The host may be a name, an IP address or a URL without a path. The default scheme is ``http`` for this machine
    (``localhost``, ``127.0.0.1``, ``[::1]``) and ``https`` for all others.

    :raises UnpodConfigError: if a field is invalid. The message names it, but not its value, which may be a secret.
    """
    parts = _split((host or "").strip() or DEFAULT_HOST)
    name = _host_name(parts)
    number = _port(parts, port)
    scheme = _scheme(parts.scheme, (schema or "").strip().lower(), name)
    host_part = f"[{name}]" if ":" in name else name
    # The default port is omitted, so that manifests and errors show the same URL for the same API.
    return f"{scheme}://{host_part}" + (f":{number}" if number not in (None, _DEFAULT_PORTS[scheme]) else "")


def is_loopback(host: str | None) -> bool:
    """Return whether ``host`` (without brackets and port) is this machine. Makes no DNS lookup."""
    if host is None:
        return False
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]").partition("%")[0]).is_loopback
    except ValueError:
        return False


def _split(text: str) -> SplitResult:
    if "://" not in text:
        text = f"//[{text}]" if _is_bare_ipv6(text) else f"//{text}"
    try:
        # urlsplit drops line breaks silently.
        parts = urlsplit(text if text.isprintable() else "")
    except ValueError:
        raise UnpodConfigError(f"Host (`host`) must be an address such as {_EXAMPLES}.") from None
    if "@" in parts.netloc:
        raise UnpodConfigError(
            "Host (`host`) must be the address alone, without credentials. Enter the organization handle in `login` "
            "and the API token in `password`."
        )
    if behind := _behind(parts, text):
        raise UnpodConfigError(f"Host (`host`) must be the address alone, without {behind}: for example {_EXAMPLES}.")
    return parts


def _behind(parts: SplitResult, text: str) -> str | None:
    """Name the part after the address that is not allowed, if there is one."""
    if parts.path.strip("/"):
        return "a path"
    if parts.query or text.endswith("?"):
        return "a query"
    return "a fragment" if "#" in text else None


def _is_bare_ipv6(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).version == 6
    except ValueError:
        return False


def _host_name(parts: SplitResult) -> str:
    try:
        name = (parts.hostname or "").lower()
        if ":" in name:
            ipaddress.IPv6Address(name)
            return name
        if not name.isascii():
            name = name.encode("idna").decode("ascii")
        if _HOST_NAME(name) and ".." not in name:
            return name
    except (ValueError, UnicodeError):
        pass
    raise UnpodConfigError(f"Host (`host`) must be a host name such as {_EXAMPLES}.")


def _port(parts: SplitResult, port: int | str | None) -> int | None:
    try:
        in_host = parts.port
        # Airflow's form turns an empty port into 0; from a URI or JSON it may be a text.
        separate = int(port or 0) or None
    except (TypeError, ValueError):
        in_host, separate = None, -1
    if in_host is not None and separate is not None and in_host != separate:
        raise UnpodConfigError(f"Port (`port`) must be {in_host}, as in `host`, or empty; got {separate}.")
    number = in_host if in_host is not None else separate
    if number is not None and not 1 <= number <= 65535:
        raise UnpodConfigError("Port (`port`) must be empty or a number from 1 to 65535.")
    return number


def _scheme(in_host: str, schema: str, name: str) -> str:
    if in_host not in ("", "http", "https"):
        raise UnpodConfigError(f"Host (`host`) must begin with https:// or http://: for example {_EXAMPLES}.")
    if schema not in ("", "http", "https"):
        raise UnpodConfigError("Schema (`schema`) must be https, http or empty. In a URI it is the path.")
    if in_host and schema and in_host != schema:
        raise UnpodConfigError(f"Schema (`schema`) must be {in_host}, as in `host`, or empty; got {schema}.")
    return in_host or schema or ("http" if is_loopback(name) else "https")
