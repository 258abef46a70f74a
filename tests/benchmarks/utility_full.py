"""What privacy and federation cost where a whole network is trained: `make bench-training` writes it as `utility_full`.

utility_full.pneumonia28.{eps1,eps3,eps8}: the rows of utility.py with the recipe `full`: cnn2d, every weight, from the packaged
prior, on real chest X-rays of 28 x 28. `non_private_pooled` is the same network by torch's Adam, neither clipped nor noised, in
as many epochs as the others draw patients; these are Poisson-sampled steps of the product's engine and its Adam.

Every row searches four learning rates by one rule on the same held-out fifths of the training part: all on one fifth, the
better two on two more; then it trains on the whole training part, and the test part is looked at once per seed. The grid,
steps, sampling rate, batch and clip norm were set on another fifth of the training part. With Adam a clip norm of 0.1, 1 or 4
made no difference beyond chance there, so it is not searched. The search is not charged to epsilon.

Motet and central DP-SGD share their chance, so that few seeds tell their ratio: a seed draws the same patients for both, and
central DP-SGD takes Motet's noise brought down to its own size (utility_full_rows.pair). The ratio's standard error is that of
pairs, over seeds: the patients of the test part are the same for all, and their chance is in no figure, nor is what is left of
the search's. Motet's noise is secret and new in every run; the rows that do not take it are drawn by seed.
"""

import argparse
import json
import os
import signal
import sys
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from tests.benchmarks import utility, utility_data, utility_rows, utility_search
from tests.benchmarks.utility import BAR, EPSILONS, OUT
from tests.benchmarks.utility_full_rows import FULL, SIDE, Whole, run_pair, run_plain
from tests.benchmarks.utility_rows import LOCAL_STEPS, Setting

CLIP_NORM, BATCH = "1", 32
POINTS = [(rate, CLIP_NORM) for rate in ("0.003", "0.01", "0.03", "0.1")]
PLAIN_POINTS = [(rate, BATCH) for rate in ("0.0003", "0.001", "0.003", "0.01")]
FIFTHS = (1, 2)
PAIR, PLAIN, SINGLE = "pair", "non_private_pooled", ("local_noise_fedavg", "alone")
TRIED_STEPS = LOCAL_STEPS  # of each row, to tell how long all will take


def fixed(noise, options):
    """What of a setting is not searched."""
    made = utility.fixed(noise, options)
    return {**made, "way": {**made["way"], **FULL}}


def setting_of(point, noise, options):
    return Setting(learning_rate=point[0], clip_norm=point[1], **fixed(noise, options))


def epochs(options):
    """Passes over the patients with as many gradients as the private rows compute, in expectation."""
    return max(1, round(float(options.sampling_rate) * options.steps))


def figures(found, *, point, tuned, second="clip_norm"):
    """A row of the report from the test AUC of every seed."""
    return {
        "auc": float(np.mean(found)),
        "spread": float(np.std(found, ddof=1)),
        "seeds": list(found),
        "learning_rate": point[0],
        second: point[1],
        "tuning_auc": float(np.mean(tuned)),
    }


def plain_row(data, options):
    """The search and the seeds of the network without privacy."""

    def auc(point, seed, *, tuning):
        found = run_plain(data, point=point, epochs=epochs(options), seed=seed, tuning=tuning)
        utility.spent(PLAIN, data)
        return found

    best, tuned = utility_search.halved(PLAIN_POINTS, score=partial(auc, tuning=True), fifths=FIFTHS)
    found = [auc(best, seed, tuning=False) for seed in range(options.seeds)]
    return figures(found, point=best, tuned=tuned, second="batch")


def single_row(row, data, noise, options):
    """The search and the seeds of a private row that has its chance for itself."""

    def auc(point, seed, *, tuning):
        setting = setting_of(point, noise, options)
        found = utility_rows.run(row, data, setting=setting, seed=seed, tuning=tuning, of=Whole.of)
        utility.spent(row, data)
        return found

    best, tuned = utility_search.halved(POINTS, score=partial(auc, tuning=True), fifths=FIFTHS)
    return figures([auc(best, seed, tuning=False) for seed in range(options.seeds)], point=best, tuned=tuned)


def pair_rows(data, noise, options):
    """Motet and central DP-SGD, each with its own search: a pair at one point serves both searches."""
    known = {}

    def both(ours, central, seed, *, tuning):
        settings = {"ours": setting_of(ours, noise, options), "central": setting_of(central, noise, options)}
        found = run_pair(data, **settings, seed=seed, tuning=tuning)
        utility.spent(PAIR, data)
        return found

    def score(point, seed, *, at):
        if (point, seed) not in known:
            known[point, seed] = both(point, point, seed, tuning=True)
        return known[point, seed][at]

    searches = [utility_search.halved(POINTS, score=partial(score, at=at), fifths=FIFTHS) for at in (0, 1)]
    (ours, _), (central, _) = searches
    found = [both(ours, central, seed, tuning=False) for seed in range(options.seeds)]
    return {
        row: figures([one[at] for one in found], point=searches[at][0], tuned=searches[at][1])
        for at, row in enumerate(("motet", "central"))
    }


def paired_ratio(ours, central):
    """Ratio of mean AUCs and its standard error from the differences of pairs, by linearisation."""
    ratio = ours["auc"] / central["auc"]
    apart = np.array(ours["seeds"]) - ratio * np.array(central["seeds"])
    return ratio, float(np.std(apart, ddof=1) / len(apart) ** 0.5 / central["auc"])


def costs(data, options):
    """Seconds of one model of every row, of a pair two, from a few steps."""
    few = argparse.Namespace(**{**vars(options), "steps": TRIED_STEPS})
    setting = setting_of(POINTS[0], "1", few)
    tried = {
        PAIR: (lambda: run_pair(data, ours=setting, central=setting, seed=0, tuning=True), options.steps / TRIED_STEPS),
        PLAIN: (lambda: run_plain(data, point=PLAIN_POINTS[0], epochs=1, seed=0, tuning=True), epochs(options)),
        **{
            row: (
                partial(utility_rows.run, row, data, setting=setting, seed=0, tuning=True, of=Whole.of),
                options.steps / TRIED_STEPS,
            )
            for row in SINGLE
        },
    }
    found = {}
    for row, (once, times) in tried.items():
        began = time.perf_counter()
        once()
        found[row, data.name] = (time.perf_counter() - began) * times
    return found


def compare(data, options, console):
    """All rows at all epsilons, the longest first, over the cores."""
    rate = options.sampling_rate
    noises = {name: utility.noise_for(EPSILONS[name], rate=rate, steps=options.steps) for name in options.epsilons}
    cost = costs(data, options)
    jobs = {(PAIR, name): (pair_rows, (data, noise, options)) for name, noise in noises.items()}
    jobs |= {(row, name): (single_row, (row, data, noise, options)) for row in SINGLE for name, noise in noises.items()}
    jobs[PLAIN, ""] = plain_row, (data, options)
    each = utility_search.runs(len(POINTS), fifths=FIFTHS) + options.seeds
    seconds = each * sum(cost[row, data.name] for row, _ in jobs)
    cores = min(len(os.sched_getaffinity(0)), len(jobs))
    console.print(f"about {seconds / cores:.0f} s of training on {cores} cores")
    found = utility.over_cores(jobs, cores=cores, cost=cost, seconds=seconds, console=console)
    report = {"data": data.told(), **told(options)}
    for name, noise in noises.items():
        rows = {PLAIN: found[PLAIN, ""], **found[PAIR, name], **{row: found[row, name] for row in SINGLE}}
        report[name] = cell(rows, data=data, noise=noise, options=options)
    return {data.name: report}


def cell(rows, *, data, noise, options):
    """What the report says of one epsilon."""
    size = len(Whole.of(data).start())
    for row, one in rows.items():
        charged = utility.epsilons(row, noise=noise, data=data, options=options, dimension=size)
        rows[row] = {**one, "epsilon": charged}
    ratio, error = paired_ratio(rows["motet"], rows["central"])
    return {
        "noise_multiplier": noise,
        "rows": {row: rows[row] for row in utility.ROWS},
        "ratio_to_central": ratio,
        "ratio_to_central_standard_error": error,
        "holds": ratio >= BAR,
    }


def told(options):
    """What was searched, how, and what was fixed."""
    made = utility.told(options)
    return {
        "search": {
            **utility_search.told(POINTS, fifths=FIFTHS),
            "grid_non_private_pooled": [{"learning_rate": rate, "batch": batch} for rate, batch in PLAIN_POINTS],
        },
        "seeds": options.seeds,
        "settings": {
            **made["settings"],
            "recipe": "full: every weight of cnn2d from the packaged prior, one view a patient",
            "non_private_pooled": "the same network by torch's Adam, neither clipped nor noised, its last weights",
            "side": SIDE,
            "epochs_non_private_pooled": epochs(options),
        },
        "paired": "central draws the patients that motet draws, and takes its noise brought down to central's size",
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the JSON and no table")
    parser.add_argument("--epsilons", nargs="+", choices=EPSILONS, default=list(EPSILONS))
    parser.add_argument("--seeds", type=int, default=5, help="at least 3")
    parser.add_argument("--steps", type=int, default=100, help=f"a multiple of {LOCAL_STEPS}")
    parser.add_argument("--sampling-rate", default="0.1")
    parser.add_argument("--out", type=Path, default=OUT, help="a file whose other keys are kept")
    options = parser.parse_args()
    if options.seeds < 3 or options.steps % LOCAL_STEPS:
        parser.error(f"--seeds is at least 3, --steps a multiple of {LOCAL_STEPS}")
    options.optimiser, options.schedule, options.average, options.points = "adam", "constant", "second-half", POINTS
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the children as Ctrl-C does
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")  # Opacus on import
    console, began, absent, found = Console(stderr=True), time.perf_counter(), {}, {}
    try:
        found = compare(utility_data.pneumonia28(SIDE), options, console)
    except utility_data.Absent as error:
        absent["pneumonia28"] = str(error)
        console.print(f"pneumonia28 is skipped: {error}")
    report = {**utility.about(began), "bar": BAR, "absent": absent, **found}
    utility.write(options.out, "utility_full", report)
    if options.json:
        sys.stdout.write(json.dumps(report, indent=1) + "\n")
    else:
        utility.show(report, Console(), recipe="full")
        console.print(f"{options.out} after {report['seconds']} s")


if __name__ == "__main__":
    main()
