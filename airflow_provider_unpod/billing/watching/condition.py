"""The condition of a wait, and what the invoices of one poll mean for it.

One function, :meth:`Condition.decide`, decides for the first poll in the worker, for poke, reschedule and deferrable
mode. They cannot disagree, because nothing else decides.
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

#: Polls in a row that may fail for a reason that does not pass by itself, before the wait ends with it.
DEFAULT_MAX_FAILURES = 5

#: At most this many invoices are described one by one in a message; the rest is counted.
_DESCRIBED = 5

State: TypeAlias = Literal["done", "failed", "waiting"]
#: How a report begins, since a row alone does not say what is wrong with it.
_LEADS: dict[State, str] = {
    "waiting": "Waiting for {}: ",
    "failed": "Waiting for {} has failed: ",
    "done": "{} is reached: ",
}


@dataclass(frozen=True, slots=True)
class Decision:
    """The outcome of a poll for a wait. Once done, ``result`` is the return value of the wait."""

    state: State
    result: dict[str, Any] | list[dict[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class Condition:
    """Invoices and the status they must reach. Make it with :meth:`from_arguments`, which checks it.

    :ivar target_status: in the form in which statuses are compared; so are ``failure_statuses``.
    :ivar single: one id was given, not a list of one: the result is one record.
    :ivar keys: the ids in the form in which ids are compared, in the same order.
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

        :raises UnpodConfigError: naming the invalid argument and what to pass instead.
        """
        given = unrendered(invoice_id, "invoice_id")
        single = isinstance(given, (int, str))
        by_key = invoice_ids_of(given, "invoice_id")
        target, failures = _target_and_failures(target_status, failure_statuses)
        choice_of(wait_for, "wait_for", ("all", "any"))
        choice_of(on_missing, "on_missing", ("wait", "fail"))
        return cls(tuple(by_key.values()), target, failures, wait_for, on_missing, single, tuple(by_key))

    def as_arguments(self) -> dict[str, Any]:
        """The arguments of :meth:`from_arguments`, JSON-ready, that make an equal condition."""
        return {
            "invoice_id": self.invoice_ids[0] if self.single else list(self.invoice_ids),
            "target_status": self.target_status,
            "failure_statuses": list(self.failure_statuses),
            "wait_for": self.wait_for,
            "on_missing": self.on_missing,
        }

    def decide(self, rows: Mapping[InvoiceId, Invoice]) -> Decision:
        """Decide this wait by the invoices of one poll.

        :param rows: the invoices that were found, by key. With ``on_missing="fail"`` the absence of any other must be
            proved by a complete reading of the list.
        :raises UnpodBadAnswer: if the target is reached, and a row cannot become a record.
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
        """The state of the wait in a few sentences that can be sent as an alert.

        :param rows: the invoices of the last poll that succeeded, ``None`` if none did; ``seen_at``: when that was.
        :param polls: how many polls there were, ``since`` when.
        :param failure: why the last poll failed, if it did.
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
        """The invoices that keep the wait going, failures first; all of them where none does."""
        seen = [(name, rows.get(key)) for name, key in zip(self.invoice_ids, self.keys, strict=True)]
        open_ = [(name, one) for name, one in seen if one is None or not self._reached(one)]
        shown = sorted(open_ or seen, key=lambda item: item[1] is None or not self._failed(item[1]))
        text = _LEADS[self._state([one for _, one in seen])].format(repr(self.target_status))
        text += "; ".join(self._describe_one(name, one) for name, one in shown[:_DESCRIBED])
        if len(shown) > _DESCRIBED:
            text += f"; and {len(shown) - _DESCRIBED} more"
        if len(seen) > 1:
            text += f" ({len(seen) - len(open_)} of {len(seen)} reached {self.target_status!r})"
        return text

    def _describe_one(self, name: InvoiceId, invoice: Invoice | None) -> str:
        """One invoice in half a line of an alert: amount, status, dates."""
        if invoice is None:
            return f"invoice {name} " + ("is not in the list" if self.on_missing == "fail" else "was not found yet")
        status = f"{invoice.status!r}" + (" (a failure status)" if self._failed(invoice) else "")
        return f"invoice {name}: {invoice.amount:f} {invoice.currency}, {status}{_age(invoice)}"


def ended_by(error: UnpodError, failures: int, report: str) -> str:
    """The message of a wait that ended after so many failed polls in a row: the reason first, then the report."""
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
    """A date as far as it can be read: an invalid one, or one at the end of the calendar, must not cost the alert."""
    try:
        date: datetime | None = getattr(invoice, name)
    except (UnpodBadAnswer, OverflowError):
        return None
    return date
