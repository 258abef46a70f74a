"""How a series was made, as covariates: scanner and kernel change texture more than most lesions do."""

import math
from collections.abc import Mapping

from client.inside import Acquisition, Volume

NAMES: tuple[str, ...] = ("slice_thickness_mm", "kvp")


def measure(volume: Volume) -> dict[str, float]:
    """Return slice thickness and tube voltage as the scanner wrote them; nan where it did not, or wrote nothing positive."""
    made = volume.acquisition
    return {
        name: value if value > 0 else math.nan for name, value in zip(NAMES, (made.slice_thickness_mm, made.kvp), strict=True)
    }


def factors(made: Acquisition, *, levels: Mapping[str, tuple[str, ...]]) -> dict[str, float]:
    """Return the position of the scanner's maker and kernel among the levels that a study declares, by variable.

    A maker is a level if it begins with it ("SIEMENS" of "Siemens Healthineers"), of several the longest; a kernel is a level
    only as a whole; case does not count. Nan for anything else: no text of a header leaves this function.
    """
    found: dict[str, float] = {}
    for name, known in levels.items():
        said = (made.manufacturer if name == "manufacturer" else made.kernel).strip().casefold()
        fitting = [one for one in known if said == one.casefold() or (name == "manufacturer" and _begins(said, one.casefold()))]
        found[name] = float(known.index(max(fitting, key=len))) if fitting else math.nan
    return found


def _begins(said: str, level: str) -> bool:
    return said.startswith(level) and not said[len(level)].isalnum()
