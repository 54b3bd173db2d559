"""``make release TAG=v1.2.3``: builds the distributions in dist/ and checks them."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from airflow_provider_unpod import __version__

REPOSITORY = Path(__file__).resolve().parent.parent
DIST = REPOSITORY / "dist"


def build(folder: Path) -> dict[str, bytes]:
    """The wheel and the source distribution of this tree, by file name."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--target", "wheel"]
    subprocess.run([*command, "--directory", str(folder)], cwd=REPOSITORY, check=True, capture_output=True)
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def problems(tag: str, built: dict[str, bytes]) -> list[str]:
    """Return the reasons not to publish these distributions under ``tag``. Empty if there are none."""
    found = []
    if tag != f"v{__version__}":
        found.append(f"The tag must be v{__version__}, the version of the package; got {tag!r}.")
    if f"\n## {__version__}\n" not in (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8"):
        found.append(f"CHANGELOG.md has no entry '## {__version__}'.")
    if "Project-URL: Repository" not in metadata_of(built):
        found.append("`repository` is empty in pyproject.toml: links of the README would be dead. Enter its address.")
    return found


def metadata_of(built: dict[str, bytes]) -> str:
    """Return the metadata of the source distribution."""
    (name,) = (name for name in built if name.endswith(".tar.gz"))
    with tempfile.TemporaryFile() as file:
        file.write(built[name])
        file.seek(0)
        with tarfile.open(fileobj=file) as archive:
            content = archive.extractfile(f"{name.removesuffix('.tar.gz')}/PKG-INFO")
            assert content is not None
            return content.read().decode()


def main() -> int:
    parser = argparse.ArgumentParser(prog="make release TAG=...", description=__doc__)
    parser.add_argument("tag", help="the tag that is to be published, such as v1.2.3")
    tag = parser.parse_args().tag
    shutil.rmtree(DIST, ignore_errors=True)
    built = build(DIST)
    with tempfile.TemporaryDirectory() as again:
        found = problems(tag, built)
        if build(Path(again)) != built:
            found.append("Two builds of this tree differ.")
    check = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *map(str, DIST.iterdir())], capture_output=True, text=True
    )
    if check.returncode:
        found.append(f"twine check --strict:\n{check.stdout}{check.stderr}")
    for problem in found:
        print(problem, file=sys.stderr)
    if not found:
        print(f"{DIST} holds release {tag}: {', '.join(sorted(built))}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
