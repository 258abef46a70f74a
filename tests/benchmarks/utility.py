"""What privacy and federation cost in AUC, in one run: `make bench-training` adds it to out/bench/training.json as `utility`.

utility.{lidc,pneumonia28}.{eps1,eps3,eps8}: training without privacy on the pooled patients, central DP-SGD on them, Motet's
distributed noise (five hospitals, one may collude with the coordinator), FedAvg in which every hospital adds the whole noise,
and one hospital alone. What is trained, in every row: a head on frozen features of the procedural prior. `non_private_pooled`
is that head by the same steps without noise; how much better a whole network is says utility_full.py.

Every row searches the same grid of learning rate and clip norm by the same rule on the same held-out fifths of the training
part (utility_search.py: all 12 points on 10 fifths, the better six on 20 more, the better three on 40 more); then it trains on
the whole training part with the values found, and the test part is looked at once per seed. The search is not charged to
epsilon, and what is left of its chance is not in the standard error of a ratio: `at_centrals_setting` is Motet with the values
that the search found for central DP-SGD.

How many seeds: --seeds for every row; then, from the spread of these alone, as many for Motet and central DP-SGD as bring the
standard error of their ratio to 0.001, a fifth of what the bar leaves, at most ten times --seeds (Stein's two stages, 1945).
The seeds of the first stage are kept, whatever they said, and a cell gets more of them whether it holds the bar or misses it.
A ratio's standard error is over seeds: the patients of the test part are the same for all, and their chance is in no figure.
`holds` is said of the ratio itself, not of an end of its interval.

Motet's row takes the product's secret randomness, so its figures vary from run to run within their spread; all other rows are
drawn by seed and repeat. The cells are spread over this machine's cores.
"""

import argparse
import json
import math
import os
import platform
import signal
import sys
import time
import warnings
from datetime import UTC, datetime
from decimal import Decimal
from multiprocessing import get_context
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
from tests.benchmarks import utility_data, utility_search
from tests.benchmarks.utility_data import TRAIN
from tests.benchmarks.utility_rows import COLLUDERS, LOCAL_STEPS, Setting, mechanism_of, run

OUT = Path(__file__).parents[2] / "out" / "bench" / "training.json"
DATA = ("lidc", "pneumonia28")
EPSILONS = {"eps1": "1", "eps3": "3", "eps8": "8"}
ROWS = ("non_private_pooled", "central", "motet", "local_noise_fedavg", "alone")
SHOWN = ("no DP", "pooled", "Motet", "FedAvg", "alone")
DELTA = "0.00001"
BAR = 0.995  # Motet's mean AUC over central DP-SGD's
STANDARD_ERROR, TIMES_MOST = 0.001, 10
OPTIMISERS = {
    "momentum": {"kind": "momentum", "momentum": "0.9"},
    "adam": {"kind": "adam", "beta_1": "0.9", "beta_2": "0.99", "damping": "0.00000001"},
}
POLL_S = 0.5
BAR_OF_ALL = {}  # of a process that takes cells


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


def epsilons(row, *, noise, data, options, dimension):
    """Epsilon of a row at DELTA, by PLD and by Opacus' PRV; Motet's by the product from the very mechanism of its steps.

    `dimension` is the number of weights that are trained.
    """
    if row == "non_private_pooled":
        return {"pld": None, "prv": None}
    rate, steps = options.sampling_rate, options.steps
    if row == "motet":
        setting = Setting(learning_rate="1", clip_norm="1", **fixed(noise, options))
        most = int(np.bincount(data.hospitals[data.parts == TRAIN]).max())
        mechanism = mechanism_of(setting=setting, dimension=dimension, most=most)
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


def judged(row, data, *, setting, seeds, spent, before=()):
    """Test AUC of one row at one setting, over so many seeds; those of `before` are not run again."""
    found = list(before)
    for seed in range(len(found), seeds):
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
    """One row: the search on the training part, then the seeds on the test part."""
    made = fixed(noise, options)
    setting, scores = utility_search.search(
        row,
        data,
        points=options.points,
        setting=lambda point: Setting(learning_rate=point[0], clip_norm=point[1], **made),
        spent=spent,
    )
    tuned = {"tuning_auc": float(np.mean(scores)), "tuning_spread": float(np.std(scores, ddof=1))}
    return {**judged(row, data, setting=setting, seeds=options.seeds, spent=spent), **tuned}


def seeds_for(ours, central):
    """How many seeds bring the standard error of the ratio to STANDARD_ERROR, by the spread of those that there are."""
    first = len(central["seeds"])
    _, error = ratio_of(ours, central)
    return min(TIMES_MOST * first, max(first, math.ceil(first * (error / STANDARD_ERROR) ** 2)))


def cell(data, *, noise, options, spent, planned):
    """All rows at one epsilon."""
    rows = {}
    for row in ROWS:
        found = searched(row, data, noise=noise, options=options, spent=spent)
        charged = epsilons(row, noise=noise, data=data, options=options, dimension=data.features.shape[1])
        rows[row] = {**found, "epsilon": charged}
    setting = {
        row: Setting(learning_rate=rows[row]["learning_rate"], clip_norm=rows[row]["clip_norm"], **fixed(noise, options))
        for row in ("central", "motet")
    }
    seeds = seeds_for(rows["motet"], rows["central"])
    planned({"central": seeds - options.seeds, "motet": 2 * seeds - options.seeds}, data)
    for row, one in setting.items():
        rows[row] |= judged(row, data, setting=one, seeds=seeds, spent=spent, before=rows[row]["seeds"])
    central = rows["central"]
    beside = judged("motet", data, setting=setting["central"], seeds=seeds, spent=spent)
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


def begin(cost, done, total):
    """Prepare a process that takes cells; what a run costs is added to `done`, what is planned to `total`, for the bar."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")  # Opacus on import
    BAR_OF_ALL.update(cost=cost, done=done, total=total)


def spent(row, data):
    with BAR_OF_ALL["done"].get_lock():
        BAR_OF_ALL["done"].value += BAR_OF_ALL["cost"][row, data.name]


def planned(runs, data):
    with BAR_OF_ALL["total"].get_lock():
        BAR_OF_ALL["total"].value += sum(count * BAR_OF_ALL["cost"][row, data.name] for row, count in runs.items())


def one_cell(data, noise, options):
    return cell(data, noise=noise, options=options, spent=spent, planned=planned)


def compare(datasets, options, console):
    """All cells, over the cores, with a bar that knows what each run costs."""
    cost = costs(datasets, options)
    each = utility_search.runs(len(options.points)) + options.seeds
    noises = {name: noise_for(EPSILONS[name], rate=options.sampling_rate, steps=options.steps) for name in options.epsilons}
    seconds = len(noises) * each * sum(cost.values())
    cores = min(len(os.sched_getaffinity(0)), len(datasets) * len(noises))
    console.print(f"about {seconds / cores:.0f} s of training on {cores} cores, more where a cell needs seeds")
    found = {data.name: {"data": data.told(), **told(options)} for data in datasets}
    jobs = {(data.name, name): (one_cell, (data, noise, options)) for name, noise in noises.items() for data in datasets}
    for (data, name), one in over_cores(jobs, cores=cores, cost=cost, seconds=seconds, console=console).items():
        found[data][name] = one
    return found


def over_cores(jobs, *, cores, cost, seconds, console):
    """The result of every job, (function, arguments), by its name; a bar shows what is spent of the planned `seconds`."""
    fresh, found = get_context("spawn"), {}
    done, total = fresh.Value("d", 0.0), fresh.Value("d", seconds)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as shown, fresh.Pool(cores, begin, (cost, done, total)) as pool:
        task = shown.add_task("training", total=seconds)
        started = {name: pool.apply_async(function, given) for name, (function, given) in jobs.items()}
        for name, one in started.items():
            while not one.ready():
                one.wait(POLL_S)
                shown.update(task, completed=done.value, total=total.value)
            found[name] = one.get()
    return found


def told(options):
    """What was searched, how, and what was fixed: for every row alike."""
    return {
        "search": utility_search.told(options.points),
        "seeds": {"first": options.seeds, "until_standard_error_of_ratio": STANDARD_ERROR, "most": TIMES_MOST * options.seeds},
        "settings": {
            "delta": DELTA,
            "steps": options.steps,
            "sampling_rate": options.sampling_rate,
            **way_of(options),
            "hospitals": utility_data.HOSPITALS,
            "colluders": COLLUDERS,
            "fedavg_local_steps": LOCAL_STEPS,
            "recipe": "head on the frozen features of the procedural prior, one view a patient",
            "non_private_pooled": "the same head and steps, without noise",
        },
    }


def show(report, console, *, recipe):
    """A table of every row's AUC; `recipe` is what all of them train, without privacy too."""
    title = f"Recipe {recipe}: test AUC, spread over seeds; Motet / pooled DP-SGD, bar {BAR}"
    table = Table(title=title, title_justify="left")
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


def about(began):
    """When, where and how long; `began` by time.perf_counter."""
    return {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cores": len(os.sched_getaffinity(0)),
            "load_average": os.getloadavg(),
            "processor": platform.processor() or platform.machine(),
            "python": platform.python_version(),
        },
        "seconds": round(time.perf_counter() - began, 1),
    }


def kept(out, key, *, of):
    """What the report `key` in the file `out` says of the data sets `of`."""
    whole = json.loads(out.read_text()) if out.exists() else {}
    return {name: one for name, one in whole.get(key, {}).items() if name in of}


def write(out, key, report):
    """Put the report under `key` of the file `out`, whose other keys are kept."""
    whole = json.loads(out.read_text()) if out.exists() else {}
    whole[key] = report
    out.parent.mkdir(parents=True, exist_ok=True)
    files.write(out, (json.dumps(whole, indent=1) + "\n").encode())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the JSON and no table")
    parser.add_argument("--only", choices=DATA, action="append", help="this data set only; its figures alone are replaced")
    parser.add_argument("--epsilons", nargs="+", choices=EPSILONS, default=list(EPSILONS))
    parser.add_argument("--seeds", type=int, default=40, help="at least 3; a cell may need more")
    parser.add_argument("--steps", type=int, default=100, help=f"a multiple of {LOCAL_STEPS}")
    parser.add_argument("--sampling-rate", default="0.25")
    parser.add_argument("--optimiser", choices=OPTIMISERS, default="momentum")
    parser.add_argument("--schedule", choices=("constant", "warm-up-cosine"), default="constant")
    parser.add_argument("--average", choices=("second-half", "moving-average"), default="second-half")
    parser.add_argument("--out", type=Path, default=OUT, help="a file whose other keys are kept")
    options = parser.parse_args()
    if options.seeds < 3 or options.steps % LOCAL_STEPS:
        parser.error(f"--seeds is at least 3, --steps a multiple of {LOCAL_STEPS}")
    options.points = utility_search.grid(options.optimiser)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the children as Ctrl-C does
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")  # Opacus on import
    console, began = Console(stderr=True), time.perf_counter()
    datasets, absent = loaded(options.only or DATA, console)
    found = compare(datasets, options, console) if datasets else {}
    report = {**about(began), "bar": BAR, "absent": absent, **found}
    if options.only:
        report = {**kept(options.out, "utility", of=set(DATA) - set(options.only)), **report}
    write(options.out, "utility", report)
    if options.json:
        sys.stdout.write(json.dumps(report, indent=1) + "\n")
    else:
        show(report, Console(), recipe="head")
        console.print(f"{options.out} after {report['seconds']} s")


if __name__ == "__main__":
    main()
