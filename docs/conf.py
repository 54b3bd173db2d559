"""The documentation as a site: ``make docs``.

Sphinx, MyST and Furo, because pages stay plain Markdown, broken links and anchors are warnings (which are errors here),
and neither building nor viewing needs a network. The root of the clone is the source folder, so that links between
docs/, the README and the changelog are the same on the site and in the repository.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parent.parent
#: Every page of docs/ has its place here; a page without one is a warning.
NAVIGATION = {
    "Guides": (
        *("quick-start", "connection", "exports", "waiting", "books", "reports", "airflow-page"),
        *("command-line", "examples"),
    ),
    "When something is wrong": ("troubleshooting", "reliability", "rate-limits", "completeness"),
    "Reference": ("reference", "sandbox", "compatibility", "benchmarks", "../CHANGELOG"),
    "Project": ("../README", "architecture", "../CONTRIBUTING", "../SECURITY", "releasing"),
}

project = "airflow-provider-unpod"
author = copyright = "the authors of airflow-provider-unpod"  # noqa: A001  # Sphinx's name
version = release = re.findall(r'__version__ = "(.+)"', (ROOT / "airflow_provider_unpod/__init__.py").read_text())[0]
extensions = ["myst_parser"]
root_doc = "docs/index"
include_patterns = ["*.md", "docs/*.md", "docs/images/*"]
exclude_patterns = [".*", "build", "dist"]
# Anchors as code forges make them: of all headings that a page has.
myst_heading_anchors = 4
html_theme = "furo"
html_title = f"airflow-provider-unpod {version}"
# Copied as it is: an index at the root, and a style sheet.
html_extra_path = ["site"]
html_css_files = ["../style/wide.css"]
html_show_sphinx = False
html_copy_source = False
# Messages are quoted as they are.
smartquotes = False
#: Blocks of a shell session, and of what it prints, are shown as they are.
highlight_language = "none"


def add_navigation(app: Sphinx, name: str, text: list[str]) -> None:
    """Append the tables of contents to the index, which is readable without them."""
    if name == root_doc:
        for caption, pages in NAVIGATION.items():
            text[0] += "\n".join(["", "```{toctree}", ":hidden:", f":caption: {caption}", "", *pages, "```", ""])


def setup(app: Sphinx) -> None:
    app.connect("source-read", add_navigation)
