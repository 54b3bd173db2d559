"""The page "Unpod Billing", an application inside Airflow's API server. It is imported at the first request.

Rights are Airflow's: everybody must be signed in, and each route asks the auth manager what this user may read. Nothing
that a request contains is ever opened: addresses come from :mod:`airflow_provider_unpod.web.listed` alone.
"""

from __future__ import annotations

import logging
import threading
from functools import cache, partial
from typing import Annotated, Any
from urllib.parse import quote
from uuid import UUID

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import ConnectionDetails, DagAccessEntity, DagDetails
from airflow.api_fastapi.common.db.common import SessionDep
from airflow.api_fastapi.core_api.security import (
    GetUserDep,
    requires_access_connection,
    requires_access_dag,
    requires_authenticated,
)
from airflow.models import Connection
from airflow.models.dag import DagModel
from airflow.providers.common.compat.sdk import AirflowNotFoundException, conf, redact
from fastapi import Depends, FastAPI, Form, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from airflow_provider_unpod.billing.errors import UnpodError
from airflow_provider_unpod.export.errors import ExportError
from airflow_provider_unpod.export.reader import read_report
from airflow_provider_unpod.links import TITLE
from airflow_provider_unpod.web.connections import (
    Busy,
    ConnectionTests,
    form_token,
    is_form_token,
    unpod_connection,
    unpod_connections,
)
from airflow_provider_unpod.web.listed import MOST_DAGS, MOST_LISTED, Exports, ListedExport, replaced_among
from airflow_provider_unpod.web.rendering import REPORT_STYLE_HASHES, hash_of, render, source

log = logging.getLogger(__name__)

#: Most reports to read at the same time. A store that does not respond must not occupy all threads of the API server.
_MOST_READ_AT_ONCE = 2
_COMMON_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
#: A report is sent unchanged, so this policy must make even a forged one harmless: no scripts, requests, forms or links
#: to other sites, and no style sheet of its own.
_REPORT_POLICY = (
    f"default-src 'none'; style-src {' '.join(map(repr, REPORT_STYLE_HASHES))}; "
    "frame-ancestors 'self'; base-uri 'none'; sandbox"
)

ReadsXComs = Depends(requires_access_dag("GET", DagAccessEntity.XCOM))


@cache
def application() -> FastAPI:
    """Return the application. It is created once."""
    return create_app()


def create_app() -> FastAPI:
    """Create the application, without the public pages that describe its routes."""
    app = FastAPI(
        title=TITLE,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,  # the target of such a redirect would be the Host that the request claims
        dependencies=[Depends(requires_authenticated())],
    )
    app.add_exception_handler(StarletteHTTPException, _error_page)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    exports, tests = Exports(), ConnectionTests(_test_connection)
    _add_page(app, exports, tests)
    _add_reports(app, exports)
    return app


def _add_page(app: FastAPI, exports: Exports, tests: ConnectionTests) -> None:
    def page_of(request: Request, user: Any, session: Any, **more: Any) -> Response:
        may_test = _may_test(user)
        connections = [one for one in unpod_connections(session) if _may_read_connection(user, one.conn_id)]
        listed = exports.newest(session, lambda dag_id: _may_read_xcoms(user, dag_id))
        key, user_id = conf.get("api", "secret_key"), str(user.get_id())
        return _html(
            request,
            "page.html",
            connections=connections,
            test_tokens={one.conn_id: form_token(key, user_id, one.conn_id) for one in connections} if may_test else {},
            exports=listed,
            replaced=replaced_among(listed),
            most_exports=MOST_LISTED,
            most_dags=MOST_DAGS,
            **{"tested": None, "outcome": None, **more},
        )

    @app.get("/page")
    def page(request: Request, user: GetUserDep, session: SessionDep) -> Response:
        return page_of(request, user, session)

    @app.post("/connections/{connection_id:path}/test", dependencies=[Depends(requires_access_connection("GET"))])
    def test(
        request: Request, connection_id: str, user: GetUserDep, session: SessionDep, token: Annotated[str, Form()] = ""
    ) -> Response:
        _require_own_form(request, token, str(user.get_id()), connection_id)
        if not _may_test(user):
            raise HTTPException(403, "You may not test connections, or [core] test_connection is not Enabled.")
        connection = unpod_connection(session, connection_id)
        if connection is None:
            raise HTTPException(404, "This connection of type Unpod does not exist.")
        session.close()  # the API may be slow, and the pool of connections is small
        try:
            outcome = tests.outcome(connection)
        except Busy as busy:
            raise HTTPException(503, str(busy)) from None
        return page_of(request, user, session, tested=connection_id, outcome=outcome)

    @app.get("/connections/{connection_id:path}/test")
    def tested(request: Request, connection_id: str) -> Response:
        # If the browser reloads the frame, it requests the URL of the submitted form.
        return RedirectResponse(_url_of(request, "page"), 303, _COMMON_HEADERS)


def _add_reports(app: FastAPI, exports: Exports) -> None:
    free = threading.BoundedSemaphore(_MOST_READ_AT_ONCE)

    def listed(session: Any, dag_id: str, ti_id: UUID) -> ListedExport:
        found = exports.one(session, dag_id, str(ti_id))
        if found is None or found.summary.report is None:
            raise HTTPException(404, "This export does not exist, or has no report. Its task may have been cleared.")
        return found

    @app.get("/dags/{dag_id}/reports/{ti_id}", dependencies=[ReadsXComs])
    def report(request: Request, dag_id: str, ti_id: UUID, session: SessionDep) -> Response:
        return _html(request, "shown.html", export=listed(session, dag_id, ti_id))

    @app.get("/dags/{dag_id}/reports/{ti_id}/file", dependencies=[ReadsXComs])
    def file(dag_id: str, ti_id: UUID, session: SessionDep) -> Response:
        export = listed(session, dag_id, ti_id)
        session.close()  # a store may be slow, and the pool of connections is small
        if not free.acquire(blocking=False):
            raise HTTPException(503, "Other reports are being read. Try again in a few seconds.")
        try:
            content = _content_of(export)
        finally:
            free.release()
        headers = {**_COMMON_HEADERS, "Content-Security-Policy": _REPORT_POLICY}
        return Response(content, media_type="text/html; charset=utf-8", headers=headers)


def _content_of(export: ListedExport) -> bytes:
    """Return the verified bytes of the report.

    :raises HTTPException: if the report cannot be shown. It says why.
    """
    summary = export.summary
    try:
        content = read_report(
            summary.manifest,
            summary.storage_conn_id,
            export_id=summary.export_id,
            manifest_sha256=summary.manifest_sha256,
            run=export.run,
        )
    except (UnpodError, AirflowNotFoundException) as error:
        raise HTTPException(404, _why_not_shown(summary.manifest, error)) from None
    if content is None:
        raise HTTPException(404, "This export has no report.")
    return content


def _why_not_shown(address: str, error: Exception) -> str:
    text = str(redact(str(error)))
    if address.startswith("file:") and isinstance(error, ExportError):
        return (
            f"The API server cannot show this report. {text} The export is in a local folder, which may be on the disk "
            "of the worker. Export to a store, or to a disk that workers and API server share, to see reports here."
        )
    return f"The API server cannot show this report. {text}"


def _may_read_connection(user: Any, conn_id: str) -> bool:
    details = ConnectionDetails(conn_id=conn_id, team_name=Connection.get_team_name(conn_id))
    return bool(get_auth_manager().is_authorized_connection(method="GET", details=details, user=user))


def _may_test(user: Any) -> bool:
    """Return whether the user may test connections: tests are enabled, and the user may create connections."""
    if conf.get("core", "test_connection", fallback="Disabled").lower().strip() != "enabled":
        return False
    return bool(get_auth_manager().is_authorized_connection(method="POST", details=ConnectionDetails(), user=user))


def _may_read_xcoms(user: Any, dag_id: str) -> bool:
    details = DagDetails(id=dag_id, team_name=DagModel.get_team_name(dag_id))
    return bool(
        get_auth_manager().is_authorized_dag(
            method="GET", access_entity=DagAccessEntity.XCOM, details=details, user=user
        )
    )


def _require_own_form(request: Request, token: str, user_id: str, conn_id: str) -> None:
    """Refuse a form that another site, or another page of this server, submits for the user."""
    if request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
        raise HTTPException(403, "Test connections from the page itself.")
    if not is_form_token(conf.get("api", "secret_key"), token, user_id, conn_id):
        raise HTTPException(
            403, "Reload the page and click Test again: this form has expired, or belongs to another user."
        )


def _test_connection(conn_id: str) -> tuple[bool, str]:
    from airflow_provider_unpod.hooks.unpod import UnpodHook

    works, message = UnpodHook(conn_id).test_connection()
    return works, str(redact(message))


async def _error_page(request: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)
    detail = error.detail if isinstance(error.detail, str) else "The request is invalid."
    hint = "Sign in to Airflow, then reload this page." if error.status_code == 401 else detail
    response = _html(request, "error.html", status=error.status_code, code=error.status_code, hint=hint)
    response.headers.update(error.headers or {})
    return response


async def _invalid_request(request: Request, error: Exception) -> Response:
    # FastAPI's own response would repeat the request, as JSON.
    return await _error_page(request, StarletteHTTPException(422, "The address or the form is invalid."))


def _html(request: Request, template: str, *, status: int = 200, **content: Any) -> Response:
    style, script = source("page.css"), source("page.js")
    html = render(
        template,
        style=style,
        script=script,
        title=TITLE,
        url_of=partial(_url_of, request),
        **content,
    )
    policy = (
        f"default-src 'none'; style-src '{hash_of(style)}'; script-src '{hash_of(script)}'; frame-src 'self'; "
        "form-action 'self'; frame-ancestors 'self'; base-uri 'none'"
    )
    headers = {**_COMMON_HEADERS, "Content-Security-Policy": policy}
    return Response(html, status, headers, media_type="text/html; charset=utf-8")


def _url_of(request: Request, name: str, **parameters: object) -> str:
    """Return the URL of a route, with the path of ``[api] base_url``, so that links work behind a proxy."""
    quoted = {key: quote(str(value), safe="") for key, value in parameters.items()}
    return str(request.scope.get("root_path", "")) + str(request.app.url_path_for(name, **quoted))
