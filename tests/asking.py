"""A coordinator that asks for one sum at a time, through a run that is set up."""

from common import analyses, left_out
from common.errors import HospitalMissing
from common.query import dimension
from tests import federation


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
