"""UnpodInvoiceSensor: waits until invoices reach a status."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    BaseSensorOperator,
    PokeReturnValue,
    conf,
)

from airflow_provider_unpod.billing import errors
from airflow_provider_unpod.billing.arguments import whole_number_of
from airflow_provider_unpod.billing.errors import UnpodError
from airflow_provider_unpod.billing.invoice import KNOWN_STATUSES, PAID, InvoiceId
from airflow_provider_unpod.billing.watching.condition import (
    DEFAULT_FAILURE_STATUSES,
    Condition,
    Decision,
)
from airflow_provider_unpod.sensors.deadline import deadline_of
from airflow_provider_unpod.task_boundary import (
    check_connection_of,
    check_rendered,
    fail_fast,
    given_templates,
    is_final,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_unpod.billing.invoice import Invoice
    from airflow_provider_unpod.billing.watching.poller import InvoicePoller

#: How much later than the trigger Airflow itself gives up a deferred wait, for when no triggerer runs: seconds,
#: and intervals.
_GRACE, _GRACE_INTERVALS = 300.0, 2
#: For what is known only when templates are rendered: they fit whatever the others are.
_STAND_INS: dict[str, Any] = {"invoice_id": 0, "target_status": "not known yet", "failure_statuses": ()}


class UnpodInvoiceSensor(BaseSensorOperator):
    """Waits until invoices reach a status; gives out their records as XCom.

    One id: its record. Several: a list of records in the order given; with ``wait_for="any"`` of those that have
    reached the target. All modes (``mode="poke"``, ``mode="reschedule"``, ``deferrable=True``) give the same answers.
    Outages and rate limits do not end the wait, it goes on until ``timeout``; wrong credentials, a wrong connection
    or an unknown organisation fail the task without retries, a connection that does not exist with them.
    ``soft_fail`` skips the task when time is up, and only then.

    :param invoice_id: an invoice id or number, or several; ``101`` and ``"101"`` are the same, ``"101, 102"`` and
        ``"[101, 102]"`` are two (templated).
    :param target_status: the status to wait for, in any case (templated).
    :param failure_statuses: statuses in which the wait fails, one, several or none, in any case; for ``"all"`` as soon
        as one invoice has one, for ``"any"`` when all have (templated). The target is none of the default's.
    :param wait_for: ``"all"`` or ``"any"`` of the invoices.
    :param on_missing: ``"wait"`` for an invoice that is not in the list to come, or ``"fail"``, after a complete
        reading of the list.
    :param unpod_conn_id: connection of type ``unpod`` (templated).
    :param org_handle: organisation handle in place of the connection's ``login`` (templated).
    :param deferrable: wait in the triggerer; the default is Airflow's ``[operators] default_deferrable``.
    :param max_failures: once deferred: how many looks in a row, of the poll that waits share, may fail for a reason
        that does not pass by itself, before the wait ends with it. More than 1, so that a token can be replaced. The
        first look, which the worker makes, fails at once.

    :raises UnpodConfigError: when the DAG is parsed, for arguments that make no sense. What shows only when templates
        are rendered fails the task, without retries; so does a template, or another task's result, that gives ``None``.
    """

    template_fields: Sequence[str] = (
        "invoice_id",
        "target_status",
        "failure_statuses",
        "unpod_conn_id",
        "org_handle",
    )
    ui_color = "#d6eadf"

    # The state of one run of the task in poke mode; a deferred or rescheduled task starts afresh.
    _poller: InvoicePoller | None = None
    _rows: Mapping[InvoiceId, Invoice] | None = None
    _seen_at: datetime | None = None
    _polls = 0
    _last_failure: UnpodError | None = None

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
        max_failures: int = 5,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.invoice_id = invoice_id
        self.target_status = target_status
        self.failure_statuses = failure_statuses
        self.wait_for = wait_for
        self.on_missing = on_missing
        self.unpod_conn_id = unpod_conn_id
        self.org_handle = org_handle
        self.deferrable = deferrable
        self.max_failures = max_failures
        self._given = given_templates(self)
        self._refuse_nonsense()

    def _refuse_nonsense(self) -> None:
        """What can be seen to be wrong before templates are rendered and other tasks' results are known."""
        whole_number_of(self.max_failures, "max_failures")
        check_connection_of(self)
        final = {name: getattr(self, name) for name in _STAND_INS if is_final(getattr(self, name))}
        Condition.from_arguments(**{**_STAND_INS, **final}, wait_for=self.wait_for, on_missing=self.on_missing)

    # --- the modes

    def execute(self, context: Context) -> Any:
        """Wait in the worker, or look once and defer.

        :raises AirflowFailException: if the invoices cannot reach their status any more, or for what no retry mends.
        :raises AirflowSensorTimeout: if time is up.
        """
        condition = self._condition()
        if condition.target_status not in KNOWN_STATUSES:
            known = ", ".join(sorted(KNOWN_STATUSES))
            self.log.warning("Unpod is not known to have a status %r: it has %s.", condition.target_status, known)
        try:
            if not self.deferrable:
                return self._wait_in_worker(context, condition)
            deadline = deadline_of(self, context)
            decision = self._poll(condition)
            if decision is None or decision.state != "done":
                self._defer(condition, deadline)
            return decision.result
        finally:
            self._stop_polling()

    def _defer(self, condition: Condition, deadline: datetime) -> NoReturn:
        now = datetime.now(timezone.utc)
        if now >= deadline:
            self._time_out(self._report(condition))
        from airflow_provider_unpod.triggers.invoice import UnpodInvoiceTrigger

        self.defer(
            trigger=UnpodInvoiceTrigger(
                invoice_id=condition.invoice_ids[0] if condition.single else list(condition.invoice_ids),
                target_status=condition.target_status,
                failure_statuses=condition.failure_statuses,
                wait_for=condition.wait_for,
                on_missing=condition.on_missing,
                unpod_conn_id=self.unpod_conn_id,
                org_handle=self.org_handle,
                poke_interval=self.poke_interval,
                deadline=deadline.isoformat(),
                max_failures=self.max_failures,
            ),
            method_name="execute_complete",
            timeout=deadline - now + timedelta(seconds=_GRACE + _GRACE_INTERVALS * self.poke_interval),
        )

    def poke(self, context: Context) -> bool | PokeReturnValue:
        """One look; see :meth:`execute` for what it raises."""
        decision = self._poll(self._condition())
        if decision is None or decision.state == "waiting":
            return False
        return PokeReturnValue(True, decision.result)

    def _wait_in_worker(self, context: Context, condition: Condition) -> Any:
        try:
            return super().execute(context)
        except AirflowSensorTimeout as error:
            raise AirflowSensorTimeout(f"{self._report(condition)} {error}") from None
        except AirflowSkipException as skip:
            # Airflow's own soft_fail skips on every AirflowFailException: a wrong token would look like a late payment.
            if self.soft_fail and isinstance(skip.__cause__, AirflowFailException):
                raise skip.__cause__ from skip.__cause__.__cause__
            if skip.__cause__ is None or isinstance(skip.__cause__, AirflowSensorTimeout):
                raise AirflowSkipException(f"{self._report(condition)} {skip}") from None
            raise

    def execute_complete(self, context: Context, event: Mapping[str, Any] | None = None) -> Any:
        """Take what the trigger saw; see :meth:`execute` for what it raises."""
        state = event.get("state") if event else None
        if event and state == "done":
            self.log.info("The wait is over: the target %r is reached.", self.target_status)
            return event["result"]
        if event and state == "timeout":
            self._time_out(str(event["message"]))
        if event and state == "failed":
            raise AirflowFailException(str(event["message"]))
        if event and state == "error":
            kind = getattr(errors, str(event["error"]), UnpodError)
            with fail_fast():
                raise kind(str(event["message"]), status=event.get("status"))
        raise AirflowException(f"The trigger gave an event that makes no sense here: {event!r}")

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Called by Airflow when a deferred task goes on."""
        try:
            if next_method == "__fail__" and "timeout" in str((next_kwargs or {}).get("error")).lower():
                return self._last_poll()
            # Not the sensor base class's: with soft_fail it turns every error into a skip.
            return super(BaseSensorOperator, self).resume_execution(next_method, next_kwargs, context)
        except AirflowSkipException:
            raise
        except Exception as error:
            if self.never_fail:
                raise AirflowSkipException("Skipping because never_fail is set.") from error
            raise

    def _last_poll(self) -> Any:
        """Airflow gave the wait up, not its trigger: no triggerer has run for a while."""
        condition = self._condition()
        try:
            decision = self._poll(condition)
        finally:
            self._stop_polling()
        if decision is None or decision.state != "done":
            self._time_out(f"{self._report(condition)} No triggerer took care of it in time.")
        return decision.result

    def _time_out(self, message: str) -> NoReturn:
        text = f"Time is up after {self.timeout:g} s: {message}"
        if self.soft_fail or self.never_fail:
            raise AirflowSkipException(text)
        raise AirflowSensorTimeout(text)

    # --- looking

    def _condition(self) -> Condition:
        for name in _STAND_INS:
            # What can be gone through only once is asked for at every look.
            if isinstance(value := getattr(self, name), Iterator):
                setattr(self, name, list(value))
        with fail_fast():
            check_rendered(self, self._given)
            return Condition.from_arguments(
                self.invoice_id, self.target_status, self.failure_statuses, self.wait_for, self.on_missing
            )

    def _poll(self, condition: Condition) -> Decision | None:
        """What a look means, ``None`` if it could not be made because of something that passes."""
        from airflow_provider_unpod.billing.watching.tracker import TRANSIENT

        self._polls += 1
        try:
            with fail_fast():
                rows = self._read(condition)
        except TRANSIENT as error:
            if type(error) is not type(self._last_failure):
                self.log.warning("Looking at the invoices failed, and is tried again: %s", error)
            self._last_failure = error
            return None
        self._rows, self._seen_at, self._last_failure = rows, datetime.now(timezone.utc), None
        decision = condition.decide(rows)
        if decision.state == "failed":
            raise AirflowFailException(self._report(condition))
        self.log.info("%s", self._report(condition))
        return decision

    def _read(self, condition: Condition) -> Mapping[InvoiceId, Invoice]:
        if self._poller is None:
            from airflow_provider_unpod.billing.http.retry import POLL_RETRY
            from airflow_provider_unpod.billing.watching.poller import InvoicePoller
            from airflow_provider_unpod.hooks.unpod import UnpodHook

            client = UnpodHook(self.unpod_conn_id, self.org_handle, POLL_RETRY).get_conn()
            self._poller = InvoicePoller(client, condition)
        return self._poller.poll()

    def _stop_polling(self) -> None:
        if self._poller is not None:
            self._poller.close()
            self._poller = None

    def _report(self, condition: Condition) -> str:
        return condition.report(self._rows, self._seen_at, self._polls, failure=self._last_failure)
