"""The code blocks of the README and of docs/, for the tests that run them.

The first word after the backticks is the language. Behind it stands how a block is run, where that is not as it stands:
``airflow-3`` (not on Airflow 2), ``database`` (in the integration tests, beside Airflow's database), or ``no-run:`` and
the reason. A block that is not run is parsed.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt

REPOSITORY = Path(__file__).resolve().parent.parent
PAGES = [
    *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")),
    *sorted((REPOSITORY / "docs").glob("*.md")),
]


class Block(NamedTuple):
    """One fenced block."""

    page: str
    #: Of its first backticks, from 1.
    line: int
    language: str
    #: What stands behind the language.
    mark: str
    source: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def commands(self) -> str:
        """Return the commands of a shell block. In a console block, they follow a prompt; other lines are output."""
        if self.language != "console":
            return self.source
        return "\n".join(line.removeprefix("$ ") for line in self.source.splitlines() if line.startswith("$ "))


def blocks() -> list[Block]:
    """All blocks of all pages."""
    return [
        Block(page.relative_to(REPOSITORY).as_posix(), token.map[0] + 1, *split(token.info), token.content)
        for page in PAGES
        for token in MarkdownIt().parse(page.read_text())
        if token.type == "fence" and token.map is not None
    ]


def split(info: str) -> tuple[str, str]:
    language, _, mark = info.partition(" ")
    return language, mark
