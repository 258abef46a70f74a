"""Claims about who is held out, and about the histogram of their scores."""

from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest
import torch

from client import score
from client.kernels.rows import ALONE
from common import model, scores
from common.announcement import mechanism_for
from common.errors import BadEnvelope, InternalError
from common.mechanism import Exact
from tests import learning

PATIENTS = tuple(f"p{number:04d}" for number in range(4000))


def held_out(patients=PATIENTS, study_hash="a" * 64, fraction="0.3"):
    return score.held_out(patients, study_hash=study_hash, fraction=Decimal(fraction))


def test_the_fraction_is_held_out():
    assert held_out().mean() == pytest.approx(0.3, abs=6 * (0.21 / 4000) ** 0.5)
    assert not held_out(fraction="0").any()
    assert held_out(fraction="1").all()


def test_the_choice_depends_on_study_and_pseudonym_only():
    assert np.array_equal(held_out(), held_out())
    assert np.array_equal(held_out()[::-1], held_out(PATIENTS[::-1]))
    assert np.array_equal(held_out()[:10], held_out(PATIENTS[:10]))
    other = held_out(study_hash="b" * 64)
    assert 0.3 < (held_out() != other).mean() < 0.54  # independent: 0.42


def test_a_larger_fraction_holds_out_the_same_patients_and_more():
    assert not (held_out() & ~held_out(fraction="0.5")).any()


def test_nobody_is_an_empty_choice_and_a_wrong_fraction_is_refused():
    assert held_out(()).shape == (0,)
    for fraction in ("-0.1", "1.1", "nan"):
        with pytest.raises(ValueError):
            held_out(fraction=fraction)


def histograms(blobs, study, cohort, rows=None, *, seat=ALONE, cell_min=5):
    chosen = np.arange(len(cohort.patients)) if rows is None else np.array(rows, np.int64)
    given = mechanism_for(study, task="evaluate", hospitals=4, dimension=scores.dimension(study))
    return score.contribution(
        blobs, study=study, cohort=cohort, held_out_rows=chosen, mechanism=given, seat=seat, cell_min=cell_min
    )


def with_head(study, vector):
    network = learning.built(study)
    model.with_flat(network, model.HEAD, np.asarray(vector, float))
    return model.dump(network)


def test_counts_are_those_of_each_patients_mean_score():
    study, cohort = learning.study(score_bins=16), learning.cohort(30)
    blobs = [learning.initial(study), with_head(study, 3 * np.cos(np.arange(13.0)))]
    given = histograms(blobs, study, cohort)
    assert given.mechanism == Exact(statistic="score-histogram", ring_bits=64)
    assert given.values.dtype == np.int64
    expected = np.zeros((2, 2, 16), int)
    for number, blob in enumerate(blobs):
        network = learning.built(study)
        model.load(network, blob)
        for row, bag in enumerate(cohort.bags):
            with torch.no_grad():
                mean = torch.sigmoid(network(torch.from_numpy(cohort.views[list(bag[:3])]))).mean().item()
            expected[number, int(cohort.table[row, 1] > 3), int(mean * 16)] += 1
    assert np.array_equal(given.values.reshape(2, 2, 16), expected)


def test_extreme_scores_fall_into_the_outer_bins():
    study, cohort = learning.study(), learning.cohort(5)
    for bias, place in ((200.0, -1), (-200.0, 0)):
        counts = histograms([with_head(study, [0.0] * 12 + [bias])], study, cohort).values.reshape(2, 32)
        assert counts[:, place].sum() == 5


def test_a_score_that_is_not_finite_counts_as_one_half():
    study, cohort = learning.study(), learning.cohort(3, views=(1,))
    views = cohort.views.copy()
    views[1] = np.nan
    counts = histograms([with_head(study, [0.0] * 12 + [200.0])], study, replace(cohort, views=views)).values.reshape(2, 32)
    assert counts[:, 16].sum() == 1


def test_patients_without_label_or_views_count_nowhere():
    study, cohort = learning.study(), learning.cohort(4, views=(1,))
    table = cohort.table.copy()
    table[0, 1] = np.nan
    part = replace(cohort, table=table, bags=(*cohort.bags[:3], ()))
    assert histograms([learning.initial(study)], study, part).values.sum() == 2


def test_no_patients_and_no_models_are_no_errors():
    study = learning.study()
    assert not histograms([learning.initial(study)], study, learning.cohort(0)).values.any()
    assert histograms([learning.initial(study)], study, learning.cohort(3), rows=[]).values.shape == (64,)
    assert histograms([], study, learning.cohort(3)).values.shape == (0,)


def test_wrong_input_is_refused():
    study, cohort = learning.study(), learning.cohort(3)
    with pytest.raises(BadEnvelope):
        histograms([b"no model"], study, cohort)
    with pytest.raises(InternalError):
        histograms([learning.initial(study)], study, cohort, rows=[1, 1])
    with pytest.raises(InternalError):
        histograms([learning.initial(study)], study, learning.cohort(3, side=20))
