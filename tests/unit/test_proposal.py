"""What an administrator reads before approval: what leaves exactly, what with noise and at which epsilon."""

import json
import re
from dataclasses import replace
from decimal import Decimal

import pytest

from client import config, proposal
from common import study as studies
from common.errors import ConfigError
from server import plan
from tests import federation
from tests.commands import HOSPITAL as CHOICES
from tests.commands import hospital as motet
from tests.policies import policy

POLICY = policy(epsilon_cap=Decimal(7), colluders_min=1, exact_releases_max=2)
NOISY = {
    "noise_multiplier": Decimal(4),
    "clip_norm": Decimal(2),
    "delta": Decimal("1e-5"),
    "patients_max": 500,
    "colluders": 1,
    "rounds_void_allowed": 1,
}


def said(**parts):
    return "\n".join(proposal.study(federation.study(**parts), policy=POLICY))


def part(text, begin):
    """Return what stands under a heading."""
    found = re.search(rf"^{begin}.*\n((?:  .*\n)+)", text, flags=re.MULTILINE)
    assert found
    return found[1]


def test_an_exact_gram_and_the_histograms_are_named_as_exact_and_training_as_noisy():
    text = said()
    exact, noisy = part(text, "Leaves exactly"), part(text, "Leaves with noise")
    assert "Gram: sums and products of 4 columns" in exact
    assert "correlation of longest_diameter_mm" in exact
    assert "regression malignancy ~ longest_diameter_mm + mean_hu" in exact
    assert "Scores of 4 models over the held-out patients: histograms by class, in 16 bins" in exact
    assert "Gram" not in noisy
    assert "noise multiplier 2, clipping norm 1" in noisy
    assert "epsilon infinite" in text
    assert "count as 2 against exact_releases_max, which is 2 here" in text
    assert "Held out: 50 %" in text
    assert "Harmonisation between hospitals: none." in text


def test_a_gram_with_noise_is_not_among_the_exact_sums():
    text = said(statistics={"privacy": NOISY})
    assert "Gram" not in part(text, "Leaves exactly")
    assert "noise multiplier 4, clipping norm 2; at most 500 complete patients" in part(text, "Leaves with noise")
    assert "count as 1 against" in text


def test_each_declared_analysis_is_named_with_its_most_sums():
    one = {"kind": "logistic", "formula": "dead ~ mean_hu", "queries_max": 25}
    dead = {"name": "dead", "source": "clinical", "unit": "1", "lower": Decimal(0), "upper": Decimal(1)}
    text = said(variables=[*federation.STUDY["variables"], dead], statistics={"analyses": [one]})
    assert "analysis-1-logistic: formula dead ~ mean_hu; at most 25 different sums" in part(text, "Leaves exactly")
    assert "count as 3 against exact_releases_max, which is 2 here: too few, what comes last is refused." in text


@pytest.mark.parametrize(
    ("kind", "parts", "said_"),
    [
        (
            "k-means",
            {"variables": ["mean_hu"], "sizes": [2], "queries_max": 9},
            "(cluster_sums is false): analysis-1-k-means is refused",
        ),
        (
            "mixed",
            {"formula": "malignancy ~ mean_hu", "queries_max": 9},
            "(site_aggregates is false): analysis-1-mixed is refused",
        ),
        ("fixed-site", {"formula": "malignancy ~ mean_hu"}, "Over 3 hospitals, the fewest: analysis-1-fixed-site is refused"),
        ("forest", {"formula": "malignancy ~ mean_hu"}, "analysis-1-forest is answered with zeros in place of its own row"),
        ("robust", {"formula": "malignancy ~ mean_hu"}, ""),
    ],
)
def test_what_the_policy_closes_or_opens_is_said_before_approval(kind, parts, said_):
    wanted = federation.study(statistics={"analyses": [{"kind": kind, **parts}]})
    closed = "\n".join(proposal.study(wanted, policy=POLICY))
    opened = "\n".join(proposal.study(wanted, policy=POLICY.model_copy(update={"site_aggregates": True, "cluster_sums": True})))
    assert said_ in closed
    assert ("Closed here" in closed, "Allowed here" in opened) == (bool(said_), bool(said_))
    assert "Allowed here" not in closed
    assert "Closed here" not in opened


def test_caps_that_a_run_would_pass_are_said_before_approval():
    wanted = federation.study(statistics={"privacy": NOISY})
    ample, tight, small = (
        "\n".join(proposal.study(wanted, policy=POLICY.model_copy(update=changed)))
        for changed in ({"epsilon_cap": Decimal(10**6)}, {"epsilon_cap": Decimal("0.01")}, {"delta_cap": Decimal("1e-9")})
    )
    assert "what comes last is refused" not in part(ample, "Leaves with noise")
    assert "that is less than the run's epsilon, and what comes last is refused" in part(tight, "Leaves with noise")
    assert "that is less than a delta of the study, which is refused" in part(small, "Leaves with noise")


def test_a_harmonised_study_says_so():
    one = {"kind": "combat", "features": ["longest_diameter_mm", "mean_hu"], "covariates": [], "apply": True}
    text = said(statistics={"analyses": [one]})
    assert "(ComBat) comes first: features longest_diameter_mm, mean_hu" in text


@pytest.mark.parametrize("gram", [None, NOISY], ids=["exact", "noisy"])
def test_epsilons_are_those_that_the_coordinators_plan_and_the_ledger_count(gram):
    wanted = federation.study(statistics={"privacy": gram} if gram else {})
    text = "\n".join(proposal.study(wanted, policy=POLICY))
    planned = plan.plan(wanted, hospitals=3)
    assert f"epsilon at most {planned['training']['epsilon_with_void_rounds']['epsilon_rdp']} at delta 0.00001" in text
    if gram:
        assert f"epsilon at most {planned['gram']['epsilon_with_void_rounds']['epsilon_rdp']} at delta 0.00001" in text
    (together,) = re.findall(r"Together: epsilon at most ([0-9.]+) ", text)
    assert Decimal(together) >= Decimal(planned["total"]["epsilon_rdp"])
    assert "Your epsilon_cap is 7 over all studies" in text


def test_no_text_of_a_study_steers_the_terminal():
    """A study that is parsed has no such title; what prints does not rely on that."""
    hostile = federation.study(purpose="phantoms").model_copy(update={"title": "harmless\x1b[2J\x1b[8m\nHarmonisation"})
    text = "\n".join(proposal.study(hostile, policy=POLICY))
    assert not [letter for letter in text if not letter.isprintable() and letter != "\n"]
    assert text.count("\n") == said().count("\n")


def test_noise_that_nobody_can_make_is_said_before_approval():
    with pytest.raises(ConfigError, match="cannot be made"):
        said(privacy={"noise_multiplier": Decimal("1e-10")})


@pytest.fixture
def home(tmp_path):
    assert motet("init", "--home", tmp_path / "hosp", *CHOICES)[0] == 0
    return tmp_path / "hosp"


@pytest.mark.parametrize("given", [(), ("--hash", federation.study().hash())], ids=["reading", "approving"])
def test_approve_says_in_words_what_would_leave(home, tmp_path, given):
    wanted = federation.study()
    (tmp_path / "s.json").write_bytes(wanted.canonical_bytes())
    code, text = motet("approve", "--home", home, "--study", tmp_path / "s.json", *given)
    assert code == 0
    for line in proposal.study(wanted, policy=config.read_site(config.Home(home)).policy):
        assert line in text
    assert ("Nothing was approved" in text) == (not given)
    assert bool(list((home / "approved").iterdir())) == bool(given)


def test_approve_as_json_holds_the_whole_study(home, tmp_path):
    wanted = federation.study()
    (tmp_path / "s.json").write_bytes(wanted.canonical_bytes())
    code, text = motet("approve", "--home", home, "--study", tmp_path / "s.json", "--json")
    shown = json.loads(text)
    assert (code, shown["approved"], shown["hash"]) == (0, False, wanted.hash())
    assert studies.parse(json.dumps(shown["file"], sort_keys=True, separators=(",", ":")).encode()).hash() == wanted.hash()


def test_a_roster_is_shown_with_every_identity(make_federation):
    one = make_federation()
    shown = "\n".join(proposal.roster(one.roster))
    for identity in (one.roster.coordinator_identity, *(member.identity for member in one.roster.members)):
        assert identity in shown.replace(" ", "")
    assert "Ed25519 alone" not in shown
    (first, *others) = one.roster.members
    shown = proposal.roster(replace(one.roster, members=(replace(first, ledger_ml_dsa=""), *others)))
    assert shown[-1].endswith(f"without a key of ML-DSA-44: {first.name}.")


def test_a_charged_evaluation_is_named_as_noisy_with_what_stands_apart():
    privacy = {"noise_multiplier": "4", "delta": "0.000001", "patients_max": 60, "colluders": 1, "rounds_void_allowed": 1}
    wished = {"privacy": privacy, "subgroups": [{"variable": "mean_hu", "cuts": ["0"]}], "by_hospital": True}
    learnt = {"head": "ordinal", "positive_above": None, "classes": ("low", "high"), "thresholds": ["3"]}
    text = said(evaluation=wished, training=learnt)
    exact, noisy = part(text, "Leaves exactly"), part(text, "Leaves with noise")
    assert "Scores" not in exact
    assert "These count as 1 against" in exact
    assert "Scores of the final model over the held-out patients, once: epsilon at most" in noisy
    assert "at most 60 scored patients here" in noisy
    assert "which class is taken for which; of the last model apart by mean_hu; your own apart" in noisy
    assert "Training (cnn2d) on malignancy (low, high)" in noisy
