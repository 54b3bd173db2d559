"""``make reference``: writes docs/reference.md from signatures, docstrings and the definition of the commands."""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from argparse import SUPPRESS
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from airflow_provider_unpod.cli.definition import COMMANDS, Command, Option
from airflow_provider_unpod.export.address import path_segment
from airflow_provider_unpod.export.entries import LedgerFormat, entries_of_export
from airflow_provider_unpod.export.reader import export_files, read_export
from airflow_provider_unpod.export.reconciliation import reconcile
from airflow_provider_unpod.hooks.unpod import UnpodHook
from airflow_provider_unpod.operators.billing import UnpodBillingOperator
from airflow_provider_unpod.operators.reconcile import UnpodReconcileOperator
from airflow_provider_unpod.sensors.invoice import UnpodInvoiceSensor
from airflow_provider_unpod.transfers.unpod_to_sql import UnpodToSqlOperator
from airflow_provider_unpod.transitions import transitions_of
from airflow_provider_unpod.triggers.invoice import UnpodInvoiceEventTrigger, UnpodInvoiceTrigger

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference.md"
INTRODUCTION = """# Reference

`make reference` writes this page from signatures and docstrings, so that it cannot differ from the code. Guides with
examples: [Exports](exports.md), [Into the books](books.md), [Waiting](waiting.md), [Command line](command-line.md). The
fields of a connection are in [Connection](connection.md).

Parameters with * are templates. All parameters of operators, sensors and triggers are keyword-only; operators and
sensors also take those of Airflow's `BaseOperator` and `BaseSensorOperator`.
"""
#: Documented classes.
CLASSES: tuple[type, ...] = (
    UnpodBillingOperator,
    UnpodToSqlOperator,
    UnpodReconcileOperator,
    UnpodInvoiceSensor,
    UnpodInvoiceEventTrigger,
    UnpodInvoiceTrigger,
    UnpodHook,
    LedgerFormat,
)
METHODS: dict[type, tuple[Callable[..., Any], ...]] = {
    UnpodHook: (UnpodHook.iter_invoices, UnpodHook.get_invoice, UnpodHook.get_organizations, UnpodHook.test_connection)
}
FUNCTIONS: tuple[Callable[..., Any], ...] = (
    read_export,
    export_files,
    path_segment,
    reconcile,
    entries_of_export,
    transitions_of,
)
PUBLIC = "airflow_provider_unpod.export"
#: Types that replace internal aliases.
ALIASES = {"InvoiceId": "int | str"}


class Docstring(NamedTuple):
    """A docstring in Markdown."""

    paragraphs: list[str]
    #: Meaning of each parameter.
    parameters: dict[str, str]
    #: List items for the return value and the exceptions.
    outcomes: list[str]


def parse(docstring: str) -> Docstring:
    paragraphs: list[str] = []
    parameters: dict[str, str] = {}
    returned: list[str] = []
    raised: list[str] = []
    for block in re.split(r"\n\s*\n", inspect.cleandoc(docstring)):
        if block.startswith((" ", "@")) or block.endswith("::"):
            continue  # an example; the guides have those
        if not block.startswith(":"):
            paragraphs.append(markdown(block.removesuffix("::")))
            continue
        for name, text in re.findall(r"^:([^:]+):((?:.|\n(?!:))*)", block, re.MULTILINE):
            kind, _, about = name.partition(" ")
            if kind == "param":
                parameters[about] = markdown(text).replace(" (templated)", "")
            elif kind == "raises":
                raised.append(f"- Raises `{about}`: {markdown(text)}")
            else:
                returned.append(f"- Returns {markdown(text)}")
    return Docstring(paragraphs, parameters, [*returned, *raised])


def markdown(text: str) -> str:
    """Convert a docstring to one line of Markdown, without reStructuredText roles."""
    text = " ".join(text.split())
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", text)
    return re.sub(r"``(.+?)``", r"`\1`", text)


def type_of(parameter: inspect.Parameter) -> str:
    """Return the annotation for a table. ``str | None`` would end a cell."""
    text = str(parameter.annotation)
    for alias, meaning in ALIASES.items():
        text = re.sub(rf"\b{alias}\b", meaning, text)
    # Splits only top-level alternatives, not those inside brackets.
    parts = dict.fromkeys(re.split(r" \| (?![^\[]*\])", text))
    return " or ".join(f"`{part}`".replace("|", r"\|") for part in parts)


def parameter_rows(
    signature: inspect.Signature, documented: dict[str, str], templates: tuple[str, ...]
) -> Iterator[str]:
    for parameter in signature.parameters.values():
        if parameter.name == "self" or parameter.kind is parameter.VAR_KEYWORD:
            continue
        default = "" if parameter.default is parameter.empty else f"`{parameter.default!r}`"
        star = " *" if parameter.name in templates else ""
        yield f"| `{parameter.name}`{star} | {type_of(parameter)} | {default} | {documented[parameter.name]} |"


def table(function: Callable[..., Any], documented: dict[str, str], templates: tuple[str, ...] = ()) -> list[str]:
    rows = list(parameter_rows(inspect.signature(function), documented, templates))
    return ["\n".join(["| parameter | type | default | meaning |", "| --- | --- | --- | --- |", *rows])] if rows else []


def import_of(item: Any) -> str:
    public = item.__name__ in getattr(sys.modules[PUBLIC], "__all__", ())
    return f"```python\nfrom {PUBLIC if public else item.__module__} import {item.__name__}\n```"


def class_section(documented: type) -> list[str]:
    doc = parse(documented.__doc__ or "")
    templates = tuple(getattr(documented, "template_fields", ()))
    first, *rest = map(wrapped, doc.paragraphs)
    sections = [f"## {documented.__name__}", import_of(documented), first]
    sections += [*table(vars(documented)["__init__"], doc.parameters, templates), *rest, *outcomes_of(doc)]
    for method in METHODS.get(documented, ()):
        sections += callable_section(method, f"### {documented.__name__}.{method.__name__}")
    return sections


def callable_section(function: Callable[..., Any], title: str) -> list[str]:
    doc = parse(function.__doc__ or "")
    return [title, *map(wrapped, doc.paragraphs), *table(function, doc.parameters), *outcomes_of(doc)]


def outcomes_of(doc: Docstring) -> list[str]:
    return ["\n".join(wrapped(outcome, "  ") for outcome in doc.outcomes)] if doc.outcomes else []


def wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(text, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def function_sections() -> Iterator[str]:
    for function in FUNCTIONS:
        title, *rest = callable_section(function, f"## {function.__name__}")
        yield from (title, import_of(function), *rest)


def command_section(command: Command) -> list[str]:
    rows = [option_row(option) for option in command.options if option.settings.get("help") is not SUPPRESS]
    lines = ["| argument | values | default | meaning |", "| --- | --- | --- | --- |", *rows]
    return [f"### {command.name}", f"{command.help[0].upper()}{command.help[1:]}.", "\n".join(lines)]


def option_row(option: Option) -> str:
    settings = option.settings
    flags = ", ".join(f"`{flag}`" for flag in option.flags)
    choices = ", ".join(f"`{choice}`" for choice in settings.get("choices", ()))
    if settings.get("action") == "append":
        choices = f"{choices}; repeatable".removeprefix("; ")
    meaning = settings["help"].partition(" (default: ")[0]
    default = f"`{settings['default']}`" if "default" in settings else ""
    if settings.get("action") == "store_true":
        default = "off"
    return f"| {flags} | {choices} | {default} | {meaning} |"


def page() -> str:
    """The whole page."""
    sections = [INTRODUCTION.rstrip()]
    for documented in CLASSES:
        sections += class_section(documented)
    sections += function_sections()
    sections += [
        "## Commands",
        "`python -m airflow_provider_unpod COMMAND`, and `airflow unpod COMMAND` from Airflow 3.3 on.",
    ]
    for command in COMMANDS:
        sections += command_section(command)
    return "\n\n".join(sections) + "\n"


def main() -> int:
    PAGE.write_text(page())
    print(f"{PAGE.name}: {len(page().splitlines())} lines")
    return 0


if __name__ == "__main__":
    sys.exit(main())
