"""Claims about the prior's maker: bounded images from a public seed, and a file that the network takes."""

import hashlib
import subprocess
import sys

import pytest
import torch

from common import model
from common.networks import weights
from common.networks.cnn2d import EMBEDDING, Cnn2d
from server import prior
from tests import learning

ROUNDING = "9d6b5d889c3bade2"  # of the processor and the torch that made the shipped prior


def test_images_are_bounded_repeatable_and_carry_their_attributes():
    views, attributes = prior.images(40, side=24, draw=prior.Draw(1))
    again, _ = prior.images(40, side=24, draw=prior.Draw(1))
    assert views.shape == (40, 2, 24, 24)
    assert attributes.shape == (40, EMBEDDING)
    assert torch.equal(views, again)
    assert torch.isfinite(attributes).all()
    assert views.min() >= 0
    assert views.max() <= 1
    assert attributes.std(0).min() > 0


def test_the_edge_channel_is_absent_half_of_the_time():
    views, _ = prior.images(200, side=16, draw=prior.Draw(2))
    absent = (views[:, 1].amax((1, 2)) == 0).float().mean()
    assert 0.3 < absent < 0.7


def test_the_program_writes_a_prior_that_loads(tmp_path, monkeypatch):
    monkeypatch.setattr(prior, "STEPS", 3)
    monkeypatch.setattr(prior, "REFERENCE", 50)
    before = torch.get_rng_state()
    assert prior.main([str(tmp_path / "prior")]) == 0
    network = model.build(learning.study().training, channels=2, patch_voxels=16)
    model.load(network, (tmp_path / "prior").read_bytes())
    assert not model.flat(network, model.HEAD).any()
    torch.set_rng_state(before)


def test_wrong_use_is_explained(capsys):
    assert prior.main([]) == 2
    assert "usage" in capsys.readouterr().err


def rounding():
    """What this processor's kernels make of one forward and backward of a batch, as a digest."""
    network, threads = Cnn2d(channels=2), torch.get_num_threads()
    weights.fill(network)
    torch.set_num_threads(1)
    views = torch.linspace(0, 1, prior.BATCH * 2 * prior.PATCH**2).view(prior.BATCH, 2, prior.PATCH, prior.PATCH)
    found = torch.autograd.grad(network.embed(views).square().mean(), [network.conv1.weight, network.conv3.weight])
    torch.set_num_threads(threads)
    return hashlib.sha256(b"".join(one.numpy().tobytes() for one in found)).hexdigest()[:16]


@pytest.mark.long  # two minutes of training
@pytest.mark.timeout(900)  # machines are shared
def test_the_shipped_prior_is_what_the_program_makes(tmp_path):
    """The same bytes where the processor rounds alike; elsewhere features that tell the same, as measured with AVX2: 0.83."""
    subprocess.run([sys.executable, "-m", "server.prior", str(tmp_path / "prior")], check=True)
    made = (tmp_path / "prior").read_bytes()
    if rounding() == ROUNDING:
        assert hashlib.sha256(made).hexdigest() == model.prior_sha256()
        return
    views, _ = prior.images(500, side=24, draw=prior.Draw(1))
    told = []
    for blob in (made, model.prior_bytes()):
        network = Cnn2d(channels=2)
        model.load(network, blob)
        with torch.no_grad():
            told.append(network.embed(views))
    alike = [float(torch.corrcoef(torch.stack(pair))[0, 1]) for pair in zip(told[0].T, told[1].T, strict=True)]
    assert min(alike) > 0.7
