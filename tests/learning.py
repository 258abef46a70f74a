"""Small studies and cohorts of simulated blobs for the tests of training; no patient, no file."""

import numpy as np

from client.inside import Cohort
from common import model
from common.study import Study

SIDE = 16


def study(*, side=SIDE, edge=False, patch="slice", **changes):
    """A study with one image and one clinical variable; `changes` go to [privacy] where it has the key, else to [training]."""
    training = {
        "model": "cnn2d",
        "recipe": "head",
        "prior_sha256": model.prior_sha256(),
        "label": "malignancy",
        "positive_above": "3",
        "steps": 8,
        "learning_rate": "10",
        "optimiser": {"kind": "momentum", "momentum": "0.8"},
        "schedule": {"kind": "constant"},
        "average": {"kind": "second-half"},
        "views_per_patient_max": 3,
        "augmentations": 0,
        "patients_per_step_max": 100,
        "patients_declared": 40,
        "held_out_fraction": "0.3",
        "score_bins": 32,
        "auc_drop_max": "1",
    }
    privacy = {
        "noise_multiplier": "2",
        "clip_norm": "0.5",
        "sampling_rate": "0.5",
        "delta": "0.00001",
        "colluders": 1,
        "rounds_void_allowed": 2,
    }
    for key, value in changes.items():
        (privacy if key in privacy else training)[key] = value
    return Study.model_validate(
        {
            "name": "test",
            "title": "Test",
            "purpose": "research",
            "hospitals_min": 3,
            "patience_s": 60,
            "carrier": "stream",
            "variables": [
                {"name": "length_mm", "source": "image", "unit": "mm", "lower": "0", "upper": "200"},
                {"name": "malignancy", "source": "clinical", "unit": "1", "lower": "1", "upper": "5"},
            ],
            "statistics": {
                "correlation": ["length_mm", "malignancy"],
                "regression": {"outcome": "malignancy", "predictors": ["length_mm"]},
            },
            "recipe": {
                "modality": "CT",
                "spacing_mm": "1",
                "denoise": "none",
                "denoise_mm": "0",
                "window_lower": "-1000",
                "window_upper": "400",
                "patch_voxels": side,
                "edge_channel": edge,
                "patch": patch,
            },
            "privacy": privacy,
            "training": training,
        }
    )


def cohort(n, *, side=SIDE, channels=1, views=(1, 2, 3, 4), seed=0):
    """`n` patients whose malignancy grows with the size of a bright blob; patient i has views[i % len(views)] views."""
    random = np.random.default_rng(seed)
    axis = np.arange(side) - (side - 1) / 2
    pixels, bags, table = [], [], []
    for patient in range(n):
        radius = random.uniform(1, side / 2.5)
        rows = []
        for _ in range(views[patient % len(views)]):
            shift = random.uniform(-1, 1, 2)
            distance = np.hypot(axis[:, None] - shift[0], axis[None] - shift[1])
            blob = 0.1 + 0.6 / (1 + np.exp(2 * (distance - radius)))
            rows.append(len(pixels))
            pixels.append(np.stack([np.clip(blob + 0.03 * random.normal(size=blob.shape), 0, 1)] * channels))
        bags.append(tuple(rows))
        table.append((2 * radius, float(np.clip(np.rint(1 + 10 * radius / side + random.normal() * 0.3), 1, 5))))
    return Cohort(
        patients=tuple(f"p{patient:03d}" for patient in range(n)),
        columns=("length_mm", "malignancy"),
        table=np.array(table).reshape(n, 2),
        views=np.array(pixels, np.float32).reshape(-1, channels, side, side),
        bags=tuple(bags),
    )


def initial(study):
    """The study's model before the first step."""
    channels = 2 if study.recipe.edge_channel else 1
    return model.initial(study.training, channels=channels, patch_voxels=study.recipe.patch_voxels)


def built(study):
    """The study's network with its first model in it."""
    network = model.build(
        study.training, channels=2 if study.recipe.edge_channel else 1, patch_voxels=study.recipe.patch_voxels
    )
    model.load(network, initial(study))
    return network
