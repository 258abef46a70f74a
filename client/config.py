"""The hospital's folder: site.toml, keys, approvals and state, and where each of them lies."""

import contextlib
import re
import time
import tomllib
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Final

import tomlkit
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from client import entry, relay
from client.ledger import Ledger
from client.origin import ledger_origin
from common import canonical, files, roster, study
from common.crypto import keys
from common.errors import ConfigError, NotSetUp, RosterNotApproved, StudyNotApproved
from common.mechanism import LOCAL_STEPS_MOST
from common.roster import Roster
from common.study import Study, explain

SOCKET_PATH_MOST = 100  # bytes; the kernel's limit is 108
HashText = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Policy(BaseModel):
    """What this hospital allows. The coordinator can see none of it and lower none of it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    epsilon_cap: Annotated[Decimal, Field(gt=0)]
    delta_cap: Annotated[Decimal, Field(gt=0, lt=1)]
    hospitals_min: Annotated[int, Field(ge=3, le=64)]
    colluders_min: Annotated[int, Field(ge=0, le=63)]
    patients_min: Annotated[int, Field(ge=1)]
    exact_releases_max: Annotated[int, Field(ge=0, le=1_000_000)]
    cell_min: Annotated[int, Field(ge=2, le=1000)]
    parameters_share_max: Annotated[Decimal, Field(gt=0, le=Decimal("0.5"))]
    share_max: Annotated[Decimal, Field(gt=0, lt=1)]
    site_aggregates: bool
    cluster_sums: bool
    local_steps_max: Annotated[int, Field(ge=0, le=LOCAL_STEPS_MOST)]
    allowed_studies: tuple[HashText, ...]
    approved_roster: HashText | None = None
    officers: tuple[HashText, ...] = ()  # two or more public keys: then raising a cap takes two signatures

    @field_validator("officers")
    @classmethod
    def _two_or_none(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value) or len(value) == 1:
            raise ValueError("name two officers or more, each once, or none")
        return value

    def snapshot(self) -> dict[str, Any]:
        """Return the policy as the ledger records it."""
        return {
            **self.model_dump(exclude={"allowed_studies"} | (set() if self.officers else {"officers"}), exclude_none=True),
            "allowed_studies": sorted(self.allowed_studies),
        }


NAME_PATTERN: Final = "^" + roster.NAME.pattern.replace(r"\Z", "$")


class Site(BaseModel):
    """The whole of site.toml."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    scans: Path
    clinical: Path
    points: Path | None = None  # marked in lesions that nobody drew (client/points.py)
    socket: Path
    policy: Policy


@dataclass(frozen=True, slots=True)
class Home:
    """Where things lie in one hospital's folder."""

    folder: Path

    @property
    def site_file(self) -> Path:
        """site.toml."""
        return self.folder / "site.toml"

    @property
    def keys(self) -> Path:
        """Private keys, 0600."""
        return self.folder / "keys"

    @property
    def approved(self) -> Path:
        """The roster and the studies that the hospital approved."""
        return self.folder / "approved"

    @property
    def state(self) -> Path:
        """Pair keys, round counter and replies of the current run, 0600."""
        return self.folder / "state"

    @property
    def cohorts(self) -> Path:
        """Measured parameters and tensors; patient data."""
        return self.folder / "cohorts"

    @property
    def quarantine(self) -> Path:
        """What was set aside of the scans; it holds paths, 0600."""
        return self.folder / "quarantine.sqlite"

    @property
    def ledger(self) -> Path:
        """The ledger's database."""
        return self.folder / "ledger.sqlite"

    @property
    def relay(self) -> Path:
        """The relay's own folder; it may be moved to where another user runs the relay."""
        return self.folder / "relay"

    @property
    def lock(self) -> Path:
        """Held by the running vault."""
        return self.folder / "vault.lock"

    def socket(self, site: Site) -> Path:
        """Return the vault's Unix socket; raises ConfigError when the path is too long for the kernel."""
        path = (self.folder / site.socket).absolute()
        if len(str(path).encode()) > SOCKET_PATH_MOST:
            raise ConfigError(
                "The path of the vault's socket is too long for the kernel.",
                action=f"Set `socket` in {self.site_file} to a path of at most {SOCKET_PATH_MOST} bytes.",
            )
        return path


CELL_MIN = 5  # floors that `init` writes: reference values of statistical disclosure control
PARAMETERS_SHARE_MAX = Decimal("0.1")
SHARE_MAX = Decimal("0.6")
LOCAL_STEPS_MAX = 100

SITE_TEMPLATE = """\
# What this hospital is, and what it allows. Only `motet-hospital approve` and your editor write here.
name = {name}
scans = {scans}          # folder with DICOM files; read only
clinical = {clinical}    # table with a column patient_id; read only
socket = "vault.sock"    # where vault and relay meet, relative to this file

[policy]
epsilon_cap = {epsilon_cap}            # all training of all studies together, per patient
delta_cap = {delta_cap}
hospitals_min = {hospitals_min}          # fewer in a round: refused
colluders_min = {colluders_min}          # a study must assume at least so many colluding hospitals
patients_min = {patients_min}           # fewer in the cohort: refused
exact_releases_max = {exact_releases_max}     # exact sums that may ever leave; each is listed as epsilon = infinity
cell_min = {cell_min}               # exact sums that show fewer patients in a cell, a group or events: refused
parameters_share_max = {parameters_share_max}     # coefficients of an iterated fit, per patient here
share_max = {share_max}              # the most of a column's or a weight's sum that one patient may hold
site_aggregates = {site_aggregates}      # may its own sums be shown: mixed, a forest's row, what few hospitals solve for
cluster_sums = {cluster_sums}         # whether k-means and mixtures may be asked: two of their sums can differ by one patient
local_steps_max = {local_steps_max}      # private training steps here between two sums; 0: one step a sum, noise shared, only
allowed_studies = []       # by SHA-256, added by `motet-hospital approve`
"""


def create(
    folder: Path,
    *,
    name: str,
    scans: Path,
    clinical: Path,
    epsilon_cap: Decimal,
    delta_cap: Decimal,
    hospitals_min: int,
    colluders_min: int,
    patients_min: int,
    exact_releases_max: int,
    cell_min: int = CELL_MIN,
    parameters_share_max: Decimal = PARAMETERS_SHARE_MAX,
    share_max: Decimal = SHARE_MAX,
    site_aggregates: bool = False,
    cluster_sums: bool = False,
    local_steps_max: int = LOCAL_STEPS_MAX,
) -> Site:
    """Make a hospital's folder with fresh keys; raises AlreadyExists and changes nothing when one is there.

    The disclosure rules are written into site.toml at their floors, which are conservative; nothing is assumed later.
    """
    home = Home(folder)
    quote = tomlkit.string
    text = SITE_TEMPLATE.format(
        name=quote(name).as_string(),
        scans=quote(str(scans.absolute())).as_string(),
        clinical=quote(str(clinical.absolute())).as_string(),
        epsilon_cap=canonical.decimal_text(epsilon_cap),
        delta_cap=canonical.decimal_text(delta_cap),
        hospitals_min=hospitals_min,
        colluders_min=colluders_min,
        patients_min=patients_min,
        exact_releases_max=exact_releases_max,
        cell_min=cell_min,
        parameters_share_max=canonical.decimal_text(parameters_share_max),
        share_max=canonical.decimal_text(share_max),
        site_aggregates=str(site_aggregates).lower(),
        cluster_sums=str(cluster_sums).lower(),
        local_steps_max=local_steps_max,
    )
    site = _chosen(text)
    files.refuse_remains(folder, names=("site.toml", "keys", "approved", "state", "cohorts", "relay", "ledger.sqlite"))
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    files.write_new(home.site_file, text.encode())
    for part in (home.keys, home.approved, home.state, home.cohorts):
        part.mkdir(mode=0o700)
    for key_name in ("identity", "ledger"):
        files.write_new(home.keys / f"{key_name}.pem", keys.private_pem(Ed25519PrivateKey.generate()), private=True)
    files.write_new(home.keys / "pseudonym.key", keys.fresh_secret(), private=True)
    relay.create(home.relay, name=site.name, socket=(folder / site.socket).absolute())
    Ledger.create(home.ledger, origin=ledger_origin(site.name), key=ledger_key(home), clock=lambda: int(time.time())).close()
    return site


def read_site(home: Home) -> Site:
    """Read site.toml; raises NotSetUp when it is missing and ConfigError that names the wrong key."""
    try:
        text = home.site_file.read_text()
    except FileNotFoundError:
        raise NotSetUp(f"There is no {home.site_file}.", action="Run `motet-hospital init` first.") from None
    except (OSError, UnicodeDecodeError):
        raise ConfigError(f"{home.site_file} cannot be read.", action="Check its permissions.") from None
    return _parse_site(text, shown=home.site_file)


def identity_key(home: Home) -> Ed25519PrivateKey:
    """Return the hospital's identity key."""
    return keys.load_private_pem(_private(home.keys / "identity.pem"))


def ledger_key(home: Home) -> Ed25519PrivateKey:
    """Return the key that signs the ledger's checkpoints."""
    return keys.load_private_pem(_private(home.keys / "ledger.pem"))


def pseudonym_key(home: Home) -> bytes:
    """Return the secret under which patients are pseudonymised; raises ConfigError unless it is 32 bytes."""
    key = _private(home.keys / "pseudonym.key")
    if len(key) != keys.SECRET_BYTES:
        raise ConfigError("The pseudonym key is damaged.", action="Restore it from your backup.")
    return key


def approved_roster(home: Home, site: Site) -> Roster:
    """Return the roster that the hospital approved; raises RosterNotApproved."""
    path = home.approved / "roster.json"
    if site.policy.approved_roster is None or not path.exists():
        raise RosterNotApproved("No roster is approved here.", action="Run `motet-hospital approve --roster FILE --hash HASH`.")
    approved = roster.parse(path.read_bytes())
    if approved.hash() != site.policy.approved_roster:
        raise RosterNotApproved(
            "The roster on disk is not the approved one.", action="Run `motet-hospital approve --roster FILE --hash HASH`."
        )
    return approved


def approved_study(home: Home, site: Site, *, study_hash: str) -> Study:
    """Return an approved study by its hash; raises StudyNotApproved."""
    action = "Read the study and run `motet-hospital approve --study FILE --hash HASH`."
    path = home.approved / f"{study_hash}.study.json"
    if study_hash not in site.policy.allowed_studies or not path.exists():
        raise StudyNotApproved("The study is not approved here.", action=action)
    approved = study.parse(path.read_bytes())
    if approved.hash() != study_hash:
        raise StudyNotApproved("The study on disk is not the approved one.", action=action)
    return approved


def known_study(home: Home, *, study_hash: str) -> bytes:
    """Return a study that was approved once, also when the approval was withdrawn since; raises NotSetUp."""
    try:
        return (home.approved / f"{study_hash}.study.json").read_bytes()
    except FileNotFoundError:
        raise NotSetUp("A study in the ledger is missing on disk.", action="Ask the coordinator for its file again.") from None


def approve_roster(home: Home, *, data: bytes, expected_hash: str) -> Roster:
    """Approve a roster whose hash the administrator got from the coordinator by another way."""
    site = read_site(home)
    approved = roster.parse(data)
    if approved.hash() != expected_hash:
        raise RosterNotApproved(
            "The roster's hash is not the one you gave.", action="Ask the coordinator for the hash again, by another way."
        )
    before = None
    with contextlib.suppress(RosterNotApproved, ConfigError):
        before = approved_roster(home, site)
    entry.check(approved, name=site.name, identity=identity_key(home), ledger=ledger_key(home), before=before)
    files.write(home.approved / "roster.json", data)
    _edit_policy(home, "approved_roster", expected_hash)
    return approved


def approve_study(home: Home, *, data: bytes, expected_hash: str) -> Study:
    """Approve a study whose hash the administrator got from the coordinator by another way."""
    site = read_site(home)
    approved = study.parse(data)
    if approved.hash() != expected_hash:
        raise StudyNotApproved(
            "The study's hash is not the one you gave.", action="Ask the coordinator for the hash again, by another way."
        )
    files.write(home.approved / f"{expected_hash}.study.json", data)
    if expected_hash not in site.policy.allowed_studies:
        _edit_policy(home, "allowed_studies", [*site.policy.allowed_studies, expected_hash])
    return approved


def _edit_policy(home: Home, key: str, value: object) -> None:
    document = tomlkit.parse(home.site_file.read_text())
    document["policy"][key] = value
    files.write(home.site_file, tomlkit.dumps(document).encode())


def _parse_site(text: str, *, shown: Path) -> Site:
    try:
        return Site.model_validate(tomllib.loads(text, parse_float=Decimal))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{shown} is not TOML: {error}.", action="Mend that line.") from None
    except ValidationError as error:
        raise ConfigError(f"{shown}: {explain(error)}.", action="Mend these keys.") from None


def _chosen(text: str) -> Site:
    """Return the site that the options of `init` describe; an error names the options, as there is no site.toml yet."""
    try:
        return Site.model_validate(tomllib.loads(text, parse_float=Decimal))
    except ValidationError as error:
        wrong = explain(error)
        for key in (*Policy.model_fields, *Site.model_fields):
            wrong = re.sub(rf"(^|; )(policy\.)?{key}: ", rf"\g<1>--{key.replace('_', '-')}: ", wrong)
        wrong = wrong.replace(f"String should match pattern '{NAME_PATTERN}'", "1 to 32 lower-case letters, digits, hyphens")
        raise ConfigError(f"{wrong}.", action="Choose another value; nothing was made.") from None


def _private(path: Path) -> bytes:
    try:
        if path.stat().st_mode & 0o077:
            raise ConfigError(f"{path} can be read by others.", action=f"Run `chmod 600 {path}`, and consider the key lost.")
        return path.read_bytes()
    except FileNotFoundError:
        raise NotSetUp(f"There is no {path}.", action="Run `motet-hospital init` first.") from None
