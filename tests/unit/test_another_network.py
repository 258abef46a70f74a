"""A study whose embedding another network makes, under the same names, is refused with what differs and what to do."""

import logging
from decimal import Decimal

import pytest

from client import entering, exact
from common import model
from common.errors import AlreadyAnswered, HospitalMissing
from tests import cohorts
from tests.asking import gram, set_up
from tests.cohorts import VARIABLES
from tests.written import refusals

BOUNDS = {"source": "image", "unit": "1", "lower": Decimal(-16), "upper": Decimal(16)}
DECLARED = [{"name": "embedding_2", **BOUNDS} if one["name"] == "x2" else one for one in VARIABLES]
STATISTICS = {
    "correlation": ["x1", "embedding_2", "malignancy"],
    "regression": {"outcome": "malignancy", "predictors": ["x1", "embedding_2"]},
}


def study(network, **parts):
    """A study that names a dimension of `network`'s embedding beside clinical variables."""
    made = cohorts.study(variables=DECLARED, statistics=STATISTICS, **parts)
    named = made.training.model_copy(update={"model": network, "prior_sha256": model.prior_sha256(network)})
    return made.model_copy(update={"training": named})


def of(network):
    """The tables of a federation in which every network makes other numbers of the lesions."""
    rows = cohorts.tables()
    for table in rows.values():
        table[:, 1] = table[::-1, 1] if network == "resnet18" else table[:, 1]
    return rows


def why(caplog):
    return [str(one.why) for one in caplog.records if one.message == "refused"]


def test_the_refusal_names_the_network_and_what_to_do(make_federation, caplog):
    one = make_federation(exact_releases_max=9)
    first, second = study("cnn2d"), study("resnet18")
    cohorts.put(one, first, of("cnn2d"))
    gram(set_up(one, first, "first"))
    gram(set_up(one, first, "again"))
    cohorts.put(one, second, of("resnet18"))
    with caplog.at_level(logging.WARNING), pytest.raises(HospitalMissing):
        gram(set_up(one, second, "second"))
    assert set(refusals(one)) == {"E-REFUSED-REPEAT"}
    assert why(caplog)
    for said in why(caplog):
        assert f"embedding_2 of resnet18, prior {model.prior_sha256('resnet18')[:8]}" in said
        assert "with the network of the earlier one, without this variable, or with noise" in said
        assert "scans" not in said


def entered(network, *, rows=None):
    wanted = study(network)
    return entering.of_gram(wanted, cohort=cohorts.cohort("hosp-a", cohorts.table() if rows is None else rows, wanted))


def check(path, entered, *, names=("a", "b", "c")):
    questions, made = entered.questions, entered.definitions
    record = exact.check(path, questions=questions, roster=names, secret=b"k", definitions=made)
    exact.save(path, record)


def test_the_same_network_over_other_rows_is_still_told_to_restore_them(tmp_path):
    path, rows = tmp_path / "exact.json", cohorts.table()
    check(path, entered("cnn2d", rows=rows))
    check(path, entered("cnn2d", rows=rows))
    rows[0, 1] += 1
    with pytest.raises(AlreadyAnswered, match="other rows"):
        check(path, entered("cnn2d", rows=rows))


def test_a_network_counts_only_where_a_study_sums_what_it_made(tmp_path):
    path, plain = tmp_path / "exact.json", cohorts.study()
    there = entering.of_gram(plain, cohort=cohorts.cohort("hosp-a", cohorts.table(), plain))
    assert there.definitions == {}
    other = plain.model_copy(update={"training": study("resnet18").training})
    check(path, there)
    check(path, entering.of_gram(other, cohort=cohorts.cohort("hosp-a", cohorts.table(), other)))
    assert sorted(entered("cnn2d").definitions.values()) == [f"embedding_2 of cnn2d, prior {model.prior_sha256()[:8]}"]


def test_a_record_tells_no_network(tmp_path):
    path = tmp_path / "exact.json"
    check(path, entered("cnn2d"))
    assert "cnn2d" not in path.read_text()
