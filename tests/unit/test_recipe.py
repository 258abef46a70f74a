"""Claims about the filters of a recipe: each does what its name says on a phantom, and each is part of what is signed."""

from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest
from pydantic import ValidationError

from client import proposal
from client.imaging.prepare import prepare
from client.imaging.tensor import to_tensor
from client.inside import Volume
from common.recipe import Filters, Points
from tests import federation
from tests.phantoms import Box, Ellipsoid, points_of, volume
from tests.unit.test_prepare import recipe
from tests.unit.test_proposal import POLICY

OF_AN_MR = ({}, {"name": "mean_z", "unit": "1"}, {"name": "volume_mm3", "unit": "mm3"}, {})


def noisy(hu: float = 30.0) -> Volume:
    return volume(Box(sides_mm=(14, 14, 14)), shape=(28, 40, 40), noise_hu=hu, body_radius_mm=30, lesion_hu=200)


def test_diffusion_keeps_the_edge_that_a_gaussian_blurs() -> None:
    image = noisy()
    plain, diffused, smooth = (
        prepare(image, recipe=recipe(denoise=kind)) for kind in ("none", "curvature-anisotropic", "gaussian")
    )
    flat = (slice(11, 17), slice(17, 23), slice(17, 23))
    assert diffused.voxels[flat].std() < 0.6 * plain.voxels[flat].std()
    across = [float(one.voxels[9:19, 15:25, 27].mean() - one.voxels[9:19, 15:25, 26].mean()) for one in (diffused, smooth)]
    assert across[0] < 1.4 * across[1] < 0  # the step from 200 to 0 HU at 7 mm: steeper than after a Gaussian of the same width


def test_diffusion_leaves_what_lies_farther_than_a_patch_alone() -> None:
    image = noisy()
    part = np.zeros(image.voxels.shape, np.bool_)
    part[12:16, 18:22, 18:22] = True
    plain = prepare(replace(image, region=part), recipe=recipe())
    near = prepare(replace(image, region=part), recipe=recipe(denoise="curvature-anisotropic", patch_voxels=8))
    inside = (slice(4, 24), slice(10, 30), slice(10, 30))
    changed = near.voxels != plain.voxels
    assert changed[inside].mean() > 0.9
    changed[inside] = False
    assert not changed.any()


def test_too_wide_a_diffusion_is_refused() -> None:
    with pytest.raises(ValidationError, match="too wide"):
        recipe(denoise="curvature-anisotropic", denoise_mm=Decimal(3))
    assert prepare(noisy(), recipe=recipe(denoise="curvature-anisotropic", denoise_mm=Decimal("2.5"))).voxels.shape


def test_n4_takes_a_bias_field_out() -> None:
    image = volume(Box(sides_mm=(10, 10, 10)), shape=(12, 32, 32), body_radius_mm=100, lesion_hu=400, body_hu=400)
    along = points_of(image.affine, shape=image.voxels.shape)[..., 0] / 16
    made = np.random.default_rng(0)
    body = np.hypot(*(points_of(image.affine, shape=image.voxels.shape)[..., axis] for axis in (0, 1))) < 13
    signal = np.where(body, 400 + made.normal(0, 8, body.shape), 20.0) * np.exp(0.4 * along)
    biased = replace(image, modality="MR", voxels=signal.astype(np.float32))
    kept = recipe(modality="MR", filters=Filters(bias_field="none", edges="gradient"))
    corrected = recipe(modality="MR", filters=Filters(bias_field="n4", edges="gradient"))
    spread = [
        float(one.voxels[body].std() / (one.voxels[body].mean() - one.voxels[~body].mean()))
        for one in (prepare(biased, recipe=kept), prepare(biased, recipe=corrected))
    ]
    assert spread[0] > 0.15
    assert spread[1] < 0.5 * spread[0]


@pytest.mark.parametrize("edges", ["gradient", "sobel", "canny"])
def test_edges_are_where_the_lesion_ends_and_nowhere_inside(edges: str) -> None:
    image = volume(Ellipsoid(semi_axes_mm=(9, 9, 9)), lesion_hu=160)
    made = to_tensor(image, recipe=recipe(filters=Filters(bias_field="none", edges=edges)))  # type: ignore[arg-type]
    channel = made.pixels[1]
    rows, columns = np.indices(channel.shape) - 15.5
    away = np.hypot(rows, columns)
    assert channel[away < 6].max() == 0
    assert channel[(away > 7.5) & (away < 10.5)].max() == channel.max() > 0.03
    if edges == "canny":
        assert set(np.unique(channel).tolist()) == {0.0, 1.0}


def test_the_hospital_reads_what_its_scans_would_go_through() -> None:
    plain = federation.study()
    more = recipe(
        modality="MR",
        irregular="resample",
        denoise="median",
        filters=Filters(bias_field="n4", edges="canny"),
        points=Points(method="watershed", reach_mm=Decimal(20), agreement_min=Decimal("0.9")),
    )
    mr = federation.study(
        variables=[{**federation.STUDY["variables"][at], **changes} for at, changes in enumerate(OF_AN_MR)],
        statistics={
            "correlation": ["longest_diameter_mm", "mean_z"],
            "regression": {"outcome": "malignancy", "predictors": ["mean_z"]},
        },
    )
    for study, one, words in (
        (plain, plain.recipe, ("of CT", "1 mm", "lesions that were drawn.")),
        (
            mr,
            more,
            (
                "of MR",
                "normalised",
                "n4",
                "median, 1 mm",
                "edges (canny)",
                "from a point or box that you mark (watershed, agreement 0.9).",
            ),
        ),
    ):
        (said,) = (
            line
            for line in proposal.study(study.model_copy(update={"recipe": one}), policy=POLICY)
            if line.startswith("Each scan")
        )
        assert all(word in said for word in words), said


def test_filters_are_in_the_hash_that_a_hospital_approves() -> None:
    plain = federation.study()
    with_sobel = plain.model_copy(
        update={"recipe": plain.recipe.model_copy(update={"filters": Filters(bias_field="none", edges="sobel")})}
    )
    assert plain.hash() != with_sobel.hash()
