"""The memory between the guard and its child: what a lying, writing or dying child can do through it, and what it cannot."""

import math
import mmap
import os

import numpy as np
import pytest

from client.imaging.answers import SENSELESS
from client.imaging.exchange import KEPT_BYTES, Exchange, Stored, Window, exact

MIB = 1 << 20


@pytest.fixture
def exchange():
    made = Exchange(most=64 * MIB)
    yield made
    made.close()


def test_arrays_come_back_as_they_were_put_over_several_windows(exchange):
    random = np.random.default_rng(1)
    sent = {
        "empty": np.empty((0, 3)),
        "positions_mm": random.normal(size=(7, 3)),
        "bits": random.integers(0, 256, 2 * KEPT_BYTES + 1, np.uint8),
        "pixels": random.normal(size=(33, 65)).astype(np.float32),
    }
    found = exchange.take(Window(exchange.descriptor).put(sent))
    assert list(found) == list(sent)
    for name, array in sent.items():
        np.testing.assert_array_equal(found[name], array, strict=True)
        assert not found[name].flags.writeable


@pytest.mark.parametrize("dtype", [np.int16, np.uint16])
@pytest.mark.parametrize(("slope", "intercept"), [(1.0, -1024.0), (1.0, 0.0), (-1.0, 65535.0), (2.0, -8192.0), (100.0, 3.0)])
def test_stored_values_are_rescaled_without_rounding(exchange, dtype, slope, intercept):
    ends = np.iinfo(dtype)
    values = np.arange(ends.min, ends.max + 1, dtype=np.int64).astype(dtype).reshape(256, 256)
    (found,) = exchange.take(Window(exchange.descriptor).put({"pixels": Stored(values, slope, intercept)})).values()
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.astype(np.float64), values.astype(np.float64) * slope + intercept)


@pytest.mark.parametrize(
    ("slope", "intercept"),
    [
        (0.5, 0.0),
        (1.0, 0.25),
        (math.nan, 0.0),
        (1.0, math.nan),
        (math.inf, 0.0),
        (1.0, -math.inf),
        (257.0, 0.0),
        (1.0, 2.0**24),
    ],
)
def test_a_scale_that_float32_cannot_hold_is_no_scale(exchange, slope, intercept):
    assert not exact(slope, intercept)
    with pytest.raises(ValueError, match="scale"):
        exchange.take({"pixels": ["int16", [4, 4], slope, intercept]})


@pytest.mark.parametrize(
    "announced",
    [
        {"pixels": ["float32", [1 << 40]]},
        {"pixels": ["float32", [1 << 62, 1 << 62]]},
        {"pixels": ["float32", [64 * MIB // 4 + 1]]},
        {"one": ["uint8", [64 * MIB]], "other": ["uint8", [1]]},
        {"pixels": ["float32", [-1, -4]]},
        {"pixels": ["object", [4]]},
        {"pixels": ["int16", [4]]},
        {"pixels": ["float32", [4], 1.0, 0.0]},
        {"pixels": ["int16", [4], 1.0]},
        {"pixels": ["int16", [4], "slope", None]},
        {"pixels": ["float32", "four"]},
        {"pixels": ["float32", [math.inf]]},
        {"pixels": 4},
        {"pixels": []},
        [],
        "pixels",
    ],
)
def test_a_lie_about_what_lies_there_is_found_before_it_is_believed(exchange, announced):
    with pytest.raises(SENSELESS):
        exchange.take(announced)


def test_what_the_child_writes_later_changes_nothing(exchange):
    window = Window(exchange.descriptor)
    sent = {"plain": np.arange(1000, dtype=np.float32), "stored": Stored(np.arange(1000, dtype=np.int16), 1.0, 0.0)}
    found = exchange.take(window.put(sent))
    window.put({"other": np.full(10_000, np.nan)})
    for array in found.values():
        np.testing.assert_array_equal(array, np.arange(1000, dtype=np.float32))


def test_the_child_cannot_take_the_memory_from_under_its_parent(exchange):
    announced = Window(exchange.descriptor).put({"pixels": np.ones(1000)})
    for size in (0, mmap.PAGESIZE, 128 * MIB):
        with pytest.raises(PermissionError):
            os.ftruncate(exchange.descriptor, size)
    np.testing.assert_array_equal(exchange.take(announced)["pixels"], np.ones(1000))


def test_what_a_large_answer_took_is_given_back(exchange):
    announced = Window(exchange.descriptor).put({"bits": np.ones(48 * MIB, np.uint8)})
    assert os.fstat(exchange.descriptor).st_blocks * 512 >= 48 * MIB
    found = exchange.take(announced)["bits"]
    exchange.tidy()
    assert os.fstat(exchange.descriptor).st_blocks * 512 <= KEPT_BYTES
    assert found.all()


def test_more_than_there_is_room_for_is_refused_by_the_child(exchange):
    with pytest.raises(MemoryError):
        Window(exchange.descriptor).put({"bits": np.zeros(64 * MIB + 1, np.uint8)})


@pytest.mark.parametrize(("size", "told"), [(0, 0), (1, 1), (1000, 1000), (1001, None), (MIB, None)])
def test_a_file_goes_in_whole_or_not_at_all(exchange, tmp_path, size, told):
    path = tmp_path / "file"
    path.write_bytes(os.urandom(size))
    with path.open("rb") as file:
        assert exchange.put(file.fileno(), most=1000) == told
    if told is not None:
        assert Window(exchange.descriptor).file(told) == path.read_bytes()
