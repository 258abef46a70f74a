"""What this hospital saw of ledgers, its own and others': it cosigns what grew, and answers nothing on one that shrank."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.ledger import Ledger
from common import files
from common.errors import BadEnvelope, LedgerRewritten, RecordDamaged
from common.ledger import note, witness
from common.roster import Roster

NOTES_MOST: Final = 4  # checkpoints of its own ledger that a request may show a hospital
NAME: Final = "witnessed.json"

log = logging.getLogger("motet.vault")


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """The newest checkpoint of this ledger that was passed on, and of each other hospital's the newest cosigned here."""

    own: str = ""
    others: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what was saved; nothing where nothing was. Raises RecordDamaged."""
        try:
            plain = json.loads((folder / NAME).read_bytes())
            return cls(own=str(plain["own"]), others={str(name): str(text) for name, text in plain["others"].items()})
        except FileNotFoundError:
            return cls()
        except (ValueError, KeyError, TypeError, AttributeError):
            raise RecordDamaged(
                f"{NAME} is damaged.", action="Restore it with the ledger: it says which ledger others have seen."
            ) from None

    def save(self, folder: Path) -> None:
        """Write it, 0600, synced to disk before it returns."""
        plain = {"own": self.own, "others": dict(self.others)}
        files.write(folder / NAME, json.dumps(plain, sort_keys=True).encode(), private=True)

    def check(self, ledger: Ledger) -> None:
        """Raise LedgerRewritten when the ledger is older than, or another one than, what others cosigned."""
        if self.own:
            ledger.check_covers(self.own.encode())

    def cosign(
        self, links: object, *, me: str, ledger: Ledger, roster: Roster, key: Ed25519PrivateKey, now: int, evidence: Path
    ) -> tuple[Self, dict[str, str]]:
        """Return the memory after what the coordinator passed on, and this hospital's cosignatures, by hospital.

        A hospital whose ledger contradicts what was seen of it here is not cosigned, and keeps none of the others from it: both
        checkpoints are then in a file in `evidence`, and a line in the log; of a note that its key did not sign only the line.
        Raises LedgerRewritten where it is this hospital's
        own, BadEnvelope on anything malformed. Who was never seen before is believed.
        """
        try:
            shown = [(str(name), list(chain)) for name, chain in links.items()]  # type: ignore[attr-defined]
            after, lines = self, {}
            for name, chain in shown:
                if name == me:
                    newest = str(chain[-1]["note"])
                    size = ledger.check_covers(newest.encode())
                    if not self.own or size >= ledger.check_covers(self.own.encode()):
                        after = replace(after, own=newest)
                elif name in roster.names:
                    try:
                        seen = _followed(self.others.get(name), chain, hospital=name, roster=roster, evidence=evidence)
                    except RecordDamaged as error:
                        said = "ledger-contradicts" if isinstance(error, LedgerRewritten) else "ledger-unsigned"
                        log.error(said, extra={"hospital": name, "code": error.code})  # noqa: TRY400
                        continue
                    if seen is not None:
                        after = replace(after, others={**after.others, name: seen})
                        lines[name] = witness.cosign(seen.encode(), name=me, key=key, now=now)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError):
            raise BadEnvelope(
                "What was passed on of ledgers is malformed.", action="Check the coordinator's version."
            ) from None
        return after, lines


def claims(shown: object, *, ledger: Ledger) -> tuple[int, ...]:
    """Return the sizes of the checkpoints of this ledger that a request shows; raises LedgerRewritten when it has shrunk."""
    if shown is None:
        return ()
    if not isinstance(shown, list) or len(shown) > NOTES_MOST or not all(isinstance(text, str) for text in shown):
        raise BadEnvelope("A request shows malformed checkpoints.", action="Check the coordinator's version.")
    return tuple(sorted({ledger.check_covers(text.encode()) for text in shown}))


def _followed(before: str | None, chain: list[dict[str, Any]], *, hospital: str, roster: Roster, evidence: Path) -> str | None:
    """Return the newest note that a chain of links leads to from what was seen before; None where it does not reach it."""
    key = note.parse_key(roster.member(hospital).ledger_key)
    if before is None or not witness.signed_by(before.encode(), key=key):  # never seen, or enrolled anew under another key
        newest = str(chain[-1]["note"])
        witness.checkpoint(newest.encode(), key=key)
        return newest
    held, seen = before, witness.checkpoint(before.encode(), key=key)
    for link in chain:
        new = witness.checkpoint(link["note"].encode(), key=key)
        try:
            if new.size == seen.size:
                witness.check_grown(seen, new, proof=())
                held = link["note"]
            elif link["from"] == seen.size:
                witness.check_grown(seen, new, proof=witness.path(link["path"]))
                held, seen = link["note"], new
        except LedgerRewritten:
            lines = [json.dumps({"hospital": hospital, "note": text}).encode() + b"\n" for text in (held, link["note"])]
            files.write(evidence / f"evidence-{hospital}-{new.size}.jsonl", b"".join(lines), private=True)
            raise
    return held if held != before else None
