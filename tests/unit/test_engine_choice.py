"""Which kernel a convolution uses: the fastest of those within the memory cap, timed once per shape, whoever is sampled."""

import time

import pytest
import torch
from torch import nn

from client.engine import choice, kernels
from client.engine.clipped import clipped_sum
from client.engine.geometry import Geometry
from common.networks.cnn2d import Cnn2d
from common.networks.cnn3d import Cnn3d
from common.networks.resnet18 import ResNet18
from tests import engine

CAP_BYTES = 256 * 2**20
SMALL = {"rows": 8, "views": 2, "inputs": (4, 4, 4), "outputs": (8, 4, 4), "device": "cpu", "threads": 1}
LAYER = Geometry.of(nn.Conv2d(4, 8, 3, padding=1))
WIDE = nn.Conv2d(512, 512, 3, padding=1)
EVERY = ("grouped", "unfolded", "shifted")


@pytest.fixture
def timed(monkeypatch):
    """A table of seconds, kernel to seconds, in place of the clock; and what was timed: (kernel, numbers, views)."""
    table, asked = dict.fromkeys(engine.KERNELS, 1.0), []

    def seconds(name, inputs, outputs, *, geometry, views):
        asked.append((name, inputs.numpy().tobytes(), outputs.numpy().tobytes(), views))
        return table[name]

    monkeypatch.setattr(choice, "_seconds", seconds)
    choice._fastest.cache_clear()
    yield table, asked
    choice._fastest.cache_clear()


@pytest.mark.parametrize("least", engine.KERNELS)
def test_the_kernel_that_takes_the_least_time_is_chosen(least, timed):
    table, asked = timed
    table.update(dict(zip(engine.KERNELS, (2.0, 3.0, 5.0, 4.0, 6.0), strict=True)))
    table[least] = 1.0
    assert choice.fastest(LAYER, **SMALL) == least
    assert [name for name, *_ in asked] == list(engine.KERNELS)


def test_a_shape_is_timed_once_and_keeps_its_kernel_whatever_a_later_timing_would_say(timed):
    table, asked = timed
    table["shifted"] = 0.5
    assert choice.fastest(LAYER, **SMALL) == "shifted"
    table["gram"] = 0.1
    assert choice.fastest(LAYER, **SMALL) == "shifted"
    assert len(asked) == len(engine.KERNELS)
    others = [
        {"rows": 16},
        {"views": 4},
        {"inputs": (4, 5, 5), "outputs": (8, 5, 5)},
        {"threads": 2},
    ]
    for number, changes in enumerate(others, start=2):
        assert choice.fastest(LAYER, **{**SMALL, **changes}) == "gram"
        assert len(asked) == number * len(engine.KERNELS)


def test_nothing_is_timed_where_there_is_nothing_to_choose(timed):
    grouped = Geometry.of(nn.Conv2d(4, 8, 3, padding=1, groups=2))
    assert choice.fastest(grouped, **SMALL) == "grouped"
    assert timed[1] == []


def test_what_is_timed_and_chosen_does_not_depend_on_who_is_sampled(timed):
    _, asked = timed
    network = engine.made(engine.Small2d())

    def step(images):
        clipped_sum(network, engine.batches(images, engine.bags([1] * len(images))), loss=engine.loss, clip_norm=0.3)

    step(engine.views(11, 2, 16, 16))
    first, before = list(asked), torch.get_rng_state()
    assert len(first) > 3 * len(EVERY)
    step(1e3 * engine.views(5, 2, 16, 16, seed=4))
    assert asked == first  # nothing was timed again
    choice._fastest.cache_clear()
    asked.clear()
    step(1e3 * engine.views(1, 2, 16, 16, seed=5))
    assert asked == first  # the same made-up numbers, for one patient who is unlike the others
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", engine.KERNELS)
def test_a_kernel_is_worth_its_least_time_with_warm_caches(name, monkeypatch):
    real, calls, cold = kernels.gradients, [], 0.1

    def slow_at_first(*given, **named):
        calls.append(name)
        end = time.process_time() + (cold if len(calls) < choice.REPEATS else 0)
        while time.process_time() < end:
            pass
        return real(*given, **named)

    monkeypatch.setattr(kernels, "gradients", slow_at_first)
    inputs, outputs = torch.ones(8, 4, 4, 4), torch.ones(8, 8, 4, 4)
    assert 0 < choice._seconds(name, inputs, outputs, geometry=LAYER, views=2) < cold
    assert len(calls) == 1 + choice.REPEATS


@pytest.mark.parametrize(
    ("layer", "patients", "views", "inputs", "can"),
    [
        (WIDE, 28, 1, (2, 2), (*EVERY, "gram", "toom")),  # 252 MiB instantiated
        (WIDE, 29, 1, (2, 2), ("gram", "toom")),  # 261 MiB
        (nn.Conv2d(512, 512, 3, padding=1, stride=2), 29, 1, (4, 4), ("gram",)),
        (nn.Conv3d(512, 512, 3, padding=1), 10, 1, (2, 2, 2), ("gram",)),  # 270 MiB
        (WIDE, 32, 8, (8, 8), ("gram",)),  # of products at points 288 MiB, of positions 256
        (WIDE, 33, 8, (8, 8), EVERY),  # nothing is within the cap: what keeps no products of positions
        (nn.Conv2d(512, 512, 3, padding=1, groups=2), 29, 1, (2, 2), ("grouped",)),
        (nn.Conv2d(512, 512, 3, padding=1, groups=2), 2900, 8, (8, 8), ("grouped",)),
        (nn.Conv2d(4, 8, 3, padding=1), 8, 1, (16, 16), EVERY),  # its positions cost more than its weights
    ],
)
def test_above_the_memory_cap_only_gram_is_left_and_of_groups_only_grouped(layer, patients, views, inputs, can):
    with torch.device("meta"):
        outputs = tuple(layer.to("meta")(torch.empty(1, layer.in_channels, *inputs)).shape[2:])
    geometry = Geometry.of(layer)
    assert kernels.candidates(geometry, patients=patients, views=views, inputs=inputs, outputs=outputs) == can


@pytest.mark.parametrize(
    ("network", "shape"),
    [(ResNet18(channels=1), (1, 64, 64)), (Cnn2d(channels=2), (2, 64, 64)), (Cnn3d(channels=1), (1, 32, 32, 32))],
    ids=["resnet18", "cnn2d", "cnn3d"],
)
def test_no_layer_of_a_networks_micro_batch_keeps_more_than_the_cap(network, shape):
    seen = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            module.register_forward_hook(lambda one, given, made: seen.append((one, given[0].shape, made.shape)))
    with torch.no_grad():
        network(torch.zeros(1, *shape))
    offered = set()
    for layer, given, made in seen:
        for views in (1, 2, 4, 8):
            patients = network.rows_at_once // views
            names = kernels.candidates(
                Geometry.of(layer), patients=patients, views=views, inputs=tuple(given[2:]), outputs=tuple(made[2:])
            )
            offered.update(names)
            assert names
            if set(names) & set(EVERY):
                assert 4 * patients * layer.weight.numel() <= CAP_BYTES
    assert set(EVERY) <= offered
