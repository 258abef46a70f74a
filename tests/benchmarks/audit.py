"""The auditor's figures: `make bench-audit` writes out/bench/audit.json.

Time to verify 100,000 entries; SIGKILLs of a vault's ledger at every crash point; changed bundles that are found; wrong builds
that the attacks find; the lower bound of epsilon that one run proves, beside the claim.
"""

import argparse
import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import numpy as np

from client.attack import cli as attack_cli
from client.attack import shadows
from common.audit import bundle, verify
from common.errors import MotetError
from common.ledger import events, merkle, note
from common.ledger.events import Event, Kind
from tests import ledgers
from tests.ledgers import DELTA, GRAM, Ask, share

ROOT = Path(__file__).resolve().parents[2]
GIVEN = Path(os.environ.get("MOTET_TEST_DATA", ROOT.parent / "shared" / "data"))
SHADOWS = 64
OUT = ROOT / "out" / "bench" / "audit.json"
ENTRIES = 100_000
STATEMENTS = 62  # of a start and some rounds: every crash point is killed at, again and again
WHAT = {
    "verify_s_100k": "seconds to read and verify a bundle of so many entries, all steps, two accountants; one process",
    "sigkills": "a ledger's process killed before its n-th SQL statement, n = 1 to 62 in turn, as it reserves, sends, commits",
    "undercounted": "payloads that were sent and are not in the ledger with their hash, over all kills; must be 0",
    "mutations": "wrong builds: tests named ..._found of tests/unit/test_conformance.py and test_one_run.py",
    "one_run_lower_bound": "epsilon proven by canaries in one run, 95 %; it must not pass claimed_epsilon, and proves no more",
    "membership": "heads on the frozen prior, attacked with shadow models: the best attack on each training, and the ceiling",
    "membership_xrays": "the same on public chest X-rays, where pneumonia28 is at hand",
    "tamper_cases": "flipped, inserted, deleted, cut bytes of the zip; entries changed, moved, left out under right checksums",
}


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--json", action="store_true", help="print the JSON and nothing else")
    options.add_argument("--kills", type=int, default=500)
    options.add_argument("--tampers", type=int, default=500)
    options.add_argument(
        "--only", default="verify,kills,tamper,mutations,one-run,membership,inversion", help="parts to measure, by comma"
    )
    given = options.parse_args()
    began, found = time.perf_counter(), {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        parts = {
            "verify": lambda: verifying(folder),
            "kills": lambda: kills(folder, number=given.kills),
            "tamper": lambda: tampering(folder, number=given.tampers),
            "mutations": lambda: mutations(folder),
            "one-run": one_run,
            "membership": membership,
            "inversion": inversion,
        }
        for name in given.only.split(","):
            found |= parts[name]()
            if not given.json:
                print(name, round(time.perf_counter() - began), "s", file=sys.stderr)
    report = {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cores": len(os.sched_getaffinity(0)), "load_average": os.getloadavg()},
        "seconds": round(time.perf_counter() - began, 1),
        "what": WHAT,
        **found,
    }
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1) if given.json else "\n".join(f"{key}: {value}" for key, value in found.items()))


def verifying(folder):
    """A planned study of 33,000 steps and some hundred exact sums, all of them reserved, released and committed."""
    plan = ledgers.study(steps=100_000, noise="60")
    mechanism, cap = share(noise="60").entry(), Decimal(500)
    vkey = note.key_of(ledgers.ORIGIN, key=ledgers.LEDGER_KEY).vkey
    said = [
        (Kind.GENESIS, {"origin": ledgers.ORIGIN, "key": vkey}),
        (Kind.POLICY, {"policy": {"epsilon_cap": cap, "delta_cap": DELTA}}),
        (Kind.PLAN, {"study": plan.hash(), "title": plan.title}),
    ]
    for number in range(1, ENTRIES // 3):
        name = f"run-{number // 9000}/{number}/aalen"
        reserve = {
            "id": name, "study": plan.hash(), "purpose": "lesion-cnn", "mech": GRAM.entry() if number % 97 == 0 else mechanism,
            "round": number, "roster": list(ledgers.HOSPITALS), "epsilon_cap": cap, "delta_cap": DELTA, "delta": DELTA,
        }  # fmt: skip
        said += [(Kind.RESERVE, reserve), (Kind.RELEASE, {"id": name, "sha256": f"{number:064x}", "bytes": 57_096})]
        said.append((Kind.COMMIT, {"id": name}))
    said += [(Kind.REFUSE, {"code": "E-REFUSED", "study": None, "round": None})] * (ENTRIES - len(said))
    lines = [events.encode(Event(seq=seq, kind=kind, ts=1000 + seq, fields=fields)) for seq, (kind, fields) in enumerate(said)]
    root = merkle.root([merkle.leaf_hash(line) for line in lines])
    text = note.Checkpoint(origin=ledgers.ORIGIN, size=len(lines), root=root).text()
    path = folder / "large.zip"
    bundle.write(
        path, entries=lines, checkpoint=note.sign(text, name=ledgers.ORIGIN, key=ledgers.LEDGER_KEY),
        roster=ledgers.roster().bytes(), studies={plan.hash(): plan.canonical_bytes()}, hospital="aalen",
    )  # fmt: skip
    code = (
        "import json, sys, time; from pathlib import Path; began = time.perf_counter(), time.process_time()\n"
        "from common.audit import bundle, verify\n"
        "told = verify.verify(bundle.read(Path(sys.argv[1])), roster_hash=None)\n"
        "print(json.dumps([told.entries, time.perf_counter() - began[0], time.process_time() - began[1], told.pld_withheld]))"
    )
    done = subprocess.run([sys.executable, "-c", code, path], cwd=ROOT, capture_output=True, text=True, check=True)
    entries, wall, processor, withheld = json.loads(done.stdout)
    if entries != ENTRIES or withheld:
        raise SystemExit(f"{entries} entries were verified; PLD: {withheld}")
    return {"verify_s_100k": round(wall, 2), "verify_processor_s_100k": round(processor, 2)}


def kills(folder, *, number):
    """Kill so many processes; return how many died of it, and how many payloads were sent without a word in the ledger."""
    killed = undercounted = sent = 0
    for at in range(number):
        path = folder / f"kill-{at}.sqlite"
        with ledgers.create(path):
            pass
        wire = folder / "sent"
        wire.write_bytes(b"")
        child = os.fork()
        if child == 0:
            doomed(path, wire, statements=1 + at % STATEMENTS)
            os._exit(1)
        killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        with ledgers.reopen(path) as ledger:
            said = [events.decode(line) for line in ledger.entries()]
        released = {event.fields["id"]: event.fields["sha256"] for event in said if event.kind == Kind.RELEASE}
        for line in wire.read_text().splitlines():
            name, digest = line.split()
            sent += 1
            undercounted += released.get(f"run/{name}/aalen") != digest
        path.unlink()
    return {"sigkills": killed, "payloads_sent": sent, "undercounted": undercounted}


def doomed(path, wire, *, statements):
    ledger, left = ledgers.reopen(path), [statements]

    def countdown(_statement):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    ledger._leaves._db.set_trace_callback(countdown)
    with wire.open("ab", buffering=0) as file:
        for number in range(1, 100):
            payload = os.urandom(8)
            receipt = Ask(number=number, mechanism=share(noise="50")).to(ledger)
            ledger.release(receipt, sha256=hashlib.sha256(payload).hexdigest(), size_bytes=8)
            file.write(f"{number} {hashlib.sha256(payload).hexdigest()}\n".encode())
            ledger.commit(receipt.reservation)


def tampering(folder, *, number):
    with ledgers.create(folder / "small.sqlite") as ledger:
        ledgers.run_rounds(ledger, rounds=4)
        ledgers.export(folder / "small.zip", ledger)
    data, random, found = (folder / "small.zip").read_bytes(), np.random.default_rng(8), 0
    for case in range(number):
        changed = (rezipped if case % 5 == 4 else spoiled)(data, random)
        try:
            verify.verify(bundle.parse(changed), roster_hash=ledgers.roster().hash())
        except MotetError:
            found += 1
    return {"tamper_cases": number, "tamper_found": found}


def spoiled(data, random):
    at, how = int(random.integers(len(data))), int(random.integers(4))
    if how == 0:
        return data[:at] + bytes([data[at] ^ (1 << int(random.integers(8)))]) + data[at + 1 :]
    if how == 1:
        return data[:at] + bytes([int(random.integers(256))]) + data[at:]
    return data[:at] + data[at + 1 :] if how == 2 else data[:at]


def rezipped(data, random):
    """Change the entries under right checksums: one changed, moved, left out or twice."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        parts = {info.filename: archive.read(info) for info in archive.infolist()}
    lines = parts["entries.jsonl"].splitlines(keepends=True)
    at, how = int(random.integers(len(lines))), int(random.integers(4))
    line = lines.pop(at)
    if how == 0:
        lines.insert(at, re.sub(rb'"ts":1', b'"ts":2', line, count=1))
    elif how == 1:
        lines.insert((at + 1) % (len(lines) + 1), line)
    elif how == 2:
        lines[at:at] = [line, line]
    parts["entries.jsonl"] = b"".join(lines)
    return bundle._zip(parts)


def mutations(folder):
    """Run the tests that make a wrong build each; a passed one was caught."""
    files = ["tests/unit/test_conformance.py", "tests/unit/test_one_run.py"]
    xml = folder / "mutations.xml"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-k",
        "(found or turns) and not smallest",
        *files,
        f"--junitxml={xml}",
        "-p",
        "no:cacheprovider",
    ]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    text = xml.read_text()
    table = dict.fromkeys(re.findall(r'<testcase [^>]*name="([^"]+)"', text), True)
    for name in re.findall(r'<testcase [^>]*name="([^"]+)"[^>]*>\s*<(?:failure|error|skipped)', text):
        table[name] = False
    return {"mutations": len(table), "mutations_caught": sum(table.values()), "mutation_table": table}


def one_run():
    guesses = attacked("one-run")["guesses"]
    name, best = max(guesses.items(), key=lambda item: item[1]["epsilon_least"])
    return {"one_run_lower_bound": best["epsilon_least"], "claimed_epsilon": best["epsilon_claimed"], "one_run": name}


def membership():
    """Shadow models on pictures of random processes, by the command; on public X-rays, where they are."""
    told = attacked("membership")
    found = {"membership": {**strongest(told["shadows"]), "holds": told["holds"]}}
    path = GIVEN / "pneumonia28.npz"
    if not path.is_file():
        return {**found, "membership_xrays": f"{path.name} is not there; set MOTET_TEST_DATA to the folder that holds it"}
    with np.load(path, allow_pickle=False) as held:
        drawn = np.random.default_rng(8).permutation(len(held["train_images"]))[: shadows.PATIENTS + shadows.STRANGERS]
        views = held["train_images"][drawn][:, None].astype(np.float32) / 255
        pictures = shadows.Pictures(views=views, labels=held["train_labels"][drawn].ravel().astype(np.int64))
    _, facts = attack_cli.by_shadows(pictures, models=SHADOWS, step=lambda: None)
    return {**found, "membership_xrays": strongest(facts)}


def strongest(told):
    """Return of each training the attack with the largest AUROC, and of all the largest bound of epsilon."""
    found = {}
    for kind in ("with_noise", "without_clipping_and_noise"):
        best = max(told[kind], key=lambda one: one["auroc"])
        rates = {f"found_at_{one['false_alarm']:g}": [one["rate"], one["least"], one["most"]] for one in best["found"]}
        bound = max(one["epsilon_least"] for one in told[kind])
        found[kind] = {"attack": best["attack"], "auroc": best["auroc"], **rates, "epsilon_least": bound}
    first = told["with_noise"][0]
    ceilings = {f"{one['false_alarm']:g}": one["ceiling"] for one in first["found"]}
    return {**found, "ceilings": ceilings, "epsilon_claimed": first["epsilon_claimed"], "models": told["models"]}


def inversion():
    told = attacked("inversion")
    return {"inversion_db": {one["name"]: one["psnr_db"] for one in told["read"]}, "inversion_blank_db": told["blank_db"]}


def attacked(name):
    """Return what `motet-hospital attack NAME --json` prints."""
    code = f"import sys; from client.cli import main; sys.argv = ['motet-hospital', 'attack', '{name}', '--json']; main()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
