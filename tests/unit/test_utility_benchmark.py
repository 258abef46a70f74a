"""Claims about the benchmark of utility: its rows are the product's training, and its figures are what they are called."""

import json

import numpy as np
import pytest

from client import train
from common import model
from tests import learning
from tests.benchmarks import utility, utility_data, utility_rows, utility_search
from tests.benchmarks.utility_data import HOSPITALS, TEST, TRAIN, Data, embedded

WAY = {"optimiser": {"kind": "momentum", "momentum": "0.9"}}
NO_NOISE = "0.0001"


def setting(**changes):
    made = {
        "learning_rate": "3",
        "clip_norm": "0.6",
        "noise_multiplier": NO_NOISE,
        "steps": 20,
        "sampling_rate": "1",
        "way": WAY,
    }
    return utility_rows.Setting(**{**made, **changes})


def data(n=150):
    cohort = learning.cohort(n, side=16, channels=2, views=(1,))
    features = embedded(np.array(cohort.views))
    labels = (cohort.table[:, 1] > 3).astype(int)
    parts = np.array([TRAIN, TRAIN, TRAIN, TRAIN, TEST])[np.random.default_rng(0).permutation(n) % 5]
    return Data(
        name="blobs",
        views=cohort.views,
        features=features,
        labels=labels,
        hospitals=np.arange(n) // 2 % HOSPITALS,
        parts=parts,
    )


def test_the_clipped_sum_is_the_hospitals():
    cohort = learning.cohort(40, side=16, channels=2, views=(1,))
    study = learning.study(edge=True, clip_norm="0.6")
    network = learning.built(study)
    weights = np.random.default_rng(1).normal(size=13)
    model.with_flat(network, model.HEAD, weights)
    rows = train.labelled_rows(cohort, study=study)
    theirs = train.clipped_sum(
        model.dump(network), study=study, cohort=cohort, training_rows=rows, sampled=np.ones(len(rows), bool)
    )
    features, labels = embedded(np.array(cohort.views)), (cohort.table[:, 1] > 3).astype(float)
    held = model.flat(network, model.HEAD)  # as it travels, in float32
    every = setting()
    patients = utility_rows.Head(features=features, labels=labels)
    ours = utility_rows.sampled_sum(patients, held, setting=every, random=np.random.default_rng(0))
    assert np.allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    norms = np.linalg.norm(utility_rows.gradients(held, features, labels), axis=1)
    assert (norms > 0.6).any()
    assert (norms < 0.6).any()


def test_masked_sums_open_to_the_sum_with_the_promised_noise():
    random = np.random.default_rng(2)
    mechanism = utility_rows.mechanism_of(setting=setting(noise_multiplier="4"), dimension=2000, most=50)
    sums = [random.normal(size=2000) * 0.1 for _ in range(HOSPITALS)]
    noise = utility_rows.secure_sum(sums, mechanism=mechanism) - np.sum(sums, axis=0)
    expected = 4 * mechanism.sensitivity * (HOSPITALS / (HOSPITALS - 1)) ** 0.5
    assert np.std(noise) == pytest.approx(expected, rel=6 / (2 * 2000) ** 0.5)


def test_without_noise_and_sampling_every_pooled_row_is_one_model():
    made = data()
    aucs = {
        row: utility_rows.run(row, made, setting=setting(), seed=0, tuning=False)
        for row in ("non_private_pooled", "central", "motet")
    }
    assert aucs["central"] == pytest.approx(aucs["non_private_pooled"], abs=1e-3)
    assert aucs["motet"] == pytest.approx(aucs["non_private_pooled"], abs=1e-3)
    assert aucs["non_private_pooled"] > 0.8


def test_the_search_never_sees_the_test_part():
    made = data()
    hidden = made.parts == TEST
    upside_down = Data(
        name="x",
        views=made.views,
        features=np.where(hidden[:, None], np.nan, made.features),
        labels=np.where(hidden, 7, made.labels),
        hospitals=made.hospitals,
        parts=made.parts,
    )
    tuned = [utility_rows.run("central", one, setting=setting(), seed=5, tuning=True) for one in (made, upside_down)]
    assert tuned[0] == tuned[1]


def test_the_search_halves_the_points_and_chooses_by_all_their_fifths():
    seen, start = {point: [] for point in range(12)}, utility_search.FIRST_FIFTH

    def score(point, seed):
        seen[point].append(seed)
        return point + (50 if point == 2 and seed < start + 10 else 0)  # lucky in the first ten fifths alone

    best, scores = utility_search.halved(range(12), score=score)
    first, most = list(range(start, start + 10)), list(range(start, start + 70))
    assert [seen[point] for point in (0, 1, 3, 4, 5, 6)] == [
        first
    ] * 6  # the same fifths for all, and no more for the worse half
    assert [len(seen[point]) for point in (7, 8, 9)] == [30, 30, 30]
    assert [seen[point] for point in (2, 10, 11)] == [most] * 3
    assert (best, scores) == (11, [11] * 70)
    assert sum(map(len, seen.values())) == utility_search.runs(12) == 360


def test_one_point_needs_no_better_half():
    assert utility_search.halved(["only"], score=lambda point, seed: seed)[0] == "only"
    assert utility_search.runs(1) == 70


def test_every_hospital_alone_is_tried_equally_often():
    assert all(fifths % HOSPITALS == 0 for fifths in utility_search.FIFTHS)


def test_the_search_finds_the_setting_with_less_noise():
    tried = []
    noise = {"1": "1000", "3": "1"}
    found, scores = utility_search.search(
        "central",
        data(),
        points=[("1", "0.6"), ("3", "0.6")],
        fifths=(5, 10),
        setting=lambda point: setting(learning_rate=point[0], clip_norm=point[1], noise_multiplier=noise[point[0]]),
        spent=lambda row, made: tried.append((row, made.name)),
    )
    assert len(scores) == 15
    assert len(tried) == utility_search.runs(2, fifths=(5, 10)) == 20
    assert found.learning_rate == "3"


def test_noise_costs_most_where_every_hospital_adds_the_whole_or_is_alone():
    made = data(300)
    loud = setting(noise_multiplier="30", sampling_rate="0.5")
    mean = {
        row: np.mean([utility_rows.run(row, made, setting=loud, seed=seed, tuning=False) for seed in range(5)])
        for row in ("non_private_pooled", "central", "local_noise_fedavg", "alone")
    }
    assert mean["non_private_pooled"] > mean["central"] > mean["local_noise_fedavg"] > mean["alone"]


def test_the_auc_counts_ties_half():
    features, labels = np.array([[1.0], [2.0], [2.0], [3.0]]), np.array([0, 1, 0, 1])
    patients = utility_rows.Head(features=features, labels=labels)
    assert patients.auc(np.array([1.0])) == (1 + 0.5 + 1 + 1) / 4
    assert patients.auc(np.array([-1.0])) == 0.5 / 4


def test_the_noise_is_the_least_that_keeps_the_promise():
    noise = utility.noise_for("8", rate="0.25", steps=100)
    assert float(noise) == pytest.approx(1.7119, abs=2e-3)  # reference training.md 4.1
    assert utility.epsilon_pld(float(noise), rate=0.25, steps=100, grid=1e-4) <= 8
    assert utility.epsilon_pld(float(noise) - 0.01, rate=0.25, steps=100, grid=1e-4) > 8


def test_the_error_of_the_first_seeds_says_how_many_there_are():
    def told(*aucs):
        return {"auc": float(np.mean(aucs)), "spread": float(np.std(aucs, ddof=1)), "seeds": list(aucs)}

    random = np.random.default_rng(0)
    central, ours = told(*random.normal(0.87, 0.002, 40)), told(*random.normal(0.83, 0.002, 40))
    assert utility.seeds_for(ours, central) == 40  # enough, though the bar is missed
    central, ours = told(*random.normal(0.87, 0.01, 40)), told(*random.normal(0.88, 0.01, 40))
    seeds = utility.seeds_for(ours, central)
    assert 100 < seeds < 400
    lower = told(*(auc - 0.1 for auc in ours["seeds"]))
    assert utility.seeds_for(lower, central) == pytest.approx(seeds, rel=0.3)
    _, error = utility.ratio_of(ours, central)
    assert error * (40 / seeds) ** 0.5 == pytest.approx(utility.STANDARD_ERROR, rel=0.01)
    assert utility.seeds_for(told(0.5, 0.9, 0.6), told(0.7, 0.8, 0.5)) == 30


def test_the_first_seeds_are_kept():
    made, few, ran = data(), setting(steps=5, noise_multiplier="20"), []
    told = {"setting": few, "spent": lambda *given: ran.append(given[0])}
    first = utility.judged("central", made, seeds=3, **told)
    more = utility.judged("central", made, seeds=5, before=first["seeds"], **told)
    assert len(ran) == 5
    assert more["seeds"] == utility.judged("central", made, seeds=5, **told)["seeds"]
    assert len(set(more["seeds"])) > 1


def test_the_report_keeps_what_others_wrote_and_says_what_is_absent(monkeypatch, tmp_path, capsys):
    out = tmp_path / "training.json"
    out.write_text(json.dumps({"step_ratio": {"cnn2d": 1.1}, "utility": {"lidc": {"data": 1}, "pneumonia28": {"data": 2}}}))
    monkeypatch.setattr(utility_data, "GIVEN", tmp_path)
    monkeypatch.setattr("sys.argv", ["utility", "--only", "pneumonia28", "--json", "--out", str(out)])
    utility.main()
    whole = json.loads(out.read_text())
    assert whole["step_ratio"] == {"cnn2d": 1.1}
    assert whole["utility"] == json.loads(capsys.readouterr().out)
    assert whole["utility"]["lidc"] == {"data": 1}
    assert "pneumonia28" not in whole["utility"]
    assert "MOTET_TEST_DATA" in whole["utility"]["absent"]["pneumonia28"]


@pytest.mark.long
def test_a_small_run_reports_every_row_with_both_epsilons(monkeypatch, tmp_path):
    out = tmp_path / "training.json"
    monkeypatch.setattr(utility_data, "pneumonia28", data)
    monkeypatch.setattr(utility_search, "LEARNING_RATES", ("3",))
    asked = ["--only", "pneumonia28", "--epsilons", "eps8", "--seeds", "3", "--steps", "10", "--out", str(out)]
    monkeypatch.setattr("sys.argv", ["utility", *asked])
    utility.main()
    one = json.loads(out.read_text())["utility"]["blobs"]["eps8"]
    assert set(one["rows"]) == set(utility.ROWS)
    for name, row in one["rows"].items():
        assert row["auc"] == pytest.approx(np.mean(row["seeds"]))
        if name != "non_private_pooled":
            assert 7.9 < row["epsilon"]["pld"] <= 8
            assert row["epsilon"]["pld"] + 0.009 < row["epsilon"]["prv"] < row["epsilon"]["pld"] + 0.0125  # reference 4.1
    assert one["ratio_to_central"] == one["rows"]["motet"]["auc"] / one["rows"]["central"]["auc"]
    assert 3 <= len(one["rows"]["motet"]["seeds"]) == len(one["rows"]["central"]["seeds"]) <= 30
    assert one["holds"] == (one["ratio_to_central"] >= 0.995)
