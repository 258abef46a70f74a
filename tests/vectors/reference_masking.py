"""A second, plain implementation of pair keys and masks: Python integers, hashlib and hmac; writes masking.json when run."""

import hashlib
import hmac
import json
from pathlib import Path

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

FILE = Path(__file__).with_name("masking.json")


def prefixed(*parts):
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def h(*parts):
    return hashlib.sha256(prefixed(*parts)).digest()


def hkdf_expand(key, info, size=32):
    """RFC 5869, 2.3."""
    out, block, number = b"", b"", 1
    while len(out) < size:
        block = hmac.new(key, block + info + bytes([number]), hashlib.sha256).digest()
        out, number = out + block, number + 1
    return out[:size]


def hkdf(salt, secret, info):
    """RFC 5869, 2.2 and 2.3."""
    return hkdf_expand(hmac.new(salt, secret, hashlib.sha256).digest(), info)


def transcript(bundles, roster_hash, run):
    named = [part for name in sorted(bundles) for part in (name.encode(), bundles[name])]
    return h(b"motet/transcript/v1", bytes.fromhex(roster_hash), run.encode(), *named)


def pair_key(t, first, secret_of_first, second, secret_of_second):
    low, high = sorted([(first, secret_of_first), (second, secret_of_second)])
    return hkdf(t, low[1] + high[1], b"motet/pair/v1" + h(low[0].encode(), high[0].encode()))


def ratchet(key, steps):
    for _ in range(steps):
        key = hkdf_expand(key, prefixed(b"motet/ratchet/v1"))
    return key


def seed(key, ctx, first, second):
    low, high = sorted([first.encode(), second.encode()])
    return hkdf_expand(key, prefixed(b"motet/mask/v1", ctx, low, high))


def stream(seed_bytes, dimension, bits):
    """AES-256-CTR from an ECB block at a time: the counter is a 128-bit big-endian integer."""
    key = hkdf_expand(seed_bytes, prefixed(b"motet/prg/v1"), 48)
    block = Cipher(algorithms.AES(key[:32]), modes.ECB()).encryptor()
    start, size = int.from_bytes(key[32:], "big"), dimension * bits // 8
    counters = [((start + at) % 2**128).to_bytes(16, "big") for at in range((size + 15) // 16)]
    data = b"".join(block.update(counter) for counter in counters)[:size]
    return [int.from_bytes(data[at : at + bits // 8], "little") for at in range(0, size, bits // 8)]


def mask(values, me, seeds, bits):
    out = [value % 2**bits for value in values]
    for peer, seed_bytes in seeds.items():
        sign = 1 if me < peer else -1
        out = [(one + sign * other) % 2**bits for one, other in zip(out, stream(seed_bytes, len(out), bits), strict=True)]
    return out


def to_bytes(words, bits):
    return b"".join(word.to_bytes(bits // 8, "little") for word in words)


def signed(word, bits):
    return word - 2**bits if word >= 2 ** (bits - 1) else word


def made():
    """Inputs written out, and everything that follows from them."""
    names = ["aalen", "berlin", "cadiz", "dijon"]
    bundles = {name: hashlib.sha512(name.encode()).digest() for name in names}
    roster_hash, run, round_number = "ab" * 32, "run0", 5
    announcement = b'{"round":5,"task":"gram"}'
    t = transcript(bundles, roster_hash, run)
    ctx = h(b"motet/context/v1", t, announcement)
    pairs = {}
    for at, first in enumerate(names):
        for second in names[at + 1 :]:
            one, other = (hashlib.sha256(f"{a}>{b}".encode()).digest() for a, b in ((first, second), (second, first)))
            key = pair_key(t, first, one, second, other)
            s = seed(ratchet(key, round_number), ctx, first, second)
            pairs[f"{first} {second}"] = {
                "secrets": [one.hex(), other.hex()],
                "pair_key": key.hex(),
                "seed": s.hex(),
                "commitment": h(b"motet/commit/v1", s, ctx).hex(),
            }
    rings = {}
    for bits in (32, 64, 128):
        top = 2 ** (bits - 1)
        values = {name: [at, -at - 1, top - 1, -top, top // 3 * (-1) ** at] for at, name in enumerate(names)}
        uploads = {}
        for name in names:
            seeds = {peer: bytes.fromhex(pairs[" ".join(sorted([name, peer]))]["seed"]) for peer in names if peer != name}
            uploads[name] = to_bytes(mask(values[name], name, seeds, bits), bits).hex()
        total = [signed(sum(column) % 2**bits, bits) for column in zip(*values.values(), strict=True)]
        rings[str(bits)] = {
            "values": {name: [str(value) for value in row] for name, row in values.items()},
            "uploads": uploads,
            "sum": [str(value) for value in total],
        }
    return {
        "bundles": {name: data.hex() for name, data in bundles.items()},
        "roster_hash": roster_hash,
        "run": run,
        "round": round_number,
        "announcement": announcement.decode(),
        "transcript": t.hex(),
        "context": ctx.hex(),
        "pairs": pairs,
        "rings": rings,
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(made(), indent=1, sort_keys=True) + "\n")
