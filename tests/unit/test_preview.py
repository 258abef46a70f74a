"""Claims about previews: the pictures show slice, outline, measured lines and edges, private and without a name."""

import io
import json
import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image

from client import picture
from client.measure import region
from common.recipe import Points
from tests import federation, phantoms
from tests.commands import HOSPITAL as CHOICES
from tests.commands import hospital as motet


def pixels(data: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def coloured(shown: Any, colour: tuple[int, int, int]) -> Any:
    return np.argwhere((shown == np.array(colour)).all(axis=2))


def test_the_measured_lines_are_as_long_and_lie_as_the_lesion_does() -> None:
    lesion = phantoms.Ellipsoid(semi_axes_mm=(18, 9, 7), angle_deg=30)
    image = phantoms.volume(lesion, shape=(20, 64, 64), spacing_mm=(1.0, 1.0, 1.0))
    chord = region.longest_chord(image)
    assert chord is not None
    shown = pixels(picture.measured(image, chord=chord, window=(-100, 200)))
    assert shown.shape == (512, 512, 3)
    a_pixel_mm = 64 / 512
    long, short = coloured(shown, picture.LONG), coloured(shown, picture.SHORT)
    length_mm = [a_pixel_mm * float(np.hypot(*np.ptp(line, axis=0))) for line in (long, short)]
    assert length_mm[0] == pytest.approx(chord.length_mm, abs=1)
    assert length_mm[1] == pytest.approx(chord.across_mm, abs=1)
    rows, columns = np.ptp(long, axis=0)
    assert math.degrees(math.atan2(rows, columns)) == pytest.approx(30, abs=4)
    outline = coloured(shown, picture.OUTLINE) * a_pixel_mm - 32
    assert np.hypot(*outline.T).max() == pytest.approx(18, abs=1.5)


def test_thick_pixels_keep_the_patients_shape_and_grey_is_the_window() -> None:
    image = phantoms.volume(phantoms.Box(), shape=(6, 40, 80), spacing_mm=(3.0, 2.0, 1.0), body_radius_mm=200, body_hu=50)
    shown = pixels(picture.of_slice(image, z=0, window=(0, 100)))
    assert shown.shape[:2] == (512, 512)
    assert set(np.unique(shown)) == {128}


def test_no_edges_are_black() -> None:
    assert pixels(picture.edges(np.zeros((16, 16), np.float32))).max() == 0


@pytest.fixture
def home(tmp_path: Path) -> Path:
    choices = [str(one) for one in CHOICES]
    scans = tmp_path / "scans"
    choices[choices.index("--scans") + 1] = str(scans)
    assert motet("init", "--home", tmp_path / "hosp", *choices)[0] == 0
    for seed, patient in enumerate(("PLANTED-ONE", "PLANTED-TWO")):
        image = phantoms.volume(
            phantoms.Ellipsoid(semi_axes_mm=(9, 8, 7)), shape=(24, 40, 40), body_radius_mm=18, noise_hu=9, seed=seed
        )
        drawn = image.region if seed == 0 else None
        phantoms.write_series(scans, patient_id=patient, voxels_hu=image.voxels, spacing_mm=image.spacing_mm, region=drawn)
    (tmp_path / "study.json").write_bytes(federation.study().canonical_bytes())
    return tmp_path / "hosp"


def test_a_lesion_from_a_point_says_how_good_it_is(home: Path, tmp_path: Path) -> None:
    plain = federation.study()
    how = Points(method="watershed", reach_mm=Decimal(12), agreement_min=Decimal("0.9"))
    wanted = plain.model_copy(update={"recipe": plain.recipe.model_copy(update={"points": how})})
    (tmp_path / "points.study.json").write_bytes(wanted.canonical_bytes())
    slices = [pydicom.dcmread(path) for path in (tmp_path / "scans").glob("PLANTED-TWO*")]
    row = f"{slices[0].StudyInstanceUID},{slices[0].SeriesInstanceUID},0,0,0"
    (tmp_path / "points.csv").write_text("study_uid,series_uid,left_mm,posterior_mm,superior_mm\n" + row + "\n")
    site = home / "site.toml"
    site.write_text(f'points = "{tmp_path / "points.csv"}"\n' + site.read_text())
    code, said = motet("preview", "--home", home, "--study", tmp_path / "points.study.json", tmp_path / "p", "--json")
    assert code == 0
    drawn, found = json.loads(said)["series"]
    assert drawn["from_point"] is None
    assert found["from_point"]["agreement"] > 0.8
    assert found["from_point"]["contrast_to_noise"] > 2
    assert found["pictures"] == ["002-before.png", "002-after.png", "002-patch-edges.png"]


def test_of_a_cube_the_edges_of_its_middle_slice_are_shown(home: Path, tmp_path: Path) -> None:
    wanted = federation.study(recipe={"patch": "volume", "patch_voxels": 24}, training={"model": "cnn3d"})
    (tmp_path / "cubes.study.json").write_bytes(wanted.canonical_bytes())
    folder = tmp_path / "cubes"
    assert motet("preview", "--home", home, "--study", tmp_path / "cubes.study.json", folder)[0] == 0
    assert pixels((folder / "001-patch-edges.png").read_bytes()).max() == 255


def test_the_command_writes_pictures_and_says_nothing_of_patients(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    code, said = motet("preview", "--home", home, "--study", tmp_path / "study.json", folder)
    assert code == 0
    assert "PLANTED" not in said
    assert "series 2: set aside: NO_REGION" in said
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["001-after.png", "001-before.png", "001-patch-edges.png", "002-before.png"]
    for path in folder.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
        assert b"PLANTED" not in path.read_bytes()
    assert len(coloured(pixels((folder / "001-after.png").read_bytes()), picture.LONG)) > 50
    code, said = motet("preview", "--home", home, "--study", tmp_path / "study.json", folder)
    assert code != 0  # nothing is written over
    (tmp_path / "scans").rename(tmp_path / "elsewhere")
    code, said = motet("preview", "--home", home, "--study", tmp_path / "study.json", tmp_path / "more")
    assert (code, "not there" in said) == (31, True)
    assert not (tmp_path / "more").exists()
