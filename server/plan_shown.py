"""A plan as tables on the terminal."""

from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from common.mechanism import ROUNDING_SLACK_MOST
from server.infer.private import typical

PAIRS_SHOWN = 5
DASH = "\N{EN DASH}"


def waiting(console: Console) -> Progress:
    """Return what shows on a terminal, and nowhere else, that a plan is computed, since when, and how long it may take."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    shown = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    shown.add_task("Computing what the releases cost together: some seconds, up to a minute where the noise is small")
    return shown


def show(plan: dict[str, Any], *, console: Console) -> None:
    """Print a plan: rounds, what the Gram and the training cost and can show, rules, advice."""
    console.print(
        _table(f"{plan['study']}: {plan['patients']} patients in {plan['hospitals']} hospitals", _ROUNDS, plan["rounds"])
    )
    gram, training, total = plan["gram"], plan["training"], plan["total"]
    if gram["mechanism"] == "none":
        console.print(f"Gram: exact, epsilon infinite, {gram['numbers']} numbers of {gram['columns']} columns.", soft_wrap=True)
    else:
        console.print(
            f"Gram: epsilon {gram['epsilon']} (ledger: {gram['epsilon_rdp']}) at delta {gram['delta']}; "
            f"noise {gram['sigma']:.3g} on each of {gram['numbers']} numbers, sensitivity {gram['sensitivity']:.4g}.\n"
            f"Forecast for typical patients: numbers about the middle of their bounds, which are {typical.SPREADS:g} standard "
            "deviations away, levels equally frequent, all independent.",
            soft_wrap=True,
        )
        worst = sorted(gram["pairs"], key=lambda row: -row["patients_needed"])
        console.print(_table("Coefficients", _COEFFICIENTS, gram["coefficients"]))
        if gram["terms"]:
            console.print(_table("F tests", _TERMS, gram["terms"]))
        if gram["comparisons"]:
            console.print(_table("All pairs of groups", _COMPARISONS, gram["comparisons"]))
        more = f", the {PAIRS_SHOWN} widest of {len(worst)}" if len(worst) > PAIRS_SHOWN else ""
        console.print(_table(f"Correlations{more}", _PAIRS, worst[:PAIRS_SHOWN]))
    console.print(
        f"Training: epsilon {training['epsilon']} (ledger: {training['epsilon_rdp']}) at delta {training['delta']} after "
        f"{training['steps']} steps, {training['epsilon_with_void_rounds']['epsilon']} with all void rounds; noise per "
        f"coordinate of a step's mean {training['noise_over_clip_per_patient']:.2g} of the clipping norm.\n"
        f"Together, of what leaves with noise: epsilon {total['epsilon']} (ledger: {total['epsilon_rdp']}) "
        f"at delta {total['delta']}.",
        soft_wrap=True,
    )
    for rule in plan["rules"]:
        console.print(f"Rule: {rule}.", soft_wrap=True, markup=False)
    for text in plan["advice"]:
        console.print(f"Advice: {text}", soft_wrap=True, markup=False)


_WIDTH = (("width", "width_ratio"), (f"n for {typical.WIDER:g}", "patients_needed"))
_ROUNDS = (
    ("sum", "task"),
    ("rounds", "rounds"),
    ("at most", "rounds_most"),
    ("numbers", "numbers"),
    ("epsilon", "epsilon"),
    (f"rounding, at most {100 * ROUNDING_SLACK_MOST:g} %", "rounding_slack"),
)
_COEFFICIENTS = (("model", "model"), ("term", "term"), *_WIDTH, (f"power, r = {typical.CORRELATION:g}", "power"))
_TERMS = (("model", "model"), ("term", "term"), *_WIDTH, (f"power, f = {typical.COHEN_F:g}", "power"))
_COMPARISONS = (
    ("comparison", "comparison"),
    ("method", "method"),
    *_WIDTH,
    (f"power, {typical.DIFFERENCE:g} sd", "power"),
)
_PAIRS = (("first", "first"), ("second", "second"), *_WIDTH, (f"power, r = {typical.CORRELATION:g}", "power"))


def _table(title: str, columns: tuple[tuple[str, str], ...], rows: list[dict[str, Any]]) -> Table:
    table = Table(title=title)
    for name, _ in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row[key], key=key) for _, key in columns))
    return table


def _cell(value: Any, *, key: str) -> str:  # noqa: ANN401
    if value is None:
        return "too noisy" if key == "width_ratio" else DASH
    if key == "rounding_slack":
        return f"{100 * value:.2g} %"
    return f"{value:.2f}" if isinstance(value, float) else str(value).replace("[", r"\[")
