"""The rows of a forest are as sent: the coordinator finds two hospitals that met in one place, and not one that lied."""

import pytest

from common import estimates
from common.errors import ProtocolError
from common.estimates import Estimate

OWN = [Estimate(value=0.5, weight=4.0)]


def total(*vectors):
    return [sum(numbers) for numbers in zip(*vectors, strict=True)]


def sent(own, *, at):
    return estimates.pack_shown(own, at=at, n=40, p=1)


def test_a_row_in_another_hospitals_place_is_read_as_sent():
    forged = total(sent(None, at=0), sent(None, at=1), sent([Estimate(value=-3.0, weight=100.0)], at=0))
    (row,) = estimates.unpack_shown(forged, p=1)
    assert (row.at, row.estimates[0].value) == (0, -3.0)


def test_two_hospitals_in_one_place_are_found():
    with pytest.raises(ProtocolError, match="no one hospital"):
        estimates.unpack_shown(total(sent(OWN, at=0), sent(OWN, at=0)), p=1)
