"""Claims about deploy/constraints.txt: it pins what is needed, all of it and nothing else, at the versions installed here."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
OF_THE_BUILDER = {"trove-classifiers"}  # what hatchling takes beside packages that are needed anyway
OLDEST = {"python_version": "3.11", "python_full_version": "3.11.0"}  # that the project runs on


def pins() -> dict[str, str]:
    lines = (ROOT / "deploy" / "constraints.txt").read_text().splitlines()
    told = [line.split("==") for line in lines if line and not line.startswith("#")]
    found = {str(canonicalize_name(name)): version for name, version in told}
    assert len(found) == len(told) > 50
    return found


def asked() -> list[str]:
    """What the project asks for: its dependencies, of every extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]


def builds() -> list[str]:
    """What builds it, in an environment that pip throws away."""
    told: list[str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    return told


def beside() -> set[str]:
    """What `make setup` installs without its dependencies."""
    return set(re.findall(r"--no-deps --constraint deploy/constraints.txt (\S+)", (ROOT / "Makefile").read_text()))


@pytest.fixture(scope="module")
def needed() -> dict[str, str]:
    """Everything that installing all of it takes, by name, and who asks for it."""
    found: dict[str, str] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    left = [(Requirement(one), "pyproject.toml") for one in asked()]
    while left:
        one, by = left.pop()
        name, extras = str(canonicalize_name(one.name)), frozenset(one.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        found.setdefault(name, by)
        for text in metadata.requires(name) or []:
            further = Requirement(text)
            marker = further.marker
            if marker is None or any(marker.evaluate({**OLDEST, "extra": extra}) for extra in {"", *extras}):
                left.append((further, name))
    return found


def test_everything_that_is_installed_for_the_project_is_pinned(needed: dict[str, str]) -> None:
    assert {name: by for name, by in needed.items() if name not in pins()} == {}


def test_nothing_is_pinned_that_nothing_needs(needed: dict[str, str]) -> None:
    assert set(pins()) - set(needed) == {
        *beside(),
        *OF_THE_BUILDER,
        *(str(canonicalize_name(Requirement(one).name)) for one in builds()),
    }


def test_the_pins_are_the_versions_that_the_tests_run_with(needed: dict[str, str]) -> None:
    told = pins()
    here = {name: metadata.version(name).split("+")[0] for name in {*needed, *beside()} if name in told}
    assert {name: version for name, version in here.items() if version != told[name]} == {}


def test_each_pin_is_a_version_that_the_project_asks_for() -> None:
    told = pins()
    for one in map(Requirement, [*asked(), *builds()]):
        assert one.specifier.contains(told[canonicalize_name(one.name)], prereleases=True), one
