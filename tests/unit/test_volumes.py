"""Claims about volumes and embeddings: hospitals cut cubes, cnn3d's clipped sum over them is exact, lesions are clustered."""

from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from client import augment, embedding, train
from client.imaging.tensor import to_tensor
from client.inside import View
from common import embedding as common_embedding
from common import model, parameters
from common.errors import ConfigError
from common.recipe import Filters
from tests import federation, learning
from tests.phantoms import Ellipsoid, volume
from tests.unit.test_prepare import recipe

SIDE = 8
EMBEDDED = ("embedding_3", "embedding_17")


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


def test_views_of_a_patient_that_are_too_large_together_are_refused():
    assert (
        learning.study(side=64, patch="volume", model="cnn3d", augmentations=0, views_per_patient_max=64).recipe.patch_voxels
        == 64
    )
    with pytest.raises(ValidationError, match="too large together"):
        learning.study(side=64, patch="volume", model="cnn3d", augmentations=1, views_per_patient_max=64)


@pytest.fixture(scope="module")
def ran(tmp_path_factory, phantom_scans, cohort_cache):
    """One study with cubes, cnn3d and clusters of its embedding, run once over the hospitals' scans."""
    folder = tmp_path_factory.mktemp("volumes") / "f"
    policy = {"cluster_sums": True, "cell_min": 2, "parameters_share_max": Decimal("0.5")}  # of a dozen phantoms a hospital
    one = federation.Federation(folder, phantom_scans, cache=cohort_cache, policy=policy)
    seen = {"source": "image", "unit": "1", "lower": Decimal(0), "upper": Decimal(8)}
    wanted = federation.study(
        variables=[*federation.STUDY["variables"], *({"name": name, **seen} for name in EMBEDDED)],
        statistics={"analyses": [{"kind": "k-means", "variables": list(EMBEDDED), "sizes": [2], "queries_max": 60}]},
        recipe={"patch": "volume", "patch_voxels": 16, "edge_channel": True},
        training={
            "model": "cnn3d",
            "recipe": "full",
            "prior_sha256": model.prior_sha256("cnn3d"),
            "steps": 1,
            "learning_rate": Decimal("0.1"),
        },
    )
    parameters.check(wanted)
    one.approve(wanted)
    result = one.run(wanted)
    yield wanted, result, [vault.prepare(wanted.hash()) for vault in one.vaults.values()]
    one.close()


def test_a_study_names_cnn3d_and_trains_all_of_it_on_the_hospitals_scans(ran):
    _, result, cohorts = ran
    assert [event["state"] for event in result["rounds"] if event["task"] != "query"] == ["opened"] * 3
    assert result["training"]["releases"] == 1
    assert {cohort.views.shape[1:] for cohort in cohorts} == {(2, 16, 16, 16)}
    assert 0 <= result["training"]["auc"] <= 1


def test_lesions_are_clustered_by_the_embedding_of_the_studys_public_network(ran):
    wanted, result, cohorts = ran
    network = model.build(wanted.training, channels=2, patch_voxels=16)
    model.load(network, model.initial(wanted.training, channels=2, patch_voxels=16))
    numbers = [int(name.removeprefix("embedding_")) - 1 for name in EMBEDDED]
    points = []
    for cohort in cohorts:
        with torch.no_grad():
            embedded = network.embed(torch.from_numpy(np.array(cohort.views))).double().numpy()[:, numbers]
        points += [embedded[list(bag)].mean(axis=0) for bag in cohort.bags]  # a patient's is the mean over series
        at = [cohort.columns.index(name) for name in EMBEDDED]
        np.testing.assert_allclose(cohort.table[:, at], np.array(points[-len(cohort.bags) :]), rtol=1e-5)
    points, found = np.array(points), result["analyses"][0]["result"]
    centres = np.array(found["centres"])
    nearest = (((points[:, None] - centres) / points.std(axis=0)) ** 2).sum(axis=2).argmin(axis=1)
    assert np.bincount(nearest).tolist() == found["members"]
    np.testing.assert_allclose(centres, [points[nearest == k].mean(axis=0) for k in range(found["k"])], rtol=1e-5)


def test_a_dimension_that_the_network_does_not_have_is_refused_by_name():
    seen = {"source": "image", "unit": "1", "lower": Decimal(-2), "upper": Decimal(2)}
    named = [*federation.STUDY["variables"], {"name": "embedding_12", **seen}]
    parameters.check(federation.study(variables=named))
    for beyond in ("embedding_13", "embedding_512"):
        with pytest.raises(ConfigError, match=f"embedding of cnn2d has no {beyond}") as caught:
            parameters.check(federation.study(variables=[*named, {"name": beyond, **seen}]))
        assert "embedding_1 to embedding_12" in caught.value.action
    with pytest.raises(ConfigError, match="No image parameter is called embedding_0"):
        parameters.check(federation.study(variables=[*named, {"name": "embedding_0", **seen}]))


def test_only_the_dimensions_that_a_study_names_are_computed():
    seen = {"source": "image", "unit": "1", "lower": Decimal(-2), "upper": Decimal(2)}
    some = ("embedding_7", "embedding_2")
    one = federation.study(variables=[*federation.STUDY["variables"], *({"name": name, **seen} for name in some)])
    view = View(patient="p", pixels=np.random.default_rng(0).random((1, 32, 32), np.float32))
    found = embedding.measure(view, study=one)
    network = learning.built(one)
    whole = network.embed(torch.from_numpy(np.array(view.pixels))[None])[0].tolist()
    assert found == {"embedding_7": whole[6], "embedding_2": whole[1]}
    assert embedding.measure(view, study=federation.study()) == {}


def test_embeddings_have_as_many_dimensions_as_networks_say():
    for name, kind in model.NETWORKS.items():
        assert len(common_embedding.names(name)) == kind(channels=1).head.in_features
    assert common_embedding.names("resnet50") == ()
