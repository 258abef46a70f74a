"""Claims about the guard: one hostile file costs one file, in bounded memory and time, with a coded reason."""

import os
import resource
import signal
import struct
import threading
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, JPEGBaseline8Bit, JPEGLSLossless, RLELossless

from client.imaging.found import Reason, Segmentation, Slice
from client.imaging.guard import Guard
from client.imaging.limits import Limits
from tests.phantoms import Box, volume, write_series


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    image = volume(Box(), shape=(4, 32, 40), body_radius_mm=14)
    return write_series(
        tmp_path_factory.mktemp("series"), patient_id="P-1", voxels_hu=image.voxels, spacing_mm=(1, 1, 1), region=image.region
    )


@pytest.fixture
def ct(series: list[Path]) -> Dataset:
    return pydicom.dcmread(series[0])


def saved(ds: Dataset, path: Path) -> Path:
    ds.save_as(path, enforce_file_format=True)
    return path


def read(guard: Guard, ds: Dataset, folder: Path) -> Slice | Segmentation | Reason:
    return guard.read(saved(ds, folder / "x.dcm"), with_pixels=True)


def test_slice_comes_back_in_hu_with_its_geometry(guard: Guard, series: list[Path]) -> None:
    truth = volume(Box(), shape=(4, 32, 40), body_radius_mm=14)
    found = guard.read(series[2], with_pixels=True)
    assert isinstance(found, Slice)
    assert found.pixels is not None
    assert found.pixels.dtype == np.float32
    np.testing.assert_array_equal(found.pixels, truth.voxels[2])
    np.testing.assert_allclose(found.position_mm, truth.affine[:3] @ [2, 0, 0, 1])
    assert (found.acquisition.kernel, found.acquisition.kvp) == ("STANDARD", 120.0)
    header = guard.read(series[2], with_pixels=False)
    assert isinstance(header, Slice)
    assert header.pixels is None
    assert header.identity == found.identity
    assert "P-1" not in repr(found)


def test_segmentation_comes_back_without_empty_frames(guard: Guard, series: list[Path]) -> None:
    truth = volume(Box(), shape=(4, 32, 40), body_radius_mm=14).region
    found = guard.read(series[-1], with_pixels=True)
    assert isinstance(found, Segmentation)
    assert found.planes is not None
    assert truth is not None
    np.testing.assert_array_equal(found.planes, truth)
    assert found.of_series == pydicom.dcmread(series[0]).SeriesInstanceUID


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"RescaleSlope": None}, Reason.NO_RESCALE),
        ({"RescaleIntercept": None}, Reason.NO_RESCALE),
        ({"RescaleSlope": "0"}, Reason.NO_RESCALE),
        ({"RescaleSlope": "nan"}, Reason.NO_RESCALE),
        ({"RescaleSlope": "1e308"}, Reason.NOT_FINITE),
        ({"RescaleType": "US"}, Reason.NO_RESCALE),
        ({"ImagePositionPatient": None}, Reason.NO_GEOMETRY),
        ({"ImageOrientationPatient": ["1", "0", "0", "1", "0", "0"]}, Reason.NO_GEOMETRY),
        ({"PixelSpacing": ["0", "1"]}, Reason.NO_GEOMETRY),
        ({"PatientID": ""}, Reason.NO_IDENTITY),
        ({"PatientID": None}, Reason.NO_IDENTITY),
        ({"FrameOfReferenceUID": None}, Reason.NO_IDENTITY),
        ({"Rows": 30000, "Columns": 30000}, Reason.TOO_LARGE),
        ({"NumberOfFrames": "100000"}, Reason.TOO_LARGE),
        ({"Rows": 64}, Reason.TRUNCATED),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, Reason.SOP_CLASS),
        ({"SOPClassUID": None}, Reason.NOT_AN_IMAGE),
        ({"PixelData": None}, Reason.NOT_AN_IMAGE),
        ({"PhotometricInterpretation": "MONOCHROME1"}, Reason.NOT_AN_IMAGE),
    ],
)
def test_each_wrong_header_has_its_reason(
    guard: Guard, ct: Dataset, tmp_path: Path, change: dict[str, object], reason: Reason
) -> None:
    with pydicom.config.disable_value_validation():
        for keyword, value in change.items():
            if value is None:
                delattr(ct, keyword)
            else:
                setattr(ct, keyword, value)
        assert read(guard, ct, tmp_path) == reason


def test_rescale_type_may_be_absent(guard: Guard, ct: Dataset, tmp_path: Path) -> None:
    del ct.RescaleType
    assert isinstance(read(guard, ct, tmp_path), Slice)


def test_padding_is_nan_whatever_the_sign_of_its_tag(guard: Guard, ct: Dataset, tmp_path: Path) -> None:
    stored = np.full((ct.Rows, ct.Columns), 40, "<i2")
    stored[0, :5] = -1500
    ct.PixelRepresentation, ct.RescaleIntercept, ct.PixelData = 1, 0, stored.tobytes()
    for kind, value in (("SS", -1500), ("US", 65536 - 1500)):
        ct.add_new("PixelPaddingValue", kind, value)
        found = read(guard, ct, tmp_path)
        assert isinstance(found, Slice)
        assert found.pixels is not None
        assert np.isnan(found.pixels).sum() == 5
        assert np.nanmin(found.pixels) == 40


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_lossless_codecs_decode_and_their_lies_cost_one_file(guard: Guard, ct: Dataset, tmp_path: Path, syntax: str) -> None:
    plain = read(guard, ct, tmp_path)
    ct.compress(syntax, generate_instance_uid=False)
    packed = read(guard, ct, tmp_path)
    assert isinstance(plain, Slice)
    assert isinstance(packed, Slice)
    np.testing.assert_array_equal(plain.pixels, packed.pixels)
    ct.Rows = ct.Columns = 4000
    assert read(guard, ct, tmp_path) in {Reason.UNREADABLE, Reason.TOO_LARGE}
    ct.Rows, ct.Columns, ct.PixelData = 32, 40, pydicom.encaps.encapsulate([b"\xff" * 500])
    assert read(guard, ct, tmp_path) in {Reason.UNREADABLE, Reason.CRASHED, Reason.TOO_LARGE}
    assert isinstance(read(guard, pydicom.dcmread(saved_plain(tmp_path, plain, ct)), tmp_path), Slice)


def saved_plain(folder: Path, plain: Slice, ct: Dataset) -> Path:
    assert plain.pixels is not None
    ct.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    ct["PixelData"].is_undefined_length = False
    ct.PixelData = (plain.pixels + 1024).astype("<u2").tobytes()
    return saved(ct, folder / "plain.dcm")


def test_lossy_pixels_are_refused_now_or_before(guard: Guard, ct: Dataset, series: list[Path], tmp_path: Path) -> None:
    ct.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    ct.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8\xff\xd9"])
    ct["PixelData"].is_undefined_length = True
    assert read(guard, ct, tmp_path) == Reason.LOSSY
    once = pydicom.dcmread(series[0])
    once.LossyImageCompression = "01"  # decompressed since
    assert read(guard, once, tmp_path) == Reason.LOSSY
    ct.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.102"  # MPEG-4
    assert read(guard, ct, tmp_path) == Reason.TRANSFER_SYNTAX


def deflated(ct: Dataset, *, extra: int) -> bytes:
    """Return the file deflated, followed by `extra` zero bytes of a private element."""
    ct.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    buffer = BytesIO()
    pydicom.dcmwrite(buffer, ct, enforce_file_format=True)
    raw = buffer.getvalue()
    body = 144 + struct.unpack("<I", raw[140:144])[0]
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    parts = [raw[:body], packer.compress(zlib.decompress(raw[body:], -zlib.MAX_WBITS))]
    if extra:
        parts.append(packer.compress(struct.pack("<HH2sHI", 0x7FE1, 0x0010, b"OB", 0, extra)))
        parts += [packer.compress(bytes(1 << 20)) for _ in range(extra >> 20)]
    return b"".join([*parts, packer.flush()])


def test_deflate_bomb_is_refused_in_bounded_memory(guard: Guard, ct: Dataset, tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    path = tmp_path / "bomb.dcm"
    path.write_bytes(deflated(ct, extra=600 << 20))
    assert path.stat().st_size < 2 << 20
    assert guard.read(path, with_pixels=False) == Reason.TOO_LARGE
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB
    path.write_bytes(deflated(ct, extra=0))
    assert isinstance(guard.read(path, with_pixels=True), Slice)
    path.write_bytes(deflated(ct, extra=0)[:-200])
    assert guard.read(path, with_pixels=True) in {Reason.TRUNCATED, Reason.UNREADABLE}


@pytest.mark.parametrize("depth", [300, 20_000])
def test_nested_sequences_cost_one_file(guard: Guard, ct: Dataset, tmp_path: Path, depth: int) -> None:
    plain = saved(ct, tmp_path / "x.dcm").read_bytes()
    start = 144 + struct.unpack("<I", plain[140:144])[0]
    opening = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    closing = struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    path = tmp_path / "nested.dcm"
    path.write_bytes(plain[:start] + opening * depth + closing * depth + plain[start:])
    assert guard.read(path, with_pixels=False) == Reason.UNREADABLE


def test_every_truncation_is_refused_or_read_and_nothing_raises(guard: Guard, series: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "cut.dcm"
    for source in (series[0], series[-1]):
        whole = source.read_bytes()
        for size in {*range(0, len(whole), max(1, len(whole) // 60)), len(whole) - 1}:
            path.write_bytes(whole[:size])
            assert isinstance(guard.read(path, with_pixels=True), Reason), size


def test_every_flipped_byte_is_survived(guard: Guard, series: list[Path], tmp_path: Path) -> None:
    whole = series[0].read_bytes()
    path = tmp_path / "flipped.dcm"
    for at in range(0, 1400, 9):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        assert isinstance(guard.read(path, with_pixels=True), Slice | Reason)
    assert isinstance(guard.read(series[0], with_pixels=True), Slice)


def test_what_is_no_dicom_file_is_refused(guard: Guard, series: list[Path], tmp_path: Path) -> None:
    text, link, pipe, empty = (tmp_path / name for name in ("read me.txt", "link", "pipe", "empty"))
    text.write_text("no scan")
    empty.touch()
    link.symlink_to(series[0])
    os.mkfifo(pipe)
    assert guard.read(text, with_pixels=False) == Reason.NOT_DICOM
    assert guard.read(empty, with_pixels=False) == Reason.NOT_DICOM
    assert guard.read(link, with_pixels=False) == Reason.LINK
    assert guard.read(pipe, with_pixels=False) == Reason.NOT_A_FILE
    assert guard.read(tmp_path, with_pixels=False) == Reason.NOT_A_FILE
    assert guard.read(tmp_path / "gone", with_pixels=False) == Reason.NOT_A_FILE


def test_file_above_the_cap_is_never_read(series: list[Path]) -> None:
    with Guard(limits=Limits(file_bytes=1000)) as small:
        assert small.read(series[0], with_pixels=False) == Reason.TOO_LARGE
        assert small.pid is None


@pytest.mark.parametrize("change", [{"SegmentationType": "FRACTIONAL"}, {"BitsAllocated": 8}, {"twice": True}])
def test_fractional_or_several_segments_are_refused(
    guard: Guard, series: list[Path], tmp_path: Path, change: dict[str, object]
) -> None:
    seg = pydicom.dcmread(series[-1])
    if change.pop("twice", False):
        seg.SegmentSequence = [*seg.SegmentSequence, *seg.SegmentSequence]
    for keyword, value in change.items():
        setattr(seg, keyword, value)
    assert read(guard, seg, tmp_path) == Reason.SEGMENTATION_TYPE


def test_child_that_dies_hangs_or_stops_costs_one_file(series: list[Path]) -> None:
    with Guard(limits=Limits(wall_s=1.5)) as guard:
        assert isinstance(guard.read(series[0], with_pixels=True), Slice)
        assert guard.pid is not None
        os.kill(guard.pid, signal.SIGSTOP)
        assert guard.read(series[0], with_pixels=True) == Reason.TIMED_OUT
        assert isinstance(guard.read(series[0], with_pixels=True), Slice)
        os.kill(guard.pid, signal.SIGSTOP)
        threading.Timer(0.2, os.kill, (guard.pid, signal.SIGKILL)).start()
        assert guard.read(series[0], with_pixels=True) == Reason.CRASHED
        assert isinstance(guard.read(series[0], with_pixels=True), Slice)
    guard.close()


def test_child_is_limited(guard: Guard, series: list[Path]) -> None:
    guard.read(series[0], with_pixels=False)
    assert guard.pid is not None
    limits = Limits()
    assert resource.prlimit(guard.pid, resource.RLIMIT_AS) == (limits.memory_bytes, limits.memory_bytes)
    assert resource.prlimit(guard.pid, resource.RLIMIT_NOFILE) == (32, 32)
    assert resource.prlimit(guard.pid, resource.RLIMIT_CORE) == (0, 0)
    assert resource.prlimit(guard.pid, resource.RLIMIT_FSIZE) == (0, 0)
    assert resource.prlimit(guard.pid, resource.RLIMIT_NPROC) == (0, 0)
    assert resource.prlimit(guard.pid, resource.RLIMIT_CPU)[0] <= 60


def test_processor_time_is_limited_per_file(series: list[Path], tmp_path: Path) -> None:
    plain = series[0].read_bytes()
    start = 144 + struct.unpack("<I", plain[140:144])[0]
    opening = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF)
    item, closing = struct.pack("<HHI", 0xFFFE, 0xE000, 0), struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    path = tmp_path / "slow.dcm"
    path.write_bytes(plain[:start] + opening + item * 700_000 + closing + plain[start:])
    with Guard(limits=Limits(cpu_s=1)) as guard:
        assert guard.read(path, with_pixels=False) == Reason.TIMED_OUT
        assert isinstance(guard.read(series[0], with_pixels=True), Slice)


def test_child_reads_many_files_without_a_new_process(guard: Guard, series: list[Path]) -> None:
    guard.read(series[0], with_pixels=True)
    pid = guard.pid
    for _ in range(20):
        for path in series:
            guard.read(path, with_pixels=True)
    assert guard.pid == pid
