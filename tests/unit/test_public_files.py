"""The table of pydicom's public test files: which decoder reads each, and what becomes of it in a hospital's folder."""

import importlib.util
import io
import os
from pathlib import Path

import numpy as np
import pydicom
import pydicom.data
import pytest

from client.imaging import decode, images, pixels
from client.imaging.found import Reason
from client.imaging.guard import Guard
from client.imaging.limits import Limits

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, of odd values

# decoder of the stored values, what the guard says: the files' names
STACK_AND_OUTCOME = {
    ("SimpleITK", "NO_IDENTITY"): """
        bad_sequence
    """,
    ("SimpleITK", "SOP_CLASS"): """
        JPEG-LL JPEG-lossy JPGExtended JPGLosslessP14SV1_1s_1f_8b SC_rgb_jpeg_gdcm
    """,
    ("none", "NOT_AN_IMAGE"): """
        DICOMDIR-empty UN_sequence empty_charset_LEI emri_small_jpeg_2k_lossless_too_short nested_priv_SQ
        no_meta_group_length priv_SQ
    """,
    ("none", "NOT_DICOM"): """
        ExplVR_BigEndNoMeta ExplVR_LitEndNoMeta OT-PAL-8-face no_meta rtstruct
    """,
    ("none", "SECONDARY"): """
        MR_truncated
    """,
    ("none", "SOP_CLASS"): """
        JPEG2000-embedded-sequence-delimiter badVR reportsi reportsi_with_empty_number_tags rtplan rtplan_truncated test-SR
        waveform_ecg
    """,
    ("none", "TRANSFER_SYNTAX"): """
        meta_missing_tsyntax
    """,
    ("pydicom", "LOSSY"): """
        693_J2KI 693_UNCI MR2_J2KI MR2_UNCI RG1_J2KI RG1_UNCI RG3_J2KI RG3_UNCI
    """,
    ("pydicom", "NO_GEOMETRY"): """
        RG1_J2KR RG1_UNCR RG3_J2KR RG3_UNCR emri_small emri_small_RLE emri_small_big_endian emri_small_jpeg_2k_lossless
        emri_small_jpeg_ls_lossless liver_1frame liver_expb_1frame
    """,
    ("pydicom", "NO_IDENTITY"): """
        693_J2KR 693_UNCR
    """,
    ("pydicom", "NO_RESCALE"): """
        eCT_Supplemental
    """,
    ("pydicom", "SECONDARY"): """
        MR-SIEMENS-DICOM-WithOverlays MR_small MR_small_RLE MR_small_bigendian MR_small_expb MR_small_implicit
        MR_small_jp2klossless MR_small_jpeg_ls_lossless MR_small_padded examples_overlay
    """,
    ("pydicom", "SOP_CLASS"): """
        ExplVR_BigEnd GDCMJ2K_TextGBR JPEG2000 JPEG2000_UNC JPEGLSNearLossless_08 JPEGLSNearLossless_16 OBXXXX1A
        OBXXXX1A_2frame OBXXXX1A_expb OBXXXX1A_expb_2frame OBXXXX1A_rle OBXXXX1A_rle_2frame SC_jpeg_no_color_transform
        SC_jpeg_no_color_transform_2 SC_rgb SC_rgb_16bit SC_rgb_16bit_2frame SC_rgb_2frame SC_rgb_32bit SC_rgb_32bit_2frame
        SC_rgb_dcmtk_+eb+cr SC_rgb_dcmtk_+eb+cy+n1 SC_rgb_dcmtk_+eb+cy+n2 SC_rgb_dcmtk_+eb+cy+np SC_rgb_dcmtk_+eb+cy+s2
        SC_rgb_dcmtk_+eb+cy+s4 SC_rgb_dcmtk_ebcr_dcmd SC_rgb_dcmtk_ebcyn1_dcmd SC_rgb_dcmtk_ebcyn2_dcmd
        SC_rgb_dcmtk_ebcynp_dcmd SC_rgb_dcmtk_ebcys2_dcmd SC_rgb_dcmtk_ebcys4_dcmd SC_rgb_expb SC_rgb_expb_16bit
        SC_rgb_expb_16bit_2frame SC_rgb_expb_2frame SC_rgb_expb_32bit SC_rgb_expb_32bit_2frame SC_rgb_gdcm2k_uncompressed
        SC_rgb_gdcm_KY SC_rgb_jls_lossy_line SC_rgb_jls_lossy_sample SC_rgb_jpeg SC_rgb_jpeg_app14_dcmd SC_rgb_jpeg_dcmd
        SC_rgb_jpeg_dcmtk SC_rgb_jpeg_lossy_gdcm SC_rgb_rle SC_rgb_rle_16bit SC_rgb_rle_16bit_2frame SC_rgb_rle_2frame
        SC_rgb_rle_32bit SC_rgb_rle_32bit_2frame SC_rgb_small_odd SC_rgb_small_odd_big_endian SC_rgb_small_odd_jpeg
        SC_ybr_full_422_uncompressed SC_ybr_full_uncompressed US1_J2KI US1_J2KR US1_UNCI US1_UNCR color-pl color-px
        color3d_jpeg_baseline examples_jpeg2k examples_palette examples_rgb_color examples_ybr_color gdcm-US-ALOKA-16
        gdcm-US-ALOKA-16_big image_dfl mlut_18 rtdose rtdose_1frame rtdose_expb rtdose_expb_1frame rtdose_rle
        rtdose_rle_1frame vlut_04
    """,
    ("pydicom", "seg"): """
        liver liver_expb
    """,
    ("pydicom", "slice"): """
        CT_small J2K_pixelrep_mismatch MR2_J2KR MR2_UNCR explicit_VR-UN
    """,
}
TABLE = {name: case for case, names in STACK_AND_OUTCOME.items() for name in names.split()}
DATA = importlib.util.find_spec("data_store")
FOLDERS = [Path(str(pydicom.data.__file__)).parent / "test_files"]
FOLDERS += [Path(str(DATA.origin)).parent / "data"] if DATA else []
FOUND = {path.stem: path for folder in reversed(FOLDERS) for path in sorted(folder.rglob("*.dcm"))}


def scratch(size: int) -> int:
    made = os.memfd_create("scratch")
    os.ftruncate(made, size + pixels.SPARE_BYTES)
    return made


def by_which(data: bytes) -> str:
    """Which decoder reads the stored values."""
    memory = scratch(len(data))
    try:
        ds = pydicom.dcmread(io.BytesIO(data))
        try:
            return "pydicom" if pixels.stored(ds, scratch=None).size else "none"
        except Exception:  # noqa: BLE001
            return "SimpleITK" if pixels.stored(ds, scratch=memory).size else "none"
    except Exception:  # noqa: BLE001
        return "none"
    finally:
        os.close(memory)


def test_the_table_names_every_file() -> None:
    if DATA is None:
        pytest.skip("pydicom-data is not installed: the larger half of the files is missing")
    assert set(FOUND) == set(TABLE)
    assert len(TABLE) == 147  # and DICOMDIR, which is below


@pytest.mark.parametrize("name", sorted(TABLE))
def test_a_public_file_is_read_or_refused_as_expected(name: str) -> None:
    if name not in FOUND:
        pytest.skip(f"{name}.dcm is of pydicom-data, which is not installed")
    data = FOUND[name].read_bytes()
    stack, outcome = TABLE[name]
    assert by_which(data) == stack
    memory = scratch(len(data))
    answer, arrays = decode.examine(data, with_pixels=True, limits=Limits(), scratch=memory)
    os.close(memory)
    assert answer.get("reason", answer.get("kind")) == outcome
    assert not arrays or "reason" not in answer


def test_a_directory_of_dicom_files_is_no_image() -> None:
    (path,) = FOLDERS[0].glob("dicomdirtests/DICOMDIR")
    answer, _ = decode.examine(path.read_bytes(), with_pixels=True, limits=Limits(), scratch=None)
    assert answer == {"reason": Reason.NOT_AN_IMAGE}


def test_the_second_decoder_gives_the_values_of_the_uncompressed_file() -> None:
    packed = FOUND["SC_rgb_jpeg_gdcm"]  # lossless JPEG of the picture that another file holds plain
    if "SC_rgb" not in FOUND:
        pytest.skip("pydicom-data is not installed")
    memory = scratch(packed.stat().st_size)
    found = pixels.stored(pydicom.dcmread(packed), scratch=memory)
    os.close(memory)
    np.testing.assert_array_equal(found, pydicom.dcmread(FOUND["SC_rgb"]).pixel_array)


def test_the_guards_child_decodes_jpeg_lossless_though_it_may_write_no_file(tmp_path: Path) -> None:
    """A CT whose pixels only the second decoder reads; its header is completed, which the public file's is not."""
    if "bad_sequence" not in FOUND:
        pytest.skip("bad_sequence.dcm is not installed")
    source = pydicom.dcmread(FOUND["bad_sequence"])
    memory = scratch(FOUND["bad_sequence"].stat().st_size)
    truth = pixels.stored(source, scratch=memory)
    os.close(memory)
    ds = pydicom.Dataset()
    ds.file_meta = source.file_meta
    for keyword in (
        *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Rows", "Columns", "BitsAllocated"),
        *("BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel", "PhotometricInterpretation", "PixelData"),
    ):
        ds[keyword] = source[keyword]
    ds.PatientID, ds.FrameOfReferenceUID, ds.RescaleSlope, ds.RescaleIntercept = "P-1", "1.2.3", 1, -1024
    ds.ImagePositionPatient, ds.ImageOrientationPatient, ds.PixelSpacing = [0, 0, 0], [1, 0, 0, 0, 1, 0], [1, 1]
    ds.save_as(tmp_path / "x.dcm", enforce_file_format=True)
    with Guard() as guard:
        for _ in range(2):
            found = guard.read(tmp_path / "x.dcm", with_pixels=True)
            assert not isinstance(found, Reason), found
            np.testing.assert_array_equal(found.pixels, truth - 1024.0)
    assert str(ds.SOPClassUID) == images.CT
