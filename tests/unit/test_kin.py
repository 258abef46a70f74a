"""Parameters that determine one another are known to, and sums of one are held to what sums of another have told."""

from itertools import combinations

import numpy as np
import pytest

from client import kin, released
from client.config import CELL_MIN
from client.measure import angle, burden, edges, intensity, length, shape
from client.measure.texture import glcm, gldzm, glrlm, glszm, ngldm
from client.released import Asking, Record
from common.errors import AlreadyAnswered
from tests import phantoms
from tests.unit.test_sums_together import SECRET, judge_of


def test_a_parameter_under_another_name_does_not_take_a_hospital_or_a_patient_out_of_a_sum():
    """Mass is volume and integrated intensity: over one hospital less, or one patient, the difference is theirs."""
    many = tuple(f"p{at}" for at in range(40))

    def asking(*names: str, roster: tuple[str, ...] = ("a", "b", "c"), patients: tuple[str, ...] = many) -> Asking:
        return Asking(label="l", variables=frozenset(names), roster=roster, patients=patients)

    judge, record = judge_of(), Record(sets={}, sums=(), queries={})
    record = released.check(record, asking=asking("mass_mg"), cell_min=CELL_MIN, secret=SECRET, judge=judge)
    for other in ({"roster": ("a", "b", "c", "d")}, {"patients": many[1:]}):
        released.check(record, asking=asking("elongation", **other), cell_min=CELL_MIN, secret=SECRET, judge=judge)
        with pytest.raises(AlreadyAnswered):
            released.check(
                record, asking=asking("volume_mm3", "mean_hu", **other), cell_min=CELL_MIN, secret=SECRET, judge=judge
            )
    released.check(record, asking=asking("volume_mm3"), cell_min=CELL_MIN, secret=SECRET, judge=judge)


def test_families_are_those_of_what_is_measured():
    volume = phantoms.volume(
        phantoms.Ellipsoid(semi_axes_mm=(12.0, 10.0, 8.0), centre_mm=(0.0, 0.0, 0.0), angle_deg=20.0),
        shape=(22, 44, 44),
        spacing_mm=(1.0, 1.0, 1.0),
        body_radius_mm=20.0,
        body_hu=-50.0,
        lesion_hu=40.0,
        noise_hu=30.0,
    )
    measures = (shape, intensity, burden, length, angle, edges, glcm, glrlm, glszm, gldzm, ngldm)
    made = {name: value for family in measures for name, value in family.measure(volume).items()}
    assert all(name in made for family in kin.FAMILIES for name in family)
    assert not any(np.isnan(made[name]) for family in kin.FAMILIES for name in family)
    mean, size = made["mean_hu"], made["volume_mm3"]
    assert np.isclose(made["mass_mg"], size + made["integrated_intensity_hu_mm3"] / 1000)
    assert np.isclose(made["integrated_intensity_hu_mm3"], size * mean)
    assert np.isclose(made["rms_hu"] ** 2, mean**2 + made["sd_hu"] ** 2)
    assert np.isclose(made["surface_to_volume_per_mm"] * size, made["surface_mm2"])
    assert np.isclose(made["elongation"] * made["major_axis_mm"], made["minor_axis_mm"])
    assert np.isclose(made["flatness"] * made["major_axis_mm"], made["least_axis_mm"])
    for name in ("in_plane_angle", "major_azimuth"):
        assert np.isclose(made[f"{name}_cos2"] ** 2 + made[f"{name}_sin2"] ** 2, 1)
    assert np.isclose(made["border_width_mm"] * made["border_drop_hu_per_mm"], made["border_contrast_hu"])


def test_textures_that_are_one_number_are_of_one_family():
    volume = phantoms.volume(phantoms.Box(sides_mm=(12.0, 12.0, 12.0)), shape=(16, 32, 32), lesion_hu=40.0, noise_hu=30.0)
    made = {name: value for family in (glcm, glrlm, glszm, gldzm, ngldm) for name, value in family.measure(volume).items()}
    of = {name.removeprefix("glcm_"): value for name, value in made.items()}
    assert np.isclose(of["dissimilarity"], of["difference_average"])
    assert np.isclose(of["sum_average"], 2 * of["joint_average"])
    assert np.isclose(of["cluster_tendency"], of["sum_variance"])
    assert np.isclose(of["sum_variance"], 4 * of["joint_variance"] - of["contrast"])
    assert np.isclose(2 * (of["joint_variance"] + of["joint_average"] ** 2 - of["autocorrelation"]), of["contrast"])
    assert np.isclose(2 * of["joint_variance"] * (1 - of["correlation"]), of["contrast"])
    assert np.isclose(of["difference_variance"], of["contrast"] - of["dissimilarity"] ** 2)
    alike = [
        (one, other)
        for one, other in combinations(sorted(made), 2)
        if made[one] not in {0.0, 1.0} and np.isclose(made[one], made[other], rtol=1e-12)
    ]
    assert len(alike) >= 8
    assert not [pair for pair in alike if not kin.related([pair[0]], [pair[1]])]
    for matrix, other, size in (
        ("glrlm", "glrlm", "run_length"),
        ("glszm", "glszm", "zone_size"),
        ("glszm", "gldzm", "zone_distance"),
        ("ngldm", "ngldm", "dependence_count"),
    ):
        level, level_share = (made[f"{matrix}_{kind}grey_level_non_uniformity"] for kind in ("", "normalised_"))
        extent, extent_share = (made[f"{other}_{kind}{size}_non_uniformity"] for kind in ("", "normalised_"))
        assert np.isclose(level * extent_share, extent * level_share)
        assert kin.related([f"{matrix}_grey_level_non_uniformity"], [f"{other}_{size}_non_uniformity"])


def test_several_sums_of_kin_do_not_leave_a_patient_alone():
    """Of all, of who has one value, of who has another, and of who has both: who lacks both, though no two share a variable."""
    many = tuple(f"p{at}" for at in range(100))
    one, other = {"p3", *many[20:50]}, {"p3", *many[60:90]}

    def asking(name: str, *, gone: set[str]) -> Asking:
        held = tuple(patient for patient in many if patient not in gone)
        return Asking(label=name, variables=frozenset({name}), roster=("a",), patients=held, functions=(name,))

    judge, record = judge_of(), Record(sets={}, sums=(), queries={})
    for name, gone in (("mass_mg", set()), ("volume_mm3", one), ("mean_hu", other)):
        record = released.check(record, asking=asking(name, gone=gone), cell_min=CELL_MIN, secret=SECRET, judge=judge)
    last = asking("integrated_intensity_hu_mm3", gone=one | other)
    with pytest.raises(AlreadyAnswered, match="alone"):
        released.check(record, asking=last, cell_min=CELL_MIN, secret=SECRET, judge=judge)
    last = asking("elongation", gone=one | other)
    released.check(record, asking=last, cell_min=CELL_MIN, secret=SECRET, judge=judge)
