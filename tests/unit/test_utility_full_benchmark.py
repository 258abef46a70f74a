"""Claims about the benchmark of whole networks: its sums are the product's, and its pairs share chance without bending it."""

import json

import numpy as np
import pytest
import torch

from tests import learning
from tests.benchmarks import utility, utility_data, utility_full, utility_rows
from tests.benchmarks.utility_data import HOSPITALS, TEST, TRAIN, Data
from tests.benchmarks.utility_full_rows import FULL, SIDE, Whole, names, pair, plain, run_plain

ADAM = {"kind": "adam", "beta_1": "0.9", "beta_2": "0.99", "damping": "0.00000001"}
STILL = {"kind": "momentum", "momentum": "0"}
NO_NOISE = "0.0001"


def setting(optimiser=ADAM, **changes):
    made = {"learning_rate": "0.01", "clip_norm": "0.6", "noise_multiplier": NO_NOISE, "steps": 10, "sampling_rate": "1"}
    return utility_rows.Setting(**{**made, **changes}, way={"optimiser": optimiser, **FULL})


def data(n=40):
    blobs = learning.cohort(n, side=SIDE, channels=2, views=(1,))
    return Data(
        name="blobs",
        views=np.array(blobs.views),
        features=np.zeros((n, 1)),
        labels=(blobs.table[:, 1] > 3).astype(int),
        hospitals=np.arange(n) // 2 % HOSPITALS,
        parts=np.array([TRAIN, TRAIN, TRAIN, TRAIN, TEST])[np.random.default_rng(0).permutation(n) % 5],
    )


def test_the_clipped_sum_is_that_of_one_patient_at_a_time():
    patients = Whole.of(data(12))
    weights = patients.start() + 0.05 * np.random.default_rng(1).normal(size=len(patients.start()))
    drawn = np.arange(12) % 3 > 0
    network, clipped, norms = patients.network(weights).double(), 0.0, []
    for row in np.flatnonzero(drawn):
        network.zero_grad()
        score = network(torch.from_numpy(patients.cohort.views[[row]].astype(np.float64))).ravel()
        torch.nn.functional.binary_cross_entropy_with_logits(score, torch.tensor([float(patients.labels[row])])).backward()
        gradient = np.concatenate([parameter.grad.numpy().ravel() for parameter in network.parameters()])
        norms.append(np.linalg.norm(gradient))
        clipped = clipped + gradient * min(1, 0.6 / norms[-1])
    ours = patients.clipped_sum(weights, drawn=drawn, setting=setting())
    assert np.linalg.norm(ours - clipped) <= 1e-5 * np.linalg.norm(clipped)
    assert max(norms) > 0.6


def test_without_noise_a_pair_is_one_model_and_that_of_the_pooled_patients():
    made = data()
    everybody, every = Whole.of(made), setting(STILL, learning_rate="0.3")  # Adam would enlarge the least noise
    ours, central = pair(everybody, made.hospitals, ours=every, central=every, seed=0)
    pooled = utility_rows.pooled(everybody, setting=every, seed=0, noisy=False)
    moved = np.linalg.norm(pooled - everybody.start())
    assert np.linalg.norm(ours - pooled) < 0.02 * moved
    assert np.linalg.norm(central - pooled) < 0.02 * moved


def test_central_takes_motets_noise_at_its_own_size():
    made = data()
    everybody = Whole.of(made)
    loud = setting(STILL, noise_multiplier="1000", learning_rate="1", steps=1)
    quiet = setting(STILL, noise_multiplier="1000", learning_rate="1", steps=1, clip_norm="0.3")
    ours, central = (one - everybody.start() for one in pair(everybody, made.hospitals, ours=loud, central=quiet, seed=0))
    mechanism = utility_rows.mechanism_of(setting=loud, dimension=len(ours), most=8)
    law = 6 / (2 * len(ours)) ** 0.5
    assert np.std(ours) * len(everybody) == pytest.approx(mechanism.noise_deviation, rel=law)
    assert mechanism.noise_deviation > 600 * 1.25**0.5
    assert np.std(central) * len(everybody) == pytest.approx(300, rel=law)
    assert np.corrcoef(ours, central)[0, 1] > 0.999


def test_a_pair_draws_the_same_patients_by_seed():
    made = data()
    everybody, few = Whole.of(made), setting(STILL, sampling_rate="0.3", steps=1)
    first, again, other = (pair(everybody, made.hospitals, ours=few, central=few, seed=seed) for seed in (1, 1, 2))
    moved = np.linalg.norm(first[0] - everybody.start())
    assert np.linalg.norm(first[0] - first[1]) < 0.02 * moved
    assert np.linalg.norm(first[0] - again[0]) < 0.02 * moved
    assert np.linalg.norm(first[0] - other[0]) > 0.1 * moved


def test_the_search_never_sees_the_test_part():
    made = data()
    hidden = made.parts == TEST
    upside_down = Data(
        name="x",
        views=np.where(hidden[:, None, None, None], np.nan, made.views).astype(np.float32),
        features=made.features,
        labels=np.where(hidden, 7, made.labels),
        hospitals=made.hospitals,
        parts=made.parts,
    )
    asked = {"seed": 5, "tuning": True}
    for train in (
        lambda one: run_plain(one, point=("0.01", 8), epochs=1, **asked),
        lambda one: utility_rows.run("central", one, setting=setting(steps=2), of=Whole.of, **asked),
    ):
        assert train(made) == train(upside_down)


def test_the_network_without_privacy_learns_and_repeats_by_seed():
    patients = Whole.of(data(120))
    weights = plain(patients, learning_rate="0.003", batch=8, epochs=8, seed=0)
    assert patients.auc(weights) > 0.95
    assert patients.auc(patients.start()) == 0.5
    assert np.array_equal(weights, plain(patients, learning_rate="0.003", batch=8, epochs=8, seed=0))


def test_every_weight_of_the_network_is_trained():
    patients = Whole.of(data(20))
    network = patients.network()
    assert len(patients.start()) == sum(parameter.numel() for parameter in network.parameters())
    moved = utility_rows.pooled(patients, setting=setting(), seed=0, noisy=False) != patients.start()
    parts = np.split(moved, np.cumsum([parameter.numel() for parameter in network.parameters()])[:-1])
    assert [name for name, part in zip(names(network), parts, strict=True) if not part.any()] == []


def test_the_error_of_a_ratio_is_that_of_its_pairs():
    aucs = [0.90, 0.93, 0.91, 0.94]
    central = utility_full.figures(aucs, point=("0.01", "1"), tuned=[0.9])
    scaled = utility_full.figures([0.99 * auc for auc in aucs], point=("0.01", "1"), tuned=[0.9])
    ratio, error = utility_full.paired_ratio(scaled, central)
    assert (ratio, error) == (pytest.approx(0.99), pytest.approx(0, abs=1e-12))
    apart = utility_full.figures(
        [auc + by for auc, by in zip(aucs, (0.002, -0.002) * 2, strict=True)], point=("1", "1"), tuned=[1]
    )
    ratio, error = utility_full.paired_ratio(apart, central)
    assert ratio == pytest.approx(1)
    assert error == pytest.approx(np.std([0.002, -0.002] * 2, ddof=1) / 2 / 0.92)
    assert error < utility.ratio_of(apart, central)[1] / 5


def test_an_absent_data_set_is_said_and_the_rest_of_the_file_is_kept(monkeypatch, tmp_path, capsys):
    out = tmp_path / "training.json"
    out.write_text(json.dumps({"utility": {"lidc": 1}, "utility_full": {"pneumonia28": 2}}))
    monkeypatch.setattr(utility_data, "GIVEN", tmp_path)
    monkeypatch.setattr("sys.argv", ["utility_full", "--json", "--out", str(out)])
    utility_full.main()
    whole = json.loads(out.read_text())
    assert whole["utility"] == {"lidc": 1}
    assert whole["utility_full"] == json.loads(capsys.readouterr().out)
    assert "pneumonia28" not in whole["utility_full"]
    assert "MOTET_TEST_DATA" in whole["utility_full"]["absent"]["pneumonia28"]


@pytest.mark.long
def test_a_small_run_reports_every_row_with_both_epsilons(monkeypatch, tmp_path):
    out = tmp_path / "training.json"
    monkeypatch.setattr(utility_data, "pneumonia28", lambda side: data(60))
    monkeypatch.setattr("sys.argv", ["x", "--epsilons", "eps8", "--seeds", "3", "--steps", "10", "--out", str(out)])
    utility_full.main()
    one = json.loads(out.read_text())["utility_full"]["blobs"]["eps8"]
    assert list(one["rows"]) == list(utility.ROWS)
    for name, row in one["rows"].items():
        assert row["auc"] == pytest.approx(np.mean(row["seeds"]))
        assert len(row["seeds"]) == 3
        if name != "non_private_pooled":
            assert 7.9 < row["epsilon"]["pld"] <= 8
    assert one["ratio_to_central"] == one["rows"]["motet"]["auc"] / one["rows"]["central"]["auc"]
    assert one["holds"] == (one["ratio_to_central"] >= 0.995)
