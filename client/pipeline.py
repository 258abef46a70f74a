"""The hospital side on one page: scans to cohort, cohort to contribution. The only file that composes the steps."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations_with_replacement
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client import cohort as cohort_step
from client import score, summarise, train
from client.imaging.guard import Guard
from client.imaging.lesion import locate
from client.imaging.prepare import prepare
from client.imaging.scan import read_scans
from client.imaging.tensor import to_tensor
from client.imaging.volume import assemble
from client.inside import Cohort, Measured, Scan, SetAside, View
from client.measure import angle, depth, intensity, length, shape
from common import canonical, model, moments, wire
from common.announcement import Announcement
from common.contribution import Contribution
from common.errors import GeometryRefused
from common.mechanism import GaussianShare
from common.study import Study

FAMILIES = (length, angle, shape, intensity, depth)
Progress = Callable[[int, int], None]


def read_cohort(
    *, scans: Path, clinical: Path, study: Study, pseudonym: Callable[[str, str], str], progress: Progress
) -> Cohort:
    """DICOM -> Scan -> Volume -> Parameters and View -> Cohort. One bad series is set aside with its reason."""
    cohort_step.check_clinical(clinical, study=study)  # before hours of reading scans
    measured: list[Measured] = []
    views: list[View] = []
    aside: list[SetAside] = []
    with Guard() as reader:
        for item in read_scans(scans, pseudonym=pseudonym, reader=reader, progress=progress):
            if isinstance(item, SetAside):
                aside.append(item)
                continue
            try:
                parameters, view = _measure_and_see(item, study=study)
            except GeometryRefused as error:
                aside.append(SetAside(name=item.series, reason=error.reason))
                continue
            measured.append(parameters)
            views.append(view)
    return cohort_step.join(measured, views, clinical=clinical, study=study, pseudonym=pseudonym, set_aside=aside)


def _measure_and_see(scan: Scan, *, study: Study) -> tuple[Measured, View]:
    lesion = locate(prepare(assemble(scan), recipe=study.recipe))
    values = {name: value for family in FAMILIES for name, value in family.measure(lesion).items()}
    return Measured(patient=lesion.patient, series=lesion.series, values=values), to_tensor(lesion, recipe=study.recipe)


def dimension(announcement: Announcement, *, study: Study) -> int:
    """Return how long the vector of a task is, from the study alone."""
    if announcement.task == "gram":
        return moments.size(len(study.columns()))
    if announcement.task == "evaluate":
        return announcement.index * 2 * study.training.score_bins
    return model.trainable_size(study.training, channels=1 + study.recipe.edge_channel, patch_voxels=study.recipe.patch_voxels)


def training_rows(cohort: Cohort, *, study: Study) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows for training and the rows held out; patients without a label are in neither."""
    labelled = train.labelled_rows(cohort, study)
    out = score.held_out(cohort.patients, study_hash=study.hash(), fraction=study.training.held_out_fraction)
    return labelled[~out[labelled]], labelled[out[labelled]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entering:
    """What enters an exact sum: how many patients, and per question their data as bytes, to be hashed and nothing else."""

    patients: int
    questions: dict[str, bytes]


def entering(announcement: Announcement, *, study: Study, cohort: Cohort) -> Entering:
    """Return what a task asks: of a Gram, every pair of columns as prepared; of an evaluation, the held-out patients."""
    prepared = study.recipe.model_dump(mode="python")
    if announcement.task == "gram":
        values = summarise.complete_rows(cohort, study)
        columns = {name: values[:, at].tobytes() for at, name in enumerate(study.columns())}
        asked = {name: study.variable(name).model_dump(mode="python") for name in columns}
        return Entering(
            patients=len(values),
            questions={
                canonical.digest({"gram": [asked[one], asked[other]], "recipe": prepared}): columns[one] + columns[other]
                for one, other in combinations_with_replacement(sorted(columns), 2)
            },
        )
    _, rows = training_rows(cohort, study=study)
    label = cohort.columns.index(study.training.label)
    views = [view for row in rows for view in cohort.bags[row][: study.training.views_per_patient_max]]
    scored = {"scores": study.training.model_dump(mode="python"), "recipe": prepared}
    data = cohort.table[rows, label].tobytes() + cohort.views[views].tobytes()
    return Entering(patients=len(rows), questions={canonical.digest(scored): data})


def contribute(announcement: Announcement, *, blob: bytes, study: Study, cohort: Cohort) -> Contribution:
    """Cohort -> Contribution: the same thing for statistics, training and evaluation, a vector with a mechanism."""
    if announcement.task == "gram":
        return summarise.summarise(cohort, study=study)
    train_on, held_out = training_rows(cohort, study=study)
    if isinstance(announcement.mechanism, GaussianShare):
        return train.contribution(blob, study=study, cohort=cohort, training_rows=train_on, mechanism=announcement.mechanism)
    return score.histograms(wire.unpack(blob, count=announcement.index), study=study, cohort=cohort, held_out_rows=held_out)
