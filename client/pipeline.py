"""The hospital side on one page: scans to cohort, cohort to contribution. The only file that composes the steps."""

import contextlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from client import cohort as cohort_step
from client import columns, embedding, harmonise, local, score, summarise, train
from client.entering import Entering, of_gram, of_query, of_scores
from client.imaging import segment
from client.imaging.ahead import Ahead
from client.imaging.guard import Guard
from client.imaging.lesion import locate
from client.imaging.prepare import prepare
from client.imaging.scan import read_scans
from client.imaging.tensor import to_tensor
from client.imaging.volume import assemble
from client.inside import Cohort, Measured, Scan, SetAside, View, Volume
from client.kept import Kept
from client.kernels.answer import answer
from client.kernels.rows import Answer, Rows, Seat
from client.measure import (
    acquisition,
    angle,
    area,
    burden,
    depth,
    edges,
    histogram,
    intensity,
    length,
    position,
    relative,
    shape,
    wall,
)
from client.measure.texture import glcm, gldzm, glrlm, glszm, ngldm, ngtdm
from client.points import Point
from client.quarantine import Reading
from common import left_out, logs, modality, model, moments, permissions, phases, query, scores, wire
from common.announcement import Announcement
from common.contribution import Contribution
from common.errors import ConfigError, GeometryRefused, MotetError, NoScans
from common.mechanism import LocalSteps, Mechanism, NoisyGram, SampledStep
from common.recipe import Recipe
from common.study import Study

FAMILIES: tuple[ModuleType, ...] = (
    *(length, angle, shape, area, intensity, relative, histogram, burden, depth, position, wall, acquisition, edges),
    *(glcm, glrlm, glszm, gldzm, ngtdm, ngldm),
)
UNSEEN_TOGETHER = 2  # honest hospitals of which the sum is no hospital's own
Progress = Callable[[int, int], None]

log = logging.getLogger("motet.vault")


def read_cohort(
    *,
    scans: Path,
    clinical: Path,
    study: Study,
    pseudonym: Callable[[str, str], str],
    progress: Progress,
    reading: Reading | None = None,
    points: Mapping[str, Point] | None = None,
    kept: Kept | None = None,
) -> Cohort:
    """DICOM -> Scan -> Volume -> Parameters and View -> Cohort. One bad series is set aside with its reason.

    `reading` writes down what is set aside, as it goes, and spares the reader what it knows to be bad.
    `points` are marked in lesions, by series; the study's recipe says whether a region is found from one.
    `kept` spares measuring what was measured before, whatever its files are called now.
    """
    cohort_step.check_clinical(clinical, study=study)  # before hours of reading scans
    measured: list[Measured] = []
    views: list[View] = []
    aside: list[SetAside] = []

    with Guard() as one, Guard() as other, Ahead(one, other) as guard:
        reader: Reading | Ahead = reading.through(guard) if reading else guard
        try:
            found = read_scans(scans, pseudonym=pseudonym, reader=reader, progress=progress, modality=study.recipe.modality)
            for item in found:
                made = _measured_or_aside(item, study=study, points=points or {}, kept=kept)
                if isinstance(made, SetAside):
                    aside.append(made)
                    if reading:
                        reading.note(made)
                    continue
                measured.append(made[0])
                views.append(made[1])
        except NoScans:
            if reading:
                reading.end(usable=0)
            raise
    if reading:
        reading.end(usable=len(measured))
    return cohort_step.join(measured, views, clinical=clinical, study=study, pseudonym=pseudonym, set_aside=aside)


def families(study: Study) -> tuple[ModuleType, ...]:
    """Return the families of parameters of which `study` names one; the others are not measured."""
    named = {variable.name for variable in study.variables if variable.source == "image"}
    return tuple(family for family in FAMILIES if named.intersection(family.NAMES))


def _measured_or_aside(
    scan: Scan | SetAside, *, study: Study, points: Mapping[str, Point], kept: Kept | None
) -> tuple[Measured, View] | SetAside:
    """Return what a series gives, or why it is set aside: one bad series never stops a run, a bad recipe does."""
    if isinstance(scan, SetAside):
        return scan
    try:
        return _kept_or_measured(scan, study=study, point=points.get(scan.series), kept=kept)
    except GeometryRefused as error:
        return SetAside(name=scan.series, reason=error.reason)
    except MotetError:
        raise
    except Exception as error:  # noqa: BLE001  (what a step did not foresee, a degenerate shape say, costs that series)
        logs.internal_error(log, error)
        return SetAside(name=scan.series, reason="FAILED")


def _kept_or_measured(scan: Scan, *, study: Study, point: Point | None, kept: Kept | None) -> tuple[Measured, View]:
    if kept is None:
        return _measure_and_see(scan, study=study, point=point)
    key = kept.key(scan, point=point)
    made = kept.look(key, scan=scan)
    if made is None:
        made = _measure_and_see(scan, study=study, point=point)
        kept.keep(key, made=made)
    return made


def _measure_and_see(scan: Scan, *, study: Study, point: Point | None) -> tuple[Measured, View]:
    recipe = study.recipe
    names = [one.name for one in study.variables if one.source == "image"]
    whole = modality.whole(names, modality=recipe.modality)
    volume = _with_region(assemble(scan, irregular=recipe.irregular, whole=whole), point=point, recipe=recipe)
    lesion = locate(prepare(volume, recipe=recipe), whole=whole)
    values = {
        name: value
        for family in families(study)
        for name, value in family.measure(lesion).items()
        if modality.has(name, modality=lesion.modality)
    }
    factors = {one.name: one.levels for one in study.variables if one.source == "image" and one.levels}
    view = to_tensor(lesion, recipe=study.recipe)
    values |= acquisition.factors(lesion.acquisition, levels=factors) | embedding.measure(view, study=study)
    return Measured(patient=lesion.patient, series=lesion.series, values=values), view


def _with_region(volume: Volume, *, point: Point | None, recipe: Recipe) -> Volume:
    """Return the volume with the region that was drawn, or found from a point; raises GeometryRefused on a doubtful one."""
    wanted = recipe.points
    if volume.region is not None or point is None or wanted is None:
        return volume
    found, quality = segment.from_mark(volume, mark_mm=point, reach_mm=float(wanted.reach_mm), method=wanted.method)
    if quality.leaked:
        raise GeometryRefused(segment.NotSegmented.LEAKED)
    if quality.agreement < float(wanted.agreement_min):
        raise GeometryRefused(segment.NotSegmented.METHODS_DISAGREE)
    return found


def dimension(announcement: Announcement, *, blob: bytes, study: Study) -> int:
    """Return how long the vector of a task is, from the study and, for a query, its bytes; raises BadQuery."""
    if announcement.task == "query":
        return query.dimension(query.parse(blob)) + left_out.ENTRIES
    if announcement.task == "gram":
        exact = study.statistics.privacy is None
        return (left_out.dimension if exact else moments.size)(len(study.columns()))
    if announcement.task == "evaluate":
        return scores.dimension(study)
    training, recipe = phases.of_step(study, announcement.index).training, study.recipe
    size = model.trainable_size(training, channels=recipe.channels, patch_voxels=recipe.patch_voxels)
    return size + (training.local is not None)


def blob_bytes_most(study: Study) -> int:
    """Return how many bytes a request of the study holds at most beside its head: models, or a query and coefficients."""
    recipe, models = study.recipe, 0
    whole = study.training.model_copy(update={"recipe": "full", "finetune": None})
    with contextlib.suppress(ConfigError):  # a network that cannot be built is not trained either
        size = model.trainable_size(whole, channels=recipe.channels, patch_voxels=recipe.patch_voxels)
        one = len(wire.pack([b""])) + model.HEADER_BYTES_MOST + np.dtype(np.float32).itemsize * size
        models = scores.models(study) * one
    return max(2 * query.BYTES_MOST, models)


def training_rows(cohort: Cohort, *, study: Study) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows for training and the rows held out; patients without a label are in neither."""
    labelled = train.labelled_rows(cohort, study=study)
    out = score.held_out(cohort.patients, study_hash=study.hash(), fraction=study.training.held_out_fraction)
    return labelled[~out[labelled]], labelled[out[labelled]]


def entering(announcement: Announcement, *, blob: bytes, study: Study, cohort: Cohort) -> Entering:
    """Return what enters an exact sum, and what a task asks of it (client/entering.py)."""
    if announcement.task == "query":
        return of_query(query.parse(blob), index=announcement.index, study=study, cohort=cohort)
    if announcement.task == "gram":
        return of_gram(study, cohort=cohort)
    _, rows = training_rows(cohort, study=study)
    return of_scores(study, cohort=cohort, rows=rows)


def complete_cases(cohort: Cohort, *, study: Study) -> Cohort:
    """Cohort -> Cohort: the patients whom the study's statistics see, where they share them."""
    return columns.complete_cases(cohort, study=study)


def harmonised(coefficients: bytes, *, study: Study, cohort: Cohort) -> Cohort:
    """Cohort -> Cohort: this hospital's batch effect is removed from the features; raises as client/harmonise.py."""
    return harmonise.cohort(cohort, study=study, coefficients=coefficients)


def seat(announcement: Announcement, *, study: Study, me: str, shows: bool) -> Seat:
    """Return where the hospital `me` stands in a round; `shows`: its policy lets its own estimates be seen."""
    of = len(announcement.hospitals)
    return Seat(at=announcement.hospitals.index(me), of=of, honest=permissions.honest(study, hospitals=of), shows=shows)


def answer_query(announcement: Announcement, *, blob: bytes, rows: Rows, seat: Seat) -> tuple[Answer, Contribution]:
    """Return this hospital's answer to a query, for its disclosure policy to judge, and as what would leave."""
    given = answer(rows, query=query.parse(blob), seat=seat)
    return given, Contribution(values=given.values, mechanism=announcement.mechanism)


def with_left_out(made: Contribution, *, patients: int, cell_min: int) -> Contribution:
    """Return a query's answer as it travels: beside it, how many patients it leaves out as incomplete (common/left_out.py)."""
    beside = left_out.entries(patients, cell_min=cell_min)
    return Contribution(values=np.array([*made.values.tolist(), *beside], dtype=object), mechanism=made.mechanism)


def contribute(
    announcement: Announcement,
    *,
    blob: bytes,
    study: Study,
    cohort: Cohort,
    mechanism: Mechanism,
    cell_min: int,
    seat: Seat,
) -> Contribution:
    """Cohort -> Contribution: the same thing for statistics, training and evaluation, a vector with a mechanism.

    `mechanism` is what the hospital is charged. `cell_min` is the smallest number of patients that it tells where it tells a
    number, beside none.
    """
    if isinstance(mechanism, NoisyGram):
        return summarise.summarise_privately(cohort, study=study, mechanism=mechanism)
    if announcement.task == "gram":
        return summarise.with_left_out(cohort, study=study, cell_min=cell_min)
    train_on, held_out = training_rows(cohort, study=study)
    if isinstance(mechanism, LocalSteps):
        phase = phases.of_step(study, announcement.index)

        def clipped_sum(blob: bytes, drawn: NDArray[np.bool_]) -> NDArray[np.float64]:
            return train.clipped_sum(blob, study=phase, cohort=cohort, training_rows=train_on, sampled=drawn)

        return local.contribution(blob, study=phase, patients=len(train_on), mechanism=mechanism, clipped_sum=clipped_sum)
    if isinstance(mechanism, SampledStep):
        phase = phases.of_step(study, announcement.index)
        return train.contribution(blob, study=phase, cohort=cohort, training_rows=train_on, mechanism=mechanism)
    return score.contribution(
        wire.unpack(blob, count=announcement.index),
        study=study,
        cohort=cohort,
        held_out_rows=held_out,
        mechanism=mechanism,
        seat=seat,
        apart=_apart_from_training(announcement, study=study, seat=seat),
        cell_min=cell_min,
    )


def _apart_from_training(announcement: Announcement, *, study: Study, seat: Seat) -> bool:
    """Say whether a hospital counts as an unseen one: its policy shows that, or two honest ones hide each other."""
    unseen = set(study.evaluation.unseen) & set(announcement.hospitals)
    hidden = len(unseen) - (seat.of - seat.honest) >= UNSEEN_TOGETHER
    return announcement.hospitals[seat.at] in unseen and (seat.shows or hidden)
