"""One rendered series to DICOM files: CT Image Storage slices and one Segmentation.

Whatever a real scanner would write about a person is made up, and recognisable by one of NEEDLES, so that a leak can be found.
"""

import datetime as dt
import hashlib
from dataclasses import dataclass
from pathlib import Path

import highdicom
import numpy as np
from highdicom.seg import SegmentAlgorithmTypeValues, SegmentationTypeValues, SegmentDescription
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from deploy.demo.render import Rendered
from deploy.demo.scanner import Scanner

FIRST_DAY = dt.date(2019, 1, 7)
SIGNED_OFFSET, UNSIGNED_OFFSET = 0, 1024
NEEDLES = ("Planted", "PLANTED", "planted", "MRN-")  # one of them is in every identifier that is text
IMPLEMENTATION = UID("2.25.30612740212")


@dataclass(frozen=True, slots=True, kw_only=True)
class Patient:
    """A made-up patient. Name and numbers are recognisable on purpose: a test looks for them in everything that is written."""

    hospital: str
    number: int
    age_years: int
    sex: str  # "F" or "M"

    @property
    def patient_id(self) -> str:
        """PatientID."""
        return f"MRN-{self.hospital.upper()}-{self.number:04d}"

    @property
    def name(self) -> str:
        """PatientName."""
        return f"Planted^{self.hospital.title()}{self.number:04d}"


def write(folder: Path, rendered: Rendered, *, patient: Patient, scanner: Scanner, seed: int, series: int) -> int:
    """Write slices and `seg.dcm` into `folder`, which it makes; return the number of files.

    The same arguments give the same bytes.
    """
    folder.mkdir(parents=True)
    slices = [
        _slice(rendered, index, patient=patient, scanner=scanner, seed=seed, series=series)
        for index in range(len(rendered.voxels_hu))
    ]
    for image in slices:
        name = scanner.file_name.format(number=int(image.InstanceNumber), uid=image.SOPInstanceUID)
        image.save_as(folder / name, enforce_file_format=True)
    segmentation = highdicom.seg.Segmentation(
        source_images=slices,
        pixel_array=rendered.region.astype(np.uint8),
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[
            SegmentDescription(
                segment_number=1,
                segment_label="Nodule",
                segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
                segmented_property_type=codes.SCT.Nodule,
                algorithm_type=SegmentAlgorithmTypeValues.MANUAL,
            )
        ],
        series_instance_uid=_uid(seed, patient, series, "segmentation series"),
        series_number=100 + series,
        sop_instance_uid=_uid(seed, patient, series, "segmentation"),
        instance_number=1,
        manufacturer=scanner.manufacturer,
        manufacturer_model_name=scanner.model,
        software_versions="1",
        device_serial_number="PLANTED-SERIAL-1",
        omit_empty_frames=True,
    )
    _settle(segmentation, day=_day(patient, series), dimension=_uid(seed, patient, series, "dimensions"))
    segmentation.save_as(folder / "seg.dcm", enforce_file_format=True)
    return len(slices) + 1


def _settle(segmentation: Dataset, *, day: str, dimension: UID) -> None:
    """Replace what highdicom takes from the clock and at random."""
    for keyword in ("ContentDate", "InstanceCreationDate"):
        setattr(segmentation, keyword, day)
    for keyword in ("ContentTime", "InstanceCreationTime"):
        setattr(segmentation, keyword, "120000")
    for equipment in segmentation.ContributingEquipmentSequence:
        if "ContributionDateTime" in equipment:
            equipment.ContributionDateTime = f"{day}120000"
    for item in (*segmentation.DimensionOrganizationSequence, *segmentation.DimensionIndexSequence):
        item.DimensionOrganizationUID = dimension


def _slice(rendered: Rendered, index: int, *, patient: Patient, scanner: Scanner, seed: int, series: int) -> Dataset:
    count, rows, columns = rendered.voxels_hu.shape
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if scanner.implicit_vr else ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = CTImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = _uid(seed, patient, series, f"slice {index}")
    ds.file_meta.ImplementationClassUID = IMPLEMENTATION
    ds.file_meta.ImplementationVersionName = "MOTET-DEMO"
    day = _day(patient, series)
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = day
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = "120000"
    ds.AccessionNumber = f"PLANTED-ACC-{patient.number}"
    ds.Modality, ds.Manufacturer, ds.ManufacturerModelName = "CT", scanner.manufacturer, scanner.model
    ds.InstitutionName, ds.ReferringPhysicianName = f"Planted Infirmary {patient.hospital}", "Planted^Physician"
    ds.InstitutionAddress, ds.StationName = "1 Planted Street", "PLANTED-STATION"
    ds.OperatorsName, ds.DeviceSerialNumber = "Planted^Operator", "PLANTED-SERIAL-1"
    ds.StudyDescription, ds.SeriesDescription, ds.BodyPartExamined = "planted chest", f"planted series {series + 1}", "CHEST"
    ds.PatientName, ds.PatientID, ds.IssuerOfPatientID = patient.name, patient.patient_id, scanner.issuer
    ds.PatientSex, ds.PatientAge = patient.sex, f"{patient.age_years:03d}Y"
    ds.PatientBirthDate = f"{int(day[:4]) - patient.age_years}0101"
    ds.KVP, ds.SliceThickness, ds.ConvolutionKernel = str(scanner.kvp), _ds(scanner.thickness_mm), scanner.kernel
    ds.PatientPosition = "HFS"
    ds.StudyInstanceUID = _uid(seed, patient, series, "study")
    ds.SeriesInstanceUID = _uid(seed, patient, series, "series")
    ds.FrameOfReferenceUID = _uid(seed, patient, series, "frame of reference")
    ds.PositionReferenceIndicator, ds.StudyID = "", "1"
    ds.SeriesNumber, ds.AcquisitionNumber = series + 1, 1
    ds.InstanceNumber = index + 1 if scanner.feet_first_numbering else count - index
    corner = -(columns - 1) / 2 * scanner.pixel_mm
    z_mm = (index - (count - 1) / 2) * scanner.thickness_mm - 150.0 - 10.0 * (patient.number % 7)
    ds.ImagePositionPatient = [_ds(corner), _ds(corner), _ds(z_mm)]
    ds.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    ds.PixelSpacing = [_ds(scanner.pixel_mm), _ds(scanner.pixel_mm)]
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = rows, columns, 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
    offset = SIGNED_OFFSET if scanner.signed else UNSIGNED_OFFSET
    ds.PixelRepresentation = 1 if scanner.signed else 0
    ds.RescaleIntercept, ds.RescaleSlope = str(-offset), "1"
    if scanner.rescale_type:
        ds.RescaleType = "HU"
    stored = rendered.voxels_hu[index].astype(np.int32) + offset
    ds.PixelData = stored.astype("<i2" if scanner.signed else "<u2").tobytes()
    return ds


def _day(patient: Patient, series: int) -> str:
    return (FIRST_DAY + dt.timedelta(days=7 * (patient.number % 100) + 180 * series)).strftime("%Y%m%d")


def _uid(seed: int, patient: Patient, series: int, what: str) -> UID:
    """Return 2.25 and the first 120 bits of a SHA-256 (PS3.5, B.2)."""
    text = f"{seed} {patient.patient_id} {0 if what == 'study' else series} {what}"
    return UID(f"2.25.{int.from_bytes(hashlib.sha256(text.encode()).digest()[:15], 'big')}")


def _ds(value: float) -> str:
    return f"{value:.6f}".rstrip("0").rstrip(".")
