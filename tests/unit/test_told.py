"""Declared analyses in the report: numbers, figures, CSV, and what is not there."""

import csv
import io
import json
from html.parser import HTMLParser

import numpy as np
import pytest

from server import csvs, plan_rules, report, tables
from server.analyse import _plain
from server.infer import declared
from server.told import told
from tests import cohorts, pooling
from tests.cohorts import BINS, PATIENTS, study

EVERY = (
    {"kind": "logistic", "formula": "y ~ x1 + sex", "queries_max": 12},
    {"kind": "ordinal", "formula": "sex ~ x1", "queries_max": 20},
    {"kind": "robust", "formula": "malignancy ~ x1"},
    {"kind": "fixed-site", "formula": "malignancy ~ x1"},
    {"kind": "meta-analysis", "formula": "malignancy ~ x1"},
    {"kind": "forest", "formula": "malignancy ~ x1"},
    {"kind": "mixed", "formula": "malignancy ~ x1", "queries_max": 80},
    {"kind": "cox", "formula": "time ~ x1", "event": "dead", "queries_max": 20},
    {"kind": "kaplan-meier", "time": "time", "event": "dead", "bins": BINS, "group": "sex"},
    {"kind": "roc", "outcome": "y", "score": "score", "bins": BINS},
    {"kind": "ranks", "response": "score", "group": "sex", "bins": BINS},
    {"kind": "spearman", "variables": ["score", "time"], "bins": BINS},
    {"kind": "quantiles", "variable": "score", "bins": BINS, "probabilities": ["0.5"]},
    {"kind": "k-means", "variables": ["x1", "x2"], "sizes": [2, 3], "queries_max": 200},
    {"kind": "mixture", "variables": ["x1", "x2"], "components": 2, "queries_max": 400},
    {"kind": "agreement", "readers": ["x1", "malignancy"]},
    {"kind": "combat", "features": ["x1"], "covariates": ["x2"]},
)


COUNTED = {}  # by the analysis' place: its queries, and the coefficients that a hospital counts for each


@pytest.fixture(scope="module")
def analyses():
    """Results of every kind, as a run would have them."""
    wanted = study(*EVERY)
    dealt = cohorts.tables()
    names = [*cohorts.NAMES, "sex[m]"]
    low = (*(float(v.lower) for v in wanted.variables), 0.0)
    high = (*(float(v.upper) for v in wanted.variables), 1.0)
    hospitals = [
        pooling.Rows(names=tuple(names), values=np.column_stack([rows, rows[:, 6]]), lower=low, upper=high)
        for rows in dealt.values()
    ]
    return [
        {
            "kind": one.kind,
            "declared": one.model_dump(mode="json"),
            "sums": 3,
            "hospitals": list(dealt),
            "result": json.loads(
                json.dumps(
                    _plain(
                        pooling.drive(
                            declared.start(wanted, position=at), hospitals, shows=[1], counted=COUNTED.setdefault(at, [])
                        )
                    )
                )
            ),
        }
        for at, one in enumerate(wanted.statistics.analyses)
    ]


def result(analyses, **more):
    exact = [{"round": at + 2, "statistic": "analysis-1-logistic", "hospitals": ["a", "b"]} for at in range(5)]
    return {"study": {}, "analyses": analyses, "exact_releases": exact, **more}


class Text(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.words, self.ids, self.tags = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.ids += [value for key, value in attrs if key == "id"]

    def handle_data(self, data):
        self.words.append(data)


def shown(tmp_path, made):
    report.render(made, out=tmp_path / "report.html")
    page = Text((tmp_path / "report.html").read_text())
    return page, " ".join("".join(page.words).split())


def test_every_kind_of_analysis_has_tables_and_says_that_its_epsilon_is_infinite(analyses):
    made = told(analyses)
    assert len(made) == len(EVERY)
    for section in made:
        assert section["tables"], section["title"]
        assert section["absent"] == ""
        assert "epsilon is infinite" in section["note"]
        assert section["title"].partition(":")[0] in section["method"]


@pytest.mark.usefixtures("analyses")
def test_a_plan_counts_the_coefficients_that_a_hospital_counts():
    wanted = study(*EVERY)
    for at in range(len(EVERY)):
        for asked, parameters in COUNTED[at]:
            (form,) = [one for one in wanted.asked(at).forms if one.admits(asked)]
            assert plan_rules.coefficients(form) == parameters, (EVERY[at]["kind"], form.kernel)


def test_figures_of_a_page_have_ids_of_their_own_and_draw_no_patient(analyses, tmp_path):
    page, text = shown(tmp_path, result(analyses))
    assert len(page.ids) == len(set(page.ids))
    assert page.tags.count("svg") == 13  # six regressions, two forests, survival, ROC, a histogram, two of clusters
    assert "product limit" in text
    assert "2 to 6" in text
    assert "analysis-1-logistic: 5 sums" in text
    assert "epsilon = ∞: 5 sums" in text


def test_a_forest_names_who_does_not_show_an_estimate(analyses):
    (forest,) = [section for section in told(analyses) if "own estimates" in section["title"]]
    assert [table["caption"] for table in forest["tables"]][-1] == "Hospitals that show their estimates, as sent"
    assert "as sent: that no hospital filled another's place is not proven" in forest["note"]
    assert [row[1] for row in forest["tables"][-1]["rows"]] == [
        "hosp-a (not shown)",
        "hosp-b",
        "hosp-c (not shown)",
        "hosp-d (not shown)",
    ]
    assert forest["figures"][0].count("not shown") == 3
    assert forest["figures"][0].count("<polygon") == 3  # equal effects, random effects twice
    assert "I² " in forest["note"]
    assert "I² " in forest["figures"][0]


def test_adjusted_p_values_have_a_table_of_their_own(analyses):
    rows = [{"term": name, "method": "", "p": 0.01, "p_holm": 0.02, "p_bh": 0.01} for name in ("x1", "sex[m]")]
    (section,) = told([{**analyses[0], "adjusted": rows}])
    assert section["tables"][-1]["columns"] == ["term", "p", "p (Holm)", "q"]
    assert section["tables"][-1]["rows"][0] == ["x1", "0.01", "0.02", "0.01"]


def test_an_analysis_says_how_many_patients_it_leaves_out(analyses):
    for item in analyses:
        (section,) = told([{**item, "left_out": {"patients": 37, "untold": 2}}])
        assert (
            "37 left out as incomplete, and 2 hospitals left out at least one each, fewer than they tell. " in section["note"]
        )
        assert not section["note"].startswith(";")


def test_hospitals_that_do_not_tell_are_not_written_as_nobody_left_out(analyses):
    (alone,) = told([{**analyses[0], "left_out": {"patients": 0, "untold": 4}}])
    assert "; 4 hospitals left out at least one each, fewer than they tell. " in alone["note"]
    assert "0 left out" not in alone["note"]
    (nobody,) = told([{**analyses[0], "left_out": {"patients": 0, "untold": 0}}])
    assert "; 0 left out as incomplete. " in nobody["note"]


@pytest.mark.parametrize("at", [2, 3], ids=["robust", "fixed-site"])
def test_a_forest_of_slopes_is_standardised_so_that_units_do_not_rule_its_axis(analyses, at):
    item = analyses[at]
    row = item["result"]["rows"][-1]

    def stretched(by):  # as if the term were measured in a unit so many times as large
        keys = ("estimate", "standard_error", "ci_low", "ci_high")
        rows = [*item["result"]["rows"][:-1], {**row, **{key: by * row[key] for key in keys}}]
        return told([{**item, "result": {**item["result"], "rows": rows}}])[0]["figures"]

    (plain,) = stretched(1)
    assert "in its standard deviations" in plain
    assert ", per standard deviation<" in plain
    assert [plain] == stretched(1000.0)
    bare = [{key: value for key, value in one.items() if key != "standardised"} for one in item["result"]["rows"]]
    (older,) = told([{**item, "result": {**item["result"], "rows": bare}}])
    assert "change of malignancy per unit of the term" in older["figures"][0]


def test_an_analysis_without_an_answer_is_named_and_shows_no_number(analyses, tmp_path):
    refused = {key: analyses[0][key] for key in ("kind", "declared")}
    refused |= {"sums": 0, "hospitals": [], "diagnosis": "refused", "term": "hosp-a"}
    _, text = shown(tmp_path, result([refused]))
    assert "No answer: hosp-a: refused." in text
    (section,) = told([refused])
    assert (section["tables"], section["figures"], section["note"]) == ([], [], "")


def test_a_round_names_its_analysis(tmp_path):
    rounds = [
        {"round": 4, "task": "query", "index": 20_003, "state": "void", "hospitals": ["a"], "missing": {"a": "E-REFUSED"}}
    ]
    _, text = shown(tmp_path, result([], rounds=rounds))
    assert "analysis 3" in text


def test_csv_files_hold_every_digit(analyses, tmp_path):
    names = csvs.write(result(analyses), folder=tmp_path / "tables")
    assert len(names) == len(set(names)) == sum(len(section["tables"]) for section in told(analyses))
    rows = list(csv.DictReader(io.StringIO((tmp_path / "tables" / names[0]).read_text())))
    assert [float(row["estimate"]) for row in rows] == [row["estimate"] for row in analyses[0]["result"]["rows"]]


def test_a_csv_holds_plain_numbers_and_no_formula_in_its_head():
    made = tables.table("c", ("=level", "b"), [{"=level": np.float64(0.1), "b": float("nan")}])["csv"]
    assert made == "'=level,b\n0.1,\n"


def test_every_row_of_a_csv_says_whom_it_is_about_and_what_it_cost(analyses, tmp_path):
    told_ = [{**one, "left_out": {"patients": 9, "untold": 1}} for one in analyses]
    for name in csvs.write(result(told_), folder=tmp_path / "tables"):
        for row in csv.DictReader(io.StringIO((tmp_path / "tables" / name).read_text())):
            assert (row["missing"], row["untold_hospitals"], row["mechanism"], row["epsilon"]) == ("9", "1", "none", "infinite")


def test_how_many_patients_an_analysis_is_about_is_known_for_every_kind(analyses):
    assert [section["marks"]["n"] for section in told(analyses)] == [4 * PATIENTS] * len(EVERY)


def test_groups_have_their_levels_names_where_the_result_holds_them(analyses):
    named = {at: {**analyses[at]["declared"], "levels": ["f", "m"]} for at in (8, 10)}
    survival, ranks = told([{**analyses[at], "declared": declared} for at, declared in named.items()])
    assert [row[0] for row in survival["tables"][0]["rows"]] == ["f", "m"]
    assert survival["tables"][1]["rows"][0][:2] == ["f", "m"]
    assert ranks["tables"][1]["columns"] == ["first", "second", "P(second > first)", "95 % interval"]
    assert ranks["tables"][1]["rows"][0][:2] == ["f", "m"]


def test_a_roc_shows_youdens_point_and_the_calibration_of_a_probability(analyses):
    (roc,) = told([analyses[9]])
    captions = [table["caption"] for table in roc["tables"]]
    assert captions[0].endswith("(Youden)")
    assert captions[2:] == ["Calibration: logit of the outcome on the logit of the score", "Patients by predicted risk"]
    assert "Hosmer and Lemeshow" in roc["note"]


def test_the_methods_say_the_way_that_was_gone(analyses):
    firth = {**analyses[0], "result": {**analyses[0]["result"], "method": "firth"}}
    plain, penalised = told([analyses[0], firth])
    assert "Firth" not in plain["method"]
    assert "profile likelihood ratio" in penalised["method"]
    robust = analyses[2]
    alone = {**robust, "result": {**robust["result"], "clustered": []}}
    assert ["clustered by hospital" in section["method"] for section in told([robust, alone])] == [True, False]
    assert f"on {BINS} equal bins" in told([analyses[8]])[0]["method"]


@pytest.mark.parametrize(
    ("row", "shown_"),
    [
        ({"x": 1.5, "x_low": 1.0, "x_high": 2.0}, ["1.5", "1 to 2"]),
        ({"x": 1.5, "x_low": None, "x_high": 2.0}, ["1.5", "\u2013 to 2"]),
        ({"x": None}, ["\u2013", "\u2013"]),
    ],
)
def test_an_interval_is_one_column_of_the_page_and_two_of_the_csv(row, shown_):
    made = tables.table("t", ("x", "x_low", "x_high"), [row])
    assert made["columns"] == ["x", "95 % interval"]
    assert made["rows"] == [shown_]
    assert made["csv"].partition("\n")[0] == "x,x_low,x_high"


def test_text_that_a_spreadsheet_would_run_is_disarmed(analyses):
    hostile = json.loads(json.dumps(analyses[0]))
    hostile["result"]["rows"][0]["term"] = "=1+1"
    (section,) = told([hostile])
    assert "'=1+1" in section["tables"][0]["csv"]


def test_hostile_text_of_an_analysis_stays_text(analyses, tmp_path):
    hostile = {**analyses[0], "declared": {"kind": "logistic", "formula": "<script>alert(1)</script>"}}
    page, _ = shown(tmp_path, result([hostile]))
    assert "script" not in page.tags
