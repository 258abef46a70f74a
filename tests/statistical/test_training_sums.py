"""What rounds of training open: the sum over the pooled patients with central Gaussian noise, which no patient moves far."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from client import train
from client.inside import Cohort
from client.mask import mask
from common import announcement, model
from common.announcement import Announcement
from common.crypto import masking, ring, rng
from common.crypto.adding import Adder
from common.errors import HospitalMissing
from common.ledger.receipt import Receipt
from common.wire import Envelope
from server import plan_rhythms
from tests import learning

pytestmark = pytest.mark.statistical

NAMES = ("aalen", "berlin", "cadiz", "dijon")
TRANSCRIPT = b"t" * 32
ROUNDS = 6
SURE = 1e-6  # each p of a right build is below it once in a million runs
COHORTS = {name: learning.cohort(6, views=(1, 2), seed=seed) for seed, name in enumerate(NAMES)}


def study(**changes):
    """Everybody is in every step: the sum is known, the noise is all that differs."""
    given = {"recipe": "full", "head": "regression", "positive_above": None, "patients_per_step_max": 16, "sampling_rate": "1"}
    return learning.study(**{**given, **changes})


def weights(wanted):
    """A model whose head is not zero, so that every layer has a gradient."""
    network = learning.built(wanted)
    model.with_flat(network, model.HEAD, 0.5 * np.cos(np.arange(13.0)))
    return network


def announced(wanted, *, names=NAMES, number=1):
    size = model.trainable_size(wanted.training, channels=1, patch_voxels=learning.SIDE)
    return Announcement(
        run="r",
        study=wanted.hash(),
        roster="1" * 64,
        round=number,
        hospitals=names,
        task="train",
        index=number,
        dimension=size,
        blob_sha256="2" * 64,
        mechanism=announcement.mechanism_for(wanted, task="train", hospitals=len(names), dimension=size),
    )


def uploads(wanted, told, *, cohorts, left_out=0):
    """What each hospital sends; the first patients of the first hospital are left out of its rows."""
    ctx, made = masking.context(TRANSCRIPT, announcement=told.bytes()), {}
    for me in told.hospitals:
        rows = np.arange(left_out if me == NAMES[0] else 0, len(cohorts[me].patients))
        given = train.contribution(
            model.dump(weights(wanted)), study=wanted, cohort=cohorts[me], training_rows=rows, mechanism=told.mechanism
        )
        seeds = {peer: masking.seed(b"k" * 32, ctx=ctx, pair=(me, peer)) for peer in told.hospitals if peer != me}
        receipt = Receipt(reservation=f"r/{told.round}/{me}", study=wanted.hash(), mechanism=told.mechanism, sequence=1)
        made[me] = Envelope(
            kind="upload",
            sender=me,
            recipient="hub",
            run="r",
            body={
                "round": told.round,
                "context": ctx.hex(),
                "commitments": {peer: masking.commitment(seed, ctx=ctx) for peer, seed in seeds.items()},
            },
            blob=mask(given, receipt=receipt, me=me, seeds=seeds),
        )
    return made


def opened(told, sent):
    """The opened integers, in steps of the grid."""
    adder = Adder(announcement=told, transcript=TRANSCRIPT)
    for name, one in sent.items():
        adder.begin(name, one, len(one.blob))(memoryview(one.blob))
    return ring.decode(adder.total(sent), bits=told.mechanism.ring_bits)


def clipped(wanted, cohort):
    rows = np.arange(len(cohort.patients))
    blob = model.dump(weights(wanted))
    return train.clipped_sum(blob, study=wanted, cohort=cohort, training_rows=rows, sampled=np.ones(len(rows), bool))


def pooled(cohorts):
    """The hospitals' patients as those of one hospital."""
    starts = np.cumsum([0, *(len(one.views) for one in cohorts)])
    return Cohort(
        patients=tuple(f"{at}{name}" for at, one in enumerate(cohorts) for name in one.patients),
        columns=cohorts[0].columns,
        table=np.concatenate([one.table for one in cohorts]),
        views=np.concatenate([one.views for one in cohorts]),
        bags=tuple(
            tuple(int(start + row) for row in bag) for start, one in zip(starts, cohorts, strict=False) for bag in one.bags
        ),
    )


def alarms(noise):
    """Name what tells `noise`, (round, coordinate), from independent central draws of N(0, 1)."""
    flat, random = noise.ravel(), np.random.default_rng(7)
    squares, bins = float(flat @ flat), stats.norm.ppf(np.linspace(0, 1, 201))
    found = {
        "distance": stats.kstest(flat, "norm").pvalue,
        "bins": stats.chisquare(np.histogram(flat, bins)[0]).pvalue,
        "central draws": stats.ks_2samp(flat, random.standard_normal(flat.size), method="asymp").pvalue,
        "size": 2 * min(stats.chi2.sf(squares, flat.size), stats.chi2.cdf(squares, flat.size)),
        "coordinates": stats.kstest((noise**2).sum(axis=0), stats.chi2(len(noise)).cdf).pvalue,
        "rounds": stats.kstest(noise.mean(axis=0) * math.sqrt(len(noise)), "norm").pvalue,
    }
    return {name for name, p in found.items() if p < SURE}


@pytest.mark.parametrize("present", [4, 3], ids=["everybody", "one dropout"])
def test_an_opened_sum_is_that_of_the_pooled_patients_with_central_noise_as_planned(present):
    wanted, names = study(noise_multiplier="2"), NAMES[:present]
    planned = plan_rhythms.compare(wanted, hospitals=len(NAMES), link=plan_rhythms.Link())["dropouts"]["rosters"]
    (faced,) = (one["noise_multiplier_opened"] for one in planned if one["hospitals"] == present)
    assert faced == pytest.approx(2 * math.sqrt(present / (present - 1)), rel=1e-9)
    first = announced(wanted)
    sent = uploads(wanted, first, cohorts=COHORTS)
    if present < len(NAMES):
        with pytest.raises(HospitalMissing):
            opened(first, {name: sent[name] for name in names})
    centre, noise = clipped(wanted, pooled([COHORTS[name] for name in names])), []
    for number in range(2, 2 + ROUNDS):
        told = announced(wanted, names=names, number=number)
        total = opened(told, uploads(wanted, told, cohorts=COHORTS)) * told.mechanism.grid_step
        noise.append((total - centre) / (faced * told.mechanism.sensitivity))
    assert alarms(np.array(noise)) == set()


def test_integers_of_an_opened_sum_have_their_exact_central_probabilities():
    wanted, bits, noise = study(noise_multiplier="0.01"), 3, []
    exact = [clipped(wanted, one) for one in COHORTS.values()]
    for number in range(1, 1 + ROUNDS):
        told = announced(wanted, number=number)
        told = replace(told, mechanism=replace(told.mechanism, share_bits=bits))
        rounded = sum(np.rint(one / told.mechanism.grid_step).astype(np.int64) for one in exact)
        noise.append(opened(told, uploads(wanted, told, cohorts=COHORTS)) - rounded)
    drawn, variance = np.concatenate(noise), len(NAMES) * 4**bits  # four shares are one draw of four times the variance
    support = np.arange(-160, 161)  # ten standard deviations
    mass = np.exp(-(support**2) / (2 * variance))
    expected = len(drawn) * mass / mass.sum()
    seen = np.bincount(np.clip(drawn, -160, 160) + 160, minlength=len(support))
    cells = np.where(expected > 20, support, np.sign(support) * 1000)  # the rare ones of each side together
    seen, expected = (np.array([part[cells == cell].sum() for cell in np.unique(cells)]) for part in (seen, expected))
    assert len(expected) > 80
    assert stats.chisquare(seen, expected).pvalue > SURE
    central = rng.discrete_gaussian(len(drawn), share_bits=bits + 1)
    both = np.array([np.histogram(part, np.arange(-44, 45, 4))[0] for part in (drawn, central)])
    assert stats.chi2_contingency(both).pvalue > SURE


@pytest.mark.parametrize(
    ("made", "least"),
    [
        (lambda random, shape: random.uniform(-(3**0.5), 3**0.5, shape), {"distance", "bins", "central draws"}),
        (lambda random, shape: random.choice([-1.0, 1.0], shape), {"distance", "bins", "central draws"}),
        (lambda random, shape: random.standard_normal(shape) * math.sqrt(3 / 4), {"distance", "bins", "size", "coordinates"}),
        (lambda random, shape: random.standard_normal(shape) * math.sqrt(5 / 4), {"distance", "bins", "size", "coordinates"}),
        (lambda random, shape: random.standard_normal(shape) * 1.02, {"size"}),
        (lambda random, shape: random.standard_normal(shape) + 0.05, {"distance", "rounds"}),
        (lambda random, shape: np.tile(random.standard_normal(shape[1]), (shape[0], 1)), {"coordinates", "rounds"}),
        (lambda random, shape: random.standard_normal(shape) * (np.arange(shape[1]) % 2) * 2**0.5, {"distance", "coordinates"}),
    ],
    ids=["uniform", "signs", "a share too few", "a share too many", "2 % too much", "off", "the same each round", "halves"],
)
def test_other_noise_would_be_noticed(made, least):
    assert least <= alarms(made(np.random.default_rng(3), (ROUNDS, 15_545)))


def gradient(wanted, cohort, *, patient):
    """One patient's own gradient, by autograd in float64, unclipped."""
    network = weights(wanted).double()
    held = dict(network.named_parameters())
    views = torch.from_numpy(cohort.views[list(cohort.bags[patient])].astype(np.float64))
    value = (cohort.table[patient, 1] - 1) / 4  # scaled by its declared bounds
    loss = ((network(views) - value) ** 2 / 2).mean()
    found = torch.autograd.grad(loss, [held[name] for name in model.trainable_names(network, wanted.training)])
    return torch.cat([one.ravel() for one in found]).numpy()


@pytest.mark.parametrize("recipe", ["head", "full"])
@pytest.mark.parametrize(("brighter", "longer"), [(1e5, 1e6), (1e17, 1e30)], ids=["a million", "1e30"])
def test_a_planted_giant_moves_the_mean_opened_sum_by_no_more_than_the_sensitivity(recipe, brighter, longer):
    """At so little noise that 1.1 times the sensitivity would be noticed, in any direction."""
    wanted, giant = study(noise_multiplier="0.01", recipe=recipe), COHORTS[NAMES[0]]
    views = np.array(giant.views)
    views[list(giant.bags[0])] *= np.float32(brighter)
    cohorts = {**COHORTS, NAMES[0]: replace(giant, views=views)}
    alone, clip_norm = gradient(wanted, cohorts[NAMES[0]], patient=0), float(wanted.privacy.clip_norm)
    assert np.linalg.norm(alone) > longer * clip_norm
    direction = alone / np.linalg.norm(alone)
    means = []
    for left_out in (0, 1):
        told = [announced(wanted, number=number) for number in range(1, 5)]
        sums = [opened(one, uploads(wanted, one, cohorts=cohorts, left_out=left_out)) for one in told]
        means.append(np.mean(sums, axis=0) * told[0].mechanism.grid_step)
    moved, most = means[0] - means[1], told[0].mechanism.sensitivity
    spread = told[0].mechanism.noise_deviation * math.sqrt(2 / len(told))
    assert direction @ moved < most + spread * stats.norm.isf(SURE)
    assert moved @ moved < spread**2 * stats.ncx2.isf(SURE, len(moved), (most / spread) ** 2)
    if longer < 1e30:  # one that long may count as not finite, and adds nothing
        assert direction @ moved > clip_norm * (1 - 1e-3) - spread * stats.norm.isf(SURE)
