"""Fixtures that many tests share: phantom scans once per session, a fresh federation per test."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests import federation

settings.register_profile("motet", deadline=None, suppress_health_check=[HealthCheck.too_slow])  # machines are shared
settings.load_profile("motet")


@pytest.fixture(scope="session")
def phantom_scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    federation.write_scans(folder)
    return folder


@pytest.fixture(scope="session")
def cohort_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cohorts")


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
