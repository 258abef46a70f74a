"""A plan's figures in words: what to change before a study spends anything."""

from collections.abc import Sequence
from typing import Any

from common.study import Study
from server.infer.private import typical
from server.plan_rules import CELL_MIN
from server.spent import INFINITE

CLIPPED_MUCH = 0.05  # share of patients above which the clipping bends the figures
CELLS_SPARE = 4  # evenly spread patients in a cell, over the smallest cell, below which some hospital will have a small one
NORM_SPARE = 1.2  # how far clip_norm may stand above what 99 % of patients need


def advise(
    *, gram: dict[str, Any], training: dict[str, Any], patients: int, asked: Sequence[dict[str, Any]] = (), hospitals: int = 1
) -> list[str]:
    """Return sentences about the parts "gram", "training" and "analyses" (`asked`) of a plan; never none."""
    if gram["mechanism"] == "none":
        said = ["The Gram is exact: no interval is wider than that of the pooled data, and no finite epsilon covers it."]
    else:
        said = [*_widths(gram, n=patients), *_clipping(gram)]
    exact = [one["statistic"] for one in asked if one["epsilon"] == INFINITE]
    if exact and gram["mechanism"] != "none":
        said.append(
            f"Exact sums of the same patients leave beside the Gram with noise, for {', '.join(exact)}: they stand outside its "
            "epsilon, and no finite epsilon covers both. Leave them out if the statistics are to have a finite epsilon."
        )
    share = training["noise_norm_over_clip_per_patient"]
    if share > 1:
        said.append(
            f"Training: the noise of one step is {share:.1f} times as long as the longest mean gradient; more patients or "
            "fewer trained parameters help, and more steps average it out."
        )
    return [*said, *(_cells(one, n=patients, hospitals=hospitals) for one in asked if _crowded(one, patients / hospitals))]


def deltas(study: Study, *, patients: int) -> list[str]:
    """Return a sentence for each delta of the study that is not below 1 over `patients`."""
    return [
        f"{key} is not below 1 over {patients} patients: with so many, choose a smaller one."
        for key, delta in study.deltas().items()
        if delta * patients >= 1
    ]


def _crowded(one: dict[str, Any], at_each: float) -> bool:
    return bool(one["cells"]) and at_each / one["cells"] < CELLS_SPARE * CELL_MIN


def _cells(one: dict[str, Any], *, n: int, hospitals: int) -> str:
    each = n / hospitals / one["cells"]
    return (
        f"{one['statistic']} counts in {one['cells']} cells, some {each:.2g} of a hospital's patients in each if they were "
        f"spread evenly: a hospital with 1 to {CELL_MIN - 1} in one refuses. Ask for fewer bins."
    )


def _widths(gram: dict[str, Any], *, n: int) -> list[str]:
    said, wider = [], f"{round((typical.WIDER - 1) * 100)} %"
    rows = [*gram["coefficients"], *gram["terms"], *gram["pairs"], *gram["comparisons"]]
    lost = sum(row["width_ratio"] is None for row in rows)
    if lost:
        said.append(f"{lost} of {len(rows)} figures would be too noisy to be given at {n} patients.")
    told = (("coefficient", gram["coefficients"]), ("pair", gram["pairs"]), ("pair of groups", gram["comparisons"]))
    for name, part in told:
        most = max((row["patients_needed"] for row in part), default=0)
        if most > n:
            said.append(
                f"Intervals at most {wider} wider than without noise need {most} patients for every {name}; {n} are planned. "
                "Take more patients, fewer columns, narrower bounds or a larger epsilon, or accept wider intervals."
            )
    return said or [f"{n} patients are enough: no interval is more than {wider} wider for the noise."]


def _clipping(gram: dict[str, Any]) -> list[str]:
    norm, most = gram["clip_norm"], gram["norm_of_most"]
    if gram["clipped"] > CLIPPED_MUCH:
        bent = f"clip_norm {norm:g} would shorten {gram['clipped']:.0%} of typical patients; {most:.2f} shortens 1 %."
        return [f"{bent} Clipping bends the figures, and no interval tells of it."]
    if norm > NORM_SPARE * most:
        return [
            f"clip_norm {norm:g} is above what 99 % of typical patients need ({most:.2f}); the noise grows with its square."
        ]
    return []
