"""A GPU that failed is tried again: after a stated number of steps, then twice as many, and its memory is given back."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from client import doctor, resident, train
from client.engine import device, split
from client.engine.batch import packed
from common import logs, model
from tests import engine, learning

SHAPE, SIZES = (2, 16, 16), [1, 2, 1, 3, 1, 1]
PATIENTS = list(zip([f"patient-{at}" for at in range(len(SIZES))], engine.bags(SIZES), strict=True))


@pytest.fixture
def site(monkeypatch):
    """Two of torch's names as devices, of which those in `broken` are out of memory; the wait is three steps."""
    broken, network, images = set(), engine.made(engine.Small2d()), engine.views(sum(SIZES), *SHAPE)
    monkeypatch.setattr(device, "_in_use", [device.Device(name=name, said="") for name in ("cpu:1", "cpu:2")])
    monkeypatch.setattr(device, "_out", {})
    monkeypatch.setattr(device, "_waits", {})
    monkeypatch.setattr(device, "AGAIN_AFTER", 3)

    def packing(_, where, bags):
        if where in broken:
            raise torch.OutOfMemoryError("no room")
        return (batch.to(where) for batch in packed(images, bags=bags, rows_at_once=4))

    def step():
        """One step's sum, and the devices that were left after it."""
        total = split.clipped_sum_by(network, PATIENTS, packing=packing, loss=engine.loss, clip_norm=0.3)
        return engine.flat(total), [one.name for one in device.picked()]

    return SimpleNamespace(broken=broken, step=step)


def said(caplog):
    words = {"training-device-lost": "lost", "training-device-back": "back", "training-device-left-out": "left out"}
    return [(words[one.message], one.at, getattr(one, "steps", None)) for one in caplog.records if one.message in words]


def test_a_device_that_failed_once_trains_again_after_as_many_steps_as_were_stated(site, caplog):
    caplog.set_level(logging.WARNING)
    want, _ = site.step()
    site.broken.add("cpu:2")
    assert site.step()[1] == ["cpu:1"]
    site.broken.clear()
    steps = [site.step() for _ in range(4)]
    assert [names for _, names in steps] == [["cpu:1"], ["cpu:1"], ["cpu:1"], ["cpu:1", "cpu:2"]]
    assert all(np.linalg.norm(total - want) <= 1e-12 * np.linalg.norm(want) for total, _ in steps)
    assert said(caplog) == [("lost", "cpu:2", 3), ("back", "cpu:2", None)]


def test_a_device_that_goes_on_failing_is_tried_ever_more_rarely(site, caplog):
    caplog.set_level(logging.WARNING)
    for _ in range(13):
        device.step_begins()
        if "cpu:2" in [one.name for one in device.picked()]:
            device.lost("cpu:2", torch.OutOfMemoryError("no room"))
        assert [one.name for one in device.picked()] == ["cpu:1"]
    assert [one for one in said(caplog) if one[0] == "lost"] == [("lost", "cpu:2", wait) for wait in (3, 6, 12)]


def test_a_device_that_fails_the_trial_stays_out_and_waits_longer(site, caplog):
    caplog.set_level(logging.WARNING)
    device.lost("xpu", RuntimeError())
    for _ in range(12):
        device.step_begins()
    assert said(caplog) == [("lost", "xpu", 3), ("left out", "xpu", 6), ("left out", "xpu", 12)]


def test_without_any_device_training_runs_on_the_processor_until_one_is_back_in_its_place(site):
    site.broken |= {"cpu:1", "cpu:2"}
    assert site.step()[1] == ["cpu"]
    site.broken.remove("cpu:2")
    assert [site.step()[1] for _ in range(4)][2:] == [["cpu"], ["cpu:2"]]  # the other one has failed again
    site.broken.clear()
    for _ in range(6):
        device.step_begins()
    assert site.step()[1] == ["cpu:1", "cpu:2"]


def test_a_gpu_that_fails_the_trial_at_start_is_tried_again_too(monkeypatch, caplog):
    for held, empty in (("_in_use", []), ("_out", {}), ("_waits", {})):
        monkeypatch.setattr(device, held, empty)
    if torch.cuda.is_available():
        pytest.skip("a GPU is there")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    caplog.set_level(logging.WARNING)
    assert [one.name for one in device.picked()] == ["cpu"]
    for _ in range(device.AGAIN_AFTER):
        device.step_begins()
    assert not said(caplog)
    device.step_begins()
    assert said(caplog) == [("left out", "cuda:0", 2 * device.AGAIN_AFTER)]


def test_the_doctor_says_when_a_gpu_is_tried_again(monkeypatch):
    for held, empty in (("_in_use", [device.Device(name="cuda:0", said="Well.")]), ("_out", {}), ("_waits", {})):
        monkeypatch.setattr(device, held, empty)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    found = doctor._gpu()
    assert found.state == "ok"
    assert f"left out for {device.AGAIN_AFTER} steps" in found.what


def test_the_log_lets_the_number_of_steps_through():
    assert {"at", "why", "steps"} <= logs.FIELDS


def test_views_on_a_device_that_is_out_are_given_back(monkeypatch):
    study, cohort = learning.study(recipe="full"), learning.cohort(8, views=(1,))
    cohort.views.setflags(write=False)
    network = learning.built(study)
    model.with_flat(network, model.HEAD, 0.5 * np.cos(np.arange(13.0)))
    monkeypatch.setattr(resident, "free_bytes", lambda _: 1 << 30)
    monkeypatch.setattr(device, "_out", {})
    monkeypatch.setattr(device, "_waits", {})
    rows = np.arange(8)
    for names in (("cpu:1", "cpu:2"), ("cpu:1",)):
        monkeypatch.setattr(device, "_in_use", [device.Device(name=name, said="") for name in names])
        train.clipped_sum(model.dump(network), study=study, cohort=cohort, training_rows=rows, sampled=rows >= 0)
        assert set(resident._held) == {*names}
    resident.release(beside=[])
    assert not resident._held
