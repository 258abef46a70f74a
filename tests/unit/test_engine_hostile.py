"""Weights and patients that were chosen to break the clip: no patient moves the sum by more than the clip norm."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from client.engine import independence, layers
from client.engine.batch import packed
from client.engine.clipped import clipped_sum, recorded
from client.engine.geometry import Geometry
from client.engine.outer import Gram
from client.engine.toom import Toom
from tests import engine

SHAPE = (2, 16, 16)
SIZES = [1, 2, 3, 1, 4, 2, 1, 1, 3, 1, 1, 2]


def total(network, images, patients, *, norm=1.0, rows_at_once=8):
    batches = packed(images, bags=patients, rows_at_once=rows_at_once)
    return engine.flat(clipped_sum(network, batches, loss=engine.loss, clip_norm=norm))


HOSTILE = {
    "ordinary": lambda p: p,
    "explodes to infinity": lambda p: p * 1e25,
    "explodes within float32": lambda p: p * 1e6,
    "vanishes": lambda p: p * 1e-30,
    "all at the gate": lambda p: p * 0,
    "cancels": lambda p: (p * 0 + 1) * (1 - 2 * (torch.arange(p.numel()) % 2)).view(p.shape) * 1e4,
    "overflows": lambda p: p * 0 + 3e38,
    "constant filters": lambda p: p * 0 + 3,
}


def hostile(kind, network=None):
    network = engine.made(engine.Small2d() if network is None else network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(HOSTILE[kind](parameter))
    return network


@pytest.mark.parametrize("kind", HOSTILE)
def test_removing_any_patient_moves_the_sum_by_at_most_the_clip_norm(kind):
    network, images, patients = hostile(kind), engine.views(sum(SIZES), *SHAPE), engine.bags(SIZES)
    norm = 1e-3
    everybody = total(network, images, patients, norm=norm)
    assert np.isfinite(everybody).all()
    for at in range(len(patients)):
        without = total(network, images, patients[:at] + patients[at + 1 :], norm=norm)
        assert np.linalg.norm(everybody - without) <= norm * (1 + 1e-6)


def patient_bits(network, shown, *, place, places):
    """The squared norm and the gradient of one patient of one view, as bytes, among others."""
    batch = next(iter(packed(shown, bags=[(1.0, (at,)) for at in range(places)], rows_at_once=places)))
    tape = recorded(network, batch, loss=engine.loss)
    factors = torch.zeros(places, dtype=torch.float64)
    factors[place] = 1
    out = {one: torch.zeros_like(one, dtype=torch.float64) for one in network.parameters()}
    tape.deliver(factors, into=out)
    return tape.squares()[place].numpy().tobytes(), b"".join(one.numpy().tobytes() for one in out.values())


@pytest.mark.parametrize("kernel", engine.KERNELS)
@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(sorted(HOSTILE)),
    place=st.integers(0, 7),
    neighbours=st.sampled_from([0.0, 1.0, -1e3, 1e30, float("inf"), float("nan")]),
    seed=st.integers(0, 5),
)
def test_a_patients_gradient_has_the_same_bits_whoever_else_is_there_and_in_any_place(kernel, kind, place, neighbours, seed):
    network, mine = hostile(kind), engine.views(1, *SHAPE, seed=99)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "fastest", engine.always(kernel))
        alone, among = np.zeros((8, *SHAPE), np.float32), engine.views(8, *SHAPE, seed=seed) * np.float32(neighbours)
        alone[0], among[place] = mine, mine
        assert patient_bits(network, among, place=place, places=8) == patient_bits(network, alone, place=0, places=8)


def test_repacking_a_batch_moves_the_sum_by_rounding_only():
    network, images, patients = hostile("ordinary"), engine.views(sum(SIZES), *SHAPE), engine.bags(SIZES)
    one = total(network, images, patients)
    order = np.random.default_rng(1).permutation(len(patients))
    shuffled = total(network, images, [patients[at] for at in order])
    assert np.linalg.norm(one - shuffled) <= 1e-14 * len(patients)
    for rows_at_once in (1, 4, 16, 64):
        other = total(network, images, patients, rows_at_once=rows_at_once)
        assert np.linalg.norm(one - other) <= 2 * 3e-6 * len(patients)  # P3 with the ledger's u


def test_a_planted_giant_moves_the_sum_by_the_clip_norm_only():
    network = engine.Small2d()
    network.standard = nn.Conv2d(12, 10, 3, padding=1)  # a standardised one would shorten the sum
    network = engine.made(network)
    images, patients = engine.views(5, *SHAPE), engine.bags([1] * 5)
    with torch.no_grad():
        network.head.weight.mul_(1e6)
    giant = np.linalg.norm(engine.gradients(network, images, patients), axis=1)
    assert giant.max() > 1e6
    at = int(giant.argmax())
    moved = total(network, images, patients, norm=0.7) - total(network, images, patients[:at] + patients[at + 1 :], norm=0.7)
    assert 0.7 * (1 - 1e-6) <= np.linalg.norm(moved) <= 0.7 * (1 + 1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
@pytest.mark.parametrize("kernel", engine.KERNELS)
def test_a_patient_without_a_finite_gradient_contributes_exactly_zero(value, kernel, monkeypatch):
    monkeypatch.setattr(layers, "fastest", engine.always(kernel))
    network, images, patients = engine.made(engine.Small2d()), engine.views(sum(SIZES), *SHAPE), engine.bags(SIZES)
    images[3] = value  # a view of the third patient
    without = total(network, images, patients[:2] + patients[3:])
    assert np.linalg.norm(total(network, images, patients) - without) <= 1e-14


def test_gram_norm_of_cancelling_positions_is_never_below_what_is_delivered():
    random = torch.Generator().manual_seed(0)
    left, right = torch.randn(6, 1, 5, generator=random), torch.randn(6, 1, 7, generator=random)
    nearly = torch.cat([left, -left], 1), torch.cat([right, right * (1 + 1e-7)], 1)  # sums to almost nothing
    for scale in (1.0, 1e8, 1e15):
        held = Gram(nearly[0] * scale, nearly[1])
        norms = held.squares().sqrt()
        for at in range(6):
            out, factors = torch.zeros(5, 7, dtype=torch.float64), torch.zeros(6, dtype=torch.float64)
            factors[at] = min(1.0, 1.0 / float(norms[at]))
            held.deliver(factors, into=out)
            assert out.norm() <= 1 + 1e-9


@pytest.mark.parametrize("scale", [1.0, 1e8, 1e15])
def test_products_at_points_of_cancelling_views_move_no_sum_by_more_than_the_clip_norm(scale):
    random = torch.Generator().manual_seed(0)
    layer = nn.Conv2d(5, 6, 3, padding=1)
    inputs, outputs = torch.randn(32, 1, 5, 8, 8, generator=random), torch.randn(32, 1, 6, 8, 8, generator=random) * scale
    inputs = torch.cat([inputs, inputs * (1 + 1e-7)], 1).flatten(0, 1)  # of two views that sum to almost nothing
    outputs = torch.cat([outputs, -outputs], 1).flatten(0, 1)
    held = Toom(inputs, outputs, geometry=Geometry.of(layer), views=2)
    norms = held.squares().sqrt()
    lengths = [rows.double().square().flatten(1).sum(1).view(32, 2).sum(1).sqrt() for rows in (inputs, outputs)]
    assert (norms >= Toom.FLOOR * lengths[0] * lengths[1]).all()
    everybody = held.deliver(1 / norms, into=None)
    for at in range(32):
        others = (1 / norms).clone()
        others[at] = 0
        assert (everybody - held.deliver(others, into=None)).norm() <= 1 + 1e-6


@pytest.mark.parametrize("side", [4, 8])
@pytest.mark.parametrize("scale", [1e4, 1e8, 1e15])
def test_rounding_of_giants_that_meet_no_giant_moves_no_sum_by_more_than_the_clip_norm(side, scale):
    random = torch.Generator().manual_seed(0)
    inputs, outputs = (1e-3 * torch.randn(32, channels, side, side, generator=random) for channels in (5, 6))
    inputs[:, :, :2, :2] = outputs[:, :, -2:, -2:] = 0
    inputs[:, :, -1, -1], outputs[:, :, 0, 0] = (scale * torch.randn(32, channels, generator=random) for channels in (5, 6))
    held = Toom(inputs, outputs, geometry=Geometry.of(nn.Conv2d(5, 6, 3, padding=1)), views=1)
    factors = 1 / held.squares().sqrt()  # the gradient is of small numbers alone, and giants meet in its products at points
    everybody = held.deliver(factors, into=None)
    for at in range(0, 32, 4):
        others = factors.clone()
        others[at] = 0
        assert (everybody - held.deliver(others, into=None)).norm() <= 1 + 1e-6


class Coupled(nn.Module):
    """A network whose rows see one another without a parameter that could tell."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(16, 1)

    def forward(self, views):
        rows = views[:, 0, 0]
        return self.head(rows - rows.mean(0)).squeeze(1)


def test_patients_that_would_depend_on_one_another_go_one_at_a_time():
    chosen = {
        type(network).__name__: independence.rows_at_once(network, shape=shape, sizes=(1, 2, 4), wanted=16, loss=engine.loss)
        for network, shape in ((Coupled(), (1, 2, 16)), (engine.Small2d(), SHAPE), (engine.Sequence(), (1, 8, 16)))
    }
    assert chosen == {"Coupled": 1, "Small2d": 16, "Sequence": 16}


def test_micro_batches_have_one_shape_whoever_is_sampled():
    images, patients = engine.views(sum(SIZES), *SHAPE), engine.bags(SIZES)
    for chosen in ([0], [0, 3, 6], list(range(len(SIZES)))):
        bags = [patients[at] for at in chosen]
        shapes = {(one.views_per_patient, tuple(one.views.shape)) for one in packed(images, bags=bags, rows_at_once=8)}
        assert shapes <= {(1, (8, *SHAPE)), (2, (8, *SHAPE)), (4, (8, *SHAPE))}
        placed = sum(one.present for one in packed(images, bags=bags, rows_at_once=8))
        assert placed == len(bags)


def test_an_empty_bag_is_refused():
    with pytest.raises(ValueError, match="empty"):
        list(packed(engine.views(1, *SHAPE), bags=[(0.0, ())], rows_at_once=8))
