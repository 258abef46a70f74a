"""Several devices, and data that stays on them: the same sum as one has, and no patient's part depends on the split."""

import gc
import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from client import augment, resident, train
from client.engine import clipped, device, split
from client.engine.batch import packed
from common import model
from common.errors import InternalError
from tests import engine, learning

SHAPE, SIZES = (2, 16, 16), [1, 2, 3, 1, 4, 2, 1, 1, 3, 1, 1, 2]
NAMES = [f"patient-{at}" for at in range(len(SIZES))]


@pytest.fixture
def devices(monkeypatch):
    """Let torch's names be the devices that were picked."""

    def use(*names):
        monkeypatch.setattr(device, "_in_use", [device.Device(name=name, said="") for name in names])
        monkeypatch.setattr(device, "_out", {})
        monkeypatch.setattr(device, "_waits", {})

    return use


def summed(network, images, patients, *, norm=0.3, seen=None):
    def packing(replica, where, bags):
        if seen is not None:
            seen[where] = list(bags)
        return (batch.to(where) for batch in packed(images, bags=bags, rows_at_once=4))

    total = split.clipped_sum_by(network, patients, packing=packing, loss=engine.loss, clip_norm=norm)
    assert all(one.device.type == "cpu" and one.dtype == torch.float64 for one in total.values())
    return engine.flat(total)


def small():
    return engine.made(engine.Small2d()), engine.views(sum(SIZES), *SHAPE), list(zip(NAMES, engine.bags(SIZES), strict=True))


@pytest.mark.parametrize("names", [("cpu",), ("cpu", "cpu:1"), ("cpu:1", "cpu:2", "cpu:3")])
def test_the_sum_over_any_number_of_devices_equals_one_patient_at_a_time(devices, names):
    network, images, patients = small()
    rows = engine.gradients(network, images, [bag for _, bag in patients])
    want = engine.projected(network, engine.clipped(rows, norm=0.3))
    devices(*names)
    got = summed(network, images, patients)
    assert np.linalg.norm(got - want) <= 1e-6 * np.linalg.norm(want)
    assert np.array_equal(got, summed(network, images, patients))  # added in a fixed order
    assert np.linalg.norm(summed(network, images, [])) == 0


def test_a_patients_device_and_part_do_not_depend_on_who_else_is_there(devices):
    network, images, patients = small()
    devices("cpu:1", "cpu:2")
    everybody = {}
    whole = summed(network, images, patients, seen=everybody)
    assert all(everybody.values())  # both have somebody
    for at in range(len(patients)):
        fewer = {}
        without = summed(network, images, patients[:at] + patients[at + 1 :], seen=fewer)
        gone = patients[at][1]
        assert fewer == {name: [bag for bag in bags if bag is not gone] for name, bags in everybody.items()}
        alone = summed(network, images, [patients[at]])
        assert np.linalg.norm(whole - without - alone) <= 1e-13 * np.linalg.norm(whole)
        assert np.linalg.norm(alone) <= 0.3 * (1 + 1e-6)


def test_patients_are_spread_evenly():
    counts = np.bincount([split.number(f"{at}", devices=4) for at in range(4000)])
    assert counts.min() > 850


@pytest.mark.parametrize("names", [("xpu",), ("cpu:1", "xpu"), ("xpu", "cpu:1", "xpu:1")])
def test_a_broken_device_falls_out_with_a_line_in_the_log_and_the_sum_is_whole(devices, names, caplog):
    network, images, patients = small()
    devices("cpu")
    want = summed(network, images, patients)
    devices(*names)
    with caplog.at_level(logging.WARNING):
        got = summed(network, images, patients)
    assert np.linalg.norm(got - want) <= 1e-13 * np.linalg.norm(want)
    lost = [record.at for record in caplog.records if record.message == "training-device-lost"]
    assert lost == [name for name in names if name.startswith("xpu")]
    assert [one.name for one in device.picked()] == ([name for name in names if name.startswith("cpu")] or ["cpu"])


def test_what_is_wrong_with_the_study_is_no_broken_device(devices):
    network, images, patients = small()
    devices("cpu:1", "cpu:2")
    with pytest.raises(InternalError, match="per row"):
        split.clipped_sum_by(
            network,
            patients,
            packing=lambda replica, where, bags: packed(images, bags=bags, rows_at_once=4),
            loss=lambda outputs, targets: outputs.sum(),
            clip_norm=1.0,
        )
    assert len(device.picked()) == 2


def test_devices_that_fail_the_trial_are_left_out_and_named(caplog):
    assert [one.name for one in device.among([])] == ["cpu"]
    only = device.among(["xpu", "xpu:1"])
    assert [one.name for one in only] == ["cpu"]
    assert "xpu failed" in only[0].said
    with caplog.at_level(logging.WARNING):
        assert [one.name for one in device.among(["xpu", "cpu:1", "cpu:2"])] == ["cpu:1", "cpu:2"]
    assert caplog.records[0].at == "xpu"


def test_threads_that_pick_at_once_list_no_device_twice(monkeypatch):
    for held, empty in (("_in_use", []), ("_out", {}), ("_waits", {})):
        monkeypatch.setattr(device, held, empty)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)  # it is tried, and takes its time, whether it is there or not
    everybody = threading.Barrier(4)

    def pick(_):
        everybody.wait()
        return device.picked()

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(pick, range(4)))
    assert {len(one) for one in found} == {1}
    assert len(device.picked()) == 1


def test_threads_keep_full_precision_until_the_last_is_done():
    found = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        with clipped.full_precision(on=True):
            with clipped.full_precision(on=True):
                pass
            assert not torch.backends.cuda.matmul.allow_tf32
            assert not torch.backends.cudnn.allow_tf32
        assert torch.backends.cuda.matmul.allow_tf32
        assert torch.backends.cudnn.allow_tf32 == found[1]
    finally:
        torch.backends.cuda.matmul.allow_tf32 = found[0]


def clipped_of(study, cohort, blob):
    rows = np.arange(len(cohort.patients))
    return train.clipped_sum(blob, study=study, cohort=cohort, training_rows=rows, sampled=rows % 3 > 0)


@pytest.mark.parametrize("augmentations", [0, 2])
def test_a_hospitals_step_is_the_same_on_two_devices_and_with_its_data_kept_there(devices, monkeypatch, augmentations):
    study, cohort = learning.study(recipe="full", augmentations=augmentations), learning.cohort(9)
    network = learning.built(study)
    model.with_flat(network, model.HEAD, 0.5 * np.cos(np.arange(13.0)))
    blob = model.dump(network)
    devices("cpu")
    want = clipped_of(study, cohort, blob)
    assert not resident._held
    devices("cpu:1", "cpu:2")
    assert np.linalg.norm(clipped_of(study, cohort, blob) - want) <= 1e-12 * np.linalg.norm(want)
    monkeypatch.setattr(resident, "free_bytes", lambda _: 1 << 30)
    cohort.views.setflags(write=False)
    for _ in range(2):
        assert np.linalg.norm(clipped_of(study, cohort, blob) - want) <= 1e-12 * np.linalg.norm(want)
    assert set(resident._held) == {"cpu:1", "cpu:2"}
    resident._held.clear()


def test_views_are_kept_once_for_as_long_as_the_cohort_lives(monkeypatch):
    monkeypatch.setattr(resident, "free_bytes", lambda _: 100_000)
    views = engine.views(3, 1, 4, 4)
    assert resident.kept(views, augmentations=0, device="cpu") is None  # they could still change
    views.setflags(write=False)
    first = resident.kept(views, augmentations=0, device="cpu")
    assert resident.kept(views, augmentations=0, device="cpu") is first
    wide = resident.kept(views, augmentations=3, device="cpu")
    assert np.array_equal(wide.numpy(), augment.augmented(views, bags=[], number=3)[0])
    other = views.copy()
    other.setflags(write=False)
    assert resident.kept(other, augmentations=3, device="cpu") is not wide
    del other, wide, first
    gc.collect()
    assert not resident._held


def test_views_stay_where_they_are_without_room_and_on_the_processor(monkeypatch):
    views = engine.views(3, 1, 4, 4)
    views.setflags(write=False)
    assert resident.kept(views, augmentations=0, device="cpu") is None
    assert resident.free_bytes("cpu") == 0
    for free, augmentations, fits in ((384, 0, True), (383, 0, False), (767, 1, False), (768, 1, True)):
        resident._held.clear()
        monkeypatch.setattr(resident, "free_bytes", lambda _, free=free: free)
        assert (resident.kept(views, augmentations=augmentations, device="cpu") is not None) is fits
    resident._held.clear()


def test_micro_batches_from_a_tensor_are_those_from_an_array():
    images, bags = engine.views(sum(SIZES), *SHAPE), engine.bags(SIZES)
    images[3] = np.nan  # nothing of it gets into another's place
    pairs = zip(
        packed(images, bags=bags, rows_at_once=8), packed(torch.from_numpy(images), bags=bags, rows_at_once=8), strict=True
    )
    for array, tensor in pairs:
        assert array.present == tensor.present
        for name in ("views", "targets", "weights"):
            torch.testing.assert_close(getattr(array, name), getattr(tensor, name), rtol=0, atol=0, equal_nan=True)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two GPUs that torch can use")
def test_the_sum_over_two_gpus_equals_one_patient_at_a_time(devices):
    network, images, patients = small()
    want = engine.projected(network, engine.clipped(engine.gradients(network, images, [bag for _, bag in patients]), norm=0.3))
    devices("cuda:0", "cuda:1")
    assert np.linalg.norm(summed(network, images, patients) - want) <= 1e-6 * np.linalg.norm(want)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")
def test_views_are_kept_on_a_gpu():
    views = engine.views(3, 1, 4, 4)
    views.setflags(write=False)
    first = resident.kept(views, augmentations=1, device="cuda:0")
    assert first.is_cuda
    assert resident.kept(views, augmentations=1, device="cuda:0") is first
    resident._held.clear()
