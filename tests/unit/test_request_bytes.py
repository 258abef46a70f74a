"""Claims about how much a vault collects of one request: what its prepared studies imply, and no more."""

import pytest

from client import pipeline, serve, vault_pb2
from common import model, query, wire
from common.errors import BadEnvelope
from tests import cohorts, federation


def chunks(count: int, *, size: int):
    for _ in range(count):
        yield vault_pb2.Chunk(data=bytes(size))


def test_a_request_is_collected_up_to_what_the_studies_imply():
    assert len(serve._collect(chunks(3, size=10), most=30)) == 30
    taken = chunks(1000, size=10)
    with pytest.raises(BadEnvelope):
        serve._collect(taken, most=30)
    assert sum(1 for _ in taken) == 996  # the rest is not read


def test_a_vault_collects_no_more_than_its_studies_need(make_federation):
    one, wanted = make_federation(), cohorts.study()
    vault = one.vaults["hosp-a"]
    nothing = vault.request_bytes_most()
    assert nothing < wire.HEAD_BYTES_MOST + 1024
    cohorts.put(one, wanted, {"hosp-a": cohorts.table()})
    one.approve(wanted)
    vault.prepare(wanted.hash())
    assert vault.request_bytes_most() - nothing == pipeline.blob_bytes_most(wanted) < 1 << 26


def test_every_request_of_a_run_is_collected(make_federation):
    one, wanted = make_federation(), federation.study(training={"steps": 1})
    one.approve(wanted)
    sizes = []

    def measured(name, data):
        sizes.append((len(data), one.vaults[name].request_bytes_most()))
        return data

    one.before = measured
    one.run(wanted)
    assert len(sizes) == len(federation.HOSPITALS) * (2 + 3 + 1 + 1)  # set-up, Gram, a step, evaluation, close
    assert all(size <= most for size, most in sizes)


def test_the_models_of_an_evaluation_fit_their_request():
    for steps in (2, 2000):
        wanted = federation.study(training={"steps": steps})
        one = model.initial(wanted.training, channels=1, patch_voxels=wanted.recipe.patch_voxels)
        assert len(wire.pack([one] * (steps + 2))) <= pipeline.blob_bytes_most(wanted) < 2 * len(one) * (steps + 2) + (1 << 25)


def test_a_study_of_more_models_takes_more():
    few, many = (pipeline.blob_bytes_most(federation.study(training={"steps": steps})) for steps in (2, 10_000))
    assert few == 2 * query.BYTES_MOST
    image = (federation.STUDY["recipe"]["patch_voxels"] ** 2) * 4  # more than an image's bytes a model
    assert 10_002 * image < many < wire.BLOB_BYTES_MOST
