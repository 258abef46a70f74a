"""A study and patients made of numbers alone, on which the trainer is attacked: every gradient is far above the clip norm."""

from decimal import Decimal
from typing import Final, Literal

import numpy as np

from client.inside import Cohort
from common import model
from common.study import Study

SIDE: Final = 8
RATE: Final = Decimal("0.25")
CLIP_NORM: Final = Decimal("0.015625")  # the bias alone pulls by almost 0.5: it is about 30 times as long
LABEL: Final = "truth"


def study(recipe: Literal["head", "full"], *, patients: int) -> Study:
    """Return a study of `patients` in one hospital, training the shipped network's head or all of its layers."""
    return Study.model_validate(
        {
            "name": "attack",
            "title": "An attack on synthetic patients",
            "purpose": "audit",
            "hospitals_min": 3,
            "patience_s": 60,
            "carrier": "stream",
            "variables": [
                {"name": "length_mm", "source": "image", "unit": "mm", "lower": "0", "upper": "1"},
                {"name": LABEL, "source": "clinical", "unit": "1", "lower": "0", "upper": "1"},
            ],
            "statistics": {"correlation": ["length_mm", LABEL], "regression": {"outcome": LABEL, "predictors": ["length_mm"]}},
            "recipe": {
                "modality": "CT",
                "spacing_mm": "1",
                "denoise": "none",
                "denoise_mm": "0",
                "window_lower": "-1000",
                "window_upper": "400",
                "patch_voxels": SIDE,
                "edge_channel": False,
            },
            "privacy": {
                "noise_multiplier": "2",
                "clip_norm": CLIP_NORM,
                "sampling_rate": RATE,
                "delta": "0.00001",
                "colluders": 1,
                "rounds_void_allowed": 0,
            },
            "training": {
                "model": "cnn2d",
                "recipe": recipe,
                "prior_sha256": model.prior_sha256(),
                "label": LABEL,
                "positive_above": "0.5",
                "steps": 1,
                "learning_rate": "1",
                "optimiser": {"kind": "momentum", "momentum": "0"},
                "schedule": {"kind": "constant"},
                "average": {"kind": "second-half"},
                "views_per_patient_max": 4,
                "augmentations": 0,
                "patients_per_step_max": patients,
                "patients_declared": patients,
                "held_out_fraction": "0.3",
                "score_bins": 32,
                "auc_drop_max": "1",
            },
        }
    )


def cohort(patients: int, *, views: int) -> Cohort:
    """Return `patients` who are all the same: `views` views of one bright square each, label 1."""
    square = np.full((1, SIDE, SIDE), 0.1, np.float32)
    square[:, 2:6, 2:6] = 1
    return Cohort(
        patients=tuple(f"synthetic-{patient}" for patient in range(patients)),
        columns=("length_mm", LABEL),
        table=np.tile([0.5, 1.0], (patients, 1)),
        views=np.tile(square, (patients * views, 1, 1, 1)),
        bags=tuple(tuple(range(first, first + views)) for first in range(0, patients * views, views)),
    )


def first_model(held: Study) -> bytes:
    """Return a model of the study: the shipped features under a head of tenths, so that every layer has a gradient."""
    network = model.build(held.training, channels=1, patch_voxels=SIDE)
    model.load(network, model.initial(held.training, channels=1, patch_voxels=SIDE))
    model.with_flat(network, model.HEAD, np.full(len(model.flat(network, model.HEAD)), 0.1))
    return model.dump(network)
