"""The report: everything in it is the result's, nothing is fetched, hostile text stays text, no cost is hidden."""

import itertools
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typing_extensions import override

from common import moments
from common.errors import ConfigError
from common.moments import Moments
from server import report
from server.infer import correlation, regression

HOSTILE = "<script>alert(1)</script>\"'&<img src=x onerror=y>"


def pooled() -> Moments:
    """Moments of 200 made-up patients, whole numbers."""
    rng = np.random.default_rng(8)
    x = rng.normal(size=(200, 4)) * [300, 10, 12, 2] + [900, 60, 25, 5]
    x[:, 3] += 0.004 * x[:, 0] + 0.05 * x[:, 1]
    x = np.rint(x * 1000)
    total = iter(moments.gram(x.astype(np.int64)).tolist())
    rows = [[0] * i + [next(total) for _ in range(i, 5)] for i in range(5)]
    n, sums = rows[0][0], rows[0][1:]
    cross = [[n * rows[min(i, j) + 1][max(i, j) + 1] - sums[i] * sums[j] for j in range(4)] for i in range(4)]
    return Moments(
        columns=("volume_mm3", "age", "spiculation_deg", "malignancy"),
        n=n,
        exponents=(0, 0, 0, 0),
        sums=tuple(sums),
        cross=tuple(map(tuple, cross)),
    )


def sample() -> dict[str, Any]:
    held = pooled()
    fitted = regression.fit(held, outcome="malignancy", predictors=held.columns[:3])
    names = ["hosp-a", "hosp-b", "hosp-c", "hosp-d"]
    negative = [30, 22, 15, 9, 6, 3, 2, 1]
    return {
        "study": {
            "name": "lung-nodules", "title": "Lung nodules: size, shape and malignancy", "hash": "ab" * 32,
            "purpose": "research",
        },
        "federation": "demo",
        "hospitals": names,
        "patients": held.n,
        "rounds": [
            {"round": 1, "task": "gram", "hospitals": names, "state": "opened", "seconds": 0.41, "missing": []},
            {"round": 2, "task": "train", "hospitals": names, "state": "void", "seconds": 30.0, "missing": ["hosp-d"]},
            *({"round": k, "task": "train", "hospitals": names[:3], "state": "opened", "seconds": 0.6} for k in range(3, 27)),
        ],
        "correlation": correlation.correlate(held, names=held.columns).plain(),
        "ols": fitted.plain(),
        "training": {
            "steps": 24, "epsilon": "7.912", "epsilon_rdp": "8.4", "delta": "0.00001", "noise_multiplier": "1.1",
            "clip_norm": "1", "sampling_rate": "0.2", "colluders": 1, "auc": 0.871,
            "auc_ci": [0.79, 0.92], "accuracy": 0.8, "log_loss": 0.47,
            "curve": [{"step": k, "auc": 0.5 + 0.371 * (1 - 0.85**k), "log_loss": 0.69 - 0.0092 * k} for k in range(25)],
            "histogram": [negative, negative[::-1]],
        },
        "hospital_epsilon": {
            name: {"epsilon": eps, "cap": "8", "exact_releases": 2, "private_releases": 24}
            for name, eps in zip(names, ("7.912", "7.912", "7.912", "0.61"), strict=True)
        },
        "exact_releases": [
            {"round": 1, "statistic": "gram", "hospitals": names},
            {"round": 27, "statistic": "score-histogram", "hospitals": names[:3]},
        ],
        "seconds": {"total": 61.2, "per_secure_sum": 0.58},
    }  # fmt: skip


def render(result: dict[str, Any], tmp_path: Path) -> str:
    report.render(result, out=tmp_path / "report.html")
    return (tmp_path / "report.html").read_text(encoding="utf-8")


class Page(HTMLParser):
    """Collects tags with attributes, and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(page)

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "link", "img", "br", "input", "hr"}:
            self.open.append(tag)

    @override
    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    @override
    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    @override
    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data + " "


def strings(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) that holds a text, outside of rounds' states and p-values."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in list(items):
        if isinstance(item, dict | list):
            yield from strings(item)
        elif isinstance(item, str) and key != "state":
            yield value, key


def test_page_is_well_formed_and_asks_for_nothing(tmp_path: Path) -> None:
    page = Page(render(sample(), tmp_path))
    assert page.open == []
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "img", "iframe", "object", "embed", "form", "base"}
    assert all(attrs["href"].startswith("#") for _, attrs in page.tags if attrs.get("href"))  # type: ignore[union-attr]
    assert not any(key == "src" or key.startswith("on") for _, attrs in page.tags for key in attrs)
    addresses = set(re.findall(r"https?://[^\"' )<]+", (tmp_path / "report.html").read_text()))
    assert addresses == {"http://www.w3.org/2000/svg"}
    assert "url(" not in (tmp_path / "report.html").read_text()


def test_links_lead_to_sections_that_exist_and_ids_are_unique(tmp_path: Path) -> None:
    page = Page(render(sample(), tmp_path))
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    wanted = {str(attrs["href"])[1:] for _, attrs in page.tags if attrs.get("href")}
    labels = {i for _, attrs in page.tags for i in (attrs.get("aria-labelledby") or "").split()}
    assert wanted | labels <= set(ids)


def test_every_figure_has_title_description_and_a_table(tmp_path: Path) -> None:
    page = Page(render(sample(), tmp_path))
    tags = [tag for tag, _ in page.tags]
    assert tags.count("svg") == 6
    assert tags.count("desc") == 6
    assert tags.count("title") == 6 + 1
    assert tags.count("caption") == tags.count("table") >= 6


def test_same_result_gives_the_same_bytes(tmp_path: Path) -> None:
    assert render(sample(), tmp_path) == render(json.loads(json.dumps(sample())), tmp_path)


def test_numbers_of_the_result_are_shown(tmp_path: Path) -> None:
    text = Page(render(sample(), tmp_path)).text
    result = sample()
    row = result["ols"]["rows"][1]
    for expected in (
        "ab" * 32,
        "7.912",
        "8.4",
        "0.00001",
        "0.871",
        "hosp-d",
        f"{row['estimate']:.4g}",
        f"{row['vif']:.2f}",
        "Benjamini",
    ):
        assert expected in text


def test_releases_without_noise_are_never_hidden(tmp_path: Path) -> None:
    result = sample()
    assert Page(render(result, tmp_path)).text.count("\u221e") >= 2 + len(result["exact_releases"])
    result["exact_releases"] = []
    assert "epsilon = \u221e: 0 sums" in Page(render(result, tmp_path)).text


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    result = sample()
    for container, key in list(strings(result)):
        if key not in {"epsilon", "cap", "epsilon_rdp"}:
            container[key] = HOSTILE
    result["hospital_epsilon"] = {HOSTILE: {"epsilon": HOSTILE, "cap": HOSTILE}}
    page = Page(render(result, tmp_path))
    assert not {tag for tag, _ in page.tags} & {"script", "img"}
    assert HOSTILE in page.text


@pytest.mark.parametrize(
    "absent",
    ["correlation", "ols", "training", "rounds", "hospital_epsilon", "exact_releases", "seconds", "patients", "federation"],
)
def test_part_that_is_absent_leaves_a_whole_page(tmp_path: Path, absent: str) -> None:
    result = sample()
    del result[absent]
    assert Page(render(result, tmp_path)).open == []


def test_result_with_a_study_only_is_shown(tmp_path: Path) -> None:
    text = Page(render({"study": {"name": "empty"}}, tmp_path)).text
    assert "names no hospital" in text
    assert "no epsilon per hospital" in text


def test_diagnoses_stand_where_numbers_cannot(tmp_path: Path) -> None:
    result = sample()
    result["ols"] = {"outcome": "malignancy", "diagnosis": "age: aliased."}
    result["correlation"]["constant"] = ["age"]
    for key in ("r", "p", "ci_low", "ci_high"):
        result["correlation"][key][1] = [None] * 4
        for row in result["correlation"][key]:
            row[1] = None
    result["training"] |= {
        "auc": None,
        "auc_ci": None,
        "curve": [{"step": 0, "auc": None, "log_loss": None}],
        "histogram": [[0], [3]],
    }
    result["training"]["diagnosis"] = "no negative patients"
    text = Page(render(result, tmp_path)).text
    for expected in ("age: aliased.", "every patient has the same value", "no negative patients"):
        assert expected in text
    assert " nan" not in text
    assert "None" not in text


def test_p_value_that_underflowed_is_not_printed_as_zero(tmp_path: Path) -> None:
    result = sample()
    result["ols"]["rows"][1]["p"] = 0.0
    assert "< 1e\u2212300" in Page(render(result, tmp_path)).text


def test_marks_are_benjamini_hochberg_over_all_pairs(tmp_path: Path) -> None:
    result = sample()
    p = [0.001, 0.2, 0.04, 0.03, 0.9, 0.5]
    where = [(1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2)]
    for (i, j), value in zip(where, p, strict=True):
        result["correlation"]["p"][i][j] = result["correlation"]["p"][j][i] = value
    text = Page(render(result, tmp_path)).text
    assert "0.006" in text  # 0.001 * 6 / 1
    assert "0.08" in text  # 0.04 * 6 / 3, also for 0.03 * 6 / 2


def test_roc_of_the_histogram_ends_at_one_and_has_the_stated_area() -> None:
    points = report._thresholds([[3, 1, 0, 0], [0, 1, 0, 3]])
    assert (points[-1]["sensitivity"], points[-1]["false_positive"]) == (1, 1)
    area = sum(
        (b["false_positive"] - a["false_positive"]) * (a["sensitivity"] + b["sensitivity"]) / 2
        for a, b in itertools.pairwise(points)
    )
    assert area == pytest.approx((4 * 4 - 0.5) / 16)


@pytest.mark.parametrize(
    "wrong", [{}, {"study": None}, {"study": {}, "correlation": {"names": ["a"]}}, {"study": {}, "rounds": 3}]
)
def test_result_of_another_structure_is_refused_and_writes_nothing(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        report.render(wrong, out=tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_report_replaces_an_earlier_one_whole(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("old")
    assert render(sample(), tmp_path).startswith("<!DOCTYPE html>")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_wide_matrix_of_128_variables_is_drawn(tmp_path: Path) -> None:
    p = 128
    r = [[1.0 if i == j else 0.1 for j in range(p)] for i in range(p)]
    result = sample() | {"correlation": {"names": [f"v{i}" for i in range(p)], "r": r, "p": r, "n": 500}}
    assert Page(render(result, tmp_path)).open == []
