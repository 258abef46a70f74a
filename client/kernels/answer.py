"""A query becomes this hospital's answer: the one door to the kernels."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from client.kernels import cluster, cox, estimates, glm, gram, histogram, linear_model
from client.kernels.rows import ALONE, Answer, Rows, Seat
from common.errors import BadQuery, InternalError
from common.query import Query, dimension

KERNELS: Final[dict[str, Callable[[Rows, Query], Answer]]] = {
    "logistic": glm.logistic,
    "firth": glm.firth,
    "ordinal": glm.ordinal,
    "gram": gram.gram,
    "rank_gram": gram.rank_gram,
    "within": gram.within,
    "mixed": gram.mixed,
    "table": histogram.table,
    "marginals": histogram.marginals,
    "cox": cox.pooled,
    "cox_stratified": cox.stratified,
    "lloyd": cluster.lloyd,
    "mixture": cluster.mixture,
    "exact_gram": linear_model.exact_gram,
    "absorbed": linear_model.absorbed,
    "meta": estimates.weighted,
    "meta_random": estimates.weighted_again,
}
PLACED: Final[dict[str, Callable[[Rows, Query, Seat], Answer]]] = {
    "residuals": linear_model.residual,
    "meta_rows": estimates.shown,
}


def answer(rows: Rows, *, query: Query, seat: Seat = ALONE) -> Answer:
    """Return what this hospital adds to the sum, and the counts by which its policy decides whether it leaves.

    Two kernels depend on where the hospital stands in the round (`seat`). No complete row gives zeros. Raises BadQuery when a
    column is unknown here or the kernel is not answered, DataError when the column does not hold what the kernel needs (0 and
    1, whole levels) or a number does not fit the ring.
    """
    if query.kernel in PLACED:
        result = PLACED[query.kernel](rows, query, seat)
    elif query.kernel in KERNELS:
        result = KERNELS[query.kernel](rows, query)
    else:
        raise BadQuery("A query is refused: its kernel is not answered here.", action="Run the same version.")
    if len(result.values) != dimension(query):
        raise InternalError("A kernel gave another length than its query says.", action="Report it.")
    return replace(result, statistic=query.kernel)
