"""What a lying coordinator tries, beyond junk: each attack works against exact sums that are answered one by one."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from client import config, exact, session
from client.vault import Vault
from common import model, roster, wire
from common.crypto import masking, ring
from common.errors import AlreadyAnswered, ConfigError, HospitalMissing, MotetError, RecordDamaged
from tests import federation
from tests.asking import gram
from tests.federation import HOSPITALS, kind
from tests.written import refusals

ABC = ("hosp-a", "hosp-b", "hosp-c")


@pytest.fixture
def approved(make_federation):
    one, wanted = make_federation(), federation.study()
    one.approve(wanted)
    return one, wanted


def coordinator(one, wanted, name="attack"):
    """Return a coordinator that can ask for anything."""
    return federation.Coordinator(one, wanted, run=name)


def blobs(wanted, count):
    recipe = wanted.recipe
    return [model.initial(wanted.training, channels=1 + recipe.edge_channel, patch_voxels=recipe.patch_voxels)] * count


def score(rounds, wanted, models):
    return rounds.secure_sum(
        task="evaluate",
        index=len(models),
        dimension=len(models) * 2 * wanted.training.score_bins,
        blob=wire.pack(models),
        attempts=1,
    )


def test_two_runs_over_different_rosters_cannot_isolate_a_hospital(approved):
    one, wanted = approved
    one.run(wanted)
    one.before = lambda name, data: data if name in ABC else None
    second = coordinator(one, wanted)
    second.set_up()
    assert second.rounds.members == ABC
    with pytest.raises(HospitalMissing):
        gram(second)
    assert {name: refusals(one, name) for name in ABC} == {name: ["E-REFUSED-REPEAT"] for name in ABC}


def test_the_same_statistic_over_the_same_rows_and_roster_may_be_asked_again(approved):
    one, wanted = approved
    first, second = one.run(wanted), one.run(wanted)
    assert first["correlation"] == second["correlation"]


def test_a_restart_does_not_forget_which_rosters_were_answered(approved):
    one, wanted = approved
    one.run(wanted)
    for name in HOSPITALS:
        one.restart(name)
    one.before = lambda name, data: data if name in ABC else None
    second = coordinator(one, wanted)
    second.set_up()
    with pytest.raises(HospitalMissing):
        gram(second)


def test_an_exact_statistic_is_not_answered_over_other_rows(approved, tmp_path):
    one, wanted = approved
    one.run(wanted)
    home = one.homes["hosp-a"]
    site = config.read_site(home)
    with site.clinical.open() as file:
        rows = list(csv.reader(file))
    fewer = tmp_path / "clinical.csv"
    with fewer.open("w", newline="") as file:
        csv.writer(file).writerows(rows[:-1])
    home.site_file.write_text(home.site_file.read_text().replace(str(site.clinical), str(fewer)))
    one.restart("hosp-a")
    with pytest.raises(HospitalMissing):
        one.run(wanted)
    assert refusals(one) == ["E-REFUSED-REPEAT"]


def test_another_study_that_shares_columns_cannot_ask_over_another_roster(approved):
    one, wanted = approved
    one.run(wanted)
    regression = {"outcome": "malignancy", "predictors": ["mean_hu"]}
    other = federation.study(statistics={**federation.STUDY["statistics"], "regression": regression}, title="another study")
    one.approve(other)
    one.before = lambda name, data: data if name in ABC else None
    second = coordinator(one, other)
    second.set_up()
    with pytest.raises(HospitalMissing):
        gram(second)
    assert {name: refusals(one, name) for name in ABC} == {name: ["E-REFUSED-REPEAT"] for name in ABC}


def test_an_exact_sum_is_answered_over_one_roster_only(tmp_path):
    path = tmp_path / "exact.json"
    asked = {"q1": b"rows", "q2": b"rows"}
    exact.save(path, exact.check(path, questions=asked, roster=("a", "b", "c"), secret=b"k"))
    exact.check(path, questions={"q1": b"rows", "q3": b"other"}, roster=("a", "b", "c"), secret=b"k")
    for other in (("a", "b"), ("a", "b", "c", "d", "e", "f", "g"), ("a", "d", "e")):
        with pytest.raises(AlreadyAnswered, match="roster"):
            exact.check(path, questions={"q2": b"rows"}, roster=other, secret=b"k")
    with pytest.raises(AlreadyAnswered, match="rows"):
        exact.check(path, questions={"q2": b"rows and one more"}, roster=("a", "b", "c"), secret=b"k")
    path.write_bytes(b"[]")
    with pytest.raises(RecordDamaged):
        exact.check(path, questions=asked, roster=("a",), secret=b"k")


def test_models_that_training_did_not_pass_through_are_not_scored(approved):
    one, wanted = approved
    attack = coordinator(one, wanted)
    attack.set_up()
    network = model.build(wanted.training, channels=1, patch_voxels=wanted.recipe.patch_voxels)
    model.load(network, blobs(wanted, 1)[0])
    names = model.trainable_names(network, wanted.training)
    made = []
    for number in range(wanted.training.steps + 2):
        model.with_flat(network, names, np.full(13, number + 1.0))
        made.append(model.dump(network))
    gram(attack)
    for step in range(wanted.training.steps):
        attack.secure_sum(task="train", index=step + 1, dimension=13, blob=blobs(wanted, 1)[0], attempts=1)
    with pytest.raises(HospitalMissing):
        score(attack, wanted, made)
    assert refusals(one) == ["E-REFUSED-PARAMETERS"]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 200])
def test_only_the_studys_number_of_models_is_scored(approved, count):
    one, wanted = approved
    attack = coordinator(one, wanted)
    attack.set_up()
    with pytest.raises(HospitalMissing):
        score(attack, wanted, blobs(wanted, count))
    assert refusals(one) == ["E-REFUSED-PARAMETERS"]


def test_models_with_other_features_are_not_scored(approved):
    one, wanted = approved
    attack = coordinator(one, wanted)
    attack.set_up()
    network = model.build(wanted.training, channels=1, patch_voxels=wanted.recipe.patch_voxels)
    model.load(network, blobs(wanted, 1)[0])
    with torch.no_grad():
        network.conv1.weight.mul_(2)
    with pytest.raises(HospitalMissing):
        score(attack, wanted, [model.dump(network)] * (wanted.training.steps + 2))
    assert refusals(one) == ["E-PROTOCOL"]
    assert not [1 for _, data in one.sent if kind(data) == "upload"]


def test_the_least_number_of_patients_holds_for_the_rows_of_a_sum(make_federation):
    narrow = [
        {**one, "upper": one["lower"] + 1} if one["name"] == "malignancy" else one for one in federation.STUDY["variables"]
    ]
    one, wanted = make_federation(patients_min=5), federation.study(variables=narrow)
    one.approve(wanted)
    with pytest.raises(HospitalMissing):
        one.run(wanted)
    assert refusals(one) == ["E-REFUSED-PATIENTS"]
    assert not [1 for _, data in one.sent if kind(data) == "upload"]


def test_who_takes_the_disk_cannot_open_what_was_sent(approved):
    one, wanted = approved
    attack = coordinator(one, wanted)
    attack.set_up()
    announced, total = gram(attack)
    opened = []
    for name in HOSPITALS:
        state = session.load(one.homes[name].state, run="attack")
        upload = wire.peek((one.homes[name].state / "attack-1.reply").read_bytes())
        vector = ring.from_bytes(upload.blob, dimension=announced.dimension, bits=128)
        ctx = masking.context(state.transcript, announcement=announced.bytes())
        seeds = session.seeds(state.pair_keys, ctx=ctx, me=name)
        masks = masking.mask(ring.zeros(announced.dimension, bits=128), me=name, seeds=seeds, bits=128)
        rows = ring.decode(ring.subtract(vector, masks), bits=128)[0]
        opened.append(0 <= rows <= 10 * federation.PATIENTS)
        assert {masking.commitment(seed, ctx=ctx) for seed in seeds.values()}.isdisjoint(upload.body["commitments"].values())
    assert opened == [False] * len(HOSPITALS)
    assert ring.decode(total, bits=128)[0] == len(HOSPITALS) * federation.PATIENTS


def test_a_vault_without_its_ledger_does_not_start(approved):
    one, wanted = approved
    one.run(wanted)
    one.vaults["hosp-a"].close()
    for path in one.homes["hosp-a"].folder.glob("ledger.sqlite*"):
        path.unlink()
    with pytest.raises(MotetError, match="ledger"):
        Vault(one.homes["hosp-a"], clock=lambda: 0, progress=lambda _done, _total: None)
    one.vaults.pop("hosp-a")


def test_a_state_older_than_its_ledger_is_refused(approved):
    one, wanted = approved
    attack = coordinator(one, wanted)
    attack.set_up()
    path = one.homes["hosp-a"].state / "attack.run.json"
    old = path.read_bytes()
    gram(attack)
    path.write_bytes(old)
    with pytest.raises(HospitalMissing):
        attack.secure_sum(task="train", index=1, dimension=13, blob=blobs(wanted, 1)[0], attempts=1)
    assert refusals(one) == ["E-SETUP"]


def test_close_erases_the_keys_whatever_else_it_says(approved):
    one, wanted = approved
    attack = coordinator(one, wanted)
    attack.set_up()
    gram(attack)
    attack.rounds.outcomes = {"1": "void"}
    attack.close()
    attack.rounds.outcomes = {"1": "opened"}
    attack.close()
    for home in one.homes.values():
        assert session.load(home.state, run="attack").pair_keys == {}


def test_a_run_does_not_outlive_the_roster_that_it_was_set_up_over(approved):
    one, wanted = approved
    attack = coordinator(one, wanted)
    attack.set_up()
    new = roster.sign(federation="renewed", coordinator=federation.COORDINATOR, key=one.key, members=one.roster.members)
    config.approve_roster(one.homes["hosp-a"], data=new.bytes(), expected_hash=new.hash())
    with pytest.raises(HospitalMissing):
        gram(attack)
    assert refusals(one) == ["E-REFUSED-ROSTER"]


def test_no_round_far_ahead_makes_a_vault_count_for_minutes(approved):
    one, wanted = approved
    attack = coordinator(one, wanted)
    attack.set_up()
    attack.rounds.number = 500_000
    with pytest.raises(HospitalMissing):
        gram(attack)
    assert refusals(one) == ["E-ROUND"]


def test_more_exact_sums_than_the_hospital_allows_are_refused(make_federation):
    one, wanted = make_federation(exact_releases_max=2), federation.study()
    one.approve(wanted)
    one.run(wanted)
    result = one.run(wanted)
    assert result["training"]["auc"] is None
    assert refusals(one) == ["E-REFUSED-EXACT"]


def test_a_vault_that_does_not_start_lets_go_of_its_ledger(make_federation):
    before = make_federation().vaults.pop("hosp-a")
    before.close()
    (before.home.approved / "policy-signatures.json").write_bytes(b"[")
    with pytest.raises(ConfigError, match="is damaged") as held:  # and with it every local variable
        Vault(before.home, clock=lambda: 0, progress=lambda _done, _total: None)
    assert before.home.ledger.resolve() not in {path.resolve() for path in Path("/proc/self/fd").iterdir()}
    assert held.value.action
