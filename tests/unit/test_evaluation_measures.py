"""What is claimed of the measures of an evaluation: the textbook's numbers when exact, honest intervals when noisy."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.inter_rater import cohens_kappa
from statsmodels.stats.proportion import proportion_confint

from server import evaluate, evaluation_measures, evaluation_regression
from server.evaluation_measures import auc, calibration_error, confusion, kappa, per_class, proportion, reliability, roc

BINS = 16


def scored(n, *, seed, apart=1.0, bins=BINS):
    """Scores and truth of patients, and their table (no or yes, bin)."""
    random = np.random.default_rng(seed)
    truth = random.random(n) < 0.4
    scores = stats.norm.cdf(random.normal(apart * (truth - 0.5), 1))
    return scores, truth, table_of(scores, truth, bins)


def table_of(scores, truth, bins=BINS):
    places = np.minimum((scores * bins).astype(int), bins - 1)
    return np.stack([np.bincount(places[truth == side], minlength=bins) for side in (False, True)]).astype(float)


@pytest.mark.parametrize(("hits", "n"), [(0, 5), (3, 7), (40, 50), (50, 50)])
def test_an_exact_share_has_wilsons_interval(hits, n):
    found = proportion(np.array([float(hits)]), np.array([float(n - hits)]), noise=0.0)
    assert (found.low, found.high) == pytest.approx(proportion_confint(hits, n, method="wilson"), abs=1e-12)
    assert found.value == hits / n


def test_an_exact_auc_is_that_of_the_histogram():
    _, _, table = scored(300, seed=1)
    found, before = auc(table, noise=0.0), evaluate.from_histogram(table.astype(np.int64))
    assert (found.value, found.low, found.high) == pytest.approx((before.auc, *before.auc_interval), abs=1e-12)


@pytest.mark.parametrize("quadratic", [True, False])
def test_kappa_and_its_error_are_statsmodels(quadratic):
    matrix = np.random.default_rng(3).integers(0, 30, (4, 4)) + 40 * np.eye(4)
    found = kappa(matrix, noise=0.0, quadratic=quadratic)
    theirs = cohens_kappa(matrix, weights=np.arange(4), wt="quadratic") if quadratic else cohens_kappa(matrix)
    assert found.value == pytest.approx(theirs.kappa, abs=1e-12)
    assert (found.high - found.value) / 1.959964 == pytest.approx(theirs.std_kappa, rel=1e-4)


def confused(truth, taken, many):
    matrix = np.zeros((many, many))
    np.add.at(matrix, (truth, taken), 1)
    return matrix


def test_each_class_against_the_rest_is_that_of_the_patients():
    random = np.random.default_rng(5)
    truth, taken = random.integers(0, 3, 200), random.integers(0, 3, 200)
    matrix = confused(truth, taken, 3)
    for at, row in enumerate(per_class(matrix, classes=["a", "b", "c"], noise=0.0)):
        assert row["patients"] == (truth == at).sum()
        assert row["sensitivity"]["value"] == pytest.approx((taken[truth == at] == at).mean())
        assert row["specificity"]["value"] == pytest.approx((taken[truth != at] != at).mean())
        assert row["predictive_value"]["value"] == pytest.approx((truth[taken == at] == at).mean())


def test_reliability_and_calibration_error_are_those_of_the_scores_at_bin_centres():
    scores, truth, table = scored(500, seed=6, bins=20)
    centres = (np.minimum((scores * 20).astype(int), 19) + 0.5) / 20
    groups, error = np.minimum((scores * 20).astype(int), 19) // 2, 0.0
    rows = reliability(table, noise=0.0)
    assert len(rows) == 10
    for at, row in enumerate(rows):
        here = groups == at
        assert row["patients"] == here.sum()
        assert row["predicted"] == pytest.approx(centres[here].mean())
        assert row["observed"]["value"] == pytest.approx(truth[here].mean())
        error += abs(truth[here].mean() - centres[here].mean()) * here.mean()
    assert calibration_error(table, noise=0.0) == pytest.approx(error)
    assert evaluation_measures.brier(table) == pytest.approx(((truth - centres) ** 2).mean())


def test_the_roc_ends_in_both_corners_and_never_falls():
    _, _, table = scored(200, seed=7)
    for noise in (0.0, 3.0):
        noisy = table + np.random.default_rng(8).normal(0, noise, table.shape)
        points = np.array(roc(noisy))
        assert points[0].tolist() == [0.0, 0.0]
        assert points[-1].tolist() == [1.0, 1.0]
        assert (np.diff(points, axis=0) >= 0).all()
    assert np.trapezoid(np.array(roc(table))[:, 1], np.array(roc(table))[:, 0]) == pytest.approx(auc(table, noise=0.0).value)


@pytest.mark.parametrize("measure", ["auc", "accuracy", "sensitivity", "kappa"])
def test_intervals_of_noisy_tables_hold_the_truth_as_often_as_they_say(measure):
    noise, held, known, trials = 6.0, 0, [], 300
    large = scored(400_000, seed=99)[2]
    random = np.random.default_rng(9)
    expected = read(large, measure, noise=0.0).value
    for trial in range(trials):
        table = scored(400, seed=1000 + trial)[2]
        found = read(table + random.normal(0, noise, table.shape), measure, noise=noise)
        if found.low is not None:
            known.append((found.value, found.high - found.low))
            held += found.low <= expected <= found.high
    assert len(known) > 0.95 * trials
    # 95 % of 300 within four standard errors
    assert held / len(known) > 0.95 - 4 * (0.0475 / len(known)) ** 0.5
    assert_no_wider_than_need_be(known)
    without = read(scored(400, seed=1000)[2], measure, noise=0.0)
    assert found.high - found.low > 1.02 * (without.high - without.low)


def assert_no_wider_than_need_be(found):
    """Twice 1.96 deviations of the values themselves, and at most 30 % more."""
    values, widths = np.array(found).T
    assert np.median(widths) < 1.3 * 2 * 1.96 * values.std()


def read(table, measure, *, noise):
    if measure == "auc":
        return auc(table, noise=noise)
    half = BINS // 2
    if measure == "accuracy":
        right = np.concatenate([table[0, :half], table[1, half:]])
        return proportion(right, np.concatenate([table[0, half:], table[1, :half]]), noise=noise)
    if measure == "sensitivity":
        return proportion(table[1, half:], table[1, :half], noise=noise)
    matrix = np.stack([table[:, :half].sum(axis=1), table[:, half:].sum(axis=1)], axis=1)
    return kappa(matrix, noise=noise * half**0.5, quadratic=False)


def test_what_does_not_stand_out_of_the_noise_has_no_number():
    _, _, table = scored(30, seed=10)
    assert auc(table, noise=20.0).value is None
    assert proportion(table[1], table[0], noise=20.0).value is None
    assert calibration_error(table, noise=20.0) is None
    assert confusion(table[:, :2], noise=200.0, ordinal=True)["kappa"]["value"] is None
    nobody = np.zeros((2, BINS))
    assert auc(nobody, noise=0.0).value is None
    assert calibration_error(nobody, noise=0.0) is None
    assert kappa(np.zeros((3, 3)), noise=0.0, quadratic=True).value is None
    assert roc(nobody) == []


def sums(n, *, seed, noise=0.0):
    random = np.random.default_rng(seed)
    z = np.clip(random.normal(0.5, 0.15, n), 0, 1)
    p = np.clip(0.5 + 0.7 * (z - 0.5) + random.normal(0, 0.08, n), 0, 1)
    found = np.array([n, abs(z - p).sum(), z.sum(), (z * z).sum(), p.sum(), (p * p).sum(), (z * p).sum()])
    return z, p, found + random.normal(0, noise, 7)


def test_exact_sums_give_the_measures_of_the_values():
    z, p, found = sums(250, seed=11)
    told = evaluation_regression.measures(found, noise=0.0, lower=10.0, upper=60.0)
    assert told["patients"] == 250
    assert told["mean_absolute_error"]["value"] == pytest.approx(50 * abs(z - p).mean())
    assert told["rmse"]["value"] == pytest.approx(50 * ((z - p) ** 2).mean() ** 0.5)
    assert told["r_squared"]["value"] == pytest.approx(1 - ((z - p) ** 2).sum() / ((z - z.mean()) ** 2).sum())
    assert told["correlation"]["value"] == pytest.approx(np.corrcoef(z, p)[0, 1])
    assert told["slope"]["value"] == pytest.approx(stats.linregress(p, z).slope)
    fisher = np.tanh(np.arctanh(np.corrcoef(z, p)[0, 1]) + np.array([-1, 1]) * 1.96 / 247**0.5)
    assert (told["correlation"]["low"], told["correlation"]["high"]) == pytest.approx(fisher, abs=0.01)


@pytest.mark.parametrize("measure", ["mean_absolute_error", "r_squared", "correlation"])
def test_intervals_of_noisy_sums_hold_the_truth_as_often_as_they_say(measure):
    expected = evaluation_regression.measures(sums(400_000, seed=12)[2], noise=0.0, lower=0, upper=1)[measure]["value"]
    held, known, trials = 0, [], 60
    for trial in range(trials):
        found = evaluation_regression.measures(sums(600, seed=100 + trial, noise=0.5)[2], noise=0.5, lower=0, upper=1)[measure]
        known.append((found["value"], found["high"] - found["low"]))
        held += found["low"] <= expected <= found["high"]
    assert held / trials > 0.95 - 4 * (0.0475 / trials) ** 0.5
    assert_no_wider_than_need_be(known)


def test_sums_of_nobody_or_lost_in_noise_have_no_number():
    for found, noise in ((np.zeros(7), 0.0), (sums(20, seed=13)[2], 30.0)):
        told = evaluation_regression.measures(found, noise=noise, lower=0, upper=1)
        assert told["mean_absolute_error"]["value"] is None
        assert told["r_squared"]["value"] is None


@pytest.mark.parametrize("quadratic", [True, False])
@pytest.mark.parametrize("matrix", [np.diag([3.0, 2.0, 4.0]), np.array([[0.0, 1.0], [0.0, 0.0]])])
def test_a_kappa_without_spread_claims_no_certainty(matrix, quadratic):
    found = kappa(matrix, noise=0.0, quadratic=quadratic)
    assert found.value in {0.0, 1.0}
    assert (found.low, found.high) == (None, None)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_an_error_of_a_handful_of_patients_has_no_interval(n):
    told = evaluation_regression.measures(sums(n, seed=14)[2], noise=0.0, lower=0, upper=1)["mean_absolute_error"]
    assert told["value"] > 0
    assert (told["low"], told["high"]) == (None, None)
