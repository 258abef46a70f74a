"""How models score the held-out patients: the tables of an evaluation, filled by this hospital; and who is held out."""

import hashlib
import itertools
from collections.abc import Sequence
from decimal import Decimal

import numpy as np
import torch
from numpy.typing import NDArray

from client.inside import Cohort
from client.kernels.rows import Seat
from client.label import labels
from common import model as network
from common import scores
from common.contribution import Contribution
from common.errors import InternalError, TooManyPatients
from common.mechanism import Mechanism, NoisyScores
from common.networks import heads
from common.study import Study

VIEWS_AT_ONCE = 256
UNITS = 1 << scores.UNIT_BITS

Counts = NDArray[np.int64]


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


def contribution(
    blobs: Sequence[bytes],
    *,
    study: Study,
    cohort: Cohort,
    held_out_rows: NDArray[np.int64],
    mechanism: Mechanism,
    seat: Seat,
    cell_min: int,
    apart: bool = False,
) -> Contribution:
    """Return this hospital's tables of an evaluation (common/scores.py), one vector: the main ones of each model, the details.

    A patient's prediction is the mean over the first views_per_patient_max views. Equal bins over [0, 1], the last one closed.
    What is not finite counts as nothing learned: 0.5, all classes alike, the middle of the bounds. Patients without label or
    views count nowhere; no patients give zeros.
    Exact: int64. A row of the details counts nobody unless each class in it has nobody or `cell_min` patients; those of a
    subgroup that is too small are among everybody else, with as many more subgroups as it takes for that row to be large.
    With noise: float64, nobody is moved, since who is moved would depend on others; adding or removing a patient changes the
    vector by at most sqrt(entries). Both: `seat` says which row of a table by hospital is this one's, and whether it is shown;
    `apart`, whether its patients are counted as those of an unseen hospital.
    Raises ProtocolError or BadEnvelope when a model is not this study's, InternalError when a row is named twice,
    TooManyPatients above the patients_max of noise.
    """
    if len(np.unique(held_out_rows)) != len(held_out_rows):
        raise InternalError("A held-out patient is named twice.", action="Report this.")
    targets = labels(cohort, study=study)
    rows = np.array([row for row in held_out_rows if cohort.bags[row] and not np.isnan(targets[row])], np.int64)
    noisy = study.evaluation.privacy
    if noisy is not None and len(rows) > noisy.patients_max:
        raise TooManyPatients(
            "This hospital has more held-out patients than the study allows.",
            action="Ask for a new version of the study with a larger patients_max.",
        )
    parts: list[Counts] = []
    predicted = np.zeros((len(rows), 0))
    for blob in blobs:
        predicted = _predictions(blob, study=study, cohort=cohort, rows=rows)
        parts += _main(predicted, targets[rows], study=study)
    parts += _details(
        predicted, targets[rows], study=study, cohort=cohort, rows=rows, seat=seat, apart=apart, cell_min=cell_min
    )
    vector = np.concatenate([np.zeros(0, np.int64), *(part.ravel() for part in parts)])
    if not isinstance(mechanism, NoisyScores):
        return Contribution(values=vector, mechanism=mechanism)
    unit = UNITS if study.training.head == "regression" else 1
    return Contribution(values=vector / unit, mechanism=mechanism)


def _main(predicted: NDArray[np.float64], targets: NDArray[np.float64], *, study: Study) -> list[Counts]:
    """Return the main tables of one model, of predictions (patient, classes or 1) and targets (patient,)."""
    head = study.training.head
    if head == "regression":
        return [_sums(predicted[:, 0], targets).sum(axis=0)]
    bins = study.training.score_bins
    if head == "binary":
        return [_histogram(predicted[:, 1], targets == 1, bins=bins)[None]]
    classes = np.arange(predicted.shape[1])
    if head == "classes":
        chances, yes = predicted, targets[:, None] == classes
    else:
        further = np.cumsum(predicted[:, ::-1], axis=1)[:, ::-1]
        chances, yes = further[:, 1:], targets[:, None] > classes[:-1]
    tables = [_histogram(chances[:, at], yes[:, at], bins=bins) for at in range(yes.shape[1])]
    return [np.stack(tables), _confusion(predicted, targets)]


def _details(
    predicted: NDArray[np.float64],
    targets: NDArray[np.float64],
    *,
    study: Study,
    cohort: Cohort,
    rows: NDArray[np.int64],
    seat: Seat,
    apart: bool,
    cell_min: int,
) -> list[Counts]:
    """Return the tables of the details, each (row, *group); see `contribution` for who is told and who is moved."""
    exact = study.evaluation.privacy is None
    made = []
    for table in scores.details(study):
        if table.name in {scores.HOSPITALS, scores.UNSEEN}:
            by_hospital = table.name == scores.HOSPITALS
            members = np.full(len(rows), seat.at if by_hospital else 0)
            if not (seat.shows if by_hospital else apart) or (exact and _too_small(targets, study=study, cell_min=cell_min)):
                members[:] = -1
        else:
            members, last = _members(cohort, study=study, variable=table.name, rows=rows), table.shape[0] - 1
            if exact:
                members = _merged(members, targets, last=last, study=study, cell_min=cell_min)
        filled = np.zeros(table.shape, np.int64)
        for at in range(table.shape[0]):
            filled[at] = _group(predicted[members == at], targets[members == at], study=study)
        made.append(filled)
    return made


def _group(predicted: NDArray[np.float64], targets: NDArray[np.float64], *, study: Study) -> Counts:
    if study.training.head == "regression":
        return np.asarray(_sums(predicted[:, 0], targets).sum(axis=0))
    if study.training.head == "binary":
        return _histogram(predicted[:, 1], targets == 1, bins=scores.COARSE_BINS)
    return _confusion(predicted, targets)


def _members(cohort: Cohort, *, study: Study, variable: str, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the row of a subgroup's table for each patient; a missing value is the last, everybody else."""
    values = cohort.table[rows, cohort.columns.index(variable)]
    cuts = next(one.cuts for one in study.evaluation.subgroups if one.variable == variable)
    last = len(scores.names(study, variable=variable))
    places = np.searchsorted([float(cut) for cut in cuts], values, side="right") if cuts else values
    return np.where(np.isnan(values), last, places).astype(np.int64)


def _merged(
    members: NDArray[np.int64], targets: NDArray[np.float64], *, last: int, study: Study, cell_min: int
) -> NDArray[np.int64]:
    """Move patients of rows that are too small to the row `last`, and the next smallest ones as long as that one is too small.

    Where even everybody together is too small, nobody is in any row: -1.
    """
    moved = members.copy()
    while True:
        sizes = [(int((moved == at).sum()), at) for at in range(last + 1) if (moved == at).any()]
        small = [at for _, at in sizes if _too_small(targets[moved == at], study=study, cell_min=cell_min)]
        if not small:
            return moved
        if set(small) == {last}:
            small = [at for _, at in sorted(sizes) if at != last][:1]
            if not small:
                return np.full(len(moved), -1)
        moved[np.isin(moved, small)] = last


def _too_small(targets: NDArray[np.float64], *, study: Study, cell_min: int) -> bool:
    """Say whether these patients are few, or those of one class among them."""
    sizes = [len(targets)] if study.training.head == "regression" else np.unique(targets, return_counts=True)[1].tolist()
    return any(0 < size < cell_min for size in sizes)


def _histogram(chances: NDArray[np.float64], yes: NDArray[np.bool_], *, bins: int) -> Counts:
    """Return the counts of (no or yes, bin), (2, bins)."""
    places = np.minimum((chances * bins).astype(np.int64), bins - 1)
    return np.bincount(yes * bins + places, minlength=2 * bins).reshape(2, bins).astype(np.int64)


def _confusion(predicted: NDArray[np.float64], targets: NDArray[np.float64]) -> Counts:
    """Return the counts of (true class, most probable class; of equals the first)."""
    many = predicted.shape[1]
    pairs = targets.astype(np.int64) * many + predicted.argmax(axis=1)
    return np.bincount(pairs, minlength=many * many).reshape(many, many).astype(np.int64)


def _sums(predicted: NDArray[np.float64], targets: NDArray[np.float64]) -> Counts:
    """Return scores.SUMS of each patient, (patient, 7), in units of 2**-30."""
    z, p = (np.rint(values * UNITS).astype(np.int64) for values in (targets, predicted))
    columns = (np.full(len(z), UNITS), abs(z - p), z, z * z // UNITS, p, p * p // UNITS, z * p // UNITS)
    return np.stack(columns, axis=1)


def _predictions(blob: bytes, *, study: Study, cohort: Cohort, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return each row's mean prediction, (row, classes), or (row, 1) for regression.

    With noise every view is computed alone: no bit of a patient's prediction may depend on who else is scored.
    """
    channels, side = study.recipe.channels, study.recipe.patch_voxels
    head, model = heads.of(study.training), network.build(study.training, channels=channels, patch_voxels=side)
    network.load(model, blob)
    network.refuse_other_features(model, study.training, channels=channels, patch_voxels=side)
    bags = [list(cohort.bags[row][: study.training.views_per_patient_max]) for row in rows]
    if not bags:
        return np.zeros((0, max(1, head.classes)))
    if cohort.views.shape[1:] != study.recipe.view_shape:
        raise InternalError("The views do not have the study's shape.", action="Report this.")
    seen, at_once = [view for bag in bags for view in bag], VIEWS_AT_ONCE if study.evaluation.privacy is None else 1
    with torch.no_grad():
        parts = [
            model(torch.from_numpy(np.array(cohort.views[seen[start : start + at_once]]))).double().numpy()
            for start in range(0, len(seen), at_once)
        ]
    with np.errstate(over="ignore", invalid="ignore"):
        views = head.predictions(np.concatenate(parts).reshape(len(seen), head.outputs))
    nothing = 1 / head.classes if head.classes else 0.5
    views = np.where(np.isfinite(views).all(axis=1, keepdims=True), views, nothing)
    ends = np.cumsum([0, *map(len, bags)])
    return np.stack([views[start:end].mean(axis=0) for start, end in itertools.pairwise(ends.tolist())])
