"""What the secure sum is measured on: hospitals with pair keys and one round announced, updates, and interleaved timing."""

import os
import time
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.session import Session, seeds
from common import wire
from common.announcement import Announcement
from common.crypto import encoding, keys, masking, ring
from common.crypto.adding import add
from common.crypto.encoding import Encoding
from common.mechanism import Exact
from common.wire import Envelope

RANGE_BITS = 4  # values below 2**-4: the encoding's scale and the rival's clipping range follow from it


@dataclass(kw_only=True)
class Federation:
    """Hospitals with pair keys, and one round announced to them."""

    announced: Announcement
    encoded: Encoding
    transcript: bytes
    pair_keys: dict
    identities: dict
    setup_ms: float | None

    def upload(self, me, update):
        """What a hospital does in a round, from floats to the bytes that leave."""
        ctx = masking.context(self.transcript, announcement=self.announced.bytes())
        made = seeds(self.pair_keys[me], ctx=ctx, me=me)
        blob = self.masked(me, update, made)
        commitments = {peer: masking.commitment(seed, ctx=ctx) for peer, seed in made.items()}
        body = {"round": 1, "context": ctx.hex(), "commitments": commitments}
        envelope = Envelope(kind="upload", sender=me, recipient="hub", run="bench", body=body, blob=blob)
        return wire.seal(envelope, key=self.identities[me])

    def masked(self, me, update, made=None, threads=None):
        if made is None:
            ctx = masking.context(self.transcript, announcement=self.announced.bytes())
            made = seeds(self.pair_keys[me], ctx=ctx, me=me)
        words = encoding.encode(update, encoding=self.encoded)
        masking.add_masks(words, me=me, seeds=made, bits=self.encoded.bits, threads=threads)
        return ring.to_bytes(words)

    def opened(self, uploads):
        """What the coordinator does with bytes that came in: signatures and hashes."""
        return {
            me: wire.open_envelope(data, key=self.identities[me].public_key(), sender=me, recipient="hub")
            for me, data in uploads.items()
        }

    def mean(self, envelopes):
        """What it does then: checks of contexts and pairs, the sum, and the mean in float32."""
        total = add(envelopes, announcement=self.announced, transcript=self.transcript)
        values, _ = encoding.decode(total, encoding=self.encoded, dtype=np.float32)
        values /= np.float32(len(envelopes))
        return values


def federation(n, dimension, *, bits=32, real_setup=True):
    names = tuple(f"h{at:03d}" for at in range(n))
    scale_bits = bits - 1 - (n - 1).bit_length() + RANGE_BITS
    announced = Announcement(
        run="bench",
        study="0" * 64,
        roster="1" * 64,
        round=1,
        hospitals=names,
        task="train",
        index=0,
        dimension=dimension + 1,
        blob_sha256="2" * 64,
        mechanism=Exact(statistic="update", ring_bits=bits),
    )
    transcript, pair_keys, setup_ms = set_up(names) if real_setup else (b"t" * 32, simulated_pair_keys(names), None)
    return Federation(
        announced=announced,
        encoded=Encoding(bits=bits, scale_bits=scale_bits, hospitals=n),
        transcript=transcript,
        pair_keys=pair_keys,
        identities={name: Ed25519PrivateKey.generate() for name in names},
        setup_ms=setup_ms,
    )


def set_up(names):
    """The product's set-up among all hospitals; also the median CPU of one of them."""
    spent = dict.fromkeys(names, 0.0)

    def timed(name, step):
        started = time.process_time()
        result = step()
        spent[name] += time.process_time() - started
        return result

    setup_keys = {name: timed(name, keys.SetupKey.generate) for name in names}
    public = {name: key.public_bytes() for name, key in setup_keys.items()}
    states, sealed = {}, {}
    for name in names:
        state = Session(run="bench", study="0" * 64, roster="1" * 64, setup_key=setup_keys[name].private_bytes())
        states[name], sealed[name] = timed(name, lambda state=state, name=name: state.with_bundles(public, me=name))
    for name in names:
        inbox = {peer: sealed[peer][name] for peer in names if peer != name}
        states[name] = timed(name, lambda inbox=inbox, name=name: states[name].with_sealed(inbox, me=name))
    transcript = states[names[0]].transcript
    return transcript, {name: state.pair_keys for name, state in states.items()}, median(spent.values()) * 1e3


def simulated_pair_keys(names):
    made = {name: {} for name in names}
    for first, second in combinations(names, 2):
        made[first][second] = made[second][first] = os.urandom(32)
    return made


def updates(n, dimension):
    clip = np.float32(2.0**-RANGE_BITS)
    drawn = []
    for at in range(n):
        one = np.random.default_rng(at).standard_normal(dimension, dtype=np.float32)
        one *= clip / 8
        drawn.append(np.clip(one, -clip, clip, out=one))
    return drawn


def median(values):
    return float(np.median(list(values)))


def interleaved(repetitions, **functions):
    """Run each in turn, several times over: (median CPU ms, median wall ms) by name."""
    cpu, wall = {name: [] for name in functions}, {name: [] for name in functions}
    for _ in range(repetitions):
        for name, function in functions.items():
            cpu_began, wall_began = time.process_time(), time.perf_counter()
            function()
            cpu[name].append((time.process_time() - cpu_began) * 1e3)
            wall[name].append((time.perf_counter() - wall_began) * 1e3)
    return {name: (median(cpu[name]), median(wall[name])) for name in functions}


def check(values, wanted, allowed):
    error = float(np.abs(values - wanted).max())
    if not error <= allowed:
        raise SystemExit(f"a sum is wrong by {error:.3g}, allowed {allowed:.3g}: no figure is worth reading")
    return error
