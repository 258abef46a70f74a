"""Images in numbers that can be measured: CT in HU, MR and radiographs as the scanner scaled them; in the guard's child."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from client.imaging import pixels, values
from client.imaging.exchange import STORED, Arrays, Stored, exact
from client.imaging.found import Reason
from client.imaging.limits import Limits
from client.imaging.values import Refused

AIR_HU = -1024.0
MAGNIFICATION_MOST = 20.0  # a mammographic spot view has 2
CT, ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1"
MR, ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1"
CR = "1.2.840.10008.5.1.4.1.1.1"
DX_SHOWN, DX_RAW = "1.2.840.10008.5.1.4.1.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1.1"
SLICES, FRAMES = {CT: "CT", MR: "MR"}, {ENHANCED_CT: "CT", ENHANCED_MR: "MR"}
PROJECTIONS = {CR: "CR", DX_SHOWN: "DX", DX_RAW: "DX"}
KINDS = frozenset({*SLICES, *FRAMES, *PROJECTIONS})
PHASES = {  # what may tell slices at one position apart, and where an enhanced object has it for a frame (PS3.3 C.7.6.16)
    0x00200100: ("FrameContentSequence", "TemporalPositionIndex"),  # Temporal Position Identifier
    0x00181060: ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),  # Trigger Time
    0x00180086: ("", ""),  # Echo Numbers
    0x00180081: ("MREchoSequence", "EffectiveEchoTime"),  # Echo Time
    0x00189087: ("MRDiffusionSequence", "DiffusionBValue"),
    0x00200012: ("FrameContentSequence", "FrameAcquisitionNumber"),  # Acquisition Number
    0x00080032: ("FrameContentSequence", "FrameAcquisitionDateTime"),  # Acquisition Time
    0x00080033: ("", ""),  # Content Time
}

Answer = tuple[dict[str, Any], Arrays]


def examine(ds: Dataset, *, with_pixels: bool, limits: Limits, scratch: int | None) -> Answer:
    """Return the header and the pixels of an image of `KINDS`; raises Refused.

    CT without rescale slope and intercept is refused; MR without them counts as slope 1, intercept 0. Lossy pixels, pixels that
    may have text burned in (BurnedInAnnotation YES, image type SECONDARY) and colour are refused. Padding becomes nan.
    """
    if ds.file_meta.TransferSyntaxUID in pixels.LOSSY or ds.get("LossyImageCompression") == "01":
        raise Refused(Reason.LOSSY)
    if ds.get("BurnedInAnnotation") == "YES":
        raise Refused(Reason.BURNED_IN)
    kind = str(ds.SOPClassUID)
    types = ds.get("ImageType")
    if not isinstance(types, str | None) and len(types) > 1 and types[1].strip() == "SECONDARY":
        raise Refused(Reason.SECONDARY)
    if kind in PROJECTIONS:
        return _projection(ds, modality=PROJECTIONS[kind], with_pixels=with_pixels, limits=limits, scratch=scratch)
    if kind in FRAMES:
        return _frames(ds, modality=FRAMES[kind], with_pixels=with_pixels, limits=limits, scratch=scratch)
    return _slice(ds, modality=SLICES[kind], with_pixels=with_pixels, limits=limits, scratch=scratch)


def _slice(ds: Dataset, *, modality: str, with_pixels: bool, limits: Limits, scratch: int | None) -> Answer:
    rows, columns = _size(ds, frames_most=1, voxels_most=limits.pixels)
    slope, intercept = _rescale(ds, modality=modality)
    head = {
        "kind": "slice",
        "modality": modality,
        "identity": values.identity(ds),
        "shape": [rows, columns],
        "position_mm": values.floats(ds.get("ImagePositionPatient"), 3),
        "orientation": values.orientation(ds),
        "spacing_mm": values.spacing(ds),
        "acquisition": _acquisition(ds),
        "phase": [values.number(ds[tag].value) if tag in ds else None for tag in PHASES],
    }
    if not with_pixels:
        return head, {}
    stored = _stored(ds, shape=(rows, columns), scratch=scratch)
    if (
        stored.dtype in STORED.values()
        and exact(slope, intercept)
        and _padded(ds, stored, slope=slope, intercept=intercept) is None
    ):
        return head, {"pixels": Stored(stored, slope, intercept)}
    return head, {"pixels": _scaled(ds, stored, slope=slope, intercept=intercept)}


def _frames(ds: Dataset, *, modality: str, with_pixels: bool, limits: Limits, scratch: int | None) -> Answer:
    """An enhanced multi-frame object: each frame is a slice with geometry and rescale of its own (PS3.3 C.7.6.16)."""
    rows, columns = _size(ds, frames_most=limits.frames, voxels_most=limits.frame_voxels)
    count = int(ds.get("NumberOfFrames") or 0)
    own, common = list(ds.get("PerFrameFunctionalGroupsSequence") or []), ds.get("SharedFunctionalGroupsSequence")
    if count < 1 or len(own) != count or not common:
        raise Refused(Reason.NO_GEOMETRY)
    shared = common[0]
    placed, scales, phase = [], [], []
    for frame in own:
        position = values.group(shared, frame, "PlanePositionSequence")
        placed.append(
            [
                *values.floats(position.get("ImagePositionPatient"), 3),
                *values.orientation(values.group(shared, frame, "PlaneOrientationSequence")),
                *values.spacing(values.group(shared, frame, "PixelMeasuresSequence")),
            ]
        )
        groups = [(frame.get(group) or shared.get(group) or [Dataset()])[0].get(name) for group, name in PHASES.values()]
        phase.append([math.nan if (value := values.number(one)) is None else value for one in groups])
        transformed = frame.get("PixelValueTransformationSequence") or shared.get("PixelValueTransformationSequence")
        scales.append(_rescale(transformed[0] if transformed else Dataset(), modality=modality))
    head = {
        "kind": "frames",
        "modality": modality,
        "identity": values.identity(ds),
        "shape": [count, rows, columns],
        "acquisition": _acquisition(ds),
    }
    geometry = {"placed": np.asarray(placed, np.float64), "phase": np.asarray(phase, np.float64)}
    if not with_pixels:
        return head, geometry
    stored = _stored(ds, shape=(count, rows, columns) if count > 1 else (rows, columns), scratch=scratch)
    scaled = np.empty((count, rows, columns), np.float32)  # the largest objects leave no room for a second one
    for at, (slope, intercept) in enumerate(scales):
        scaled[at] = _scaled(ds, stored.reshape(scaled.shape)[at], slope=slope, intercept=intercept)
    return head, geometry | {"pixels": scaled}


def _projection(ds: Dataset, *, modality: str, with_pixels: bool, limits: Limits, scratch: int | None) -> Answer:
    """A radiograph: 2-D, dense is bright."""
    rows, columns = _size(ds, frames_most=1, voxels_most=limits.pixels, kinds=("MONOCHROME1", "MONOCHROME2"))
    head = {
        "kind": "projection",
        "modality": modality,
        "identity": values.identity(ds, framed=False),
        "shape": [rows, columns],
        "spacing_mm": _projected_mm(ds),
        "acquisition": _acquisition(ds),
    }
    if not with_pixels:
        return head, {}
    stored = _stored(ds, shape=(rows, columns), scratch=scratch)
    scaled = _scaled(ds, stored, slope=1.0, intercept=0.0)  # a radiograph's numbers have no unit; its rescale is for display
    if ds.PhotometricInterpretation == "MONOCHROME1":
        bits, signed = int(ds.BitsStored), ds.get("PixelRepresentation") == 1
        scaled = np.float32(-1 if signed else (1 << bits) - 1) - scaled
    return head, {"pixels": scaled}


def _projected_mm(ds: Dataset) -> list[float]:
    """Return mm in the patient, as far as the file tells: calibrated, else the detector's over a stated magnification.

    A PixelSpacing that equals the detector's is no calibration (PS3.3 10.7.1.3). Without either it is the detector's own.
    """
    calibrated, detector = ds.get("PixelSpacing"), ds.get("ImagerPixelSpacing")
    if detector is None or (calibrated is not None and list(calibrated) != list(detector)):
        return values.spacing(ds)
    magnification = values.number(ds.get("EstimatedRadiographicMagnificationFactor"))
    if magnification is None:
        return values.spacing(ds, keyword="ImagerPixelSpacing")
    if not 1 <= magnification <= MAGNIFICATION_MOST:
        raise Refused(Reason.NO_GEOMETRY)
    return [one / magnification for one in values.spacing(ds, keyword="ImagerPixelSpacing")]


def _size(ds: Dataset, *, frames_most: int, voxels_most: int, kinds: tuple[str, ...] = ("MONOCHROME2",)) -> tuple[int, int]:
    rows, columns = values.size(ds, frames_most=frames_most, voxels_most=voxels_most)
    if ds.get("BitsAllocated") not in {8, 16, 32} or ds.get("PhotometricInterpretation") not in kinds:
        raise Refused(Reason.NOT_AN_IMAGE)
    return rows, columns


def _rescale(ds: Dataset, *, modality: str) -> tuple[float, float]:
    slope, intercept = values.number(ds.get("RescaleSlope")), values.number(ds.get("RescaleIntercept"))
    if modality == "MR" and ds.get("RescaleSlope") is None and ds.get("RescaleIntercept") is None:
        return 1.0, 0.0
    if slope is None or intercept is None or slope == 0:
        raise Refused(Reason.NO_RESCALE)
    if modality == "CT" and (ds.get("RescaleType") or "HU") != "HU":
        raise Refused(Reason.NO_RESCALE)
    return slope, intercept


def _acquisition(ds: Dataset) -> dict[str, Any]:
    return {
        "manufacturer": values.label(ds.get("Manufacturer")),
        "kernel": values.label(ds.get("ConvolutionKernel")),
        "kvp": values.number(ds.get("KVP")),
        "slice_thickness_mm": values.number(ds.get("SliceThickness")),
    }


def _stored(ds: Dataset, *, shape: tuple[int, ...], scratch: int | None) -> NDArray[Any]:
    if "PixelData" not in ds:
        raise Refused(Reason.NOT_AN_IMAGE)
    needed = int(np.prod(shape)) * ds.BitsAllocated // 8
    if ds.file_meta.TransferSyntaxUID in pixels.NATIVE and len(ds.PixelData) < needed:
        raise Refused(Reason.TRUNCATED)
    stored = pixels.stored(ds, scratch=scratch)
    if stored.shape != shape:
        raise Refused(Reason.UNREADABLE)
    return stored


def _scaled(ds: Dataset, stored: NDArray[Any], *, slope: float, intercept: float) -> NDArray[np.float32]:
    """Return slope * stored + intercept, float32, nan where the scanner padded."""
    if exact(slope, intercept) and stored.dtype.itemsize <= 2:  # half the work
        scaled: NDArray[np.float32] = np.multiply(stored, np.float32(slope), dtype=np.float32)
        scaled += np.float32(intercept)
    else:
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = (stored * np.float64(slope) + intercept).astype(np.float32)
        if not np.isfinite(scaled).all():
            raise Refused(Reason.NOT_FINITE)
    padded = _padded(ds, stored, slope=slope, intercept=intercept)
    if padded is not None:
        scaled[padded] = np.nan
    return scaled


def _padded(ds: Dataset, stored: NDArray[Any], *, slope: float, intercept: float) -> NDArray[np.bool_] | None:
    """Return where the scanner padded with what does not read as air; None where it did not."""
    padding = _padding(ds)
    if padding is None:
        return None
    low, high = padding
    if low == high and low * slope + intercept == AIR_HU:
        return None
    where: NDArray[np.bool_] = (stored >= low) & (stored <= high)
    return where if where.any() else None


def _padding(ds: Dataset) -> tuple[int, int] | None:
    """Return the stored values that mean "no measurement here" (PS3.3 C.7.5.1.1.2), read with the sign of the pixels."""
    if ds.get("PixelPaddingValue") is None:
        return None
    bits, signed = int(ds.BitsAllocated), ds.get("PixelRepresentation") == 1
    ends = []
    for value in (ds.PixelPaddingValue, ds.get("PixelPaddingRangeLimit")):
        if value is not None:
            wrapped = int(value) % (1 << bits)
            ends.append(wrapped - (1 << bits) if signed and wrapped >> (bits - 1) else wrapped)
    return min(ends), max(ends)
