"""A coordinator that asks for one sum at a time, through a run that is set up, and the analyses that a study declares."""

import pytest

from common import analyses, left_out
from common.errors import HospitalMissing
from common.query import ask, dimension
from tests import cohorts, federation
from tests.cohorts import BINS, study
from tests.written import refusals, told

LOGISTIC = {"kind": "logistic", "formula": "y ~ x1 + sex", "queries_max": 12}
ROC = {"kind": "roc", "outcome": "y", "score": "score", "bins": BINS}
KAPLAN_MEIER = {"kind": "kaplan-meier", "time": "time", "event": "dead", "bins": BINS, "group": "sex"}
COX = {"kind": "cox", "formula": "time ~ x1", "event": "dead", "bins": BINS, "queries_max": 12}
K_MEANS = {"kind": "k-means", "variables": ["x1", "x2"], "sizes": [2], "queries_max": 60}
SPEARMAN = {"kind": "spearman", "variables": ["score", "time"], "bins": BINS}
AGREEMENT = {"kind": "agreement", "readers": ["x1", "malignancy"]}


def set_up(one, wanted, run):
    """A coordinator of a new run, set up, that has asked for nothing yet."""
    made = federation.Coordinator(one, wanted, run=run)
    made.set_up()
    return made


def gram(coordinator, *, blob=b""):
    """The announcement and the opened sum of a study's exact Gram; HospitalMissing where one refuses."""
    size = left_out.dimension(len(coordinator.study.columns()))
    return coordinator.secure_sum(task="gram", index=0, dimension=size, blob=blob, attempts=1)


def query(coordinator, asked, *, position=0, number=1):
    """The announcement and the opened sum of one query of a declared analysis; HospitalMissing where one refuses."""
    return coordinator.secure_sum(
        task="query",
        index=analyses.index(position, number=number),
        dimension=dimension(asked) + left_out.ENTRIES,
        blob=asked.bytes(),
        attempts=1,
    )


def answered(coordinator, asked, *, position=0, number=1):
    """Whether every hospital answers a query."""
    try:
        query(coordinator, asked, position=position, number=number)
    except HospitalMissing:
        return False
    return True


class Asker:
    """A coordinator that asks what it likes, through a run that is set up."""

    def __init__(self, one, wanted, *, run="asks"):
        self.one, self.wanted = one, wanted
        self.inner = set_up(one, wanted, run)
        self.number = {}

    def gram(self):
        return gram(self.inner)

    def ask(self, asked, *, position=0, number=None):
        number = number or self.number.get(position, 0) + 1
        self.number[position] = number
        return query(self.inner, asked, position=position, number=number)

    def refused(self, asked, **where):
        with pytest.raises(HospitalMissing):
            self.ask(asked, **where)
        assert told(self.one) == {"E-REFUSED"}
        return refusals(self.one)[-1]


def asker(make_federation, *declared_, rows=None, policy=None, run="asks", **parts):
    one, wanted = make_federation(**(policy or {})), study(*declared_, **parts)
    cohorts.put(one, wanted, rows or cohorts.tables())
    return Asker(one, wanted, run=run)


def glm(*coefficients, predictors=("x1", "sex[m]"), kernel="logistic"):
    return ask(kernel, responses=["y"], predictors=predictors, numbers={"coefficients": list(coefficients)})
