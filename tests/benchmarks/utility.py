"""What privacy and federation cost in AUC, in one run: `make bench-training` adds it to out/bench/training.json as `utility`.

utility.{lidc,pneumonia28}.{eps1,eps3,eps8}: training without privacy on the pooled patients, central DP-SGD on them, Motet's
distributed noise (five hospitals, one may collude with the coordinator), FedAvg in which every hospital adds the whole noise,
and one hospital alone. What is trained: a head on frozen features of the procedural prior. Every row searches the same grid of
learning rate and clip norm on the same held-out fifths of the training part; then it trains on the whole training part with the
values found, and the test part is looked at once per seed. The search is not charged to epsilon, and its chance is not in the
standard error of a ratio: `at_centrals_setting` is Motet with the values that the search found for central DP-SGD.

Motet's row takes the product's secret randomness, so its figures vary from run to run within their spread.
"""

import argparse
import json
import os
import platform
import sys
import time
import warnings
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import dp_accounting
import numpy as np
import torch
from dp_accounting import pld
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from common import files
from common.ledger import accounting
from tests.benchmarks import utility_data
from tests.benchmarks.utility_data import TRAIN
from tests.benchmarks.utility_rows import COLLUDERS, LOCAL_STEPS, Setting, mechanism_of, run

OUT = Path(__file__).parents[2] / "out" / "bench" / "training.json"
DATA = ("lidc", "pneumonia28")
EPSILONS = {"eps1": "1", "eps3": "3", "eps8": "8"}
ROWS = ("non_private_pooled", "central", "motet", "local_noise_fedavg", "alone")
SHOWN = ("no DP", "pooled", "Motet", "FedAvg", "alone")
DELTA = "0.00001"
LEARNING_RATES, CLIP_NORMS = ("0.1", "0.3", "1", "3", "10", "30"), ("0.25", "1")
TUNING_SEEDS = (100, 101, 102, 103, 104)  # one for every hospital alone
BAR = 0.995  # Motet's mean AUC over central DP-SGD's
OPTIMISERS = {
    "momentum": {"kind": "momentum", "momentum": "0.9"},
    "adam": {"kind": "adam", "beta_1": "0.9", "beta_2": "0.99", "damping": "0.00000001"},
}
ADAM_RATES = ("0.003", "0.01", "0.03", "0.1", "0.3", "1")


def epsilon_pld(noise, *, rate, steps, grid):
    accountant = pld.PLDAccountant(value_discretization_interval=grid)
    event = dp_accounting.GaussianDpEvent(noise)
    if rate < 1:
        event = dp_accounting.PoissonSampledDpEvent(rate, event)
    return accountant.compose(event, steps).get_epsilon(float(DELTA))


def noise_for(epsilon, *, rate, steps):
    """The smallest noise multiplier, to 0.001, whose epsilon by PLD is within `epsilon`; of all rows."""
    high = int(1000 * accounting.noise_multiplier_for(
        epsilon=Decimal(epsilon), delta=Decimal(DELTA), sampling_rate=Decimal(rate), steps=steps
    )) + 1  # fmt: skip
    low = high * 3 // 4  # PLD needs less noise than Renyi's accountant, but not that little
    while high - low > 1:
        middle = (low + high) // 2
        found = epsilon_pld(middle / 1000, rate=float(rate), steps=steps, grid=1e-3)  # above that at 1e-4
        low, high = (low, middle) if found <= float(epsilon) - 1e-4 else (middle, high)
    return str(Decimal(high) / 1000)


def epsilon_prv(noise, *, rate, steps):
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = [(float(noise), float(rate), steps)]
    return float(accountant.get_epsilon(delta=float(DELTA)))


def epsilons(row, *, noise, data, options):
    """Epsilon of a row at DELTA, by PLD and by Opacus' PRV; Motet's by the product from the very mechanism of its steps."""
    if row == "non_private_pooled":
        return {"pld": None, "prv": None}
    rate, steps = options.sampling_rate, options.steps
    if row == "motet":
        setting = Setting(learning_rate="1", clip_norm="1", **fixed(noise, options))
        most = int(np.bincount(data.hospitals[data.parts == TRAIN]).max())
        mechanism = mechanism_of(setting=setting, dimension=data.features.shape[1], most=most)
        noise = str(accounting.effective_noise_multiplier(mechanism))
        by_pld = accounting.epsilon_pld([mechanism] * steps, delta=Decimal(DELTA))
    else:
        by_pld = epsilon_pld(float(noise), rate=float(rate), steps=steps, grid=1e-4)
    return {"pld": by_pld, "prv": epsilon_prv(noise, rate=rate, steps=steps)}


def way_of(options):
    average = {"kind": "second-half"} if options.average == "second-half" else {"kind": "moving-average", "decay": "0.95"}
    schedule = {"kind": "constant"}
    if options.schedule == "warm-up-cosine":
        schedule = {"kind": "warm-up-cosine", "warm_up_steps": 5}
    return {"optimiser": OPTIMISERS[options.optimiser], "schedule": schedule, "average": average}


def grid_of(options):
    rates = LEARNING_RATES if options.optimiser == "momentum" else ADAM_RATES
    return [(rate, clip) for rate in rates for clip in CLIP_NORMS]


def judged(row, data, *, setting, options, spent):
    """Test AUC of one row at one setting, over the seeds."""
    found = []
    for seed in range(options.seeds):
        found.append(run(row, data, setting=setting, seed=seed, tuning=False))
        spent(row, data)
    return {
        "auc": float(np.mean(found)),
        "spread": float(np.std(found, ddof=1)),
        "seeds": found,
        "learning_rate": setting.learning_rate,
        "clip_norm": setting.clip_norm,
    }


def searched(row, data, *, noise, options, spent):
    """One row: the grid on held-out fifths of the training part, then the seeds on the test part."""
    made = fixed(noise, options)
    found = {}
    for rate, clip in grid_of(options):
        setting = Setting(learning_rate=rate, clip_norm=clip, **made)
        runs = []
        for seed in TUNING_SEEDS:
            runs.append(run(row, data, setting=setting, seed=seed, tuning=True))
            spent(row, data)
        found[rate, clip] = float(np.mean(runs))
    rate, clip = max(found, key=found.get)
    setting = Setting(learning_rate=rate, clip_norm=clip, **made)
    return {**judged(row, data, setting=setting, options=options, spent=spent), "tuning_auc": found[rate, clip]}


def cell(data, *, noise, without, options, spent):
    """All rows at one epsilon."""
    rows = {"non_private_pooled": without}
    for row in ROWS[1:]:
        rows[row] = searched(row, data, noise=noise, options=options, spent=spent)
    for row, told in rows.items():
        rows[row] = {**told, "epsilon": epsilons(row, noise=noise, data=data, options=options)}
    central = rows["central"]
    same = Setting(learning_rate=central["learning_rate"], clip_norm=central["clip_norm"], **fixed(noise, options))
    beside = judged("motet", data, setting=same, options=options, spent=spent)
    ratio, error = ratio_of(rows["motet"], central)
    same_ratio, same_error = ratio_of(beside, central)
    return {
        "noise_multiplier": noise,
        "rows": rows,
        "ratio_to_central": ratio,
        "ratio_to_central_standard_error": error,
        "holds": ratio >= BAR,
        "at_centrals_setting": {**beside, "ratio_to_central": same_ratio, "ratio_to_central_standard_error": same_error},
    }


def ratio_of(ours, central):
    """Ratio of mean AUCs and its standard error from the spreads over seeds."""
    ratio = ours["auc"] / central["auc"]
    errors = [one["spread"] / len(one["seeds"]) ** 0.5 / one["auc"] for one in (ours, central)]
    return ratio, ratio * float(np.hypot(*errors))


def fixed(noise, options):
    """What of a setting is not searched."""
    return {
        "noise_multiplier": noise,
        "steps": options.steps,
        "sampling_rate": options.sampling_rate,
        "way": way_of(options),
    }


def costs(datasets, options):
    """Seconds of one run of every row: the median of three."""
    found = {}
    for data in datasets:
        for row in ROWS:
            setting = Setting(learning_rate="1", clip_norm="1", **fixed("10", options))
            spent = []
            for _ in range(3):
                began = time.perf_counter()
                run(row, data, setting=setting, seed=0, tuning=False)
                spent.append(time.perf_counter() - began)
            found[row, data.name] = float(np.median(spent))
    return found


def loaded(names, console):
    """The data sets that are here, and why the others are not."""
    there, absent = [], {}
    with Progress(console=console) as shown:
        task = shown.add_task("lidc: patches, once", total=None, visible=False)
        for name in names:
            try:
                if name == "lidc":
                    told = lambda done, total: shown.update(task, completed=done, total=total, visible=True)  # noqa: E731
                    there.append(utility_data.lidc_nodules(told=told))
                else:
                    there.append(utility_data.pneumonia28())
            except utility_data.Absent as error:
                absent[name] = str(error)
                console.print(f"{name} is skipped: {error}")
    return there, absent


def compare(datasets, options, console):
    """All cells, with a bar that knows what each run costs."""
    cost = costs(datasets, options)
    runs = len(grid_of(options)) * len(TUNING_SEEDS) + options.seeds
    private = len(options.epsilons)
    counts = {"non_private_pooled": runs, "motet": private * (runs + options.seeds)}
    seconds = sum(counts.get(row, private * runs) * each for (row, _), each in cost.items())
    console.print(f"about {seconds:.0f} s of training, and some for the accountants")
    found = {}
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as shown:
        task = shown.add_task("training", total=seconds)
        spent = lambda row, data: shown.advance(task, cost[row, data.name])  # noqa: E731
        noises = {name: noise_for(EPSILONS[name], rate=options.sampling_rate, steps=options.steps) for name in options.epsilons}
        for data in datasets:
            found[data.name] = {"data": data.told(), **told(options)}
            without = searched("non_private_pooled", data, noise="1", options=options, spent=spent)
            for name, noise in noises.items():
                shown.update(task, description=f"{data.name} {name}")
                found[data.name][name] = cell(data, noise=noise, without=without, options=options, spent=spent)
    return found


def told(options):
    """What was searched, how, and what was fixed: for every row alike."""
    return {
        "search": {
            "grid": [{"learning_rate": rate, "clip_norm": clip} for rate, clip in grid_of(options)],
            "chosen_by": f"mean AUC on {len(TUNING_SEEDS)} held-out fifths of the training part, the same for all rows",
            "charged": False,
        },
        "settings": {
            "delta": DELTA,
            "steps": options.steps,
            "sampling_rate": options.sampling_rate,
            **way_of(options),
            "hospitals": utility_data.HOSPITALS,
            "colluders": COLLUDERS,
            "fedavg_local_steps": LOCAL_STEPS,
            "recipe": "head on the frozen features of the procedural prior, one view a patient",
        },
    }


def show(report, console):
    table = Table(title=f"Test AUC, spread over seeds; Motet / pooled DP-SGD, bar {BAR}", title_justify="left")
    for column in ("data", "eps", *SHOWN, "ratio", ""):
        table.add_column(column, justify="right")
    for name in DATA:
        for at, one in report.get(name, {}).items():
            if at not in EPSILONS:
                continue
            aucs = [f"{one['rows'][row]['auc']:.4f}\n±{one['rows'][row]['spread']:.3f}" for row in ROWS]
            ratio = f"{one['ratio_to_central']:.4f}\n±{one['ratio_to_central_standard_error']:.3f}"
            table.add_row(name[:9], EPSILONS[at], *aucs, ratio, "holds" if one["holds"] else "MISSED")
    console.print(table)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the JSON and no table")
    parser.add_argument("--only", choices=DATA, action="append", help="this data set only; its figures alone are replaced")
    parser.add_argument("--epsilons", nargs="*", choices=EPSILONS, default=list(EPSILONS))
    parser.add_argument("--seeds", type=int, default=40, help="at least 3")
    parser.add_argument("--steps", type=int, default=100, help=f"a multiple of {LOCAL_STEPS}")
    parser.add_argument("--sampling-rate", default="0.25")
    parser.add_argument("--optimiser", choices=OPTIMISERS, default="momentum")
    parser.add_argument("--schedule", choices=("constant", "warm-up-cosine"), default="constant")
    parser.add_argument("--average", choices=("second-half", "moving-average"), default="second-half")
    parser.add_argument("--out", type=Path, default=OUT, help="a file whose other keys are kept")
    options = parser.parse_args()
    if options.seeds < 3 or options.steps % LOCAL_STEPS:
        parser.error(f"--seeds is at least 3, --steps a multiple of {LOCAL_STEPS}")
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")  # Opacus on import
    console, began = Console(stderr=True), time.perf_counter()
    datasets, absent = loaded(options.only or DATA, console)
    found = compare(datasets, options, console) if datasets else {}
    whole = json.loads(options.out.read_text()) if options.out.exists() else {}
    kept = {name: one for name, one in whole.get("utility", {}).items() if name in set(DATA) - set(options.only or DATA)}
    report = {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cores": len(os.sched_getaffinity(0)),
            "load_average": os.getloadavg(),
            "processor": platform.processor() or platform.machine(),
            "python": platform.python_version(),
        },
        "seconds": round(time.perf_counter() - began, 1),
        "bar": BAR,
        "absent": absent,
        **kept,
        **found,
    }
    whole["utility"] = report
    options.out.parent.mkdir(parents=True, exist_ok=True)
    files.write(options.out, (json.dumps(whole, indent=1) + "\n").encode())
    if options.json:
        sys.stdout.write(json.dumps(report, indent=1) + "\n")
    else:
        show(report, Console())
        console.print(f"{options.out} after {report['seconds']} s")


if __name__ == "__main__":
    main()
