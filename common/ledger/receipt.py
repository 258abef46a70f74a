"""The receipt: proof that a release was charged before anything left."""

from dataclasses import dataclass

from common.mechanism import Mechanism


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What `Ledger.reserve` returns and `mask` demands."""

    reservation: str  # "<run>/<round>/<hospital>"
    study: str  # study hash, 64 hex digits
    mechanism: Mechanism
    sequence: int  # number of the reserve entry
