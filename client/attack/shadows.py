"""Trains shadow and target models for membership inference: heads on the frozen prior, by the product's own steps.

Patients are pictures of random processes, one view each, or whatever pictures are given; their labels are drawn by coin unless
given, so that nothing but the patients themselves can be learned. No patient is near, no ledger is charged.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from client import train
from client.attack import synthetic
from client.attack.canaries import DELTA, mechanism_of
from client.attack.draws import opened_sum
from client.inside import Cohort
from common import model
from common.audit.attack.one_run import Plan
from common.audit.attack.shadow import Models
from common.crypto import rng
from common.mechanism import SampledStep
from common.networks import processes
from common.study import Study

PATIENTS: Final = 16  # so few that thirteen weights can learn them by heart
STRANGERS: Final = 500
SIDE: Final = 32
STEPS: Final = 60
NOISE: Final = Decimal(10)
CLIP_NORM: Final = Decimal("0.5")
UNCLIPPED: Final = Decimal(1_000_000)
LEARNING_RATE: Final = 8.0
SEED: Final = 8  # of the pictures, which protect nobody
HALF: Final = Decimal("0.5")

Float = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """Views (picture, 1, side, side) in [0, 1], float32, and labels (picture,), 0 or 1; the first PATIENTS are the patients."""

    views: NDArray[np.float32]
    labels: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Setting:
    study: Study
    cohort: Cohort
    mechanism: SampledStep
    features: Float  # (picture, feature + 1)


def random_pictures() -> Pictures:
    """Return pictures of random processes, always the same, with labels drawn by coin."""
    draw = processes.Draw(SEED)
    views, _ = processes.images(PATIENTS + STRANGERS, side=SIDE, draw=draw)
    coins = (draw.uniform(len(views)) < float(HALF)).numpy().astype(np.int64)
    return Pictures(views=views[:, :1].numpy(), labels=coins)


def plan() -> Plan:
    """Return what a ledger would charge for one model that is trained with noise."""
    mechanism = _mechanism(CLIP_NORM)
    sigma = mechanism.noise_multiplier * Decimal(mechanism.sensitivity) / mechanism.clip_norm
    return Plan(noise_multiplier=float(NOISE), sigma=float(sigma), rate=1.0, steps=STEPS, delta=DELTA)


def trained(
    pictures: Pictures, *, models: int, noised: bool, progress: Callable[[], None] = lambda: None
) -> tuple[Models, Models]:
    """Return so many shadows, in pairs that share no patient, and as many targets; `progress` is called after each model.

    `noised`: through client/train.py's contribution, noise and masks. Else the same steps, unclipped and without noise. Each
    patient is in a target with probability 1/2, from secret randomness. Raises ValueError unless `models` is even.
    """
    if models < 2 or models % 2:
        raise ValueError("shadows come in pairs")
    setting = _setting(pictures, clip_norm=CLIP_NORM if noised else UNCLIPPED)
    firsts = [rng.poisson_sample(PATIENTS, rate=HALF) for _ in range(models // 2)]
    shadows = [half for first in firsts for half in (first, ~first)]
    targets = [rng.poisson_sample(PATIENTS, rate=HALF) for _ in range(models)]
    found = []
    for inside in (shadows, targets):
        odds = []
        for members in inside:
            odds.append(_log_odds(setting, _head(setting, members=members, noised=noised), labels=pictures.labels))
            progress()
        told = np.array(odds)
        found.append(Models(inside=np.array(inside), patients=told[:, :PATIENTS], strangers=told[:, PATIENTS:]))
    return found[0], found[1]


def _head(setting: _Setting, *, members: NDArray[np.bool_], noised: bool) -> Float:
    """Return the head after all steps on `members`, (d,)."""
    held, shape = setting.study, setting.study.recipe
    network = model.build(held.training, channels=shape.channels, patch_voxels=shape.patch_voxels)
    model.load(network, model.initial(held.training, channels=shape.channels, patch_voxels=shape.patch_voxels))
    position, rows = model.flat(network, model.HEAD), np.flatnonzero(members)
    for _ in range(STEPS):
        model.with_flat(network, model.HEAD, position)
        blob = model.dump(network)
        if noised:
            given = train.contribution(blob, study=held, cohort=setting.cohort, training_rows=rows, mechanism=setting.mechanism)
            total = opened_sum(given.values, mechanism=setting.mechanism) * setting.mechanism.grid_step
        else:
            everybody = np.ones(len(rows), np.bool_)
            total = train.clipped_sum(blob, study=held, cohort=setting.cohort, training_rows=rows, sampled=everybody)
        position = position - LEARNING_RATE * total / (PATIENTS / 2)
    return position


def _log_odds(setting: _Setting, position: Float, *, labels: NDArray[np.int64]) -> Float:
    """Return the log-odds that a head gives the right label of every picture, (picture,)."""
    odds: Float = (setting.features @ position) * (2 * labels - 1)
    return odds


def _setting(pictures: Pictures, *, clip_norm: Decimal) -> _Setting:
    first = synthetic.study("head", patients=PATIENTS)
    side = pictures.views.shape[-1]
    privacy = {"noise_multiplier": NOISE, "clip_norm": clip_norm, "sampling_rate": Decimal(1)}
    held = first.model_copy(
        update={
            "privacy": first.privacy.model_copy(update=privacy),
            "recipe": first.recipe.model_copy(update={"patch_voxels": side}),
        }
    )
    network = model.build(held.training, channels=1, patch_voxels=side)
    model.load(network, model.initial(held.training, channels=1, patch_voxels=side))
    with torch.no_grad():
        embedded = network.embed(torch.from_numpy(pictures.views.copy())).numpy().astype(np.float64)
    cohort = Cohort(
        patients=tuple(f"synthetic-{patient}" for patient in range(PATIENTS)),
        columns=("length_mm", synthetic.LABEL),
        table=np.stack([np.full(PATIENTS, 0.5), pictures.labels[:PATIENTS].astype(np.float64)], axis=1),
        views=pictures.views[:PATIENTS].copy(),
        bags=tuple((patient,) for patient in range(PATIENTS)),
    )
    features = np.concatenate([embedded, np.ones((len(embedded), 1))], axis=1)
    mechanism = replace(_mechanism(clip_norm), dimension=features.shape[1])
    return _Setting(study=held, cohort=cohort, mechanism=mechanism, features=features)


def _mechanism(clip_norm: Decimal) -> SampledStep:
    training = synthetic.study("head", patients=PATIENTS).training
    dimension = model.trainable_size(training, channels=1, patch_voxels=SIDE)
    made = mechanism_of(noise=NOISE, rate=Decimal(1), dimension=dimension, patients=PATIENTS)
    return replace(made, clip_norm=clip_norm)
