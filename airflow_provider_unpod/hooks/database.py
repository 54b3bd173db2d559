"""Finds the database hook of an Airflow connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_unpod.billing.errors import UnpodConfigError

if TYPE_CHECKING:
    from collections.abc import Collection

    from airflow.providers.common.sql.hooks.sql import DbApiHook


def sql_hook_of(conn_id: str, only: Collection[str] | None = None) -> tuple[str, DbApiHook]:
    """Return the type of a connection and its DB-API hook.

    :param only: accepted connection types. ``None`` accepts every database that Airflow has a hook for.
    :raises UnpodConfigError: if the connection has another type, or the provider for its type is not installed.
    :raises AirflowNotFoundException: if the connection does not exist.
    """
    from airflow.providers.common.compat.sdk import AirflowException, BaseHook

    try:
        from airflow.providers.common.sql.hooks.sql import DbApiHook
    except ImportError:
        raise UnpodConfigError(
            "Databases need a library that is not installed: pip install 'airflow-provider-unpod[sql]'."
        ) from None
    connection = BaseHook.get_connection(conn_id)
    kind = str(connection.conn_type)
    if only is not None and kind not in only:
        raise UnpodConfigError(
            f"`sql_conn_id` must be a connection of type {' or '.join(only)}, got {conn_id!r} of type {kind!r}."
        )
    try:
        hook: Any = connection.get_hook()  # type: ignore[no-untyped-call]  # Airflow's own
    except AirflowException:
        hook = None
    if not isinstance(hook, DbApiHook):
        raise UnpodConfigError(
            f"`sql_conn_id` {conn_id!r} is of type {kind!r}, for which no database hook is installed. "
            f"Install apache-airflow-providers-{kind}, or correct the connection's type."
        )
    return kind, hook
