"""A federation in memory: N real vaults over real DICOM phantoms, the real coordinator, no sockets between them."""

import csv
import hashlib
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client import config
from client.config import Home
from client.origin import ledger_origin
from client.vault import Vault
from common import model, roster, wire
from common.errors import MotetError
from common.ledger import note, post_quantum
from common.roster import Member, Roster
from common.study import Study
from common.wire import Sealed
from server import setup
from server.exchange import Exchange
from server.journal import Journal
from server.rounds import Rounds
from server.run import run_study
from tests import carriers, phantoms

HOSPITALS = ("hosp-a", "hosp-b", "hosp-c", "hosp-d")
PATIENTS = 12
COORDINATOR = "coordinator"

STUDY: dict[str, Any] = {
    "name": "phantom-study",
    "title": "Phantoms",
    "purpose": "phantoms",
    "hospitals_min": 3,
    "patience_s": 1,
    "carrier": "stream",
    "variables": [
        {"name": "longest_diameter_mm", "source": "image", "unit": "mm", "lower": Decimal(0), "upper": Decimal(128)},
        {"name": "mean_hu", "source": "image", "unit": "HU", "lower": Decimal(-1024), "upper": Decimal(1024)},
        {"name": "depth_min_mm", "source": "image", "unit": "mm", "lower": Decimal(0), "upper": Decimal(256)},
        {"name": "malignancy", "source": "clinical", "unit": "1", "lower": Decimal(0), "upper": Decimal(8)},
    ],
    "statistics": {
        "correlation": ["longest_diameter_mm", "mean_hu", "depth_min_mm", "malignancy"],
        "regression": {"outcome": "malignancy", "predictors": ["longest_diameter_mm", "mean_hu"]},
    },
    "recipe": {
        "modality": "CT",
        "spacing_mm": Decimal(1),
        "denoise": "none",
        "denoise_mm": Decimal(0),
        "window_lower": Decimal(-1000),
        "window_upper": Decimal(400),
        "patch_voxels": 32,
        "edge_channel": False,
    },
    "privacy": {
        "noise_multiplier": Decimal(2),
        "clip_norm": Decimal(1),
        "sampling_rate": Decimal(1),
        "delta": Decimal("1e-5"),
        "colluders": 1,
        "rounds_void_allowed": 2,
    },
    "training": {
        "model": "cnn2d",
        "recipe": "head",
        "prior_sha256": model.prior_sha256(),
        "label": "malignancy",
        "positive_above": Decimal(3),
        "steps": 2,
        "learning_rate": Decimal(1),
        "optimiser": {"kind": "momentum", "momentum": Decimal(0)},
        "schedule": {"kind": "constant"},
        "average": {"kind": "second-half"},
        "views_per_patient_max": 2,
        "augmentations": 0,
        "patients_per_step_max": 64,
        "patients_declared": 36,
        "held_out_fraction": Decimal("0.5"),
        "score_bins": 16,
        "auc_drop_max": Decimal(1),
    },
    "evaluation": {},
}

TRANSFORMS = {"longest_diameter_mm": ("square", "sqrt"), "mean_hu": ("square",), "depth_min_mm": ("square", "sqrt")}
TRANSFORMED = [
    {**one, "transforms": TRANSFORMS.get(one["name"], ())} for one in STUDY["variables"]
]  # one cohort for all who ask


def study(**parts: Any) -> Study:
    """Return the phantom study, with whole parts replaced or, for dictionaries, some of their keys."""
    plain = {
        key: {**STUDY[key], **parts[key]} if isinstance(parts.get(key), dict) else parts.get(key, STUDY[key]) for key in STUDY
    }
    return Study.model_validate(plain)


def write_scans(folder: Path, *, planted: Mapping[str, str] | None = None) -> None:
    """Write every hospital's phantoms and clinical table: folder/<hospital>/{scans,clinical.csv}."""
    random = np.random.default_rng(7)
    for hospital in HOSPITALS:
        rows = []
        for number in range(PATIENTS):
            patient = f"{hospital.upper()}-{number:03d}"
            radius = 4.0 + 5.0 * random.random()
            volume = phantoms.volume(
                phantoms.Ellipsoid(semi_axes_mm=(radius, radius * 0.8, radius * 0.7), centre_mm=(0.0, 0.0, 0.0)),
                shape=(24, 40, 40),
                spacing_mm=(1.25, 1.0, 1.0),
                body_radius_mm=18.0,
                body_hu=-50.0,
                lesion_hu=float(random.integers(-40, 90)),
            )
            noisy = volume.voxels + random.normal(0, 10, volume.voxels.shape).astype(np.float32)
            for series in range(2 if number % 6 == 5 else 1):
                phantoms.write_series(
                    folder / hospital / "scans" / patient,
                    patient_id=patient,
                    voxels_hu=np.clip(np.rint(noisy), -1024, 3000),
                    spacing_mm=(1.25, 1.0, 1.0),
                    region=volume.region,
                    seed=series,
                    planted=planted,
                )
            rows.append([patient, f"{min(5.0, max(1.0, radius / 2 + random.normal(0, 0.7))):.2f}"])
        with (folder / hospital / "clinical.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["patient_id", "malignancy"], *rows])


Intercept = Callable[[str, bytes], bytes | str | None]


class Federation:
    """Vaults and their keys over `scans`; `run` runs a study through them. Also a carrier: `wave` calls the vaults."""

    def __init__(self, folder: Path, scans: Path, *, cache: Path, policy: Mapping[str, Any] | None = None) -> None:
        self.folder, self.cache = folder, cache
        self.key = Ed25519PrivateKey.generate()
        self.homes: dict[str, Home] = {}
        members = []
        settings = {
            "epsilon_cap": Decimal(10),
            "delta_cap": Decimal("1e-5"),
            "hospitals_min": 3,
            "colluders_min": 1,
            "patients_min": 1,
            "exact_releases_max": 100,
            "share_max": Decimal("0.99"),  # a dozen phantoms a hospital: each stands out in some combination of the columns
            **(policy or {}),
        }
        for name in HOSPITALS:
            home = Home(folder / name)
            config.create(
                home.folder, name=name, scans=scans / name / "scans", clinical=scans / name / "clinical.csv", **settings
            )
            (home.keys / "pseudonym.key").write_bytes(hashlib.sha256(name.encode()).digest())  # who is held out stays the same
            cached = cache / name
            cached.mkdir(parents=True, exist_ok=True)
            home.cohorts.rmdir()
            home.cohorts.symlink_to(cached)
            self.homes[name] = home
            members.append(
                Member(
                    name=name,
                    identity=config.identity_key(home).public_key().public_bytes_raw().hex(),
                    ledger_key=note.key_of(ledger_origin(name), key=config.ledger_key(home)).vkey,
                    ledger_ml_dsa=post_quantum.key_of(ledger_origin(name), key=config.ledger_key(home)).vkey,
                    node_key=(home.relay / "node.pub").read_text().strip(),
                    relay_certificate=(home.relay / "tls.crt").read_text(),
                )
            )
        self.roster: Roster = roster.sign(federation="phantoms", coordinator=COORDINATOR, key=self.key, members=tuple(members))
        for home in self.homes.values():
            config.approve_roster(home, data=self.roster.bytes(), expected_hash=self.roster.hash())
        self.now = 1_795_000_000
        self.vaults = {name: self.open(name) for name in HOSPITALS}
        self.before: Intercept = lambda _name, data: data  # what reaches the vault: bytes, a code, or nothing at all
        self.after: Intercept = lambda _name, data: data  # what reaches the coordinator
        self.sent: list[tuple[str, bytes]] = []  # everything that left a vault
        self.carrying: carriers.Kind = "direct"  # by what `run` carries envelopes

    def open(self, name: str) -> Vault:
        """Open a hospital's vault, as its process does at start."""

        def clock() -> int:
            self.now += 1
            return self.now

        return Vault(self.homes[name], clock=clock, progress=lambda _done, _total: None)

    def restart(self, name: str) -> None:
        """End a vault and start it again."""
        self.vaults[name].close()
        self.vaults[name] = self.open(name)

    def approve(self, wanted: Study) -> None:
        """Let every hospital approve a study."""
        for home in self.homes.values():
            config.approve_study(home, data=wanted.canonical_bytes(), expected_hash=wanted.hash())

    def wave(
        self, envelopes: Mapping[str, Sealed], *, deadline_s: float, receive: Callable[[str, bytes], None]
    ) -> dict[str, str]:
        """Carry envelopes to the vaults and back, through `before` and `after`."""
        failed: dict[str, str] = {}
        for name, sealed in envelopes.items():
            try:
                arrived = self.answer(name, sealed.whole())
                if isinstance(arrived, str):
                    failed[name] = arrived
                if isinstance(arrived, bytes):
                    receive(name, arrived)
            except MotetError as error:
                failed[name] = error.code
        return failed

    def answer(self, name: str, data: bytes) -> bytes | str | None:
        """Return what a hospital answers: bytes, a code, or nothing; raises what its vault raises."""
        arrived = self.before(name, data)
        if not isinstance(arrived, bytes):
            return arrived
        left = self.vaults[name].answer(arrived)
        self.sent.append((name, left))
        return self.after(name, left)

    def present(self) -> frozenset[str]:
        """Return the hospitals that can be reached: all of them."""
        return frozenset(HOSPITALS)

    def run(self, wanted: Study) -> dict[str, Any]:
        """Run a study that the hospitals approved; each call is a run of its own."""
        run = hashlib.sha256(f"{wanted.hash()}{len(list(self.folder.glob('run-*')))}".encode()).hexdigest()[:16]
        return self.go_on(wanted, run=run, folder=self.folder / f"run-{run}")

    def go_on(self, wanted: Study, *, run: str, folder: Path) -> dict[str, Any]:
        """Begin a run of this name in a folder, or go on with it where it was killed."""
        folder.mkdir(exist_ok=True)
        with carriers.opened(self, run=run, folder=folder) as carrier:
            return run_study(study=wanted, roster=self.roster, key=self.key, carrier=carrier, folder=folder, run=run)

    def close(self) -> None:
        """End every vault."""
        for vault in self.vaults.values():
            vault.close()


class Coordinator:
    """A coordinator that can ask for anything, step by step; before `set_up` it knows no keys."""

    def __init__(self, one: Federation, wanted: Study, *, run: str) -> None:
        self.run, self.study, self.roster, self.key, self.folder = run, wanted, one.roster, one.key, one.folder / run
        self.folder.mkdir(exist_ok=True)
        self.journal = Journal(self.folder / "j")
        self.exchange = Exchange(
            run=run, study=wanted, roster=one.roster, key=one.key, carrier=one, journal=self.journal, folder=self.folder
        )

    def set_up(self) -> None:
        """Agree on pair keys; what follows goes on from there."""
        self.keys = setup.set_up(self.exchange)
        self.rounds = Rounds(exchange=self.exchange, keys=self.keys)
        self.secure_sum, self.close = self.rounds.secure_sum, self.rounds.close

    @property
    def transcript(self) -> bytes:
        """Return what binds every pair key."""
        return self.keys.transcript

    @property
    def sealed(self) -> dict[str, bytes]:
        """Return the hospitals' sealed shares for one another."""
        return self.keys.sealed


def kind(data: bytes) -> str:
    """Return an envelope's kind."""
    return wire.peek(data).kind
