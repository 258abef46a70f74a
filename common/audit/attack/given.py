"""Results of attacks as `--json` printed them, read back for the report: judged again by their numbers, signed by nobody."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from common.audit.attack.check import CHECKS_MOST, LEVEL
from common.errors import ConfigError, RecordDamaged

ATTACKS: Final = ("conformance", "one-run", "membership", "inversion")
FILE_BYTES_MOST: Final = 1 << 20
LETTERS_MOST: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One check: what was claimed, what was seen, and whether that holds."""

    name: str
    claim: str
    seen: str
    holds: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Attacked:
    """What one attack found, and the SHA-256 of the file that says it."""

    attack: str
    sha256: str
    checks: tuple[Found, ...]

    def plain(self) -> dict[str, Any]:
        """Return it as canonical JSON holds it."""
        checks = [{"name": one.name, "claim": one.claim, "seen": one.seen, "holds": one.holds} for one in self.checks]
        return {"attack": self.attack, "sha256": self.sha256, "checks": checks, "holds": all(one.holds for one in self.checks)}


def read(paths: Sequence[Path]) -> list[Attacked]:
    """Read what the attacks printed with --json, in the order of their names.

    Raises ConfigError where a file cannot be read or an attack is given twice; RecordDamaged where it is no such result, or
    its verdict is not that of its own numbers.
    """
    found: dict[str, Attacked] = {}
    for path in paths:
        try:
            with path.open("rb") as file:
                data = file.read(FILE_BYTES_MOST + 1)
        except OSError as error:
            raise ConfigError(f"{path} cannot be read ({error.strerror}).", action="Check the path.") from None
        try:
            one = _parse(data)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            raise RecordDamaged(
                f"{path.name} is no result of an attack, or contradicts itself.",
                action="Give what `motet-audit attack` or `motet-hospital attack` printed with --json.",
            ) from None
        if one.attack in found:
            raise ConfigError(f"The attack {one.attack} is given twice.", action="Give the newest result of each attack.")
        found[one.attack] = one
    return [found[name] for name in sorted(found)]


def _parse(data: bytes) -> Attacked:
    plain = json.loads(data) if len(data) <= FILE_BYTES_MOST else None
    if not isinstance(plain, dict) or plain["attack"] not in ATTACKS:
        raise ValueError("not an attack")
    checks = tuple(_read_from(plain) if plain["attack"] == "inversion" else _checks(plain["checks"]))
    if not 1 <= len(checks) <= CHECKS_MOST or plain["holds"] is not all(one.holds for one in checks):
        raise ValueError("another verdict")
    return Attacked(attack=plain["attack"], sha256=hashlib.sha256(data).hexdigest(), checks=checks)


def _checks(plain: Any) -> list[Found]:  # noqa: ANN401
    found = []
    for one in plain:
        p = _number(one["p"])
        if not 0 <= p <= 1 or one["holds"] is not (p >= LEVEL):
            raise ValueError("another verdict")
        found.append(Found(name=_text(one["name"]), claim=_text(one["claim"]), seen=_text(one["seen"]), holds=one["holds"]))
    return found


def _read_from(plain: dict[str, Any]) -> list[Found]:
    """Return the images that were read as checks: of what leaves, none may be nearer the scan than a blank guess."""
    blank = _number(plain["blank_db"])
    if math.isinf(blank):  # a bound that nothing could pass
        raise ValueError("no bound")
    found = []
    for one in plain["read"]:
        db, leaves = _number(one["psnr_db"]), one["leaves"]
        if type(leaves) is not bool:
            raise TypeError("not a result")
        claim = f"at most {blank:.1f} dB, a blank guess" if leaves else "never leaves"
        found.append(Found(name=_text(one["name"]), claim=claim, seen=f"{db:.1f} dB", holds=not leaves or db <= blank))
    return found


def _number(value: object) -> float:
    if type(value) not in {int, float} or math.isnan(float(value)):  # type: ignore[arg-type]
        raise TypeError("not a number")
    return float(value)  # type: ignore[arg-type]


def _text(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= LETTERS_MOST or not value.isprintable():
        raise TypeError("not a text")
    return value
