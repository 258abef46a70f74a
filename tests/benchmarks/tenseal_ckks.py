"""TenSEAL's CKKS as a rival: optional, in a Python environment of its own that MOTET_TENSEAL_PYTHON names."""

import json
import os
import subprocess
import sys

VARIABLE = "MOTET_TENSEAL_PYTHON"
CHILD = """
import json, os, struct, time
import tenseal

VALUES, SLOTS, HOSPITALS = 100_000, 4096, 10
context = tenseal.context(tenseal.SCHEME_TYPE.CKKS, poly_modulus_degree=8192, coeff_mod_bit_sizes=[60, 40, 40])
context.global_scale = 2.0**40
drawn = [value / 2**36 for value in struct.unpack(f"<{VALUES}i", os.urandom(4 * VALUES))]
parts = [drawn[at : at + SLOTS] for at in range(0, VALUES, SLOTS)]
times, clock = {}, time.process_time

def timed(name, step):
    began = clock()
    result = step()
    times[name] = (clock() - began) * 1e3
    return result

encrypted = timed("client_encrypt", lambda: [tenseal.ckks_vector(context, part) for part in parts])
sent = timed("client_serialise", lambda: [one.serialize() for one in encrypted])
read = timed("server_deserialise_one", lambda: [tenseal.ckks_vector_from(context, data) for data in sent])

def add():
    total = [one.copy() for one in read]
    for _ in range(HOSPITALS - 1):
        for sum_of_part, one in zip(total, read):
            sum_of_part += one
    return total

total = timed("server_add_10", add)
opened = timed("decrypt", lambda: [value for one in total for value in one.decrypt()])
error = max(abs(value - HOSPITALS * wanted) for value, wanted in zip(opened, drawn))
print(json.dumps({"parameters": VALUES, "ms": times, "upload_bytes_ratio": sum(map(len, sent)) / (4 * VALUES),
                  "max_abs_error": error, "version": tenseal.__version__}))
"""


def run():
    """Return the figures for 1e5 parameters and 10 hospitals, or why there are none."""
    python = os.environ.get(VARIABLE)
    if not python:
        return _skipped(f"{VARIABLE} does not name a Python with tenseal (it needs an environment of its own)")
    try:
        done = subprocess.run([python, "-c", CHILD], capture_output=True, text=True, timeout=120, check=False)
        return json.loads(done.stdout)
    except (OSError, subprocess.TimeoutExpired, ValueError):
        return _skipped(f"the Python that {VARIABLE} names could not run it")


def _skipped(reason):
    sys.stderr.write(f"TenSEAL CKKS skipped: {reason}\n")
    return {"skipped": reason}
