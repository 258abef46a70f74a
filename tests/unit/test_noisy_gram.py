"""A study whose Gram leaves with noise, through real vaults: what is in the sum, what it costs, and what is refused."""

from decimal import Decimal

import numpy as np
import pytest
from scipy import stats

from client import summarise
from common import announcement, wire
from common.audit import replay, verify
from common.crypto import ring
from common.errors import HospitalMissing
from common.ledger import accounting
from common.mechanism import NoisyGram, from_entry
from common.noisy_moments import packed_size
from server import run_commands
from server.glance import Glance
from tests import federation
from tests.asking import set_up
from tests.federation import HOSPITALS, kind
from tests.written import entries, exported, refusals

DELTA = Decimal("1e-5")
PRIVACY = {
    "noise_multiplier": Decimal(4),
    "clip_norm": Decimal("1.5"),
    "delta": Decimal("1e-6"),
    "patients_max": 64,
    "colluders": 1,
    "rounds_void_allowed": 1,
}
MANY = (  # 21 columns in all
    "malignancy ~ mean_hu * depth_min_mm * longest_diameter_mm",
    "malignancy ~ square(mean_hu) * sqrt(depth_min_mm) * sqrt(longest_diameter_mm)",
    "malignancy ~ mean_hu * square(depth_min_mm) * square(longest_diameter_mm)",
)


def noisy_study(models=(), **changes):
    return federation.study(variables=federation.TRANSFORMED, statistics={"models": models, "privacy": {**PRIVACY, **changes}})


def approved(one, wanted):
    one.approve(wanted)
    return one, wanted


def gram(coordinator, attempts=1):
    size = packed_size(len(coordinator.study.columns()))
    return coordinator.secure_sum(task="gram", index=0, dimension=size, blob=b"", attempts=attempts)


def lost(one, name, number):
    """Let the upload of one hospital in one round get lost on its way."""

    def after(who, data):
        body = wire.peek(data).body
        return None if (who, kind(data), body.get("round")) == (name, "upload", number) else data

    one.after = after


def test_a_whole_study_is_charged_for_its_gram_and_its_steps_together(make_federation, tmp_path):
    one, wanted = approved(make_federation(), noisy_study())
    result = one.run(wanted)
    spent = [from_entry(leaf["mech"]) for leaf in entries(one, "hosp-a", "reserve")]
    noisy = [item for item in spent if hasattr(item, "noise_multiplier")]
    assert [type(item).__name__ for item in spent] == ["NoisyGram", "SampledStep", "SampledStep", "Exact"]
    assert [item["statistic"] for item in result["exact_releases"]] == ["score-histogram"]  # the Gram is not among them
    together = accounting.epsilon_pld(noisy, delta=DELTA)
    alone = accounting.epsilon_pld(noisy[1:], delta=DELTA)
    told = {Decimal(part["epsilon"]) for part in (*result["hospital_epsilon"].values(), result["privacy"])}
    assert told == {Decimal(str(together)).quantize(Decimal("0.0001"), rounding="ROUND_CEILING")}
    assert together > alone + 0.1
    assert alone <= float(result["training"]["epsilon"]) < alone + 1e-4  # of the steps alone, as it says
    assert (result["privacy"]["releases"], result["training"]["releases"]) == (3, 2)
    assert Decimal(result["private_gram"]["noise"]["epsilon"]) < min(told)
    assert not {"patients", "correlation", "ols", "linear"} & set(result)  # no exact figure beside the noisy ones
    verdict = verify.verify(exported(one, wanted, "hosp-a", tmp_path / "hosp-a.zip"), roster_hash=one.roster.hash())
    assert (verdict.releases_private, len(verdict.exact)) == (3, 1)
    assert abs(verdict.epsilon_pld - verdict.epsilon_pld_independent) < Decimal("5e-4")
    assert abs(verdict.epsilon_pld - min(told)) < Decimal("0.001")
    (folder,) = one.folder.glob("run-*")
    assert [item.sum_sha256 is not None for item in replay.replay(folder, roster_hash=one.roster.hash())] == [True] * 4
    assert (folder / "report.html").exists()
    assert run_commands._figures(result).row_count == 6


@pytest.mark.statistical
def test_an_opened_sum_is_the_clipped_sum_with_exactly_the_claimed_noise(make_federation):
    one, wanted = approved(make_federation(epsilon_cap=Decimal(1000)), noisy_study(MANY, rounds_void_allowed=8))
    coordinator, noise = set_up(one, wanted, "noise"), []
    cohorts = [vault.prepare(wanted.hash()) for vault in one.vaults.values()]
    size = packed_size(len(wanted.columns()))
    mechanism = announcement.mechanism_for(wanted, task="gram", hospitals=4, dimension=size)
    exact = sum(summarise.summarise_privately(cohort, study=wanted, mechanism=mechanism).values for cohort in cohorts)
    assert 0 < exact[0] <= 4 * federation.PATIENTS  # the patients, where a clipped one counts less
    for _ in range(9):
        announced, words = gram(coordinator)
        assert announced.mechanism == mechanism
        noise.append(ring.decode(words, bits=64) * mechanism.grid_step - exact)
    scaled = np.concatenate(noise) / mechanism.noise_deviation
    assert len(scaled) == 9 * size == 2277  # noise that is a tenth too small would be seen
    # bounds that a right implementation passes but once in 1e6 runs
    assert stats.chi2.ppf(5e-7, len(scaled)) < float(scaled @ scaled) < stats.chi2.ppf(1 - 5e-7, len(scaled))
    assert abs(scaled.mean()) < 5 / np.sqrt(len(scaled))
    assert stats.kstest(scaled, "norm").pvalue > 1e-6


def test_a_lost_gram_is_made_afresh_and_both_are_charged(make_federation):
    one, wanted = approved(make_federation(), noisy_study())
    lost(one, "hosp-b", 1)
    result = one.run(wanted)
    told = [(item["task"], item["state"], len(item["hospitals"])) for item in result["rounds"][:2]]
    assert told == [("gram", "void", 4), ("gram", "opened", 3)]
    kept = sorted((next(one.folder.glob("run-*")) / "rounds").glob("00000[12]/hosp-a.envelope"))
    first, second = (wire.peek(path.read_bytes()) for path in kept)
    assert first.blob != second.blob
    charged = [from_entry(leaf["mech"]) for leaf in entries(one, "hosp-a", "reserve")]
    assert [item.hospitals for item in charged if isinstance(item, NoisyGram)] == [4, 3]
    grams = [from_entry(leaf["mech"]) for leaf in entries(one, "hosp-b", "reserve")]
    assert sum(isinstance(item, NoisyGram) for item in grams) == 1  # its vector was on its way: charged, opened or not
    assert result["hospital_epsilon"]["hosp-a"]["private_releases"] == 4


def test_no_more_grams_leave_in_a_run_than_the_study_allows(make_federation):
    one, wanted = approved(make_federation(), noisy_study())
    coordinator = set_up(one, wanted, "greedy")
    for _ in range(2):  # one, and one more as for a void round
        gram(coordinator)
    with pytest.raises(HospitalMissing):
        gram(coordinator)
    assert {tuple(refusals(one, name)) for name in HOSPITALS} == {("E-REFUSED-PARAMETERS",)}
    assert len(entries(one, "hosp-a", "reserve")) == 2


def test_a_vault_that_restarts_answers_the_same_request_with_the_same_bytes_and_one_charge(make_federation):
    one, wanted = approved(make_federation(), noisy_study())
    answers = []

    def before(name, data):
        if name == "hosp-a" and kind(data) == "announce":
            answers.append(one.vaults[name].answer(data))
            one.restart(name)
        return data

    one.before = before
    gram(set_up(one, wanted, "restart"))
    sent = [data for name, data in one.sent if name == "hosp-a" and kind(data) == "upload"]
    assert answers == sent
    assert len(entries(one, "hosp-a", "reserve")) == len(entries(one, "hosp-a", "release")) == 1


class Killed(BaseException):
    """As `kill -9`: nothing of the product catches it."""


@pytest.mark.parametrize("number", [1, 2])
def test_a_coordinator_killed_during_or_after_the_gram_goes_on_and_nobody_is_charged_again(make_federation, number):
    one, wanted = approved(make_federation(), noisy_study())

    def after(name, data):
        if (name, kind(data), wire.peek(data).body.get("round")) == ("hosp-c", "upload", number):
            raise Killed
        return data

    one.after, folder = after, one.folder / "run-killed"
    with pytest.raises(Killed):
        one.go_on(wanted, run="killed", folder=folder)
    one.after = lambda _name, data: data
    result = one.go_on(wanted, run="killed", folder=folder)
    assert [item["state"] for item in result["rounds"]] == ["opened"] * 4
    assert result["private_gram"]["noise"]["hospitals"] == 4
    for name in HOSPITALS:
        charged = [from_entry(leaf["mech"]) for leaf in entries(one, name, "reserve")]
        assert [type(item).__name__ for item in charged] == ["NoisyGram", "SampledStep", "SampledStep", "Exact"]
    (folder / "study.json").write_bytes(wanted.canonical_bytes())
    seen = Glance(folder).state(now=2e9)
    assert abs(seen.epsilon - Decimal(result["privacy"]["epsilon_rdp"])) <= Decimal("0.001")  # the live view counts it too


def test_the_cap_counts_the_gram_and_training_in_one_ledger(make_federation):
    one, wanted = make_federation(), noisy_study()
    one.approve(wanted)
    gram_and_step = [
        announcement.mechanism_for(wanted, task=task, hospitals=4, dimension=size)
        for task, size in (("gram", 15), ("train", 13))
    ]
    both = accounting.round_up(accounting.epsilon_rdp(gram_and_step, delta=DELTA))
    home = one.homes["hosp-d"]
    home.site_file.write_text(home.site_file.read_text().replace("epsilon_cap = 10", f"epsilon_cap = {both}"))
    one.run(wanted)
    assert [type(from_entry(leaf["mech"])).__name__ for leaf in entries(one, "hosp-d", "reserve")][:2] == [
        "NoisyGram",
        "SampledStep",
    ]
    assert refusals(one, "hosp-d") == ["E-REFUSED-BUDGET"]  # the second step
    assert one.vaults["hosp-d"].ledger.spent(delta=DELTA).epsilon_rdp == both


def test_more_patients_than_declared_are_refused_by_name_inside_and_without_one_outside(make_federation):
    one, wanted = approved(make_federation(), noisy_study(patients_max=federation.PATIENTS - 1))
    with pytest.raises(HospitalMissing):
        one.run(wanted)
    assert set(refusals(one, "hosp-a")) == {"E-DATA-TOO-MANY"}
    said = [wire.peek(data).body for _, data in one.sent if kind(data) == "refusal"]
    assert said
    assert all(body == {"code": "E-REFUSED"} for body in said)
    assert all(entries(one, name, "reserve") == [] for name in HOSPITALS)  # nothing left, nothing is charged


def test_the_ledger_of_exact_sums_does_not_know_a_noisy_gram(make_federation):
    one, wanted = approved(make_federation(exact_releases_max=1), noisy_study(rounds_void_allowed=2))
    result = one.run(wanted)
    assert len(result["exact_releases"]) == 1  # the evaluation; the Gram took none of the cap
    one.before = lambda name, data: data if name != "hosp-d" else None
    coordinator = set_up(one, wanted, "another")
    _, words = gram(coordinator)  # over another roster, which no exact Gram of these patients would be
    assert len(words) == 15
    assert not set(refusals(one, "hosp-a"))


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"delta": Decimal("1e-3")}, "E-REFUSED-PARAMETERS"),
        ({"colluders": 0}, "E-REFUSED-PARAMETERS"),
        ({"colluders": 3}, "E-REFUSED-ROSTER-SIZE"),
        ({"noise_multiplier": Decimal("0.5")}, "E-REFUSED-BUDGET"),
    ],
    ids=str,
)
def test_a_gram_below_the_hospitals_policy_is_refused(make_federation, change, code):
    one, wanted = approved(make_federation(epsilon_cap=Decimal(5)), noisy_study(**change))
    with pytest.raises(HospitalMissing):
        one.run(wanted)
    assert set(refusals(one, "hosp-a")) == {code}
    assert entries(one, "hosp-a", "reserve") == []


@pytest.mark.parametrize(
    "change",
    [
        {"noise_multiplier": Decimal(3)},
        {"clip_norm": Decimal(1)},
        {"patients_max": 63},
        {"share_bits": 23},
        {"ring_bits": 32},
        {"hospitals": 3},
        {"colluders": 0},
        {"dimension": 16},
        None,
    ],
    ids=str,
)
def test_a_mechanism_that_is_not_the_studys_is_refused(quiet, change):
    one, wanted, coordinator = quiet
    honest = announcement.mechanism_for(wanted, task="gram", hospitals=4, dimension=15)
    lie = {**honest.entry(), **{key: str(v) if isinstance(v, Decimal) else v for key, v in (change or {}).items()}}
    if change is None:
        lie = {"name": "none", "statistic": "gram", "ring_bits": 128}  # the exact Gram that this study does not ask for
    plain = announcement.Announcement(
        run=coordinator.run, study=wanted.hash(), roster=one.roster.hash(), round=1, hospitals=HOSPITALS, task="gram", index=0,
        dimension=16 if change == {"dimension": 16} else 15, blob_sha256=wire.hashlib.sha256(b"").hexdigest(), mechanism=honest,
    ).plain()  # fmt: skip
    body = {
        "announcement": {**plain, "mechanism": lie},
        "inbox": {peer: text.hex() for peer, text in coordinator.sealed.items() if peer != "hosp-a"},
        "outcomes": {},
    }
    sent = wire.Envelope(kind="announce", sender=federation.COORDINATOR, recipient="hosp-a", run=coordinator.run, body=body)
    reply = wire.peek(one.vaults["hosp-a"].answer(wire.seal(sent, key=coordinator.key)))
    assert (reply.kind, reply.body["code"]) == ("refusal", "E-REFUSED-PARAMETERS")
    assert entries(one, "hosp-a", "reserve") == []


@pytest.fixture(scope="module")
def quiet(tmp_path_factory, phantom_scans, cohort_cache):
    """A federation, a study and a coordinator for requests that are all refused."""
    one = federation.Federation(tmp_path_factory.mktemp("quiet"), phantom_scans, cache=cohort_cache)
    one.approve(noisy_study())
    yield one, noisy_study(), set_up(one, noisy_study(), "lies")
    one.close()
