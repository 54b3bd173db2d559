"""UnpodInvoiceSensor: waits until invoices reach a status."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    BaseSensorOperator,
    PokeReturnValue,
    conf,
)

from airflow_provider_unpod.billing import errors
from airflow_provider_unpod.billing.arguments import whole_number_of
from airflow_provider_unpod.billing.errors import UnpodConfigError, UnpodError
from airflow_provider_unpod.billing.invoice import KNOWN_STATUSES, PAID, InvoiceId
from airflow_provider_unpod.billing.watching.condition import (
    DEFAULT_FAILURE_STATUSES,
    DEFAULT_MAX_FAILURES,
    Condition,
    Decision,
)
from airflow_provider_unpod.links import PAGE_LINKS
from airflow_provider_unpod.sensors.deadline import deadline_of, ended_by_execution_timeout
from airflow_provider_unpod.sensors.poll_state import PollState
from airflow_provider_unpod.task_boundary import (
    CONNECTION,
    check_arguments,
    check_rendered,
    fail_fast,
    is_final,
    materialized,
    storable,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_unpod.billing.arguments import Check
    from airflow_provider_unpod.billing.client import UnpodClient
    from airflow_provider_unpod.billing.watching.poller import InvoicePoller

#: Airflow itself ends a deferred wait if no triggerer runs, this much later than the trigger: seconds, and intervals.
_GRACE, _GRACE_INTERVALS = 300.0, 2
#: Shortest pause in seconds. A task that is rescheduled sooner may be queued again before Airflow recorded its end.
_SHORTEST_RESCHEDULE = 15.0
_ARGUMENTS: Mapping[str, Check] = {**CONNECTION, "max_failures": whole_number_of}
#: Placeholders for arguments that are not known until templates are rendered. They are valid in any combination.
_STAND_INS: dict[str, Any] = {"invoice_id": 0, "target_status": "not known yet", "failure_statuses": ()}


class UnpodInvoiceSensor(BaseSensorOperator):
    """Waits until invoices reach a status, and returns their records as XCom.

    The XCom is one record for one id, and a list of records for several, in the given order. With ``wait_for="any"``,
    the list has the invoices that have reached the target. All modes return the same: poke, reschedule and deferrable.

    Timeouts, rate limits and server errors do not end the wait, which continues until ``timeout``. A wrong token, an
    invalid connection or an unknown organization fails the task without retries. A missing connection or an
    unreachable address fails it with retries. ``soft_fail`` skips the task only if ``timeout`` ends the wait.

    :param invoice_id: an invoice id or number, or several. ``101`` and ``"101"`` are the same id. ``"101, 102"`` and
        ``"[101, 102]"`` are two ids (templated).
    :param target_status: status to wait for, ignoring case. Default: ``"paid"`` (templated).
    :param failure_statuses: statuses that end the wait as failed, ignoring case: one, several or ``[]``. Default:
        ``cancelled``, ``failed`` and ``refunded``, without the target. With ``wait_for="all"``, the wait fails if one
        invoice has such a status; with ``"any"``, if all have one (templated).
    :param wait_for: ``"all"`` (default) or ``"any"`` of the invoices.
    :param on_missing: ``"wait"`` (default) for an invoice that does not exist yet, or ``"fail"`` as soon as a complete
        read of the list proves that it does not exist.
    :param unpod_conn_id: id of a connection of type ``unpod``. Default: ``unpod_default`` (templated).
    :param org_handle: organization handle. Default: the ``login`` of the connection (templated).
    :param deferrable: whether to wait in the triggerer. Default: Airflow's ``[operators] default_deferrable``.
    :param max_failures: number of polls in a row that may find the address unreachable (unknown host, untrusted
        certificate) before the wait fails; at least 1, default 5. While deferred, all errors that are not transient
        count, so that a wrong token can be replaced during the wait.

    :raises UnpodConfigError: when the DAG is parsed, if an argument is invalid. If a template renders to an invalid
        value or to ``None``, the task fails without retries.
    """

    template_fields: Sequence[str] = (
        "invoice_id",
        "target_status",
        "failure_statuses",
        "unpod_conn_id",
        "org_handle",
    )
    ui_color = "#d6eadf"
    operator_extra_links = PAGE_LINKS

    #: Created in each run of the task. A task that was deferred or rescheduled starts with a new one.
    _poller: InvoicePoller | None = None
    _state: PollState

    def __init__(
        self,
        *,
        invoice_id: InvoiceId | Iterable[InvoiceId],
        target_status: str = PAID,
        failure_statuses: Iterable[str] = DEFAULT_FAILURE_STATUSES,
        wait_for: str = "all",
        on_missing: str = "wait",
        unpod_conn_id: str = "unpod_default",
        org_handle: str | None = None,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        max_failures: int = DEFAULT_MAX_FAILURES,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.invoice_id = materialized(invoice_id)
        self.target_status = target_status
        self.failure_statuses = materialized(failure_statuses)
        self.wait_for = wait_for
        self.on_missing = on_missing
        self.unpod_conn_id = unpod_conn_id
        self.org_handle = org_handle
        self.deferrable = deferrable
        self.max_failures = max_failures
        self._given = check_arguments(self, _ARGUMENTS)
        self._check_combinations()

    def _check_combinations(self) -> None:
        """Check the arguments that are known when the DAG is parsed."""
        if self.deferrable and self.exponential_backoff:
            raise UnpodConfigError(
                "`exponential_backoff` must be False with `deferrable=True`, because deferred waits share one poll "
                "with a fixed `poke_interval`. Omit it, or pass deferrable=False."
            )
        final = {name: getattr(self, name) for name in _STAND_INS if is_final(getattr(self, name))}
        Condition.from_arguments(**{**_STAND_INS, **final}, wait_for=self.wait_for, on_missing=self.on_missing)

    # --- the modes

    def execute(self, context: Context) -> Any:
        """Wait in the worker, or poll once and defer.

        :raises AirflowFailException: if the invoices can no longer reach the status, and for permanent errors.
        :raises AirflowSensorTimeout: if ``timeout`` has passed.
        :raises UnpodError: for other errors that end the wait.
        """
        with fail_fast():
            condition = self._start(context, patient=not self.deferrable)
            if condition.target_status not in KNOWN_STATUSES:
                known = ", ".join(sorted(KNOWN_STATUSES))
                self.log.warning("%r is not a known status of Unpod (%s).", condition.target_status, known)
            try:
                if not self.deferrable:
                    return self._wait_in_worker(context)
                deadline = deadline_of(self, context)
                decision = self._poll(last=datetime.now(timezone.utc) >= deadline)
                if decision is None or decision.state != "done":
                    self._defer(condition, deadline)
                return decision.result
            finally:
                self._stop()

    def _defer(self, condition: Condition, deadline: datetime) -> NoReturn:
        assert self._poller is not None
        now = datetime.now(timezone.utc)
        if now >= deadline:
            self._time_out_here()
        from airflow_provider_unpod.triggers.invoice import UnpodInvoiceTrigger

        shared = find_spec("airflow.triggers.shared_stream") is not None  # from Airflow 3.3 on
        self.log.info(
            "Deferred until %s at the latest: the triggerer polls every %g s, %s.",
            f"{deadline:%Y-%m-%d %H:%M:%S} UTC",
            self.poke_interval,
            "in one poll for all waits with this connection, organization and interval"
            if shared
            else "in one poll for each wait (from Airflow 3.3 on, waits share polls)",
        )
        self.defer(
            trigger=UnpodInvoiceTrigger(
                **condition.as_arguments(),
                unpod_conn_id=self.unpod_conn_id,
                org_handle=self.org_handle,
                poke_interval=self.poke_interval,
                deadline=deadline.isoformat(),
                max_failures=self.max_failures,
                failures=self._poller.failures,
            ),
            method_name="execute_complete",
            timeout=deadline - now + timedelta(seconds=_GRACE + _GRACE_INTERVALS * self.poke_interval),
        )

    def poke(self, context: Context) -> bool | PokeReturnValue:
        """Poll once; see :meth:`execute` for what it raises."""
        if self._poller is None:
            self._start(context)
        decision = self._poll()
        if decision is None or decision.state == "waiting":
            return False
        return PokeReturnValue(True, decision.result)

    def _wait_in_worker(self, context: Context) -> Any:
        # Airflow says how often the task was rescheduled, so that the warning comes once and not with every poll.
        if self.reschedule and self.poke_interval < _SHORTEST_RESCHEDULE and context.get("task_reschedule_count") == 0:
            self.log.warning(
                "`poke_interval` should be at least %g s in reschedule mode, got %g: with shorter intervals, Airflow "
                "may treat the task as killed and fail it.",
                _SHORTEST_RESCHEDULE,
                self.poke_interval,
            )
        try:
            return super().execute(context)
        except AirflowSensorTimeout as error:
            if (decision := self._poll_at_the_end()) is not None:
                return decision.result
            self._check_reachable()
            raise AirflowSensorTimeout(f"{self._report()} {error}") from None
        except AirflowSkipException as skip:
            # Airflow's soft_fail skips on every AirflowFailException, so a wrong token would look like a late payment.
            if self.soft_fail and isinstance(skip.__cause__, AirflowFailException):
                raise skip.__cause__ from None
            timed_out = skip.__cause__ is None or isinstance(skip.__cause__, AirflowSensorTimeout)
            if timed_out and (decision := self._poll_at_the_end()) is not None:
                return decision.result
            self._check_reachable()
            if timed_out:
                raise AirflowSkipException(f"{self._report()} {skip}") from None
            raise

    def execute_complete(self, context: Context, event: Mapping[str, Any] | None = None) -> Any:
        """Return the result that the trigger reported, or raise its error. See :meth:`execute` for the errors."""
        state = event.get("state") if event else None
        if event and state == "done":
            self.log.info("The wait is done: the invoices reached %r.", self.target_status)
            return event["result"]
        if event and state == "timeout":
            if event.get("incomplete"):
                return self._last_poll(context, timed_out=True)
            self._time_out(str(event["message"]))
        if event and state == "failed":
            raise AirflowFailException(str(event["message"]))
        if event and state == "error":
            kind = getattr(errors, str(event["error"]), UnpodError)
            with fail_fast():
                raise kind(str(event["message"]), status=event.get("status"))
        raise AirflowException(f"The trigger's event is invalid: {event!r}")

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Airflow calls this when a deferred task resumes."""
        try:
            with fail_fast():
                if next_method == "__fail__" and "timeout" in str((next_kwargs or {}).get("error")).lower():
                    return self._last_poll(context)
                # Bypasses the method of the sensor base class, which turns every error into a skip with soft_fail.
                return super(BaseSensorOperator, self).resume_execution(next_method, next_kwargs, context)
        except AirflowSkipException:
            raise
        except Exception as error:
            if self.never_fail:
                raise AirflowSkipException("Skipping because never_fail is set.") from error
            raise

    def _poll_at_the_end(self) -> Decision | None:
        """Poll once more before the wait times out, if that may help. Return the decision if the wait is done."""
        assert self._poller is not None
        decision = self._poll(last=True) if self._poller.may_find_more else None
        return decision if decision is not None and decision.state == "done" else None

    def _last_poll(self, context: Context, *, timed_out: bool = False) -> Any:
        """Poll once more after the deferral has ended.

        :param timed_out: whether the trigger ended the wait. Otherwise Airflow itself ended the deferral.
        """
        self._start(context)
        try:
            decision = self._poll(last=True)
        finally:
            self._stop()
        if decision is not None and decision.state == "done":
            return decision.result
        if timed_out:
            self._time_out_here()
        if not ended_by_execution_timeout(self, context):
            self._time_out_here("The trigger did not end the wait in time. Check that a triggerer is running.")
        self._check_reachable()
        limit = self.execution_timeout or timedelta()
        text = (
            f"`execution_timeout` ({limit.total_seconds():g} s) ended the wait before its `timeout` "
            f"({self.timeout:g} s): {self._report()}"
        )
        if self.soft_fail or self.never_fail:
            raise AirflowSkipException(text)
        raise AirflowTaskTimeout(text)

    def _time_out_here(self, remark: str = "") -> NoReturn:
        self._check_reachable()
        self._time_out(f"{self._report()} {remark}".rstrip())

    def _time_out(self, message: str) -> NoReturn:
        text = f"`timeout` of {self.timeout:g} s has passed: {message}"
        if self.soft_fail or self.never_fail:
            raise AirflowSkipException(text)
        raise AirflowSensorTimeout(text)

    # --- polling

    def _start(self, context: Context, *, patient: bool = True) -> Condition:
        """Check the rendered arguments and create the poller of this run.

        :param patient: whether polls may wait for the rate limit.
        """
        from airflow_provider_unpod.billing.watching.poller import InvoicePoller

        with fail_fast():
            check_rendered(self, self._given, _ARGUMENTS)
            condition = Condition.from_arguments(
                self.invoice_id, self.target_status, self.failure_statuses, self.wait_for, self.on_missing
            )
        self._state = PollState(self, context)
        self._poller = InvoicePoller(condition, partial(self._connect, patient), self._state.most_failures)
        self._poller.continue_from(*self._state.load())
        return condition

    def _connect(self, patient: bool) -> UnpodClient:
        from airflow_provider_unpod.billing.http.retry import FIRST_POLL_RETRY, POLL_RETRY
        from airflow_provider_unpod.hooks.unpod import UnpodHook

        retry = POLL_RETRY if patient else FIRST_POLL_RETRY
        return UnpodHook(self.unpod_conn_id, self.org_handle, retry).get_conn()

    def _poll(self, *, last: bool = False) -> Decision | None:
        """Poll once and return the decision. ``None`` if the poll failed and the wait continues."""
        assert self._poller is not None
        with fail_fast():
            decision = self._poller.poll(last=last)
        self._state.store(self._poller)
        if decision is None:
            return None
        if decision.state == "failed":
            raise AirflowFailException(self._report())
        self.log.info("%s", self._report())
        return Decision(decision.state, storable(decision.result))

    def _check_reachable(self) -> None:
        """Raise an error instead of a timeout if the API is unreachable: it must not look like a late payment."""
        if self._poller is not None and not self.never_fail:
            self._poller.check_reachable()

    def _stop(self) -> None:
        if self._poller is not None:
            self._poller.close()

    def _report(self) -> str:
        assert self._poller is not None
        return self._poller.report()
