"""An HTTP server on a raw socket that does exactly what a test's script says, down to single bytes and resets."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    import ssl

#: What the clients of these tests are given, and what must never be seen anywhere.
TOKEN = "tok-5f3a9c-secret"
_TLS_HANDSHAKE = b"\x16"  # the first byte of a client that expects https


@dataclass(frozen=True)
class Request:
    method: str
    target: str
    #: Names in small letters.
    headers: Mapping[str, str]

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        return {name: values[0] for name, values in parse_qs(urlsplit(self.target).query).items()}


@dataclass(frozen=True)
class Drip:
    """Sends bytes one by one, with a pause (seconds) before each."""

    data: bytes
    pause: float


class Reset:
    """Resets the connection, so the client gets ECONNRESET."""


class Close:
    """Closes the connection normally."""


class Hang:
    """Sends no more data until the client disconnects or the server stops."""


Step = bytes | Drip | type[Reset] | type[Close] | type[Hang]
Script = Iterable[Step]


def answer(
    body: bytes | str | Any = b"",
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    *,
    length: int | None = None,
) -> list[Step]:
    """Return a complete response. A ``body`` that is neither bytes nor a string is sent as JSON."""
    if not isinstance(body, (bytes, str)):
        body = json.dumps(body)
    data = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status} Something", f"Content-Length: {len(data) if length is None else length}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return [("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + data]


def row(number: int, **fields: Any) -> dict[str, Any]:
    return {
        "id": number,
        "amount": "299.00",
        "currency": "USD",
        "status": "paid",
        "invoice_date": "2026-02-01T00:00:00Z",
    } | fields


def page(numbers: Iterable[int] = (1,), headers: Mapping[str, str] | None = None, **envelope: Any) -> list[Step]:
    """Return a valid page of the billing list with these invoice ids."""
    rows = [row(number) for number in numbers]
    body = {"count": len(rows), "status_code": 200, "message": "Billing data fetched successfully", "results": rows}
    return answer(body | envelope, headers=headers)


@dataclass
class FaultyServer:
    """Responds to each request with the next script of ``scripts``, and with ``otherwise`` after the last one.

    A context manager; every thread of it has ended when the block is left.
    """

    scripts: list[Script | Callable[[Request], Script]] = field(default_factory=list)
    otherwise: Script | Callable[[Request], Script] = field(default_factory=page)
    tls: ssl.SSLContext | None = None
    requests: list[Request] = field(default_factory=list)
    connections: int = 0

    def __enter__(self) -> FaultyServer:
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._spawn(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for sock in self._open:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
            threads = list(self._threads)
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive()

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def _spawn(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
                self._open.add(sock)
                if not self._stopping.is_set():
                    self._spawn(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        wire = sock
        try:
            if self.tls is not None:
                wire = self.tls.wrap_socket(sock, server_side=True)
                with self._lock:
                    self._open.add(wire)
            while (request := self._read(wire)) is not None:
                with self._lock:
                    self.requests.append(request)
                    script = self.scripts.pop(0) if self.scripts else self.otherwise
                if not self._play(wire, script(request) if callable(script) else script):
                    return
        except OSError:
            pass  # the client went away, as many tests want it to
        finally:
            with self._lock:
                self._open -= {sock, wire}
            wire.close()

    @staticmethod
    def _read(sock: socket.socket) -> Request | None:
        data = b""
        while not data.endswith(b"\r\n\r\n"):
            block = sock.recv(65536)
            if not block or block[:1] == _TLS_HANDSHAKE:
                return None
            data += block
        first, *lines = data.decode("latin-1").strip().split("\r\n")
        method, target, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        return Request(method, target, headers)

    def _play(self, sock: socket.socket, script: Script) -> bool:
        """Return whether the connection can serve another request."""
        for step in script:
            if isinstance(step, bytes):
                sock.sendall(step)
            elif isinstance(step, Drip):
                for byte in step.data:
                    if self._stopping.wait(step.pause):
                        return False
                    sock.sendall(bytes([byte]))
            elif step is Reset:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return False
            elif step is Close:
                return False
            elif step is Hang:
                sock.recv(1)
                return False
        return True


def list_of(rows: list[dict[str, Any]], *, counted: bool = True) -> FaultyServer:
    """Return a server for this list, which is not started yet.

    :param counted: whether responses have a ``count``.
    """

    def paged(request: Request) -> list[Step]:
        number, size = int(request.query["page"]), int(request.query["page_size"])
        part = rows[(number - 1) * size : number * size]
        if number > 1 and not part:
            return answer({"status_code": 404, "message": "Invalid page."}, 404)
        count = {"count": len(rows)} if counted else {}
        return answer({"status_code": 200, "message": "ok", **count, "results": part})

    return FaultyServer(otherwise=paged)
