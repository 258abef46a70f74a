"""The ways of training whose AUC `make bench-training` compares, by the product's optimiser, and the patients of a head.

Every row: T Poisson-sampled steps, gradients of single patients clipped by the product, the product's optimiser step. Noise is
numpy's float Gaussian but in Motet's own row, whose sums are those of the product: rounded, noised and masked by client.mask,
added and decoded in the ring. What is trained, the patients say: Head here, Whole in utility_full_rows.py.
"""

from dataclasses import dataclass
from decimal import Decimal

import numpy as np
from scipy.stats import rankdata

from client.mask import mask
from client.train import clip
from common.contribution import Contribution
from common.crypto import ring, rng
from common.ledger.receipt import Receipt
from common.mechanism import SampledStep, largest_share_bits
from server import step as optimiser
from tests import learning
from tests.benchmarks.utility_data import HOSPITALS, TEST, TRAIN

COLLUDERS, RING_BITS = 1, 32
LOCAL_STEPS = 10  # of a round of FedAvg
TUNING_SHARE = 0.2  # of the training part, held out anew by every tuning seed
NAMES = tuple(f"hosp-{letter}" for letter in "abcde")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What is searched (learning rate, clip norm), and what is not."""

    learning_rate: str
    clip_norm: str
    noise_multiplier: str
    steps: int
    sampling_rate: str
    way: dict  # optimiser, schedule, average and, but for a head, recipe and side: as tests/learning.py takes them

    def study(self, patients):
        """The study of `patients` training patients."""
        return learning.study(
            edge=True,
            learning_rate=self.learning_rate,
            clip_norm=self.clip_norm,
            noise_multiplier=self.noise_multiplier,
            steps=self.steps,
            sampling_rate=self.sampling_rate,
            patients_declared=patients,
            patients_per_step_max=patients,
            **self.way,
        )


def gradients(weights, features, labels):
    """Each patient's gradient of the cross-entropy, (patient, d): the closed form of client.train, one view a patient."""
    return (0.5 * (1 + np.tanh(0.5 * (features @ weights))) - labels)[:, None] * features


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """Patients of whom a head on frozen features is trained."""

    features: np.ndarray  # (patient, d), float64
    labels: np.ndarray  # (patient,), 0 or 1

    @classmethod
    def of(cls, data):
        return cls(features=data.features, labels=data.labels)

    def __len__(self):
        return len(self.labels)

    def those(self, flags):
        return Head(features=self.features[flags], labels=self.labels[flags])

    def start(self):
        """The weights before the first step."""
        return np.zeros(self.features.shape[1])

    def clipped_sum(self, weights, *, drawn, setting):
        rows = gradients(weights, self.features[drawn], self.labels[drawn])
        return clip(rows, norm=float(setting.clip_norm)).sum(axis=0)

    def auc(self, weights):
        return auc(self.features @ weights, self.labels)


def sampled_sum(patients, weights, *, setting, random):
    """The clipped sum of a Poisson sample."""
    drawn = random.random(len(patients)) < float(setting.sampling_rate)
    return patients.clipped_sum(weights, drawn=drawn, setting=setting)


def auc(scores, labels):
    """Mann-Whitney, ties half."""
    ranks, positive = rankdata(scores), labels == 1
    count = positive.sum()
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * (len(labels) - count)))


def pooled(patients, *, setting, seed, noisy=True):
    """DP-SGD where all patients are in one place; without noise, the head's row without privacy."""
    random = np.random.default_rng(seed)
    study = setting.study(len(patients))
    state = optimiser.start(patients.start(), training=study.training)
    deviation = float(setting.noise_multiplier) * float(setting.clip_norm) if noisy else 0.0
    for _ in range(setting.steps):
        total = sampled_sum(patients, state.position, setting=setting, random=random)
        total += deviation * random.standard_normal(len(total))
        state = optimiser.step(state, total, training=study.training, privacy=study.privacy)
    return optimiser.final(state, training=study.training)


def mechanism_of(*, setting, dimension, most):
    """The product's mechanism: `most` patients at the largest hospital."""
    return SampledStep(
        noise_multiplier=Decimal(setting.noise_multiplier),
        clip_norm=Decimal(setting.clip_norm),
        sampling_rate=Decimal(setting.sampling_rate),
        hospitals=HOSPITALS,
        colluders=COLLUDERS,
        dimension=dimension,
        patients_per_step_max=most,
        share_bits=largest_share_bits(
            noise_multiplier=Decimal(setting.noise_multiplier),
            hospitals=HOSPITALS,
            colluders=COLLUDERS,
            patients_per_step_max=most,
            ring_bits=RING_BITS,
        ),
        ring_bits=RING_BITS,
    )


def secure_sum(sums, *, mechanism):
    """What the coordinator decodes from the five masked vectors of `sums`; pair seeds are fresh."""
    seeds = {name: {} for name in NAMES}
    for at, one in enumerate(NAMES):
        for other in NAMES[at + 1 :]:
            seeds[one][other] = seeds[other][one] = rng.secret_bytes(32)
    uploads = []
    for name, values in zip(NAMES, sums, strict=True):
        receipt = Receipt(reservation=f"bench/1/{name}", study="0" * 64, mechanism=mechanism, sequence=1)
        contribution = Contribution(values=values, mechanism=mechanism)
        blob = mask(contribution, receipt=receipt, me=name, seeds=seeds[name])
        uploads.append(ring.from_bytes(blob, dimension=mechanism.dimension, bits=RING_BITS))
    words = ring.total(uploads, dimension=mechanism.dimension, bits=RING_BITS)
    return ring.decode(words, bits=RING_BITS) * mechanism.grid_step


def motet(held, *, setting, seed):
    """Five hospitals, noise in shares that survive one colluder: every sum as the product makes it. Secret randomness."""
    del seed  # the product's noise and draws take none
    study = setting.study(sum(map(len, held)))
    state = optimiser.start(held[0].start(), training=study.training)
    mechanism = mechanism_of(setting=setting, dimension=len(state.position), most=max(map(len, held)))
    for _ in range(setting.steps):
        sums = []
        for own in held:
            drawn = rng.poisson_sample(len(own), rate=mechanism.sampling_rate)
            sums.append(own.clipped_sum(state.position, drawn=drawn, setting=setting))
        total = secure_sum(sums, mechanism=mechanism)
        state = optimiser.step(state, total, training=study.training, privacy=study.privacy)
    return optimiser.final(state, training=study.training)


def fedavg(held, *, setting, seed):
    """Every hospital adds the whole noise to its own steps; after LOCAL_STEPS clipped deltas are averaged by cohort size.

    A delta's bound never binds without noise (farthest). The final model is the mean over the second half of the rounds.
    """
    random = np.random.default_rng(seed)
    position, models = held[0].start(), []
    deviation = float(setting.noise_multiplier) * float(setting.clip_norm)
    bound, everybody = farthest(setting, dimension=len(position)), sum(map(len, held))
    for _ in range(setting.steps // LOCAL_STEPS):
        moved = np.zeros_like(position)
        for own in held:
            study = setting.study(len(own))
            state = optimiser.start(position, training=study.training)
            for _ in range(LOCAL_STEPS):
                total = sampled_sum(own, state.position, setting=setting, random=random)
                total += deviation * random.standard_normal(len(total))
                state = optimiser.step(state, total, training=study.training, privacy=study.privacy)
            moved += clip((state.position - position)[None], norm=bound)[0] * len(own) / everybody
        position = position + moved
        models.append(position)
    return np.mean(models[len(models) // 2 :], axis=0)


def farthest(setting, *, dimension):
    """What LOCAL_STEPS steps may move at most, L2: with momentum those without noise, with Adam any.

    Source: Kingma and Ba 2015, section 2.1.
    """
    if setting.way["optimiser"]["kind"] == "adam":
        return float(setting.learning_rate) * LOCAL_STEPS * dimension**0.5
    return float(setting.learning_rate) * float(setting.clip_norm) * LOCAL_STEPS**2


def alone(held, *, setting, seed):
    """One hospital's own DP-SGD; seeds take turns between the hospitals."""
    return pooled(held[seed % HOSPITALS], setting=setting, seed=seed)


def split(data, *, seed, tuning):
    """Who trains and who is judged, as flags: the test part, or, when `tuning`, a fifth of the training part.

    That fifth is drawn by the seed and is the same for every row.
    """
    train, judged = data.parts == TRAIN, data.parts == TEST
    if tuning:
        held_out = train & (np.random.default_rng(seed).random(len(train)) < TUNING_SHARE)
        train, judged = train & ~held_out, held_out
    return train, judged


def run(row, data, *, setting, seed, tuning, of=Head.of):
    """Train one model of `row` and return its AUC on those that `split` says; `of` makes the patients of the data."""
    train, judged = split(data, seed=seed, tuning=tuning)
    patients = of(data)
    if row in {"non_private_pooled", "central"}:
        weights = pooled(patients.those(train), setting=setting, seed=seed, noisy=row == "central")
    else:
        held = [patients.those(train & (data.hospitals == at)) for at in range(HOSPITALS)]
        trained = {"motet": motet, "local_noise_fedavg": fedavg, "alone": alone}[row]
        weights = trained(held, setting=setting, seed=seed)
    return patients.those(judged).auc(weights)
