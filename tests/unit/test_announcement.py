"""The announcement: what a mask is bound to; anything that is not exactly one is refused."""

from dataclasses import replace
from decimal import Decimal

import pytest

from common import announcement, canonical
from common.announcement import Announcement
from common.errors import BadEnvelope
from common.mechanism import Exact, SampledStep
from tests import federation

STUDY = federation.study()
GOOD = Announcement(
    run="r1",
    study=STUDY.hash(),
    roster="0" * 64,
    round=3,
    hospitals=("a", "b", "c"),
    task="train",
    index=1,
    dimension=10,
    blob_sha256="1" * 64,
    mechanism=announcement.mechanism_for(STUDY, task="train", hospitals=3, dimension=10),
)


def test_an_announcement_reads_back():
    assert announcement.parse(GOOD.plain()) == GOOD
    assert announcement.parse(canonical.decode(GOOD.bytes())) == GOOD


@pytest.mark.parametrize(
    "change",
    [
        {"run": "r2"},
        {"study": "2" * 64},
        {"roster": "2" * 64},
        {"round": 4},
        {"hospitals": ("a", "b")},
        {"task": "evaluate"},
        {"index": 2},
        {"dimension": 11},
        {"blob_sha256": "2" * 64},
        {"mechanism": Exact(statistic="gram", ring_bits=128)},
    ],
    ids=str,
)
def test_every_part_is_in_the_bytes(change):
    assert replace(GOOD, **change).bytes() != GOOD.bytes()


@pytest.mark.parametrize("key", sorted(GOOD.plain()))
def test_an_announcement_without_one_of_its_keys_is_refused(key):
    with pytest.raises(BadEnvelope):
        announcement.parse({name: value for name, value in GOOD.plain().items() if name != key})


@pytest.mark.parametrize(
    "change",
    [
        {"extra": 1},
        {"round": 0},
        {"round": -1},
        {"round": 1_000_001},
        {"round": 2**52},
        {"round": "3"},
        {"round": None},
        {"round": [3]},
        {"index": -1},
        {"index": 1_000_001},
        {"dimension": 0},
        {"dimension": (1 << 28) + 1},
        {"dimension": "ten"},
        {"task": "steal"},
        {"task": None},
        {"task": []},
        {"hospitals": "abc"},
        {"hospitals": None},
        {"hospitals": 3},
        {"hospitals": ["b", "a"]},
        {"hospitals": ["a", "a"]},
        {"hospitals": [1, 2]},
        {"hospitals": [["a"]]},
        {"hospitals": [{}]},
        {"hospitals": {"a": 1}},
        {"mechanism": None},
        {"mechanism": {}},
        {"mechanism": []},
        {"mechanism": "none"},
        {"mechanism": {"name": "none"}},
        {"mechanism": {**GOOD.plain()["mechanism"], "clip_norm": "1E+99999999999"}},
        {"mechanism": {**GOOD.plain()["mechanism"], "noise_multiplier": "NaN"}},
    ],
    ids=str,
)
def test_an_announcement_of_another_shape_is_refused(change):
    with pytest.raises(BadEnvelope, match="malformed"):
        announcement.parse({**GOOD.plain(), **change})


@pytest.mark.parametrize("plain", [{}, [], None, 3, "x"])
def test_something_else_is_not_an_announcement(plain):
    with pytest.raises(BadEnvelope, match="malformed"):
        announcement.parse(plain)


def test_the_study_alone_decides_the_mechanism():
    assert announcement.mechanism_for(STUDY, task="gram", hospitals=3, dimension=10) == Exact(statistic="gram", ring_bits=128)
    assert announcement.mechanism_for(STUDY, task="evaluate", hospitals=3, dimension=10).ring_bits == 64
    trained = announcement.mechanism_for(STUDY, task="train", hospitals=4, dimension=10)
    assert isinstance(trained, SampledStep)
    assert (trained.noise_multiplier, trained.hospitals, trained.colluders) == (Decimal(2), 4, 1)
