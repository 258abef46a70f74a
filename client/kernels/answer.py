"""A query becomes this hospital's answer: the one door to the kernels."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from client.kernels import cluster, cox, glm, gram, histogram
from client.kernels.rows import Answer, Rows
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
}


def answer(rows: Rows, *, query: Query) -> Answer:
    """Return what this hospital adds to the sum, and the counts by which its policy decides whether it leaves.

    No complete row gives zeros. Raises BadQuery when a column is unknown here or the kernel is not answered, DataError when the
    column does not hold what the kernel needs (0 and 1, whole levels) or a number does not fit the ring.
    """
    kernel = KERNELS.get(query.kernel)
    if kernel is None:
        raise BadQuery("A query is refused: its kernel is not answered here.", action="Run the same version.")
    result = kernel(rows, query)
    if len(result.values) != dimension(query):
        raise InternalError("A kernel gave another length than its query says.", action="Report it.")
    return replace(result, statistic=query.kernel)
