"""Which contours of an RT Structure Set are the lesion's; runs in the guard's child, on one parsed data set."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset

from client.imaging import values
from client.imaging.found import Reason
from client.inside import Float

_TARGET = re.compile(r"(i?gtv|tumou?r|lesion|nodule)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """The lesion's closed contours: all their points one after another, and where each contour ends and whose it is."""

    frame_of_reference: object
    of_series: object
    points_mm: Float  # (point, 3), LPS
    ends: Float  # (contour, 2): how many points up to its end, number of the region of interest
    references: list[str]  # the images that the contours name, or their series'


def target(ds: Dataset, *, points_most: int, images_most: int) -> Structure | Reason:
    """Return the contours of the regions of interest that are a tumour, or why there are none.

    A tumour's: interpreted type GTV, or a name that begins with GTV, IGTV, tumour, lesion or nodule, whatever the case; where
    nothing is called so, the only region of interest. Several are one region (their union). Source: PS3.3 C.8.8.5, C.8.8.6.
    """
    regions = {int(one.ROINumber): one for one in ds.get("StructureSetROISequence") or []}
    drawn = {int(one.ReferencedROINumber): one for one in ds.get("ROIContourSequence") or []}
    kinds = {int(one.ReferencedROINumber): one.get("RTROIInterpretedType") for one in ds.get("RTROIObservationsSequence") or []}
    chosen = [
        at for at, one in regions.items() if kinds.get(at) == "GTV" or _TARGET.match(str(one.get("ROIName") or "").strip())
    ]
    chosen = [at for at in chosen or (list(regions) if len(regions) == 1 else []) if at in drawn]
    if not chosen:
        return Reason.NO_TARGET
    frames = {regions[at].get("ReferencedFrameOfReferenceUID") for at in chosen}
    referenced = [
        one
        for frame in ds.get("ReferencedFrameOfReferenceSequence") or []
        if frame.get("FrameOfReferenceUID") in frames
        for study in frame.get("RTReferencedStudySequence") or []
        for one in study.get("RTReferencedSeriesSequence") or []
    ]
    series = [one.get("SeriesInstanceUID") for one in referenced]
    if len(frames) != 1 or len(set(series)) != 1:
        return Reason.NO_IDENTITY
    found = _points([contour for at in chosen for contour in drawn[at].get("ContourSequence") or []], most=points_most)
    if isinstance(found, Reason):
        return found
    whose = [at for at in chosen for _ in drawn[at].get("ContourSequence") or []]
    ends = np.stack([np.cumsum([len(points) for points in found]), whose], axis=1).astype(np.float64)
    lines = [contour for at in chosen for contour in drawn[at].get("ContourSequence") or []]
    images = [image for one in lines for image in one.get("ContourImageSequence") or []]
    return Structure(
        frame_of_reference=frames.pop(),
        of_series=series[0],
        points_mm=np.concatenate(found),
        ends=ends,
        references=values.references(
            images or [image for one in referenced for image in one.get("ContourImageSequence") or []], most=images_most
        ),
    )


def _points(drawn: Sequence[Dataset], *, most: int) -> list[Float] | Reason:
    """Return the points of each contour, (point, 3), or why they are not usable."""
    parts: list[Float] = []
    total = 0
    for contour in drawn:
        values = contour.get("ContourData")
        if contour.get("ContourGeometricType") != "CLOSED_PLANAR" or values is None or len(values) < 9 or len(values) % 3:
            return Reason.NO_GEOMETRY
        total += len(values) // 3
        if total > most:
            return Reason.TOO_LARGE
        parts.append(np.array([float(value) for value in values]).reshape(-1, 3))
        if not np.isfinite(parts[-1]).all() or np.abs(parts[-1]).max() > 1e6:
            return Reason.NO_GEOMETRY
    return parts or Reason.NO_TARGET
