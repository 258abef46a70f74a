"""Tables dealt to hospitals: each makes its real contribution to the wide Gram, the sum is opened into moments."""

import os
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from client import summarise
from client.inside import Cohort
from common import moments
from common.moments import Moments
from common.study import Study
from tests import federation

DATA = Path(os.environ.get("MOTET_TEST_DATA", Path(__file__).parents[1] / ".." / "shared" / "data"))


def real(name: str) -> Path:
    path = DATA / name
    if not path.is_file():
        pytest.skip(f'real data "{name}" not found in {DATA} (set MOTET_TEST_DATA)')
    return path


def study(numbers: Mapping[str, Sequence[Any]], *, factors: Mapping[str, Sequence[str]] | None = None, **wanted: Any) -> Study:
    """A study whose dictionary is `numbers` (name -> lower, upper, transformations...) and `factors` (name -> levels)."""
    first, second = list(numbers)[:2]
    clinical = {"source": "clinical", "unit": "1"}
    plain: list[dict[str, Any]] = [
        {"name": name, **clinical, "lower": Decimal(str(low)), "upper": Decimal(str(high)), "transforms": transforms}
        for name, (low, high, *transforms) in numbers.items()
    ]
    plain += [{"name": name, **clinical, "levels": levels} for name, levels in (factors or {}).items()]
    base = {"correlation": [first, second], "regression": {"outcome": first, "predictors": [second]}}
    return federation.study(variables=plain, statistics={**base, **wanted}, training={"label": first})


def cohort(frame: pd.DataFrame, *, held: Study) -> Cohort:
    """The cohort of one hospital: a factor's column holds the names of levels."""
    table = np.full((len(frame), len(held.variables)), np.nan)
    for at, variable in enumerate(held.variables):
        column = frame[variable.name]
        table[:, at] = column.map({level: i for i, level in enumerate(variable.levels)}) if variable.levels else column
    return Cohort(
        patients=tuple(str(i) for i in range(len(frame))),
        columns=tuple(variable.name for variable in held.variables),
        table=table,
        views=np.zeros((0, 1, 8, 8), dtype=np.float32),
        bags=tuple(() for _ in range(len(frame))),
    )


def pooled(frame: pd.DataFrame, *, held: Study, hospitals: Sequence[Any] | None = None) -> Moments:
    """The moments over hospitals: `hospitals` names one per row; four uneven ones where nothing is given."""
    where = (
        np.array(hospitals) if hospitals is not None else np.random.default_rng(5).choice(4, len(frame), p=[0.1, 0.2, 0.3, 0.4])
    )
    sent = [summarise.summarise(cohort(frame[where == one], held=held), study=held) for one in np.unique(where)]
    return moments.from_total(np.sum([one.values for one in sent], axis=0).tolist(), study=held)  # noqa: PD011


def difference(ours: Any, other: Any) -> float:
    """The largest relative difference."""
    a, b = np.atleast_1d(np.asarray(ours, dtype=float)), np.atleast_1d(np.asarray(other, dtype=float))
    return float(np.max(np.abs(a - b) / np.maximum(np.abs(b), 1e-300)))


GRADES, SEXES = ["g1", "g2", "g3"], ["f", "m"]


def synthetic(rows: int = 400) -> pd.DataFrame:
    """An unbalanced table with two factors, two covariates, interactions and unequal variances."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "age": rng.uniform(20, 90, rows),
            "x": rng.normal(size=rows).clip(-9, 9),
            "grade": rng.choice(GRADES, rows, p=[0.5, 0.3, 0.2]),
            "sex": rng.choice(SEXES, rows, p=[0.6, 0.4]),
        }
    )
    grade, sex = frame["grade"].map(dict(zip(GRADES, range(3), strict=True))), frame["sex"].eq("m")
    mean = 2 + 0.05 * frame["age"] + 0.3 * grade - 0.4 * sex + 0.2 * grade * sex + 0.1 * frame["x"] * grade
    frame["y"] = (mean + rng.normal(size=rows) * (1 + 0.5 * grade)).clip(-40, 40)
    return frame


NUMBERS: dict[str, Sequence[Any]] = {"y": (-50, 50), "age": (18, 100, "log", "square"), "x": (-10, 10)}
FACTORS = {"grade": GRADES, "sex": SEXES}


def heart() -> tuple[pd.DataFrame, pd.Series]:
    """UCI heart disease: the columns used, under names of the dictionary, and the four hospitals."""
    frame = pd.read_csv(real("heart-disease-4-hospitals.csv"))
    frame = frame.rename(columns={"thalch": "rate", "trestbps": "pressure", "cp": "pain"})
    frame = frame[frame["pressure"] != 0]
    return frame[["rate", "age", "pressure", "pain", "sex"]], frame["dataset"]


HEART_NUMBERS = {"rate": (0, 256), "age": (0, 128), "pressure": (64, 256)}
HEART_FACTORS = {"pain": ["asymptomatic", "atypical angina", "non-anginal", "typical angina"], "sex": ["Female", "Male"]}
