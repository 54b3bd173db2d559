"""The map in docs/architecture.md is correct: its files exist, no module is missing, and imports point down."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / "airflow_provider_unpod"
MAP = (REPOSITORY / "docs" / "architecture.md").read_text()
#: A module's wing is the first of these that its path begins with.
WINGS = (
    "billing/http",
    "billing/reading",
    "billing/watching",
    "billing/client",
    "billing/__init__",
    "billing",
    "export",
    "hooks",
    "operators",
    "sensors",
    "triggers",
    "sandbox",
    "loading",
    "transfers",
    "web/report",
    "web/figures",
    "web/rendering",
    "web",
    "cli",
    "__main__",
    "assets",
    "get_provider_info",
    "links",
    "task_boundary",
    "transitions",
)
VALUES = {"billing"}
REQUESTS = VALUES | {"billing/http", "billing/client"}
LISTS = REQUESTS | {"billing/reading"}
API = LISTS | {"billing/watching", "billing/__init__"}
#: The wings that each wing may import, besides itself.
MAY_IMPORT = {
    "billing": set(),
    "billing/http": VALUES,
    "billing/client": VALUES | {"billing/http"},
    "billing/reading": REQUESTS,
    "billing/watching": LISTS,
    "billing/__init__": LISTS,
    "export": VALUES | {"billing/reading"},
    "task_boundary": VALUES | {"billing/reading"},
    "get_provider_info": set(),
    "links": set(),
    "assets": set(),
    "transitions": set(),
    "hooks": API | {"get_provider_info"},
    "triggers": API | {"hooks", "task_boundary"},
    "sensors": API | {"hooks", "links", "triggers", "task_boundary"},
    "operators": API | {"hooks", "export", "assets", "links", "task_boundary", "web/report"},
    "loading": VALUES | {"export"},
    "transfers": VALUES | {"export", "hooks", "loading", "operators", "task_boundary"},
    "web/report": VALUES | {"export", "web/figures", "web/rendering"},
    "web/figures": VALUES | {"export"},
    "web/rendering": VALUES,
    "web": VALUES | {"export", "get_provider_info", "hooks", "links", "web/rendering"},
    "cli": API | {"export", "hooks", "web/report"},
    "__main__": {"cli"},
    "sandbox": set(),
}


def modules() -> Iterator[tuple[str, Path]]:
    """Every module as its path below the package, without ``.py``, and its file."""
    for file in sorted(PACKAGE.rglob("*.py")):
        yield file.relative_to(PACKAGE).with_suffix("").as_posix(), file


def wing_of(module: str) -> str:
    return next((wing for wing in WINGS if module == wing or module.startswith(f"{wing}/")), module)


def imports_of(file: Path) -> Iterator[str]:
    """Dotted names of all modules that a file imports, wherever in it and whether at run time or for annotations."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            yield node.module or ""
            # `from package import module` imports a module, too.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_modules_of(file: Path) -> Iterator[str]:
    """Return the imports from this package, as paths."""
    for name in imports_of(file):
        path = name.removeprefix("airflow_provider_unpod").lstrip(".").replace(".", "/")
        if name.startswith("airflow_provider_unpod."):
            if (PACKAGE / f"{path}.py").exists():
                yield path
            elif (PACKAGE / path / "__init__.py").exists():
                yield f"{path}/__init__"


@pytest.mark.parametrize("wing", sorted(MAY_IMPORT))
def test_imports_point_down(wing: str) -> None:
    upward = {
        f"{module} imports {imported}"
        for module, file in modules()
        if wing_of(module) == wing
        for imported in own_modules_of(file)
        if wing_of(imported) not in MAY_IMPORT[wing] | {wing}
    }

    assert upward == set()


def test_every_module_belongs_to_a_wing() -> None:
    known = {wing_of(module) for module, _ in modules()} - {"__init__"}

    assert known == MAY_IMPORT.keys(), "name a new wing in WINGS, MAY_IMPORT and docs/architecture.md"


def test_billing_imports_neither_airflow_nor_anything_for_files() -> None:
    foreign = {
        f"{module} imports {name}"
        for module, file in modules()
        if module.startswith("billing/")
        for name in imports_of(file)
        if name.partition(".")[0] in ("airflow", "pyarrow", "fsspec", "zstandard", "upath")
    }

    assert foreign == set()


def named_paths() -> set[str]:
    """Everything on the map that looks like a file or folder of this repository."""
    return set(re.findall(r"`([\w./]+(?:\.py|\.md|\.toml|/))`", MAP))


def test_every_path_on_the_map_exists() -> None:
    folders = {path for path in named_paths() if path.endswith("/")}
    missing = {
        path
        for path in named_paths()
        if not any((base / path).exists() for base in (PACKAGE, REPOSITORY, *(PACKAGE / folder for folder in folders)))
    }

    assert missing == set()


def test_every_module_is_on_the_map() -> None:
    """A module may be listed by its path, or by its name in the row of its folder."""
    rows = dict(re.findall(r"^\| `([\w/]+/)` \|(.*)$", MAP, re.MULTILINE))
    missing = {
        file.relative_to(PACKAGE).as_posix()
        for module, file in modules()
        if not file.name.startswith("__")
        if f"`{module}.py`" not in MAP
        and f"`{file.name}`" not in rows.get(f"{file.parent.relative_to(PACKAGE).as_posix()}/", "")
    }

    assert missing == set(), "add them to the table of modules in docs/architecture.md"
