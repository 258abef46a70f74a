"""How a refusal leaves the hospital: by its code, or by one that says no bit about the data."""

import contextlib
from collections.abc import Iterator

from common.errors import AlreadyAnswered, BadQuery, DataError, MotetError, RefusedError, TooFewPatients
from common.wire import Envelope


def outside(request: Envelope, error: MotetError) -> str:
    """Return the code that leaves for `error`: of what depends on the data, and of any query, the family's alone."""
    return RefusedError.code if _of_query(request, error) else told(error.code)


def told(code: str) -> str:
    """Return the code under which whoever may not see data sees `code`: of what depends on the data, the family's alone."""
    of_data = code in {DataError.code, TooFewPatients.code, AlreadyAnswered.code} or code.startswith(f"{DataError.code}-")
    return RefusedError.code if of_data else code


@contextlib.contextmanager
def computing() -> Iterator[None]:
    """Turn whatever a computation over patients raises unforeseen (an overflow, no convergence) into a refusal as of data.

    What its code leaves as says nothing of the data; which error it was stands in this hospital's log.
    """
    try:
        yield
    except (MotetError, OSError):
        raise
    except Exception as error:
        raise DataError("A computation over the patients failed.", action="Report it, with this log.") from error


def _of_query(request: Envelope, error: MotetError) -> bool:
    """Say whether a query was refused: which rule it broke may be a bit about the data."""
    announced = request.body.get("announcement")
    asked = isinstance(announced, dict) and announced.get("task") == "query"
    return asked and isinstance(error, RefusedError | BadQuery)
