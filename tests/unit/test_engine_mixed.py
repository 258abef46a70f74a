"""Mixed precision: products of bfloat16, and still nobody delivers more than the clip norm."""

import numpy as np
import pytest
import torch

from client.engine import layers
from client.engine.batch import packed
from client.engine.clipped import clipped_sum
from tests import engine

NETWORKS = {
    "convolutions": (engine.Small2d, (2, 16, 16)),
    "volumes": (engine.Small3d, (1, 8, 8, 8)),
    "sequences": (engine.Sequence, (1, 8, 16)),
}
SIZES = [1, 2, 3, 1, 4, 1]


def summed(network, images, patients, *, norm, products=torch.bfloat16):
    batches = packed(images, bags=patients, rows_at_once=8)
    return engine.flat(clipped_sum(network, batches, loss=engine.loss, clip_norm=norm, products=products))


@pytest.mark.parametrize(
    ("kind", "most"), [("convolutions", 0.05), ("volumes", 0.3), ("sequences", 0.05)]
)  # volumes: a maximum
def test_products_of_half_the_bits_give_nearly_the_same_sum(kind, most):
    network, shape = NETWORKS[kind]
    network, images, patients = engine.made(network()), engine.views(sum(SIZES), *shape), engine.bags(SIZES)
    full, half = (summed(network, images, patients, norm=0.3, products=products) for products in (None, torch.bfloat16))
    error = np.linalg.norm(half - full) / np.linalg.norm(full)
    assert 1e-4 < error < most  # it did round
    assert all(one.dtype == torch.float32 for one in network.parameters())


@pytest.mark.parametrize(
    ("kernel", "scale"), [("grouped", 1.0), ("unfolded", 30.0), ("shifted", 1e4), ("gram", 1.0), ("gram", 1e4)]
)
def test_no_patient_delivers_more_than_the_clip_norm_giants_included(kernel, scale, monkeypatch):
    monkeypatch.setattr(layers, "fastest", lambda geometry, **_: kernel if geometry.groups == 1 else "grouped")
    network, images, patients = engine.made(engine.Small2d()), engine.views(sum(SIZES), 2, 16, 16), engine.bags(SIZES)
    images[:3] *= 1e6  # the giants: two patients
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(scale)
    everybody = summed(network, images, patients, norm=1e-3)
    for at in range(len(patients)):
        alone = summed(network, images, [patients[at]], norm=1e-3)
        without = summed(network, images, patients[:at] + patients[at + 1 :], norm=1e-3)
        assert np.linalg.norm(alone) <= 1e-3 * (1 + 1e-6)
        assert np.linalg.norm(everybody - without) <= 1e-3 * (1 + 1e-6)
    assert np.linalg.norm(everybody) > 0


def test_a_clipped_patient_delivers_the_clip_norm_of_the_numbers_that_are_delivered():
    network, images = engine.made(engine.Small3d()), engine.views(1, 1, 8, 8, 8)
    assert abs(np.linalg.norm(summed(network, images, engine.bags([1]), norm=1e-3)) / 1e-3 - 1) < 1e-6
