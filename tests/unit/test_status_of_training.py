"""motet-coordinator status from another terminal during training: step, epsilon, time left, no loss that was not charged."""

import json
import re
import time
from decimal import Decimal
from functools import partial

import pytest

from common import locks
from common.ledger import accounting
from common.mechanism import SampledStep
from server import cli
from server.journal import Journal
from tests import commands, federation
from tests.commands import COORDINATOR, request

ask = partial(commands.ask, cli.app)
NAMES = ("hosp-a", "hosp-b", "hosp-c")
STEPS, DONE = 40, 12
STEP = SampledStep(
    noise_multiplier=Decimal(2),
    clip_norm=Decimal(1),
    sampling_rate=Decimal(1),
    hospitals=3,
    colluders=1,
    dimension=13,
    share_bits=20,
    ring_bits=32,
    patients_per_step_max=64,
)


@pytest.fixture
def home(tmp_path):
    """A coordinator whose run has made 12 of 40 steps, the thirteenth void, four seconds each; a process works on it."""
    ask("init", "--home", tmp_path / "hub", *COORDINATOR)
    ask("enrol", "--home", tmp_path / "hub", *(request(tmp_path, name) for name in NAMES))
    run = tmp_path / "hub" / "runs" / "0123"
    run.mkdir()
    wanted = federation.study(training={"steps": STEPS}, patience_s=600)
    (run / "study.json").write_bytes(wanted.canonical_bytes())
    journal, began = Journal(run / "journal.jsonl"), time.time() - 4 * (DONE + 1)
    journal.write({"type": "start", "time": began})
    for number in range(1, DONE + 2):
        opened = number <= DONE
        journal.write(
            {
                "type": "round",
                "time": began + 4 * number,
                "round": number,
                "task": "train",
                "index": number,
                "mechanism": STEP.entry(),
                "hospitals": list(NAMES),
                "uploaded": list(NAMES) if opened else list(NAMES[:2]),
                "state": "opened" if opened else "void",
                "missing": {} if opened else {"hosp-c": "E-LATE"},
                "seconds": 4.0,
            }
        )
    with locks.hold(run / "run.lock", busy=""):
        yield tmp_path / "hub"


def test_status_says_step_epsilon_and_time_left(home):
    said = ask("status", "--home", home)
    assert f"step {DONE} of {STEPS}" in said
    assert "12 opened, 1 void" in said
    told = json.loads(ask("status", "--home", home, "--json"))["run"]
    delta = federation.study().privacy.delta
    charged = accounting.round_up(accounting.epsilon_rdp([STEP] * (DONE + 1), delta=delta))  # the void one was sent, too
    assert Decimal(told["epsilon"]) == charged
    assert Decimal(told["epsilon_at_end"]) > charged
    quick, slow = told["left_s"]
    assert 4 * (STEPS - DONE) <= quick + 10 <= slow + 10 <= 4 * (STEPS - DONE) * 1.5 + 30
    assert re.search(r"ends in +\d", said)


def test_no_loss_is_told_before_a_release_that_was_charged_shows_it(home):
    said, told = ask("status", "--home", home), json.loads(ask("status", "--home", home, "--json"))["run"]
    assert re.search(r"held-out AUC +known at the end", said)
    assert told["curve"] == []
    assert "loss" not in json.dumps(told)


def test_looking_changes_nothing(home):
    def everything():
        return {path: path.read_bytes() for path in sorted(home.rglob("*")) if path.is_file()}

    before = everything()
    ask("status", "--home", home)
    ask("status", "--home", home, "--json")
    assert everything() == before
