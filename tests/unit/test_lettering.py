"""Claims about text in pixels: lines of letters at an edge are found, real slices raise no alarm, no copy has any."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image, ImageDraw, ImageFont

from client.imaging import lettering
from client.imaging.deidentify import deidentified
from client.imaging.found import Reason
from client.imaging.guard import Guard
from client.inside import Float32
from tests import tables
from tests.phantoms import Ellipsoid, volume, write_series

IMAGE = volume(Ellipsoid(), shape=(2, 256, 256), body_radius_mm=90, noise_hu=20)


def planted(plane: Float32, *, size: int, share: float, below: bool, text: str = "DOE^JANE 1951") -> Float32:
    """Write a line in a corner, at a share of the image's range."""
    drawn = Image.new("L", plane.shape[::-1], 0)
    height = plane.shape[0]
    ImageDraw.Draw(drawn).text((4, height - size - 8 if below else 4), text, fill=255, font=ImageFont.load_default(size=size))
    alpha = np.asarray(drawn, np.float32) / 255
    value = plane.min() + share * (plane.max() - plane.min())
    return plane * (1 - alpha) + value * alpha


@pytest.mark.parametrize("below", [False, True])
@pytest.mark.parametrize("share", [0.85, 1.0])
@pytest.mark.parametrize("size", [10, 16, 28])
def test_a_line_of_letters_is_found(size: int, share: float, below: bool) -> None:
    plane = IMAGE.voxels[0]
    assert not lettering.stands(plane)
    assert lettering.stands(planted(plane, size=size, share=share, below=below))
    assert lettering.stands(-planted(plane, size=size, share=share, below=below))  # MONOCHROME1


@pytest.mark.parametrize(
    "plane", [np.zeros((64, 64)), np.zeros((1, 1)), np.zeros((3, 3)), np.indices((64, 64)).sum(axis=0) % 2, np.eye(64)]
)
def test_what_is_flat_small_or_a_pattern_has_no_letters(plane: Float32) -> None:
    assert not lettering.stands(plane)


def test_real_slices_raise_no_alarm() -> None:
    folder = tables.real("duplicate-positions-mr/LICENSE").parent
    planes = [pydicom.dcmread(path).pixel_array for path in sorted(folder.glob("*.dcm"))[::6]]
    assert [lettering.stands(plane) for plane in planes] == [False] * 6
    found = [lettering.stands(planted(plane.astype(np.float32), size=16, share=1.0, below=False)) for plane in planes]
    assert found == [True] * 6


def test_an_image_with_letters_gets_no_copy(tmp_path: Path, guard: Guard) -> None:
    lettered = np.maximum(IMAGE.voxels, -1024)
    lettered[1] = np.rint(planted(lettered[1], size=16, share=1.0, below=True))
    plain, found = write_series(tmp_path, patient_id="P", voxels_hu=lettered, spacing_mm=IMAGE.spacing_mm)
    made = [deidentified(path, reader=guard, pseudonym=lambda kind, raw: f"{len(kind + raw):032x}") for path in (plain, found)]
    assert isinstance(made[0], tuple)
    assert made[1] == Reason.BURNED_IN
    assert not isinstance(guard.read(found, with_pixels=True), Reason)  # it is measured: nothing of it leaves
