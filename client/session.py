"""One run's secrets at one hospital: pair keys, round counter, answered requests. On disk and synced before anything leaves."""

import hashlib
import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from common import files
from common.crypto import keys, masking
from common.errors import BadEnvelope, ContextMismatch, RoundRepeated, SetupMissing

RUN = re.compile(r"[a-z0-9]{1,64}")
ROUNDS_AHEAD_MOST = 1000


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Session:
    """The state of one run. Frozen: a step returns the next state, and the vault saves it before it sends.

    A state that was lost needs a new set-up. A state that was restored without its ledger is refused by the ledger. A restored
    copy of the whole folder is not noticed here: after any restore, delete the run files (see client/README.md).
    """

    run: str
    study: str
    roster: str
    setup_key: bytes = b""  # erased when the pair keys are made
    sent_secrets: dict[str, bytes] = field(default_factory=dict)  # erased likewise
    transcript: bytes = b""
    pair_keys: dict[str, bytes] = field(default_factory=dict)
    pair_rounds: dict[str, int] = field(default_factory=dict)
    last_round: int = 0
    noisy_rounds: int = 0  # of training
    noisy_grams: int = 0
    noisy_scores: int = 0
    requests: dict[str, str] = field(default_factory=dict)  # round -> SHA-256 of the announcement envelope
    models: tuple[str, ...] = ()  # SHA-256 of the models that were trained on here, in order

    def keyed(self) -> bool:
        """Tell whether the pair keys are there."""
        return bool(self.pair_keys)

    def closed(self) -> bool:
        """Tell whether the coordinator has closed the run: no secret is left."""
        return not self.pair_keys and not self.setup_key

    def with_bundles(self, bundles: dict[str, bytes], *, me: str) -> tuple[Self, dict[str, bytes]]:
        """Set-up step 2: return the state and one sealed secret per peer; raises when set-up was already past this step."""
        if not self.setup_key or self.sent_secrets:
            raise SetupMissing("Set-up is not at this step.", action="Start a new run.")
        own = keys.SetupKey.from_bytes(self.setup_key).public_bytes()
        if bundles.get(me) != own:
            raise ContextMismatch("The coordinator shows another setup key for this hospital.", action="Start a new run.")
        t = keys.transcript(bundles, roster_hash=self.roster, run=self.run)
        secrets = {peer: keys.fresh_secret() for peer in bundles if peer != me}
        sealed = {
            peer: keys.seal(secret, public=bundles[peer], info=keys.seal_info(t, sender=me, recipient=peer))
            for peer, secret in secrets.items()
        }
        return replace(self, transcript=t, sent_secrets=secrets), sealed

    def with_sealed(self, inbox: dict[str, bytes], *, me: str) -> Self:
        """Set-up step 3: return the state with one pair key per peer; ephemeral secrets are erased."""
        if not self.setup_key or set(inbox) != set(self.sent_secrets):
            raise SetupMissing("Set-up is not at this step, or a peer's secret is missing.", action="Start a new run.")
        own = keys.SetupKey.from_bytes(self.setup_key)
        pairs: dict[str, bytes] = {}
        for peer, sealed in inbox.items():
            received = own.unseal(sealed, info=keys.seal_info(self.transcript, sender=peer, recipient=me))
            pairs[peer] = keys.pair_key(self.transcript, secrets={me: self.sent_secrets[peer], peer: received})
        return replace(self, setup_key=b"", sent_secrets={}, pair_keys=pairs, pair_rounds=dict.fromkeys(pairs, 0))

    def with_round(self, number: int, *, hospitals: tuple[str, ...], me: str, request: bytes) -> tuple[Self, dict[str, bytes]]:
        """Return the state after round `number`, and the named peers' keys of that round, which the state no longer holds.

        The saved keys are one step further: who takes the vault's disk cannot open what it has sent.
        Raises RoundRepeated when `number` is not above the last round answered or jumps too far, SetupMissing without keys
        for a peer.
        """
        if not self.last_round < number <= self.last_round + ROUNDS_AHEAD_MOST:
            raise RoundRepeated("The round was answered already, or is too far ahead.", action="Announce the next round.")
        peers = [name for name in hospitals if name != me]
        if not set(peers) <= set(self.pair_keys):
            raise SetupMissing("A hospital in the round took no part in this run's set-up.", action="Start a new run.")
        used = {peer: masking.ratchet(self.pair_keys[peer], steps=number - self.pair_rounds[peer]) for peer in peers}
        after = {peer: masking.ratchet(key, steps=1) for peer, key in used.items()}
        state = replace(
            self,
            pair_keys={**self.pair_keys, **after},
            pair_rounds={**self.pair_rounds, **dict.fromkeys(peers, number + 1)},
            last_round=number,
        )
        return state.with_request(str(number), request), used

    def erased(self) -> Self:
        """Return the state without any secret."""
        return replace(self, pair_keys={}, pair_rounds={}, setup_key=b"", sent_secrets={})

    def with_request(self, label: str, request: bytes) -> Self:
        """Return the state that remembers which request was answered under `label`."""
        return replace(self, requests={**self.requests, label: hashlib.sha256(request).hexdigest()})

    def answered(self, label: str, request: bytes) -> bool:
        """Tell whether exactly this request was answered under `label`; raises RoundRepeated when another one was."""
        before = self.requests.get(label)
        if before is not None and before != hashlib.sha256(request).hexdigest():
            raise RoundRepeated("Another request was answered in this place.", action="Announce a higher round.")
        return before is not None

    def save(self, folder: Path) -> None:
        """Write the state, 0600, synced to disk before it returns."""
        files.write(state_path(folder, run=self.run), self._bytes(), private=True)

    def save_with(self, folder: Path, *, reply: bytes, label: str) -> None:
        """Write the reply that was made under `label`, then the state, both 0600, synced to disk before it returns."""
        files.write_together(
            {
                reply_path(folder, run=self.run, label=label): reply,
                state_path(folder, run=self.run): self._bytes(),
            },
            private=True,
        )

    def _bytes(self) -> bytes:
        plain = {
            "run": self.run,
            "study": self.study,
            "roster": self.roster,
            "setup_key": self.setup_key.hex(),
            "sent_secrets": _hex(self.sent_secrets),
            "transcript": self.transcript.hex(),
            "pair_keys": _hex(self.pair_keys),
            "pair_rounds": self.pair_rounds,
            "last_round": self.last_round,
            "noisy_rounds": self.noisy_rounds,
            "noisy_grams": self.noisy_grams,
            "noisy_scores": self.noisy_scores,
            "requests": self.requests,
            "models": list(self.models),
        }
        return json.dumps(plain).encode()


def seeds(pair_keys: dict[str, bytes], *, ctx: bytes, me: str) -> dict[str, bytes]:
    """Return s_ij for every peer in `pair_keys`, the keys of the round."""
    return {peer: masking.seed(key, ctx=ctx, pair=(me, peer)) for peer, key in pair_keys.items()}


def load(folder: Path, *, run: str) -> Session:
    """Read the state of `run`; raises SetupMissing when there is none or it cannot be read."""
    try:
        plain: dict[str, Any] = json.loads(state_path(folder, run=run).read_bytes())
        return Session(
            run=plain["run"],
            study=plain["study"],
            roster=plain["roster"],
            setup_key=bytes.fromhex(plain["setup_key"]),
            sent_secrets=_unhex(plain["sent_secrets"]),
            transcript=bytes.fromhex(plain["transcript"]),
            pair_keys=_unhex(plain["pair_keys"]),
            pair_rounds=plain["pair_rounds"],
            last_round=plain["last_round"],
            noisy_rounds=plain["noisy_rounds"],
            noisy_grams=plain["noisy_grams"],
            noisy_scores=plain["noisy_scores"],
            requests=plain["requests"],
            models=tuple(plain["models"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise SetupMissing("There is no set-up of this run here.", action="Start a new run.") from None


def exists(folder: Path, *, run: str) -> bool:
    """Tell whether a state of `run` is on disk."""
    return state_path(folder, run=run).exists()


def reply_path(folder: Path, *, run: str, label: str) -> Path:
    """Return where the reply that was made under `label` is kept."""
    return state_path(folder, run=run).with_name(f"{run}-{label}.reply")


def state_path(folder: Path, *, run: str) -> Path:
    """Return where the state of `run` is kept."""
    if not RUN.fullmatch(run):
        raise BadEnvelope("A run's name is malformed.", action="Start a new run.")
    return folder / f"{run}.run.json"


def _hex(values: dict[str, bytes]) -> dict[str, str]:
    return {name: value.hex() for name, value in values.items()}


def _unhex(values: dict[str, str]) -> dict[str, bytes]:
    return {name: bytes.fromhex(value) for name, value in values.items()}
