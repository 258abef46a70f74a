"""The other rhythm in whole studies: private steps at each hospital between two sums, from the study to the auditor."""

import shutil
from decimal import Decimal

import dp_accounting
import pytest
from dp_accounting import pld
from safetensors.numpy import load

from common import wire
from common.audit import verify
from common.errors import HospitalMissing
from server import messages, view
from server.journal import Journal
from tests.federation import HOSPITALS, kind, study
from tests.written import entries, exported, round_of

LOCAL = {
    "local_steps": 3,
    "learning_rate": Decimal("0.2"),
    "update_norm": Decimal(50),
    "own_rates": [{"hospital": "hosp-b", "sampling_rate": Decimal("0.25")}],
}
PRIVACY = {"sampling_rate": Decimal("0.5"), "noise_multiplier": Decimal(3)}


class Killed(BaseException):
    """As `kill -9`: nothing of the product catches it."""


def wanted(**training):
    return study(patience_s=30, privacy=PRIVACY, training={"local": LOCAL, **training})


def charges(one, name):
    """The training charges in a hospital's ledger."""
    return [leaf["mech"] for leaf in entries(one, name, "reserve") if leaf["mech"]["name"].startswith("dp-sgd")]


def composed(*, rate, steps):
    """Epsilon of so many sampled Gaussians by the library alone."""
    accountant = pld.PLDAccountant(value_discretization_interval=1e-4)
    event = dp_accounting.GaussianDpEvent(float(PRIVACY["noise_multiplier"]))
    accountant.compose(dp_accounting.PoissonSampledDpEvent(rate, event), steps)
    return accountant.get_epsilon(1e-5)


def verified(one, name, plan, *, folder):
    return verify.verify(exported(one, plan, name, folder / f"{name}.zip"), roster_hash=one.roster.hash())


def parts(blob, *, head):
    """The arrays of a model's head, or all others."""
    return {name: array for name, array in load(blob).items() if name.startswith("head.") == head}


def has_the_charges_of(one, result):
    assert [event["state"] for event in result["rounds"]] == ["opened"] * 4
    for name, rate in zip(HOSPITALS, (0.5, 0.25, 0.5, 0.5), strict=True):
        assert [(mech["name"], mech["steps"], float(mech["sampling_rate"])) for mech in charges(one, name)] == [
            ("dp-sgd-local", 3, rate)
        ] * 2
    spent = {name: Decimal(told["epsilon"]) for name, told in result["hospital_epsilon"].items()}
    assert spent["hosp-b"] < spent["hosp-a"] == spent["hosp-c"] == Decimal(result["training"]["epsilon"])


@pytest.mark.parametrize("carrying", ["stream", pytest.param("message", marks=pytest.mark.long)])
def test_the_local_rhythm_is_the_same_whatever_carries_it(make_federation, monkeypatch, carrying):
    monkeypatch.setattr(messages, "POLL_S", 0.01)
    one = make_federation()
    one.carrying = carrying
    one.approve(wanted())
    has_the_charges_of(one, one.run(wanted()))


def test_the_charge_is_what_the_library_says_of_so_many_sampled_gaussians_and_the_auditor_agrees(make_federation, tmp_path):
    one = make_federation()
    one.approve(wanted())
    result = one.run(wanted())
    has_the_charges_of(one, result)
    (report,) = one.folder.glob("run-*/report.html")
    assert "2 rounds of 3 steps of DP-SGD (Abadi et al. 2016) at each hospital" in report.read_text()
    assert "added a share" not in report.read_text()
    (journal,) = one.folder.glob("run-*/journal.jsonl")
    shown = view.view(Journal(journal).events(), run="r", study=wanted(), hospitals=HOSPITALS, now=0)
    assert shown.epsilon == one.vaults["hosp-a"].ledger.spent(delta=Decimal("1e-5")).epsilon_rdp
    for name, rate in (("hosp-a", 0.5), ("hosp-b", 0.25)):
        verdict, expected = verified(one, name, wanted(), folder=tmp_path), composed(rate=rate, steps=6)
        assert float(verdict.epsilon_pld) == pytest.approx(expected, abs=2e-5)
        assert float(verdict.epsilon_pld_independent) == pytest.approx(expected, abs=2e-4)
        assert verdict.epsilon_rdp >= verdict.epsilon_pld
        assert 0 <= Decimal(result["hospital_epsilon"][name]["epsilon"]) - verdict.epsilon_pld < Decimal("0.0002")


def test_a_void_round_of_local_steps_is_charged_again(make_federation):
    one = make_federation()
    one.approve(wanted())
    one.after = lambda name, data: None if name == "hosp-b" and kind(data) == "upload" and round_of(data) == 2 else data
    result = one.run(wanted())
    assert [event["state"] for event in result["rounds"]].count("void") == 1
    assert [len(charges(one, name)) for name in HOSPITALS] == [3, 1, 3, 3]  # hosp-b: the lost one, then it is left out
    assert [mech["hospitals"] for mech in charges(one, "hosp-a")] == [4, 3, 3]


def test_a_killed_coordinator_ends_with_the_same_bytes_and_no_charge_more(make_federation, tmp_path):
    one = make_federation()
    one.approve(wanted())
    folder = one.folder / "run-killed"

    def killed(name, data):
        if name == "hosp-c" and kind(data) == "announce" and round_of(data) == 3:
            raise Killed
        return data

    one.before = killed
    with pytest.raises(Killed):
        one.go_on(wanted(), run="killed", folder=folder)
    shutil.copytree(folder, tmp_path / "copy")
    one.before = lambda _name, data: data
    one.go_on(wanted(), run="killed", folder=folder)
    one.go_on(wanted(), run="killed", folder=tmp_path / "copy")
    assert (folder / "model.safetensors").read_bytes() == (tmp_path / "copy" / "model.safetensors").read_bytes()
    assert [len(charges(one, name)) for name in HOSPITALS] == [2] * 4


@pytest.mark.parametrize("local", [None, pytest.param(LOCAL, marks=pytest.mark.long)])
def test_a_head_is_trained_first_on_frozen_features_and_then_the_whole_network(make_federation, local):
    plan = wanted(recipe="finetune", finetune={"head_steps": 1, "head_learning_rate": Decimal(1)}, local=local)
    one = make_federation()
    one.approve(plan)
    seen = {}

    def before(_name, data):
        if kind(data) == "announce":
            announced = wire.peek(data).body["announcement"]
            seen[announced["task"], announced["index"]] = wire.peek(data).blob
        return data

    one.before = before
    result = one.run(plan)
    assert [event["state"] for event in result["rounds"]] == ["opened"] * 4
    sizes = [sum(part.size for part in parts(seen["train", 1], head=head).values()) for head in (True, False)]
    assert [mech["dimension"] for mech in charges(one, "hosp-a")] == [sizes[0], sum(sizes)]
    first, second = seen["train", 1], seen["train", 2]
    assert not any(part.any() for part in parts(first, head=True).values())
    assert all(part.any() for part in parts(second, head=True).values())
    *_, last = wire.unpack(seen["evaluate", 4], count=4)
    features = parts(first, head=False)
    assert all((features[name] == part).all() for name, part in parts(second, head=False).items())
    assert all((features[name] != part).any() for name, part in parts(last, head=False).items())


def test_a_hospital_refuses_more_local_steps_than_its_policy_allows(make_federation):
    one = make_federation(local_steps_max=2)
    one.approve(wanted())
    with pytest.raises(HospitalMissing):
        one.run(wanted())
    assert entries(one, kind="reserve") == []
