"""Claims about kept cohorts: another version of what measures does not find the values of an earlier one."""

import ast
import shutil
from pathlib import Path

import pytest

import client
from client import shelf

HERE = Path(client.__file__).parents[1]
NOT_OF_ONE_SCAN = {  # of common, imported by what measures without a part in a value: errors, files, and the study's own values
    *("errors", "files", "study", "training"),
}


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A copy of both packages, as another version would be installed."""
    for package in ("client", "common"):
        shutil.copytree(HERE / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shelf._code.cache_clear()
    return tmp_path


@pytest.mark.parametrize(
    "path",
    [
        *("client/cohort.py", "client/pipeline.py", "client/imaging/prepare.py", "client/measure/length.py"),
        *("client/measure/texture/glcm.py", "common/modality.py", "common/recipe.py", "common/networks/resnet18.py"),
    ],
)
def test_another_version_of_what_measures_is_another_cohort(installed, path):
    same = shelf._code(installed)
    assert same == shelf._code(HERE)
    shelf._code.cache_clear()
    (installed / path).write_text((installed / path).read_text() + "\n# another way to measure\n")
    assert shelf._code(installed) != same
    shelf._code.cache_clear()


def test_other_code_finds_the_cohort_again(installed):
    same = shelf._code(installed)
    shelf._code.cache_clear()
    for path in ("client/vault.py", "common/files.py"):
        (installed / path).write_text("")
    assert shelf._code(installed) == same
    shelf._code.cache_clear()


def test_whatever_a_measuring_step_imports_is_hashed():
    hashed = {path for step in shelf.STEPS for path in HERE.glob(step)}
    assert all(any(HERE.glob(step)) for step in shelf.STEPS)
    composing = HERE / "client" / "pipeline.py"  # which also composes what has nothing to do with measuring
    for path in hashed - {composing}:
        if path.is_relative_to(HERE / "common"):
            continue
        imported = {
            place
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in {"client", "common"}
            for one in node.names
            for place in (
                HERE.joinpath(*node.module.split("."), f"{one.name}.py"),
                HERE.joinpath(*node.module.split(".")).with_suffix(".py"),
            )
            if place.is_file()
        }
        assert {one.stem for one in imported - hashed} <= NOT_OF_ONE_SCAN, path.name
