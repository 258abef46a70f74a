"""Which patients are left alone when sums over several sets of patients are added and subtracted.

Complete cases of four models are four sets: all, less those who lack x, less those who lack z, and those who lack neither. The
first less the second, less the third, plus the fourth is a sum over those who lack both, and no two of the sets differ by few.
"""

from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np

from client import span

TOGETHER_LEAST = 3  # of two sets the difference is judged already (client/released.py)


def alone(sets: Iterable[frozenset[str]], *, few: int) -> Iterator[frozenset[str]]:
    """Yield the patients whom a combination of three or more sets leaves alone; the empty set where they are 1 to `few`.

    Judged apart are patients who are in the same of the sets. Two such parts together are looked at where they are few.
    """
    different = tuple(dict.fromkeys(sets))
    if len(different) < TOGETHER_LEAST:
        return
    where: dict[str, int] = {}
    for at, one in enumerate(different):
        for patient in one:
            where[patient] = where.get(patient, 0) | 1 << at
    counts = Counter(where.values())
    parts = sorted(counts)
    members = np.array([[part >> at & 1 for at in range(len(different))] for part in parts], dtype=np.float64)
    left, length, _ = np.linalg.svd(members, full_matrices=False)
    rows = left[:, length > span.RANK_LEAST * length[0]]
    if span.concentrated(rows, counts=np.array([counts[part] for part in parts], dtype=np.int64), few=few):
        yield frozenset()
        return
    for part, shown in zip(parts, (rows * rows).sum(axis=1).tolist(), strict=True):
        if shown > span.TELLS_LEAST:
            yield frozenset(patient for patient, mask in where.items() if mask == part)
