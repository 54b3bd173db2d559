"""Lists the connections for the page, and tests them. Tests are limited, and results are reused for a short time."""

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
#: Most tests at the same time in this process. Each occupies a thread of the API server until its timeout.
_MOST_AT_ONCE = 2
#: Seconds for which a result is reused.
_REMEMBERED = 10.0
_MOST_REMEMBERED = 100
#: Seconds for which the Test buttons of a page are valid.
_TOKEN_AGE = 24 * 3600


class Busy(Exception):
    """Too many tests are running."""


@dataclass(frozen=True)
class Outcome:
    """The result of a connection test."""

    works: bool
    message: str


class ConnectionTests:
    """Tests connections. It limits the number of tests at the same time, and reuses recent results.

    :param run: function that tests a connection by its id. It returns whether the connection works, and a message.
    """

    def __init__(self, run: Callable[[str], tuple[bool, str]], clock: Callable[[], float] = time.monotonic) -> None:
        self._run = run
        self._clock = clock
        self._free = threading.BoundedSemaphore(_MOST_AT_ONCE)
        self._found: OrderedDict[str, tuple[float, Outcome]] = OrderedDict()

    def outcome(self, connection: Connection) -> Outcome:
        """Test a connection, or return the recent result if the connection has not been edited since.

        :raises Busy: if too many tests are running.
        """
        key = hashlib.sha256(f"{connection.conn_id} {connection.get_uri()}".encode()).hexdigest()
        at, known = self._found.get(key, (0.0, None))
        if known is not None and self._clock() - at < _REMEMBERED:
            return known
        if not self._free.acquire(blocking=False):
            raise Busy("Other connections are being tested. Try again in a few seconds.")
        try:
            outcome = Outcome(*self._run(connection.conn_id))
        finally:
            self._free.release()
        self._found[key] = self._clock(), outcome
        while len(self._found) > _MOST_REMEMBERED:
            self._found.popitem(last=False)
        return outcome


def unpod_connections(session: Session) -> list[Connection]:
    """Return the connections of type Unpod in Airflow's database. Airflow's own list has no others either."""
    wanted = select(Connection).where(Connection.conn_type == CONNECTION_TYPE).order_by(Connection.conn_id)
    return list(session.scalars(wanted.limit(MOST_LISTED)))


def unpod_connection(session: Session, conn_id: str) -> Connection | None:
    """Return one connection of type Unpod. ``None`` if it does not exist."""
    wanted = select(Connection).where(Connection.conn_type == CONNECTION_TYPE, Connection.conn_id == conn_id)
    connection: Connection | None = session.scalar(wanted)
    return connection


def form_token(secret_key: str, user_id: str, conn_id: str) -> str:
    """Return the token for the form of a Test button, so that other sites cannot start a test for this user."""
    return str(_serializer(secret_key).dumps([user_id, conn_id]))


def is_form_token(secret_key: str, token: str, user_id: str, conn_id: str) -> bool:
    """Return whether ``token`` was recently created for this user and connection."""
    try:
        content: Any = _serializer(secret_key).loads(token, max_age=_TOKEN_AGE)
    except BadData:
        return False
    return bool(content == [user_id, conn_id])


def _serializer(secret_key: str) -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(secret_key, salt="airflow_provider_unpod.connection_test")
