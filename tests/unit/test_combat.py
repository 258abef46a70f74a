"""Harmonised features equal those of ComBat on the pooled table, and no hospital's mean is asked for."""

import numpy as np
import pytest

from client.harmonise import harmonise
from client.kernels.answer import answer
from client.kernels.rows import Rows
from common import fixed_point
from common.errors import ConfigError, DataError, NotEstimable
from common.query import ask
from server.infer import combat
from tests.combat import central
from tests.pooling import columns, drive, rows_of

FEATURES = ("f0", "f1", "f2", "f3", "f4")


def scanners(n: int = 180) -> tuple[Rows, np.ndarray]:
    rng = np.random.default_rng(11)
    batch = rng.choice(3, size=n, p=[0.5, 0.3, 0.2])
    age = rng.normal(60, 8, n) + 3 * batch
    sex = rng.integers(0, 2, n).astype(float)
    x = (
        rng.normal(size=(n, 5)) * [1, 2, 5, 10, 50]
        + np.outer(age, [0.02, 0.1, -0.3, 0.0, 2.0])
        + np.outer(sex, [1, 0, 2, 3, 9])
    )
    x = x * np.array([1.0, 1.3, 0.8])[batch][:, None] + rng.normal(size=(3, 5))[batch] * [1, 2, 5, 10, 50]
    return rows_of({name: x[:, i] for i, name in enumerate(FEATURES)} | {"age": age, "sex": sex}), batch


@pytest.mark.parametrize("covariates", [("age", "sex"), ()])
def test_harmonised_features_equal_combat_on_the_pooled_table(covariates: tuple[str, ...]) -> None:
    rows, batch = scanners()
    spec = combat.Spec(features=columns(rows, *FEATURES), covariates=columns(rows, *covariates))
    pooled = drive(combat.fit(spec), [rows.part(batch == k) for k in range(3)])
    x, c = rows.values[:, :5], rows.values[:, [rows.names.index(name) for name in covariates]]
    truth = central(x, c, batch)
    for k in range(3):
        own = harmonise(x[batch == k], covariates=c[batch == k], pooled=pooled)
        assert np.allclose(own, truth[batch == k], rtol=1e-10, atol=1e-10 * np.abs(truth).max(axis=0))
    assert pooled.n == len(x)


def test_moving_one_hospital_changes_its_sums_only_and_no_centred_product() -> None:
    rows, batch = scanners()
    own = rows.part(batch == 0)
    moved = Rows(names=own.names, values=own.values + 0.25, lower=own.lower, upper=tuple(v + 1 for v in own.upper))
    fixed = Rows(names=own.names, values=own.values, lower=own.lower, upper=moved.upper)
    query = ask("within", responses=FEATURES, predictors=("age", "sex"))
    before, after = (fixed_point.read(answer(table, query=query).values.tolist()) for table in (fixed, moved))
    assert not np.allclose(before[1:8], after[1:8], rtol=1e-6)
    assert np.allclose(before[8:], after[8:], rtol=1e-11, atol=1e-12)


def test_hopeless_tables_are_named() -> None:
    rows, batch = scanners()
    parts = [rows.part(batch == k) for k in range(3)]
    with pytest.raises(ConfigError):
        combat.Spec(features=())
    site = rows_of(
        {name: rows.values[:, i] for i, name in enumerate(FEATURES)} | {"age": batch * 1.0, "sex": rows.values[:, 6]}
    )
    spec = combat.Spec(features=columns(site, *FEATURES), covariates=columns(site, "age"))
    with pytest.raises(NotEstimable) as caught:
        drive(combat.fit(spec), [site.part(batch == k) for k in range(3)])
    assert (caught.value.diagnosis, caught.value.term) == ("constant", "age")
    pooled = drive(combat.fit(combat.Spec(features=columns(rows, *FEATURES))), parts)
    x = parts[0].values[:, :5]
    none = np.zeros((len(x), 0))
    for bad in (x[:2], x[:, :4], np.where(x > 0, np.nan, x), np.where(np.arange(5) == 2, 1.0, x)):
        with pytest.raises(DataError):
            harmonise(bad, covariates=none[: len(bad)], pooled=pooled)
