"""Flower's messages as a carrier: hostile ones cost their sender, and invitations go out as often as they must."""

import logging
import time

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict

import client.app
from common.errors import BadEnvelope
from common.wire import Sealed
from server import messages
from server.messages import Invitations, MessageCarrier
from tests.lanes import until
from tests.localgrid import LocalGrid, travelled

NAMES = ("hosp-a", "hosp-b")
SHOUT = "TEXT\nFROM OUTSIDE"
ENVELOPE = Sealed(front=b"front", blob=b"blob")


@pytest.fixture
def grid(monkeypatch, caplog):
    """A grid whose relays answer what `says` says of their name."""
    monkeypatch.setattr(messages, "POLL_S", 0.01)
    caplog.set_level(logging.INFO)
    with LocalGrid({node: (name, {}) for node, name in enumerate(NAMES, start=1)}) as one:
        one.says = {}
        one.asked = []

        def answer(message):
            name = one.names[message.metadata.dst_node_id]
            one.asked.append(name)
            return one.says[name](travelled(message))

        monkeypatch.setattr(one, "_answer", answer)
        yield one
    assert SHOUT.split("\n")[1] not in caplog.text


def reply(*arrays, key="envelope"):
    return lambda message: Message(RecordDict({key: ArrayRecord(list(arrays))}), reply_to=message)


def error(reason):
    return lambda message: Message(Error(code=2, reason=reason), reply_to=message)


def envelope(data=b"reply"):
    return reply(np.frombuffer(data, np.uint8))


def waved(grid, *, deadline_s=5.0):
    came = {}
    failed = MessageCarrier(grid, NAMES, patience_s=1).wave(
        dict.fromkeys(NAMES, ENVELOPE), deadline_s=deadline_s, receive=came.setdefault
    )
    return failed, came


@pytest.mark.usefixtures("grid")
def test_flower_still_has_the_private_names_that_the_local_grid_needs():
    message = Message(RecordDict({"config": ConfigRecord({"a": 1.5})}), dst_node_id=3, message_type="query.join", ttl=60)
    message.metadata.__dict__["_message_id"] = "m1"
    arrived = travelled(message)
    assert arrived is not message
    assert arrived.metadata.message_id == "m1"
    assert (arrived.metadata.dst_node_id, arrived.metadata.message_type) == (3, "query.join")
    assert arrived.content["config"]["a"] == 1.5
    answered = travelled(Message(RecordDict({}), reply_to=arrived))
    assert answered.metadata.reply_to_message_id == "m1"
    assert {"query.join", "query.envelope"} <= set(client.app.app._registered_funcs)


def test_an_envelope_arrives_whole_and_so_does_its_reply(grid):
    got = []

    def echo(message):
        got.append(message.content["envelope"].to_numpy_ndarrays()[0].tobytes())
        return envelope(got[-1][::-1])(message)

    grid.says = dict.fromkeys(NAMES, echo)
    assert waved(grid) == ({}, dict.fromkeys(NAMES, b"frontblob"[::-1]))
    assert got == [b"frontblob"] * 2


HOSTILE = {
    "no envelope": lambda message: Message(RecordDict({}), reply_to=message),
    "another record": lambda message: Message(RecordDict({"envelope": ConfigRecord({"a": 1})}), reply_to=message),
    "two arrays": reply(np.zeros(3, np.uint8), np.zeros(3, np.uint8)),
    "no array": reply(),
    "an array that is none": lambda message: Message(
        RecordDict({"envelope": ArrayRecord({"a": Array("uint8", (3,), "numpy.ndarray", b"junk")})}), reply_to=message
    ),
    "a pickle": lambda message: Message(
        RecordDict({"envelope": ArrayRecord({"a": Array("object", (1,), "numpy.ndarray", b"\x80\x04N.")})}), reply_to=message
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_message_without_an_envelope_costs_its_sender_and_nobody_else(grid, kind):
    grid.says = {"hosp-a": HOSTILE[kind], "hosp-b": envelope()}
    assert waved(grid) == ({"hosp-a": "E-RELAY"}, {"hosp-b": b"reply"})


@pytest.mark.parametrize(
    ("reason", "code"),
    [("E-VAULT", "E-VAULT"), ("E-REFUSED-BUDGET", "E-REFUSED-BUDGET"), (SHOUT, "E-OFFLINE"), (f"E-{SHOUT}", "E-OFFLINE"),
     ("E-X\nE-Y", "E-OFFLINE"), ("", "E-OFFLINE"), ("E-" + "A" * 1000, "E-OFFLINE")],
)  # fmt: skip
def test_of_an_error_only_a_code_is_taken(grid, reason, code):
    grid.says = {"hosp-a": error(reason), "hosp-b": envelope()}
    assert waved(grid) == ({"hosp-a": code}, {"hosp-b": b"reply"})


def test_a_message_that_flower_cannot_unpack_keeps_no_other_from_being_read(grid, monkeypatch, caplog):
    def broken(_message):
        raise ValueError(SHOUT)

    grid.says = {"hosp-a": broken, "hosp-b": envelope()}
    assert waved(grid, deadline_s=1.0) == ({}, {"hosp-b": b"reply"})
    assert "does not hand out a message: ValueError" in caplog.text


def test_who_is_away_and_who_is_late_are_told_apart_and_nothing_late_is_handed_on(grid):
    grid.offline = {"hosp-a"}

    def slow(message):
        time.sleep(0.3)
        return envelope()(message)

    grid.says = {"hosp-b": slow}
    began = time.monotonic()
    carrier = MessageCarrier(grid, ("hosp-b",), patience_s=0)
    came = []
    failed = carrier.wave(dict.fromkeys(NAMES, ENVELOPE), deadline_s=0.1, receive=lambda *told: came.append(told))
    assert failed == {"hosp-a": "E-OFFLINE"}
    assert time.monotonic() - began < 0.3
    time.sleep(0.4)
    assert came == []


def test_a_reply_that_is_refused_is_failed_by_its_code(grid):
    grid.says = dict.fromkeys(NAMES, envelope())

    def receive(name, _data):
        if name == "hosp-a":
            raise BadEnvelope("x", action="y")

    carrier = MessageCarrier(grid, NAMES, patience_s=1)
    assert carrier.wave(dict.fromkeys(NAMES, ENVELOPE), deadline_s=5, receive=receive) == {"hosp-a": "E-ENVELOPE"}


@pytest.fixture
def inviting(grid):
    """Invitations that are sent until the end of the test."""
    made = []

    def start():
        made.append(Invitations(grid, NAMES, run="r1", patience_s=5.0))
        return made[-1]

    yield start
    for one in made:
        one.close()


def test_every_hospital_is_invited_once_while_its_relay_stays(grid, inviting, monkeypatch):
    over = []
    monkeypatch.setattr(messages, "GOODBYE_S", 0.1)

    def stays(message):
        assert dict(message.content["config"]) == {"run": "r1", "patience_s": 5.0}
        until(lambda: over)
        return Message(RecordDict({}), reply_to=message)

    grid.says = dict.fromkeys(NAMES, stays)
    inviting()
    until(lambda: sorted(grid.asked) == sorted(NAMES))
    time.sleep(0.2)
    assert sorted(grid.asked) == sorted(NAMES)
    over.append(True)


def test_a_relay_that_leaves_again_and_again_is_invited_less_and_less_often(grid, inviting, monkeypatch, caplog):
    monkeypatch.setattr(messages, "AGAIN_S", 0.05)
    monkeypatch.setattr(messages, "GOODBYE_S", 0.1)
    grid.says = dict.fromkeys(NAMES, error(SHOUT))
    inviting()
    until(lambda: len(grid.asked) >= 6)  # at 0, 0.1, 0.3 s
    time.sleep(0.3)
    assert len(grid.asked) <= 8
    assert "hosp-a: its relay left: E-OFFLINE" in caplog.text


def test_a_superlink_that_does_not_answer_is_asked_again(grid, inviting, monkeypatch, caplog):
    monkeypatch.setattr(messages, "GOODBYE_S", 0.1)
    grid.says = dict.fromkeys(NAMES, error("E-LINK"))
    real, fails = grid.get_nodes, [True]

    def get_nodes():
        if fails:
            fails.clear()
            raise ConnectionError(SHOUT)
        return real()

    monkeypatch.setattr(grid, "get_nodes", get_nodes)
    inviting()
    until(lambda: grid.asked)
    assert "Flower does not answer: ConnectionError" in caplog.text
