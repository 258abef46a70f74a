"""Patients of whom `make bench-training` trains a whole network, and the rows that utility_rows.py does not have.

Every clipped sum is the product's (client.train, with its engine), every step its optimiser's; Motet's sums are rounded,
noised, masked and opened by the product. What differs from the product: patients are drawn by seed (Poisson too), so that
central DP-SGD and Motet draw the same ones.
"""

import copy
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch

from client import train
from client.inside import Cohort
from common import model
from common.networks import heads
from server import step as optimiser
from tests import learning
from tests.benchmarks.utility_data import HOSPITALS
from tests.benchmarks.utility_rows import auc, mechanism_of, secure_sum, split

SIDE = 28
FULL = {"recipe": "full", "side": SIDE, "views_per_patient_max": 1}  # as tests/learning.py takes it
NEGATIVE, POSITIVE = 1.0, 5.0  # malignancy of the study's table
ROWS_AT_ONCE = 128  # of scoring


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """Patients of whom every weight of cnn2d is trained, from the packaged prior and a head of zeros."""

    cohort: Cohort

    @classmethod
    def of(cls, data):
        table = np.stack([np.full(len(data.labels), 1.0), np.where(data.labels == 1, POSITIVE, NEGATIVE)], axis=1)
        return cls(cohort=cohort(table, data.views))

    def __len__(self):
        return len(self.cohort.patients)

    def those(self, flags):
        return replace(self, cohort=cohort(self.cohort.table[flags], self.cohort.views[flags]))

    @property
    def labels(self):
        return (self.cohort.table[:, 1] == POSITIVE).astype(int)

    def network(self, weights=None):
        """The network with flat `weights`, or with its first ones."""
        built = copy.deepcopy(first())
        if weights is not None:
            model.with_flat(built, names(built), weights)
        return built

    def start(self):
        """The weights before the first step."""
        built = self.network()
        return model.flat(built, names(built))

    def clipped_sum(self, weights, *, drawn, setting):
        """The product's, of a model that travelled."""
        blob, rows = model.dump(self.network(weights)), np.arange(len(self))
        return train.clipped_sum(blob, study=setting.study(len(self)), cohort=self.cohort, training_rows=rows, sampled=drawn)

    def auc(self, weights):
        return auc(scores(self.network(weights), self.cohort.views), self.labels)


def cohort(table, views):
    """Patients of one view each; rows of the table are those of tests/learning.py: length_mm, malignancy."""
    count = len(table)
    return Cohort(
        patients=tuple(f"p{patient:05d}" for patient in range(count)),
        columns=("length_mm", "malignancy"),
        table=table,
        views=views,
        bags=tuple((row,) for row in range(count)),
    )


@lru_cache
def first():
    """The network before the first step."""
    return learning.built(learning.study(edge=True, **FULL))


def names(network):
    return tuple(name for name, _ in network.named_parameters())


def scores(network, views):
    """The logit of each view."""
    with torch.no_grad():
        parts = [network(torch.from_numpy(views[at : at + ROWS_AT_ONCE].copy())) for at in range(0, len(views), ROWS_AT_ONCE)]
    return torch.cat(parts).numpy().astype(np.float64).ravel()


def plain(patients, *, learning_rate, batch, epochs, seed):
    """The network without privacy: shuffled batches, torch's Adam, neither clipping nor noise."""
    random, network = np.random.default_rng(seed), patients.network()
    adam = torch.optim.Adam(network.parameters(), float(learning_rate))
    loss = heads.of(learning.study(**FULL).training).loss
    views, labels = patients.cohort.views, patients.labels.astype(np.float32)
    for _ in range(epochs):
        order = random.permutation(len(patients))
        for first in range(0, len(order), batch):
            rows = order[first : first + batch]
            adam.zero_grad()
            loss(network(torch.from_numpy(views[rows])), torch.from_numpy(labels[rows])).mean().backward()
            adam.step()
    return model.flat(network, names(network))


def pair(everybody, hospitals, *, ours, central, seed):
    """Two models that share their chance: Motet's with the setting `ours`, and central DP-SGD's with `central`.

    Both draw the same patients in each step. Motet's noise is the product's, secret. Central DP-SGD takes that same noise, what
    the opened sum has beside the hospitals' sum, brought down to its own deviation of noise_multiplier * clip_norm (Motet's is
    that times sqrt(5 / 4) and the slack). Each model has the law that it would have by itself.
    """
    random, held = np.random.default_rng(seed), [everybody.those(hospitals == at) for at in range(HOSPITALS)]
    studies = [one.study(len(everybody)) for one in (ours, central)]
    one, other = (optimiser.start(everybody.start(), training=study.training) for study in studies)
    mechanism = mechanism_of(setting=ours, dimension=len(one.position), most=max(map(len, held)))
    deviation = float(central.noise_multiplier) * float(central.clip_norm)
    for _ in range(ours.steps):
        drawn = random.random(len(everybody)) < float(ours.sampling_rate)
        sums = [own.clipped_sum(one.position, drawn=drawn[hospitals == at], setting=ours) for at, own in enumerate(held)]
        opened = secure_sum(sums, mechanism=mechanism)
        noise = (opened - np.sum(sums, axis=0)) / mechanism.noise_deviation
        total = everybody.clipped_sum(other.position, drawn=drawn, setting=central) + deviation * noise
        one = optimiser.step(one, opened, training=studies[0].training, privacy=studies[0].privacy)
        other = optimiser.step(other, total, training=studies[1].training, privacy=studies[1].privacy)
    return [optimiser.final(state, training=study.training) for state, study in zip((one, other), studies, strict=True)]


def run_pair(data, *, ours, central, seed, tuning):
    """AUC of Motet's model and of central DP-SGD's, of one pair."""
    train_flags, judged = split(data, seed=seed, tuning=tuning)
    patients = Whole.of(data)
    there = patients.those(judged)
    both = pair(patients.those(train_flags), data.hospitals[train_flags], ours=ours, central=central, seed=seed)
    return tuple(there.auc(weights) for weights in both)


def run_plain(data, *, point, epochs, seed, tuning):
    """AUC of the network without privacy; `point` is learning rate and batch."""
    train_flags, judged = split(data, seed=seed, tuning=tuning)
    patients = Whole.of(data)
    rate, batch = point
    return patients.those(judged).auc(
        plain(patients.those(train_flags), learning_rate=rate, batch=batch, epochs=epochs, seed=seed)
    )
