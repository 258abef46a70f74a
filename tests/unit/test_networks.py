"""Claims about the networks: what they take, where they start, and that the engine is exact on each."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from client.engine import independence
from client.engine.clipped import clipped_sum
from common import model
from common.errors import ConfigError
from common.networks import standardised, weights
from common.networks.cnn2d import Cnn2d
from common.networks.cnn3d import Cnn3d
from common.networks.resnet18 import ResNet18
from server import plan_rhythms, scorable
from tests import engine, federation, learning

NETWORKS = {
    "cnn2d": (Cnn2d, (2, 24, 24), 15_689),
    "resnet18": (ResNet18, (1, 32, 32), 11_170_753),
    "cnn3d": (Cnn3d, (1, 8, 12, 8), 69_953),
}
NAMES = [pytest.param(name, marks=[pytest.mark.long] if name == "resnet18" else []) for name in NETWORKS]


def started(name):
    kind, shape, _ = NETWORKS[name]
    network = kind(channels=shape[0])
    weights.fill(network)
    with torch.no_grad():
        network.head.weight.copy_(torch.linspace(-1, 1, network.head.in_features)[None])
    return network


def asked(name):
    """A network, a few patients' views and bags, and their gradients one by one in float64 with the median of their norms."""
    network, (_, shape, _) = started(name), NETWORKS[name]
    sizes = [1, 2, 3] if name != "resnet18" else [1, 2]
    images, patients = np.abs(engine.views(sum(sizes), *shape)), engine.bags(sizes)
    rows = engine.gradients(network, images, patients)
    return network, images, patients, rows, float(np.median(np.linalg.norm(rows, axis=1)))


@pytest.mark.parametrize("name", NETWORKS)
def test_clipped_sum_of_every_network_in_float64_equals_one_patient_at_a_time(name):
    network, images, patients, rows, norm = asked(name)
    want = engine.projected(network, engine.clipped(rows, norm=norm))
    batches = engine.batches(images, patients, rows_at_once=4)
    double = [replace(one, views=one.views.double(), targets=one.targets.double()) for one in batches]
    got = engine.flat(clipped_sum(network.double(), double, loss=engine.loss, clip_norm=norm))
    assert got.shape == (NETWORKS[name][2],)
    assert np.linalg.norm(got - want) <= 6e-8 * np.linalg.norm(want)  # weights 1 / views are float32


@pytest.mark.parametrize("name", NAMES)
def test_clipped_sum_of_every_network_equals_one_patient_at_a_time(name):
    """In float32 to 1e-6, or to what plain float32 training loses where that is more."""
    network, images, patients, rows, norm = asked(name)
    plain = engine.clipped(engine.gradients(network, images, patients, dtype=torch.float32), norm=norm)
    loss = np.linalg.norm(plain - engine.clipped(rows, norm=norm))
    want = engine.projected(network, engine.clipped(rows, norm=norm))
    batches = engine.batches(images, patients, rows_at_once=4)
    got = engine.flat(clipped_sum(network, batches, loss=engine.loss, clip_norm=norm))
    assert np.linalg.norm(got - want) <= max(1e-6 * np.linalg.norm(want), 2 * loss)


@pytest.mark.parametrize("name", NAMES)
def test_no_bit_of_a_patients_gradient_depends_on_who_else_is_in_the_micro_batch(name):
    kind, shape, _ = NETWORKS[name]
    network = kind(channels=shape[0])
    assert independence.rows_at_once(network, shape=shape, sizes=(1, 2), wanted=4, loss=engine.loss) == 4


def test_first_weights_are_the_same_bits_everywhere_and_have_the_stated_spread():
    filled = Cnn3d(channels=1)
    weights.fill(filled)
    digest = hashlib.sha256(b"".join(one.detach().numpy().tobytes() for one in filled.parameters()))
    assert digest.hexdigest()[:16] == "50a7d16b4554c5b2"
    network = ResNet18(channels=1)
    weights.fill(network)
    filters = network.blocks[7].conv2.weight.detach()
    assert abs(float(filters.var()) * filters[0].numel() / 2 - 1) < 0.01
    assert not network.head.weight.any()
    assert bool((network.norm.weight == 1).all())


def test_a_standardised_filter_has_mean_zero_and_unit_length_and_a_constant_one_acts_as_zero():
    layer = standardised.StandardisedConv2d(3, 4, 3)
    used, _ = layer.standardised()
    assert used.flatten(1).mean(1).abs().max() < 1e-6
    assert (used.flatten(1).norm(dim=1) - 1).abs().max() < 1e-5
    nn.init.constant_(layer.weight, 0.25)
    assert not layer(torch.ones(1, 3, 5, 5)).sub(layer.bias.view(1, -1, 1, 1)).any()


@pytest.mark.parametrize("layer", [standardised.StandardisedConv2d(3, 4, 3), standardised.StandardisedConv3d(2, 4, 3)])
def test_projection_never_lengthens_and_is_the_chain_rule(layer):
    random = torch.Generator().manual_seed(0)
    layer = layer.double()
    direction = torch.randn(layer.weight.shape, generator=random, dtype=torch.float64)
    used, scale = layer.standardised()
    want = torch.autograd.grad((used * direction).sum(), layer.weight)[0]
    scaled = direction * scale.detach().view(-1, *[1] * (direction.ndim - 1))
    length = scaled.norm()
    got = scaled.clone().flatten(1)
    standardised.project(got, used.detach().flatten(1))
    got = got.view_as(want)
    assert (got - want).norm() <= 1e-9 * want.norm()
    assert got.norm() <= length


def resnet(**changes):
    return learning.study(side=32).training.model_copy(
        update={"model": "resnet18", "recipe": "full", "prior_sha256": model.prior_sha256("resnet18"), **changes}
    )


def test_resnet18_is_built_dumped_and_loaded_by_name():
    blob = model.initial(resnet(), channels=1, patch_voxels=32)
    assert len(blob) < 45_000_000
    network = model.build(resnet(), channels=1, patch_voxels=32)
    model.load(network, blob)
    assert model.dump(network) == blob
    assert model.trainable_size(resnet(), channels=1, patch_voxels=32) == 11_170_753
    assert network(torch.zeros(2, 1, 32, 32)).shape == (2,)


def study_of_resnet(**changes):
    return federation.study(
        training={"model": "resnet18", "recipe": "full", "prior_sha256": model.prior_sha256("resnet18"), "steps": 1, **changes}
    )


def test_models_that_no_envelope_could_carry_to_the_evaluation_are_refused_before_the_first_step():
    scorable.check(study_of_resnet(steps=20))
    with pytest.raises(ConfigError, match="102 models") as caught:
        scorable.check(study_of_resnet(steps=100))
    assert "at most 22 steps" in caught.value.action
    scorable.check(federation.study(training={"steps": 10_000}))
    with pytest.raises(ConfigError, match="do not fit"):
        scorable.check(federation.study(training={"steps": 100_000}))
    with pytest.raises(ConfigError, match="do not fit"):
        plan_rhythms.compare(study_of_resnet(steps=100), hospitals=3, link=plan_rhythms.Link())


@pytest.mark.long  # eleven million numbers with noise and masks at each of four hospitals
def test_a_study_names_resnet18_and_trains_all_of_it(make_federation):
    one, wanted = make_federation(), study_of_resnet()
    one.approve(wanted)
    result = one.run(wanted)
    assert [event["state"] for event in result["rounds"]] == ["opened"] * 3
    assert result["training"]["releases"] == 1


@pytest.mark.parametrize(("channels", "patch_voxels"), [(1, 31), (3, 32)])
def test_images_that_do_not_fit_resnet18_are_refused_by_name(channels, patch_voxels):
    with pytest.raises(ConfigError, match="resnet18"):
        model.build(resnet(), channels=channels, patch_voxels=patch_voxels)


def test_a_network_that_no_study_may_name_is_refused():
    with pytest.raises(ConfigError, match="resnet50"):
        model.build(resnet(model="resnet50"), channels=1, patch_voxels=32)
