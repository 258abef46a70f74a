"""Claims about the evaluation: the histogram says what the scores say, and a missing class is named, never nan."""

import math

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from common.errors import ProtocolError
from server import evaluate

BINS = 32


def drawn(n_negative, n_positive, seed=0, shift=0.15):
    random = np.random.default_rng(seed)
    negative = np.clip(random.normal(0.45, 0.15, n_negative), 0, 0.999)
    positive = np.clip(random.normal(0.45 + shift, 0.15, n_positive), 0, 0.999)
    bins = [np.floor(scores * BINS).astype(int) for scores in (negative, positive)]
    return bins, np.array([np.bincount(one, minlength=BINS) for one in bins])


def delong_by_pairs(negative, positive):
    """The oracle: DeLong's components from the matrix of all pairs."""
    wins = (positive[:, None] > negative[None]) + 0.5 * (positive[:, None] == negative[None])
    return wins.mean(), math.sqrt(wins.mean(1).var(ddof=1) / len(positive) + wins.mean(0).var(ddof=1) / len(negative))


@pytest.mark.parametrize(("n_negative", "n_positive"), [(40, 25), (4, 3), (300, 3)])
def test_auc_and_its_error_equal_those_of_all_pairs(n_negative, n_positive):
    (negative, positive), counts = drawn(n_negative, n_positive, seed=4)
    found = evaluate.from_histogram(counts)
    auc, error = delong_by_pairs(negative, positive)
    assert found.diagnosis == "ok"
    assert found.auc == pytest.approx(auc, rel=1e-12)
    assert found.auc == pytest.approx(mannwhitneyu(positive, negative).statistic / (n_negative * n_positive), rel=1e-12)
    assert found.auc_standard_error == pytest.approx(error, rel=1e-12)
    assert 0 < found.auc_interval[0] < found.auc < found.auc_interval[1] < 1


def test_the_interval_covers_the_truth_about_95_times_in_100():
    random = np.random.default_rng(1)
    mass = np.stack([np.exp(-((np.arange(BINS) - centre) ** 2) / 60) for centre in (13, 19)])
    mass /= mass.sum(1, keepdims=True)
    truth = evaluate.from_histogram(np.rint(mass * 1e9).astype(np.int64)).auc
    covered = 0
    for _ in range(1000):
        counts = np.array([random.multinomial(n, p) for n, p in zip((40, 30), mass, strict=True)])
        low, high = evaluate.from_histogram(counts).auc_interval
        covered += low <= truth <= high
    assert 920 <= covered <= 980


def test_exchanging_the_classes_turns_the_auc_round():
    _, counts = drawn(30, 20)
    one, other = evaluate.from_histogram(counts), evaluate.from_histogram(counts[::-1])
    assert one.auc + other.auc == pytest.approx(1)
    assert one.auc_standard_error == pytest.approx(other.auc_standard_error)


def test_loss_and_accuracy_are_those_of_the_bin_centres():
    (negative, positive), counts = drawn(40, 25)
    found = evaluate.from_histogram(counts)
    scores = (np.concatenate([negative, positive]) + 0.5) / BINS
    classes = np.r_[np.zeros(40), np.ones(25)]
    assert found.log_loss == pytest.approx(-np.mean(classes * np.log(scores) + (1 - classes) * np.log(1 - scores)))
    assert found.accuracy == pytest.approx(np.mean((scores >= 0.5) == classes))
    assert (found.n_negative, found.n_positive) == (40, 25)


def test_a_constant_score_is_worth_nothing():
    counts = np.zeros((2, BINS), int)
    counts[:, BINS // 2] = 30, 20
    found = evaluate.from_histogram(counts)
    assert (found.auc, found.diagnosis, found.auc_interval) == (0.5, "no spread", None)


@pytest.mark.parametrize(
    ("negatives", "positives", "diagnosis", "auc"),
    [
        ([0, 0], [0, 0], "no patients", None),
        ([3, 1], [0, 0], "no positive patients", None),
        ([0, 0], [2, 5], "no negative patients", None),
        ([0, 4], [1, 0], "one patient in a class", 0.0),
        ([1, 0], [1, 0], "one patient in a class", 0.5),
        ([5, 0], [0, 4], "separated", 1.0),
        ([0, 5], [4, 0], "separated", 0.0),
    ],
)
def test_what_cannot_be_computed_is_named(negatives, positives, diagnosis, auc):
    found = evaluate.from_histogram(np.array([negatives, positives]))
    assert (found.diagnosis, found.auc) == (diagnosis, auc)
    assert found.auc_standard_error is None
    assert found.auc_interval is None
    assert (found.accuracy is None) == (diagnosis == "no patients")


@pytest.mark.parametrize(
    "counts", [np.zeros((3, 8), int), np.zeros(16, int), np.zeros((2, 0), int), np.array([[1, -1], [0, 2]]), np.ones((2, 8))]
)
def test_a_histogram_that_is_none_is_refused(counts):
    with pytest.raises(ProtocolError):
        evaluate.from_histogram(counts)
