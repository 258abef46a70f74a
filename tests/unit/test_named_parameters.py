"""Claims about what a study can name: every parameter of every family, and nothing else is measured."""

import math
import re
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from client import pipeline
from client.imaging.lesion import locate
from client.measure import depth, edges, intensity, length, relative
from client.measure.texture import glcm, ngtdm
from common import parameters
from common.codes import PARAMETERS
from common.errors import ConfigError
from common.study import Study
from tests import federation, phantoms
from tests.commands import COORDINATOR as COORDINATOR_CHOICES
from tests.commands import HOSPITAL as CHOICES
from tests.commands import STUDY_FILE, coordinator, hospital

README = Path(__file__).parents[2] / "server" / "README.md"
PATIENTS = {"P-1": 20.0, "P-2": 60.0}  # and the standard deviation of HU


def naming(*names: str) -> Study:
    """The phantom study with more image variables."""
    wide = {"source": "image", "unit": "1", "lower": Decimal(-(10**9)), "upper": Decimal(10**9)}
    more = [{**wide, "name": name, **({"unit": PARAMETERS[name].unit} if name in PARAMETERS else {})} for name in names]
    return federation.study(variables=[*federation.STUDY["variables"], *more])


def test_names_are_unique_and_each_family_measures_what_it_names() -> None:
    names = [name for family in pipeline.FAMILIES for name in family.NAMES]
    assert len(set(names)) == len(names) == 145
    image = locate(
        phantoms.volume(phantoms.Ellipsoid(semi_axes_mm=(9, 8, 7)), shape=(24, 40, 40), body_radius_mm=18, noise_hu=9)
    )
    for family in pipeline.FAMILIES:
        values = family.measure(replace(image, modality="MR") if family is relative else image)
        assert tuple(values) == family.NAMES
        here = {name: value for name, value in values.items() if name != "wall_distance_mm"}  # a phantom without lungs
        assert all(isinstance(value, float) and math.isfinite(value) for value in here.values())
    for first in range(0, len(names), 100):  # a study takes 128 variables
        some = [name for name in names[first : first + 100] if name not in {"longest_diameter_mm", "mean_hu", "depth_min_mm"}]
        assert {name for family in pipeline.families(naming(*some)) for name in family.NAMES}.issuperset(some)


def test_a_study_can_name_what_is_measured_and_nothing_else() -> None:
    assert parameters.NAMES == tuple(name for family in pipeline.FAMILIES for name in family.NAMES)  # noqa: SIM300
    parameters.check(naming(*(name for name in parameters.NAMES[50:] if name not in {"mean_hu", "depth_min_mm"})))
    with pytest.raises(ConfigError) as near:
        parameters.check(naming("longest_diamater_mm", "glcm_contrasts"))
    assert "longest_diamater_mm may be longest_diameter_mm or " in near.value.action
    assert "glcm_contrasts may be glcm_contrast or " in near.value.action
    assert "sphericity" not in near.value.action
    with pytest.raises(ConfigError) as far:
        parameters.check(naming("x"))
    assert all(name in far.value.action for name in parameters.NAMES)


def test_a_mistyped_parameter_is_refused_where_a_study_is_proposed_and_approved(tmp_path: Path) -> None:
    wrong = naming("longest_diamater_mm")
    given = tmp_path / "study.json"
    given.write_bytes(wrong.canonical_bytes())
    assert hospital("init", "--home", tmp_path / "hosp", *CHOICES)[0] == 0
    for more in ((), ("--hash", wrong.hash())):
        code, said = hospital("approve", "--home", tmp_path / "hosp", "--study", given, *more)
        assert (code, "longest_diameter_mm" in said) == (10, True)
    assert not list((tmp_path / "hosp" / "approved").iterdir())
    text = STUDY_FILE.read_text().replace("longest_diameter_mm", "longest_diamater_mm")
    (tmp_path / "study.toml").write_text(text)
    assert coordinator("init", "--home", tmp_path / "hub", *COORDINATOR_CHOICES)[0] == 0
    code, said = coordinator("propose", "--home", tmp_path / "hub", tmp_path / "study.toml")
    assert (code, "longest_diameter_mm" in said) == (10, True)
    assert not list((tmp_path / "hub").rglob("*.study.json"))


def test_the_coordinators_readme_lists_every_parameter() -> None:
    listed = README.read_text().split("Image parameters: ")[1].split("A value that is not defined")[0]
    plain, table = listed.split("| prefix |")
    names = [name for quoted in re.findall(r"`([^`]+)`", plain) if "/" not in quoted for name in quoted.split()]
    for prefix, rest in re.findall(r"\| `(\w+_)` \| `([^`]+)` \|", table):
        names += [prefix + name for name in rest.split()]
    assert names.count("sphericity") == 1
    assert sorted(names) == sorted(name for family in pipeline.FAMILIES for name in family.NAMES)


def test_only_families_that_the_study_names_are_measured() -> None:
    assert pipeline.families(naming()) == (length, intensity, depth)
    assert pipeline.families(naming("glcm_contrast", "border_width_mm")) == (length, intensity, depth, edges, glcm)


def test_a_clinical_column_called_like_a_parameter_is_not_measured() -> None:
    column = {"name": "ngtdm_coarseness", "source": "clinical", "unit": "1", "lower": Decimal(0), "upper": Decimal(1)}
    assert ngtdm not in pipeline.families(federation.study(variables=[*federation.STUDY["variables"], column]))


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("named")
    for seed, (patient, noise_hu) in enumerate(PATIENTS.items()):
        image = phantoms.volume(
            phantoms.Ellipsoid(semi_axes_mm=(9, 8, 7)), shape=(24, 40, 40), body_radius_mm=18, noise_hu=noise_hu, seed=seed
        )
        phantoms.write_series(
            folder / "scans", patient_id=patient, voxels_hu=image.voxels, spacing_mm=image.spacing_mm, region=image.region
        )
    (folder / "clinical.csv").write_text("patient_id,malignancy\n" + "".join(f"{patient},3\n" for patient in PATIENTS))
    return folder


def test_texture_and_edges_reach_the_table_of_the_study(scans: Path) -> None:
    cohort = pipeline.read_cohort(
        scans=scans / "scans",
        clinical=scans / "clinical.csv",
        study=naming("glcm_joint_entropy", "border_drop_hu_per_mm"),
        pseudonym=lambda _, raw: raw,
        progress=lambda *_: None,
    )
    assert cohort.patients == tuple(PATIENTS)
    entropy, drop = (cohort.table[:, cohort.columns.index(name)] for name in ("glcm_joint_entropy", "border_drop_hu_per_mm"))
    assert entropy[0] + 1 < entropy[1]  # noise of three times the width: about 3.2 bits more
    assert ((drop > 30) & (drop < 60)).all()  # a step of 60 HU reads as one to two voxels of 1 mm
