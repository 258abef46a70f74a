"""Claims about the network and about what is accepted as its weights."""

import hashlib

import numpy as np
import pytest
import torch
from safetensors.torch import load as read_tensors
from safetensors.torch import save

from common import model
from common.errors import BadEnvelope, ConfigError, ProtocolError
from tests import learning


def test_prior_is_the_named_one_small_and_finite():
    assert model.prior_sha256() == hashlib.sha256(model.prior_bytes()).hexdigest()
    assert len(model.prior_bytes()) < 300_000
    assert all(torch.isfinite(tensor).all() for tensor in read_tensors(model.prior_bytes()).values())


def test_another_prior_than_the_study_names_is_refused():
    with pytest.raises(ConfigError, match="prior"):
        learning.initial(learning.study(prior_sha256="0" * 64))


@pytest.mark.parametrize("edge", [False, True])
def test_initial_has_the_priors_features_and_a_head_of_zeros(edge):
    network = learning.built(learning.study(edge=edge))
    prior = read_tensors(model.prior_bytes())
    channels = 2 if edge else 1
    for name, tensor in network.state_dict().items():
        expected = torch.zeros_like(tensor) if name in model.HEAD else prior[name]
        assert torch.equal(tensor, expected[:, :channels] if name == "conv1.weight" else expected)


def test_without_edges_the_network_sees_what_an_empty_edge_channel_shows():
    views = torch.from_numpy(learning.cohort(4).views.copy())
    one, two = learning.built(learning.study()), learning.built(learning.study(edge=True))
    both = torch.cat([views, torch.zeros_like(views)], dim=1)
    assert torch.allclose(one.embed(views), two.embed(both), atol=1e-6)


def test_embedding_tells_the_size_of_a_blob():
    cohort = learning.cohort(60, views=(1,), side=32)
    with torch.no_grad():
        embedded = learning.built(learning.study(side=32)).embed(torch.from_numpy(cohort.views.copy())).numpy()
    assert np.corrcoef(embedded[:, 0], np.log(cohort.table[:, 0]))[0, 1] > 0.9


def test_views_do_not_influence_one_another():
    views = torch.from_numpy(learning.cohort(6).views.copy())
    network = learning.built(learning.study())
    together = network.embed(views)
    assert torch.allclose(together[2], network.embed(views[2:3])[0], atol=1e-6)


@pytest.mark.parametrize(("recipe", "size"), [("head", 13), ("full", 15_545)])
def test_size_counts_what_is_trained(recipe, size):
    study = learning.study(recipe=recipe)
    assert model.trainable_size(study.training, channels=1, patch_voxels=16) == size
    network = learning.built(study)
    assert model.flat(network, model.trainable_names(network, study.training)).shape == (size,)


def test_build_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    learning.initial(learning.study())
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(("channels", "patch_voxels"), [(0, 16), (3, 16), (1, 4)])
def test_images_that_do_not_fit_are_refused(channels, patch_voxels):
    with pytest.raises(ConfigError):
        model.build(learning.study().training, channels=channels, patch_voxels=patch_voxels)


def test_dump_and_load_are_inverse_and_repeatable():
    study = learning.study()
    blob = learning.initial(study)
    network = learning.built(study)
    assert model.dump(network) == blob
    other = model.build(study.training, channels=1, patch_voxels=16)
    model.load(other, blob)
    assert model.dump(other) == blob


def test_flat_and_with_flat_are_inverse():
    study = learning.study(recipe="full")
    network = learning.built(study)
    names = model.trainable_names(network, study.training)
    vector = np.linspace(-1, 1, 15_545)
    model.with_flat(network, names, vector)
    assert np.array_equal(model.flat(network, names), vector.astype(np.float32).astype(np.float64))


@pytest.mark.parametrize("vector", [np.zeros(12), np.full(13, np.nan), np.full(13, 1e300)])
def test_with_flat_refuses_what_is_no_weight(vector):
    network = learning.built(learning.study())
    with np.errstate(over="ignore"), pytest.raises(ValueError):
        model.with_flat(network, model.HEAD, vector)
    assert not model.flat(network, model.HEAD).any()


def changed(**layers):
    tensors = read_tensors(learning.initial(learning.study()))
    for name, tensor in layers.items():
        tensors.pop(name.replace("_", "."), None)
        if tensor is not None:
            tensors[name.replace("_", ".")] = tensor
    return save(tensors)


HOSTILE = {
    "empty": (lambda: b"", BadEnvelope),
    "noise": (lambda: bytes(range(256)), BadEnvelope),
    "truncated": (lambda: learning.initial(learning.study())[:-4], BadEnvelope),
    "longer": (lambda: learning.initial(learning.study()) + bytes(4), BadEnvelope),
    "huge": (lambda: learning.initial(learning.study()) + bytes(10_000_000), BadEnvelope),
    "header larger than the file": (lambda: (2**62).to_bytes(8, "little") + b"{}", BadEnvelope),
    "pickle": (lambda: b"\x80\x04\x95" + bytes(100), BadEnvelope),
    "missing layer": (lambda: changed(head_bias=None), ProtocolError),
    "extra layer": (lambda: changed(extra=torch.zeros(1)), ProtocolError),
    "other shape": (lambda: changed(head_bias=torch.zeros(2)), ProtocolError),
    "other dtype": (lambda: changed(head_bias=torch.zeros(1, dtype=torch.float16)), ProtocolError),
    "nan": (lambda: changed(head_bias=torch.tensor([torch.nan])), ProtocolError),
    "infinite": (lambda: changed(head_weight=torch.full((1, 12), torch.inf)), ProtocolError),
    "metadata": (lambda: save(read_tensors(learning.initial(learning.study())), {"note": "x"}), ProtocolError),
    "other study": (lambda: learning.initial(learning.study(edge=True)), ProtocolError),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_weights_are_refused_and_change_nothing(kind):
    make, error = HOSTILE[kind]
    network = learning.built(learning.study())
    before = model.dump(network)
    with pytest.raises(error):
        model.load(network, make())
    assert model.dump(network) == before
