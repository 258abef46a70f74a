"""Which model is the result: the last one, unless the hospitals' own held-out patients say that an earlier one was better."""

from collections.abc import Sequence
from decimal import Decimal

from server.evaluate import Evaluation


def accepted(scored: Sequence[Evaluation], *, auc_drop_max: Decimal) -> int:
    """Return the index of the model that the study's rule accepts.

    scored: the models that training passed through, in order, then the final one. The final one is accepted when its AUC is
    at most `auc_drop_max` below the best of all, or when there is no AUC; otherwise the best one is, the earliest of equals.
    It limits what a poisoned step can do to the result; it does not make training robust.
    """
    final = len(scored) - 1
    ranked = [(one.auc, -at) for at, one in enumerate(scored) if one.auc is not None]
    last = scored[final].auc
    if last is None or not ranked:
        return final
    best, at = max(ranked)
    return final if Decimal(repr(best)) - Decimal(repr(last)) <= auc_drop_max else -at
