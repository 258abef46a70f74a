"""Claims about what is kept of a series: the same content is measured once, anything else anew, and nothing names a patient."""

import io
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client import pipeline, shelf
from client.config import Home, Site
from client.inside import Cohort, Measured, Scan, View
from client.kept import Kept
from common.errors import RecordDamaged
from tests import federation, phantoms


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("kept")
    image = phantoms.volume(phantoms.Ellipsoid(semi_axes_mm=(9, 8, 7)), shape=(24, 40, 40), body_radius_mm=18)
    phantoms.write_series(
        folder / "scans", patient_id="P-1", voxels_hu=image.voxels, spacing_mm=image.spacing_mm, region=image.region
    )
    (folder / "clinical.csv").write_text("patient_id,malignancy\nP-1,3\n")
    return folder


def cohort(folder: Path, *, kept: Kept) -> Cohort:
    return pipeline.read_cohort(
        scans=folder / "scans",
        clinical=folder / "clinical.csv",
        study=federation.study(),
        pseudonym=lambda _, raw: raw,
        progress=lambda *_: None,
        kept=kept,
    )


def test_a_copied_folder_is_not_measured_again_and_gives_the_same(scans: Path, tmp_path: Path) -> None:
    kept = Kept(folder=tmp_path / "series", asked=b"recipe")
    first = cohort(scans, kept=kept)
    (file,) = kept.folder.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert b"P-1" not in file.read_bytes()
    key = file.stem
    marked = Measured(patient="?", series="?", values={"longest_diameter_mm": 123.0, "mean_hu": 1.0, "depth_min_mm": 2.0})
    kept.keep(key, made=(marked, View(patient="?", pixels=first.views[0].copy())))
    (tmp_path / "again").mkdir()
    shutil.copytree(scans / "scans", tmp_path / "again" / "scans" / "deeper")
    shutil.copy(scans / "clinical.csv", tmp_path / "again" / "clinical.csv")
    second = cohort(tmp_path / "again", kept=kept)
    assert second.patients == first.patients
    assert second.table[0, second.columns.index("longest_diameter_mm")] == 123.0  # what was kept, not measured
    np.testing.assert_array_equal(second.views, first.views)
    other = cohort(scans, kept=replace(kept, asked=b"another recipe"))
    np.testing.assert_array_equal(other.table, first.table)
    file.write_bytes(b"damaged")
    np.testing.assert_array_equal(cohort(scans, kept=kept).table, first.table)


def test_a_disk_that_keeps_nothing_costs_nothing(scans: Path, tmp_path: Path) -> None:
    (tmp_path / "series").write_text("a file, where a folder should be")
    made = cohort(scans, kept=Kept(folder=tmp_path / "series", asked=b"recipe"))
    assert len(made.patients) == 1
    assert not {item.reason for item in made.set_aside}


def zipped(values: bytes) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, values=np.frombuffer(values, np.uint8), pixels=np.zeros((1, 2, 2), np.float32))
    return buffer.getvalue()


WHOLE = zipped(b'{"mean_hu": 1.0}')


ENTRY = b"PK\x01\x02-\x03"  # of the zip's directory; version, flags and method follow
DAMAGED = {
    "empty": b"",
    "cut off": WHOLE[:-1],
    "no values": zipped(b"[]"),
    "a value that is none": zipped(b'{"mean_hu": null}'),
    "another version of zip": WHOLE.replace(ENTRY + b"-", ENTRY + b"\xff"),
    "said to be encrypted": WHOLE.replace(ENTRY + b"-\0\0", ENTRY + b"-\0\1"),
    "another compression": WHOLE.replace(ENTRY + b"-\0\0\0\0", ENTRY + b"-\0\0\0\7"),
}


@pytest.mark.parametrize("how", DAMAGED)
def test_a_damaged_file_is_as_if_it_were_not_there(how: str, tmp_path: Path) -> None:
    (tmp_path / "key.npz").write_bytes(WHOLE)
    kept = Kept(folder=tmp_path, asked=b"")
    assert kept.look("key", scan=scan()) is not None
    (tmp_path / "key.npz").write_bytes(DAMAGED[how])
    assert DAMAGED[how] != WHOLE
    assert kept.look("key", scan=scan()) is None


def test_a_damaged_cohort_is_measured_again(scans: Path, tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.cohorts.mkdir()
    site = Site.model_construct(scans=scans / "scans", clinical=scans / "clinical.csv", points=None)
    asked = {"study": federation.study(), "pseudonym": lambda _, raw: raw, "progress": lambda *_: None}
    first = shelf.cohort(home, site, **asked)
    (file,) = home.cohorts.glob("*.npz")
    for damaged in (b"", file.read_bytes()[:-30]):
        file.write_bytes(damaged)
        for read in (shelf.load, shelf.provenance):
            with pytest.raises(RecordDamaged):
                read(file)
        np.testing.assert_array_equal(shelf.cohort(home, site, **asked).table, first.table)
        assert shelf.load(file).patients == first.patients


def scan() -> Scan:
    made = np.random.default_rng(0)
    return Scan(
        patient="p",
        series="s",
        modality="CT",
        frame_of_reference=("f", "f"),
        pixels=made.normal(size=(2, 3, 4)).astype(np.float32),
        positions_mm=made.normal(size=(2, 3)),
        orientations=made.normal(size=(2, 6)),
        spacings_mm=made.normal(size=(2, 2)),
        acquisition=phantoms.MADE,
        region_planes=np.ones((1, 3, 4), np.bool_),
        region_positions_mm=np.zeros((1, 3)),
        region_orientation=np.zeros(6),
        region_spacing_mm=np.ones(2),
    )


def test_every_part_of_a_series_is_in_its_key_and_its_names_are_not(tmp_path: Path) -> None:
    kept, one = Kept(folder=tmp_path, asked=b"a"), scan()
    key = kept.key(one, point=None)
    assert kept.key(replace(one, patient="q", series="t", frame_of_reference=("g", "g")), point=None) == key
    others = [
        replace(one, pixels=one.pixels + np.float32(1e-3)),
        replace(one, positions_mm=one.positions_mm + 1e-6),
        replace(one, orientations=-one.orientations),
        replace(one, spacings_mm=one.spacings_mm * 2),
        replace(one, acquisition=replace(phantoms.MADE, kernel="B30f")),
        replace(one, frame_of_reference=("f", "g")),
        replace(one, region_planes=np.zeros((1, 3, 4), np.bool_)),
        replace(one, region_planes=None),
        replace(one, region_positions_mm=np.ones((1, 3))),
        replace(one, region_spacing_mm=np.zeros(2)),
    ]
    keys = {kept.key(other, point=None) for other in others}
    keys |= {kept.key(one, point=(0.0, 0.0, 0.0)), replace(kept, asked=b"b").key(one, point=None), key}
    assert len(keys) == len(others) + 3
