"""The connections that the page lists, and the test of one of them: limited, and remembered for a moment."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow.models import Connection
from itsdangerous import BadData, URLSafeTimedSerializer
from sqlalchemy import select

from airflow_provider_unpod.get_provider_info import CONNECTION_TYPE

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.orm import Session

MOST_LISTED = 100
#: Tests at the same time in this process: each keeps one of the API server's threads, up to the connection's timeout.
_MOST_AT_ONCE = 2
#: Seconds for which a result counts as the answer to another click.
_REMEMBERED = 10.0
_MOST_REMEMBERED = 100
#: Seconds for which a page's Test buttons work.
_TOKEN_AGE = 24 * 3600


class Busy(Exception):
    """As many requests are under way as are allowed at once."""


@dataclass(frozen=True)
class Outcome:
    """What a connection test found."""

    works: bool
    message: str


class ConnectionTests:
    """Tests connections: few at once, and the same one not again and again.

    :param run: tests a connection by its id, and returns whether it works, and a message.
    """

    def __init__(self, run: Callable[[str], tuple[bool, str]], clock: Callable[[], float] = time.monotonic) -> None:
        self._run = run
        self._clock = clock
        self._free = threading.BoundedSemaphore(_MOST_AT_ONCE)
        self._found: OrderedDict[str, tuple[float, Outcome]] = OrderedDict()

    def outcome(self, connection: Connection) -> Outcome:
        """Test a connection, or repeat what was found a moment ago, if it has not been edited since.

        :raises Busy: if as many tests are under way as are allowed at once.
        """
        key = hashlib.sha256(f"{connection.conn_id} {connection.get_uri()}".encode()).hexdigest()
        at, known = self._found.get(key, (0.0, None))
        if known is not None and self._clock() - at < _REMEMBERED:
            return known
        if not self._free.acquire(blocking=False):
            raise Busy("Other connections are being tested. Try again in a moment.")
        try:
            outcome = Outcome(*self._run(connection.conn_id))
        finally:
            self._free.release()
        self._found[key] = self._clock(), outcome
        while len(self._found) > _MOST_REMEMBERED:
            self._found.popitem(last=False)
        return outcome


def unpod_connections(session: Session) -> list[Connection]:
    """The connections of type Unpod in Airflow's database; its own list shows no others either."""
    wanted = select(Connection).where(Connection.conn_type == CONNECTION_TYPE).order_by(Connection.conn_id)
    return list(session.scalars(wanted.limit(MOST_LISTED)))


def unpod_connection(session: Session, conn_id: str) -> Connection | None:
    """One of them."""
    wanted = select(Connection).where(Connection.conn_type == CONNECTION_TYPE, Connection.conn_id == conn_id)
    connection: Connection | None = session.scalar(wanted)
    return connection


def form_token(secret_key: str, user_id: str, conn_id: str) -> str:
    """What the form of a Test button contains, so that no other page can have this user test a connection."""
    return str(_serializer(secret_key).dumps([user_id, conn_id]))


def is_form_token(secret_key: str, token: str, user_id: str, conn_id: str) -> bool:
    """Whether a page made ``token`` for this user and connection, not long ago."""
    try:
        content: Any = _serializer(secret_key).loads(token, max_age=_TOKEN_AGE)
    except BadData:
        return False
    return bool(content == [user_id, conn_id])


def _serializer(secret_key: str) -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(secret_key, salt="airflow_provider_unpod.connection_test")
