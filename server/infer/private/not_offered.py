"""What is read from an exact Gram and is not offered from one with noise, each by its name and with the reason."""

from typing import Any

from common.study import Study

DIAGNOSIS = "not offered under differential privacy"
COMPONENTS = "noise spreads the eigenvalues of a matrix, and no interval of them that counts it is known to hold"
WELCH = "these need a variance of their own for each group, which the noisy sum of products does not hold"
TUKEY = "the studentised range does not count the noise; pairs have p-values adjusted after Holm in its place"


def parts(study: Study) -> list[dict[str, Any]]:
    """Return {"term", "diagnosis", "why"} for each part of the study's statistics that a noisy Gram does not answer."""
    found = [("principal components", COMPONENTS)]
    for one in study.statistics.groups:
        pair = f"{one.outcome} by {one.factor}"
        found += [
            (f"Welch's test and Games and Howell's pairs of {pair}", WELCH),
            (f"Tukey and Kramer's pairs of {pair}", TUKEY),
        ]
    found += [(f"Tukey and Kramer's pairs of {one.formula}", TUKEY) for one in study.statistics.ancova]
    return [{"term": term, "diagnosis": DIAGNOSIS, "why": why} for term, why in found]
