"""What of an image or segmentation a pseudonymised file may keep: an allow-list, applied in the guard's child without a key.

The child first names the identifiers that would stay (UIDs, dates, the patient), the parent answers with pseudonyms, and
the child writes a new file. All else is left behind: private elements, text, overlays, curves, preamble, other sequences.
"""

import io
from collections.abc import Mapping
from typing import Any, Final

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset

from client.imaging import values
from client.imaging.found import Reason
from client.imaging.values import Refused

KEPT: Final = frozenset(
    [
        "SOPClassUID",
        "Modality",
        "ImageType",
        "PatientSex",
        "PatientAge",
        "PatientPosition",
        "BodyPartExamined",
        "Laterality",
        "ImageLaterality",
        "Manufacturer",
        "ManufacturerModelName",
        "ConvolutionKernel",
        "KVP",
        "Exposure",
        "ExposureTime",
        "XRayTubeCurrent",
        "SliceThickness",
        "SpacingBetweenSlices",
        "ReconstructionDiameter",
        "DataCollectionDiameter",
        "GantryDetectorTilt",
        "TableHeight",
        "RotationDirection",
        "FilterType",
        "ScanOptions",
        "SpiralPitchFactor",
        "CTDIvol",
        "ScanningSequence",
        "SequenceVariant",
        "MRAcquisitionType",
        "RepetitionTime",
        "EchoTime",
        "InversionTime",
        "FlipAngle",
        "MagneticFieldStrength",
        "EchoNumbers",
        "SeriesNumber",
        "AcquisitionNumber",
        "InstanceNumber",
        "TemporalPositionIdentifier",
        "NumberOfTemporalPositions",
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "PixelSpacing",
        "ImagerPixelSpacing",
        "SamplesPerPixel",
        "PhotometricInterpretation",
        "PlanarConfiguration",
        "NumberOfFrames",
        "Rows",
        "Columns",
        "BitsAllocated",
        "BitsStored",
        "HighBit",
        "PixelRepresentation",
        "SmallestImagePixelValue",
        "LargestImagePixelValue",
        "PixelPaddingValue",
        "PixelPaddingRangeLimit",
        "RescaleSlope",
        "RescaleIntercept",
        "RescaleType",
        "WindowCenter",
        "WindowWidth",
        "LossyImageCompression",
        "BurnedInAnnotation",
        "PixelData",
        "SegmentationType",
        "SegmentNumber",
        "SegmentAlgorithmType",
        "DimensionIndexValues",
        "ReferencedSOPClassUID",
        "ReferencedFrameNumber",
    ]
)
INSIDE: Final = frozenset(  # sequences that are walked with the same list
    [
        "SharedFunctionalGroupsSequence",
        "PerFrameFunctionalGroupsSequence",
        "PlanePositionSequence",
        "PlaneOrientationSequence",
        "PixelMeasuresSequence",
        "PixelValueTransformationSequence",
        "SegmentSequence",
        "SegmentIdentificationSequence",
        "ReferencedSeriesSequence",
        "ReferencedInstanceSequence",
        "DerivationImageSequence",
        "SourceImageSequence",
        "FrameContentSequence",
    ]
)
SEGMENT: Final = frozenset({"ReferencedSegmentNumber"})
UIDS: Final = frozenset(
    "StudyInstanceUID SeriesInstanceUID SOPInstanceUID FrameOfReferenceUID ReferencedSOPInstanceUID".split()  # noqa: SIM905
)
DATES: Final = frozenset({"StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"})
OLDEST: Final = 89
METHOD: Final = "Motet allow-list 1"
CODES: Final = (  # PS3.16 CID 7050
    ("113100", "Basic Application Confidentiality Profile"),
    ("113105", "Clean Descriptors Option"),
    ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
    ("113108", "Retain Patient Characteristics Option"),
)


def identifiers(ds: Dataset) -> dict[str, Any]:
    """Return the identifiers for which the parent must give others: {"patient": id^^^issuer, "uids": [...], "dates": [...]}."""
    who = values.identity(ds, framed=False)
    uids, dates = set(), set()
    for element in _walk(ds):
        if element.keyword in UIDS:
            uids.add(str(element.value))
        elif element.keyword in DATES and element.value:
            dates.add(str(element.value))
    patient = f"{who['patient_id']}^^^{who['issuer']}" if who["issuer"] else who["patient_id"]
    return {"patient": patient, "uids": sorted(uids), "dates": sorted(dates)}


def rewritten(ds: Dataset, *, given: Mapping[str, Any]) -> bytes:
    """Return a new file that holds what is allowed of `ds`, with the pseudonyms in `given`; raises Refused without one."""
    new = _copy(ds, given=given)
    new.file_meta = FileMetaDataset()
    new.file_meta.TransferSyntaxUID = ds.file_meta.TransferSyntaxUID
    new.file_meta.MediaStorageSOPClassUID, new.file_meta.MediaStorageSOPInstanceUID = new.SOPClassUID, new.SOPInstanceUID
    new.PatientID, new.PatientName, new.PatientIdentityRemoved = given["patient"], "", "YES"
    new.DeidentificationMethod, new.LongitudinalTemporalInformationModified = METHOD, "MODIFIED"
    new.DeidentificationMethodCodeSequence = [_code(value, meaning) for value, meaning in CODES]
    for segment in new.get("SegmentSequence", []):
        segment.SegmentLabel = "Segment"  # type 1; what stood there is text
    age = str(new.get("PatientAge") or "")
    if age.endswith("Y") and (not age[:-1].isdecimal() or int(age[:-1]) > OLDEST):
        new.PatientAge = f"{OLDEST:03d}Y"
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, new, enforce_file_format=True)  # the preamble is zeros
    return buffer.getvalue()


def _copy(ds: Dataset, *, given: Mapping[str, Any]) -> Dataset:
    new = Dataset()
    for element in ds:
        keyword = element.keyword
        if element.tag.is_private or not keyword:
            continue
        if keyword in INSIDE:
            setattr(new, keyword, [_copy(item, given=given) for item in element.value])
        elif keyword in UIDS:
            setattr(new, keyword, _given(given["uids"], str(element.value)))
        elif keyword in DATES:
            setattr(new, keyword, _given(given["dates"], str(element.value)) if element.value else "")
        elif (keyword in KEPT or keyword in SEGMENT) and element.VR != "SQ":
            new[element.tag] = element
    return new


def _given(mapping: Mapping[str, str], raw: str) -> str:
    if raw not in mapping:
        raise Refused(Reason.NO_IDENTITY)
    return mapping[raw]


def _walk(ds: Dataset) -> Any:  # noqa: ANN401  (elements of pydicom)
    for element in ds:
        yield element
        if element.keyword in INSIDE:
            for item in element.value:
                yield from _walk(item)


def _code(value: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "DCM", meaning
    return code
