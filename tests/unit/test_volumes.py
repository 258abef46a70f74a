"""Claims about volumes: a study names cnn3d, hospitals cut cubes around the lesion, and the clipped sum over them is exact."""

from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from client import augment, train
from client.imaging.tensor import to_tensor
from common import model
from common.recipe import Filters
from tests import federation, learning
from tests.phantoms import Ellipsoid, volume
from tests.unit.test_prepare import recipe

SIDE = 8


def study(**changes):
    wanted = {"model": "cnn3d", "recipe": "full", "prior_sha256": model.prior_sha256("cnn3d"), "clip_norm": "0.05", **changes}
    return learning.study(side=SIDE, patch="volume", **wanted)


def cohort(n):
    flat = learning.cohort(n, side=SIDE, views=(1, 2, 3))
    depth = np.exp(-(np.linspace(-1.5, 1, SIDE) ** 2)).astype(np.float32)
    return replace(flat, views=flat.views[:, :, None] * depth[:, None, None])


def moved(one):
    """A model whose head is no longer zero, so that every layer has a gradient."""
    network = learning.built(one)
    model.with_flat(network, model.HEAD, 0.5 * np.cos(np.arange(65.0)))
    return model.dump(network)


def one_by_one(blob, one, patients):
    """The oracle: autograd in float64, one patient at a time, over copies that numpy itself mirrors and turns."""
    network = learning.built(one)
    model.load(network, blob)
    network = network.double()
    parameters = [dict(network.named_parameters())[name] for name in model.trainable_names(network, one.training)]
    total, norms = 0.0, []
    for row, bag in enumerate(patients.bags):
        shown = []
        for view in patients.views[list(bag[: one.training.views_per_patient_max])].astype(np.float64):
            shown += [view, view[..., ::-1], view[..., ::-1, :]][: 1 + one.training.augmentations]
        target = torch.full((len(shown),), float(patients.table[row, 1] > 3), dtype=torch.float64)
        logits = network(torch.from_numpy(np.stack(shown).copy()))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, target)
        gradient = torch.cat([part.ravel() for part in torch.autograd.grad(loss, parameters)]).numpy()
        norms.append(np.linalg.norm(gradient))
        total = total + gradient * min(1, float(one.privacy.clip_norm) / norms[-1])
    return total, norms


@pytest.mark.parametrize(("learned", "copies"), [("full", 0), ("full", 2), ("head", 2)])
def test_clipped_sum_over_cubes_equals_one_patient_at_a_time(learned, copies):
    one, patients, rows = study(recipe=learned, augmentations=copies), cohort(5), np.arange(5)
    blob = moved(one)
    _, norms = one_by_one(blob, one, patients)
    one = study(recipe=learned, augmentations=copies, clip_norm=f"{np.median(norms):.4f}")  # some are clipped, some are not
    want, _ = one_by_one(blob, one, patients)
    got = train.clipped_sum(blob, study=one, cohort=patients, training_rows=rows, sampled=rows >= 0)
    assert np.linalg.norm(got - want) <= 1e-6 * np.linalg.norm(want)
    nobody = train.clipped_sum(blob, study=one, cohort=patients, training_rows=rows, sampled=rows < 0)
    assert nobody.shape == got.shape
    assert not nobody.any()


def test_the_cube_lies_around_the_lesion_and_goes_along_all_three_axes():
    image = volume(Ellipsoid(semi_axes_mm=(9, 6, 4), centre_mm=(3.5, -2.5, 1.5)), shape=(30, 40, 40))
    made = to_tensor(image, recipe=recipe(patch="volume", patch_voxels=24))
    assert made.pixels.shape == recipe(patch="volume", patch_voxels=24).view_shape == (2, 24, 24, 24)
    assert made.pixels.dtype == np.float32
    assert made.pixels.min() >= 0
    assert made.pixels.max() <= 1
    inside = np.array(np.nonzero(made.pixels[0] == np.float32((60 + 1000) / 1400)))
    assert np.abs(inside.mean(axis=1) - 11.5).max() <= 0.51
    depth, height, width = np.ptp(inside, axis=1)
    assert depth < height < width  # z along S, rows along P, columns along L
    largest = int(image.region.sum(axis=(1, 2)).argmax())
    middle = round(float(np.nonzero(image.region)[0].mean()) - 11.5)
    plane = to_tensor(image, recipe=recipe(patch_voxels=24))
    np.testing.assert_array_equal(made.pixels[0, largest - middle], plane.pixels[0])


def test_beyond_the_image_a_cube_is_the_lower_end_of_the_window():
    image = volume(Ellipsoid(semi_axes_mm=(4, 4, 3)), shape=(10, 20, 20), body_radius_mm=100)
    made = to_tensor(image, recipe=recipe(patch="volume", patch_voxels=32, edge_channel=False))
    assert made.pixels.shape == (1, 32, 32, 32)
    assert not made.pixels[0, :10].any()
    assert not made.pixels[0, -10:].any()
    assert made.pixels[0, 16, 16, 16] == np.float32((60 + 1000) / 1400)


@pytest.mark.parametrize("edges", ["gradient", "sobel"])
def test_edges_of_a_cube_see_a_slope_along_every_axis_alike(edges):
    image = volume(Ellipsoid(semi_axes_mm=(5, 5, 5)), shape=(24, 24, 24))
    wanted = recipe(patch="volume", patch_voxels=8, filters=Filters(bias_field="none", edges=edges))
    for axis in range(3):
        slope = np.moveaxis(np.broadcast_to(np.arange(24, dtype=np.float32)[:, None, None] * 14 - 500, (24, 24, 24)), 0, axis)
        channel = to_tensor(replace(image, voxels=np.ascontiguousarray(slope)), recipe=wanted).pixels[1]
        np.testing.assert_allclose(channel, 14 / 1400, rtol=1e-5)


def test_canny_draws_the_edges_within_each_slice_of_a_cube():
    image = volume(Ellipsoid(semi_axes_mm=(9, 9, 9)), lesion_hu=160)
    wanted = recipe(patch="volume", patch_voxels=24, filters=Filters(bias_field="none", edges="canny"))
    made = to_tensor(image, recipe=wanted).pixels[1]
    assert set(np.unique(made)) == {0, 1}
    plane = to_tensor(image, recipe=wanted.model_copy(update={"patch": "slice"})).pixels[1]
    assert any((one == plane).all() for one in made)


def test_a_cubes_copies_are_turned_slice_by_slice():
    views = np.random.default_rng(0).random((2, 1, 3, 6, 6)).astype(np.float32)
    made, _ = augment.augmented(views, bags=[(1.0, (0,)), (0.0, (1,))], number=7)
    for depth in range(3):
        flat, _ = augment.augmented(views[:, :, depth], bags=[], number=7)
        np.testing.assert_array_equal(made[:, :, depth], flat)


@pytest.mark.parametrize(
    ("wanted", "patch", "side", "says"),
    [
        ("cnn3d", "slice", 16, 'cnn3d needs patch = "volume"'),
        ("cnn2d", "volume", 16, 'cnn2d needs patch = "slice"'),
        ("resnet18", "volume", 32, 'resnet18 needs patch = "slice"'),
        ("cnn3d", "volume", 65, "at most 64 voxels"),
        ("cnn3d", "sphere", 16, "'slice' or 'volume'"),
    ],
)
def test_a_network_and_patches_that_do_not_fit_are_refused(wanted, patch, side, says):
    with pytest.raises(ValidationError, match=says):
        learning.study(side=side, patch=patch, model=wanted)


def test_a_study_names_cnn3d_and_trains_all_of_it_on_the_hospitals_scans(make_federation):
    one = make_federation()
    wanted = federation.study(
        recipe={"patch": "volume", "patch_voxels": 16, "edge_channel": True},
        training={
            "model": "cnn3d",
            "recipe": "full",
            "prior_sha256": model.prior_sha256("cnn3d"),
            "steps": 1,
            "learning_rate": Decimal("0.1"),
        },
    )
    one.approve(wanted)
    result = one.run(wanted)
    assert [event["state"] for event in result["rounds"]] == ["opened"] * 3
    assert result["training"]["releases"] == 1
    assert {vault.prepare(wanted.hash()).views.shape[1:] for vault in one.vaults.values()} == {(2, 16, 16, 16)}
    assert 0 <= result["training"]["auc"] <= 1
