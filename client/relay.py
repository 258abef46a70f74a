"""The relay's own folder: node key, TLS key and certificate, where the vault's socket is. No key of the vault, no scan.

The relay may run as another user than the vault, in another container: it needs this folder and the vault's socket, no more.
"""

import datetime as dt
import json
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from common import files
from common.errors import ConfigError, NotSetUp

CERTIFICATE_DAYS = 3650  # replaced by enrolling again: the roster names the certificate itself, no authority vouches for it
RESTORE = (
    "Restore the relay's folder whole from your backup; without one, make the hospital anew in a new folder and enrol again: "
    "the roster names the relay's keys."
)
SKEW = dt.timedelta(hours=24)
PEM = serialization.Encoding.PEM


@dataclass(frozen=True, slots=True)
class RelayHome:
    """Where things lie in the relay's folder."""

    folder: Path

    @property
    def settings(self) -> Path:
        """Name of the hospital and path of the vault's socket."""
        return self.folder / "relay.json"

    @property
    def node_key(self) -> Path:
        """Flower's node key, 0600."""
        return self.folder / "node"

    @property
    def node_public(self) -> Path:
        """Its public half."""
        return self.folder / "node.pub"

    @property
    def tls_key(self) -> Path:
        """Key of the lane's client certificate, 0600."""
        return self.folder / "tls.key"

    @property
    def certificate(self) -> Path:
        """The lane's client certificate, self-signed; the roster names it."""
        return self.folder / "tls.crt"

    @property
    def flower(self) -> Path:
        """The SuperNode's FLWR_HOME."""
        return self.folder / "flower"


def create(folder: Path, *, name: str, socket: Path) -> RelayHome:
    """Make the relay's folder with fresh keys; raises AlreadyExists when one is there."""
    home = RelayHome(folder)
    folder.mkdir(mode=0o700)
    home.flower.mkdir(mode=0o700)
    files.write_new(home.settings, json.dumps({"hospital": name, "vault": str(socket)}, indent=1).encode() + b"\n")
    node = ec.generate_private_key(ec.SECP384R1())  # Flower's SuperNode keys are NIST curves in OpenSSH format
    files.write_new(home.node_key, _private(node, serialization.PrivateFormat.OpenSSH), private=True)
    public = node.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    files.write_new(home.node_public, public + b"\n")
    tls = ec.generate_private_key(ec.SECP256R1())
    files.write_new(home.tls_key, _private(tls, serialization.PrivateFormat.PKCS8), private=True)
    files.write_new(home.certificate, _certificate(tls, name=name).public_bytes(PEM))
    return home


def vault_socket(home: RelayHome) -> Path:
    """Return the path of the vault's socket; raises NotSetUp or ConfigError."""
    try:
        plain = json.loads(home.settings.read_bytes())
        return Path(plain["vault"])
    except FileNotFoundError:
        raise NotSetUp(
            f"There is no {home.settings}.",
            action=f"Give --folder: the folder `relay` in the hospital's folder, or where it was moved. {RESTORE}",
        ) from None
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(f"{home.settings} cannot be read.", action="Restore it from your backup.") from None


def public(home: RelayHome) -> tuple[str, str]:
    """Return the node key and the certificate that a roster names; raises NotSetUp when the folder was moved or lost."""
    try:
        return home.node_public.read_text().strip(), home.certificate.read_text()
    except OSError:
        raise NotSetUp(
            f"{home.folder} lacks the relay's node.pub or tls.crt.",
            action=f"Enrol before the folder is moved. {RESTORE}",
        ) from None


def _certificate(key: ec.EllipticCurvePrivateKey, *, name: str) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + dt.timedelta(days=CERTIFICATE_DAYS))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )


def _private(key: ec.EllipticCurvePrivateKey, form: serialization.PrivateFormat) -> bytes:
    return key.private_bytes(PEM, form, serialization.NoEncryption())
