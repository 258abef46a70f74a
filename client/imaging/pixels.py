"""Stored pixel values, whatever the transfer syntax; runs in the guard's child, on one parsed data set."""

import io
import mmap
import os
from typing import Any, Final

import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
)

NATIVE: Final = frozenset({ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian})
LOSSLESS: Final = frozenset({RLELossless, JPEGLSLossless, JPEG2000Lossless, JPEGLossless, JPEGLosslessSV1})
LOSSY: Final = frozenset(
    {
        "1.2.840.10008.1.2.4.50",  # JPEG baseline
        "1.2.840.10008.1.2.4.51",  # JPEG extended
        "1.2.840.10008.1.2.4.81",  # JPEG-LS near-lossless
        "1.2.840.10008.1.2.4.91",  # JPEG 2000
    }
)
SPARE_BYTES: Final = 1 << 16  # what the fallback's file may be longer than the object: its header is our own
_MODULE: Final = (
    *("SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
)


def stored(ds: Dataset, *, scratch: int | None) -> NDArray[Any]:
    """Return the pixel values as stored: (row, column), a first axis for frames, a last one for samples.

    pydicom's decoders come first; where they fail, SimpleITK's GDCM decodes a copy that has the pixel module and nothing else,
    in the memory file `scratch` (its size is made by the parent: this process can write no file). Neither modality LUT nor
    rescale is applied. Raises what the decoders raise.
    """
    try:
        return pixel_array(ds, view_only=True)  # ds.pixel_array spends a tenth of a file's time on its cache
    except Exception:
        if scratch is None or ds.file_meta.TransferSyntaxUID in NATIVE:
            raise
        return _by_simpleitk(ds, scratch=scratch)


def _by_simpleitk(ds: Dataset, *, scratch: int) -> NDArray[Any]:
    import SimpleITK as sitk  # noqa: N813, PLC0415  (0.6 s and 60 MB that most archives never need)

    data = _bare(ds)
    with mmap.mmap(scratch, 0) as memory:
        memory[: len(data)] = data
    os.ftruncate(scratch, len(data))  # a process that may write no file may still make one shorter
    image = sitk.ReadImage(f"/proc/self/fd/{scratch}", imageIO="GDCMImageIO")
    array: NDArray[Any] = sitk.GetArrayFromImage(image)
    frames = int(ds.get("NumberOfFrames") or 1)
    return array if frames > 1 else array.reshape(array.shape[1:])


def _bare(ds: Dataset) -> bytes:
    """Return a DICOM file with the pixel module of `ds` and no other element: no rescale to apply, nothing else to parse."""
    bare = Dataset()
    bare.file_meta = FileMetaDataset()
    bare.file_meta.TransferSyntaxUID = ds.file_meta.TransferSyntaxUID
    bare.file_meta.MediaStorageSOPClassUID = bare.SOPClassUID = SecondaryCaptureImageStorage
    bare.file_meta.MediaStorageSOPInstanceUID = bare.SOPInstanceUID = UID("2.25.1")
    for keyword in _MODULE:
        if keyword in ds:
            bare[keyword] = ds[keyword]
    bare.PixelData = ds.PixelData
    bare["PixelData"].VR = "OB"
    bare["PixelData"].is_undefined_length = True
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, bare, enforce_file_format=True)
    return buffer.getvalue()
