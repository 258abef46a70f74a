"""What a computation raises unforeseen leaves as a refusal like any other, and is written down."""

import copy
import json
import logging
from decimal import Decimal

import numpy as np
import pytest

from client import pipeline, refusals
from common import harmonisation, logs, wire
from common.errors import BadEnvelope, DataError, HospitalMissing, TooFewPatients
from common.harmonisation import Harmonisation
from tests import asking, cohorts, federation, written
from tests.federation import HOSPITALS

FEW = {"colluders": 0}
HUGE = Harmonisation(
    features=("x1", "x2"),
    covariates=("score",),
    n=1,
    effects=np.array([[2.0**60, 2.0**59]]),
    grand_means=np.zeros(2),
    deviations=np.full(2, 2.0**-59),
)


@pytest.fixture
def far(make_federation):
    """A ComBat whose covariate reaches 1e22: with coefficients near the largest allowed, a cube overflows."""
    variables = copy.deepcopy(cohorts.VARIABLES)
    variables[2] |= {"lower": Decimal("-1e23"), "upper": Decimal("1e23")}
    combat = {"kind": "combat", "features": ["x1", "x2"], "covariates": ["score"], "apply": True}
    one, wanted = make_federation(colluders_min=0), cohorts.study(combat, variables=variables, privacy=FEW)
    dealt = cohorts.tables()
    random = np.random.default_rng(0)
    for rows in dealt.values():
        rows[:, 2] = random.uniform(-1e22, 1e22, len(rows))
    cohorts.put(one, wanted, dealt)
    return one, wanted, dealt["hosp-a"]


def test_coefficients_that_overflow_are_a_refusal_in_the_ledger(far):
    one, wanted, _ = far
    with pytest.raises(HospitalMissing):
        asking.gram(asking.set_up(one, wanted, "asks"), blob=harmonisation.pack(b"", coefficients=HUGE.bytes()))
    assert {name: written.refusals(one, name) for name in HOSPITALS} == {name: ["E-DATA"] for name in HOSPITALS}
    assert written.told(one) == {"E-REFUSED"}


def test_harmonising_that_overflows_says_so(far):
    _, wanted, rows = far
    with pytest.raises(DataError, match="overflows"):
        pipeline.harmonised(HUGE.bytes(), study=wanted, cohort=cohorts.cohort("hosp-a", rows, wanted))


@pytest.mark.parametrize("raised", [ZeroDivisionError, FloatingPointError, ValueError, KeyError, np.linalg.LinAlgError])
def test_no_error_of_a_computation_tells_what_it_was(raised):
    with pytest.raises(DataError) as caught, refusals.computing():
        raise raised("of the data")
    assert "of the data" not in str(caught.value)


@pytest.mark.parametrize("raised", [TooFewPatients("few", action="none"), OSError("disk")])
def test_refusals_and_a_failing_disk_keep_their_names(raised):
    with pytest.raises(type(raised)), refusals.computing():
        raise raised


def test_the_hospitals_log_names_what_was_behind_a_refusal_and_where(make_federation):
    one = make_federation()
    one.approve(federation.study())
    caught = []
    handler = logging.Handler()
    handler.emit = lambda record: caught.append(json.loads(logs.JsonLines().format(record)))
    logging.getLogger("motet.vault").addHandler(handler)
    try:
        sent = wire.Envelope(kind="invite", sender=one.roster.coordinator, recipient="hosp-a", run="r1", body={})
        reply = wire.peek(one.vaults["hosp-a"].answer(wire.seal(sent, key=one.key)))
    finally:
        logging.getLogger("motet.vault").removeHandler(handler)
    (line,) = [line for line in caught if line["event"] == "refused"]
    assert (line["code"], line["error"]) == (BadEnvelope.code, "KeyError")
    assert line["why"] == "A request is malformed. Check the coordinator's version."
    assert line["at"].startswith("vault.py:")
    assert set(reply.body) == {"code"}
