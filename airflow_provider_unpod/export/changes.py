"""What is new or different since the last certified export of the same path.

The state to compare with lies beside the export, in a file that its manifest lists, and so is committed with it: for
every invoice ever seen its status and a digest of its record, both as they were *before* the export and after it. The
run that wrote it, when it is retried or cleared, compares with the former, so that it exports the same changes again
instead of losing them; every other run, an older one that is cleared too, with the latter. After a full export, that
export itself is the state.

An invoice is never skipped for its age, and never forgotten: one that was not selected this time, or that vanished
from the API and comes back, is compared with what it was when last seen. Vanishing itself is no change.
"""

from __future__ import annotations

import hashlib
import json
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from airflow_provider_unpod.billing.invoice import Invoice, InvoiceId
from airflow_provider_unpod.export.errors import ExportError
from airflow_provider_unpod.export.formats import compressed, decompressed
from airflow_provider_unpod.export.options import CHANGES
from airflow_provider_unpod.export.publication import current_manifest
from airflow_provider_unpod.export.reader import Export
from airflow_provider_unpod.export.spool import encode_record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from airflow_provider_unpod.export.columns import Record
    from airflow_provider_unpod.export.manifest import Manifest
    from airflow_provider_unpod.export.storage import Folder

OLD_STATUS, NEW_STATUS = "old_status", "new_status"

_COMPRESSION = "gzip"
_LINES_PER_BLOCK = 4096
_encode_sorted = json.JSONEncoder(separators=(",", ":"), sort_keys=True).encode


class Seen(NamedTuple):
    """What is remembered of an invoice: its status, and a digest of its whole record."""

    status: str
    digest: str


class Comparison:
    """Invoices held against what was known of them before.

    :param before: what was known, by ``Invoice.key``.
    :param since: the id of the export that knew it, ``None`` if there was none.
    """

    def __init__(self, before: dict[InvoiceId, Seen], since: str | None) -> None:
        self.since = since
        self.new = 0
        self.changed = 0
        self._before = before
        self._after: dict[InvoiceId, Seen] = {}

    def changes(self, invoices: Iterable[Invoice]) -> Iterator[Invoice]:
        """Those that are new or different, as invoices whose record has the old and the new status besides.

        :raises ExportError: if the API has fields of these names itself.
        """
        for invoice in invoices:
            record = invoice.as_record()
            seen = Seen(invoice.status, _digest(record))
            before = self._before.get(invoice.key)
            if before == seen:
                continue
            self._after[invoice.key] = seen
            if before is None:
                self.new += 1
            else:
                self.changed += 1
            if OLD_STATUS in record or NEW_STATUS in record:
                raise ExportError(
                    f"Invoice {invoice.invoice_id!r} has a field `{OLD_STATUS}` or `{NEW_STATUS}` already."
                )
            yield Invoice({**invoice.raw, OLD_STATUS: before.status if before else None, NEW_STATUS: invoice.status})

    def as_dict(self) -> dict[str, Any]:
        """What a manifest says about it."""
        return {"since": self.since, "new": self.new, "changed": self.changed}

    @property
    def rows(self) -> int:
        """Invoices that are remembered."""
        return len(self._before.keys() | self._after.keys())

    def to_blocks(self) -> Iterator[bytes]:
        """The state for the next time: a line for each invoice, key, what it was before and what it is now."""
        return compressed(self._blocks(), _COMPRESSION)

    def _blocks(self) -> Iterator[bytes]:
        lines: list[str] = []
        for key in [*self._before, *(key for key in self._after if key not in self._before)]:
            before = self._before.get(key)
            lines.append(encode_record([key, before, self._after.get(key, before)]))
            if len(lines) == _LINES_PER_BLOCK:
                yield _joined(lines)
                lines.clear()
        yield _joined(lines)


def compare_with_last(folder: Folder, about: Mapping[str, Any]) -> Comparison:
    """A comparison with the certified export that stands in a folder, if there is one.

    :param about: what the new manifest will say of itself; the same ``run`` means that a task runs again.
    :raises ExportError: if what stands there cannot be believed.
    """
    manifest = current_manifest(folder)
    if manifest is None:
        return Comparison({}, None)
    if manifest.state is None:
        export = Export(folder, manifest)
        return Comparison(dict(map(_seen_in_full_export, export)), manifest.export_id)
    again = _is_same_run(manifest, about)
    with Export(folder, manifest).open_state() as file:
        before = dict(_states(file, 1 if again else 2))
    return Comparison(before, manifest.content["changes"]["since"] if again else manifest.export_id)


def _states(file: IO[bytes], column: int) -> Iterator[tuple[InvoiceId, Seen]]:
    for line in decompressed(file, _COMPRESSION):
        fields = json.loads(line)
        if fields[column] is not None:
            yield fields[0], Seen(*fields[column])


def _seen_in_full_export(record: Record) -> tuple[InvoiceId, Seen]:
    invoice = Invoice(record)
    return invoice.key, Seen(invoice.status, _digest(record))


def _is_same_run(manifest: Manifest, about: Mapping[str, Any]) -> bool:
    def identity(run: Any) -> dict[str, Any] | None:
        return {name: value for name, value in run.items() if name != "try_number"} if run else None

    run = identity(about.get("run"))
    return manifest.content["mode"] == CHANGES and run is not None and run == identity(manifest.content.get("run"))


def _digest(record: Record) -> str:
    return hashlib.blake2b(_encode_sorted(record).encode(), digest_size=12).hexdigest()


def _joined(lines: list[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode("ascii")
