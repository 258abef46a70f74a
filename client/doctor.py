"""`motet-hospital doctor`: looks at the vault's side, at the relay's side, or at both; changes nothing, names no patient."""

import contextlib
import csv
import ipaddress
import os
import socket
import ssl
import time
from collections.abc import Iterator
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Final

from client import config, officers, policy, relay
from client.config import Home, Site
from client.ledger import Ledger
from client.origin import ledger_origin
from client.relay import RelayHome
from common import findings, lane, locks, roster
from common.errors import MotetError
from common.findings import Finding, fail, warn, well

KEYS: Final = ("identity.pem", "ledger.pem", "pseudonym.key")
VAULT_LIBRARIES: Final = ("torch", "opacus", "pydicom", "grpcio")
RELAY_LIBRARIES: Final = ("flwr", "grpcio")
FILES_LOOKED_AT: Final = 50
NEARLY: Final = Decimal("0.9")
READING: Final = warn("vault", "It runs and still reads the scans.", mend="Wait for `vault ready`, then start the relay.")
REFUSAL_S: Final = 1.0  # a lane that lets in says something within it


def vault_side(home: Home) -> Iterator[Finding]:
    """Yield what is well and what is not at the vault; run it as the vault's user. Raises NotSetUp, ConfigError."""
    site = config.read_site(home)
    findings.refuse_root(home.folder)
    yield from findings.private(home.folder, keys=[home.keys / name for name in KEYS])
    yield from findings.disk(home.folder)
    yield from _scans(site)
    yield from _approvals(home, site)
    yield from _budget(home, site)
    yield from _vault(home, site)
    yield _gpu()
    yield from findings.versions(VAULT_LIBRARIES)


def relay_side(
    home: RelayHome, *, superlink: tuple[str, int], lane_at: tuple[str, int], ca: Path, reading: bool
) -> Iterator[Finding]:
    """Yield what is well and what is not at the relay; run it as the relay's user. Raises NotSetUp, ConfigError.

    `reading`: it is known of the vault that it still reads the scans, and has no socket yet.
    """
    path = relay.vault_socket(home)
    yield from findings.private(home.folder, keys=[home.node_key, home.tls_key])
    yield from _own_certificate(home)
    if not reading:
        yield _answers(path)
    yield _cannot_read(path.parent)
    yield _bundle(home)
    yield from findings.reach(superlink, ca=ca, closed=not _loopback(superlink[0]))  # a trial on one machine has no door
    yield _lane(home, lane_at, ca=ca)
    yield from findings.versions(RELAY_LIBRARIES)


def _scans(site: Site) -> Iterator[Finding]:
    if not site.scans.is_dir() or not os.access(site.scans, os.R_OK | os.X_OK):
        yield fail("scans", "The folder cannot be read.", mend="Check `scans` in site.toml, and this user's rights.")
    else:
        names = (Path(place) / name for place, _, found in os.walk(site.scans) for name in found)
        looked = [os.access(name, os.R_OK) for name in islice(names, FILES_LOOKED_AT)]
        if not looked:
            yield warn("scans", "The folder is empty.", mend="Export the series there.")
        elif not all(looked):
            yield fail("scans", f"{looked.count(False)} of the first {len(looked)} files cannot be read.", mend="chmod -R o+rX")
        else:
            yield well("scans", "The folder and its files can be read.")
    if os.geteuid() == 0:
        yield warn("scans", "Root may write everywhere: whether the vault may cannot be told.", mend="Run this as its user.")
    elif any(os.access(path, os.W_OK) for path in (site.scans, site.clinical)):
        yield warn(
            "scans", "This user may write there.", mend="Mount them read-only; see ReadOnlyPaths in motet-vault.service."
        )


def _approvals(home: Home, site: Site) -> Iterator[Finding]:
    try:
        approved = config.approved_roster(home, site)
        if approved.member(site.name).identity != config.identity_key(home).public_key().public_bytes_raw().hex():
            yield fail("roster", "It holds another identity of this hospital.", mend="Restore the keys, or enrol again.")
        yield well("roster", f"{len(approved.members)} hospitals, hash {approved.hash()[:16]}.")
    except (MotetError, KeyError) as error:
        mend = error.action if isinstance(error, MotetError) else "Approve the coordinator's roster."
        yield fail("roster", "No roster is approved, or it is not on disk.", mend=mend)
        return
    if not site.policy.allowed_studies:
        yield warn("studies", "None is approved.", mend="`motet-hospital approve --study FILE --hash HASH`")
        yield _patient_column(site)
    for study_hash in site.policy.allowed_studies:
        yield _study(home, site, study_hash=study_hash, approved=approved)


def _study(home: Home, site: Site, *, study_hash: str, approved: roster.Roster) -> Finding:
    from client import cohort  # noqa: PLC0415  (numpy; only where a table is looked at)

    check = f"study {study_hash[:8]}"
    try:
        study = config.approved_study(home, site, study_hash=study_hash)
        policy.check_study(site.policy, study=study, roster=approved)
        cohort.check_clinical(site.clinical, study=study)
    except MotetError as error:
        return fail(check, error.what, mend=error.action)
    return well(check, "Approved, within the policy, and the clinical table has its columns.")


def _patient_column(site: Site) -> Finding:
    mend = "Give it a header with a column patient_id."
    if site.clinical.suffix == ".json":
        return well("clinical", "A FHIR bundle; each approved study says whether it can be used.")
    try:
        with site.clinical.open(encoding="utf-8-sig", newline="") as file:
            header = next(csv.reader(file), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        return fail("clinical", "The clinical table cannot be read.", mend="Check `clinical` in site.toml.")
    if "patient_id" not in [name.strip() for name in header]:
        return fail("clinical", "The clinical table has no column patient_id.", mend=mend)
    return well("clinical", f"The clinical table has {len(header)} columns, patient_id among them.")


def _budget(home: Home, site: Site) -> Iterator[Finding]:
    try:
        with Ledger.look(
            home.ledger, origin=ledger_origin(site.name), key=config.ledger_key(home), clock=lambda: int(time.time())
        ) as ledger:
            spent = ledger.spent(delta=site.policy.delta_cap)
            yield _signed(home, site, ledger=ledger)
    except (MotetError, OSError) as error:
        mend = error.action if isinstance(error, MotetError) else "Restore keys, state and ledger from one backup."
        yield fail("ledger", "The ledger cannot be read, or is not what was written.", mend=mend)
        return
    yield well("ledger", "It is what was written.")
    cap, used = site.policy.epsilon_cap, spent.epsilon_rdp
    shown = f"epsilon {used} of {cap}, exact sums counted {spent.exact_counted} of {site.policy.exact_releases_max}."
    if used >= cap * NEARLY or spent.exact_counted >= site.policy.exact_releases_max:
        yield warn("budget", shown, mend="Little or nothing more is answered; two officers may raise the cap.")
    else:
        yield well("budget", shown)


def _signed(home: Home, site: Site, *, ledger: Ledger) -> Finding:
    try:
        officers.check(home, site, ledger=ledger)
    except MotetError as error:
        return fail("policy", f"The vault answers nothing. {error.what}", mend=error.action)
    return well("policy", "No cap was raised that two officers have not signed.")


def _vault(home: Home, site: Site) -> Iterator[Finding]:
    if not home.lock.exists() or not locks.held(home.lock):
        yield fail("vault", "It does not run.", mend="Start `motet-hospital vault`.")
        return
    if home.socket(site).exists():
        yield well("vault", "It runs.")
        yield _answers(home.socket(site))
    else:
        yield READING
    pid = _holder(home.lock)
    try:
        cards = [line.partition(":")[0].strip() for line in Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]]
    except OSError:
        yield warn("network", "Which network the vault has cannot be told.", mend="Run this as the vault's user or root.")
        return
    if set(cards) <= {"lo"}:
        yield well("network", "The vault's process has no network.")
    else:
        yield warn(
            "network",
            "The vault's process sees this machine's network, although it opens no connection.",
            mend="Start it by motet-vault.service (PrivateNetwork=yes), or in a container with network_mode: none.",
        )


def _holder(lock: Path) -> int | None:
    """Return the process that holds a lock, as the kernel tells."""
    found = lock.stat()
    wanted = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    with contextlib.suppress(OSError):
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()
            if words[1] == "FLOCK" and words[5] == wanted:
                return int(words[4])
    return None


def _answers(path: Path) -> Finding:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except PermissionError:
            return fail("socket", "This user may not use the vault's socket.", mend="Put it into the socket's group.")
        except OSError:
            return fail(
                "socket",
                "No vault answers on its socket: it does not run, or still reads the scans.",
                mend="Start `motet-hospital vault`, wait for `vault ready`; compare `socket`.",
            )
    return well("socket", "The vault answers on its socket.")


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _gpu() -> Finding:
    try:
        import torch  # noqa: PLC0415  (slow)
    except ImportError:
        return fail("gpu", "torch is missing.", mend="Install the extra `hospital`.")
    if torch.cuda.is_available():
        from client.engine import device  # noqa: PLC0415

        found, there = device.picked(), torch.cuda.device_count()
        used = sum(one.name != device.PROCESSOR for one in found)
        said = f"{used} of {there} in use. " + " ".join(one.said for one in found)
        said += (
            f" One that fails at the vault is left out for {device.AGAIN_AFTER} steps, then for twice as many; its log says so."
        )
        return well("gpu", said) if used == there else warn("gpu", said, mend="Update torch and the driver.")
    if list(Path("/dev").glob("nvidia[0-9]*")):
        return warn("gpu", "There is one, but torch does not see it.", mend="Install torch's CUDA build, and check the driver.")
    return well("gpu", "None: training runs on the processor.")


def _own_certificate(home: RelayHome) -> Iterator[Finding]:
    from cryptography import x509  # noqa: PLC0415  (beside the only use)

    try:
        certificate = x509.load_pem_x509_certificate(home.certificate.read_bytes())
    except (OSError, ValueError):
        yield fail("tls.crt", "The relay's certificate cannot be read.", mend=relay.RESTORE)
        return
    yield findings.days_left("tls.crt", certificate.not_valid_after_utc.timestamp())


def _cannot_read(vault: Path) -> Finding:
    """Judge whether this user could look into the vault's folder, taken to be where site.toml lies beside its socket."""
    if os.geteuid() == 0:
        return warn("wall", "Root may read everything: whether the relay may cannot be told.", mend="Run this as its user.")
    if os.access(vault / "keys", os.R_OK) or os.access(vault / "cohorts", os.R_OK):
        return warn("wall", "The relay's user may read the vault's folder.", mend="Run vault and relay as two users.")
    return well("wall", "The relay's user cannot read the vault's folder.")


def _bundle(home: RelayHome) -> Finding:
    apps = home.flower / "apps"
    if apps.is_dir() and any(apps.iterdir()) and not os.access(apps, os.W_OK):
        return well("bundle", "Only bundles that the administrator put there run.")
    return warn(
        "bundle",
        "This user may unpack any bundle that the coordinator sends, code included.",
        mend="Let root put the approved bundle there, read-only: deploy/pin-bundle.",
    )


def _lane(home: RelayHome, address: tuple[str, int], *, ca: Path) -> Finding:
    """Open TLS to the lane as the relay does; the lane listens while a study runs."""
    host, port = address
    quiet = well("lane", "It is not open now: no study runs.")
    try:
        trust = ssl.create_default_context(cafile=str(ca))
        trust.load_cert_chain(home.certificate, home.tls_key)
        trust.set_alpn_protocols(["h2"])
        plain = socket.create_connection((host.strip("[]"), port), timeout=findings.REACH_S)
    except OSError:
        return quiet  # what is wrong with the address or ca.crt is said elsewhere
    with plain:
        try:
            link = trust.wrap_socket(plain, server_hostname=lane.NAME)
        except ssl.SSLCertVerificationError as error:
            return fail("lane", f"Its certificate does not hold: {error.verify_message}.", mend="Compare ca.crt and clock.")
        except OSError:
            return quiet  # the door could not pass it on
        with link:
            link.settimeout(REFUSAL_S)
            try:
                let_in = bool(link.recv(1))
            except TimeoutError:
                return warn("lane", "It says nothing.", mend="Look at the coordinator's log.")
            except OSError:
                let_in = False
    if let_in:
        return well("lane", "It lets this relay in.")
    return fail("lane", "It refused this relay's certificate.", mend="The roster names another: enrol again.")


def known(home: Home, relay_home: RelayHome) -> Finding:
    """Judge whether the approved roster, whose keys the coordinator registers, names this relay's key and certificate."""
    site = config.read_site(home)
    try:
        mine = config.approved_roster(home, site).member(site.name)
        same = (
            mine.node_key == relay_home.node_public.read_text().strip()
            and mine.relay_certificate == relay_home.certificate.read_text()
        )
    except (MotetError, KeyError):
        return warn("node key", "No approved roster names this relay.", mend="Enrol, and approve the coordinator's roster.")
    except OSError:
        return fail("node key", "The relay's folder lacks node.pub or tls.crt.", mend=relay.RESTORE)
    if same:
        return well("node key", "The approved roster names this relay's key and certificate.")
    return fail("node key", "The approved roster names another key or certificate.", mend="Enrol again; see `rotate keys`.")
