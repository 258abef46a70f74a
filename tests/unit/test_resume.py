"""A coordinator that is killed at any point goes on with the same bytes, and no hospital is charged once more."""

import shutil
from pathlib import Path

import pytest

from common import files
from common import roster as rosters
from common.errors import ConfigError, RecordDamaged
from server.journal import Journal
from server.run import run_study
from tests import federation
from tests.federation import HOSPITALS, kind
from tests.written import entries

RUN = "resumed"
TOLD_APART = {"seconds", "rounds"}  # times


class Killed(BaseException):
    """As `kill -9`: nothing of the product catches it."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, phantom_scans, cohort_cache):
    """A federation whose run of the study ended; the same requests bring the same bytes, any other one a refusal."""
    one = federation.Federation(tmp_path_factory.mktemp("resume"), phantom_scans, cache=cohort_cache)
    wanted = federation.study()
    one.approve(wanted)
    folder = one.folder / "undisturbed"
    result = one.go_on(wanted, run=RUN, folder=folder)
    yield one, wanted, folder, result
    one.close()


@pytest.fixture
def steps(monkeypatch):
    """Count every step that leaves a trace: what is written, renamed, sent or received; raise Killed at the one in `at`."""
    return Steps(monkeypatch)


class Steps:
    def __init__(self, monkeypatch):
        self.names, self.at = [], None
        for owner, name in ((Journal, "write"), (files, "write"), (Path, "replace")):
            monkeypatch.setattr(owner, name, self.counted(getattr(owner, name), f"{owner.__name__}.{name}"))
        self.carry = self.counted(federation.Federation.wave, "wave")
        monkeypatch.setattr(federation.Federation, "wave", self.carry)
        self.answer = self.counted(federation.Federation.answer, "answer")
        monkeypatch.setattr(federation.Federation, "answer", self.answer)
        self.inside = 0

    def counted(self, real, name):
        def wrapped(*args, **named):
            if self.inside and name != "answer":  # within another step, or a vault's own
                return real(*args, **named)
            self.step(f"before {name}")
            self.inside += name in {"answer", "common.files.write"}
            try:
                done = real(*args, **named)
            finally:
                self.inside -= name in {"answer", "common.files.write"}
            self.step(f"after {name}")
            return done

        return wrapped

    def step(self, name):
        self.names.append(name)
        if self.at == len(self.names) - 1:
            raise Killed(name)


def alone(folder):
    """A run's folder in one of its own: what a coordinator saw of ledgers lies beside its runs, and changes its requests."""
    folder.mkdir()
    return folder / "run"


def charges(one):
    return {
        name: [leaf for leaf in entries(one, name) if leaf["type"] in {"reserve", "release", "refuse"}] for name in one.vaults
    }


def told(result):
    """A result without its times."""
    rounds = [{key: value for key, value in event.items() if key != "seconds"} for event in result["rounds"]]
    return {**{key: value for key, value in result.items() if key not in TOLD_APART}, "rounds": rounds}


def same(folder, result, undisturbed):
    _, _, before, expected = undisturbed
    assert told(result) == told(expected)
    for name in ("model.safetensors", "optimiser.safetensors"):
        assert (folder / name).read_bytes() == (before / name).read_bytes(), name
    sums = [
        [(event["round"], event["sum_sha256"], event["uploaded"]) for event in Journal(at / "journal.jsonl").events()
         if event["type"] == "round"]
        for at in (folder, before)
    ]  # fmt: skip
    assert sums[0] == sums[1]


def test_a_coordinator_killed_at_any_step_ends_with_the_same_bytes_and_no_charge_more(undisturbed, steps, tmp_path):
    one = undisturbed[0]
    before = charges(one)
    folder = tmp_path / "all at once"
    folder.mkdir()
    lives = killed = 0
    # one folder, killed at its first step, then at its second, and so on: every life but the last is killed one step further
    while True:
        steps.names.clear()
        steps.at = lives
        lives += 1
        try:
            result = go_on(undisturbed, folder)
        except Killed:
            killed += 1
        else:
            break
    assert killed == lives - 1 > 30
    same(folder, result, undisturbed)
    assert charges(one) == before


def steps_of(one, wanted, steps, folder):
    folder.mkdir()
    run_study(study=wanted, roster=one.roster, key=one.key, carrier=one, run=RUN, folder=folder)
    return list(steps.names)


STRIDE = 11  # the other test stops at every step, each time in a life that has resumed


@pytest.mark.parametrize("stride", [STRIDE, pytest.param(1, marks=pytest.mark.long)])
def test_every_single_kill_is_survived(undisturbed, steps, tmp_path, stride):
    one, wanted, _, _ = undisturbed
    before = charges(one)
    names = steps_of(one, wanted, steps, alone(tmp_path / "counted"))
    assert {f"{when} {what}" for when in ("before", "after") for what in ("wave", "answer", "Journal.write")} <= set(names)
    for at in range(0, len(names), stride):
        folder = alone(tmp_path / f"{at}")
        folder.mkdir()
        steps.names.clear()
        steps.at = at
        with pytest.raises(Killed):
            go_on(undisturbed, folder)
        steps.at = None
        same(folder, go_on(undisturbed, folder), undisturbed)
        shutil.rmtree(folder)
    assert charges(one) == before


def test_a_kill_before_any_hospital_was_asked_or_after_all_were_costs_no_charge(make_federation, monkeypatch):
    """With hospitals that really answer for the first time: one kill per wave, and the charges of a run that was not killed."""
    one, wanted = make_federation(), federation.study()
    one.approve(wanted)
    folder, real, waves = one.folder / "run", one.wave, []

    def wave(envelopes, **named):
        number = len(waves)
        waves.append(number)
        if number % 3 == 0:
            raise Killed
        failed = real(envelopes, **named)
        if number % 3 == 1:
            raise Killed
        return failed

    monkeypatch.setattr(one, "wave", wave)
    lives = 0
    while lives < 50:
        lives += 1
        try:
            result = one.go_on(wanted, run=RUN, folder=folder)
        except Killed:
            continue
        break
    assert lives > 8
    assert [event["state"] for event in result["rounds"]] == ["opened"] * 4
    for name, leaves in charges(one).items():
        assert [leaf["type"] for leaf in leaves] == ["reserve", "release"] * 4, name
    uploads = [data for _, data in one.sent if kind(data) == "upload"]
    assert len(set(uploads)) == 4 * 4 < len(uploads)  # asked again, answered with the same bytes


def spoiled(path, how, folder):
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-1])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "one bit":
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    elif how == "missing":
        path.unlink()
    elif how == "another hospital's":
        path.write_bytes(path.with_name("hosp-c.envelope").read_bytes())
    elif how == "another round's":
        path.write_bytes((folder / "rounds" / "000003" / path.name).read_bytes())
    elif how == "a stranger's":
        path.rename(path.with_name("mallory.envelope"))


@pytest.mark.parametrize(
    "how", ["truncated", "empty", "one bit", "missing", "another hospital's", "another round's", "a stranger's"]
)
@pytest.mark.parametrize("part", ["setup", "sealed", "000002"])
def test_a_kept_reply_that_is_spoiled_is_asked_for_again(undisturbed, killed_late, tmp_path, part, how):
    one = undisturbed[0]
    before = charges(one)
    folder = shutil.copytree(killed_late, tmp_path / "run")
    spoiled(folder / "rounds" / part / "hosp-b.envelope", how, folder)
    asked = len(one.sent)
    same(folder, go_on(undisturbed, folder), undisturbed)
    again = [name for name, _ in one.sent[asked:]]
    assert again.count("hosp-b") == 3  # this reply, and the two of the close that were not there yet
    assert charges(one) == before
    assert {path.stem for path in (folder / "rounds" / part).glob("*.envelope")} - {"mallory"} == set(HOSPITALS)


def test_a_kept_reply_that_is_spoiled_while_its_hospital_is_away_is_refused_by_name(undisturbed, killed_late, tmp_path):
    one = undisturbed[0]
    folder = shutil.copytree(killed_late, tmp_path / "run")
    spoiled(folder / "rounds" / "000002" / "hosp-b.envelope", "one bit", folder)
    one.before = lambda name, data: None if name == "hosp-b" else data
    try:
        with pytest.raises(RecordDamaged, match="kept uploads of round 2"):
            go_on(undisturbed, folder)
    finally:
        one.before = lambda _name, data: data
    same(folder, go_on(undisturbed, folder), undisturbed)  # it is back


def test_a_journal_that_tells_of_another_sum_is_refused_by_name(undisturbed, killed_late, tmp_path):
    folder = shutil.copytree(killed_late, tmp_path / "run")
    journal = folder / "journal.jsonl"
    (told_,) = (event["sum_sha256"] for event in Journal(journal).events() if event.get("round") == 2 and "sum_sha256" in event)
    journal.write_text(journal.read_text().replace(told_, "0" * 64))
    with pytest.raises(RecordDamaged, match="kept uploads of round 2"):
        go_on(undisturbed, folder)


def test_a_run_is_not_gone_on_with_over_another_roster(undisturbed, killed_late, tmp_path):
    one, wanted, _, _ = undisturbed
    folder = shutil.copytree(killed_late, tmp_path / "run")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    smaller = rosters.sign(
        federation=one.roster.federation, coordinator=one.roster.coordinator, key=one.key, members=one.roster.members[:3]
    )
    with pytest.raises(ConfigError, match="over another roster"):
        run_study(study=wanted, roster=smaller, key=one.key, carrier=one, run=RUN, folder=folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.fixture(scope="module")
def killed_late(undisturbed, tmp_path_factory):
    """The folder of a run that was killed when it said goodbye to the hospitals."""
    one = undisturbed[0]
    folder = tmp_path_factory.mktemp("killed late")
    real = one.before

    def before(_name, data):
        if kind(data) == "close":
            raise Killed
        return data

    one.before = before
    with pytest.raises(Killed):
        go_on(undisturbed, folder)
    one.before = real
    return folder


def go_on(undisturbed, folder):
    one, wanted, _, _ = undisturbed
    return run_study(study=wanted, roster=one.roster, key=one.key, carrier=one, run=RUN, folder=folder)
