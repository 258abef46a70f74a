"""A training step and its parts, through a real SuperLink and four hospitals: the last part of `make bench-training`.

Writes `round` of out/bench/training.json. Real processes, mutual TLS, Unix sockets, ledgers and this machine's disk; patients
are made up (training_rounds_vault.py). Each part is the slowest hospital's of that step, so that the parts add up to it; the
hospitals share this machine's cores. Medians over the steps without the first, which tries the engine's kernels.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import sys
import time
import tomllib
from decimal import Decimal

from rich.console import Console
from rich.table import Table

from common import model
from common.study import Study
from tests.benchmarks import rounds
from tests.benchmarks.rounds import PLACE, ROOT
from tests.benchmarks.training_rounds_vault import PATIENTS

OUT = ROOT / "out" / "bench" / "training.json"
NETWORKS = {  # network, recipe of training, of the image; steps
    "cnn2d_head": ("cnn2d", "head", {"patch_voxels": 40}, 12),
    "cnn2d": ("cnn2d", "full", {"patch_voxels": 40}, 12),
    "cnn3d": ("cnn3d", "full", {"patch_voxels": 32, "patch": "volume"}, 7),
    "resnet18": ("resnet18", "full", {"patch_voxels": 64}, 4),
}
SAMPLING_RATE = Decimal("0.5")
WHAT = {
    "seconds": "one step: announcement, training at every hospital, opened sum, the next model",
    "compute": "the clipped sum of a sample, at the slowest hospital",
    "mask": "rounding, exact noise and masks, there",
    "record": "checks, ledger, keys and synced files, there",
    "transport": "down and up: sealing, streams, TLS, sockets, the coordinator's journal and kept uploads",
    "unmask": "adding the masked uploads",
    "update": "the optimiser's step and the next model's bytes",
}


class federation(rounds.federation):
    """Four hospitals that approved a study for each network."""

    vault, app = "tests.benchmarks.training_rounds_vault", "tests.benchmarks.training_rounds_app:app"

    def wanted(self):
        return {name: study(name) for name in NETWORKS}


def study(name):
    """The demo's study with another network."""
    network, trained, image, steps = NETWORKS[name]
    plain = tomllib.loads((ROOT / "deploy" / "demo" / "study.toml").read_text(), parse_float=Decimal)
    plain |= {"name": f"bench-{name.replace('_', '-')}", "patience_s": 600}
    plain["recipe"] |= {"edge_channel": False, **image}
    plain["privacy"] |= {"sampling_rate": SAMPLING_RATE}
    plain["training"] |= {
        "model": network,
        "recipe": trained,
        "prior_sha256": model.prior_sha256(network),
        "steps": steps,
        "learning_rate": Decimal("0.1"),
        "patients_per_step_max": PATIENTS,
        "held_out_fraction": Decimal("0.01"),
        "auc_drop_max": Decimal(1),
    }
    return Study.model_validate(plain)


def parts(figures, timings):
    """Each step's seconds by part; `timings` are the hospitals' lines of this run."""
    found = []
    for at, one in enumerate(figures["rounds"]):
        slowest = max((lines[at] for lines in timings), key=lambda line: line["answer"])
        rest = one["seconds"] - slowest["answer"] - one["unmask"]
        found.append({
            "seconds": one["seconds"] + one["update"],
            "compute": slowest["compute"],
            "mask": slowest["mask"],
            "record": slowest["answer"] - slowest["compute"] - slowest["mask"],
            "transport": rest,
            "unmask": one["unmask"],
            "update": one["update"],
        })  # fmt: skip
    return found


def measured(made, name):
    """One run of a network's study; the parts of each step after the first."""
    for hospital in made.names:
        (made.folder / hospital / "timings.jsonl").unlink(missing_ok=True)
    steps = NETWORKS[name][3]
    figures = made.run(name, [{"rounds": steps}])
    timings = [
        [json.loads(line) for line in (made.folder / hospital / "timings.jsonl").read_text().splitlines()]
        for hospital in made.names
    ]
    if {len(lines) for lines in timings} != {steps}:
        raise SystemExit("a hospital answered another number of steps: no figure is worth reading")
    return figures["dimension"], parts(figures, timings)[1:]


def kept(taken, *, load, took_s):
    """Write medians of what was measured to the benchmark's file, and return them."""
    found = {part: {name: statistics.median(one[part] for one in steps) for name, (_, steps) in taken.items()} for part in WHAT}
    found |= {
        "hospitals": 4,
        "patients_a_step": round(4 * PATIENTS * float(SAMPLING_RATE)),
        "dimension": {name: dimension for name, (dimension, _) in taken.items()},
        "steps": {name: len(steps) for name, (_, steps) in taken.items()},
        "load_average_before": load,
        "took_s": round(took_s, 1),
        "what": WHAT,
    }
    report = json.loads(OUT.read_text()) if OUT.exists() else {}
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps({**report, "round": found}, indent=1) + "\n")
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the JSON and no table")
    parser.add_argument("--networks", nargs="*", choices=sorted(NETWORKS), default=list(NETWORKS))
    given = parser.parse_args()
    os.environ["PYTHONPATH"] = str(ROOT)  # the vaults and the ServerApp of the benchmark are modules of tests/
    os.chdir(ROOT)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the children as Ctrl-C does
    progress, began, load = Console(stderr=True), time.perf_counter(), os.getloadavg()
    shutil.rmtree(PLACE, ignore_errors=True)
    taken = {}
    with federation(4, progress=progress) as made:
        for name in given.networks:
            taken[name] = measured(made, name)
            found = kept(taken, load=load, took_s=time.perf_counter() - began)  # what is measured is kept, whatever follows
    shutil.rmtree(PLACE, ignore_errors=True)
    if given.json:
        sys.stdout.write(json.dumps(found, indent=1) + "\n")
        return
    table = Table("part, s", *taken, "what", title="A training step over four hospitals", title_justify="left")
    for part, what in WHAT.items():
        table.add_row(part, *(f"{found[part][name]:.3f}" for name in taken), what)
    Console().print(table)


if __name__ == "__main__":
    main()
