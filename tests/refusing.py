"""A federation that is asked wrongly, one honest request away from being answered, and the rules of a refusal."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common import announcement as announcements
from common import left_out, wire
from common.announcement import Announcement
from common.errors import HospitalMissing
from common.mechanism import Exact
from tests import federation
from tests.federation import HOSPITALS, kind
from tests.written import entries

STUDY = federation.study()
GRAM = left_out.dimension(len(STUDY.columns()))
STRANGER = Ed25519PrivateKey.generate()
ME = "hosp-a"
RUNS = count(1)


@contextmanager
def federated(folder: Path, *, scans: Path, cache: Path) -> Iterator[federation.Federation]:
    """A federation that approved STUDY; many tests may share it, each with a run of its own."""
    one = federation.Federation(folder, scans, cache=cache)
    one.approve(STUDY)
    yield one
    one.close()


def watched(one, monkeypatch):
    """Return the federation, set right again, and what each of its vaults raises while it answers."""
    one.before = one.after = lambda _name, data: data
    raised = {name: [] for name in HOSPITALS}
    for name, vault in one.vaults.items():
        real = vault._refuse

        def refuse(request, error, *, cause=None, real=real, name=name):
            raised[name].append(error)
            return real(request, error, cause=cause)

        monkeypatch.setattr(vault, "_refuse", refuse)
    return one, raised


def coordinator(one, *, ready=True):
    """Return the coordinator of a new run, set up."""
    run = f"refusal{next(RUNS)}"
    made = federation.Coordinator(one, STUDY, run=run)
    if ready:
        made.set_up()
    return made


def announced(rounds, number=1, **changes):
    """Return the announcement of an honest Gram, with `changes`."""
    honest = Announcement(
        run=rounds.run,
        study=STUDY.hash(),
        roster=rounds.roster.hash(),
        round=number,
        hospitals=HOSPITALS,
        task="gram",
        index=0,
        dimension=GRAM,
        blob_sha256=hashlib.sha256(b"").hexdigest(),
        mechanism=Exact(statistic="gram", ring_bits=128),
    )
    return replace(honest, **changes)


def trained(rounds, **changes):
    """Return the announcement of an honest step but for the model, and with changes of its mechanism."""
    mechanism = announcements.mechanism_for(STUDY, task="train", hospitals=4, dimension=13)
    return announced(rounds, task="train", index=1, dimension=13, mechanism=replace(mechanism, **changes))


def envelope(rounds, one, *, name=ME, key=None):
    body = {
        "announcement": one if isinstance(one, dict) else one.plain(),
        "inbox": {peer: text.hex() for peer, text in rounds.sealed.items() if peer != name},
        "outcomes": {},
    }
    sent = wire.Envelope(kind="announce", sender=federation.COORDINATOR, recipient=name, run=rounds.run, body=body)
    return wire.seal(sent, key=key or rounds.key)


def refused(hospitals, data, error, code, *, name=ME):
    """The vault raises exactly this error, says its code and nothing else, writes it down, and charges and releases nothing."""
    one, raised = hospitals
    before = len(entries(one, name))
    reply = wire.peek(one.vaults[name].answer(data))
    assert [type(item) for item in raised[name]] == [error]
    assert error.code == code
    assert (reply.kind, reply.body) == ("refusal", {"code": code})
    after = entries(one, name)[before:]
    assert [(leaf["type"], leaf["code"]) for leaf in after if leaf["type"] not in {"policy", "plan"}] == [("refuse", code)]
    raised[name].clear()


def accepted(hospitals, data, *, name=ME):
    reply = hospitals[0].vaults[name].answer(data)
    assert kind(reply) == "upload"
    return reply


def voided(rounds, missing, *, uploaded=HOSPITALS):
    """The coordinator opens nothing, and its journal names who and why."""
    with pytest.raises(HospitalMissing):
        rounds.secure_sum(task="gram", index=0, dimension=GRAM, blob=b"", attempts=1)
    event = [event for event in rounds.journal.events() if event["type"] == "round"][-1]
    assert (event["state"], event["missing"], event["uploaded"]) == ("void", missing, sorted(uploaded))


def again(data, *, key, **changes):
    """Seal an envelope again, changed."""
    return wire.seal(replace(wire.peek(data), **changes), key=key)
