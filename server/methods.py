"""What was read from the exact Gram, in sentences for the methods paragraph: what the result holds, and nothing else."""

from collections.abc import Iterator, Mapping
from typing import Any

CODING = (
    "Factors were coded by treatment of their declared levels, the first being the reference (sum to zero for type III); "
    "F tests are exact differences of sums of squares, their p-values upper tails, intervals of partial \u03b7\u00b2 by "
    "inversion of the noncentral F distribution (Steiger 2004)"
)
CONTRASTS = "all pairs with p-values adjusted after Holm (1979) and after Tukey and Kramer"


def of_linear(part: Mapping[str, Any] | None) -> list[str]:
    """Return sentences without their full stop about result["linear"]; none where there is none.

    An analysis without an answer is named with its diagnosis.
    """
    if not part:
        return []
    found = list(_parts(part))
    tested = any("diagnosis" not in one for model in part.get("models") or () for one in model["anova"].values())
    tested |= any("diagnosis" not in one for one in part.get("ancova") or ())
    return [*found, *([CODING] if tested else [])]


def _parts(part: Mapping[str, Any]) -> Iterator[str]:
    if one := part.get("table_one"):
        yield _of(one, "Table 1: means with standard deviations and Student's 95 % intervals, shares with Wilson's (1927)")
    for one in part.get("models") or ():
        yield _of(one["fit"], f"{one['formula']}: {_model(one)}")
    for one in part.get("groups") or ():
        how = (
            "Welch's F (1951), pairs by Games and Howell (1976) and by Tukey and Kramer, Hedges' g with large-sample intervals"
        )
        yield _of(one, f"{one['outcome']} by {one['factor']}: {how}")
    for one in part.get("ancova") or ():
        slopes = "" if one.get("slopes") or "diagnosis" in one else f"; equal slopes not testable ({one['slopes_diagnosis']})"
        how = f"analysis of covariance of type II, a test of equal slopes, means at the covariates' means, {CONTRASTS}{slopes}"
        yield _of(one, f"{one['formula']}: {how}")
    if one := part.get("partial_correlation"):
        how = (
            "each pair given all others, from the inverse of the scatter matrix, adjusted after Benjamini and Hochberg and Holm"
        )
        yield _of(one, f"Partial correlations{_names(one)}: {how}")
    if one := part.get("components"):
        how = "eigenvalues of the correlation matrix, intervals of normal theory (Anderson 1963; approximate for correlations)"
        yield _of(one, f"Principal components{_names(one)}: {how}")


def _model(one: Mapping[str, Any]) -> str:
    """Return the estimates and tests that a model has."""
    kinds = [kind for kind, made in one["anova"].items() if "diagnosis" not in made]
    means = [made["term"] for made in one.get("means") or () if "diagnosis" not in made]
    said = ["least squares"]
    if kinds:
        said.append(f"analysis of variance of type {_listed(kinds)}")
    if means:
        said.append(f"adjusted means (Searle, Speed and Milliken 1980) of {_listed(means)}, {CONTRASTS}")
    return ", ".join(said)


def _of(one: Mapping[str, Any], text: str) -> str:
    return f"{text} (no answer: {one['term']}: {one['diagnosis']})" if "diagnosis" in one else text


def _names(one: Mapping[str, Any]) -> str:
    return f" of {_listed(one['names'])}" if one.get("names") else ""


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
