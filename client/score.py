"""How a model scores the held-out patients: an exact histogram of scores per class, and which patients are held out."""

import hashlib
from collections.abc import Sequence
from decimal import Decimal

import numpy as np
import torch
from numpy.typing import NDArray

from client.inside import Cohort
from client.label import labels
from common import model as network
from common.contribution import Contribution
from common.errors import InternalError
from common.mechanism import Exact
from common.study import Study

STATISTIC = "score-histogram"
VIEWS_AT_ONCE = 256


def held_out(patients: Sequence[str], *, study_hash: str, fraction: Decimal) -> NDArray[np.bool_]:
    """Return which patients are held out, shape (patient,): SHA-256 of study and pseudonym below `fraction`.

    The choice depends on nothing else: not on order, hospital or the other patients, and stays the same in every round.
    Raises ValueError when `fraction` is outside [0, 1].
    """
    if not fraction.is_finite() or not 0 <= fraction <= 1:
        raise ValueError("a fraction lies between 0 and 1")
    threshold = int(fraction * 2**64)
    drawn = (hashlib.sha256(f"{study_hash}\n{patient}".encode()).digest()[:8] for patient in patients)
    return np.fromiter((int.from_bytes(first, "big") < threshold for first in drawn), np.bool_, count=len(patients))


def histograms(blobs: Sequence[bytes], *, study: Study, cohort: Cohort, held_out_rows: NDArray[np.int64]) -> Contribution:
    """Return the counts of (model, class, score bin), flattened, int64, as an exact statistic.

    A patient's score is the mean over the first views_per_patient_max views of sigmoid(logit); equal bins over [0, 1], the last
    one closed. A score that is not finite counts as 0.5. Patients without label or views count nowhere; no patients
    or no models give zeros or nothing. Raises ProtocolError or BadEnvelope when a model is not this study's, InternalError
    when a row is named twice.
    """
    if len(np.unique(held_out_rows)) != len(held_out_rows):
        raise InternalError("A held-out patient is named twice.", action="Report this.")
    bins, most = study.training.score_bins, study.training.views_per_patient_max
    classes = labels(cohort, study=study)
    rows = [int(row) for row in held_out_rows if cohort.bags[row] and not np.isnan(classes[row])]
    counts = np.zeros((len(blobs), 2, bins), np.int64)
    for number, blob in enumerate(blobs):
        scores = _scores(blob, study=study, cohort=cohort)
        for row in rows:
            score = float(np.nan_to_num(scores[list(cohort.bags[row][:most])].mean(), nan=0.5))
            counts[number, int(classes[row]), min(int(score * bins), bins - 1)] += 1
    return Contribution(values=counts.ravel(), mechanism=Exact(statistic=STATISTIC, ring_bits=64))


def _scores(blob: bytes, *, study: Study, cohort: Cohort) -> NDArray[np.float64]:
    """Return sigmoid(logit) of every view, (view,), float64."""
    channels, side = (2 if study.recipe.edge_channel else 1), study.recipe.patch_voxels
    model = network.build(study.training, channels=channels, patch_voxels=side)
    network.load(model, blob)
    network.refuse_other_features(model, study.training, channels=channels, patch_voxels=side)
    if not len(cohort.views):
        return np.zeros(0)
    if cohort.views.shape[1:] != (channels, side, side):
        raise InternalError("The views do not have the study's shape.", action="Report this.")
    with torch.no_grad():
        parts = [
            torch.sigmoid(model(torch.from_numpy(np.array(cohort.views[start : start + VIEWS_AT_ONCE]))).double())
            for start in range(0, len(cohort.views), VIEWS_AT_ONCE)
        ]
    return np.asarray(torch.cat(parts).numpy(), dtype=np.float64)
