"""RT Structure Sets of phantoms, as a planning system writes them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid

Contour = Sequence[tuple[float, float, float]]


def write(
    path: Path,
    *,
    of: Dataset,
    contours: Mapping[str, Sequence[Contour]],
    kinds: Mapping[str, str] | None = None,
    geometry: str = "CLOSED_PLANAR",
) -> Path:
    """Write `contours`, LPS mm, by the name of their region of interest, drawn on the series of the slice `of`."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = RTStructureSetStorage
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid(
        entropy_srcs=[path.name, str(of.SeriesInstanceUID)]
    )
    ds.PatientID, ds.StudyInstanceUID, ds.Modality = of.PatientID, of.StudyInstanceUID, "RTSTRUCT"
    ds.SeriesInstanceUID = generate_uid(entropy_srcs=["structures", str(of.SeriesInstanceUID)])
    series, study, frame = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID, study.RTReferencedSeriesSequence = of.SeriesInstanceUID, [series]
    frame.FrameOfReferenceUID, frame.RTReferencedStudySequence = of.FrameOfReferenceUID, [study]
    ds.ReferencedFrameOfReferenceSequence = [frame]
    ds.StructureSetROISequence, ds.ROIContourSequence, ds.RTROIObservationsSequence = [], [], []
    for number, (name, drawn) in enumerate(contours.items(), start=1):
        region, contour_of, seen = Dataset(), Dataset(), Dataset()
        region.ROINumber, region.ROIName, region.ReferencedFrameOfReferenceUID = number, name, of.FrameOfReferenceUID
        contour_of.ReferencedROINumber = seen.ReferencedROINumber = number
        seen.RTROIInterpretedType = (kinds or {}).get(name, "ORGAN")
        contour_of.ContourSequence = []
        for points in drawn:
            contour = Dataset()
            contour.ContourGeometricType, contour.NumberOfContourPoints = geometry, len(points)
            contour.ContourData = [pydicom.valuerep.format_number_as_ds(float(v)) for point in points for v in point]
            contour_of.ContourSequence.append(contour)
        ds.StructureSetROISequence.append(region)
        ds.ROIContourSequence.append(contour_of)
        ds.RTROIObservationsSequence.append(seen)
    ds.save_as(path, enforce_file_format=True)
    return path


def circle(*, radius_mm: float, z_mm: float, centre_mm: tuple[float, float] = (0.0, 0.0), points: int = 72) -> Contour:
    """Return a circle in an axial plane."""
    around = np.linspace(0, 2 * np.pi, points, endpoint=False)
    return [(centre_mm[0] + radius_mm * float(np.cos(a)), centre_mm[1] + radius_mm * float(np.sin(a)), z_mm) for a in around]
