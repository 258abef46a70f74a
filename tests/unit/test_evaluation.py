"""What is claimed of an evaluation's tables: who is in which, which cells are never shown, what a run's report says."""

from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest

from client import config, pipeline, policy, score
from client.kernels.rows import ALONE, Seat
from common import announcement, model, scores, wire
from common.announcement import mechanism_for
from common.crypto import ring
from common.errors import ConfigError, OutsidePolicy, ProtocolError, TooManyPatients
from common.study import Study
from server import evaluation, plan, report, run_commands
from tests import federation, learning
from tests.heads import CLASSES, cohort, study

CUTS = [Decimal(8), Decimal(11)]


def with_details(head="binary", *, by_hospital=False, privacy=None, **training):
    plain = study(head, **training).model_dump()
    plain["evaluation"] = {
        "subgroups": [{"variable": "length_mm", "cuts": CUTS}],
        "by_hospital": by_hospital,
        "privacy": privacy,
    }
    return Study.model_validate(plain)


def tables(wanted, patients, *, seat=ALONE, cell_min=5, rows=None, count=None):
    """The opened tables of one hospital, without noise."""
    network = learning.built(wanted)
    vector = model.flat(network, model.HEAD)
    model.with_flat(network, model.HEAD, 3 * np.cos(np.arange(float(len(vector)))))
    blobs = [model.dump(network)] * (scores.models(wanted) if count is None else count)
    made = score.contribution(
        blobs,
        study=wanted,
        cohort=patients,
        held_out_rows=np.arange(len(patients.patients)) if rows is None else np.array(rows),
        mechanism=mechanism_for(wanted, task="evaluate", hospitals=4, dimension=scores.dimension(wanted)),
        seat=seat,
        cell_min=cell_min,
    )
    return scores.split(made.values, study=wanted), made


PRIVACY = {"noise_multiplier": "4", "delta": "1e-6", "patients_max": 60, "colluders": 1, "rounds_void_allowed": 0}


@pytest.mark.parametrize("head", ["binary", "classes", "ordinal", "regression"])
def test_one_patient_moves_the_tables_by_no_more_than_the_mechanism_says(head):
    wanted, patients = with_details(head, by_hospital=True, privacy=PRIVACY), cohort(head, 12, views=(1,))
    seat = Seat(at=2, of=4, honest=3, shows=True)
    whole, made = tables(wanted, patients, seat=seat)
    assert made.mechanism.clipped_norm == scores.entries(wanted) ** 0.5
    moves = []
    for left_out in range(12):
        _, without = tables(wanted, patients, seat=seat, rows=[row for row in range(12) if row != left_out])
        moves.append(np.linalg.norm(made.values - without.values))
    assert min(moves) >= 1
    assert max(moves) <= made.mechanism.clipped_norm + 1e-9
    if head != "regression":  # counts: as many ones as the mechanism says, no bound that is never reached
        assert moves == pytest.approx([made.mechanism.clipped_norm] * 12)
    assert whole.details[scores.HOSPITALS][2].any()
    assert not np.delete(whole.details[scores.HOSPITALS], 2, axis=0).any()


@pytest.mark.parametrize("head", ["classes", "ordinal"])
def test_every_patient_is_once_in_each_table(head):
    wanted, patients = with_details(head, steps=1), cohort(head, 25, views=(1, 2))
    opened, _ = tables(wanted, patients, cell_min=1)
    for one in opened.models:
        assert one["confusion"].sum() == 25
        assert [table.sum() for table in one["scores"]] == [25] * scores.questions(wanted)
        assert np.array_equal(one["confusion"].sum(axis=1)[0], one["scores"][0][int(head == "classes")].sum())
    assert opened.details["length_mm"].sum() == 25


def test_subgroups_are_the_bands_of_the_variable():
    wanted, patients = with_details(steps=1), learning.cohort(60, views=(1,))
    table = tables(wanted, patients, cell_min=2)[0].details["length_mm"]
    bands = np.digitize(patients.table[:, 0], [8, 11])
    above = patients.table[:, 1] > 3
    counts = [[((bands == at) & (above == side)).sum() for side in (False, True)] for at in range(3)]
    assert table.sum(axis=2).tolist() == [*counts, [0, 0]]  # no row is so small that it goes to everybody else


@pytest.mark.parametrize("cell_min", [2, 4, 8, 15, 40])
def test_no_row_of_a_subgroup_or_hospital_ever_shows_fewer_than_the_hospitals_minimum(cell_min):
    wanted = with_details(by_hospital=True, steps=1)
    seat = Seat(at=0, of=4, honest=3, shows=True)
    for seed in range(6):
        patients = learning.cohort(20 + 5 * seed, views=(1,), seed=seed)
        missing = patients.table.copy()
        missing[:seed, 0] = np.nan
        opened, _ = tables(wanted, replace(patients, table=missing), cell_min=cell_min, seat=seat)
        for rows in opened.details.values():
            cells = rows.sum(axis=2)
            assert not ((cells > 0) & (cells < cell_min)).any()
        assert opened.details["length_mm"].sum() in {0, 20 + 5 * seed}  # merged, or nobody


def test_with_noise_nobody_is_moved_since_that_would_depend_on_others():
    wanted, patients = with_details(privacy=PRIVACY), learning.cohort(20, views=(1,))
    table = tables(wanted, patients, cell_min=40)[0].details["length_mm"]
    assert np.array_equal(table.sum(axis=(1, 2)), [*np.bincount(np.digitize(patients.table[:, 0], [8, 11]), minlength=3), 0])


def test_more_patients_than_a_noisy_evaluation_allows_are_refused():
    wanted = with_details(privacy={**PRIVACY, "patients_max": 5})
    with pytest.raises(TooManyPatients):
        tables(wanted, learning.cohort(6, views=(1,)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"subgroups": [{"variable": "nothing", "cuts": ["1"]}]}, "not among the variables"),
        ({"subgroups": [{"variable": "length_mm"}]}, "has no cuts"),
        ({"subgroups": [{"variable": "length_mm", "cuts": ["2", "1"]}]}, "rise"),
        ({"subgroups": [{"variable": "length_mm", "cuts": ["2"]}] * 2}, "twice"),
        ({"privacy": {**PRIVACY, "noise_multiplier": "0.01"}}, "greater than or equal"),
    ],
)
def test_wishes_that_cannot_be_met_are_refused(change, said):
    plain = learning.study().model_dump()
    plain["evaluation"] = change
    with pytest.raises(ValueError, match=said):
        Study.model_validate(plain)


def test_a_noisy_evaluation_brings_no_earlier_model_back():
    plain = learning.study(auc_drop_max="0.1").model_dump()
    Study.model_validate(plain)
    plain["evaluation"] = {"privacy": PRIVACY}
    with pytest.raises(ValueError, match="auc_drop_max"):
        Study.model_validate(plain)


def test_a_run_tells_classes_subgroups_and_the_one_hospital_that_shows_its_own(make_federation, tmp_path):
    one = make_federation(cell_min=2)
    wanted = federation.study(
        training={
            "head": "ordinal",
            "positive_above": None,
            "classes": CLASSES,
            "thresholds": [Decimal("2.8"), Decimal("3.6")],
            "held_out_fraction": Decimal("0.9"),
        },
        evaluation={"subgroups": [{"variable": "mean_hu", "cuts": [Decimal(20)]}], "by_hospital": True},
    )
    home = one.homes["hosp-b"]
    home.site_file.write_text(home.site_file.read_text().replace("site_aggregates = false", "site_aggregates = true"))
    one.approve(wanted)
    result = one.run(wanted)
    told = result["training"]["evaluation"]
    assert [row["question"] for row in told["questions"]] == ["malignancy: beyond small", "malignancy: beyond middle"]
    held_out = result["training"]["held_out_patients"]
    assert held_out > 30
    assert np.sum(told["confusion"]["counts"]) == held_out
    assert {row["class"] for row in told["confusion"]["per_class"]} == set(CLASSES)
    assert all(row["auc"]["value"] is not None for row in told["questions"])
    shown = {row["group"]: row for row in told["hospitals"]}
    assert {name for name, row in shown.items() if "diagnosis" not in row} == {"hosp-b"}
    assert [row["group"] for row in told["subgroups"][0]["rows"]] == ["below 20", "20 and above", "everybody else"]
    assert sum(row.get("patients", 0) for row in told["subgroups"][0]["rows"]) <= held_out
    report.render(result, out=tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    for words in (
        "Confusion matrix",
        "Reliability, malignancy",
        "Subgroups by mean_hu",
        "quadratically weighted kappa",
        "<svg",
    ):
        assert words in page


def test_a_hospital_that_is_left_out_trains_nothing_and_is_told_apart_where_it_shows_that(make_federation, tmp_path):
    one = make_federation(cell_min=2)
    wanted = federation.study(
        training={"held_out_fraction": Decimal("0.9")}, evaluation={"unseen": ["hosp-d"], "subgroups": []}
    )
    home = one.homes["hosp-d"]
    home.site_file.write_text(home.site_file.read_text().replace("site_aggregates = false", "site_aggregates = true"))
    one.approve(wanted)
    result = one.run(wanted)
    rounds = {item["task"]: item["hospitals"] for item in result["rounds"]}
    assert rounds["train"] == ["hosp-a", "hosp-b", "hosp-c"]
    assert rounds["evaluate"] == list(federation.HOSPITALS)
    assert result["hospital_epsilon"]["hosp-d"]["private_releases"] == 0
    (told,) = result["training"]["evaluation"]["unseen"]
    assert told["group"] == "hosp-d"
    assert 4 <= told["patients"] < result["training"]["held_out_patients"]
    assert told["accuracy"]["low"] <= told["accuracy"]["value"] <= told["accuracy"]["high"]
    made = federation.Coordinator(one, wanted, run="lies")
    made.set_up()
    step = announcement.Announcement(
        run="lies", study=wanted.hash(), roster=one.roster.hash(), round=1, hospitals=federation.HOSPITALS, task="train",
        index=1, dimension=13, blob_sha256="0" * 64,
        mechanism=mechanism_for(wanted, task="train", hospitals=4, dimension=13, index=1),
    )  # fmt: skip
    site = config.read_site(home).policy
    for name in ("hosp-a", "hosp-d"):
        with pytest.raises(OutsidePolicy, match="never see"):
            policy.check_round(site, announcement=step, study=wanted, roster=one.roster, me=name)


def test_an_unseen_hospital_that_shows_nothing_is_not_told_apart():
    plain = learning.study(steps=1).model_dump()
    plain["evaluation"] = {"unseen": ["hosp-d"]}
    wanted, patients = Study.model_validate(plain), learning.cohort(20, views=(1,))
    assert not tables(wanted, patients)[0].details[scores.UNSEEN].any()


def test_a_plan_says_what_leaving_out_each_hospital_costs():
    plain = learning.study().model_dump()
    alone = plan.plan(Study.model_validate(plain), hospitals=4)
    plain["evaluation"] = {"unseen": ["hosp-d"]}
    made = plan.plan(Study.model_validate(plain), hospitals=4)
    (rule,) = [text for text in made["rules"] if "leave out each hospital once is 4 such studies" in text]
    costs = Decimal(rule.split("epsilon ")[1].split(" ")[0])
    assert costs > 1.5 * float(made["training"]["epsilon"])
    assert made["training"]["noise_over_clip"] > alone["training"]["noise_over_clip"]  # three share the noise, not four
    with pytest.raises(ConfigError):
        plan.plan(Study.model_validate(plain), hospitals=3)


def test_a_run_that_learns_a_value_tells_its_error_with_noise_and_pays_for_it(make_federation, tmp_path):
    one = make_federation(epsilon_cap=Decimal(1000), cell_min=2)
    privacy = {"noise_multiplier": "0.5", "delta": "1e-6", "patients_max": 60, "colluders": 1, "rounds_void_allowed": 0}
    wanted = federation.study(
        training={"head": "regression", "positive_above": None, "held_out_fraction": Decimal("0.9")},
        evaluation={"privacy": privacy},
    )
    one.approve(wanted)
    result = one.run(wanted)
    told = result["training"]["evaluation"]
    scored = sum(len(pipeline.training_rows(vault.prepare(wanted.hash()), study=wanted)[1]) for vault in one.vaults.values())
    sigma = told["noise"]["sigma"]
    assert sigma == pytest.approx(0.5 * (scores.entries(wanted) * 4 / 3) ** 0.5, rel=1e-3)  # three shares suffice
    assert told["regression"]["patients"] == pytest.approx(scored, abs=6 * sigma)
    error = told["regression"]["mean_absolute_error"]
    assert 0 < error["low"] <= error["value"] <= error["high"] < 8
    assert result["training"]["auc"] is None
    assert float(told["noise"]["epsilon"]) > 10
    assert [item["statistic"] for item in result["exact_releases"]] == ["gram"]
    report.render(result, out=tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "Mean absolute error, held-out patients" in page
    assert "differential privacy per patient for this release" in page
    shown = run_commands._figures(result)
    assert "held-out mean absolute error" in list(shown.columns[0].cells)


@pytest.mark.parametrize("count", [-1, 2**22 + 1, 2**62])
@pytest.mark.parametrize("head", ["binary", "regression"])
def test_exact_tables_that_hold_an_impossible_count_are_refused(head, count):
    wanted = study(head)
    exact = mechanism_for(wanted, task="evaluate", hospitals=4, dimension=scores.dimension(wanted))
    vector = np.zeros(scores.dimension(wanted), np.int64)
    vector[-1] = count if head == "binary" or count < 0 else min(count << scores.UNIT_BITS, 2**62)
    with pytest.raises(ProtocolError):
        evaluation._values(ring.encode(vector, bits=64), spent=exact, study=wanted)


@pytest.mark.long
def test_a_hospital_that_adds_impossible_counts_costs_the_evaluation_and_not_the_model(make_federation):
    one = make_federation()
    wanted = federation.study()
    one.approve(wanted)

    def lie(name, data):
        if name != "hosp-b" or federation.kind(data) != "upload":
            return data
        told = wire.peek(data)
        if len(told.blob) != ring.size_bytes(scores.dimension(wanted), bits=64):
            return data
        words = np.frombuffer(told.blob, "<i8").copy()
        words[:2] -= np.int64(1000)
        return wire.seal(replace(told, blob=words.tobytes()), key=config.identity_key(one.homes[name]))

    one.after = lie
    result = one.run(wanted)
    assert result["training"]["diagnosis"] == "The opened tables hold a count that is none."
    assert result["training"]["auc"] is None
    assert (next(one.folder.glob("run-*")) / "model.safetensors").stat().st_size > 0
