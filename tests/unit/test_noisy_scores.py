"""A study whose evaluation leaves with noise, through real vaults: what is in the sum, what it costs, and what is refused."""

from decimal import Decimal

import numpy as np
import pytest
from scipy import stats

from client import score
from client.pipeline import seat, training_rows
from common import announcement, model, scores, wire
from common.audit import verify
from common.crypto import ring
from common.errors import HospitalMissing
from common.ledger import accounting
from common.mechanism import Exact, NoisyScores, from_entry
from tests import federation
from tests.asking import set_up
from tests.federation import HOSPITALS
from tests.written import entries, exported, refusals

DELTA = Decimal("1e-6")
PRIVACY = {
    "noise_multiplier": Decimal(4),
    "delta": DELTA,
    "patients_max": 64,
    "colluders": 1,
    "rounds_void_allowed": 1,
}
SUBGROUPS = [{"variable": "mean_hu", "cuts": [Decimal(0), Decimal(30)]}]


def noisy_study(*, subgroups=(), by_hospital=False, bins=16, **changes):
    return federation.study(
        evaluation={"privacy": {**PRIVACY, **changes}, "subgroups": subgroups, "by_hospital": by_hospital},
        training={"score_bins": bins},
    )


def approved(one, wanted):
    one.approve(wanted)
    return one, wanted


def private(one, name):
    return [from_entry(leaf["mech"]) for leaf in entries(one, name, "reserve")]


def final_model(wanted):
    return model.initial(wanted.training, channels=1, patch_voxels=32)


def opened(coordinator, wanted, blob):
    return coordinator.secure_sum(
        task="evaluate", index=1, dimension=scores.dimension(wanted), blob=wire.pack([blob]), attempts=1
    )


def test_a_run_is_charged_once_for_its_scores_and_every_accountant_agrees(make_federation, tmp_path):
    one, wanted = approved(make_federation(epsilon_cap=Decimal(40)), noisy_study(subgroups=SUBGROUPS))
    result = one.run(wanted)
    spent = [item for item in private(one, "hosp-a") if isinstance(item, NoisyScores)]
    assert len(spent) == 1
    assert spent[0].entries == 2  # the pooled scores, and those of a subgroup
    assert spent[0].sensitivity == pytest.approx(2**0.5, rel=1e-4)
    told = result["training"]["evaluation"]
    assert Decimal(told["noise"]["epsilon"]) == accounting.round_up(accounting.epsilon_pld(spent, delta=DELTA))
    assert [item["statistic"] for item in result["exact_releases"]] == ["gram"]  # the evaluation is none
    together = [item for item in private(one, "hosp-a") if not isinstance(item, Exact)]
    assert [type(item).__name__ for item in together] == ["SampledStep", "SampledStep", "NoisyScores"]
    assert Decimal(result["privacy"]["epsilon_rdp"]) >= accounting.round_up(
        accounting.epsilon_rdp(together, delta=Decimal("1e-5"))
    ) - Decimal("1e-4")
    verdict = verify.verify(exported(one, wanted, "hosp-a", tmp_path / "hosp-a.zip"), roster_hash=one.roster.hash())
    assert (verdict.releases_private, len(verdict.exact)) == (3, 1)
    assert abs(verdict.epsilon_pld - verdict.epsilon_pld_independent) < Decimal("5e-4")
    assert verdict.delta == DELTA  # that of the last release; the result's is that of training
    assert verdict.epsilon_pld == accounting.round_up(accounting.epsilon_pld(together, delta=DELTA))
    at_its_own = Decimal(str(accounting.epsilon_pld(together, delta=Decimal("1e-5"))))
    assert 0 <= Decimal(result["hospital_epsilon"]["hosp-a"]["epsilon"]) - at_its_own < Decimal("0.001")


def test_the_opened_tables_are_the_true_ones_and_noise_of_the_stated_size(make_federation):
    one, wanted = approved(make_federation(), noisy_study(subgroups=SUBGROUPS, by_hospital=True, bins=64))
    final = final_model(wanted)
    announced, words = opened(set_up(one, wanted, "noise"), wanted, final)
    spent = announced.mechanism
    values = ring.decode(words, bits=64).astype(float) * spent.grid_step
    true = np.zeros(len(values))
    for name in HOSPITALS:
        cohort = one.vaults[name].prepare(wanted.hash())
        _, out = training_rows(cohort, study=wanted)
        true += score.contribution(
            [final],
            study=wanted,
            cohort=cohort,
            held_out_rows=out,
            mechanism=spent,
            seat=seat(announced, study=wanted, me=name, shows=False),
            cell_min=5,
        ).values
    assert true.sum() > 20
    scaled = (values - true) / spent.noise_deviation
    assert len(scaled) > 1000
    assert abs((scaled**2).sum() - len(scaled)) < 5 * (2 * len(scaled)) ** 0.5
    assert stats.kstest(scaled, "norm").pvalue > 1e-6
    assert spent.noise_deviation == pytest.approx(4 * 3**0.5 * (4 / 3) ** 0.5, rel=1e-3)
    shown = scores.split(true, study=wanted).details[scores.HOSPITALS]
    assert not shown.any()  # no hospital's policy shows its own result


def test_no_more_scores_leave_in_a_run_than_the_study_allows(make_federation):
    one, wanted = approved(make_federation(), noisy_study())
    coordinator, final = set_up(one, wanted, "greedy"), final_model(wanted)
    for _ in range(2):  # one, and one more as for a void round
        opened(coordinator, wanted, final)
    with pytest.raises(HospitalMissing):
        opened(coordinator, wanted, final)
    for name in HOSPITALS:
        assert len(entries(one, name, "reserve")) == 2
        assert refusals(one, name) == ["E-REFUSED-PARAMETERS"]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"delta": Decimal("1e-3")}, "E-REFUSED-PARAMETERS"),
        ({"colluders": 0}, "E-REFUSED-PARAMETERS"),
        ({"colluders": 3}, "E-REFUSED-ROSTER-SIZE"),
    ],
    ids=str,
)
def test_scores_below_the_hospitals_policy_are_refused(make_federation, change, code):
    one, wanted = approved(make_federation(), noisy_study(**change))
    with pytest.raises(HospitalMissing):
        one.run(wanted)
    assert set(refusals(one)) == {code}
    assert entries(one, "hosp-a", "reserve") == []


def test_more_patients_than_declared_are_refused_and_cost_nothing(make_federation):
    one, wanted = approved(make_federation(), noisy_study(patients_max=1))
    with pytest.raises(HospitalMissing):
        opened(set_up(one, wanted, "many"), wanted, final_model(wanted))
    refused = {code for name in HOSPITALS for code in refusals(one, name)}
    assert refused == {"E-DATA-TOO-MANY"}


def test_a_charged_study_answers_no_exact_scores(make_federation):
    one, wanted = approved(make_federation(), noisy_study())
    assert not announcement.is_exact(wanted, task="evaluate")
    coordinator = set_up(one, wanted, "exact")
    with pytest.raises(HospitalMissing):
        coordinator.secure_sum(
            task="evaluate", index=4, dimension=scores.dimension(wanted), blob=wire.pack([final_model(wanted)] * 4), attempts=1
        )
    assert all(entries(one, name, "reserve") == [] for name in HOSPITALS)
