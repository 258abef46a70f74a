"""Conformance finds every build whose noise or samples are not what it claims, and lets the right one pass.

The broken builds are made here, by replacing one function of the product for one test.
"""

import io
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from client import mask
from client.attack import draws
from common import cli
from common.audit.attack import conformance, sampling
from common.audit.attack.check import LEVEL, Check, all_hold, dispersion, smallest_deficit
from common.audit.attack.drawn import parse
from common.crypto import ring, rng
from common.errors import AuditError, RecordDamaged

NOISE_CHECKS = {"size of a share", "size of 3 shares' sum", "size at the limit"}
right_noise, right_sample = rng.discrete_gaussian, rng.poisson_sample


@pytest.fixture(autouse=True)
def smaller(monkeypatch):
    """A third of the size is enough for what is broken here."""
    monkeypatch.setattr(draws, "STEPS", 400)
    monkeypatch.setattr(draws, "DIMENSION", 20_000)


def alarms():
    return {check.name for check in conformance.checks(draws.draw(rounds=2)) if not check.holds}


def noise(monkeypatch, drawn):
    """Replace the draw of a share: `drawn(n, share_bits)`."""
    monkeypatch.setattr(rng, "discrete_gaussian", lambda n, *, share_bits: drawn(n, share_bits))


def test_the_right_build_raises_no_alarm():
    assert alarms() == set()


def test_noise_that_is_off_is_found(monkeypatch):
    noise(monkeypatch, lambda n, bits: np.zeros(n, np.int64))
    assert alarms() >= {*NOISE_CHECKS, "every coordinate"}


@pytest.mark.parametrize("factor", [0.9, 0.96, 1.04])
def test_noise_of_another_size_is_found(monkeypatch, factor):
    noise(monkeypatch, lambda n, bits: np.rint(right_noise(n, share_bits=bits) * factor).astype(np.int64))
    assert alarms() >= {"size of a share", "size of 3 shares' sum"}


def test_noise_divided_by_the_number_of_hospitals_is_found(monkeypatch):
    noise(monkeypatch, lambda n, bits: right_noise(n, share_bits=bits) // 4)
    assert alarms() >= NOISE_CHECKS


def test_a_layer_without_noise_is_found(monkeypatch):
    def drawn(n, bits):
        found = right_noise(n, share_bits=bits)
        found[-33:] = 0
        return found

    noise(monkeypatch, drawn)
    assert "every coordinate" in alarms()


def test_noise_of_another_law_is_found(monkeypatch):
    def laplace(n, bits):
        return np.rint(np.random.default_rng().laplace(0, 2**bits / np.sqrt(2), n)).astype(np.int64)

    noise(monkeypatch, laplace)
    assert alarms() >= {"shape of the sum", "every integer, 0 bits"}


def test_clamping_after_the_noise_is_found(monkeypatch):
    def clamped(contribution):
        mechanism = contribution.mechanism
        rounded = np.rint(contribution.values / mechanism.grid_step).astype(np.int64)
        noisy = rounded + right_noise(len(rounded), share_bits=mechanism.share_bits)
        limit = mechanism.coordinate_limit
        return ring.encode(np.clip(noisy, -limit, limit), bits=mechanism.ring_bits)

    monkeypatch.setattr(mask, "_words", clamped)
    assert "size at the limit" in alarms()


def test_a_seed_that_is_used_again_is_found(monkeypatch):
    monkeypatch.setattr(rng, "secret_bytes", bytes)
    assert alarms() >= {"rounds and hospitals", "repeats"}


def test_noise_that_every_hospital_shares_is_found(monkeypatch):
    kept = {bits: right_noise(draws.DIMENSION, share_bits=bits) for bits in (0, 1, 2, 22)}
    turn = iter(range(10**6))

    def common(n, bits):  # a vector that was drawn once, shifted and with its sign changed: no run repeats
        at = next(turn)
        return (kept[bits] if at % 2 else -kept[bits])[:n] + at % 3

    noise(monkeypatch, common)
    assert "rounds and hospitals" in alarms()


def test_neighbours_that_share_noise_are_found(monkeypatch):
    def smoothed(n, bits):
        drawn = right_noise(n + 1, share_bits=bits)
        return np.rint((drawn[1:] + 0.05 * drawn[:-1]) / np.sqrt(1.0025)).astype(np.int64)

    noise(monkeypatch, smoothed)
    assert "coordinates" in alarms()


@pytest.mark.parametrize("size", [250, 249])
def test_batches_of_a_fixed_size_are_found(monkeypatch, size):
    def fixed(n, *, rate):
        chosen = np.zeros(n, np.bool_)
        chosen[np.random.default_rng().permutation(n)[:size]] = True
        return chosen

    monkeypatch.setattr(rng, "poisson_sample", fixed)
    assert "batch sizes" in alarms()


def test_patients_who_take_turns_are_found(monkeypatch):
    turn = iter(range(10**6))
    monkeypatch.setattr(rng, "poisson_sample", lambda n, *, rate: (np.arange(n) + next(turn)) % 4 == 0)
    assert alarms() == {"batch sizes", "patients' turns", "steps", "patients"}


def test_another_sampling_rate_is_found(monkeypatch):
    monkeypatch.setattr(rng, "poisson_sample", lambda n, *, rate: right_sample(n, rate=rate * 11 / 10))
    assert "sampling rate" in alarms()


def test_the_smallest_stated_deficit_is_found_with_the_stated_probability():
    n, random = 10_000, np.random.default_rng(0)
    deviation = 1 - smallest_deficit(n)
    squares = deviation**2 * random.chisquare(n, 1000)
    found = [not dispersion("x", claim="", squares=one, freedom=n).holds for one in squares]
    assert np.mean(found) == pytest.approx(0.99, abs=0.012)


def test_no_check_is_no_proof():
    fine = Check(name="x", claim="", seen="", p=1.0)
    assert all_hold([fine])
    assert not all_hold([])
    assert not all_hold([fine, Check(name="y", claim="", seen="", p=LEVEL / 2)])
    assert not Check(name="z", claim="", seen="", p=float("nan")).holds


def run(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["motet-audit", "attack", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code, capsys.readouterr().out


def test_the_auditors_command_draws_through_the_installed_code_and_says_what_it_saw(monkeypatch, capsys):
    code, said = run(monkeypatch, capsys, "conformance", "--rounds", "2", "--json")
    found = json.loads(said)
    assert code == 0
    assert found["holds"]
    assert found["claimed"]["rng"] == "aes-256-ctr-os-key"
    assert found["drew"]["shares"] == 2 * 3 * 70_000
    assert all(check["holds"] for check in found["checks"])
    assert "finds noise" in next(check["power"] for check in found["checks"] if check["name"] == "size of a share")


def test_a_build_that_fails_ends_with_code_six(monkeypatch, capsys):
    noise(monkeypatch, lambda n, bits: right_noise(n, share_bits=bits) // 4)
    broken = draws.draw(rounds=2)
    monkeypatch.setattr(conformance, "drawn_by_this_installation", lambda *, rounds: broken)
    code, said = run(monkeypatch, capsys, "conformance")
    assert code == 6
    assert "do not trust this build's noise" in said


@pytest.mark.parametrize("rounds", ["0", "1", "51", "-3", "many"])
def test_a_strange_number_of_rounds_is_a_usage_error(monkeypatch, capsys, rounds):
    assert run(monkeypatch, capsys, "conformance", "--rounds", rounds)[0] == 64


def test_code_that_does_not_draw_is_said_so():
    with pytest.raises(AuditError, match="instead of drawing"):
        conformance.drawn_by_this_installation(rounds=-1)


def test_code_that_hangs_is_said_so(monkeypatch):
    monkeypatch.setattr(conformance, "SECONDS_MOST", 0.01)
    with pytest.raises(AuditError, match="drew no noise within"):
        conformance.drawn_by_this_installation(rounds=2)


@pytest.mark.parametrize("damage", ["nothing", "garbage", "cut", "float", "another shape", "missing"])
def test_strange_draws_are_refused(damage):
    good = draws.draw(rounds=2).to_bytes()
    assert parse(good).shares.shape == (2, 3, 20_000)
    with np.load(io.BytesIO(good), allow_pickle=False) as file:
        arrays = dict(file)
    if damage == "float":
        arrays["shares"] = arrays["shares"].astype(float)
    elif damage == "another shape":
        arrays["sums"] = arrays["sums"][:1]
    elif damage == "missing":
        del arrays["mechanism"]
    out = io.BytesIO()
    np.savez(out, allow_pickle=False, **arrays)
    data = {"nothing": b"", "garbage": b"no draws", "cut": good[:5000]}.get(damage, out.getvalue())
    with pytest.raises(RecordDamaged):
        parse(data)


def test_drawing_needs_neither_torch_nor_flower():
    code = "import sys, client.attack.draws\nprint(*({'torch', 'opacus', 'flwr', 'grpc', 'pydicom'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("module", ["common.cli", "client.cli"])
def test_the_command_lines_start_without_what_only_an_attack_needs(module):
    code = f"import sys, {module}\nprint(*({{'torch', 'scipy.stats'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(("n", "k"), [(10**6, 250_500), (10**6, 0), (10**6, 10**6), (400, 100)])
def test_the_laws_are_those_of_scipy_stats(n, k):
    samples = np.arange(n) < k
    drawn = replace(draws.draw(rounds=2), samples=samples.reshape(20, -1))
    rate = next(sampling.checks(drawn))
    exact = 2 * min(stats.binom.cdf(k, n, 0.25), stats.binom.sf(k - 1, n, 0.25))
    assert rate.p == pytest.approx(min(1, exact), rel=1e-6, abs=1e-300)
    spread = dispersion("x", claim="", squares=n + 3 * np.sqrt(2 * n), freedom=n)
    assert spread.p == pytest.approx(2 * stats.chi2.sf(n + 3 * np.sqrt(2 * n), n), rel=1e-6)
    least = np.sqrt(stats.chi2.ppf(LEVEL / 2, n) / stats.chi2.ppf(0.99, n))
    assert smallest_deficit(n) == pytest.approx(1 - least, rel=1e-6)
