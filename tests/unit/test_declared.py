"""What a study may declare beyond the Gram: named errors, a hash that covers it, forms that both sides derive."""

from decimal import Decimal

import numpy as np
import pytest
from pydantic import ValidationError

from client import config, disclosure
from client.cohort import _clinical_value
from client.kernels.rows import Rows
from common import analyses, query
from common import study as studies
from common.errors import ConfigError, TooFewPatients
from tests import cohorts
from tests.cohorts import study
from tests.policies import policy

LOGISTIC = {"kind": "logistic", "formula": "y ~ x1", "queries_max": 9}
SPEARMAN = {"kind": "spearman", "variables": ["x1", "x2"], "bins": 8}

WRONG = {
    "an unknown variable": ({**LOGISTIC, "formula": "y ~ nothing"}, "nothing is not among the variables"),
    "an unknown outcome": ({"kind": "roc", "outcome": "gone", "score": "x1", "bins": 4}, "gone is not among the variables"),
    "an unknown event": ({"kind": "cox", "formula": "time ~ x1", "event": "gone", "queries_max": 9}, "gone is not among"),
    "an outcome that is not binary": ({**LOGISTIC, "formula": "x1 ~ x2"}, "x1 is not 0 or 1"),
    "a factor as a number": ({"kind": "k-means", "variables": ["sex"], "sizes": [2], "queries_max": 9}, "sex has levels"),
    "a number as a factor": ({"kind": "ranks", "response": "x1", "group": "x2", "bins": 4}, "x2 has no levels"),
    "a number with no levels as a graded outcome": ({**LOGISTIC, "kind": "ordinal"}, "y has no levels"),
    "a variable twice": ({**SPEARMAN, "variables": ["x1", "x1"]}, "named twice"),
    "the event among the terms": (
        {"kind": "cox", "formula": "time ~ dead", "event": "dead", "queries_max": 9},
        "the event or the time is among the terms",
    ),
    "a table too large": (
        {"kind": "kaplan-meier", "time": "time", "event": "dead", "bins": 4096, "group": "many"},
        "dimension is too large",
    ),
    "a hostile formula": ({**LOGISTIC, "formula": "y ~ __import__('os')"}, "character"),
    "a factor as the outcome of a line": ({"kind": "robust", "formula": "sex ~ x1"}, "sex has levels"),
    "an outcome that explains itself": ({"kind": "forest", "formula": "x1 ~ x1"}, "twice|outcome"),
    "hospitals by name": ({"kind": "fixed-site", "formula": "x1 ~ hospital"}, "hospital is not among the variables"),
    "no cap": ({"kind": "logistic", "formula": "y ~ x1"}, "queries_max"),
    "a cap of none": ({**LOGISTIC, "queries_max": 0}, "queries_max"),
    "a minimum": ({"kind": "quantiles", "variable": "x1", "bins": 4, "probabilities": ["0"]}, "probabilities"),
    "another kind": ({"kind": "kendall", "variables": ["x1", "x2"]}, "kendall|kind"),
    "an unknown key": ({**SPEARMAN, "rows": [1]}, "rows"),
}
MANY = {"name": "many", "source": "clinical", "unit": "1", "levels": [f"l{at}" for at in range(32)]}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_analysis_is_named(name):
    declared, says = WRONG[name]
    with pytest.raises(ValidationError, match=says):
        study(declared, variables=[*cohorts.VARIABLES, MANY])


def test_the_hash_of_a_study_covers_its_analyses():
    hashes = [study(*given).hash() for given in ((), (LOGISTIC,), ({**LOGISTIC, "queries_max": 10},), (LOGISTIC, SPEARMAN))]
    assert len(set(hashes)) == len(hashes)
    wanted = study(LOGISTIC, SPEARMAN)
    assert studies.parse(wanted.canonical_bytes()) == wanted


def test_a_form_admits_its_own_queries_and_no_other():
    wanted = study(SPEARMAN, LOGISTIC)
    marginals, ranks = wanted.asked(0).forms
    example = ranks.example()
    assert ranks.admits(example)
    assert not marginals.admits(example)
    numbers = {key: values for key, values in example.numbers if key != "grid.0"}
    assert not ranks.admits(query.ask("rank_gram", responses=example.responses, numbers={**numbers, "grid.0": range(9)}))


def test_an_announcements_index_holds_the_analysis_and_the_number_of_its_query():
    for position, number in ((0, 1), (3, 12), (analyses.ANALYSES_MOST - 1, analyses.QUERIES_MOST)):
        assert analyses.place(analyses.index(position, number=number)) == (position, number)
    assert analyses.index(analyses.ANALYSES_MOST - 1, number=analyses.QUERIES_MOST) <= 1_000_000


@pytest.mark.parametrize(
    ("text", "value"), [("f", 0.0), (" m ", 1.0), ("M", np.nan), ("0", np.nan), ("1", np.nan), ("", np.nan), ("other", np.nan)]
)
def test_a_level_is_read_by_its_declared_name(text, value):
    sex = study().variable("sex")
    assert _clinical_value(text, sex) == pytest.approx(value, nan_ok=True)


@pytest.mark.parametrize(
    "key", ["cell_min", "parameters_share_max", "share_max", "site_aggregates", "cluster_sums", "local_steps_max"]
)
def test_a_disclosure_rule_has_no_default_but_what_init_writes(key, tmp_path):
    settings = {"epsilon_cap": Decimal(1), "delta_cap": Decimal("1e-5"), "hospitals_min": 3, "colluders_min": 0}
    made = config.create(
        tmp_path / "h", name="h", scans=tmp_path, clinical=tmp_path / "c", patients_min=5, exact_releases_max=2, **settings
    )
    assert getattr(made.policy, key) == getattr(policy(), key)
    home = config.Home(tmp_path / "h")
    lines = home.site_file.read_text().splitlines()
    home.site_file.write_text("\n".join(line for line in lines if not line.startswith(f"{key} =")))
    with pytest.raises(ConfigError, match=f"policy.{key}: Field required"):
        config.read_site(home)


@pytest.mark.parametrize("change", [{"cell_min": 1}, {"parameters_share_max": 1}, {"share_max": 1}, {"share_max": 0}])
def test_a_disclosure_rule_cannot_be_switched_off(change):
    with pytest.raises(ValidationError):
        policy(**change)


@pytest.mark.parametrize(
    ("ones", "passes"), [(0, True), (1, False), (4, False), (5, True), (15, True), (16, False), (20, True)]
)
def test_a_column_of_two_values_has_no_small_cell(ones, passes):
    values = np.column_stack([np.arange(20) < ones, np.arange(20.0)]).astype(np.float64)
    if passes:
        disclosure.check_columns(policy(), values=values, names=("a", "b"))
    else:
        with pytest.raises(TooFewPatients):
            disclosure.check_columns(policy(), values=values, names=("a", "b"))


def test_a_gram_of_no_more_patients_than_columns_is_refused():
    values = np.random.default_rng(1).normal(size=(6, 5))
    with pytest.raises(TooFewPatients):
        disclosure.check_columns(policy(), values=values, names=tuple("abcde"))
    disclosure.check_columns(policy(), values=np.zeros((0, 5)), names=tuple("abcde"))


def test_scores_of_ranks_that_cut_patients_in_two_are_refused():
    values = np.column_stack([np.arange(40) % 4 + 0.5, np.arange(40) // 10 + 0.5])
    rows = Rows(names=("a", "b"), values=values, lower=(0.0, 0.0), upper=(4.0, 4.0))
    grid = [0.0, 1.0, 2.0, 3.0, 4.0]
    honest, cut = [-0.75, -0.25, 0.25, 0.75], [0.0, 0.0, 1.0, 1.0]

    def asked(score):
        numbers = {"grid.0": grid, "grid.1": grid, "score.0": score, "score.1": honest}
        return query.ask("rank_gram", responses=["a", "b"], numbers=numbers)

    disclosure.check_query(policy(), asked=asked(honest), rows=rows)
    with pytest.raises(Exception, match="not those of midranks"):
        disclosure.check_query(policy(), asked=asked(cut), rows=rows)
