"""The secure sum beside its rivals, all in one run: `make bench-secure-sum` writes out/bench/secure_sum.json.

CPU time of this process (all its threads) unless a name says wall; medians of interleaved repetitions; random data.
"""

import argparse
import hashlib
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from cryptography.hazmat.backends.openssl import backend
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from flwr.server.strategy.aggregate import aggregate
from rich.console import Console
from rich.table import Table

from client.mask import mask as vault_mask
from client.session import seeds
from common.contribution import Contribution
from common.crypto import encoding, masking, ring
from common.crypto.adding import add
from common.ledger.receipt import Receipt
from tests.benchmarks import flower_secagg, tenseal_ckks
from tests.benchmarks.secure_sum_rounds import RANGE_BITS, check, federation, interleaved, median, updates

OUT = Path(__file__).parents[2] / "out" / "bench" / "secure_sum.json"
BARS = {
    "upload_bytes_ratio": 1.01,
    "client_ms_1e6_n10": 15.0,
    "server_vs_plain_1e7_n10": 1.0,
    "client_vs_flower_secagg.n10": 0.25,
    "client_vs_flower_secagg.n50": 0.25,
    "server_vs_flower_secagg.n10": 0.25,
    "server_vs_flower_secagg.n50": 0.25,
}
WHAT = {
    "upload_bytes_ratio": "bytes of the signed upload envelope / bytes of the float32 vector, 1e6 parameters, 10 hospitals",
    "client_ms_1e6_n10": "CPU of one hospital: seeds, encode, 9 masks, to bytes; 1e6 parameters; all cores",
    "server_vs_plain_1e7_n10": "context and pair checks, add, decode, divide / Flower's aggregate(); hashes, signatures apart",
    "client_vs_flower_secagg.n10": "seeds, commitments, encode, mask, hash, sign / SecAgg+ mod, four stages; 1e6 parameters",
    "client_vs_flower_secagg.n50": "as above, 1e5 parameters",
    "server_vs_flower_secagg.n10": "signatures, hashes, checks, add, decode / SecAgg+ workflow less its clients; 1e6",
    "server_vs_flower_secagg.n50": "as above, 1e5 parameters",
    "max_abs_error": "largest error of the decoded sum of 10, 1e6 parameters; the bar is the bound stated by the encoding",
}


def bench_client(result, detail):
    made, drawn = federation(10, 10**6), updates(10, 10**6)
    me, one = made.announced.hospitals[4], drawn[4]
    envelope = made.upload(me, one)
    result["upload_bytes_ratio"] = len(envelope) / one.nbytes
    ctx = masking.context(made.transcript, announcement=made.announced.bytes())
    of_me = seeds(made.pair_keys[me], ctx=ctx, me=me)
    integers = np.frombuffer(os.urandom(4 * 10**6), np.int32).astype(np.int64)
    mechanism = made.announced.mechanism
    receipt = Receipt(reservation=f"bench/1/{me}", study="0" * 64, mechanism=mechanism, sequence=1)
    contribution = Contribution(values=integers, mechanism=mechanism)
    times = interleaved(
        15,
        all_cores=lambda: made.masked(me, one),
        one_thread=lambda: made.masked(me, one, threads=1),
        encode=lambda: encoding.encode(one, encoding=made.encoded),
        whole_upload=lambda: made.upload(me, one),
        vault_int64=lambda: vault_mask(contribution, receipt=receipt, me=me, seeds=of_me),
    )
    result["client_ms_1e6_n10"] = times["all_cores"][0]
    detail["client_1e6_n10_ms"] = {name: {"cpu": cpu, "wall": wall} for name, (cpu, wall) in times.items()}
    wanted = np.sum(drawn, axis=0, dtype=np.float64)
    detail["errors"] = {}
    for bits in (32, 64):
        wide = made if bits == 32 else federation(10, 10**6, bits=64, real_setup=False)
        envelopes = wide.opened({name: wide.upload(name, x) for name, x in zip(wide.pair_keys, drawn, strict=True)})
        total = add(envelopes, announcement=wide.announced, transcript=wide.transcript)
        values, clipped = encoding.decode(total, encoding=wide.encoded)
        bound = wide.encoded.error_most + float(np.abs(wanted).max()) * 2.0**-50  # the float64 judge rounds too
        error = check(values, wanted, bound)
        detail["errors"][f"ring_{bits}"] = {"max_abs": error, "bound": wide.encoded.error_most, "clipped": clipped}
    result["max_abs_error"] = detail["errors"]["ring_32"]["max_abs"]
    float32 = np.abs(aggregate([([x], 1) for x in drawn])[0].astype(np.float64) * 10 - wanted).max()
    detail["errors"]["flower_aggregate_float32"] = {"max_abs": float(float32)}


def bench_server(result, detail):
    made, drawn = federation(10, 10**7, real_setup=False), updates(10, 10**7)
    uploads = {name: made.upload(name, x) for name, x in zip(made.pair_keys, drawn, strict=True)}
    envelopes = made.opened(uploads)
    plain = [([x], 100 + at) for at, x in enumerate(drawn)]
    vectors = [ring.from_bytes(one.blob, dimension=10**7 + 1, bits=32) for one in envelopes.values()]

    def numpy_sum():
        total = drawn[0].copy()
        for x in drawn[1:]:
            np.add(total, x, out=total)

    times = interleaved(
        5,
        add_and_decode=lambda: made.mean(envelopes),
        flower_aggregate=lambda: aggregate(plain),
        open_envelopes=lambda: made.opened(uploads),
        numpy_sum_float32=numpy_sum,
        ring_total=lambda: ring.total(vectors, dimension=10**7 + 1, bits=32),
        sha256_of_blobs=lambda: [hashlib.sha256(one.blob).digest() for one in envelopes.values()],
    )
    check(made.mean(envelopes), np.sum(drawn, axis=0, dtype=np.float64) / 10, 2.0**-24)
    ours, rival = times["add_and_decode"][0], times["flower_aggregate"][0]
    result["server_vs_plain_1e7_n10"] = ours / rival
    detail["server_1e7_n10_ms"] = {name: {"cpu": cpu, "wall": wall} for name, (cpu, wall) in times.items()}
    detail["server_1e7_n10_ms"]["with_signatures_and_hashes_vs_plain"] = (ours + times["open_envelopes"][0]) / rival
    detail["server_1e7_n10_ms"]["ring_total_vs_numpy_sum"] = times["ring_total"][0] / times["numpy_sum_float32"][0]


def bench_flower_secagg(result, detail):
    result["client_vs_flower_secagg"], result["server_vs_flower_secagg"] = {}, {}
    for n, dimension, repetitions in ((10, 10**6, 5), (50, 10**5, 2)):
        made, drawn = federation(n, dimension), updates(n, dimension)
        names = made.announced.hospitals
        wanted = np.mean(drawn, axis=0, dtype=np.float64)
        theirs_client, theirs_server, stages, ours_client, ours_server = [], [], [], [], []
        for _ in range(repetitions):
            mean, spent, server_s = flower_secagg.run(drawn, clipping_range=2.0**-RANGE_BITS)
            their_error = check(mean, wanted, 2.0**-20)
            theirs_client.append(sum(spent.values()) * 1e3)
            theirs_server.append(server_s * 1e3)
            stages.append(spent)
            per_client, uploads = [], {}
            for name, x in zip(names, drawn, strict=True):
                began = time.process_time()
                uploads[name] = made.upload(name, x)
                per_client.append((time.process_time() - began) * 1e3)
            ours_client.append(median(per_client))
            for _ in range(3):
                began = time.process_time()
                mean = made.mean(made.opened(uploads))
                ours_server.append((time.process_time() - began) * 1e3)
            our_error = check(mean, wanted, 2.0**-24)
        client, server = median(ours_client), median(ours_server)
        result["client_vs_flower_secagg"][f"n{n}"] = client / median(theirs_client)
        result["server_vs_flower_secagg"][f"n{n}"] = server / median(theirs_server)
        detail[f"flower_secagg_n{n}"] = {
            "parameters": dimension,
            "repetitions": repetitions,
            "client_ms": {"ours": client, "theirs": median(theirs_client), "ours_setup_once_a_run": made.setup_ms},
            "client_ratio_with_a_setup_every_round": (client + made.setup_ms) / median(theirs_client),
            "their_stages_ms": {stage: median(spent[stage] for spent in stages) * 1e3 for stage in stages[0]},
            "server_ms": {"ours": server, "theirs": median(theirs_server)},
            "max_abs_error_of_mean": {"ours": our_error, "theirs": their_error},
            "messages_a_round": {"ours": 1, "theirs": 4},
        }


def bench_growth(detail):
    detail["growth"] = []
    for n, dimension, real in ((3, 10**6, True), (10, 10**6, True), (50, 10**6, True), (200, 10**5, False)):
        made, drawn = federation(n, dimension, real_setup=real), updates(min(n, 4), dimension)
        given = [drawn[at % len(drawn)] for at in range(n)]
        uploads = {name: made.upload(name, x) for name, x in zip(made.pair_keys, given, strict=True)}
        envelopes = made.opened(uploads)
        me = made.announced.hospitals[n // 2]
        times = interleaved(
            5,
            client=lambda made=made, me=me, one=given[n // 2]: made.masked(me, one),
            upload=lambda made=made, me=me, one=given[n // 2]: made.upload(me, one),
            opened=lambda made=made, uploads=uploads: made.opened(uploads),
            mean=lambda made=made, envelopes=envelopes: made.mean(envelopes),
        )
        check(made.mean(envelopes), np.mean(given, axis=0, dtype=np.float64), 2.0**-22)
        detail["growth"].append(
            {
                "hospitals": n,
                "parameters": dimension,
                "simulated": not real,
                "setup_client_ms": made.setup_ms,
                "client_encode_and_mask_ms": times["client"][0],
                "client_whole_upload_ms": times["upload"][0],
                "server_signatures_and_hashes_ms": times["opened"][0],
                "server_add_and_decode_ms": times["mean"][0],
                "upload_bytes_ratio": len(uploads[me]) / (4 * dimension),
            }
        )


def bench_keystream(result, detail):
    size, chunk = 9 << 23, ring.CHUNK_BYTES
    source, target = bytes(chunk), bytearray(chunk)
    words, nine = ring.zeros(size // 9 // 4, bits=32), {f"peer{at}": os.urandom(32) for at in range(9)}

    def raw():
        encryptor = Cipher(algorithms.AES256(os.urandom(32)), modes.CTR(bytes(16))).encryptor()
        for _ in range(size // chunk):
            encryptor.update_into(source, target)

    times = interleaved(
        7,
        ours=lambda: masking.add_masks(words, me="me", seeds=nine, bits=32, threads=1),
        raw=raw,
        all_cores=lambda: masking.add_masks(words, me="me", seeds=nine, bits=32),
    )
    result["keystream_gb_per_s"] = size / times["ours"][0] / 1e6
    detail["keystream_gb_per_s"] = {
        "mask_loop_one_thread": result["keystream_gb_per_s"],
        "mask_loop_all_cores_wall": size / times["all_cores"][1] / 1e6,
        "mask_loop_one_thread_wall": size / times["ours"][1] / 1e6,
        "cryptography_update_into": size / times["raw"][0] / 1e6,
        "cryptography_openssl": backend.openssl_version_text(),
        **openssl_speed(),
    }


def openssl_speed():
    program = shutil.which("openssl")
    if program is None:
        return {"openssl_speed": None, "openssl_speed_skipped": "no openssl program on this machine"}
    command = [program, "speed", "-evp", "aes-256-ctr", "-bytes", str(ring.CHUNK_BYTES), "-seconds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    words = (done.stdout.strip().splitlines() or [""])[-1].split()
    if done.returncode or not words or not words[-1].endswith("k"):
        return {"openssl_speed": None, "openssl_speed_skipped": "openssl speed printed no figure"}
    return {"openssl_speed": float(words[-1][:-1]) / 1e6}


def flat(result):
    return {
        key: value[part] if part else value
        for name, value in result.items()
        for key, part in ([(f"{name}.{part}", part) for part in value] if isinstance(value, dict) else [(name, None)])
    }


def show(report, console):
    table = Table(title="Secure sum", title_justify="left")
    for column in ("figure", "measured", "bar", "verdict", "what"):
        table.add_column(column, overflow="fold", justify="right" if column in {"measured", "bar"} else "left")
    for key, value in flat(report["result"]).items():
        bar = report["bars"].get(key)
        verdict = "" if bar is None else "holds" if value <= bar else "MISSED"
        table.add_row(key, f"{value:.4g}", "" if bar is None else f"<= {bar:.4g}", verdict, WHAT.get(key, ""))
    console.print(table)
    growth = Table(title="Growth with the number of hospitals, ms of CPU", title_justify="left")
    for column in report["detail"]["growth"][0]:
        growth.add_column(column.replace("_", " "), justify="right", overflow="fold")
    for row in report["detail"]["growth"]:
        growth.add_row(
            *("" if cell is None else f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row.values())
        )
    console.print(growth)
    console.print_json(json.dumps({key: part for key, part in report["detail"].items() if key != "growth"}))


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--json", action="store_true", help="print the JSON and no table")
    as_json = options.parse_args().json
    progress, began = Console(stderr=True), time.perf_counter()
    result, detail = {}, {}
    for step, arguments in (
        (bench_client, (result, detail)),
        (bench_server, (result, detail)),
        (bench_flower_secagg, (result, detail)),
        (bench_growth, (detail,)),
        (bench_keystream, (result, detail)),
    ):
        progress.print(f"{step.__name__} ...")
        step(*arguments)
    detail["tenseal_ckks"] = tenseal_ckks.run()
    report = {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cores": len(os.sched_getaffinity(0)),
            "load_average": os.getloadavg(),
            "processor": platform.processor() or platform.machine(),
            "python": platform.python_version(),
            "numpy": np.__version__,
        },
        "seconds": round(time.perf_counter() - began, 1),
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "result": result,
        "bars": {**BARS, "max_abs_error": detail["errors"]["ring_32"]["bound"]},
        "what": WHAT,
        "detail": detail,
    }
    report.update(result)  # the keys, at the top
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(report, indent=1) + "\n")
    if as_json:
        sys.stdout.write(json.dumps(report, indent=1) + "\n")
    else:
        show(report, Console())
        progress.print(f"{OUT} after {report['seconds']} s, peak memory {report['peak_memory_mib']} MiB")


if __name__ == "__main__":
    main()
