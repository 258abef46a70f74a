"""Which slices of a series that holds several phases or echoes at the same positions a region was drawn on."""

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from client.imaging.found import Reason, Slice

_SAME_MM, _SAME_COSINE = 0.01, 1e-4
_TOGETHER = 2  # attributes that may be needed to tell two slices at one position apart: a phase and an echo

Groups = list[list[int]]


def of_region(slices: Sequence[Slice], *, references: Sequence[str]) -> list[int] | Reason:
    """Return which of `slices` a region was drawn on: all, or of several at each position those of one phase or echo.

    slices: no instance twice. `references` are the SOP instance UIDs that the region names, with `#` and the number from 0
    where it is a frame's. SEVERAL_PHASES where the phases can be told apart and the region names images of none or of several;
    where nothing tells them apart all are returned, which the geometry gate refuses.
    """
    found = told_apart(slices)
    if found is None or len(found) == 1:
        return list(range(len(slices)))
    named = set(references)
    chosen = [group for group in found if any(_names(named, slices[at].identity.instance) for at in group)]
    return chosen[0] if len(chosen) == 1 else Reason.SEVERAL_PHASES


def told_apart(slices: Sequence[Slice]) -> Groups | None:
    """Return the slices by phase or echo: one group where no position comes twice, None where nothing tells them apart.

    The first attribute of `Slice.phase`, or the first two together, that leave in each group every position exactly once.
    Source: PS3.3 C.8.3.1 (Echo Numbers, Trigger Time, Temporal Position Identifier), C.7.6.1 (Acquisition Number, times).
    """
    places = [tuple(place) for place in np.rint(np.stack([one.position_mm for one in slices]) / _SAME_MM).tolist()]
    turned = np.ptp(np.stack([one.orientation for one in slices]), axis=0).max()
    if len(set(places)) == len(places) or turned > _SAME_COSINE:
        return [list(range(len(slices)))]
    attributes = range(min(len(one.phase) for one in slices))
    for many in range(1, _TOGETHER + 1):
        for chosen in itertools.combinations(attributes, many):
            groups: dict[tuple[float, ...], list[int]] = defaultdict(list)
            for at, one in enumerate(slices):
                groups[tuple(one.phase[number] for number in chosen)].append(at)
            if any(math.isnan(value) for key in groups for value in key):
                continue
            if all(len(group) == len(set(places)) == len({places[at] for at in group}) for group in groups.values()):
                return list(groups.values())
    return None


def _names(references: set[str], instance: str) -> bool:
    return instance in references or instance.partition("#")[0] in references
