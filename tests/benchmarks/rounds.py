"""One secure sum over real processes, by both carriers: `make bench-rounds` writes out/bench/rounds.json.

From announcement to opened sum, beside the rounds of other federations.

SuperLink, executor, ServerApp, and per hospital a vault and a relay, over Unix sockets, mutual TLS and this machine's disk.
Only the compute is replaced (rounds_vault.py). Every sum is checked. Medians;
the first round of each kind is left out, kinds of one size take turns.
"""

import argparse
import json
import os
import platform
import secrets
import shutil
import signal
import statistics
import subprocess
import sys
import time
import tomllib
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from rich.console import Console
from rich.table import Table

from common import files, ports
from common.processes import program
from common.study import Study
from deploy.demo.children import children, command, together
from server import config, superlink
from server.journal import Journal
from tests.benchmarks import rounds_nvflare

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "out" / "bench" / "rounds.json"
PLACE = ROOT / "out" / "bench" / "r"  # short: a Unix socket's path has a limit
SIZES = {"1e3": 10**3, "1e6": 10**6, "1e7": 10**7}
READY_S, RUN_S, POLL_S = 240, 900, 0.2
STEPS = 1000
BARS = {
    "seconds_per_sum.stream.1e3": 0.05,
    "seconds_per_sum.stream.1e6": 0.3,
    "seconds_per_sum.stream.1e7": 3.0,
    "coordinator_memory.16_hospitals_vs_4": 1.2,
    "wire_bytes_vs_payload.1e6": 1.02,
    "wire_bytes_vs_payload.1e7": 1.02,
}
WHAT = {
    "seconds_per_sum": "four hospitals; announcement to opened sum of d 32-bit entries; vector ready, no noise drawn",
    "seconds_per_sum_with_model": "as above, and d float32 of model go down to every hospital in the same round",
    "seconds_per_sum_with_noise": "as seconds_per_sum, each hospital draws its share of exact discrete Gaussian noise",
    "flower_fedavg": "Flower's FedAvg round, d float32 down and up, same SuperLink and SuperNodes; no masks, no ledger",
    "nvflare_fedavg": "NVIDIA FLARE's FedAvg round in its simulator, d float32 down and up, four clients",
    "coordinator_memory": "peak resident memory of the ServerApp in a sum of 1e7; 16 hospitals / 4 hospitals",
    "wire_bytes_vs_payload": "bytes that the kernel counted on the lane's connections, TLS included / 4 d per hospital",
}


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--json", action="store_true", help="print the JSON and no table")
    options.add_argument("--only", default="stream,message,fedavg,nvflare,memory", help="parts to measure, by comma")
    options.add_argument("--sizes", default=",".join(SIZES), help="sizes to measure, by comma")
    options.add_argument("--rounds", type=int, default=0, help="rounds of each kind by stream; 0: as many as the size deserves")
    given = options.parse_args()
    os.environ["PYTHONPATH"] = str(ROOT)  # the vaults and the ServerApp of the benchmark are modules of tests/
    os.chdir(ROOT)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the children as Ctrl-C does
    progress, began, load = Console(stderr=True), time.perf_counter(), os.getloadavg()
    parts, sizes = given.only.split(","), {name: SIZES[name] for name in given.sizes.split(",")}
    result, detail = {}, {}

    def save():
        report = {
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": {
                "cores": len(os.sched_getaffinity(0)),
                "load_average_before": load,
                "load_average_after": os.getloadavg(),
                "fsync_4k_ms": fsync_ms(),
                "processor": platform.processor() or platform.machine(),
                "python": platform.python_version(),
            },
            "seconds": round(time.perf_counter() - began, 1),
            "bars": BARS,
            "what": WHAT,
            **result,
            "detail": detail,
        }
        OUT.parent.mkdir(parents=True, exist_ok=True)
        OUT.write_text(json.dumps(report, indent=1) + "\n")
        return report

    shutil.rmtree(PLACE, ignore_errors=True)
    if {"stream", "message", "fedavg"} & set(parts):
        with federation(4, progress=progress) as made:
            if "stream" in parts:
                by_stream(made, sizes, given.rounds, result, detail)
                save()
            if "fedavg" in parts:
                fedavg(made, sizes, result, detail)
                save()
            if "message" in parts:
                by_message(made, sizes, result, detail)
                save()
    if "nvflare" in parts:
        progress.print("NVIDIA FLARE's FedAvg ...")
        nvflare(sizes, result, detail)
        save()
    if "memory" in parts:
        memory(result, detail, progress=progress)
    shutil.rmtree(PLACE, ignore_errors=True)
    report = save()
    if given.json:
        sys.stdout.write(json.dumps(report, indent=1) + "\n")
    else:
        show(report)
        progress.print(f"{OUT} after {report['seconds']} s")


class federation:
    """A coordinator, its SuperLink and executor, and so many hospitals' vaults and relays, all up."""

    vault, app = "tests.benchmarks.rounds_vault", "tests.benchmarks.rounds_app:app"

    def __init__(self, hospitals, *, progress):
        self.names = tuple(f"h{at:02d}" for at in range(hospitals))
        self.folder = PLACE / str(hospitals)
        self.progress, self.console = progress, Console(stderr=True, quiet=True)

    def __enter__(self):
        self.progress.print(f"{len(self.names)} hospitals: enrolment, vaults, relays ...")
        shutil.rmtree(self.folder, ignore_errors=True)  # one of this size may have run before
        (self.folder / "logs").mkdir(parents=True)
        self.studies = self.wanted()
        address, lane = (f"127.0.0.1:{ports.free()}" for _ in range(2))
        self.home = config.Home(self.folder / "hub")
        self._enrol(address, lane)
        self._running = children(self.folder / "logs", console=self.console)
        running = self.running = self._running.__enter__()
        try:
            running.start("superlink", "motet-coordinator", "serve", "--home", self.home.folder)
            running.wait_for("superlink", "SuperLink ready", timeout_s=READY_S)
            for name in self.names:
                running.start(f"{name}-vault", "python", "-m", self.vault, self.folder / name)
            for name in self.names:
                running.wait_for(f"{name}-vault", "vault ready", timeout_s=READY_S)
                running.start(
                    f"{name}-relay", "motet-hospital", "relay", "--folder", self.folder / name / "relay",
                    "--superlink", address, "--lane", lane, "--ca", self.home.certificates / "ca.crt",
                )  # fmt: skip
        except BaseException:
            self._running.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(self, *error):
        return self._running.__exit__(*error)

    def wanted(self):
        """Return the studies that are approved everywhere, by a name for `run`."""
        return {carrier: study(carrier) for carrier in ("stream", "message")}

    def _enrol(self, address, lane):
        hub = ("--home", self.home.folder)
        command(
            "motet-coordinator", "init", *hub, "--name", "hub", "--federation", "bench", "--address", address, "--lane", lane
        )
        homes = {name: self.folder / name for name in self.names}
        nothing = self.folder / "nothing"
        together([
            ("motet-hospital", "init", "--home", home, "--name", name, "--scans", nothing, "--clinical", nothing,
             "--epsilon-cap", 1_000_000, "--delta-cap", "0.00001", "--hospitals-min", 3, "--colluders-min", 1,
             "--patients-min", 3, "--exact-releases-max", 2)
            for name, home in homes.items()
        ])  # fmt: skip
        requests = {name: self.folder / f"{name}.request" for name in self.names}
        together([("motet-hospital", "enrol", "--home", homes[name], requests[name]) for name in self.names])
        roster = json.loads(command("motet-coordinator", "enrol", *hub, *requests.values(), "--json"))
        together([
            ("motet-hospital", "approve", "--home", home, "--roster", roster["roster"], "--hash", roster["hash"])
            for home in homes.values()
        ])  # fmt: skip
        for one in self.studies.values():
            path = self.home.studies / f"{one.hash()}.study.json"
            files.write(path, one.canonical_bytes())
            together([
                ("motet-hospital", "approve", "--home", home, "--study", path, "--hash", one.hash()) for home in homes.values()
            ])  # fmt: skip

    def run(self, wanted, plan):
        """Make the rounds of a plan as a run of its own of a wanted study, and return its figures."""
        name = secrets.token_hex(8)
        folder = self.home.runs / name
        folder.mkdir(mode=0o700)
        files.write(folder / "study.json", self.studies[wanted].canonical_bytes())
        (folder / "plan.json").write_text(json.dumps(plan))
        self.progress.print(f"{wanted}: {sum(one['rounds'] for one in plan)} rounds ...")
        self.submit(name, server=self.app, client="client.app:app")
        journal = Journal(folder / "journal.jsonl")

        def failed():
            said = [event for event in journal.events() if event["type"] == "failed"]
            return said[0]["what"] if said else None

        figures = self.awaited(folder, failed)
        shutil.rmtree(folder / "rounds", ignore_errors=True)
        return figures

    def submit(self, run, *, server, client):
        """Hand a bundle of configuration to the SuperLink, as `motet-coordinator run` does, naming the benchmark's apps."""
        bundle = self.folder / "bundle"
        shutil.copytree(ROOT / "server" / "bundle", bundle, dirs_exist_ok=True)
        text = (bundle / "pyproject.toml").read_text()
        text = text.replace('"server.app:app"', json.dumps(server)).replace('"client.app:app"', json.dumps(client))
        (bundle / "pyproject.toml").write_text(text)
        done = subprocess.run(
            [program("flwr"), "run", bundle, superlink.CONNECTION, "--run-config", f"run={json.dumps(str(run))}"],
            env=superlink.environment(self.home),
            capture_output=True,
            timeout=120,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"flwr run failed: {(done.stdout + done.stderr).decode()[-400:]}")

    def awaited(self, folder, failed):
        """Return the figures that a ServerApp leaves in `folder`."""
        end = time.monotonic() + RUN_S
        while not (folder / "figures.json").exists():
            what = failed()
            if what or time.monotonic() > end:
                raise SystemExit(
                    f"the rounds failed ({what or 'too late'}); logs in {self.folder / 'logs'} and {self.home.folder}"
                )
            time.sleep(POLL_S)
        time.sleep(1.0)  # the file is whole, the relays have left
        return json.loads((folder / "figures.json").read_bytes())


def study(carrier):
    """Return the demo's study with the steps that the rounds take, by this carrier."""
    plain = tomllib.loads((ROOT / "deploy" / "demo" / "study.toml").read_text(), parse_float=Decimal)
    plain |= {"name": f"bench-{carrier}", "carrier": carrier, "patience_s": 300}
    plain["training"] |= {"steps": STEPS, "recipe": "full"}
    return Study.model_validate(plain)


def rounds_for(dimension, *, carrier):
    if carrier == "message":
        return 4
    return {10**3: 41, 10**6: 16}.get(dimension, 6)


def by_stream(made, sizes, rounds, result, detail):
    plan = [
        {"dimension": d, "model": model, "noise": noise, "rounds": rounds or rounds_for(d, carrier="stream")}
        for d in sizes.values()
        for model, noise in ((False, False), (True, False), (False, True))
    ]
    made_rounds = taken(made.run("stream", plan), "stream", detail)
    for key, model, noise in (
        ("seconds_per_sum", False, False),
        ("seconds_per_sum_with_model", True, False),
        ("seconds_per_sum_with_noise", False, True),
    ):
        result.setdefault(key, {})["stream"] = medians(made_rounds, sizes, "seconds", model=model, noise=noise)
    wire, wire_with_model, cpu = {}, {}, {}
    for name, d in sizes.items():
        plain = [one for one in made_rounds if (one["dimension"], one["model"], one["noise"]) == (d, False, False)]
        with_model = [one for one in made_rounds if (one["dimension"], one["model"]) == (d, True)]
        wire[name] = median((one["bytes_up"] + one["bytes_down"]) / (4 * d * one["hospitals"]) for one in plain)
        wire_with_model[name] = median((one["bytes_up"] + one["bytes_down"]) / (8 * d * one["hospitals"]) for one in with_model)
        cpu[name] = median(one["coordinator_cpu_s"] for one in plain)
    result["wire_bytes_vs_payload"], result["wire_bytes_vs_payload_with_model"] = wire, wire_with_model
    detail["coordinator_cpu_s_per_sum"] = {"stream": cpu}


def by_message(made, sizes, result, detail):
    plan = [
        {"dimension": d, "model": model, "noise": False, "rounds": rounds_for(d, carrier="message")}
        for d in sizes.values()
        for model in (False, True)
    ]
    made_rounds = taken(made.run("message", plan), "message", detail)
    for key, model in (("seconds_per_sum", False), ("seconds_per_sum_with_model", True)):
        result.setdefault(key, {})["message"] = medians(made_rounds, sizes, "seconds", model=model, noise=False)


def fedavg(made, sizes, result, detail):
    folder = made.folder / "fedavg"
    folder.mkdir()
    (folder / "plan.json").write_text(json.dumps([{"dimension": d, "rounds": 5} for d in sizes.values()]))
    made.progress.print("Flower's FedAvg ...")
    made.submit(folder, server="tests.benchmarks.rounds_fedavg:server", client="tests.benchmarks.rounds_fedavg:client")
    figures = made.awaited(folder, lambda: None)
    result["flower_fedavg"] = medians(figures["rounds"], sizes, "seconds")
    detail["flower_fedavg"] = figures


def memory(result, detail, *, progress):
    peaks = {}
    for hospitals in (4, 16):
        with federation(hospitals, progress=progress) as made:
            plan = [{"dimension": 10**7, "model": True, "noise": False, "rounds": 3}]
            figures = made.run("stream", plan)
            detail[f"memory_{hospitals}_hospitals"] = figures
            peaks[hospitals] = max(one["coordinator_peak_bytes"] for one in figures["rounds"])
    result["coordinator_memory"] = {
        "mib_4_hospitals": peaks[4] / 2**20,
        "mib_16_hospitals": peaks[16] / 2**20,
        "16_hospitals_vs_4": peaks[16] / peaks[4],
    }


def nvflare(sizes, result, detail):
    figures = rounds_nvflare.run(PLACE / "nvflare", sizes=sizes, rounds=6, hospitals=4)
    detail["nvflare_fedavg"] = figures
    if "skipped" in figures:
        result["nvflare_fedavg"] = figures
    else:
        result["nvflare_fedavg"] = {name: median(figures["seconds"][name]) for name in sizes if figures["seconds"].get(name)}


def taken(figures, carrier, detail):
    """Keep a run's figures, and return its rounds without the first of each kind."""
    detail[f"set_up_s_{carrier}"] = figures["set_up_s"]
    detail[f"rounds_{carrier}"] = figures["rounds"]
    return [one for one in figures["rounds"] if one["at"] > 0]


def medians(rounds, sizes, key, **wanted):
    found = {}
    for name, dimension in sizes.items():
        values = [
            one[key]
            for one in rounds
            if one["dimension"] == dimension and all(one[part] == value for part, value in wanted.items())
        ]
        if values:
            found[name] = median(values)
    return found


def median(values):
    return statistics.median(list(values))


def fsync_ms():
    """Return what one small synced write costs on this disk, in ms: the floor under every round."""
    path, taken_ms = OUT.parent / "fsync", []
    for _ in range(21):
        began = time.perf_counter()
        with path.open("wb") as file:
            file.write(os.urandom(4096))
            file.flush()
            os.fsync(file.fileno())
        taken_ms.append((time.perf_counter() - began) * 1e3)
    path.unlink()
    return median(taken_ms)


def flat(values, before=""):
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def show(report):
    table = Table(title="Rounds", title_justify="left")
    for column in ("figure", "measured", "bar", "verdict", "what"):
        table.add_column(column, overflow="fold", justify="right" if column in {"measured", "bar"} else "left")
    for key, value in flat({key: report[key] for key in WHAT if key in report}):
        bar = BARS.get(key)
        verdict = "" if bar is None else "holds" if value <= bar else "MISSED"
        shown = value if isinstance(value, str) else f"{value:.4g}"
        table.add_row(key, shown, "" if bar is None else f"<= {bar:.4g}", verdict, WHAT[key.split(".")[0]])
    Console().print(table)


if __name__ == "__main__":
    main()
