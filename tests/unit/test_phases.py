"""Claims about series of several phases or echoes: the one that was drawn on is measured, or the series is refused."""

import itertools
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

from client.imaging import phases
from client.imaging.found import Identity, Reason, Slice
from client.imaging.guard import Guard
from client.imaging.scan import read_scans
from client.imaging.volume import Gate, assemble
from client.inside import Scan, SetAside
from common.errors import GeometryRefused, NoScans
from tests import structures, tables
from tests.phantoms import MADE, Ellipsoid, volume, write_segmentation, write_series

LESION = Ellipsoid(semi_axes_mm=(4, 3, 2))
IMAGE = volume(LESION, shape=(6, 16, 20), body_radius_mm=7)
TIMES = ("102551", "103238.25", "103832")


def stacked(folder: Path, *, by: dict[str, tuple[object, ...]]) -> list[list[pydicom.Dataset]]:
    """Write a series whose phases lie at the same positions, brighter by 10 HU each; `by`: what each phase says of itself."""
    made, (count,) = [], {len(values) for values in by.values()}
    for number in range(count):
        voxels = IMAGE.voxels + 10 * number
        paths = write_series(folder / str(number), patient_id="P", voxels_hu=voxels, spacing_mm=IMAGE.spacing_mm, seed=number)
        slices = [pydicom.dcmread(path) for path in paths]
        for path, ds in zip(paths, slices, strict=True):
            first = made[0][0] if made else slices[0]
            ds.StudyInstanceUID, ds.SeriesInstanceUID = first.StudyInstanceUID, first.SeriesInstanceUID
            ds.FrameOfReferenceUID = first.FrameOfReferenceUID
            for keyword, values in by.items():
                setattr(ds, keyword, values[number])
            ds.save_as(path, enforce_file_format=True)
        made.append(slices)
    return made


def read(folder: Path, guard: Guard, *, modality: str = "CT") -> Scan | str:
    found = []
    try:
        for one in read_scans(folder, pseudonym=lambda _, raw: raw, reader=guard, modality=modality):
            found.append(one)  # noqa: PERF402  (what came before an error)
    except NoScans:
        pass
    (one,) = found
    return one.reason if isinstance(one, SetAside) else one


@pytest.mark.parametrize(
    "by",
    [
        {"TemporalPositionIdentifier": (1, 2, 3)},
        {"EchoNumbers": (1, 2, 3), "ContentTime": ("100000",) * 3},
        {"ContentTime": TIMES, "AcquisitionNumber": (1, 2, 2)},  # as in the real DCE-MR
        {"TriggerTime": ("0.0", "0.0", "80.5"), "EchoNumbers": (1, 2, 1)},  # neither alone
    ],
    ids=["temporal position", "echo", "time of day", "two together"],
)
def test_the_phase_that_the_region_was_drawn_on_is_measured(
    tmp_path: Path, guard: Guard, by: dict[str, tuple[object, ...]]
) -> None:
    made = stacked(tmp_path, by=by)
    shutil.copy(tmp_path / "1" / "P-1-0002.dcm", tmp_path / "again.dcm")
    assert IMAGE.region is not None
    for number in (2, 0):
        write_segmentation(tmp_path / "seg.dcm", slices=made[number], region=IMAGE.region)
        one = read(tmp_path, guard)
        assert isinstance(one, Scan)
        whole = assemble(one)
        np.testing.assert_array_equal(whole.voxels, IMAGE.voxels + 10 * number)
        np.testing.assert_array_equal(whole.region, IMAGE.region)


def test_contours_name_the_phase_they_were_drawn_on(tmp_path: Path, guard: Guard) -> None:
    made = stacked(tmp_path, by={"ContentTime": TIMES})
    z_mm = float(made[1][3].ImagePositionPatient[2])
    path = structures.write(
        tmp_path / "rt.dcm", of=made[1][3], contours={"GTV": [structures.circle(radius_mm=3, z_mm=z_mm)]}, kinds={"GTV": "GTV"}
    )
    assert read(tmp_path, guard) == Reason.SEVERAL_PHASES  # they name no image
    ds, image = pydicom.dcmread(path), pydicom.Dataset()
    image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = made[1][3].SOPClassUID, made[1][3].SOPInstanceUID
    ds.ROIContourSequence[0].ContourSequence[0].ContourImageSequence = [image]
    ds.save_as(path, enforce_file_format=True)
    one = read(tmp_path, guard)
    assert isinstance(one, Scan)
    np.testing.assert_array_equal(assemble(one).voxels, IMAGE.voxels + 10)


def test_what_cannot_be_decided_is_refused_by_name(tmp_path: Path, guard: Guard) -> None:
    made = stacked(tmp_path, by={"EchoNumbers": (1, 2)})
    assert read(tmp_path, guard) == Reason.SEVERAL_PHASES  # no region
    assert IMAGE.region is not None
    path = write_segmentation(tmp_path / "seg.dcm", slices=made[0], region=IMAGE.region)
    ds = pydicom.dcmread(path)
    ds.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID = made[1][
        2
    ].SOPInstanceUID
    ds.save_as(path, enforce_file_format=True)
    assert read(tmp_path, guard) == Reason.SEVERAL_PHASES  # one region on two echoes
    write_segmentation(path, slices=made[0], region=IMAGE.region)
    (tmp_path / "1" / "P-1-0002.dcm").unlink()  # the second echo lacks a slice: nothing tells the two apart completely
    one = read(tmp_path, guard)
    assert isinstance(one, Scan)
    with pytest.raises(GeometryRefused) as refused:
        assemble(one)
    assert refused.value.reason == Gate.DUPLICATE_POSITION


def test_frames_of_one_object_are_told_apart_by_what_each_says() -> None:
    def frame(number: int, *, z: int, phase: tuple[float, ...]) -> Slice:
        return Slice(
            identity=Identity(
                patient_id="P", issuer="", study="1", series="2", instance=f"1.2#{number}", frame_of_reference="3"
            ),
            acquisition=MADE,
            rows=2,
            columns=2,
            position_mm=np.array([0.0, 0, z]),
            orientation=np.array([1.0, 0, 0, 0, 1, 0]),
            spacing_mm=np.ones(2),
            pixels=None,
            phase=phase,
        )

    order = list(itertools.product(range(3), (7.0, 9.0)))
    frames = [frame(at, z=z, phase=(float("nan"), time, float(at))) for at, (z, time) in enumerate(order)]
    assert phases.told_apart(frames) == [[0, 2, 4], [1, 3, 5]]
    assert phases.of_region(frames, references=["1.2#3", "1.2#5"]) == [1, 3, 5]
    assert phases.of_region(frames, references=["1.2"]) == Reason.SEVERAL_PHASES
    assert phases.of_region(frames, references=["1.2#3", "1.2#4"]) == Reason.SEVERAL_PHASES
    alike = [replace(one, phase=(float("nan"), 7.0, float(at))) for at, one in enumerate(frames)]
    assert phases.told_apart(alike) is None
    assert phases.of_region(alike, references=["1.2#3"]) == [0, 1, 2, 3, 4, 5]
    assert phases.of_region(frames[::2], references=[]) == [0, 1, 2]


def test_a_real_dynamic_series_is_measured_in_the_phase_that_was_drawn_on(tmp_path: Path, guard: Guard) -> None:
    source = tables.real("duplicate-positions-mr/LICENSE").parent
    paths = sorted(source.glob("*.dcm"))
    assert len(paths) == 36
    for path in paths:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    for first in (12, 24, 0):
        drawn_on = [pydicom.dcmread(path) for path in paths[first : first + 12]]
        region = np.zeros((12, 256, 256), np.bool_)
        region[4:8, 100:120, 110:140] = True
        write_segmentation(tmp_path / "seg.dcm", slices=drawn_on, region=region)
        one = read(tmp_path, guard, modality="MR")
        assert isinstance(one, Scan)
        np.testing.assert_array_equal(one.pixels, np.stack([ds.pixel_array for ds in drawn_on]))
        whole = assemble(one)
        assert sorted(round(step, 3) for step in whole.spacing_mm) == [0.703, 0.703, 2.0]
        assert whole.region is not None
        assert whole.region.sum() == region.sum()
