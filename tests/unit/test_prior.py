"""Claims about the prior's maker: bounded images from a public seed, and a file that the network takes."""

import torch

from common import model
from common.networks.cnn2d import EMBEDDING
from server import prior
from tests import learning


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
