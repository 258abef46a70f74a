"""Fixtures that many tests share: phantom scans once per session, a fresh federation per test, a lane.

What is heavy is imported where it is used: the process that hands out the tests to others needs none of it.
"""

import contextlib
import fcntl
import gc
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("motet", deadline=None, suppress_health_check=[HealthCheck.too_slow])  # machines are shared
settings.load_profile("motet")

SLOW = {  # whoever takes one of these last lets the others wait
    *("test_volumes.py", "test_protocol_states.py", "test_federation.py", "test_demo_cohort.py", "test_modalities.py"),
    *("test_noisy_gram.py", "test_accounting.py", "test_audit_commands.py", "test_one_run.py", "test_points.py"),
}
IN_MEMORY = Path("/dev/shm")
IN_MEMORY_BYTES_LEAST = 4 << 30


def pytest_configure() -> None:
    """Keep the tests' folders in memory where there is room: the vaults sync each step, and a disk is shared."""
    if IN_MEMORY.is_dir() and os.access(IN_MEMORY, os.W_OK):
        there = os.statvfs(IN_MEMORY)
        if there.f_bavail * there.f_frsize >= IN_MEMORY_BYTES_LEAST and not there.f_flag & os.ST_NOEXEC:
            os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(IN_MEMORY))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Tell the garbage collector that modules and tests stay: it would look at a million objects again and again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with real processes and with the files that take longest; the others keep their order."""
    items.sort(key=lambda item: item.path.parent.name != "e2e" and item.path.name not in SLOW)


@pytest.fixture(scope="module")
def guard() -> Iterator[Any]:
    """Return a guard and its child, for all tests of a module."""
    from client.imaging.guard import Guard

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
    from tests import federation, phantoms

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
def make_federation(tmp_path: Path, phantom_scans: Path, cohort_cache: Path) -> Iterator[Callable[..., Any]]:
    from tests import federation

    made: list[federation.Federation] = []

    def make(**policy: Any) -> federation.Federation:
        folder = tmp_path / f"federation-{len(made)}"
        made.append(federation.Federation(folder, phantom_scans, cache=cohort_cache, policy=policy))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture(scope="module")
def lane_roster(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a coordinator's folder, a roster of two hospitals and their relays' folders."""
    from tests import lanes

    folder = tmp_path_factory.mktemp("lane")
    return folder, *lanes.certified(folder, lanes.NAMES)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the lane notice ten times as fast."""
    from tests import lanes

    lanes.hurry(monkeypatch)


@pytest.fixture
def there(lane_roster: Any, quick: None, caplog: pytest.LogCaptureFixture) -> Iterator[Any]:
    """Return a lane, relays through links, all of it ended at the end, and no text from outside in any log."""
    from tests import lanes

    caplog.set_level(logging.INFO)
    with contextlib.ExitStack() as stack:
        yield lanes.There(*lane_roster, stack)
    assert lanes.SHOUT not in caplog.text


@pytest.fixture
def ledger_path(tmp_path: Path) -> Path:
    """Return where `ledger` lies, or would."""
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def ledger(ledger_path: Path) -> Iterator[Any]:
    """Return a new ledger of the hospital aalen, which knows its policy and one study."""
    from tests import ledgers

    with ledgers.create(ledger_path) as opened:
        yield opened
