"""Fixtures that many tests share: phantom scans once per session, a fresh federation per test."""

import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from client.imaging.guard import Guard
from tests import federation, phantoms
from tests.lanes import lane_roster, quick, there  # noqa: F401  (fixtures)

settings.register_profile("motet", deadline=None, suppress_health_check=[HealthCheck.too_slow])  # machines are shared
settings.load_profile("motet")

IN_MEMORY = Path("/dev/shm")
IN_MEMORY_BYTES_LEAST = 4 << 30


def pytest_configure() -> None:
    """Keep the tests' folders in memory where there is room: the vaults sync each step, and a disk is shared."""
    if IN_MEMORY.is_dir() and os.access(IN_MEMORY, os.W_OK):
        there = os.statvfs(IN_MEMORY)
        if there.f_bavail * there.f_frsize >= IN_MEMORY_BYTES_LEAST and not there.f_flag & os.ST_NOEXEC:
            os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(IN_MEMORY))


@pytest.fixture(scope="module")
def guard() -> Iterator[Guard]:
    """Return a guard and its child, for all tests of a module."""
    with Guard() as running:
        yield running


@pytest.fixture(scope="session")
def everybodys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that the processes of a parallel run share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "everybodys"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def phantom_scans(everybodys: Path) -> Path:
    """Write every hospital's phantoms, in each of which identifiers are planted."""
    folder = everybodys / "scans"
    with (everybodys / "scans.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():  # whole or absent
            unfinished = everybodys / "scans.unfinished"
            federation.write_scans(unfinished, planted=phantoms.PLANTED)
            unfinished.rename(folder)
    return folder


@pytest.fixture(scope="session")
def cohort_cache(everybodys: Path) -> Path:
    folder = everybodys / "cohorts"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture
def make_federation(tmp_path: Path, phantom_scans: Path, cohort_cache: Path) -> Iterator[Callable[..., federation.Federation]]:
    made: list[federation.Federation] = []

    def make(**policy: Any) -> federation.Federation:
        folder = tmp_path / f"federation-{len(made)}"
        made.append(federation.Federation(folder, phantom_scans, cache=cohort_cache, policy=policy))
        return made[-1]

    yield make
    for one in made:
        one.close()
