"""What somebody waits for, and what a look at the list means for it.

One function, :meth:`Condition.decide`, answers for the worker that looks first, for poke, reschedule and
deferrable mode: they cannot disagree because there is nothing else that could.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from airflow_provider_unpod.billing.arguments import choice_of, invoice_ids_of, statuses_of, unrendered
from airflow_provider_unpod.billing.errors import UnpodBadAnswer, UnpodConfigError, short_repr
from airflow_provider_unpod.billing.invoice import CANCELLED, FAILED, PAID, REFUNDED, Invoice, InvoiceId

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

#: Without the target: who waits for one of these need not say that it is no failure. In the order of `statuses_of`.
DEFAULT_FAILURE_STATUSES = (CANCELLED, FAILED, REFUNDED)

#: As many invoices are described one by one in a message; the rest is counted.
_DESCRIBED = 5

State: TypeAlias = Literal["done", "failed", "waiting"]
#: What a report begins with: a row alone does not say what is wrong with it.
_LEADS: dict[State, str] = {
    "waiting": "Waiting for {}: ",
    "failed": "Waiting for {} has failed: ",
    "done": "{} is reached: ",
}


@dataclass(frozen=True, slots=True)
class Decision:
    """What a look means for a wait. ``result``, once done, is what the wait gives out."""

    state: State
    result: dict[str, Any] | list[dict[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class Condition:
    """Invoices and the status they shall reach. Make it with :meth:`from_arguments`, which checks it."""

    invoice_ids: tuple[InvoiceId, ...]
    #: In small letters, as the invoices' statuses are compared; so are the failures.
    target_status: str = PAID
    failure_statuses: tuple[str, ...] = DEFAULT_FAILURE_STATUSES
    wait_for: str = "all"
    on_missing: str = "wait"
    #: One id was asked for, and not a list of one: the result is one record.
    single: bool = False
    #: The ids in the form in which they are compared, in the same order.
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
        """:raises UnpodConfigError: naming the argument that cannot work and what to give instead."""
        given = unrendered(invoice_id, "invoice_id")
        single = isinstance(given, (int, str))
        by_key = invoice_ids_of(given, "invoice_id")
        target, failures = _target_and_failures(target_status, failure_statuses)
        choice_of(wait_for, "wait_for", ("all", "any"))
        choice_of(on_missing, "on_missing", ("wait", "fail"))
        return cls(tuple(by_key.values()), target, failures, wait_for, on_missing, single, tuple(by_key))

    def decide(self, rows: Mapping[InvoiceId, Invoice]) -> Decision:
        """What a look means for this wait.

        :param rows: the invoices that it saw, by key. With ``on_missing="fail"`` one that is not among them must be
            proved, by a complete reading of the list, not to be there.
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
        return invoice.status.lower() == self.target_status

    def _failed(self, invoice: Invoice) -> bool:
        return invoice.status.lower() in self.failure_statuses

    def report(
        self,
        rows: Mapping[InvoiceId, Invoice] | None,
        seen_at: datetime | None,
        polls: int,
        since: datetime | None = None,
        failure: Exception | None = None,
    ) -> str:
        """How things stand, fit for the body of an alert: for what was waited, what was seen, when and how often.

        :param rows: what the last look that succeeded saw, ``None`` if none did; ``seen_at``: when that was.
        :param since: when the looks began.
        :param trouble: why the last look failed, if it did.
        """
        if rows is None or seen_at is None:
            names = ", ".join(map(str, self.invoice_ids[:_DESCRIBED]))
            text = f"Waiting for {self.target_status!r}: the invoices were never seen: {names}"
        else:
            text = f"{self._describe(rows)}; seen {seen_at:%Y-%m-%d %H:%M:%S} UTC"
        text += f"; {polls} look{'s' * (polls != 1)}"
        text += f" since {since:%Y-%m-%d %H:%M:%S} UTC." if since else "."
        return text if failure is None else f"{text} The last look failed: {failure}"

    def _describe(self, rows: Mapping[InvoiceId, Invoice]) -> str:
        """The invoices that stand in the way, failures first; all of them where none does."""
        seen = [(name, rows.get(key)) for name, key in zip(self.invoice_ids, self.keys, strict=True)]
        open_ = [(name, one) for name, one in seen if one is None or not self._reached(one)]
        told = sorted(open_ or seen, key=lambda item: item[1] is None or not self._failed(item[1]))
        text = _LEADS[self._state([one for _, one in seen])].format(repr(self.target_status))
        text += "; ".join(self._describe_one(name, one) for name, one in told[:_DESCRIBED])
        if len(told) > _DESCRIBED:
            text += f"; and {len(told) - _DESCRIBED} more"
        if len(seen) > 1:
            text += f" ({len(seen) - len(open_)} of {len(seen)} reached {self.target_status!r})"
        return text

    def _describe_one(self, name: InvoiceId, invoice: Invoice | None) -> str:
        """One invoice in half a line of an alert: amount, status, dates."""
        if invoice is None:
            return f"invoice {name} " + ("is not in the list" if self.on_missing == "fail" else "was not found yet")
        status = f"{invoice.status!r}" + (" (a failure status)" if self._failed(invoice) else "")
        return f"invoice {name}: {invoice.amount:f} {invoice.currency}, {status}{_age(invoice)}"


def _target_and_failures(target_status: str, failure_statuses: str | Iterable[str]) -> tuple[str, tuple[str, ...]]:
    targets = statuses_of(target_status, "target_status")
    if len(targets) != 1:
        raise UnpodConfigError(f"`target_status` must be one status such as 'paid', not {short_repr(target_status)}.")
    failures = statuses_of(failure_statuses, "failure_statuses", may_be_empty=True)
    others = tuple(one for one in failures if one != targets[0])
    if others != failures and failures != DEFAULT_FAILURE_STATUSES:
        raise UnpodConfigError(
            f"`target_status` {targets[0]!r} is also one of the `failure_statuses`: leave it out of them, "
            f"failure_statuses={list(others)}."
        )
    return targets[0], others


def _age(invoice: Invoice) -> str:
    try:
        made, due = invoice.invoice_date, invoice.expected_payment_by
    except UnpodBadAnswer:  # an unreadable date is no reason to lose the alert
        return ""
    if made is None:
        return ""
    now = datetime.now(timezone.utc)
    text = f", dated {made:%Y-%m-%d}, {max(0, (now - made).days)} days old"
    if due is not None and due < now:
        text += f", was due {due:%Y-%m-%d}"
    return text
