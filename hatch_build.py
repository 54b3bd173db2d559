"""Metadata that depends on where the project is published; hatchling runs it at each build."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

#: A link of Markdown to a file of this repository: neither an address nor a place on the same page.
LINK = re.compile(r"\]\((?![a-z]+:|#|/)([^)\s]+)\)")


class CustomMetadataHook(MetadataHookInterface):
    """Links of the README that work outside of the repository, and the project's addresses on package indexes.

    Both follow from ``repository`` in pyproject.toml; while it is empty, the README stays as it is.
    """

    def update(self, metadata: dict[str, Any]) -> None:
        repository = str(self.config["repository"]).rstrip("/")
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        if repository:
            # A release's page shows the files of that release.
            files = f"{repository}/blob/v{metadata['version']}"
            text = LINK.sub(rf"]({files}/\1)", text)
            metadata["urls"] = {
                "Repository": repository,
                "Documentation": f"{files}/docs/index.md",
                "Changelog": f"{files}/CHANGELOG.md",
            }
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
