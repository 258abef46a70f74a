"""Which of a hospital's rules a study will be asked, with the floors that `motet-hospital init` writes."""

import math
from decimal import Decimal
from typing import Any, Final

from common import permissions
from common.forms import Form
from common.study import Study

CELL_MIN: Final = (
    5  # what `motet-hospital init` writes into a hospital's policy; a hospital may be stricter, and says so to nobody
)
PARAMETERS_SHARE_MAX: Final = Decimal("0.1")
COUNTED: Final = frozenset({"table", "marginals"})  # kernels without a fit: counts alone


def rules(study: Study, *, hospitals: int, gram: dict[str, Any], asked: list[dict[str, Any]]) -> list[str]:
    """Return the rules in words; `gram` and `asked` as a plan has them. What depends on patients is named, not foreseen."""
    exact = len(asked) + (study.evaluation.privacy is None) + (gram["mechanism"] == "none")
    found = [
        f"every round: {study.hospitals_min} hospitals, all but {study.privacy.colluders} honest, each with its patients_min",
        f"exact sums: {exact} count against exact_releases_max at each hospital, which must be as much",
        _gram(gram),
        *(_fit(one) for one in asked),
        *_permissions(study, hospitals=hospitals),
    ]
    found.append(f"training: at most {study.training.patients_per_step_max} training patients at each hospital")
    return [*found, *_evaluation(study)]


def _evaluation(study: Study) -> list[str]:
    wanted = study.evaluation
    if wanted.privacy is not None:
        most = wanted.privacy.patients_max
        return [f"evaluate: at most {most} held-out patients at each hospital; its epsilon below the cap there"]
    if not wanted.subgroups:
        return []
    return [f"evaluate: a subgroup with fewer than {CELL_MIN} patients of a class at a hospital is with everybody else there"]


def coefficients(form: Form) -> int:
    """Return how many coefficients a hospital counts for a query of this form (client/kernels); none for plain counts."""
    p = len(form.predictors)
    if form.kernel in COUNTED:
        return 0
    if form.kernel in {"gram", "rank_gram"}:
        return len(form.responses) + p
    if form.kernel in {"lloyd", "mixture"}:
        return form.free.get("centres", 0) + form.free.get("means", 0) + form.free.get("variances", 0)
    if form.kernel in {"cox", "cox_stratified", "within"}:
        return p
    if form.kernel == "ordinal":
        return p + form.free["thresholds"]
    return p + 2 if form.kernel == "mixed" else p + 1


def cells(form: Form) -> int:
    """Return how many cells a table of counts has; none where a query is no table."""
    if form.kernel not in COUNTED:
        return 0
    sizes = [len(edges) - 1 for key, edges in form.fixed.items() if key.startswith("grid.")]
    return math.prod(sizes) if form.kernel == "table" else max(sizes)


def _gram(gram: dict[str, Any]) -> str:
    if gram["mechanism"] != "none":
        return f"gram: at most {gram['patients_max']} complete patients at each hospital; its epsilon below the cap there"
    return (
        f"gram: more than {gram['columns'] + 1} complete patients at each hospital, none or at least {CELL_MIN} in each level, "
        "and in each cell of two factors"
    )


def _fit(one: dict[str, Any]) -> str:
    cells = f"none or at least {CELL_MIN} patients in each cell at each hospital"
    if one["cells"]:
        cells += f", of {one['cells']}"
    if not one["coefficients"]:
        return f"{one['statistic']}: {cells}"
    needed = math.ceil(one["coefficients"] / PARAMETERS_SHARE_MAX)
    many = "coefficient needs" if one["coefficients"] == 1 else "coefficients need"
    return f"{one['statistic']}: {one['coefficients']} {many} {needed} patients at each hospital; {cells}"


def _permissions(study: Study, *, hospitals: int) -> list[str]:
    found = []
    for one in permissions.needed(study, honest=permissions.honest(study, hospitals=hospitals)):
        position = study.harmonised
        comes_first = position is not None and one.statistic.startswith(f"analysis-{position + 1}-")
        ends = "; every other sum waits for it, so that the study would end" if comes_first else ""
        found.append(f"{one.statistic}: {one.without} by a hospital without {one.key} = true in site.toml ({one.why}){ends}")
    return found
