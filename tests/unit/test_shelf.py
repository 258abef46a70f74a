"""Claims about kept cohorts: another version of what measures does not find the values of an earlier one."""

import shutil
from pathlib import Path

import pytest

import client
from client import shelf


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A copy of this package, as another version would be installed."""
    folder = tmp_path / "client"
    shutil.copytree(Path(client.__file__).parent, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.mark.parametrize(
    "path", ["cohort.py", "pipeline.py", "imaging/prepare.py", "measure/length.py", "measure/texture/glcm.py"]
)
def test_another_version_of_what_measures_is_another_cohort(installed, path):
    same = shelf._code(installed)
    assert same == shelf._code(Path(client.__file__).parent)
    shelf._code.cache_clear()
    (installed / path).write_text((installed / path).read_text() + "\n# another way to measure\n")
    assert shelf._code(installed) != same
    shelf._code.cache_clear()


def test_other_code_finds_the_cohort_again(installed):
    same = shelf._code(installed)
    shelf._code.cache_clear()
    (installed / "vault.py").write_text("")
    assert shelf._code(installed) == same
    shelf._code.cache_clear()
