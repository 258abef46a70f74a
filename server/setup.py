"""Set-up: pair keys between all hospitals, once per run. The coordinator passes signed bundles on and sees no secret."""

from dataclasses import dataclass

from common.crypto import keys
from common.errors import BadEnvelope, HospitalMissing
from common.wire import Envelope
from server.exchange import Exchange

BUNDLES, SEALED = "setup", "sealed"
SEALED_HEX_MOST = 1 << 13


@dataclass(frozen=True, slots=True, kw_only=True)
class SetUp:
    """What the coordinator knows of a run's pair keys: their transcript, and each hospital's sealed shares for the others."""

    transcript: bytes
    sealed: dict[str, bytes]  # whole signed envelopes, to be passed on

    @property
    def members(self) -> tuple[str, ...]:
        """Return the hospitals that agreed on keys, sorted."""
        return tuple(sorted(self.sealed))


def set_up(exchange: Exchange) -> SetUp:
    """Agree on pair keys with every hospital that answers; raises HospitalMissing when too few do.

    What was agreed in an earlier life of this coordinator is taken from the run's folder: the hospitals see the same requests.
    """
    place = exchange.place(BUNDLES)
    invited = [event for event in exchange.journal.events() if event["type"] == "invited"]
    exchange.say("stage", stage="set-up 1 of 2: hospitals open the study")
    asked = tuple(invited[-1]["hospitals"]) if invited else exchange.roster.names
    body, shown = {"study": exchange.study.hash(), "roster": exchange.roster.hash()}, exchange.shown
    invited_by = {name: {**body, **shown.get(name, {})} for name in asked}
    answered = exchange.ask("invite", invited_by, kind="bundle", part=BUNDLES)
    setup_keys = {name: key for name, reply in answered.items() if (key := _setup_key(exchange, name, reply))}
    exchange.enough(tuple(setup_keys))
    if not invited:
        invited = [exchange.say("invited", hospitals=sorted(setup_keys), witnessed=exchange.seen(setup_keys))]
    if "witnessed" in invited[-1]:  # a ledger may grow between the two requests, and shows that out of the newest that was seen
        shown = {name: {"witnessed": [text]} for name, text in invited[-1]["witnessed"].items()}
    transcript = keys.transcript(setup_keys, roster_hash=exchange.roster.hash(), run=exchange.run)
    exchange.say("stage", stage="set-up 2 of 2: pair keys")
    bundles = {"bundles": {name: (place / f"{name}.envelope").read_bytes().hex() for name in setup_keys}}
    requests = {name: {**bundles, **shown.get(name, {})} for name in setup_keys}
    replies = exchange.ask("keys", requests, kind="sealed", part=SEALED)
    whole = [name for name, reply in replies.items() if _seals_for_all(reply, set(setup_keys) - {name})]
    if late := sorted(set(setup_keys) - set(whole)):
        raise HospitalMissing(f"Set-up did not finish: {', '.join(late)}.", action="Start the study again.")
    return SetUp(
        transcript=transcript,
        sealed={name: (exchange.place(SEALED) / f"{name}.envelope").read_bytes() for name in whole},
    )


def _setup_key(exchange: Exchange, name: str, reply: Envelope) -> bytes | None:
    try:
        public = bytes.fromhex(reply.body["setup_key"])
        keys.public_key(public)
        if set(reply.body) - {"ledger"} != {"setup_key"}:
            raise BadEnvelope("A bundle holds more than a key.", action="Ask the hospital.")
    except (ValueError, KeyError, TypeError, BadEnvelope):
        exchange.say("missing", step="invite", codes={name: BadEnvelope.code})
        (exchange.place(BUNDLES) / f"{name}.envelope").unlink()
        return None
    return public


def _seals_for_all(reply: Envelope, peers: set[str]) -> bool:
    sealed = reply.body.get("sealed")
    if not isinstance(sealed, dict) or set(sealed) != peers or set(reply.body) - {"ledger"} != {"sealed"}:
        return False
    return all(isinstance(text, str) and len(text) <= SEALED_HEX_MOST for text in sealed.values())
