"""Moments become partial correlations: each pair with the other columns, or chosen ones, held fixed."""

from collections.abc import Sequence

from common.errors import NotEstimable
from common.moments import Moments
from server.infer import correlation, linear
from server.infer.correlation import Correlation


def correlate(moments: Moments, *, names: Sequence[str], given: Sequence[str] = ()) -> Correlation:
    """Return the partial correlations of `names`: given the columns `given`, or where none are, each pair given all others.

    The result's `n` is the number of patients; p-values and intervals have one degree of freedom less for each column held
    fixed. Guarantee: the figures of the integer table, rounded at the end, as correlation.correlate.
    Raises NotEstimable "too few rows", "constant", or "aliased" (a column that others give: nothing of it is left);
    ConfigError on a name that is unknown or repeated.
    Source: reference statistics.md section 2; Fisher 1924.
    """
    fixed = len(given) if given else len(names) - 2
    if moments.n - fixed < 4:
        raise NotEstimable("too few rows", term="partial correlation", action=f"It needs {fixed + 4} complete patients.")
    if given:
        matrix, sign = linear.partial(moments, names=names, given=given), 1
    else:
        matrix, sign = linear.inverse(moments, names=names), -1
    return correlation.from_scatter(
        [[entry if i == j else sign * entry for j, entry in enumerate(row)] for i, row in enumerate(matrix)],
        names=names,
        n=moments.n,
        fixed=fixed,
    )
