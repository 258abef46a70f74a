"""The coordinator's folder: identity, certificates, roster, studies and runs, and where each of them lies."""

import ipaddress
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common import canonical, files, findings, roster
from common.crypto import keys
from common.errors import ConfigError, NotSetUp
from common.roster import Roster

HOST: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")  # a name, or an IPv4 address: what a certificate's name may hold


@dataclass(frozen=True, slots=True)
class Home:
    """Where things lie in the coordinator's folder."""

    folder: Path

    @property
    def settings_file(self) -> Path:
        """Name, federation and address, as given to `init`."""
        return self.folder / "coordinator.json"

    @property
    def keys(self) -> Path:
        """Identity and TLS private keys, 0600."""
        return self.folder / "keys"

    @property
    def certificates(self) -> Path:
        """The CA's and the SuperLink's certificates, public."""
        return self.folder / "certificates"

    @property
    def roster_file(self) -> Path:
        """The signed roster, public."""
        return self.folder / "roster.json"

    @property
    def studies(self) -> Path:
        """Proposed studies by hash, public."""
        return self.folder / "studies"

    @property
    def runs(self) -> Path:
        """One folder per run: journal, uploads, result."""
        return self.folder / "runs"

    def run_lock(self, run: str) -> Path:
        """Held by the process that runs this run."""
        return self.runs / run / "run.lock"

    @property
    def flower(self) -> Path:
        """The coordinator's FLWR_HOME."""
        return self.folder / "flower"

    @property
    def lock(self) -> Path:
        """Held while a study runs."""
        return self.folder / "run.lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Who the coordinator is, where hospitals reach it, and where its SuperLink and its lane listen, each as HOST:PORT.

    Where `address` is not `superlink`, a proxy (the door) stands before both.
    """

    name: str
    federation: str
    address: str
    superlink: str
    lane: str

    def plain(self) -> dict[str, Any]:
        """Return the settings as JSON."""
        return asdict(self)

    @property
    def host(self) -> str:
        """Return the name or address by which hospitals reach the coordinator."""
        return split(self.address)[0]


def split(address: str) -> tuple[str, int]:
    """Return host and port of HOST:PORT, of [IPv6]:PORT without the brackets; raises ConfigError."""
    host, port = findings.address(address)
    bare = host.removeprefix("[").removesuffix("]")
    if not (HOST.match(host) or (host == f"[{bare}]" and _is_ipv6(bare))):
        raise ConfigError(
            f"{address[:80]!r} is not HOST:PORT.",
            action="Give a name of at most 64 characters, an address, or [IPv6], and a port.",
        )
    return bare, port


def _is_ipv6(text: str) -> bool:
    try:
        return "%" not in text and bool(ipaddress.IPv6Address(text))
    except ValueError:
        return False


def create(folder: Path, *, settings: Settings) -> Home:
    """Make the coordinator's folder with a fresh identity; raises AlreadyExists and changes nothing when one is there."""
    if not roster.NAME.match(settings.name) or not roster.NAME.match(settings.federation):
        raise ConfigError("A name is 1-32 lower-case letters, digits and hyphens, letter first.", action="Choose other names.")
    addresses = [split(text) for text in (settings.address, settings.superlink, settings.lane)]
    if len(set(addresses[1:])) < 2 or addresses[0] == addresses[2]:
        raise ConfigError("SuperLink and lane listen on different ports.", action="Give another --lane.")
    home = Home(folder)
    files.refuse_remains(folder, names=("coordinator.json", "keys", "certificates", "studies", "runs", "flower"))
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    files.write_new(home.settings_file, canonical.encode(settings.plain()))
    for part in (home.keys, home.certificates, home.studies, home.runs, home.flower):
        part.mkdir(mode=0o700)
    files.write_new(home.keys / "identity.pem", keys.private_pem(Ed25519PrivateKey.generate()), private=True)
    return home


def read_settings(home: Home) -> Settings:
    """Read who the coordinator is; raises NotSetUp or ConfigError."""
    try:
        plain = json.loads(home.settings_file.read_bytes())
        if not isinstance(plain, dict) or not all(isinstance(value, str) for value in plain.values()):
            raise TypeError("wrong types")
        settings = Settings(**plain)
        for text in (settings.address, settings.superlink, settings.lane):
            split(text)
    except FileNotFoundError:
        raise NotSetUp(f"There is no {home.settings_file}.", action="Run `motet-coordinator init` first.") from None
    except (OSError, ValueError, TypeError):
        raise ConfigError(f"{home.settings_file} cannot be read.", action="Restore it from your backup.") from None
    return settings


def identity_key(home: Home) -> Ed25519PrivateKey:
    """Return the coordinator's identity key."""
    path = home.keys / "identity.pem"
    try:
        if path.stat().st_mode & 0o077:
            raise ConfigError(f"{path} can be read by others.", action=f"Run `chmod 600 {path}`, and consider the key lost.")
        return keys.load_private_pem(path.read_bytes())
    except FileNotFoundError:
        raise NotSetUp("The coordinator has no identity key.", action="Run `motet-coordinator init` first.") from None


def read_roster(home: Home) -> Roster:
    """Return the signed roster; raises NotSetUp."""
    try:
        return roster.parse(home.roster_file.read_bytes())
    except FileNotFoundError:
        raise NotSetUp("There is no roster.", action="Run `motet-coordinator enrol REQUEST...` first.") from None
