"""Every order of messages to a small depth, against a real vault: no path gives two openable uploads.

The coordinator lies: it has two stories about every round and about the set-up, cuts the power at the worst moment, and repeats
itself. From every reachable state of the vault it tries every message. Two states are one where disk and ledger differ only in
what is random. The rules are asserted after every message.
"""

import hashlib
import json
import sqlite3
from collections import defaultdict
from decimal import Decimal

import pytest

from client import config, session
from client import vault as vault_module
from client.ledger import Ledger
from client.origin import ledger_origin
from client.session import Session
from common import announcement as announcements
from common import model, wire
from common.announcement import Announcement
from common.crypto.keys import SetupKey
from common.errors import MotetError
from tests import federation
from tests.federation import COORDINATOR, HOSPITALS, kind

ME, PEERS = "hosp-a", HOSPITALS[1:]
STUDY = federation.study(privacy={"rounds_void_allowed": 20})
BLOB = model.initial(STUDY.training, channels=1, patch_voxels=STUDY.recipe.patch_voxels)
TOLD = {"A": HOSPITALS, "B": HOSPITALS[:3]}  # the two stories: another roster, hence another context
SET_UP = ("invite", "invite again", "keys A", "keys B")
STORIES = ("A1", "A2", "B2", "B3")  # every one of them also a second time: the same request, resent
CUTS = (
    "A2 cut at save",
    "B3 cut at release",
)  # the power is cut before the state is saved, or before the ledger has the upload
LEDGER_MOST = 200  # entries
ALPHABET = (*SET_UP, *STORIES, *CUTS, "restart", "close")


class PowerCut(BaseException):
    """The vault's process ends here."""


class Coordinator:
    """One run of the liar: makes every message; peers answer it in every story, which is more than honest ones would."""

    def __init__(self, one, run):
        self.one, self.run = one, run
        setup = {peer: SetupKey.generate() for peer in PEERS}
        self.public = {peer: key.public_bytes() for peer, key in setup.items()}
        self.peers = {
            peer: Session(run=run, study=STUDY.hash(), roster=one.roster.hash(), setup_key=key.private_bytes())
            for peer, key in setup.items()
        }
        self.bundles, self.sealed = {}, {}
        self.story = "A"  # of the set-up, with which the coordinator goes on

    def learn(self, bundle):
        """Take this hospital's bundle, and let every peer seal under both stories of the set-up."""
        mine = bytes.fromhex(wire.peek(bundle).body["setup_key"])
        for story, names in TOLD.items():
            public = {name: mine if name == ME else self.public[name] for name in names}
            self.bundles[story] = {
                name: bundle.hex() if name == ME else self.by(name, "bundle", setup_key=public[name].hex()) for name in names
            }
            self.sealed[story] = {}
            for name in names[1:]:
                _, sealed = self.peers[name].with_bundles(public, me=name)
                self.sealed[story][name] = self.by(name, "sealed", sealed={ME: sealed[ME].hex()})

    def by(self, name, what, **body):
        sent = wire.Envelope(kind=what, sender=name, recipient=COORDINATOR, run=self.run, body=body)
        return wire.seal(sent, key=config.identity_key(self.one.homes[name])).hex()

    def message(self, label):
        """Return the bytes of a message."""
        one, blob = self.one, b""
        if label.startswith("invite"):
            body = {"study": STUDY.hash(), "roster": one.roster.hash(), **({"again": 1} if "again" in label else {})}
        elif label.startswith("keys"):
            body = {"bundles": self.bundles.get(label[-1], {})}
        elif label == "close":
            body = {"outcomes": {}}
        else:
            named = TOLD[label[0]]
            announced = Announcement(
                run=self.run, study=STUDY.hash(), roster=one.roster.hash(), round=int(label[1]), hospitals=named, task="train",
                index=1, dimension=13, blob_sha256=wire.whole_hash(BLOB),
                mechanism=announcements.mechanism_for(STUDY, task="train", hospitals=len(named), dimension=13),
            )  # fmt: skip
            body, blob = {"announcement": announced.plain(), "inbox": self.sealed.get(self.story, {}), "outcomes": {}}, BLOB
        what = "announce" if label[0] in TOLD else label.split()[0]
        sent = wire.Envelope(kind=what, sender=COORDINATOR, recipient=ME, run=self.run, body=body, blob=blob)
        return wire.seal(sent, key=one.key)


class Bench:
    """A real vault, what ever left it, and the rules."""

    def __init__(self, one, monkeypatch):
        self.one, self.patch, self.count, self.messages = one, monkeypatch, 0, 0
        self.names = {}  # SHA-256 of a message -> which it was
        self.under = defaultdict(set)  # seed -> masked vectors made under it
        self.left = defaultdict(set)  # (run, round) and context -> uploads that left
        self.disk = self.opened()
        self.cut = ""
        real_mask, real_save, release = vault_module.mask, Session.save, type(one.vaults[ME].ledger).release

        def mask(contribution, *, receipt, me, seeds):
            vector = real_mask(contribution, receipt=receipt, me=me, seeds=seeds)
            for seed in seeds.values():
                self.under[seed].add(vector)
            return vector

        def save(state, folder):
            if self.cut == "save":
                raise PowerCut
            real_save(state, folder)

        def write_down(ledger, receipt, **facts):
            if self.cut == "release":
                raise PowerCut
            release(ledger, receipt, **facts)

        monkeypatch.setattr(vault_module, "mask", mask)
        monkeypatch.setattr(Session, "save", save)
        monkeypatch.setattr(type(one.vaults[ME].ledger), "release", write_down)

    def opened(self):
        return sqlite3.connect(f"file:{self.one.homes[ME].ledger}?mode=ro", uri=True)

    def renew(self):
        """Put an empty ledger in the place of a long one: a restart replays all of it, and the runs to come do not need it."""
        if self.one.vaults[ME].ledger.size() <= LEDGER_MOST:
            return
        home, vault = self.one.homes[ME], self.one.vaults[ME]
        self.disk.close()
        vault.close()
        for path in home.folder.glob("ledger.sqlite*"):
            path.unlink()
        Ledger.create(home.ledger, origin=ledger_origin(ME), key=config.ledger_key(home), clock=lambda: 0).close()
        self.one.vaults[ME], self.disk = self.one.open(ME), self.opened()

    def run(self):
        self.count += 1
        return Coordinator(self.one, f"s{self.count}")

    def state(self, liar):
        try:
            return session.load(self.one.homes[ME].state, run=liar.run)
        except MotetError:
            return None

    def step(self, liar, label):
        """Send one message, and assert every rule; return what the vault answered."""
        before, self.messages, reply = self.state(liar), self.messages + 1, b""
        said, _, self.cut = label.partition(" cut at ")
        try:
            if label != "restart":
                data = liar.message(said)
                self.names[hashlib.sha256(data).hexdigest()] = said
                reply = self.one.vaults[ME].answer(data)
        except PowerCut:
            label = "restart"
        self.cut = ""
        if label == "restart":
            self.one.restart(ME)
        self.rules(liar, before, reply, label)
        if reply and kind(reply) == "bundle" and not liar.bundles:
            liar.learn(reply)
        if reply and kind(reply) == "sealed":
            liar.story = said[-1]
        return reply

    def rules(self, liar, before, reply, label):
        after = self.state(liar)
        if before is not None:
            assert after is not None
            assert after.last_round >= before.last_round
            assert before.requests.items() <= after.requests.items()
        if reply and kind(reply) == "upload":
            upload = wire.peek(reply)
            self.left[liar.run, upload.body["round"]].add(reply)
            self.left[upload.body["context"]].add(reply)
            assert len(self.left[liar.run, upload.body["round"]]) == len(self.left[upload.body["context"]]) == 1
            assert after.last_round >= upload.body["round"]
            assert wire.whole_hash(reply) in self.released(liar, upload.body["round"])
            assert not {key.hex() for key in (before.pair_keys if before else {}).values()} & set(after.pair_keys.values())
        assert all(len(vectors) == 1 for vectors in self.under.values())
        if label == "close" and before is not None:
            secrets = [before.setup_key, *before.sent_secrets.values(), *before.pair_keys.values()]
            kept = b"".join(path.read_bytes() for path in self.one.homes[ME].state.glob(f"{liar.run}*.json"))
            assert not any(secret and secret.hex().encode() in kept for secret in secrets)
            assert (after.setup_key, after.sent_secrets, after.pair_keys) == (b"", {}, {})
        if before is not None and before.requests and not (before.setup_key or before.pair_keys):
            assert (after.setup_key, after.pair_keys) == (b"", {})  # what was erased does not come back

    def released(self, liar, number):
        rows = self.disk.execute(
            "SELECT data FROM leaf WHERE CAST(data AS TEXT) LIKE ?", (f'%"{liar.run}/{number}/{ME}"%',)
        ).fetchall()
        return {leaf["sha256"] for (data,) in rows if (leaf := json.loads(data))["type"] == "release"}

    def seen(self, liar):
        """Return the state without what is random: what was answered, with which message, and how the ledger has it."""
        state = self.state(liar)
        stages = sorted(
            (item.round_number, item.stage)
            for key, item in self.one.vaults[ME].ledger._state.reservations.items()
            if key.startswith(f"{liar.run}/")
        )
        if state is None:
            return (None, tuple(stages))
        answered = tuple(sorted((label, self.names[sha]) for label, sha in state.requests.items()))
        held = (bool(state.setup_key), tuple(sorted(state.sent_secrets)), tuple(sorted(state.pair_keys)))
        return (answered, held, state.last_round, state.noisy_rounds, tuple(stages))

    def explore(self, alphabet, *, start, runs=1):
        """Try every message in every state that can be reached; return the states, and how many transitions there are.

        A message is (run, label). A state that a message did not change is used again; else the path to it is walked anew.
        """
        found, todo, transitions = {}, [()], 0
        while todo:
            path, at = todo.pop(), None
            for number, message in enumerate(alphabet):
                if at is None:
                    self.renew()
                    liars = [self.run() for _ in range(runs)]
                    for run in range(runs):
                        for label in start:
                            self.step(liars[run], label)
                    for run, label in path:
                        self.step(liars[run], label)
                    at = tuple(self.seen(liar) for liar in liars)
                    if number == 0 and at in found:
                        break
                    found.setdefault(at, path)
                run, label = message
                self.step(liars[run], label)
                transitions += 1
                after = tuple(self.seen(liar) for liar in liars)
                if after != at:
                    at = None
                    if after not in found:
                        todo.append((*path, message))
        return found, transitions


@pytest.fixture
def bench(make_federation, monkeypatch):
    one = make_federation(epsilon_cap=Decimal(10**9))
    one.approve(STUDY)
    made = Bench(one, monkeypatch)
    yield made
    made.disk.close()


def uploads(bench):
    return sum(len(sent) for key, sent in bench.left.items() if isinstance(key, tuple))


def test_no_order_of_messages_opens_two_uploads_or_loses_what_left(bench):
    found, transitions = bench.explore([(0, label) for label in ALPHABET], start=())
    longest = max(len(path) for path in found.values())
    print(f"\n{len(found)} states, {transitions} transitions, {uploads(bench)} uploads, paths of up to {longest} steps")
    assert transitions == len(found) * len(ALPHABET)
    assert {label for path in found.values() for _, label in path} >= {"invite", "keys A", "keys B", *STORIES, *CUTS, "close"}
    assert len(found) > 50
    assert longest >= 5


def test_two_runs_at_once_stay_apart(bench):
    alphabet = [(0, "A1"), (0, "B1"), (0, "A2"), (1, "A1"), (1, "B1"), (0, "restart")]
    found, transitions = bench.explore(alphabet, start=("invite", "keys A"), runs=2)
    print(f"\n{len(found)} states of two runs, {transitions} transitions, {uploads(bench)} uploads")
    assert (len(found), transitions) == (6 * 3, 6 * 3 * len(alphabet))
