"""This hospital's own entry on a roster: only with the keys that are here may it be approved."""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.origin import ledger_origin
from common.errors import RosterNotApproved
from common.ledger import note, post_quantum
from common.roster import Roster


def check(
    proposed: Roster, *, name: str, identity: Ed25519PrivateKey, ledger: Ed25519PrivateKey, before: Roster | None
) -> None:
    """Raise RosterNotApproved unless the roster names this hospital with its identity and its ledger keys.

    Whoever put another ledger key there could show a ledger of his own as this hospital's. The second key may be missing
    only where the roster that was approved `before` has none of it either: whoever enrols sends it.
    """
    again = "Enrol again with the coordinator."
    own = proposed.member(name) if name in proposed.names else None
    origin = ledger_origin(name)
    if own is None or (own.identity, own.ledger_key) != (
        identity.public_key().public_bytes_raw().hex(),
        note.key_of(origin, key=ledger).vkey,
    ):
        raise RosterNotApproved("The roster does not hold this hospital's key.", action=again)
    without = before is not None and name in before.names and not before.member(name).ledger_ml_dsa
    if own.ledger_ml_dsa != post_quantum.key_of(origin, key=ledger).vkey and (own.ledger_ml_dsa or not without):
        raise RosterNotApproved("The roster does not hold the second key of this hospital's ledger (ML-DSA-44).", action=again)
