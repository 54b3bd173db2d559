"""An auth manager with one more user, who may read some connections and some DAGs, as Airflow's FAB roles allow."""

from __future__ import annotations

from typing import Any

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager

CONNECTION, DAG = "unpod_saved", "page_first"


class PartialAuthManager(SimpleAuthManager):
    """Everybody has the rights of Airflow's simple auth manager, except for the user ``partial``."""

    def is_authorized_connection(self, *, user: Any, details: Any = None, **asked: Any) -> bool:
        other = user.username == "partial" and details is not None and details.conn_id not in (None, CONNECTION)
        return not other and super().is_authorized_connection(user=user, details=details, **asked)

    def is_authorized_dag(self, *, user: Any, access_entity: Any = None, details: Any = None, **asked: Any) -> bool:
        of_other = details is None or details.id != DAG
        other = user.username == "partial" and access_entity == DagAccessEntity.XCOM and of_other
        return not other and super().is_authorized_dag(user=user, access_entity=access_entity, details=details, **asked)
