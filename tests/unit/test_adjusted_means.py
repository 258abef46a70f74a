"""Adjusted means and contrasts of models with several factors equal predictions of statsmodels on its own design matrix."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from patsy import dmatrix
from scipy import stats

from common.errors import NotEstimable
from server.infer import adjusted_means, family
from server.sections import sections
from tests import tables
from tests.tables import FACTORS, GRADES, HEART_FACTORS, HEART_NUMBERS, NUMBERS, SEXES, difference

K_WAY = "y ~ grade * sex * x + age"
LOGS = "y ~ grade * sex + grade * log(age) + x"


def grid(frame: pd.DataFrame, levels: dict[str, list[str]]) -> pd.DataFrame:
    """Every combination of levels, numbers at their means."""
    cells = pd.DataFrame(list(itertools.product(*levels.values())), columns=list(levels))
    for name in frame.columns.difference(list(levels)):
        cells[name] = frame[name].mean()
    return cells


def check(ours: adjusted_means.AdjustedMeans, fitted: object, cells: pd.DataFrame, *, by: list[str]) -> None:
    """Compare with L beta, L the averages of statsmodels' design over the grid."""
    design = fitted.model.data.orig_exog.design_info  # type: ignore[attr-defined]
    rows = np.asarray(dmatrix(design, cells))
    groups = cells.groupby(by, sort=False).indices
    weights = np.array([rows[found].mean(axis=0) for found in groups.values()])
    names = [key if isinstance(key, str) else ", ".join(key) for key in groups]
    test = fitted.t_test(weights)  # type: ignore[attr-defined]
    assert [one.level for one in ours.means] == names
    assert difference([one.mean for one in ours.means], test.effect) <= 1e-10
    assert difference([one.standard_error for one in ours.means], test.sd.ravel()) <= 1e-10
    assert difference([[one.ci_low, one.ci_high] for one in ours.means], test.conf_int()) <= 1e-10
    pairs = list(itertools.combinations(range(len(names)), 2))
    pairwise = fitted.t_test(np.array([weights[j] - weights[i] for i, j in pairs]))  # type: ignore[attr-defined]
    assert [(one.first, one.second) for one in ours.contrasts] == [(names[i], names[j]) for i, j in pairs]
    assert difference([one.difference for one in ours.contrasts], pairwise.effect) <= 1e-10
    assert difference([one.standard_error for one in ours.contrasts], pairwise.sd.ravel()) <= 1e-10
    assert difference([one.p for one in ours.contrasts], pairwise.pvalue) <= 1e-10
    for one in ours.contrasts:
        tukey = stats.studentized_range.sf(abs(one.t) * math.sqrt(2), len(names), fitted.df_resid)  # type: ignore[attr-defined]
        assert abs(one.p_tukey - tukey) <= 1e-11
        assert one.p <= one.p_holm <= min(1.0, one.p * len(pairs)) * (1 + 1e-15)
        assert one.p <= one.p_tukey * (1 + 1e-9)


@pytest.mark.parametrize(("term", "by"), [("grade", ["grade"]), ("sex", ["sex"]), ("grade:sex", ["grade", "sex"])])
def test_means_of_a_three_way_model_equal_statsmodels(term: str, by: list[str]) -> None:
    held, frame = tables.study(NUMBERS, factors=FACTORS, models=[K_WAY]), tables.synthetic()
    model = held.model(K_WAY)
    wanted = {one.name: one for one in adjusted_means.terms_of(model)}
    assert list(wanted) == ["grade", "sex", "grade:sex"]
    ours = adjusted_means.of_term(tables.pooled(frame, held=held), model=model, term=wanted[term])
    assert ours.covariates == ("x", "age")
    fitted = smf.ols("y ~ grade * sex * x + age", frame).fit(method="qr")
    check(ours, fitted, grid(frame, {"grade": GRADES, "sex": SEXES}), by=by)


def test_a_transformed_covariate_is_at_the_mean_of_its_transformed_values() -> None:
    held, frame = tables.study(NUMBERS, factors=FACTORS, models=[LOGS]), tables.synthetic()
    model = held.model(LOGS)
    frame["log_age"] = np.log(frame["age"])
    fitted = smf.ols("y ~ grade * sex + grade * log_age + x", frame).fit(method="qr")
    for term in adjusted_means.terms_of(model):
        ours = adjusted_means.of_term(tables.pooled(frame, held=held), model=model, term=term)
        check(ours, fitted, grid(frame, {"grade": GRADES, "sex": SEXES}), by=term.name.split(":"))


def test_means_of_four_heart_hospitals_equal_statsmodels() -> None:
    text = "rate ~ pain * sex + age + pressure"
    frame, hospital = tables.heart()
    held = tables.study(HEART_NUMBERS, factors=HEART_FACTORS, models=[text])
    pooled, complete = tables.pooled(frame, held=held, hospitals=hospital), frame.dropna()
    fitted = smf.ols(text, complete).fit(method="qr")
    for term in adjusted_means.terms_of(held.model(text)):
        ours = adjusted_means.of_term(pooled, model=held.model(text), term=term)
        check(ours, fitted, grid(complete, HEART_FACTORS), by=term.name.split(":"))


def test_means_weigh_the_levels_of_other_factors_equally_whatever_their_patients() -> None:
    frame = tables.synthetic()
    few = pd.concat([frame, frame[frame["sex"] == "f"], frame[frame["sex"] == "f"]])
    text = "y ~ grade * sex"
    held = tables.study(NUMBERS, factors=FACTORS, models=[text])
    term = adjusted_means.terms_of(held.model(text))[0]
    one, other = (
        adjusted_means.of_term(tables.pooled(table, held=held), model=held.model(text), term=term) for table in (frame, few)
    )
    assert difference([mean.mean for mean in one.means], [mean.mean for mean in other.means]) <= 1e-12


def test_an_empty_cell_is_named_and_so_are_too_many() -> None:
    frame = tables.synthetic()
    frame.loc[(frame["grade"] == "g3") & (frame["sex"] == "m"), "sex"] = "f"
    text = "y ~ grade * sex"
    held = tables.study(NUMBERS, factors=FACTORS, models=[text])
    with pytest.raises(NotEstimable) as refused:
        adjusted_means.of_term(
            tables.pooled(frame, held=held), model=held.model(text), term=adjusted_means.terms_of(held.model(text))[0]
        )
    assert (refused.value.diagnosis, refused.value.term) == ("constant", "grade[g3]:sex[m]")
    many = {"grade": [f"a{i}" for i in range(17)], "sex": SEXES}
    wide = tables.study(NUMBERS, factors=many, models=[text])
    with pytest.raises(NotEstimable, match="too many cells"):
        adjusted_means.of_term(
            tables.pooled(tables.synthetic(), held=held),
            model=wide.model(text),
            term=adjusted_means.terms_of(wide.model(text))[-1],
        )


def test_the_report_shows_means_and_contrasts_of_every_term_of_factors() -> None:
    held = tables.study(NUMBERS, factors=FACTORS, models=[K_WAY, "y ~ age + x"])
    part = family.read(tables.pooled(tables.synthetic(), held=held), study=held)
    assert [one["term"] for one in part["models"][0]["means"]] == ["grade", "sex", "grade:sex"]
    assert part["models"][1]["means"] == []
    shown = sections(part)
    captions = [table["caption"] for table in shown[0]["tables"]]
    for term in ("grade", "sex", "grade:sex"):
        assert f"Adjusted means of {term}" in captions
        assert f"Contrasts of {term}" in captions
    assert len(shown[0]["figures"]) == 3
    assert "<svg" in shown[0]["figures"][0]
    assert shown[1]["figures"] == []
