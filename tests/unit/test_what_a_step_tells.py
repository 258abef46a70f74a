"""What leaves a hospital in a training step: a vector with the whole noise, whoever was drawn; nothing says how many."""

import logging
import random
from decimal import Decimal

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.stats import chi2

from client import train
from client.attack.canaries import mechanism_of
from client.attack.draws import opened_sum
from common import model, wire
from common.crypto import rng
from common.mechanism import SampledStep
from common.privacy import Privacy
from tests import federation, learning
from tests.asking import set_up
from tests.written import entries

FRESH = {"id", "sha256", "round", "seq", "ts", "context", "commitments", "checkpoint"}  # of each round, whoever was drawn


def test_an_empty_draw_leaves_as_noise_of_the_whole_deviation():
    study, cohort = learning.study(sampling_rate="0.000000000000000001"), learning.cohort(12)
    mechanism = SampledStep(
        noise_multiplier=study.privacy.noise_multiplier,
        clip_norm=study.privacy.clip_norm,
        sampling_rate=study.privacy.sampling_rate,
        hospitals=4,
        colluders=1,
        dimension=13,
        patients_per_step_max=100,
        share_bits=16,
        ring_bits=32,
    )
    rows, blob, seen = np.arange(12), learning.initial(study), []
    for _ in range(120):
        given = train.contribution(blob, study=study, cohort=cohort, training_rows=rows, mechanism=mechanism)
        assert not given.values.any()
        seen.append(opened_sum(given.values, mechanism=mechanism) * mechanism.grid_step)
    deviation = float(mechanism.noise_multiplier) * mechanism.sensitivity  # of the honest hospitals' shares
    squares, freedom = np.square(np.array(seen) / deviation).sum(), 120 * 13
    assert chi2.ppf(1e-7, freedom) < squares < chi2.isf(1e-7, freedom)


def test_no_seed_of_any_generator_repeats_the_noise_that_leaves():
    mechanism, seen = mechanism_of(noise=Decimal(2), rate=Decimal("0.5"), dimension=64, patients=10), set()
    for _ in range(3):
        torch.manual_seed(0)
        torch.cuda.manual_seed_all(0)
        np.random.seed(0)  # noqa: NPY002
        random.seed(0)
        seen.add(opened_sum(np.zeros(64), mechanism=mechanism).tobytes())
    assert len(seen) == 3


def stripped(plain):
    """What is left of a message or an entry without what is of the round alone."""
    if isinstance(plain, dict):
        return {key: stripped(value) for key, value in plain.items() if key not in FRESH}
    return [stripped(one) for one in plain] if isinstance(plain, list) else plain


@pytest.fixture
def steps(make_federation, monkeypatch, caplog):
    """Two steps, of nobody and of everybody: what hosp-a sent, wrote into its ledger and logged in each, and the models."""
    one, wanted = make_federation(), federation.study()
    one.approve(wanted)
    made, found = set_up(one, wanted, "steps"), []
    blob = model.initial(wanted.training, channels=1, patch_voxels=wanted.recipe.patch_voxels)
    caplog.set_level(logging.DEBUG)
    for index, drawn in ((1, False), (2, True)):
        monkeypatch.setattr(rng, "poisson_sample", lambda n, *, rate, drawn=drawn: np.full(n, drawn))
        sent, written = len(one.sent), len(entries(one))
        caplog.clear()
        _, words = made.secure_sum(task="train", index=index, dimension=13, blob=blob, attempts=1)
        data = [bytes(data) for name, data in one.sent[sent:] if name == "hosp-a"]
        logged = [(record.name, record.getMessage(), record.levelno) for record in caplog.records]
        found.append((data, entries(one)[written:], logged, words))
    return found


def test_only_the_masked_vector_differs_between_a_step_of_nobody_and_one_of_everybody(steps):
    (nobody, wrote, logged, _), (everybody, wrote_then, logged_then, _) = steps
    assert [len(data) for data in nobody] == [len(data) for data in everybody]
    opened = [[wire.peek(data) for data in sent] for sent in (nobody, everybody)]
    assert [stripped(one.body) for one in opened[0]] == [stripped(one.body) for one in opened[1]]
    assert [(one.kind, len(one.blob)) for one in opened[0]] == [(one.kind, len(one.blob)) for one in opened[1]]
    assert [stripped(one) for one in wrote] == [stripped(one) for one in wrote_then]
    assert [one["type"] for one in wrote] == ["reserve", "release"]
    assert logged == logged_then


@pytest.mark.parametrize("norm", ["0.0000009", "1000001", "0"])
def test_a_clip_norm_near_which_squares_of_gradients_vanish_or_overflow_is_refused(norm):
    with pytest.raises(ValidationError, match="clip_norm"):
        learning.study(clip_norm=norm)


def test_what_float32_squares_lose_of_a_norm_is_nothing_beside_the_least_clip_norm():
    least = next(one.ge for one in Privacy.model_fields["clip_norm"].metadata if hasattr(one, "ge"))
    lost = np.sqrt(2.0**28) * float(np.sqrt(np.finfo(np.float32).tiny))  # of the longest vector that is ever announced
    assert lost < 1e-3 * 1e-3 * float(least), "far within the numerical slack"
    assert Decimal(least) == Decimal("1e-6")
