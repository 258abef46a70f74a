"""A naive interval cannot be had: what reads exact moments refuses noisy ones, to the type checker and at run time."""

import importlib
import inspect
import pkgutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import NoisyNotExact
from common.moments import Moments
from common.noisy_moments import NoisyMoments
from server import infer
from server.infer import anova, correlation, family, groups, principal, regression, table_one
from server.infer import partial as partial_correlation
from server.infer.private import family as private
from tests import noisy
from tests.unit.test_private_inference import FRAME, STUDY

HELD = noisy.released(FRAME, held=STUDY, sigma=0.05)
EXACT: dict[str, Callable[[Any], Any]] = {
    "regression": lambda held: regression.fit(held, outcome="y", predictors=["age", "x"]),
    "model": lambda held: regression.fit_model(held, model=STUDY.model("y ~ grade")),
    "correlation": lambda held: correlation.correlate(held, names=["age", "x"]),
    "partial": lambda held: partial_correlation.correlate(held, names=["age", "x", "y"]),
    "anova": lambda held: anova.analyse(held, model=STUDY.model("y ~ grade"), kind="II"),
    "components": lambda held: principal.components(held, names=["age", "x"]),
    "table one": lambda held: table_one.describe(held, study=STUDY, names=["age"]),
    "groups": lambda held: groups.groups(held, outcome="y", factor="grade", levels=["g1", "g2", "g3"]),
    "family": lambda held: family.read(held, study=STUDY),
}


@pytest.mark.parametrize("name", EXACT)
def test_exact_analyses_refuse_a_noisy_gram_by_name(name: str) -> None:
    with pytest.raises(NoisyNotExact, match="ignore the noise") as error:
        EXACT[name](HELD)
    assert "private" in error.value.action


def test_only_the_private_folder_takes_noisy_moments() -> None:
    takes: dict[str, list[Any]] = {}
    for found in pkgutil.walk_packages(infer.__path__, "server.infer."):
        module = importlib.import_module(found.name)
        for _, function in inspect.getmembers(module, inspect.isfunction):
            if function.__module__ == found.name:
                takes.setdefault(found.name, []).extend(function.__annotations__.values())
    noisy_readers = {name for name, types in takes.items() if NoisyMoments in types}
    exact_readers = {name for name, types in takes.items() if Moments in types}
    assert len(exact_readers) > 8
    assert noisy_readers
    assert all(name.startswith("server.infer.private.") for name in noisy_readers)
    assert not noisy_readers & exact_readers
    assert not issubclass(NoisyMoments, Moments)


def test_exact_moments_are_not_read_as_noisy_ones() -> None:
    exact = Moments(columns=STUDY.columns(), n=1, exponents=(), sums=(), cross=())
    with pytest.raises(AttributeError):
        private.read(exact, study=STUDY)  # type: ignore[arg-type]


def test_noisy_moments_still_answer_like_any_value() -> None:
    assert not hasattr(HELD, "cross")
    assert HELD == HELD  # noqa: PLR0124
    assert "sigma" in repr(HELD)
    assert np.asarray(HELD.matrix).shape == (len(HELD.columns) + 1,) * 2


@pytest.mark.long
def test_the_type_checker_refuses_it_too(tmp_path: Path) -> None:
    (tmp_path / "naive.py").write_text(
        "from common.noisy_moments import NoisyMoments\nfrom server.infer import regression\n\n\n"
        "def naive(held: NoisyMoments) -> object:\n"
        '    return regression.fit(held, outcome="y", predictors=["x"])\n'
    )
    root = Path(infer.__path__[0]).parents[1]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", root / "pyproject.toml", tmp_path / "naive.py"],
        cwd=root, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert 'incompatible type "NoisyMoments"; expected "Moments"' in done.stdout
