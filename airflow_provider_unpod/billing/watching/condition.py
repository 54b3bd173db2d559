"""The condition of a wait, and the decision that follows from the invoices of one poll.

:meth:`Condition.decide` decides for the first poll in the worker and for poke, reschedule and deferrable mode. Modes
cannot disagree, because there is no other decision.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from airflow_provider_unpod.billing.arguments import choice_of, invoice_ids_of, statuses_of, unrendered
from airflow_provider_unpod.billing.errors import UnpodBadAnswer, UnpodConfigError, UnpodError, short_repr
from airflow_provider_unpod.billing.invoice import CANCELLED, FAILED, PAID, REFUNDED, Invoice, InvoiceId

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

#: The target status is removed from these automatically. Keep sorted, like the result of `statuses_of`.
DEFAULT_FAILURE_STATUSES = (CANCELLED, FAILED, REFUNDED)

#: Number of polls in a row that may find the API unreachable before the wait fails.
DEFAULT_MAX_FAILURES = 5

#: Most invoices described one by one in a message. The rest is counted.
_DESCRIBED = 5

State: TypeAlias = Literal["done", "failed", "waiting"]
#: First words of a report.
_LEADS: dict[State, str] = {
    "waiting": "Waiting for {}: ",
    "failed": "Waiting for {} has failed: ",
    "done": "{} is reached: ",
}


@dataclass(frozen=True, slots=True)
class Decision:
    """The outcome of a poll for a wait. If the state is ``"done"``, ``result`` is the return value of the wait."""

    state: State
    result: dict[str, Any] | list[dict[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class Condition:
    """Invoices and the status that they must reach. Create it with :meth:`from_arguments`, which checks its values.

    :ivar target_status: the status to reach, as in ``Invoice.status_key``.
    :ivar failure_statuses: statuses that end the wait as failed, in the same form.
    :ivar single: whether one id was given instead of a list. The result is then one record.
    :ivar keys: the :func:`~airflow_provider_unpod.billing.invoice.match_key` of each id, in the same order.
    """

    invoice_ids: tuple[InvoiceId, ...]
    target_status: str = PAID
    failure_statuses: tuple[str, ...] = DEFAULT_FAILURE_STATUSES
    wait_for: str = "all"
    on_missing: str = "wait"
    single: bool = False
    keys: tuple[InvoiceId, ...] = ()

    @classmethod
    def from_arguments(
        cls,
        invoice_id: InvoiceId | Iterable[InvoiceId],
        target_status: str = PAID,
        failure_statuses: str | Iterable[str] = DEFAULT_FAILURE_STATUSES,
        wait_for: str = "all",
        on_missing: str = "wait",
    ) -> Condition:
        """Check the arguments of a sensor or a trigger.

        :raises UnpodConfigError: if an argument is invalid. The message says what to pass instead.
        """
        given = unrendered(invoice_id, "invoice_id")
        single = isinstance(given, (int, str))
        by_key = invoice_ids_of(given, "invoice_id")
        target, failures = _target_and_failures(target_status, failure_statuses)
        choice_of(wait_for, "wait_for", ("all", "any"))
        choice_of(on_missing, "on_missing", ("wait", "fail"))
        return cls(tuple(by_key.values()), target, failures, wait_for, on_missing, single, tuple(by_key))

    def as_arguments(self) -> dict[str, Any]:
        """Return the arguments with which :meth:`from_arguments` creates an equal condition, as JSON values."""
        return {
            "invoice_id": self.invoice_ids[0] if self.single else list(self.invoice_ids),
            "target_status": self.target_status,
            "failure_statuses": list(self.failure_statuses),
            "wait_for": self.wait_for,
            "on_missing": self.on_missing,
        }

    def decide(self, rows: Mapping[InvoiceId, Invoice]) -> Decision:
        """Decide whether the wait is done, failed or still waiting.

        :param rows: the invoices that the poll found, by key. With ``on_missing="fail"``, a complete read of the list
            must have proved that the others do not exist.
        :raises UnpodBadAnswer: if the wait is done and a row cannot be converted to a record.
        """
        seen = [rows.get(key) for key in self.keys]
        state = self._state(seen)
        if state != "done":
            return Decision(state)
        records = [one.as_record() for one in seen if one is not None and self._reached(one)]
        return Decision("done", records[0] if self.single else records)

    def _state(self, seen: list[Invoice | None]) -> State:
        missing_fails = self.on_missing == "fail"
        reached = sum(one is not None and self._reached(one) for one in seen)
        lost = sum(missing_fails if one is None else self._failed(one) for one in seen)
        if self.wait_for == "any":
            done, failed = reached > 0, lost == len(seen)
        else:
            done, failed = reached == len(seen), lost > 0
        return "done" if done else "failed" if failed else "waiting"

    def _reached(self, invoice: Invoice) -> bool:
        return invoice.status_key == self.target_status

    def _failed(self, invoice: Invoice) -> bool:
        return invoice.status_key in self.failure_statuses

    def report(
        self,
        rows: Mapping[InvoiceId, Invoice] | None,
        seen_at: datetime | None,
        polls: int,
        since: datetime | None = None,
        failure: Exception | None = None,
    ) -> str:
        """Describe the state of the wait in a few sentences, for logs and alerts.

        :param rows: the invoices of the last successful poll. ``None`` if there was none.
        :param seen_at: time of that poll.
        :param polls: number of polls so far.
        :param since: time of the first poll.
        :param failure: error of the last poll, if it failed.
        """
        if rows is None or seen_at is None:
            names = ", ".join(map(str, self.invoice_ids[:_DESCRIBED]))
            text = f"Waiting for {self.target_status!r}: no poll has seen the invoices yet: {names}"
        else:
            text = f"{self._describe(rows)}; seen {seen_at:%Y-%m-%d %H:%M:%S} UTC"
        text += f"; {polls} poll{'s' * (polls != 1)}"
        text += f" since {since:%Y-%m-%d %H:%M:%S} UTC." if since else "."
        return text if failure is None else f"{text} The last poll failed: {failure}"

    def _describe(self, rows: Mapping[InvoiceId, Invoice]) -> str:
        """Describe the invoices that have not reached the target, failures first. If there are none, describe all."""
        seen = [(name, rows.get(key)) for name, key in zip(self.invoice_ids, self.keys, strict=True)]
        open_ = [(name, one) for name, one in seen if one is None or not self._reached(one)]
        listed = sorted(open_ or seen, key=lambda item: item[1] is None or not self._failed(item[1]))
        text = _LEADS[self._state([one for _, one in seen])].format(repr(self.target_status))
        text += "; ".join(self._describe_one(name, one) for name, one in listed[:_DESCRIBED])
        if len(listed) > _DESCRIBED:
            text += f"; and {len(listed) - _DESCRIBED} more"
        if len(seen) > 1:
            text += f" ({len(seen) - len(open_)} of {len(seen)} reached {self.target_status!r})"
        return text

    def _describe_one(self, name: InvoiceId, invoice: Invoice | None) -> str:
        """Describe one invoice in half a line: amount, status, dates."""
        if invoice is None:
            return f"invoice {name} " + ("is not in the list" if self.on_missing == "fail" else "was not found yet")
        status = f"{invoice.status!r}" + (" (a failure status)" if self._failed(invoice) else "")
        return f"invoice {name}: {invoice.amount:f} {invoice.currency}, {status}{_age(invoice)}"


def ended_by(error: UnpodError, failures: int, report: str) -> str:
    """Return the message of a wait that failed polls ended: the reason first, then the report."""
    in_a_row = f"{failures} polls in a row failed like this" if failures > 1 else "One poll failed like this"
    return f"{error.message.rstrip('.')}. {in_a_row}, which ends the wait. {report}"


def _target_and_failures(target_status: str, failure_statuses: str | Iterable[str]) -> tuple[str, tuple[str, ...]]:
    targets = statuses_of(target_status, "target_status")
    if len(targets) != 1:
        raise UnpodConfigError(f"`target_status` must be one status such as 'paid', got {short_repr(target_status)}.")
    failures = statuses_of(failure_statuses, "failure_statuses", may_be_empty=True)
    others = tuple(one for one in failures if one != targets[0])
    if others != failures and failures != DEFAULT_FAILURE_STATUSES:
        raise UnpodConfigError(
            f"`target_status` {targets[0]!r} must not be one of the `failure_statuses`. "
            f"Pass failure_statuses={list(others)}."
        )
    return targets[0], others


def _age(invoice: Invoice) -> str:
    made, due = _date(invoice, "invoice_date"), _date(invoice, "expected_payment_by")
    if made is None:
        return ""
    now = datetime.now(timezone.utc)
    text = f", dated {made:%Y-%m-%d}, {max(0, (now - made).days)} days old"
    if due is not None and due < now:
        text += f", was due {due:%Y-%m-%d}"
    return text


def _date(invoice: Invoice, name: str) -> datetime | None:
    """Return a date, or ``None`` if it is missing or invalid. An invalid date must not prevent the report."""
    try:
        date: datetime | None = getattr(invoice, name)
    except (UnpodBadAnswer, OverflowError):
        return None
    return date
