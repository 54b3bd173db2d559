"""docs/troubleshooting.md has all messages of the package, and no others."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

import airflow_provider_unpod
from airflow_provider_unpod.billing import errors
from airflow_provider_unpod.export import errors as export_errors

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = Path(airflow_provider_unpod.__file__).parent
PAGE = REPOSITORY / "docs" / "troubleshooting.md"
#: What a message is given to, besides the errors themselves.
CARRIERS = ("Unreadable", "TransportFault", "_unreachable")
#: How the messages of the connection test begin that are made elsewhere, before they are raised.
BEGINNINGS = ("Check ", "Enter ", "Renew ", "Put all ", "Retry after ", "Try later", "Connection …")
#: A text with fewer letters than this is a frame around another message, such as "…: …".
FEWEST = 10
#: How a message ends, and the beginning that several of them share does not.
ENDS = (".", "?", "…")


def template(node: ast.expr, constants: dict[str, str]) -> str:
    """Return the text of an expression, with … for values."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(template(value, constants) for value in node.values)
    if isinstance(node, ast.FormattedValue) and isinstance(node.value, ast.Name):
        return constants.get(node.value.id, "…")
    if isinstance(node, ast.BinOp):
        return template(node.left, constants) + template(node.right, constants)
    return "…"


def templates() -> Iterator[tuple[str, bool]]:
    """Yield every string in the package, and whether it is a message for users."""
    for file in PACKAGE.rglob("*.py"):
        if "sandbox" in file.parts:
            continue
        tree = ast.parse(file.read_text())
        constants = {
            target.id: node.value.value
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
            for target in node.targets
            if isinstance(target, ast.Name) and isinstance(node.value.value, str)
        }
        # Docstrings, and the parts of texts with values in them.
        no_texts = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        no_texts |= {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and node.args and is_carrier(node.func):
                yield template(node.args[0], constants), True
            elif isinstance(node, (ast.JoinedStr, ast.Constant)) and id(node) not in no_texts:
                text = template(node, constants)
                yield text, file.parent.name in ("http", "hooks") and text.startswith(BEGINNINGS)


def is_carrier(function: ast.expr) -> bool:
    return isinstance(function, ast.Name) and (function.id in CARRIERS or function.id in ERRORS)


ERRORS = {
    name
    for module in (errors, export_errors)
    for name, value in vars(module).items()
    if isinstance(value, type) and issubclass(value, errors.UnpodError)
}
TEXTS = set(templates())
MESSAGES = sorted(
    {text for text, message in TEXTS if message and text.endswith(ENDS) and len(re.sub("…| ", "", text)) >= FEWEST}
)


@cache
def entries() -> dict[str, re.Pattern[str]]:
    """Return the messages of the page, and what they match: … stands for anything."""
    tokens = MarkdownIt().enable("table").parse(PAGE.read_text())
    rows = [tokens[place + 2] for place, token in enumerate(tokens) if token.type == "tr_open"]
    texts = [child.content.strip() for row in rows for child in row.children or () if child.type == "code_inline"]
    return {text: re.compile(".*".join(map(re.escape, text.split("…"))), re.DOTALL) for text in texts}


@pytest.mark.parametrize("entry", entries())
def test_the_text_of_an_entry_is_in_the_code(entry: str) -> None:
    assert any(entries()[entry].search(text) for text, _ in TEXTS)


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_has_an_entry(message: str) -> None:
    assert any(entry.search(message) for entry in entries().values())
