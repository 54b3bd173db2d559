"""An HTTP proxy."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import suppress
from typing import Any


class Proxy:
    """An HTTP proxy with one thread per connection. It tunnels CONNECT and forwards the rest. Names are 127.0.0.1."""

    def __init__(self, answer_first: bytes | None = None, tls: ssl.SSLContext | None = None) -> None:
        self.answer_first = answer_first
        self.tls = tls
        self.heads: list[str] = []

    def __enter__(self) -> Proxy:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"{'https' if self.tls else 'http'}://127.0.0.1:{self.listener.getsockname()[1]}"
        self.sockets: list[socket.socket] = []
        self.threads = [threading.Thread(target=self._accept, daemon=True)]
        self.threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        for sock in (self.listener, *self.sockets):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        for thread in self.threads:
            thread.join(10)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                sock, _ = self.listener.accept()
                self.sockets.append(sock)
                self._spawn(self._serve, sock)

    def _spawn(self, *call: Any) -> None:
        self.threads.append(threading.Thread(target=call[0], args=call[1:], daemon=True))
        self.threads[-1].start()

    def _serve(self, sock: socket.socket) -> None:
        with suppress(OSError):
            if self.tls is not None:
                sock = self.tls.wrap_socket(sock, server_side=True)
                self.sockets.append(sock)
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += sock.recv(1) or b"\r\n\r\n"
            self.heads.append(head.decode())
            if self.answer_first is not None:
                sock.sendall(self.answer_first)
                sock.shutdown(socket.SHUT_RDWR)
                return
            method, target, _ = head.split(b" ", 2)
            port = int(target.rpartition(b":")[2].partition(b"/")[0])
            upstream = socket.create_connection(("127.0.0.1", port))
            self.sockets.append(upstream)
            if method == b"CONNECT":
                sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            else:
                upstream.sendall(head)
            self._spawn(self._pump, upstream, sock)
            self._pump(sock, upstream)

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while block := source.recv(65536):
                sink.sendall(block)
            sink.shutdown(socket.SHUT_RDWR)
