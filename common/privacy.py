"""The privacy parameters of a study: of its training, and of what else leaves with noise: Gram, scores. None has a default."""

from decimal import Decimal
from typing import Annotated

from pydantic import Field

from common.part import Part, Positive, Probability

Delta = Annotated[Decimal, Field(gt=0, lt=1, max_digits=24)]
Colluders = Annotated[int, Field(ge=0, le=63)]
Voids = Annotated[int, Field(ge=0, le=1000)]


class Privacy(Part):
    """The privacy parameters of training: somebody has to choose them.

    Unit: patient. Adjacency: add or remove one. `noise_multiplier` is relative to the L2 sensitivity, as faced by the
    coordinator together with `colluders` hospitals. `clip_norm` has bounds: patients' norms are sums of float32 squares, which
    vanish below 1e-19 and overflow above 1e19, and a norm that vanished would not be clipped.
    """

    noise_multiplier: Positive
    clip_norm: Annotated[Decimal, Field(ge=Decimal("1e-6"), le=1_000_000, max_digits=24)]
    sampling_rate: Probability
    delta: Delta
    colluders: Colluders
    rounds_void_allowed: Voids


class GramPrivacy(Part):
    """The privacy parameters of the wide Gram, released once with Gaussian noise. A study without them has an exact Gram.

    Unit: patient. Adjacency: add or remove one. A patient's row is v = (1, z_1 ... z_p), every column centred and scaled by its
    declared bounds to |z| <= 1, and clipped to the L2 norm `clip_norm`: at least 1, the norm of the intercept alone; no row is
    longer than sqrt(p + 1). `noise_multiplier` is relative to the sensitivity clip_norm**2 of the packed v v'
    (common/noisy_moments.py), as faced by the coordinator together with `colluders` hospitals. `patients_max` is public: a
    hospital with more complete patients does not answer. A release that is lost is made afresh, with a charge of its own, at
    most `rounds_void_allowed` times. Within these bounds a ring of 64 bits holds the sum of 64 hospitals.
    """

    noise_multiplier: Annotated[Decimal, Field(ge=Decimal("0.1"), le=10_000, max_digits=24)]
    clip_norm: Annotated[Decimal, Field(ge=1, le=1_000_000, max_digits=24)]
    delta: Delta
    patients_max: Annotated[int, Field(ge=1, le=1 << 22)]
    colluders: Colluders
    rounds_void_allowed: Voids


class ScoresPrivacy(Part):
    """The privacy parameters of an evaluation that leaves once with Gaussian noise. A study without them has an exact one.

    Unit: patient. Adjacency: add or remove one. A patient who is scored is counted in a few tables, once in each (how often:
    the mechanism's `entries`, which follow from the study); the sensitivity is the square root of that. `noise_multiplier` is
    relative to it, as faced by the coordinator together with `colluders` hospitals. `patients_max` is public: a hospital that
    scores more patients does not answer. A release that is lost is made afresh, with a charge of its own, at most
    `rounds_void_allowed` times.
    """

    noise_multiplier: Annotated[Decimal, Field(ge=Decimal("0.1"), le=10_000, max_digits=24)]
    delta: Delta
    patients_max: Annotated[int, Field(ge=1, le=1 << 22)]
    colluders: Colluders
    rounds_void_allowed: Voids
