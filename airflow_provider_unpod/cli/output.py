"""Prints results to standard output, and progress to standard error if it is a terminal."""

from __future__ import annotations

import csv
import json
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

T = TypeVar("T")


def write_rows(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], form: str) -> None:
    """Write rows as a table, as JSON (a list) or as CSV."""
    if form == "json":
        print(json.dumps(list(rows), indent=2, ensure_ascii=False))
    elif form == "csv":
        from airflow_provider_unpod.export.columns import formula_safe

        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([formula_safe(_text(row.get(column))) for column in columns] for row in rows)
    else:
        _write_table(rows, columns)


def write_facts(facts: Mapping[str, Any]) -> None:
    """Write names and values, one line each."""
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        print(f"{name:<{width}}  {_text(value)}")


def note(text: str) -> None:
    """Print a message to standard error."""
    print(text, file=sys.stderr)


@contextmanager
def progress(label: str) -> Iterator[Any]:
    """Yield a function that counts the items of an iterable. The count is shown if standard error is a terminal."""
    if not sys.stderr.isatty():
        yield lambda items: items
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as display:
        task = display.add_task(label, total=None)

        def counted(items: Iterable[T]) -> Iterator[T]:
            for item in items:
                display.advance(task)
                yield item

        yield counted


def _write_table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in ("amount", "count", "rows") else "left", no_wrap=True)
    for row in rows:
        # `Text`, because rich would interpret a string from the API as markup.
        table.add_row(*(Text(_printable(_text(row.get(column)))) for column in columns))
    console = Console()
    # Files and pipes have no width, so rows must not be truncated there.
    with console.capture() as written:
        console.print(table, width=None if console.is_terminal else 1000, crop=False)
    sys.stdout.write(written.get())  # rich itself would exit if the reader has closed the pipe


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _printable(text: str) -> str:
    """Replace control characters, which a terminal could interpret as commands."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)
