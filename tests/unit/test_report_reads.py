"""The report as it is read: wide tables in parts, one minus, methods as a list, whose seconds, estimates in their intervals."""

import csv
import io
import re
from pathlib import Path
from typing import Any

import numpy as np

from common.wanted import Grouping
from server import csvs, figures, report, sections, tables
from server.infer import welch
from server.infer.groups import groups
from tests import tables as cohort


def page(tmp_path: Path, **result: Any) -> str:
    report.render({"study": {"name": "s"}, **result}, out=tmp_path / "report.html")
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def components(p: int) -> dict[str, Any]:
    part = {"eigenvalues": [1.0] * p, "ci_low": [0.9] * p, "ci_high": [1.1] * p, "explained": [1 / p] * p}
    return {"components": {"names": [f"v{at}" for at in range(p)], "loadings": np.eye(p).tolist(), **part}}


def heads(text: str, caption: str) -> list[str]:
    (whole,) = re.findall(rf"<caption>{caption}</caption>\s*<thead>(.*?)</thead>", text, re.DOTALL)
    return re.findall(r"<th[^>]*>(.*?)</th>", whole)


def test_loadings_of_many_components_are_parts_that_fit_a_printed_page(tmp_path: Path) -> None:
    text = page(tmp_path, linear=components(13))
    assert heads(text, "Loadings: 1 to 6") == ["name", *"123456"]
    assert heads(text, "Loadings: 7 to 12") == ["name", "7", "8", "9", "10", "11", "12"]
    assert heads(text, "Loadings: 13") == ["name", "13"]
    (name,) = [name for name in csvs.write({"linear": components(13)}, folder=tmp_path / "tables") if "loadings" in name]
    rows = list(csv.DictReader(io.StringIO((tmp_path / "tables" / name).read_text())))
    assert [float(row[str(at + 1)]) for at, row in enumerate(rows)] == [1.0] * 13  # whole, for whoever computes


def test_parts_of_a_wide_table_hold_every_cell_once_beside_what_names_the_row() -> None:
    columns = ("first", "second", *(f"x{at}" for at in range(14)))
    wide = tables.table("t", columns, [{"first": "a", "second": "b", **{f"x{at}": at for at in range(14)}}])
    made = tables.in_parts([wide, tables.table("u", columns[:8], [{}])])
    assert [len(one["columns"]) for one in made] == [8, 8, 4, 8]
    assert all(one["rows"][0][:2] == ["a", "b"] for one in made[:3])
    assert [cell for one in made[:3] for cell in one["rows"][0][2:]] == [str(at) for at in range(14)]
    assert tables.in_parts([]) == []


def test_a_heading_stays_with_what_follows_it_in_print(tmp_path: Path) -> None:
    printed = page(tmp_path).partition("@media print")[2].partition("</style>")[0]
    assert re.search(r"h2, h3, caption, summary, h2 \+ p, h3 \+ p \{ break-after: avoid", printed)
    assert re.search(r"h2 \+ p, h3 \+ p, svg \{ break-inside: avoid", printed)
    assert re.search(r"figure, tr, [^{]*\{ break-inside: avoid", printed)


def test_an_axis_has_the_minus_of_the_tables() -> None:
    row = {"term": "x", "estimate": -1.0, "low": -2.0, "high": 0.5, "clear": False}
    words = re.findall(r"<text[^>]*>([^<]*)</text>", figures.coefficients([row], unit="u"))
    assert "\u22122" in words
    assert not any("-" in word for word in words)


def test_an_estimate_below_zero_stands_at_the_start_of_its_interval_and_is_said() -> None:
    frame = cohort.synthetic()
    frame["y"] += frame["y"].mean() - frame.groupby("grade")["y"].transform("mean")  # equal means: F is nearly 0
    held = cohort.study(cohort.NUMBERS, factors=cohort.FACTORS, groups=[Grouping(outcome="y", factor="grade")])
    made = groups(cohort.pooled(frame, held=held), outcome="y", factor="grade", levels=cohort.GRADES)
    compared = welch.compare(made, outcome="y", factor="grade")
    assert compared.omega_squared < 0 == compared.omega_squared_low
    (section,) = sections.sections({"groups": [compared.plain()]})
    assert "\u03c9\u00b2 0 (0 to " in section["note"]
    raw = tables.cell(compared.omega_squared)
    assert f"the unbiased estimate, {raw}, is below 0 as F is below 1" in section["note"]


def test_methods_are_a_list_of_what_was_read(tmp_path: Path) -> None:
    text = page(tmp_path, linear=components(3)).partition('id="methods"')[2]
    assert "<p>From the same integers were read:</p>\n<ul><li>Principal components" in text
    assert text.count("<p>") == text.count("</p>")


def test_the_seconds_say_whose_they_are(tmp_path: Path) -> None:
    rounds = [{"round": 1, "task": "gram", "index": None, "hospitals": [], "state": "opened", "seconds": 1.0, "missing": []}]
    own = page(tmp_path, rounds=rounds, seconds={"run": 61.2, "per_secure_sum": 0.5})
    assert "; the whole run 61.2 s." in own
    both = page(tmp_path, rounds=rounds, seconds={"run": 61.2, "per_secure_sum": 0.5, "total": 453.4})
    assert "; the whole run 61.2 s; the demo around it, with its setup, proof and audit, 453.4 s." in both
