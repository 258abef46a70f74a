"""The report of a study whose Gram left with noise: intervals that count it, its cost, what was run; text stays text."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from server import csvs, private_sections
from server.infer.private.family import read
from tests import noisy, tables
from tests.unit.test_private_inference import FRAME, STUDY
from tests.unit.test_report import HOSTILE, Page, render, sample, strings


def result(sigma: float = 0.05) -> dict[str, Any]:
    made = sample()
    for key in ("correlation", "ols", "patients"):
        del made[key]
    part = read(noisy.released(FRAME, held=STUDY, sigma=sigma), study=STUDY)
    whole = {"epsilon": "8.5432", "epsilon_rdp": "9.1", "delta": "0.00001", "releases": 25}
    return made | {"private_gram": json.loads(json.dumps(part, allow_nan=False)), "privacy": whole}


def test_page_shows_noise_aware_figures_and_says_what_was_run(tmp_path: Path) -> None:
    made = result()
    text = Page(render(made, tmp_path)).text
    row = made["private_gram"]["ols"]["rows"][1]
    for expected in (
        "Statistics with noise",
        "width ratio",
        f"{row['ci_low']:.4g}".replace("-", "\u2212"),
        "1999 draws",
        "Zou and Donner",
        "too noisy",
        "8.5432",
        "gaussian",
        "a clipped patient counting less than one",
    ):
        assert expected in text
    assert made["private_gram"]["noise"]["delta"] in text
    assert "52 bits" not in text
    assert "None" not in text


def test_page_shows_pairs_welch_and_components_with_the_noise_counted(tmp_path: Path) -> None:
    made = result()
    held = made["private_gram"]
    text = " ".join(Page(render(made, tmp_path)).text.split())
    for expected in ("p (Tukey)", "95 % interval (Tukey)", "p (Games-Howell)", "Welch's test, p by bootstrap", "Loadings"):
        assert expected in text
    for shown in (held["groups"][0]["pairs"][0]["tukey_low"], held["components"]["rows"][0]["ci_high"]):
        assert f"{shown:.4g}".replace("-", "\u2212") in text
    assert "after Tukey and Kramer from the largest t" in text
    assert "not offered" not in text
    files = {name: (tmp_path / "tables" / name).read_text() for name in csvs.write(made, folder=tmp_path / "tables")}
    for columns, times in (
        ("p_tukey,tukey_low,tukey_high", 5),  # one-way, ANCOVA, three terms of the model
        ("p_games_howell,hedges_g", 1),
        ("component,eigenvalue", 1),
        ("component,name,loading", 1),
    ):
        assert sum(columns in one for one in files.values()) == times
    assert "All pairs of grade:sex" in text


def test_a_group_without_a_variance_of_its_own_takes_away_what_needs_it_and_no_more(tmp_path: Path) -> None:
    made = result(sigma=2.0)
    one = made["private_gram"]["groups"][0]
    assert one["welch"]["diagnosis"] == "too noisy"
    assert one["pairs"][0]["p_tukey"] > 0
    text = " ".join(Page(render(made, tmp_path)).text.split())
    assert f"Not given: Welch's test and Games and Howell's pairs: {one['welch']['term']}: too noisy." in text


def test_page_is_well_formed_with_unique_ids_and_a_table_beside_every_figure(tmp_path: Path) -> None:
    page = Page(render(result(), tmp_path))
    assert page.open == []
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {str(attrs["href"])[1:] for _, attrs in page.tags if attrs.get("href")} <= set(ids)
    figures = [attrs.get("aria-labelledby") for tag, attrs in page.tags if tag == "svg"]
    assert any("heatmap" in str(one) for one in figures)
    assert sum("coefficients" in str(one) for one in figures) == 2
    assert not {tag for tag, _ in page.tags} & {"script", "img", "link"}


def test_same_result_gives_the_same_bytes(tmp_path: Path) -> None:
    assert render(result(), tmp_path) == render(result(), tmp_path)


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    made = result()
    for container, key in list(strings(made["private_gram"])):
        container[key] = HOSTILE
    page = Page(render(made, tmp_path))
    assert not {tag for tag, _ in page.tags} & {"script", "img"}
    assert HOSTILE in page.text


def test_where_all_is_noise_the_page_says_so_and_has_no_figure_of_it(tmp_path: Path) -> None:
    made = result(sigma=5000.0)
    page = Page(render(made, tmp_path))
    assert page.text.count("too noisy") > 5
    for one in private_sections.sections(made["private_gram"]):
        assert one["absent"]
        assert not one["tables"]
        assert not one["figures"]


def test_tables_are_csv_with_mechanism_and_epsilon_in_every_row(tmp_path: Path) -> None:
    made = result()
    names = csvs.write(made, folder=tmp_path / "tables")
    assert any("coefficients" in name for name in names)
    rows = [row for name in names for row in csv.DictReader((tmp_path / "tables" / name).read_text().splitlines())]
    assert len(rows) > 40
    assert all(row["mechanism"] == "gaussian" and row["epsilon"] == "1.5" for row in rows)
    terms = {row["term"]: row for row in rows if row.get("width_ratio") and row.get("term")}
    assert float(terms["x"]["ci_low"]) < float(terms["x"]["estimate"]) < float(terms["x"]["ci_high"])


@pytest.mark.parametrize("absent", ["table_one", "partial_correlation", "components", "models", "groups", "ancova"])
def test_part_that_was_not_asked_for_leaves_a_whole_page(tmp_path: Path, absent: str) -> None:
    made = result()
    made["private_gram"][absent] = None
    assert Page(render(made, tmp_path)).open == []


def test_a_wide_gram_of_64_variables_is_drawn_in_seconds(tmp_path: Path) -> None:
    names = [f"v{i:02d}" for i in range(64)]
    held = tables.study(
        dict.fromkeys(names, (-1, 1)),
        correlation=names,
        regression={"outcome": names[0], "predictors": names[1:40]},
    )
    part = read(noisy.moments(np.diag([5000.0, *[400.0] * 64]), names=held.columns(), sigma=1.0), study=held)
    made = result() | {"private_gram": part}
    assert Page(render(made, tmp_path)).open == []


def test_a_study_without_a_noisy_gram_has_no_such_section(tmp_path: Path) -> None:
    assert "Statistics with noise" not in Page(render(sample(), tmp_path)).text
    assert private_sections.sections(None) == []


def test_the_plot_scales_intervals_by_public_numbers_only(tmp_path: Path) -> None:
    made = result()["private_gram"]["ols"]
    halves = {"age": 41.0, "x": 10.0}
    assert {row["term"]: row["box_ratio"] for row in made["rows"][1:]} == {key: half / 50 for key, half in halves.items()}
    assert made["rows"][0]["box_ratio"] is None
    assert "half widths of its declared bounds" in render(result(), tmp_path)
