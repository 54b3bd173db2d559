"""A release can be built again by anybody, byte for byte; package indexes accept it, and its links work there."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from airflow_provider_unpod import __version__
from hatch_build import LINK, CustomMetadataHook
from tools.constraints import REPOSITORY
from tools.release import problems

NAME = f"airflow_provider_unpod-{__version__}"
SDIST, WHEEL = f"{NAME}.tar.gz", f"{NAME}-py3-none-any.whl"


def build(tree: Path, folder: Path) -> dict[str, bytes]:
    command = [sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--target", "wheel"]
    # As one who rebuilds a distribution sets it.
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1780000000"}
    subprocess.run([*command, "--directory", str(folder)], cwd=tree, env=environment, check=True, capture_output=True)
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return build(REPOSITORY, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def unpacked(built: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, unpacked outside of the repository."""
    folder = tmp_path_factory.mktemp("unpacked")
    (folder / SDIST).write_bytes(built[SDIST])
    with tarfile.open(folder / SDIST) as archive:
        archive.extractall(folder, filter="data")
    return folder / NAME


def test_built_from_its_own_source_distribution_a_release_has_the_same_bytes(
    built: dict[str, bytes], unpacked: Path, tmp_path: Path
) -> None:
    (unpacked / ".env").write_text("a secret of whoever builds it")
    before = os.umask(0o077)
    try:
        again = build(unpacked, tmp_path / "dist")
    finally:
        os.umask(before)
    assert set(built) == {SDIST, WHEEL}
    assert again == built


@pytest.fixture(scope="module")
def wheel(built: dict[str, bytes]) -> zipfile.ZipFile:
    return zipfile.ZipFile(io.BytesIO(built[WHEEL]))


def test_the_wheel_contains_only_the_package_and_its_type_marker(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    assert "airflow_provider_unpod/py.typed" in names
    assert f"{NAME}.dist-info/licenses/LICENSE" in names
    assert {name.partition("/")[0] for name in names} == {"airflow_provider_unpod", f"{NAME}.dist-info"}


def test_the_wheel_contains_every_module_template_and_style_sheet(wheel: zipfile.ZipFile) -> None:
    package = REPOSITORY / "airflow_provider_unpod"
    tree = {str(path.relative_to(REPOSITORY)) for path in package.rglob("*.*") if path.suffix != ".pyc"}
    assert "airflow_provider_unpod/web/templates/report.css" in tree
    assert tree == {name for name in wheel.namelist() if ".dist-info/" not in name}


def test_the_wheel_says_what_package_indexes_and_airflow_ask_for(wheel: zipfile.ZipFile) -> None:
    metadata = wheel.read(f"{NAME}.dist-info/METADATA").decode()
    for line in (
        "Name: airflow-provider-unpod",
        f"Version: {__version__}",
        "License-Expression: Apache-2.0",
        "License-File: LICENSE",
        "Requires-Python: >=3.10",
        "Requires-Dist: apache-airflow>=2.11",
        "Classifier: Framework :: Apache Airflow",
        "Classifier: Framework :: Apache Airflow :: Provider",
        "Classifier: Typing :: Typed",
    ):
        assert line in metadata.splitlines()


def test_package_indexes_accept_the_metadata(built: dict[str, bytes], tmp_path: Path) -> None:
    for name, content in built.items():
        (tmp_path / name).write_bytes(content)
    command = [sys.executable, "-m", "twine", "check", "--strict", *(str(tmp_path / name) for name in built)]
    checked = subprocess.run(command, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_source_distribution_has_what_its_makefile_needs(unpacked: Path) -> None:
    makefile = (unpacked / "Makefile").read_text()
    versions = dict(re.findall(r"^(AIRFLOW[0-9.]+) := (\S+)$", makefile, re.M))
    files = re.findall(r"constraints/[\w.$()-]+\.txt", makefile)
    assert len(files) > 5
    for file in files:
        assert (unpacked / re.sub(r"\$\((\S+?)\)", lambda name: versions[name[1]], file)).is_file(), file
    for module in re.findall(r"-m ((?:tools|benchmarks)[\w.]*)", makefile):
        path = unpacked / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module


def test_the_source_distribution_has_every_file_that_git_keeps(built: dict[str, bytes]) -> None:
    if not (REPOSITORY / ".git").exists():
        pytest.skip("needs a clone")
    kept = subprocess.check_output(["git", "ls-files"], cwd=REPOSITORY, text=True).splitlines()
    with tarfile.open(fileobj=io.BytesIO(built[SDIST])) as archive:
        assert {f"{NAME}/{file}" for file in kept} - set(archive.getnames()) == set()


def test_the_tests_that_read_the_tree_pass_in_the_source_distribution(unpacked: Path) -> None:
    tests = [f"tests/test_{name}.py" for name in ("architecture", "claims", "docs", "troubleshooting")]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, cwd=unpacked, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]


def test_every_link_of_the_readme_leads_somewhere_in_the_repository_and_on_a_package_index() -> None:
    targets = LINK.findall((REPOSITORY / "README.md").read_text())
    assert len(targets) > 3
    for target in targets:
        assert (REPOSITORY / target.partition("#")[0]).exists(), target
    metadata = {"version": "1.2.3"}
    hook = CustomMetadataHook(str(REPOSITORY), {"repository": "https://forge.example/billing/provider/"})
    hook.update(metadata)
    published = metadata["readme"]["text"]  # type: ignore[index]  # the hook has made it a dict
    assert LINK.findall(published) == []
    for target in targets:
        assert f"](https://forge.example/billing/provider/blob/v1.2.3/{target})" in published


def test_no_release_without_the_address_of_the_repository_or_under_another_tag(built: dict[str, bytes]) -> None:
    found = "\n".join(problems("v9.9.9", built))
    assert f"must be v{__version__}" in found
    assert ("`repository` is empty" in found) == ('repository = ""' in (REPOSITORY / "pyproject.toml").read_text())


@pytest.mark.parametrize("workflow", sorted((REPOSITORY / ".github" / "workflows").glob("*.yml")), ids=lambda p: p.name)
def test_workflows_pin_their_actions_and_ask_for_no_more_than_they_need(workflow: Path) -> None:
    text = workflow.read_text()
    used = re.findall(r"uses: *(\S+)", text)
    assert used
    for action in used:
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action), action
    assert re.search(r"^permissions:", text, re.M)
    writes = re.findall(r"(\S+): write", text)
    assert writes == (["id-token"] if workflow.name == "release.yml" else [])
