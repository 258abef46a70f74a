"""The engine's clipped sums equal those of one patient at a time in float64, with every kernel, shape and freezing."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from client.engine import device, kernels, layers, taps, toom
from client.engine.clipped import clipped_sum
from client.engine.geometry import Geometry
from common.errors import ConfigError, InternalError
from common.networks.standardised import StandardisedConv2d
from tests import engine

NETWORKS = {
    "convolutions": (engine.Small2d, (2, 16, 16)),
    "volumes": (engine.Small3d, (1, 8, 8, 8)),
    "sequences": (engine.Sequence, (1, 8, 16)),
    "standardised volumes": (engine.Standardised3d, (1, 6, 8, 6)),
}
SIZES = {"one view": [1] * 11, "equal": [2] * 6, "unequal": [1, 2, 3, 1, 5, 4, 2, 1, 1], "one patient": [3], "wide": [11]}


def compare(network, shape, sizes, *, tolerance=1e-6, freeze=(), share=0.5):
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(not name.startswith(tuple(freeze)) if freeze else True)
    images, patients = engine.views(sum(sizes), *shape), engine.bags(sizes)
    rows = engine.gradients(network, images, patients)
    norm = float(np.quantile(np.linalg.norm(rows, axis=1), share))
    want = engine.projected(network, engine.clipped(rows, norm=norm))
    got = engine.flat(clipped_sum(network, engine.batches(images, patients), loss=engine.loss, clip_norm=norm))
    assert np.linalg.norm(got - want) <= tolerance * np.linalg.norm(want)


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_sum_equals_one_patient_at_a_time(kind, sizes):
    network, shape = NETWORKS[kind]
    compare(engine.made(network()), shape, sizes)


@pytest.mark.parametrize("kernel", engine.KERNELS)
@pytest.mark.parametrize("kind", ["convolutions", "volumes", "standardised volumes"])
def test_every_kernel_is_exact(kind, kernel, monkeypatch):
    monkeypatch.setattr(layers, "fastest", engine.always(kernel))
    network, shape = NETWORKS[kind]
    compare(engine.made(network()), shape, SIZES["unequal"])


def test_one_layer_may_take_another_kernel_at_each_size_of_bags(monkeypatch):
    def chosen(geometry, *, views, **_):
        return "grouped" if geometry.groups > 1 or views % 4 == 2 else "gram" if views == 1 else "unfolded"

    monkeypatch.setattr(layers, "fastest", chosen)
    for sizes in (SIZES["unequal"], SIZES["unequal"][::-1], [2, 4, 4]):
        compare(engine.made(engine.Small2d()), (2, 16, 16), sizes)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(3, 4, 3, padding=1), (1, 1)),  # eight of nine kernel elements meet padding only
        (nn.Conv2d(3, 4, (5, 3), padding=(2, 1), stride=(3, 2)), (7, 6)),
        (nn.Conv2d(3, 4, (3, 2), padding=(4, 0), dilation=(3, 2)), (5, 8)),
        (nn.Conv2d(3, 4, 2, stride=3), (8, 8)),  # inputs that no output sees
        (nn.Conv1d(3, 4, 4, padding=3, stride=2), (9,)),
        (nn.Conv3d(3, 4, (1, 3, 2), padding=(0, 1, 1)), (2, 4, 3)),
    ],
)
def test_products_by_kernel_element_equal_instantiated_gradients(layer, shape):
    random = torch.Generator().manual_seed(0)
    inputs = torch.randn(6, 3, *shape, generator=random)
    outputs = torch.randn(layer(inputs).shape, generator=random)
    geometry, factors = Geometry.of(layer), torch.tensor([0.5, 0.0, 2.0], dtype=torch.float64)
    found = kernels.gradients("gram", inputs, outputs, geometry=geometry, views=2)
    rows = kernels.grouped(inputs.double(), outputs.double(), geometry, 2)
    torch.testing.assert_close(found.squares(), rows.square().sum(1), rtol=1e-8, atol=0)
    for room in (None, torch.zeros(geometry.weight, dtype=torch.float64)):
        total = found.deliver(factors, into=found.deliver(factors, into=room))
        torch.testing.assert_close(total, 2 * (factors @ rows).view(geometry.weight), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("layer", "shape", "products"),
    [
        (nn.Conv2d(3, 4, 3, padding=1), (1, 1), 1),
        (nn.Conv2d(3, 4, 3, padding=1), (2, 2), 9),  # 16 pairs of positions that meet
        (nn.Conv2d(3, 4, 3, padding=1), (4, 4), 36),  # of 100
        (nn.Conv2d(3, 4, 3, padding=1), (8, 8), 144),  # of 484
        (nn.Conv2d(3, 4, 3), (9, 6), 72),
        (nn.Conv2d(3, 4, (2, 3), padding=(2, 4)), (5, 7), 240),  # tiles that see padding only
        (nn.Conv1d(3, 4, 3, padding=2), (11,), 24),
    ],
)
def test_products_at_points_equal_instantiated_gradients_and_are_fewer(layer, shape, products):
    random = torch.Generator().manual_seed(0)
    inputs = torch.randn(6, 3, *shape, generator=random)
    outputs = torch.randn(layer(inputs).shape, generator=random)
    geometry, factors = Geometry.of(layer), torch.tensor([0.5, 0.0, 2.0], dtype=torch.float64)
    assert toom.products(geometry, inputs=shape, outputs=tuple(outputs.shape[2:])) == products
    found = kernels.gradients("toom", inputs, outputs, geometry=geometry, views=2)
    rows = kernels.grouped(inputs.double(), outputs.double(), geometry, 2)
    torch.testing.assert_close(found.squares(), rows.square().sum(1), rtol=1e-7, atol=0)
    for room in (None, torch.zeros(geometry.weight, dtype=torch.float64)):
        total = found.deliver(factors, into=found.deliver(factors, into=room))
        torch.testing.assert_close(total, 2 * (factors @ rows).view(geometry.weight), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", [*kernels.KERNELS, "gram", "toom"])
def test_a_standardised_weights_sum_is_delivered_projected_in_every_block_of_filters(name):
    random = torch.Generator().manual_seed(0)
    layer = StandardisedConv2d(3, taps.AT_ONCE + 3, 3, padding=1)
    used, scale = (one.detach() for one in layer.standardised())
    inputs = torch.randn(6, 3, 4, 4, generator=random)
    outputs = torch.randn(6, len(scale), 4, 4, generator=random)
    geometry, factors = Geometry.of(layer), torch.tensor([0.5, 0.0, 2.0], dtype=torch.float64)
    found = kernels.gradients(name, inputs, outputs, geometry=geometry, views=2, standardised=(used, scale))
    rows = kernels.grouped(inputs.double(), (outputs * scale[:, None, None]).double(), geometry, 2)
    torch.testing.assert_close(found.squares(), rows.square().sum(1), rtol=1e-6, atol=0)
    expected, flat = (factors @ rows).view(len(scale), -1), used.flatten(1).double()
    expected = expected - expected.mean(1, keepdim=True)
    expected -= flat * (flat * expected).sum(1, keepdim=True)
    once = found.deliver(factors, into=None)
    torch.testing.assert_close(once.flatten(1), expected, rtol=1e-5, atol=1e-5)
    twice = found.deliver(factors, into=found.deliver(0 * factors, into=once.clone()))
    torch.testing.assert_close(twice, 2 * once, rtol=1e-12, atol=1e-12)
    assert not found.deliver(0 * factors, into=None).any()


@pytest.mark.parametrize(
    "layer", [nn.Conv2d(3, 4, 3, stride=2), nn.Conv2d(3, 4, 3, dilation=2), nn.Conv2d(3, 4, 4), nn.Conv3d(3, 4, 3)]
)
def test_products_at_points_are_refused_where_there_is_no_such_algorithm(layer):
    outputs = tuple(layer(torch.zeros(1, 3, *[8] * len(layer.kernel_size))).shape[2:])
    assert toom.products(Geometry.of(layer), inputs=(8,) * len(outputs), outputs=outputs) is None


def test_rounding_of_products_at_points_grows_by_no_more_than_is_stated():
    worst = 0.0
    for kernel, padding, size in itertools.product((1, 2, 3), (0, 1, 3), (1, 2, 3, 4, 5, 8, 16, 32)):
        outputs = size + 2 * padding - kernel + 1
        if outputs < 1:
            continue
        geometry = Geometry.of(nn.Conv1d(1, 1, kernel, padding=padding))
        ((tiles, seen, back),) = toom._algorithm(geometry, (outputs,), (size,))
        whole = torch.zeros(kernel, outputs, size, dtype=torch.float64)  # of the algorithm's absolute numbers
        for (left, out), (right, there) in zip(tiles, seen, strict=True):
            whole[:, out, there] += torch.einsum("ep,po,pi->eoi", back.abs(), left.abs(), right.abs())
        worst = max(worst, min(float(torch.linalg.matrix_norm(whole.movedim(at, 0).flatten(1), 2)) for at in range(3)))
    assert 110 < worst**2 < 130  # two axes: the norm of a tensor, unfolded, is above its own and multiplies


@pytest.mark.parametrize("freeze", [("plain",), ("norm", "point"), ("plain", "norm", "grouped", "dilated"), ("head",)])
def test_frozen_parts_are_left_out_of_norm_and_sum(freeze):
    compare(engine.made(engine.Small2d()), (2, 16, 16), SIZES["unequal"], freeze=freeze)


def test_a_large_linear_layer_is_exact_on_rows_and_on_sequences():
    network = nn.Sequential(nn.Flatten(), nn.Linear(256, 300), nn.Tanh(), nn.Linear(300, 1), nn.Flatten(0))
    compare(engine.made(network), (1, 16, 16), SIZES["unequal"])
    network = nn.Sequential(nn.Linear(256, 300), nn.LayerNorm(300), nn.Tanh(), nn.Linear(300, 1), nn.Flatten(1), Mean())
    compare(engine.made(network), (2, 256), [1] * 7)


class Mean(nn.Module):
    def forward(self, rows):
        return rows.mean(1)


def test_norm_of_a_layer_of_more_than_a_million_weights_is_not_too_small():
    network = engine.made(nn.Sequential(nn.Conv2d(128, 1024, 3, padding=1), nn.Flatten(2), Mean(), Mean()))
    images, patients = engine.views(3, 128, 3, 3), engine.bags([1, 1, 1])
    rows = engine.gradients(network, images, patients)
    for kernel in ("unfolded", "gram"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(layers, "fastest", lambda *_, kernel=kernel, **__: kernel)
            norm = float(np.linalg.norm(rows, axis=1).min()) / 2
            got = engine.flat(clipped_sum(network, engine.batches(images, patients[:1]), loss=engine.loss, clip_norm=norm))
        assert abs(np.linalg.norm(got) / norm - 1) < 1e-6


@pytest.mark.parametrize("kind", ["convolutions", "volumes", "sequences"])
def test_opacus_hooks_give_the_same_sum(kind):
    from opacus.grad_sample import GradSampleModule

    network, shape = NETWORKS[kind]
    network = engine.made(network())
    if kind == "convolutions":
        network.standard = engine.made(nn.Conv2d(12, 10, 3, padding=1))  # Opacus knows no standardised weight
    images, patients = engine.views(9, *shape), engine.bags([1] * 9)
    got = engine.flat(clipped_sum(network, engine.batches(images, patients), loss=engine.loss, clip_norm=0.3))
    wrapped = GradSampleModule(network, batch_first=True, loss_reduction="sum")
    targets = torch.tensor([label for label, _ in patients])
    engine.loss(wrapped(torch.from_numpy(images).requires_grad_()), targets).sum().backward()
    rows = torch.cat([p.grad_sample.flatten(1) for p in network.parameters()], 1).double().numpy()
    want = engine.clipped(rows, norm=0.3)
    assert np.linalg.norm(got - want) <= 1e-6 * np.linalg.norm(want)


def test_an_unclipped_sum_is_the_gradient_that_plain_training_computes_standardised_weights_included():
    network, images, patients = engine.made(engine.Small2d()), engine.views(9, 2, 16, 16), engine.bags([1] * 9)
    got = clipped_sum(network, engine.batches(images, patients), loss=engine.loss, clip_norm=1e6)
    double = network.double()
    targets = torch.tensor([label for label, _ in patients], dtype=torch.float64)
    engine.loss(double(torch.from_numpy(images).double()), targets).sum().backward()
    for name, parameter in double.named_parameters():
        assert (got[name] - parameter.grad).norm() <= 1e-6 * parameter.grad.norm()


def test_nobody_gives_zeros():
    network = engine.made(engine.Small2d())
    total = clipped_sum(network, engine.batches(engine.views(1, 2, 16, 16), []), loss=engine.loss, clip_norm=1.0)
    assert {name: tuple(one.shape) for name, one in total.items()} == {n: tuple(p.shape) for n, p in network.named_parameters()}
    assert all(one.dtype == torch.float64 and not one.any() for one in total.values())


def test_the_network_is_left_as_it_was():
    network = engine.made(engine.Small2d())
    before = {name: one.clone() for name, one in network.state_dict().items()}
    clipped_sum(network, engine.batches(engine.views(2, 2, 16, 16), engine.bags([1, 1])), loss=engine.loss, clip_norm=1.0)
    assert all(torch.equal(one, before[name]) for name, one in network.state_dict().items())
    assert not any("forward" in vars(module) for module in network.modules())
    assert all(parameter.grad is None for parameter in network.parameters())


class Scaled(nn.Module):
    def __init__(self, *, shared=False):
        super().__init__()
        self.inner, self.gain = nn.Linear(4, 4), nn.Parameter(torch.ones(4))
        self.other = nn.Linear(4, 1)
        if shared:
            del self.gain
            self.again = nn.Linear(4, 4)
            self.again.weight = self.inner.weight

    def forward(self, rows):
        return self.other(self.inner(rows) * self.gain).squeeze(1)


REFUSED = {
    "BatchNorm": nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)),
    "BatchNorm without gain": nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, affine=False)),
    "ConvTranspose2d": nn.Sequential(nn.ConvTranspose2d(1, 2, 3)),
    "Embedding": nn.Sequential(nn.Embedding(3, 4)),
    "Scaled": Scaled(),
    "shares": Scaled(shared=True),
    "padding": nn.Sequential(nn.Conv2d(1, 2, 3, padding="same")),
    "zeros": nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect")),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_an_unknown_layer_is_refused_by_name_never_frozen_or_unclipped(kind):
    with pytest.raises(ConfigError, match=kind.partition(" ")[0]):
        clipped_sum(REFUSED[kind], [], loss=engine.loss, clip_norm=1.0)


class Twice(nn.Module):
    def __init__(self, use):
        super().__init__()
        self.inner, self.head, self.use = nn.Linear(16, 16), nn.Linear(16, 1), use

    def forward(self, views):
        return self.head(self.use(self.inner, views[:, 0, 0])).squeeze(1)


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda inner, x: inner(torch.tanh(inner(x))), "twice"),
        (lambda inner, x: inner(x) @ inner.weight, "beside"),
        (lambda inner, x: x, "delivered no"),
    ],
)
def test_a_parameter_used_twice_beside_its_layer_or_not_at_all_is_refused(use, message):
    with pytest.raises(InternalError, match=message):
        clipped_sum(
            engine.made(Twice(use)),
            engine.batches(engine.views(2, 1, 2, 16), engine.bags([1, 1])),
            loss=engine.loss,
            clip_norm=1.0,
        )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")
@pytest.mark.parametrize("kind", NETWORKS)
def test_sum_on_a_gpu_equals_one_patient_at_a_time(kind):
    network, shape = NETWORKS[kind]
    network = engine.made(network())
    images, patients = engine.views(9, *shape), engine.bags([1] * 9)
    want = engine.projected(network, engine.clipped(engine.gradients(network, images, patients), norm=0.3))
    batches = [batch.to("cuda:0") for batch in engine.batches(images, patients)]
    got = engine.flat(
        {k: v.cpu() for k, v in clipped_sum(network.to("cuda:0"), batches, loss=engine.loss, clip_norm=0.3).items()}
    )
    assert np.linalg.norm(got - want) <= 1e-6 * np.linalg.norm(want)


def test_a_device_is_picked_only_where_its_sums_are_right_and_says_why(monkeypatch):
    here = device.tried("cpu")
    assert (here.name, "right to" in here.said) == ("cpu", True)
    absent = device.tried("xpu")
    assert (absent.name, "xpu failed a trial" in absent.said) == ("cpu", True)
    monkeypatch.setattr(device, "DIFFERENCE_MOST", 1e-12)  # what float32 never keeps
    assert "cpu are" in device.tried("cpu").said
    assert "off" in device.tried("cpu").said


def test_picking_a_device_leaves_torchs_generator_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    device.tried("cpu")
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")
def test_a_gpu_that_computes_in_float32_is_picked():
    assert device.picked()[0].name == "cuda:0"
