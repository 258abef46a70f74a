"""Claims about a real chest CT (LUNG1-001): from DICOM and its contours to the reference's figures of the tumour."""

import math
import tarfile

import numpy as np
import pytest

from client import pipeline
from client.imaging.guard import Guard
from client.imaging.lesion import locate
from client.imaging.scan import read_scans
from client.imaging.volume import assemble
from client.inside import Scan, Volume
from client.measure import depth, intensity, length, region, shape, wall
from common.modality import NORMALISED
from tests.unit.test_measure import everything, real


@pytest.fixture(scope="module")
def tumour(tmp_path_factory: pytest.TempPathFactory) -> Volume:
    folder = tmp_path_factory.mktemp("lung1")
    with tarfile.open(real("lung1-ct") / "lung1-ct.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    with Guard() as reader:
        (scan,) = read_scans(folder, pseudonym=lambda _, raw: raw, reader=reader, modality="CT")
    assert isinstance(scan, Scan)
    return locate(assemble(scan))


@pytest.mark.long
def test_the_tumour_of_lung1_has_the_references_figures(tumour: Volume) -> None:
    assert tumour.region is not None
    assert tumour.region.sum() == pytest.approx(54_639, rel=0.005)
    values = everything(tumour, families=(length, shape, intensity, depth, wall))
    assert values["volume_mm3"] == pytest.approx(156_100, rel=0.005)
    assert values["longest_diameter_mm"] == pytest.approx(95.1, abs=0.977)
    assert values["short_axis_mm"] == pytest.approx(80.2, abs=0.977)
    assert values["diameter_3d_mm"] == pytest.approx(95.45, abs=0.01)
    assert values["major_axis_mm"] == pytest.approx(84.24, abs=0.01)
    assert values["sphericity"] == pytest.approx(0.60, abs=0.005)
    assert values["mean_hu"] == pytest.approx(-64.1, abs=0.1)
    assert (values["median_hu"], values["p10_hu"], values["p90_hu"]) == (12, -343, 56)
    assert values["depth_min_mm"] == pytest.approx(44.7, abs=0.977)
    assert 44.7 < values["depth_centroid_mm"] < 125.3
    assert values["wall_distance_mm"] == 0  # it grows out of the lung


@pytest.mark.long
def test_the_longest_chord_of_lung1_lies_where_the_reference_has_it(tumour: Volume) -> None:
    chord = region.longest_chord(tumour)
    assert chord is not None
    rows, columns = (chord.ends[1] - chord.ends[0]).tolist()
    angle_deg = math.degrees(math.atan2(rows * tumour.spacing_mm[1], columns * tumour.spacing_mm[2])) % 180
    assert angle_deg == pytest.approx(5.3, abs=1)  # P against L, as rows and columns run after the gate
    assert np.hypot(rows * tumour.spacing_mm[1], columns * tumour.spacing_mm[2]) == pytest.approx(chord.length_mm)
    height_mm = (tumour.affine @ [chord.slice, 0, 0, 1])[2]
    assert height_mm == pytest.approx(-462.5)


@pytest.mark.long
def test_every_family_measures_a_real_tumour(tumour: Volume) -> None:
    values = everything(tumour, families=pipeline.FAMILIES)
    assert {name for name, value in values.items() if not math.isfinite(value)} <= set(NORMALISED)  # which CT has not
