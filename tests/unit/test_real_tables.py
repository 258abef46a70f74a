"""Real tables over their natural hospitals: every analysis equals the pooled one of statsmodels, scipy or plain formulas."""

import functools

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import statsmodels.formula.api as smf
from scipy import stats
from statsmodels.stats.anova import anova_lm

from client.kernels.rows import Rows
from common.moments import Moments
from common.study import Study
from common.wanted import Ancova, Grouping
from deploy.demo import lidc
from server.infer import (
    agreement,
    ancova,
    anova,
    correlation,
    logistic,
    ordinal,
    partial,
    principal,
    regression,
    roc,
    spearman,
    welch,
)
from server.infer.groups import groups
from tests import tables
from tests.pooling import columns, drive, rows_of
from tests.tables import difference

SIZES = ("volume_mm3", "diam_mm", "short_mm", "cos2", "sin2", "spiculation", "lobulation", "texture")
GRADES = ["m1", "m2", "m3", "m4", "m5"]
MODEL = "log_volume ~ grade * contrast + spiculation"
FORMULAS = [MODEL, "log_volume ~ grade + spiculation * lobulation"]
NUMBERS = {
    "volume_mm3": (0, 65536), "diam_mm": (0, 128), "short_mm": (0, 128), "cos2": (-1, 1), "sin2": (-1, 1),
    "spiculation": (0, 8), "lobulation": (0, 8), "texture": (0, 8), "log_volume": (-8, 16),
}  # fmt: skip
GRID = tuple((np.arange(1025) / 8).tolist())
WANTED = Ancova(outcome="log_volume", factor="grade", covariates=("spiculation", "lobulation"))


@functools.cache
def lesions() -> tuple[pd.DataFrame, np.ndarray]:
    """The 6,859 readings of LIDC-IDRI, and for each its silo: slice thickness by contrast, ten of them."""
    frame = pd.read_csv(tables.real("lidc_params.csv.gz"))
    turn = np.deg2rad(2 * frame["angle_deg"])  # a direction without sense
    frame = frame.assign(cos2=np.cos(turn), sin2=np.sin(turn), log_volume=np.log(frame["volume_mm3"]))
    frame = frame.assign(grade="m" + frame["malignancy"].astype(str), contrast=frame["contrast"].map({0: "without", 1: "with"}))
    silo = pd.cut(frame["thick"], [0, 1, 1.5, 2, 2.5, 9]).cat.codes * 2 + (frame["contrast"] == "with")
    return frame, silo.to_numpy()


@functools.cache
def held() -> Study:
    return tables.study(
        NUMBERS,
        factors={"grade": GRADES, "contrast": ["without", "with"]},
        correlation=list(SIZES),
        models=FORMULAS,
        ancova=[WANTED],
        groups=[Grouping(outcome="log_volume", factor="grade")],
    )


@functools.cache
def pooled() -> Moments:
    frame, silo = lesions()
    made = tables.pooled(frame, held=held(), hospitals=silo)
    assert (made.n, len(np.unique(silo))) == (6859, 10)
    return made


def silos(names: list[str], frame: pd.DataFrame, silo: np.ndarray) -> tuple[Rows, list[Rows]]:
    rows = rows_of({name: frame[name].to_numpy(float) for name in names})
    return rows, [rows.part(silo == one) for one in np.unique(silo)]


def test_correlations_of_lesions_equal_scipy() -> None:
    frame, _ = lesions()
    ours = correlation.correlate(pooled(), names=SIZES)
    for i, one in enumerate(SIZES):
        for j, other in enumerate(SIZES[:i]):
            theirs = stats.pearsonr(frame[one], frame[other])
            assert difference(ours.r[i, j], theirs.statistic) <= 1e-10
            if theirs.pvalue > 1e-290:
                assert difference(ours.p_values[i, j], theirs.pvalue) <= 1e-10


def test_partial_correlations_and_components_of_lesions_equal_the_pooled_matrix() -> None:
    r = np.corrcoef(lesions()[0][list(SIZES)].to_numpy(), rowvar=False)
    inverse = np.linalg.inv(r)
    scale = np.sqrt(np.diag(inverse))
    above = np.triu_indices(len(SIZES), 1)
    ours = partial.correlate(pooled(), names=SIZES)
    assert difference(ours.r[above], (-inverse / np.outer(scale, scale))[above]) <= 1e-10
    found = principal.components(pooled(), names=SIZES)
    assert difference(found.eigenvalues, np.linalg.eigvalsh(r)[::-1]) <= 1e-10


@pytest.mark.parametrize(
    ("kind", "typ", "ours", "theirs"),
    [
        ("I", 1, FORMULAS[0], FORMULAS[0]),
        ("II", 2, FORMULAS[0], FORMULAS[0]),
        ("III", 3, FORMULAS[0], "log_volume ~ C(grade, Sum) * C(contrast, Sum) + spiculation"),
        ("II", 2, FORMULAS[1], FORMULAS[1]),
    ],
)
def test_anova_of_lesions_equals_statsmodels(kind: anova.Kind, typ: int, ours: str, theirs: str) -> None:
    frame, _ = lesions()
    frame = frame.assign(contrast=pd.Categorical(frame["contrast"], ["without", "with"]))
    oracle = anova_lm(smf.ols(theirs, frame).fit(method="qr"), typ=typ)
    oracle = oracle.rename(index=lambda name: name.replace("C(", "").replace(", Sum", "").replace(")", ""))
    rows = anova.analyse(pooled(), model=held().model(ours), kind=kind).rows
    for row in [row for row in rows if kind != "I" or row.term in ("grade", "contrast")]:  # patsy puts factors first
        assert difference(row.f, oracle.loc[row.term, "F"]) <= 1e-10, row.term
        if oracle.loc[row.term, "PR(>F)"] > 1e-290:
            assert difference(row.p, oracle.loc[row.term, "PR(>F)"]) <= 1e-10, row.term


def test_ancova_and_groups_of_lesions_equal_statsmodels() -> None:
    frame, _ = lesions()
    ours = ancova.analyse(pooled(), study=held(), wanted=WANTED)
    slopes = smf.ols("log_volume ~ grade * (spiculation + lobulation)", frame).fit(method="qr")
    test = slopes.f_test(np.eye(len(slopes.params))[[":" in name for name in slopes.params.index]])
    assert ours.slopes is not None
    assert difference([ours.slopes.f, ours.slopes.p], [test.fvalue, test.pvalue]) <= 1e-10
    common = smf.ols("log_volume ~ grade + spiculation + lobulation", frame).fit(method="qr")
    at = pd.DataFrame({"grade": GRADES, **{name: frame[name].mean() for name in WANTED.covariates}})
    theirs = common.get_prediction(at).summary_frame()
    assert difference([one.mean for one in ours.means], theirs["mean"]) <= 1e-10
    assert difference([one.standard_error for one in ours.means], theirs["mean_se"]) <= 1e-10
    made = groups(pooled(), outcome="log_volume", factor="grade", levels=GRADES)
    found = welch.compare(made, outcome="log_volume", factor="grade")
    oracle = stats.f_oneway(*(frame.loc[frame["grade"] == one, "log_volume"] for one in GRADES), equal_var=False)
    assert difference(found.f, oracle.statistic) <= 1e-10


def test_logistic_regression_and_roc_of_lesions_equal_the_pooled_rows() -> None:
    frame, silo = lesions()
    clear = (frame["malignancy"] != 3).to_numpy()
    frame, silo = (
        frame[clear].assign(y=(frame["malignancy"] > 3).astype(float), bin=np.floor(frame["diam_mm"] * 8) / 8),
        silo[clear],
    )
    names = ["short_mm", "spiculation", "lobulation", "texture"]
    rows, hospitals = silos(["y", *names], frame, silo)
    found = drive(logistic.fit(logistic.Spec(outcome="y", predictors=columns(rows, *names))), hospitals)
    fitted = sm.Logit(frame["y"], sm.add_constant(frame[names])).fit(disp=0, tol=1e-14, maxiter=60, method="newton")
    assert difference([row.estimate for row in found.rows], fitted.params) <= 1e-10
    assert difference([row.standard_error for row in found.rows], fitted.bse) <= 1e-10
    assert difference([row.p for row in found.rows], fitted.pvalues) <= 1e-10
    rows, hospitals = silos(["y", "bin"], frame, silo)
    ours = drive(roc.fit(roc.Spec(outcome="y", score="bin", grid=GRID)), hospitals)
    a, b = (frame.loc[frame["y"] == one, "bin"].to_numpy() for one in (1, 0))
    wins = (a[:, None] > b) + 0.5 * (a[:, None] == b)
    assert difference(ours.auc, stats.mannwhitneyu(a, b).statistic / (len(a) * len(b))) <= 1e-10
    error = np.sqrt(wins.mean(axis=1).var(ddof=1) / len(a) + wins.mean(axis=0).var(ddof=1) / len(b))
    assert difference(ours.auc_error, error) <= 1e-10


def odds(grade: np.ndarray, x: np.ndarray, start: np.ndarray, *, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Proportional odds by Newton's method with 64 binary digits: parameters and errors; derivatives by central differences."""
    x, m = x.astype(np.longdouble), levels - 1

    def score(b: np.ndarray) -> np.ndarray:
        cuts = np.concatenate([[-np.inf], b[:m], [np.inf]]).astype(np.longdouble)
        shift = x @ b[m:]
        high, low = (1 / (1 + np.exp(shift - cuts[grade + k])) for k in (1, 0))
        p, up, down = high - low, high * (1 - high), low * (1 - low)
        at_cut = [(up / p)[grade == j].sum() - (down / p)[grade == j + 1].sum() for j in range(m)]
        return np.array([*at_cut, *(-x.T @ ((up - down) / p))], dtype=np.longdouble)

    b, h = start.astype(np.longdouble), np.longdouble(1e-6)
    for _ in range(2):
        hessian = np.array([(score(b + h * one) - score(b - h * one)) / (2 * h) for one in np.eye(len(b))], dtype=float)
        inverse = np.linalg.inv(-(hessian + hessian.T) / 2)
        b = b + inverse @ score(b)
    return b.astype(float), np.sqrt(np.diag(inverse))


def test_proportional_odds_of_malignancy_equal_newtons_method_on_the_pooled_rows() -> None:
    frame, silo = lesions()
    frame = frame.assign(grade=frame["malignancy"] - 1.0)
    names = ["short_mm", "spiculation", "texture"]
    rows, hospitals = silos(["grade", *names], frame, silo)
    found = drive(ordinal.fit(ordinal.Spec(outcome="grade", levels=5, predictors=columns(rows, *names))), hospitals)
    every = [*found.thresholds, *found.rows]
    scale = frame[names].std().to_numpy()
    start = np.array([row.estimate for row in every]) * [1, 1, 1, 1, *scale]
    b, errors = odds(frame["grade"].to_numpy(int), frame[names].to_numpy() / scale, start, levels=5)
    assert difference([row.estimate for row in every], b / [1, 1, 1, 1, *scale]) <= 1e-10
    assert difference([row.standard_error for row in every], errors / [1, 1, 1, 1, *scale]) <= 1e-10


def test_agreement_of_four_readers_equals_two_way_anova() -> None:
    read = [lesion for lesion in lidc.lesions(tables.real("lidc-nodules.sqlite").resolve()) if len(lesion.readings) == 4]
    by_reader = [sorted(lesion.readings, key=lambda one: one.number) for lesion in read]
    table = {f"r{at}": np.array([one[at].diameter_mm for one in by_reader]) for at in range(4)}
    rows, hospitals = silos(list(table), pd.DataFrame(table), np.arange(len(read)) % 5)
    found = drive(agreement.fit(agreement.Spec(readers=columns(rows, *table))), hospitals)
    assert found.n == 443
    long = pd.DataFrame(table).reset_index().melt(id_vars="index")
    oracle = anova_lm(smf.ols("value ~ C(index) + C(variable)", long).fit(method="qr"))
    r, c, e = oracle["mean_sq"][["C(index)", "C(variable)", "Residual"]]
    icc2, icc3 = (r - e) / (r + 3 * e + 4 * (c - e) / len(read)), (r - e) / (r + 3 * e)
    assert difference([one.estimate for one in found.icc], [icc2, icc3]) <= 1e-10
    for pair in found.pairs:
        d = table[pair.first] - table[pair.second]
        limits = d.mean() + np.array([-1, 1]) * stats.norm.isf(0.025) * d.std(ddof=1)
        assert difference([pair.bias, pair.sd, *pair.limits], [d.mean(), d.std(ddof=1), *limits]) <= 1e-10
        assert difference(pair.bias_p, stats.ttest_rel(table[pair.first], table[pair.second]).pvalue) <= 1e-10


@functools.cache
def heart() -> tuple[pd.DataFrame, np.ndarray]:
    frame, hospital = tables.heart()
    full = pd.read_csv(tables.real("heart-disease-4-hospitals.csv")).loc[frame.index]
    frame = frame.assign(num=full["num"], oldpeak=full["oldpeak"])
    complete = frame.notna().all(axis=1)
    return frame[complete].assign(y=(frame["num"] > 0).astype(float)), hospital[complete].to_numpy()


def test_regression_and_correlations_of_four_heart_hospitals_equal_statsmodels() -> None:
    frame, hospital = tables.heart()
    text = "rate ~ pain + sex * age + pressure"
    names = ("rate", "age", "pressure")
    one = tables.study(tables.HEART_NUMBERS, factors=tables.HEART_FACTORS, models=[text], correlation=list(names))
    made, complete = tables.pooled(frame, held=one, hospitals=hospital), frame.dropna()
    fitted = smf.ols(text, complete).fit(method="qr")
    spelt = {":".join(sorted(name.replace("[T.", "[").split(":"))): name for name in fitted.params.index}
    for row in regression.fit_model(made, model=one.model(text)).rows:
        name = spelt[":".join(sorted(row.term.replace("(intercept)", "Intercept").split(":")))]
        assert difference(row.estimate, fitted.params[name]) <= 1e-10
        assert difference(row.standard_error, fitted.bse[name]) <= 1e-10
        assert difference(row.p, fitted.pvalues[name]) <= 1e-10
    ours = correlation.correlate(made, names=names)
    held_fixed = partial.correlate(made, names=names)
    r = np.corrcoef(complete[list(names)].to_numpy(), rowvar=False)
    inverse = np.linalg.inv(r)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        theirs = stats.pearsonr(complete[names[i]], complete[names[j]])
        assert difference([ours.r[i, j], ours.p_values[i, j]], [theirs.statistic, theirs.pvalue]) <= 1e-10
        assert difference(held_fixed.r[i, j], -inverse[i, j] / np.sqrt(inverse[i, i] * inverse[j, j])) <= 1e-10


def test_logistic_regression_roc_and_ranks_of_four_heart_hospitals_equal_the_pooled_rows() -> None:
    frame, hospital = heart()
    assert len(np.unique(hospital)) == 4
    names = ["age", "rate", "pressure"]
    rows, hospitals = silos(["y", *names], frame, hospital)
    found = drive(logistic.fit(logistic.Spec(outcome="y", predictors=columns(rows, *names))), hospitals)
    fitted = sm.Logit(frame["y"], sm.add_constant(frame[names])).fit(disp=0, tol=1e-14, maxiter=60, method="newton")
    assert difference([row.estimate for row in found.rows], fitted.params) <= 1e-10
    assert difference([row.p for row in found.rows], fitted.pvalues) <= 1e-10
    rows, hospitals = silos(["y", "age"], frame, hospital)
    years = tuple((np.arange(129) - 0.5).tolist())
    ours = drive(roc.fit(roc.Spec(outcome="y", score="age", grid=years)), hospitals)
    a, b = (frame.loc[frame["y"] == one, "age"].to_numpy() for one in (1, 0))
    assert difference(ours.auc, stats.mannwhitneyu(a, b).statistic / (len(a) * len(b))) <= 1e-10
    rows, hospitals = silos(["age", "rate"], frame, hospital)
    ranked = drive(
        spearman.fit(spearman.Spec(names=("age", "rate"), grids=(years, tuple((np.arange(257) - 0.5).tolist())))), hospitals
    )
    r, p = stats.spearmanr(frame["age"], frame["rate"])
    assert difference([ranked.r[0, 1], ranked.p_values[0, 1]], [r, p]) <= 1e-10


def test_proportional_odds_of_four_heart_hospitals_equal_newtons_method_on_the_pooled_rows() -> None:
    frame, hospital = heart()
    names = ["age", "rate", "oldpeak"]
    rows, hospitals = silos(["num", *names], frame, hospital)
    found = drive(ordinal.fit(ordinal.Spec(outcome="num", levels=5, predictors=columns(rows, *names))), hospitals)
    every = [*found.thresholds, *found.rows]
    scale = np.array([1, 1, 1, 1, *frame[names].std()])
    b, errors = odds(
        frame["num"].to_numpy(int),
        frame[names].to_numpy() / scale[4:],
        np.array([row.estimate for row in every]) * scale,
        levels=5,
    )
    assert difference([row.estimate for row in every], b / scale) <= 1e-10
    assert difference([row.standard_error for row in every], errors / scale) <= 1e-10
