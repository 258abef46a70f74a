"""A simulated series as DICOM files: CT Image Storage and one Segmentation, every identifier invented and easy to find again.

Everything that a real scanner writes about a person is filled with text that says PLANTED, so that a leak can be searched for.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import highdicom
import numpy as np
from highdicom.sr.coding import CodedConcept
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.pixels import pack_bits
from pydicom.sr.codedict import codes
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian

if TYPE_CHECKING:
    from deploy.demo.render import Rendered
    from deploy.demo.scanner import Scanner

SEG_NAME = "seg.dcm"
ORIENTATION = [1, 0, 0, 0, 1, 0]
IMPLEMENTATION = UID("2.25.176823219310562847291764509183726450918")


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What the files say about a patient; nothing of it belongs to a person."""

    patient_id: str
    name: str
    birth_date: str
    sex: str
    age_years: int
    institution: str
    accession: str
    study_date: str
    study_time: str
    study_uid: UID
    frame_uid: UID
    position_mm: tuple[float, float, float]  # x, y, z of the middle of the field of view


def uid(*labels: str | int) -> UID:
    """Return the UID that belongs to labels: 2.25 and 128 bits of their SHA-256 (PS3.5, B.2)."""
    digest = sha256("\x1f".join(map(str, labels)).encode()).digest()
    return UID(f"2.25.{int.from_bytes(digest[:16], 'big')}")


def write_series(
    folder: Path, rendered: "Rendered", *, identity: Identity, scanner: "Scanner", series_uid: UID, number: int, reader: str
) -> int:
    """Write the slices and `seg.dcm` into `folder`, which it makes; returns the number of bytes."""
    folder.mkdir(parents=True)
    slices = list(_slices(rendered, identity=identity, scanner=scanner, series_uid=series_uid, number=number))
    for image in slices:
        name = scanner.file_name.format(number=int(image.InstanceNumber), uid=image.SOPInstanceUID)
        image.save_as(folder / name, enforce_file_format=True)
    segmentation(slices, rendered, scanner=scanner, reader=reader).save_as(folder / SEG_NAME, enforce_file_format=True)
    return sum(path.stat().st_size for path in folder.iterdir())


def _slices(
    rendered: "Rendered", *, identity: Identity, scanner: "Scanner", series_uid: UID, number: int
) -> Iterator[FileDataset]:
    """Yield the slices from the lowest up."""
    base = _common(identity, scanner=scanner, series_uid=series_uid, number=number)
    x, y, z = identity.position_mm
    half = (scanner.matrix - 1) / 2 * scanner.pixel_mm
    low = z - (scanner.slices - 1) / 2 * scanner.thickness_mm
    stored = rendered.voxels_hu if scanner.signed else (rendered.voxels_hu + 1024).astype(np.uint16)
    for level, plane in enumerate(stored):
        instance = level + 1 if scanner.feet_first_numbering else scanner.slices - level
        image = FileDataset("", dict(base.items()), preamble=bytes(128), file_meta=_meta(CTImageStorage, scanner=scanner))
        image.SOPInstanceUID = uid(series_uid, instance)
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        image.InstanceNumber = instance
        image.ImagePositionPatient = [round(x - half, 4), round(y - half, 4), round(low + level * scanner.thickness_mm, 4)]
        image.SliceLocation = image.ImagePositionPatient[2]
        image.PixelData = plane.astype(plane.dtype.newbyteorder("<")).tobytes()
        yield image


def _meta(sop_class: UID, *, scanner: "Scanner") -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.TransferSyntaxUID = ImplicitVRLittleEndian if scanner.implicit_vr else ExplicitVRLittleEndian
    meta.ImplementationClassUID = IMPLEMENTATION
    meta.ImplementationVersionName = "MOTET-DEMO"
    return meta


def _common(identity: Identity, *, scanner: "Scanner", series_uid: UID, number: int) -> Dataset:
    image = Dataset()
    image.SpecificCharacterSet = "ISO_IR 100"
    image.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    image.SOPClassUID = CTImageStorage
    for keyword in ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"):
        setattr(image, keyword, identity.study_date)
    for keyword in ("StudyTime", "SeriesTime", "AcquisitionTime", "ContentTime"):
        setattr(image, keyword, identity.study_time)
    image.AccessionNumber = identity.accession
    image.Modality = "CT"
    image.Manufacturer = scanner.manufacturer
    image.InstitutionName = identity.institution
    image.InstitutionAddress = "1 Planted Street, Plantedville"
    image.ReferringPhysicianName = "Referrer^Planted"
    image.StationName = "PLANTED-STATION"
    image.StudyDescription = "Simulated chest, planted"
    image.SeriesDescription = f"Simulated series {number}"
    image.OperatorsName = "Operator^Planted"
    image.ManufacturerModelName = scanner.model
    image.PatientName = identity.name
    image.PatientID = identity.patient_id
    image.IssuerOfPatientID = scanner.issuer
    image.PatientBirthDate = identity.birth_date
    image.PatientSex = identity.sex
    image.PatientAge = f"{identity.age_years:03d}Y"
    image.PatientComments = f"planted comment on {identity.patient_id}"
    image.BodyPartExamined = "CHEST"
    image.SliceThickness = scanner.thickness_mm
    image.KVP = scanner.kvp
    image.DeviceSerialNumber = "PLANTED-SERIAL"
    image.SoftwareVersions = "simulated"
    image.ProtocolName = "planted protocol"
    image.ConvolutionKernel = scanner.kernel
    image.PatientPosition = "HFS"
    image.StudyInstanceUID = identity.study_uid
    image.SeriesInstanceUID = series_uid
    image.StudyID = "1"
    image.SeriesNumber = number
    image.AcquisitionNumber = 1
    image.ImageOrientationPatient = ORIENTATION
    image.FrameOfReferenceUID = identity.frame_uid
    image.PositionReferenceIndicator = ""
    image.SamplesPerPixel = 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.Rows = image.Columns = scanner.matrix
    image.PixelSpacing = [scanner.pixel_mm, scanner.pixel_mm]
    image.BitsAllocated = 16
    image.BitsStored = 16 if scanner.signed else 12
    image.HighBit = image.BitsStored - 1
    image.PixelRepresentation = int(scanner.signed)
    image.BurnedInAnnotation = "NO"
    image.WindowCenter, image.WindowWidth = -600, 1500
    image.RescaleIntercept, image.RescaleSlope = (0 if scanner.signed else -1024), 1
    if scanner.rescale_type:
        image.RescaleType = "HU"
    return image


_TEMPLATES: dict[str, Dataset] = {}  # one a scanner, made once in a process


def segmentation(slices: list[FileDataset], rendered: "Rendered", *, scanner: "Scanner", reader: str) -> Dataset:
    """Return the binary Segmentation of the lesion: frames of the slices that it touches, from the lowest up.

    highdicom writes one object per scanner; here its patient, its references and its frames are replaced, which is ten times
    faster than writing each object anew. The tests read the result with highdicom.
    """
    return highdicom.seg.Segmentation(
        source_images=slices,
        pixel_array=rendered.region.astype(np.uint8),
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[
            highdicom.seg.SegmentDescription(
                segment_number=1,
                segment_label="Lesion",
                segmented_property_category=codes.cid7150.MorphologicallyAbnormalStructure,
                segmented_property_type=CodedConcept("52988006", "SCT", "Lesion"),
                algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.MANUAL,
                tracking_uid=uid("tracking", slices[0].SeriesInstanceUID),
                tracking_id="lesion-1",
            )
        ],
        series_instance_uid=uid("seg-series", slices[0].SeriesInstanceUID),
        series_number=100 + int(slices[0].SeriesNumber),
        sop_instance_uid=uid("seg", slices[0].SeriesInstanceUID),
        instance_number=1,
        manufacturer="simulated",
        manufacturer_model_name="simulated",
        software_versions="simulated",
        device_serial_number="PLANTED-SERIAL",
        content_creator_name=reader,
        omit_empty_frames=True,
    )
