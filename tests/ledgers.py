"""Small ledgers, rosters, studies and bundles for the tests; real keys, real files, nothing mocked."""

from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.ledger import Ledger
from common import roster as rosters
from common.audit import bundle
from common.ledger import events, merkle, note
from common.ledger.events import Event, Kind
from common.mechanism import Exact, Mechanism, SampledStep
from common.roster import Member, Roster
from common.study import Study

HOSPITALS = ("aalen", "berlin", "cadiz")
ORIGIN = "motet.example/ledger/aalen"
CAP, DELTA = Decimal(8), Decimal("1e-5")


def key(number: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)


LEDGER_KEY = key(1)


def kinds(ledger: Ledger) -> list[Kind]:
    return [events.decode(line).kind for line in ledger.entries()]


def give_back(ledger: Ledger, reservation: str, *, reason: str = "hospital-missing") -> None:
    """Write the entry `abort`, which the format knows and Motet's own vault never writes."""
    ledger._move(reservation, Kind.ABORT, reason=reason)


def clock() -> int:
    return 1_795_340_123


def study(*, steps: int = 30, noise: str = "1.5", rate: str = "0.25", delta: str = "1e-5") -> Study:
    number = {"source": "image", "unit": "mm", "lower": "0", "upper": "100"}
    return Study.model_validate(
        {
            "name": "lesions",
            "title": "Lesions of the lung",
            "purpose": "lesion-cnn",
            "hospitals_min": 2,
            "patience_s": 60,
            "carrier": "stream",
            "variables": [{"name": "length_mm", **number}, {"name": "depth_mm", **number}, {"name": "grade", **number}],
            "statistics": {
                "correlation": ["length_mm", "depth_mm"],
                "regression": {"outcome": "grade", "predictors": ["length_mm"]},
            },
            "recipe": {
                "modality": "CT",
                "spacing_mm": "1",
                "denoise": "none",
                "denoise_mm": "0",
                "window_lower": "-1000",
                "window_upper": "400",
                "patch_voxels": 32,
                "edge_channel": False,
            },
            "privacy": {
                "noise_multiplier": noise,
                "clip_norm": "1",
                "sampling_rate": rate,
                "delta": delta,
                "colluders": 1,
                "rounds_void_allowed": 2,
            },
            "training": {
                "model": "cnn2d",
                "recipe": "head",
                "prior_sha256": "0" * 64,
                "label": "grade",
                "positive_above": "3",
                "steps": steps,
                "learning_rate": "0.1",
                "optimiser": {"kind": "momentum", "momentum": "0.9"},
                "schedule": {"kind": "constant"},
                "average": {"kind": "second-half"},
                "views_per_patient_max": 4,
                "augmentations": 0,
                "patients_per_step_max": 64,
                "patients_declared": 400,
                "held_out_fraction": "0.2",
                "score_bins": 64,
                "auc_drop_max": "1",
            },
        }
    )


def share(*, noise: str = "1.5", rate: str = "0.25", bits: int = 20, dimension: int = 1000) -> SampledStep:
    return SampledStep(
        noise_multiplier=Decimal(noise),
        clip_norm=Decimal(1),
        sampling_rate=Decimal(rate),
        hospitals=3,
        colluders=1,
        dimension=dimension,
        patients_per_step_max=64,
        share_bits=bits,
        ring_bits=32,
    )


GRAM = Exact(statistic="gram", ring_bits=128)
HASH = study().hash()


def roster(*, ledger_key: Ed25519PrivateKey = LEDGER_KEY) -> Roster:
    members = tuple(
        Member(
            name=name,
            identity=key(10 + number).public_key().public_bytes_raw().hex(),
            ledger_key=note.key_of(f"motet.example/ledger/{name}", key=ledger_key if number == 0 else key(20 + number)).vkey,
            node_key="ssh-ed25519 AAAA",
            relay_certificate="",
        )
        for number, name in enumerate(HOSPITALS)
    )
    return rosters.sign(federation="demo", coordinator="lead", key=key(9), members=members)


def create(path: Path, *, plan: Study | None = None) -> Ledger:
    ledger = Ledger.create(path, origin=ORIGIN, key=LEDGER_KEY, clock=clock)
    plan = plan or study()
    ledger.record_policy({"epsilon_cap": CAP, "delta_cap": Decimal("1e-5")})
    ledger.record_study(plan.hash(), title=plan.title)
    return ledger


def reopen(path: Path) -> Ledger:
    return Ledger.open(path, origin=ORIGIN, key=LEDGER_KEY, clock=clock)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A reservation as the vault asks for it."""

    number: int
    mechanism: Mechanism
    study: str = HASH
    cap: Decimal = CAP
    delta: Decimal = DELTA

    def to(self, ledger: Ledger):
        changes = {"study": self.study, "mechanism": self.mechanism, "epsilon_cap": self.cap, "delta": self.delta}
        return asked(ledger, self.number, delta_cap=Decimal("1e-5"), **changes)


def run_rounds(ledger: Ledger, *, rounds: int, mechanism: Mechanism | None = None, start: int = 2, **ask) -> None:
    for number in range(start, start + rounds):
        receipt = Ask(number=number, mechanism=mechanism or share(), **ask).to(ledger)
        ledger.release(receipt, sha256=f"{number:064x}", size_bytes=1000 + number)
        ledger.commit(receipt.reservation)


def export(path: Path, ledger: Ledger, *, plan: Study | None = None) -> None:
    plan = plan or study()
    bundle.write(
        path,
        entries=ledger.entries(),
        checkpoint=ledger.checkpoint(),
        roster=roster().bytes(),
        studies={plan.hash(): plan.canonical_bytes()},
        hospital="aalen",
    )


def two_rounds(folder: Path) -> Path:
    """The bundle of a hospital that trained for two rounds."""
    with create(folder / "ledger.sqlite") as ledger:
        run_rounds(ledger, rounds=2, mechanism=share())
        export(folder / "aalen.zip", ledger)
    return folder / "aalen.zip"


def charged(folder: Path, *asks: tuple[Mechanism, Decimal], plan: Study) -> bundle.Bundle:
    """Return the bundle of a real ledger that was asked for these releases: mechanism and delta."""
    with create(folder / "ledger.sqlite", plan=plan) as ledger:
        for number, (mechanism, delta) in enumerate(asks, start=1):
            receipt = Ask(number=number, mechanism=mechanism, study=plan.hash(), delta=delta).to(ledger)
            ledger.release(receipt, sha256=f"{number:064x}", size_bytes=80)
        export(folder / "aalen.zip", ledger, plan=plan)
    return bundle.read(folder / "aalen.zip")


def asked(ledger, number=1, **changes):
    """Reserve a round at a ledger; `changes` go to what is asked."""
    arguments = {
        "study": HASH,
        "purpose": "lesion-cnn",
        "mechanism": share(),
        "round_number": number,
        "roster": HOSPITALS,
        "epsilon_cap": CAP,
        "delta_cap": DELTA,
        "delta": DELTA,
    }
    return ledger.reserve(f"run/{number}/aalen", **(arguments | changes))


def forged(*said, studies=None, hospital="aalen", key=LEDGER_KEY):
    """A bundle whose entries a dishonest hospital wrote itself, and signed with its real key."""
    plan = study()
    vkey = note.key_of(ORIGIN, key=key).vkey
    begin = (
        (Kind.GENESIS, {"origin": ORIGIN, "key": vkey}),
        (Kind.POLICY, {"policy": {"epsilon_cap": CAP, "delta_cap": DELTA}}),
        (Kind.PLAN, {"study": plan.hash(), "title": plan.title}),
    )
    lines = tuple(
        events.encode(Event(seq=seq, kind=kind, ts=1000 + seq, fields=fields))
        for seq, (kind, fields) in enumerate((*begin, *said))
    )
    return signed(lines, studies=studies, hospital=hospital, key=key)


def signed(lines, *, studies=None, hospital="aalen", key=LEDGER_KEY):
    """A bundle of these entries under a checkpoint that is signed with a real key."""
    plan = study()
    root = merkle.root([merkle.leaf_hash(line) for line in lines])
    text = note.Checkpoint(origin=ORIGIN, size=len(lines), root=root).text()
    return bundle.Bundle(
        entries=lines,
        checkpoint=note.sign(text, name=ORIGIN, key=key),
        roster=roster().bytes(),
        studies={plan.hash(): plan.canonical_bytes()} if studies is None else studies,
        hospital=hospital,
    )


def reserve(number=1, **changes):
    """Kind and fields of an honest reservation, with changes."""
    fields = {
        "id": f"run/{number}/aalen",
        "study": HASH,
        "purpose": "lesion-cnn",
        "mech": share().entry(),
        "round": number,
        "roster": list(HOSPITALS),
        "epsilon_cap": CAP,
        "delta_cap": DELTA,
        "delta": DELTA,
    }
    return Kind.RESERVE, fields | changes


def release(number=1):
    """Kind and fields of the release of that reservation."""
    return Kind.RELEASE, {"id": f"run/{number}/aalen", "sha256": "a" * 64, "bytes": 5}


def roster_of(count):
    """A signed roster of so many made-up hospitals."""
    members = tuple(
        Member(
            name=f"hosp-{number}",
            identity=key(number + 100).public_key().public_bytes_raw().hex(),
            ledger_key="x",
            node_key="x",
            relay_certificate="",
        )
        for number in range(count)
    )
    return rosters.sign(federation="phantoms", coordinator="hub", key=key(99), members=members)
