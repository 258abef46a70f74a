"""Firth's penalty and Cox regression from sums equal the pooled maximum at 50 digits, p-values too."""

from collections.abc import Callable, Sequence

import mpmath as mp
import numpy as np
import pytest
from mpmath import mpf

from server.infer import cox, logistic
from tests.pooling import columns, drive, rows_of, split

DIGITS = 60
Score = Callable[[list[mpf]], list[mpf]]


@pytest.fixture(autouse=True)
def fifty_digits():
    with mp.workdps(DIGITS):
        yield


def climb(score: Score, start: Sequence[float], *, free: Sequence[int] | None = None) -> list[mpf]:
    """Find where the free components of the score are zero, by Newton's method with derivatives by differences."""
    at, free = [mpf(v) for v in start], list(range(len(start)) if free is None else free)
    h = mpf(10) ** -22
    for _ in range(12):
        here = mp.matrix([score(at)[i] for i in free])
        slope = mp.matrix(len(free), len(free))
        for column, j in enumerate(free):
            up, down = (score([v + way * h * (i == j) for i, v in enumerate(at)]) for way in (1, -1))
            for row, i in enumerate(free):
                slope[row, column] = (up[i] - down[i]) / (2 * h)
        step = mp.lu_solve(slope, here)
        for j, by in zip(free, step, strict=True):
            at[j] -= max(mpf(-1), min(mpf(1), by))  # far from the maximum a whole step can leave the range of exp
        if max(abs(v) for v in step) < mpf(10) ** -45:
            return at
    raise AssertionError("the oracle found no maximum")


def normal_p(z: mpf) -> mpf:
    """Two-sided, as an upper tail."""
    return mp.erfc(abs(z) / mp.sqrt(2))


def chi2_p(value: mpf, *, df: int) -> mpf:
    return mp.gammainc(mpf(df) / 2, value / 2, mp.inf, regularized=True)


def far(found: Sequence[float], truth: Sequence[mpf]) -> float:
    """Largest relative difference."""
    return max(float(abs(mpf(a) / b - 1)) for a, b in zip(found, truth, strict=True))


class Firth:
    """The penalised likelihood of pooled rows, its score and its information."""

    def __init__(self, table: dict[str, np.ndarray]) -> None:
        self.y = [int(v) for v in table["y"]]
        self.x = [[mpf(1), mpf(a), mpf(b)] for a, b in zip(table["size"].tolist(), table["age"].tolist(), strict=True)]

    def parts(self, b: list[mpf]) -> tuple[list[mpf], mp.matrix]:
        chance = [1 / (1 + mp.exp(-mp.fdot(row, b))) for row in self.x]
        held = [
            [mp.fsum(r[i] * r[j] * c * (1 - c) for r, c in zip(self.x, chance, strict=True)) for j in range(3)]
            for i in range(3)
        ]
        return chance, mp.matrix(held)

    def likelihood(self, b: list[mpf]) -> mpf:
        chance, information = self.parts(b)
        return mp.fsum(mp.log(c if y else 1 - c) for y, c in zip(self.y, chance, strict=True)) + mp.log(mp.det(information)) / 2

    def score(self, b: list[mpf]) -> list[mpf]:
        chance, information = self.parts(b)
        inverse = information**-1
        residual = []
        for row, y, c in zip(self.x, self.y, chance, strict=True):
            leverage = c * (1 - c) * mp.fsum(row[i] * inverse[i, j] * row[j] for i in range(3) for j in range(3))
            residual.append(y - c + leverage * (mpf(1) / 2 - c))
        return [mp.fsum(row[i] * r for row, r in zip(self.x, residual, strict=True)) for i in range(3)]


def scored(table: dict[str, np.ndarray], *, free: list[int]) -> list[float]:
    """Where half steps of Fisher's scoring end in plain floating point, the other coefficients at zero: a start for `climb`."""
    x, b = np.column_stack([np.ones(len(table["y"])), table["size"], table["age"]]), np.zeros(3)
    for _ in range(300):
        chance = 1 / (1 + np.exp(-x @ b))
        weight = chance * (1 - chance)
        information = x.T @ (x * weight[:, None])
        leverage = weight * np.einsum("ij,jk,ik->i", x, np.linalg.inv(information), x)
        score = x.T @ (table["y"] - chance + leverage * (0.5 - chance))
        b[free] += np.linalg.solve(information[np.ix_(free, free)], score[free]) / 2
    return b.tolist()


def separated() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(11)
    y = (np.arange(36) % 2).astype(float)
    return {"y": y, "size": np.round(10 + 3 * y + rng.uniform(0, 2.5, 36), 2), "age": np.round(rng.normal(60, 8, 36), 1)}


def test_firths_estimates_errors_and_profile_tests_equal_fifty_digits() -> None:
    table = separated()
    rows = rows_of(table)
    result = drive(logistic.fit(logistic.Spec(outcome="y", predictors=columns(rows, "size", "age"))), split(rows))
    assert result.method == "firth"
    oracle = Firth(table)
    best = climb(oracle.score, [r.estimate for r in result.rows])
    top, inverse = oracle.likelihood(best), oracle.parts(best)[1] ** -1
    assert far([r.estimate for r in result.rows], best) <= 1e-10
    assert far([r.standard_error for r in result.rows], [mp.sqrt(inverse[i, i]) for i in range(3)]) <= 1e-10
    assert far([result.log_likelihood], [top]) <= 1e-10
    for j, row in enumerate(result.rows):
        free = [i for i in range(3) if i != j]
        held = climb(oracle.score, scored(table, free=free), free=free)
        assert far([row.p], [chi2_p(2 * (top - oracle.likelihood(held)), df=1)]) <= 1e-10, row.term
    null = climb(oracle.score, scored(table, free=[0]), free=[0])
    chi2 = 2 * (top - oracle.likelihood(null))
    assert far([result.chi2, result.chi2_p], [chi2, chi2_p(chi2, df=2)]) <= 1e-10


class Efron:
    """The partial likelihood of rows in strata with Efron's ties, its score and its information."""

    def __init__(self, data: dict[str, np.ndarray], of: np.ndarray) -> None:
        self.ties = []
        for stratum in np.unique(of):
            here = np.flatnonzero(of == stratum)
            for time in np.unique(data["days"][here][data["died"][here] == 1]):
                risk = [i for i in here.tolist() if data["days"][i] >= time]
                self.ties.append((risk, [i for i in risk if data["days"][i] == time and data["died"][i] == 1]))
        self.x = [[mpf(a), mpf(b)] for a, b in zip(data["age"].tolist(), data["size"].tolist(), strict=True)]

    def parts(self, b: list[mpf]) -> tuple[mpf, list[mpf], mp.matrix]:
        weight = [mp.exp(mp.fdot(row, b)) for row in self.x]
        like, score, information = mpf(0), [mpf(0)] * 2, mp.matrix(2, 2)

        def sums(of: list[int]) -> list[mpf]:
            held = [[weight[i], *(weight[i] * v for v in self.x[i])] for i in of]
            held = [[*h, *(h[1 + j] * self.x[i][k] for j in range(2) for k in range(2))] for h, i in zip(held, of, strict=True)]
            return [mp.fsum(column) for column in zip(*held, strict=True)]

        for risk, dead in self.ties:
            whole, gone = sums(risk), sums(dead)
            like += mp.fsum(mp.log(weight[i]) for i in dead)
            score = [score[j] + mp.fsum(self.x[i][j] for i in dead) for j in range(2)]
            for step in range(len(dead)):
                a = [w - mpf(step) / len(dead) * g for w, g in zip(whole, gone, strict=True)]
                like -= mp.log(a[0])
                mean = [a[1] / a[0], a[2] / a[0]]
                score = [score[j] - mean[j] for j in range(2)]
                for j in range(2):
                    for k in range(2):
                        information[j, k] += a[3 + 2 * j + k] / a[0] - mean[j] * mean[k]
        return like, score, information


@pytest.mark.parametrize("stratified", [False, True])
def test_cox_with_ties_equals_fifty_digits(stratified: bool) -> None:
    rng = np.random.default_rng(6)
    n = 45
    age, size = np.round(rng.normal(60, 9, n), 1), np.round(rng.lognormal(1, 0.4, n), 2)
    days = np.ceil(rng.exponential(40 / np.exp(0.03 * (age - 60) + 0.2 * size)) / 3)  # many of one day
    data = {"days": np.minimum(days, 15.0), "died": (days <= 15).astype(float), "age": age, "size": size}
    rows = rows_of(data)
    of = np.arange(n) % 3 if stratified else np.zeros(n)
    grid = () if stratified else tuple((np.arange(17) + 0.5).tolist())
    spec = cox.Spec(time="days", event="died", predictors=columns(rows, "age", "size"), grid=grid)
    result = drive(cox.fit(spec), [rows.part(of == h) for h in range(3)] if stratified else split(rows))
    oracle = Efron(data, of)
    assert any(len(dead) > 1 for _, dead in oracle.ties)
    best = climb(lambda b: oracle.parts(b)[1], [r.estimate for r in result.rows])
    top, _, information = oracle.parts(best)
    inverse = information**-1
    errors = [mp.sqrt(inverse[i, i]) for i in range(2)]
    z = [b / e for b, e in zip(best, errors, strict=True)]
    chi2 = 2 * (top - oracle.parts([mpf(0), mpf(0)])[0])
    assert far([r.estimate for r in result.rows], best) <= 1e-10
    assert far([r.standard_error for r in result.rows], errors) <= 1e-10
    assert far([r.z for r in result.rows], z) <= 1e-10
    assert far([r.p for r in result.rows], [normal_p(v) for v in z]) <= 1e-10
    assert far([result.log_likelihood, result.chi2, result.chi2_p], [top, chi2, chi2_p(chi2, df=2)]) <= 1e-10
