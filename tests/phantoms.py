"""Analytic phantoms: shapes with known length, angle, volume and depth, as volumes and as small real DICOM series.

Everything is defined in patient coordinates (LPS, mm) and sampled at the voxel centres, so that an oblique or reversed stack
shows the same object.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import UID, CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

from client.inside import Acquisition, Float, Float32, Mask, Volume

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
MADE = Acquisition(manufacturer="Motet phantoms", kernel="STANDARD", kvp=120.0, slice_thickness_mm=1.0)
PLANTED = {
    "PatientName": "Planted^Eleanor",
    "PatientBirthDate": "19510204",
    "PatientAddress": "17 Planted Lane",
    "InstitutionName": "Planted Infirmary",
    "ReferringPhysicianName": "Planted^Physician",
    "AccessionNumber": "PLANTED-ACC-7",
    "DeviceSerialNumber": "PLANTED-DEV-9",
    "StudyDescription": "chest of Eleanor Planted",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ellipsoid:
    """A lesion: its longest axis lies in the axial plane, `angle_deg` from patient L towards P."""

    semi_axes_mm: tuple[float, float, float] = (15.0, 8.0, 6.0)  # long, short in plane, along S
    angle_deg: float = 0.0
    centre_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)  # LPS

    def inside(self, points_mm: Float) -> Mask:
        """Return which points, (..., 3), lie inside."""
        a = np.radians(self.angle_deg)
        turned = (points_mm - np.array(self.centre_mm)) @ np.array(
            [[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]]
        )
        inside: Mask = ((turned / np.array(self.semi_axes_mm)) ** 2).sum(axis=-1) <= 1.0
        return inside


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A lesion with faces across the patient's axes."""

    sides_mm: tuple[float, float, float] = (20.0, 12.0, 8.0)  # L, P, S
    centre_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def inside(self, points_mm: Float) -> Mask:
        """Return which points, (..., 3), lie inside."""
        inside: Mask = (np.abs(points_mm - np.array(self.centre_mm)) < np.array(self.sides_mm) / 2).all(axis=-1)
        return inside


def affine_of(
    *,
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    orientation: tuple[float, ...] = AXIAL,
    centre_mm: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Float:
    """Return the (4, 4) affine, (z, y, x, 1) to LPS mm, of a grid whose middle lies at `centre_mm`."""
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    affine = np.eye(4)
    affine[:3, :3] = np.stack([np.cross(row, column), column, row], axis=1) * np.array(spacing_mm)
    affine[:3, 3] = np.array(centre_mm) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def points_of(affine: Float, *, shape: tuple[int, int, int]) -> Float:
    """Return the LPS positions of the voxel centres, (z, y, x, 3)."""
    return np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]


def volume(
    lesion: Ellipsoid | Box,
    *,
    shape: tuple[int, int, int] = (40, 96, 96),
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
    orientation: tuple[float, ...] = AXIAL,
    centre_mm: tuple[float, float, float] = (0.0, 0.0, 0.0),
    body_radius_mm: float = 40.0,
    lesion_hu: float = 60.0,
    body_hu: float = 0.0,
    noise_hu: float = 0.0,
    seed: int = 0,
) -> Volume:
    """Return a lesion in a water cylinder along S in air; the skin is `body_radius_mm` from the axis through the origin."""
    affine = affine_of(shape=shape, spacing_mm=spacing_mm, orientation=orientation, centre_mm=centre_mm)
    points = points_of(affine, shape=shape)
    region = lesion.inside(points)
    voxels = np.where(np.hypot(points[..., 0], points[..., 1]) <= body_radius_mm, body_hu, -1000.0)
    voxels[region] = lesion_hu
    if noise_hu:
        voxels += np.random.default_rng(seed).normal(0.0, noise_hu, shape)
    return Volume(
        patient="p",
        series="s",
        modality="CT",
        voxels=np.rint(voxels).astype(np.float32),
        affine=affine,
        spacing_mm=spacing_mm,
        acquisition=MADE,
        region=region,
    )


def write_series(
    folder: Path,
    *,
    patient_id: str,
    voxels_hu: Float32,
    spacing_mm: tuple[float, float, float],
    region: Mask | None = None,
    seed: int = 0,
    orientation: tuple[float, ...] = AXIAL,
    centre_mm: tuple[float, float, float] = (0.0, 0.0, 0.0),
    reverse: bool = False,
    manufacturer: str = "Motet phantoms",
    kernel: str = "STANDARD",
    kvp: float = 120.0,
    planted: Mapping[str, str] | None = None,
) -> list[Path]:
    """Write a CT series, and a SEG where `region` is given, into `folder`; return the paths, the SEG last.

    voxels_hu (z, y, x), whole HU; z follows the slice normal. UIDs follow from `patient_id` and `seed`. `reverse` numbers and
    names the files from the far end. `planted` sets attributes by keyword (PLANTED has a set of identifiers).
    """
    folder.mkdir(parents=True, exist_ok=True)
    affine = affine_of(shape=voxels_hu.shape, spacing_mm=spacing_mm, orientation=orientation, centre_mm=centre_mm)
    study, series, frame = (_uid(patient_id, seed, what) for what in ("study", "series", "frame"))
    count = len(voxels_hu)
    slices, paths = [], []
    for z in range(count):
        ds = _ct_header(patient_id)
        number = count - z if reverse else z + 1
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = _uid(patient_id, seed, f"slice {z}")
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study, series, frame
        ds.InstanceNumber, ds.Manufacturer, ds.ConvolutionKernel, ds.KVP = number, manufacturer, kernel, kvp
        ds.ImagePositionPatient = [_ds(v) for v in affine[:3, 3] + z * affine[:3, 0]]
        ds.ImageOrientationPatient = [_ds(v) for v in orientation]
        ds.PixelSpacing, ds.SliceThickness = [_ds(spacing_mm[1]), _ds(spacing_mm[2])], _ds(spacing_mm[0])
        stored = np.rint(voxels_hu[z] + 1024).astype("<u2")
        ds.Rows, ds.Columns = stored.shape
        ds.PixelData = stored.tobytes()
        for keyword, value in (planted or {}).items():
            setattr(ds, keyword, value)
        path = folder / f"{patient_id}-{seed}-{number:04d}.dcm"
        ds.save_as(path, enforce_file_format=True)
        slices.append(ds)
        paths.append(path)
    paths.sort()
    if region is not None:
        paths.append(write_segmentation(folder / f"{patient_id}-{seed}-seg.dcm", slices=slices, region=region, seed=seed))
    return paths


def write_segmentation(path: Path, *, slices: Sequence[Dataset], region: Mask, seed: int = 0) -> Path:
    """Write `region`, (slice, row, column) in the order of `slices`, as a binary DICOM SEG; return its path."""
    patient = str(slices[0].PatientID)
    segment = hd.seg.SegmentDescription(
        segment_number=1,
        segment_label="Lesion",
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Neoplasm,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
    )
    seg = hd.seg.Segmentation(
        source_images=slices,
        pixel_array=region.astype(np.uint8),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[segment],
        series_instance_uid=_uid(patient, seed, "seg series"),
        series_number=100,
        sop_instance_uid=_uid(patient, seed, f"seg {path.name}"),
        instance_number=1,
        manufacturer="Motet phantoms",
        manufacturer_model_name="phantoms",
        software_versions="1",
        device_serial_number="1",
        omit_empty_frames=True,
    )
    seg.save_as(path)
    return path


def enhanced(series: Sequence[Path], *, order: Sequence[int]) -> Dataset:
    """An Enhanced CT of the series, its frames in `order`, each with a rescale of its own."""
    slices = [pydicom.dcmread(path) for path in series[:-1]]
    ds = copy.deepcopy(slices[0])
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    ds.NumberOfFrames = len(order)
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept"):
        delattr(ds, keyword)
    shared, plane, measures = Dataset(), Dataset(), Dataset()
    plane.ImageOrientationPatient, measures.PixelSpacing = slices[0].ImageOrientationPatient, slices[0].PixelSpacing
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [plane], [measures]
    frames, stored = [], []
    for at in order:
        frame, place, scale = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = slices[at].ImagePositionPatient
        scale.RescaleSlope, scale.RescaleIntercept, scale.RescaleType = 1, -1024 - at, "HU"
        frame.PlanePositionSequence, frame.PixelValueTransformationSequence = [place], [scale]
        frames.append(frame)
        stored.append((slices[at].pixel_array + at).astype("<u2"))
    ds.SharedFunctionalGroupsSequence, ds.PerFrameFunctionalGroupsSequence = [shared], frames
    ds.PixelData = np.stack(stored).tobytes()
    return ds


def _uid(patient: str, seed: int, what: str) -> UID:
    return generate_uid(entropy_srcs=["motet phantoms", patient, str(seed), what])


def _ds(value: float) -> str:
    return pydicom.valuerep.format_number_as_ds(float(value))


def _ct_header(patient_id: str) -> Dataset:
    """Return what every slice shares: the CT Image IOD's type 1 and 2 attributes (PS3.3 A.3)."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = CTImageStorage
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.Modality, ds.RescaleType, ds.PhotometricInterpretation = "CT", "HU", "MONOCHROME2"
    ds.PatientID, ds.PatientName, ds.PatientBirthDate, ds.PatientSex = patient_id, "", "", ""
    ds.StudyDate = ds.StudyTime = ds.AccessionNumber = ds.ReferringPhysicianName = ds.StudyID = ""
    ds.PositionReferenceIndicator = ds.PatientPosition = ""
    ds.SeriesNumber, ds.AcquisitionNumber = 1, 1
    ds.RescaleSlope, ds.RescaleIntercept = 1, -1024
    ds.SamplesPerPixel, ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 1, 16, 16, 15, 0
    return ds
